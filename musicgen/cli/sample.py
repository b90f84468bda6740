"""`musicgen sample`: new tunes from a trained model."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.types import KEY, METER, PROGRAM
from musicgen.cli.words import counted
from musicgen.errors import InvalidValue, printable

if TYPE_CHECKING:
    from musicgen.tune import Model, Tune


@click.command()
@click.option(
    "--model", default="folk", show_default=True, help="A model's name, or the folder of a run."
)
@click.option(
    "--out",
    "outs",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Where to write; .mid or .abc (a model of text: .txt or .abc). May be given several"
    " times. With --count: a folder (tunes/) or a pattern (song-{n}.mid).",
)
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many tunes. Tune k is the same however many are asked for.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="The same seed, the same tune.")
@click.option(
    "--temperature",
    type=float,
    default=0.8,
    show_default=True,
    help="1 is the model as it is; lower is likelier, higher more surprising.",
)
@click.option("--top-k", type=int, help="Draw from the K likeliest events only.")
@click.option("--top-p", type=float, help="Draw from the likeliest events that hold a mass of P.")
@click.option("--min-p", type=float, help="Leave out what is under P times as likely as the best.")
@click.option("--key", type=KEY, help="Tonic and mode: D, Am, Edor, Dmix, Bb minor.")
@click.option("--meter", type=METER, help="Such as 6/8.")
@click.option("--rhythm", help="The dance: jig, reel, hornpipe, slip jig, ...")
@click.option("--bars", type=int, help="Exactly so many bars, as heard: repeats are counted.")
@click.option("--tempo", type=float, metavar="QPM", help="Quarters a minute.")
@click.option(
    "--program", type=PROGRAM, default=0, help="The instrument: 0..127, or a name (flute)."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    help="Processes for many tunes; else as many as there are cores.",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell the model and the seed of each tune too.")
def sample(
    model: str,
    outs: tuple[str, ...],
    count: int,
    seed: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
    jobs: int | None,
    **wishes: Any,
) -> None:
    """Write new tunes.

    \b
    musicgen sample --out song.mid
    musicgen sample --out song.mid --out song.abc --key Edor --meter 6/8 --rhythm jig --bars 32
    musicgen sample --out tunes/ --count 20 --seed 1
    """  # noqa: D301 - click wants the character itself
    from musicgen.files import refuse_existing
    from musicgen.sampling.wishes import Wishes
    from musicgen.tune import check_writable, load, sample_many

    asked = Wishes(**wishes)
    loaded = load(model)
    suffix = loaded.writable[0] if loaded.codec.name != "measures" else ".mid"
    names = [list(_names(out, count, suffix)) for out in outs]
    for files in names:
        check_writable(files, loaded.writable)
        refuse_existing(files, force=force)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    tell = _silent if quiet else partial(click.echo, err=True)
    if verbose:
        tell(_model_told(loaded))
    tunes = sample_many(loaded, asked, seed=drawn, count=count, jobs=jobs)
    for number, tune in enumerate(tunes):
        for files in names:
            tune.write(files[number], force=force)
        place = f"; seed {drawn}, number {number + 1}" if verbose else ""
        tell(f"{_told(tune, [str(files[number]) for files in names])}{place}")
    if seed is None:
        tell(f"seed {drawn}: add --seed {drawn} to write the same again")


def _silent(_: str) -> None:
    """Say nothing."""


def _model_told(model: Model) -> str:
    manifest = model.checkpoint.manifest
    shape = manifest.settings
    return printable(
        f"{model.checkpoint.folder}: {manifest.name} {manifest.version},"
        f" {shape.layers} x {shape.hidden} {shape.cell}, codec {manifest.codec},"
        f" {counted(shape.vocabulary_size, 'event')}"
    )


def _names(out: str, count: int, suffix: str) -> Iterator[Path]:
    """Yield the files that one --out stands for."""
    path = Path(out)
    if out.endswith(("/", "\\")) or path.is_dir():
        path.mkdir(exist_ok=True)
        yield from (path / f"tune-{number}{suffix}" for number in range(1, count + 1))
    elif "{n}" in path.name:
        yield from (Path(out.replace("{n}", str(number))) for number in range(1, count + 1))
    elif count == 1:
        yield path
    else:
        raise InvalidValue(
            f"--out {out}: for {count} tunes name a folder ({out}/) or a pattern"
            f" ({path.stem}-{{n}}{path.suffix})"
        )


def _told(tune: Tune, files: list[str]) -> str:
    score, names = tune.score, ", ".join(files)
    if tune.text is not None:
        return f"{names}: {counted(len(tune.text), 'character')}"
    if tune.codec != "measures":
        return f"{names}: {score.title}; {counted(len(score.notes), 'note')}"
    return f"{names}: {score.title}; {score.meter}, {counted(tune.bars, 'bar')}"
