"""`musicgen corpus`: which collections there are, and files made into a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from musicgen.corpus.doctor import Report
    from musicgen.corpus.store import Dataset


@click.group()
def corpus() -> None:
    """Look at corpora, and build data sets from them."""


@corpus.command("list")
@click.option("-v", "--verbose", is_flag=True, help="Show the source and the terms in full.")
def list_(verbose: bool) -> None:
    """List the corpora that have a card, with their terms."""
    from musicgen.corpus.sources import cards, count_tunes

    for card in cards():
        count = count_tunes(card)
        click.echo(f"{card.name:12} {count or '?':>6} tunes  {card.title}: {card.description}")
        for text in (card.source, card.terms) if verbose else (card.in_short,):
            click.echo(f"{'':12} {'':>6}        {_plain(text)}")


@corpus.command()
@click.argument("sources", metavar="SOURCE ...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The folder to write; it is new."
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; the default is one a core.")
@click.option("--force", is_flag=True, help="Replace an existing data set.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Name every tune that is left out.")
def build(
    sources: tuple[str, ...],
    out: Path,
    jobs: int | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read, check, split and encode files, folders or corpora by name (see corpus list)."""
    from musicgen.corpus import store
    from musicgen.corpus.build import build as build_dataset
    from musicgen.files import sweep_partials

    store.check_out(out, force=force)
    sweep_partials(out.parent)
    with _progress(quiet=quiet) as progress:
        dataset, report = build_dataset(
            sources, jobs=jobs or os.cpu_count() or 1, progress=progress
        )
    store.save(dataset, out, force=force)
    if verbose:
        for refusal in report.refusals:
            click.echo(_plain(str(refusal)), err=True)
    if not quiet:
        click.echo(_summary(dataset, report, out), err=True)


def _summary(dataset: Dataset, report: Report, out: Path) -> str:
    codes = ", ".join(f"{count:,} {code}" for code, count in report.codes.items())
    parts = (
        f"train {len(dataset.train):,}, valid {len(dataset.valid):,}, test {len(dataset.test):,}"
    )
    left_out = f"; left out {len(report.refusals):,} ({codes})" if codes else ""
    return f"{out}: kept {report.kept:,} of {report.found:,} tunes ({parts}){left_out}"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on stderr where that is a terminal; without a thread, for workers are forked."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    off = quiet or not console.is_terminal
    with Progress(console=console, disable=off, auto_refresh=False) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


def _plain(text: str) -> str:
    """Return a text in one line without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
