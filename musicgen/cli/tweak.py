"""`musicgen tweak`: a near variant of a tune that musicgen wrote."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from musicgen.cli.param_types import OUT, SEED, WHOLE, add_sampling_options, select_given_options
from musicgen.cli.write_outputs import (
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
    help="Where to write, as for sample; may be given several times.",
)
@click.option("--model", help="The model that made it, where it is not found by its name.")
@click.option(
    "--keep",
    metavar="BARS",
    help="Keep these bars and draw the others so that they lead into what follows: 1-8,13-16, as"
    " the bars are written (a repeated part once, a pickup with the bar after it).",
)
@click.option(
    "--candidates",
    type=WHOLE,
    default=24,
    show_default=True,
    help="With --keep: how many are drawn for each stretch, to choose from.",
)
@click.option("--seed", type=SEED, help="Another tune of the same kind.")
@add_sampling_options
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell the model, the seed, the whole receipt.")
def tweak(
    song: Path,
    outs: tuple[str, ...],
    model: str | None,
    keep: str | None,
    candidates: int,
    seed: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    **sampling_options: Any,
) -> None:
    """Write a near variant of a tune that musicgen wrote.

    What is not named stays. Without any option the same bytes are written again; --key in the same
    mode moves the tune; a small change of --temperature is a small change of the tune.

    \b
    musicgen tweak song.mid --out again.mid
    musicgen tweak song.mid --out higher.mid --key G
    musicgen tweak song.mid --out other.mid --keep 1-8,13-16
    """  # noqa: D301 - click wants the character itself
    from musicgen.variants import tweak as tweaked

    changes = select_given_options(sampling_options) | ({} if seed is None else {"seed": seed})
    tune = tweaked(song, model, keep=keep, candidates=candidates, **changes)
    names = resolve_output_files(outs, tune.model, count=1, suffix=song.suffix, force=force)
    tell = discard_line if quiet else partial(click.echo, err=True)
    if verbose:
        tell(describe_model(tune.model))
    loud = select_verbosity(quiet=quiet, verbose=verbose)
    for line in write_tune(tune, [files[0] for files in names], force=force, verbosity=loud):
        tell(line)
