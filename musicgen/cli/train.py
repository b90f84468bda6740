"""`musicgen train`: a model of one's own."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli.tunes import DEFAULT_SOURCE, read_tunes
from musicgen.cli.watched import Seen, Watched
from musicgen.config import CELLS
from musicgen.errors import InvalidValue, OutputExists

if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.corpus.store import Dataset
    from musicgen.model.plan import Plan
    from musicgen.model.run import Run


@click.command()
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option("--name", default="mine", show_default=True, help="The run: checkpoints/NAME.")
@click.option(
    "--codec",
    metavar="NAME",
    help="How tunes become ids: measures (the default), performance, frames, frames-16, text,"
    " text-words.",
)
@click.option(
    "--cell",
    type=click.Choice(CELLS),
    default="lstm",
    show_default=True,
    help="The recurrent cell.",
)
@click.option("--layers", type=click.IntRange(1, 8), default=2, show_default=True)
@click.option(
    "--hidden",
    type=click.IntRange(1, 4096),
    default=256,
    show_default=True,
    help="Units of a layer.",
)
@click.option("--dropout", type=click.FloatRange(0, 0.95), help="Share of units left out.")
@click.option(
    "--bptt", type=click.IntRange(1, 4096), help="Ids through which a gradient goes back."
)
@click.option("--batch", type=click.IntRange(1, 4096), help="Lanes that are trained side by side.")
@click.option(
    "--epochs",
    type=click.FloatRange(0, min_open=True),
    help="Times through the corpus, at the most.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Made a number of tokens at the start, by the speed measured there.",
)
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True))
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA, then MPS, then the CPU.",
)
@click.option(
    "--score-test", is_flag=True, help="At the end score the test part, once, beside a 5-gram."
)
@click.option("--force", is_flag=True, help="Replace an existing run of that name.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell the plan and the versions too.")
def train(
    sources: tuple[str, ...],
    name: str,
    codec: str | None,
    score_test: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Train a model: on SOURCEs (files, folders, corpora by name), else on three books of dances.

    \b
    musicgen train                          dance-tunes, under 30 minutes on two cores
    musicgen train mytunes/ --name mine     your own files: .abc, .mid
    musicgen sample --model mine --out song.mid
    """  # noqa: D301 - click wants the character itself
    from rich.console import Console

    from musicgen.tune import RUNS

    folder = _run_folder(RUNS, name)
    if folder.exists() and not force:
        raise OutputExists(f"{folder} exists; choose another --name, or replace it with --force")
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    dataset = read_tunes(sources or (DEFAULT_SOURCE,), codec, console)

    from musicgen.model.plan import Options, plan
    from musicgen.model.run import Run

    found = plan(dataset, Options(**options))
    RUNS.mkdir(exist_ok=True)
    run = Run(dataset, found, name, folder, corpus=_cards(dataset.sources))
    _announce(dataset, found, console)
    if verbose:
        _tell_all(found, console)
    with Watched(console, name, _seen(run), verbose=verbose) as watched:
        for progress in run.train():
            watched(progress)
    if score_test:
        run.score_test()
    _conclude(run, console)


def _run_folder(runs: Path, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise InvalidValue(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    return runs / name


def _cards(sources: tuple[str, ...]) -> dict[str, Any]:
    """Return what the corpus cards of the sources say, for the model card."""
    from musicgen.corpus.sources import cards_of

    return {
        "cards": [
            {
                "name": card.name,
                "title": card.title,
                "source": card.source,
                "terms": " ".join(card.terms.split()),
            }
            for card in cards_of(sources)
        ]
    }


def _announce(dataset: Dataset, found: Plan, console: Console) -> None:
    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    shape, settings = found.model, found.training
    console.print(
        f"{len(dataset.train):,} tunes ({tokens:,} tokens) to learn from,"
        f" {len(dataset.valid):,} to stop by, {len(dataset.test):,} kept for a test"
    )
    if not dataset.valid:
        console.print("too few tunes to hold any out: trained to the end of the plan, unjudged")
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {found.device},"
        f" {settings.lanes} lanes of {settings.bptt} ids,"
        f" at most {settings.tokens:,} tokens ({settings.tokens / tokens:.1f} epochs)"
    )


def _tell_all(found: Plan, console: Console) -> None:
    """Print every setting and the versions of the packages that decide the numbers."""
    from musicgen.checkpoint import versions

    for table in (asdict(found.model), asdict(found.training), versions()):
        told = ", ".join(f"{name} {value}" for name, value in table.items())
        console.print(told, markup=False)


def _conclude(run: Run, console: Console) -> None:
    table = run.scores.as_table()
    for part in ("valid", "test", "test_5gram"):
        if part in table:
            row = table[part]
            low, high = row["interval_95"]
            console.print(
                f"{part}: {row['bits_per_note']:.3f} bits a {_unit(run)}"
                f" (95 % interval {low:.3f} to {high:.3f}, {row['tunes']} tunes)"
            )
    console.print(
        f"{run.folder}: done; {'read' if _is_text(run) else 'hear'} it with musicgen sample --model"
        f" {run.name} --out song{'.txt' if _is_text(run) else '.mid'}"
    )


def _seen(run: Run) -> Seen:
    """Start to count what is shown of a run."""
    from musicgen.model.devices import resident

    held = "not yet judged" if run.dataset.valid else "none"
    return Seen(_unit(run), held=held, resident=None if run.plan.device == "cpu" else resident)


def _is_text(run: Run) -> bool:
    return run.dataset.codec.startswith("text")


def _unit(run: Run) -> str:
    """Name what bits are counted by: a text has no notes."""
    return "character" if _is_text(run) else "note"
