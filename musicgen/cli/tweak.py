"""`musicgen tweak`: a variant of a generated tune, from the recipe in its file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from musicgen.cli.command_options import (
    OUT,
    SEED,
    WHOLE,
    add_sampling_options,
    force_option,
    quiet_option,
    select_given_options,
)
from musicgen.cli.output import (
    describe_model,
    discard_line,
    resolve_output_files,
    select_verbosity,
    write_tune,
)


@click.command()
@click.argument("song", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "outs",
    type=OUT,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Output file, as for sample; may be given several times.",
)
@click.option("--model", help="The model of the tune, if it is not found by its name.")
@click.option(
    "--keep",
    metavar="BARS|PARTS",
    help="Bars to keep, such as 1-8,13-16, and parts, such as melody:1-8,drums; all else is"
    " generated to fit. Bars count as written: a repeated section once, a pickup together with the"
    " next bar.",
)
@click.option(
    "--candidates",
    type=WHOLE,
    help="With --keep: candidates generated per gap, of which one is chosen; by default 24, for a"
    " tune of several parts 1.",
)
@click.option("--seed", type=SEED, help="Random seed, for another tune of the same kind.")
@add_sampling_options
@force_option
@quiet_option
@click.option(
    "-v", "--verbose", is_flag=True, help="Also print the model, the seed and the full receipt."
)
def tweak(
    song: Path,
    outs: tuple[str, ...],
    model: str | None,
    keep: str | None,
    candidates: int | None,
    seed: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    **sampling_options: Any,
) -> None:
    """Write a variant of a generated tune.

    Options that are not given keep their values: without options the same bytes are written again.
    --key in the same mode transposes; a small change of --temperature changes the tune a little.

    \b
    musicgen tweak song.mid --out again.mid
    musicgen tweak song.mid --out higher.mid --key G
    musicgen tweak song.mid --out other.mid --keep 1-8,13-16
    musicgen tweak band.mid --out other.mid --keep melody,drums:1-8
    """  # noqa: D301 - click reads the backspace character
    from musicgen.variants import tweak as tweak_tune

    changes = select_given_options(sampling_options) | ({} if seed is None else {"seed": seed})
    tune = tweak_tune(song, model, keep=keep, candidates=candidates, **changes)
    names = resolve_output_files(outs, tune.model, count=1, suffix=song.suffix, force=force)
    print_line = discard_line if quiet else partial(click.echo, err=True)
    if verbose:
        print_line(describe_model(tune.model))
    verbosity = select_verbosity(quiet=quiet, verbose=verbose)
    for line in write_tune(tune, [files[0] for files in names], force=force, verbosity=verbosity):
        print_line(line)
