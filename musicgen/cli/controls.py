"""The options that say what a tune is to be: the same for `sample` and `tweak`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from musicgen.cli.types import DECIMAL, FORM, KEY, METER, PICKUP, PROGRAM, RANGE, WHOLE
from musicgen.sampling.wishes import ENDS

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option("--key", type=KEY, help="Tonic and mode: D, Am, Edor, Dmix, Bb minor."),
    click.option("--meter", type=METER, help="Such as 6/8."),
    click.option("--rhythm", help="The dance: jig, reel, hornpipe, slip jig, ..."),
    click.option(
        "--bars",
        type=WHOLE,
        help="Exactly so many bars, as heard: repeats are counted. Without --form the model chooses"
        " the form.",
    ),
    click.option(
        "--min-bars",
        type=WHOLE,
        help="At least so many bars, where neither --bars nor the letters of --form fix their"
        " number.",
    ),
    click.option(
        "--form",
        type=FORM,
        help="Parts of equal length by letters A to H: AABB is two repeated parts, in ABAC the A"
        " returns note for note. 8 bars a letter, unless --bars says otherwise. through: nothing"
        " returns. free: the model chooses the form, and how many bars.",
    ),
    click.option(
        "--pickup", type=PICKUP, help="none, a note value (1/8), or steps, 48 to the quarter."
    ),
    click.option("--range", type=RANGE, help="The lowest and the highest note: D4-B5."),
    click.option("--end", type=click.Choice(ENDS), help="Whether the last note is the tonic."),
    click.option("--tempo", type=DECIMAL, metavar="QPM", help="Quarters a minute."),
    click.option("--program", type=PROGRAM, help="The instrument: 0..127, or a name (flute)."),
    click.option(
        "--temperature",
        type=DECIMAL,
        help="1 is the model as it is; lower is likelier, higher more surprising.  [default: 0.8]",
    ),
    click.option("--top-k", type=WHOLE, help="Draw from the K likeliest events only."),
    click.option(
        "--top-p", type=DECIMAL, help="Draw from the likeliest events that hold a mass of P."
    ),
    click.option(
        "--min-p", type=DECIMAL, help="Leave out what is under P times as likely as the best."
    ),
    click.option(
        "--max-copy",
        type=WHOLE,
        metavar="N",
        help="No run of more than N notes that stands in a training tune, in any key.",
    ),
)


def controls(command: Command) -> Command:
    """Give a command the options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was asked for."""
    return {name: value for name, value in wishes.items() if value is not None}
