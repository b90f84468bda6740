"""`musicgen sample`: new tunes from a trained model."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import Any

import click

from musicgen.cli.controls import controls, given
from musicgen.cli.outputs import files_of, loudness, model_told, silent, write_tunes
from musicgen.cli.types import OUT, SEED, Whole
from musicgen.errors import InvalidValue, printable


@click.command()
@click.option(
    "--model", default="folk", show_default=True, help="A model's name, or the folder of a run."
)
@click.option(
    "--out",
    "outs",
    type=OUT,
    metavar="FILE",
    multiple=True,
    required=True,
    help="Where to write; .mid .abc .musicxml, sound (.wav), sheet music (.svg .png), a page to"
    " play (.html); a model of text: .txt or .abc. May be given several times. With --count: a"
    " folder (tunes/) or a pattern (song-{n}.mid).",
)
@click.option(
    "--count",
    type=Whole(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many tunes. Tune k is the same however many are asked for.",
)
@click.option("--seed", type=SEED, help="The same seed, the same tune.")
@controls
@click.option(
    "--primer",
    type=click.Path(path_type=Path),
    help="Start from the notes of a file (.mid, .abc, .musicxml), fitted to the model.",
)
@click.option(
    "--best",
    type=Whole(1, 10_000),
    metavar="K",
    help="Of --count tunes write the K that are most like real ones and unlike each other, and a"
    " table (index.tsv) of what was chosen and why.",
)
@click.option("--no-primer", is_flag=True, help="Write only what comes after the primer.")
@click.option(
    "--engine",
    type=click.Choice(["numpy", "torch"]),
    default="numpy",
    show_default=True,
    help="What draws many tunes; torch, on CUDA where there is one, has tunes of its own.",
)
@click.option(
    "--jobs",
    type=Whole(1, 256),
    help="Processes for many tunes; else as many as there are cores.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Tell the model, the seeds, whole receipts.",
)
def sample(
    model: str,
    outs: tuple[str, ...],
    count: int,
    seed: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    engine: str,
    jobs: int | None,
    primer: Path | None,
    no_primer: bool,
    best: int | None,
    **wishes: Any,
) -> None:
    """Write new tunes: of the form AABB in 32 bars, where neither form nor bars are named.

    With a primer, and of a model that never met a repeated part, they are of any form and at least
    8 bars.

    \b
    musicgen sample --out song.mid
    musicgen sample --out song.mid --out song.abc --key Edor --rhythm jig --form AABB --end tonic
    musicgen sample --out more.abc --primer idea.abc --bars 16
    musicgen sample --out tunes/ --count 100 --best 5
    """  # noqa: D301 - click wants the character itself
    from musicgen.cli.best import TABLE_HEAD, table_of, write_best
    from musicgen.files import refuse_existing, refuse_foreign
    from musicgen.sampling.recipe import Order
    from musicgen.tune import load

    if no_primer and primer is None:
        raise InvalidValue("--no-primer: there is no primer to leave out; name one with --primer")
    loaded = load(model)
    asked = loaded.complete_wishes(given(wishes), has_primer=primer is not None)
    suffix = loaded.writable[0] if loaded.codec.name != "measures" else ".mid"
    if best is not None and best > count:
        raise InvalidValue(f"--best {best}: of {count} tunes; add --count with a larger number")
    names = files_of(outs, loaded, count=best or count, suffix=suffix, force=force)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    tell = silent if quiet else partial(click.echo, err=True)
    if verbose:
        tell(model_told(loaded))
    order = Order(asked, drawn, writes_primer=not no_primer, engine=engine)
    if primer is not None:
        order = loaded.primed(order, primer)
        for change in order.primer.changes if order.primer else ():
            tell(printable(f"{primer}: {change}"))
    for remark in loaded.unmet_dances(order):
        tell(f"Warning: {printable(remark)}")
    loud = loudness(quiet=quiet, verbose=verbose)
    if best is not None:
        table = table_of(outs[0], names[0])
        refuse_existing([table] if table else [], force=force)
        if table:
            refuse_foreign(table, TABLE_HEAD, "a table of tunes")
        write_best(loaded, order, list(zip(*names, strict=True)), table, count=count, jobs=jobs,
                   force=force, loud=loud, tell=tell)  # fmt: skip
    each = [] if best is not None else [list(map(str, files)) for files in zip(*names, strict=True)]
    for lines in write_tunes(loaded, order, each, force=force, loud=loud, jobs=jobs):
        for line in lines:
            tell(line)
    if seed is None:
        tell(f"seed {drawn}: add --seed {drawn} to write the same again")
