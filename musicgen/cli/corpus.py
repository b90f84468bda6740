"""`musicgen corpus`: which collections there are, files looked at, files made into a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musicgen.cli import SuggestingGroup
from musicgen.cli.formatting import counted
from musicgen.cli.param_types import OUT_PATH, POSITIVE, Whole

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from musicgen.corpus.build import Progress
    from musicgen.corpus.dry_run import Checkup, Member
    from musicgen.corpus.report import Report
    from musicgen.corpus.sandbox import Limits
    from musicgen.corpus.store import Dataset

ROWS_SHOWN = 20  # of a table, without -v
HOW = {
    "exact": "the same notes as",
    "transposed": "transposed:",
    "rescaled": "in other note values:",
    "variant": "much like",
}
PLAIN_WIDTH = 160  # columns where there is no terminal

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
_SOURCES = click.argument("sources", metavar="SOURCE ...", nargs=-1, required=True)
_READING: Sequence[Option] = (
    click.option(
        "--codec", default="measures", show_default=True, help="How tunes become ids: see docs."
    ),
    click.option(
        "--jobs", type=Whole(1, 256), help="Processes that read; the default: one a core."
    ),
    click.option(
        "--seconds",
        type=POSITIVE,
        help="CPU time for a file, or for a tune of an ABC book; the default is 5.",
    ),
    click.option(
        "--memory", type=Whole(192, 2**24), help="MiB for a reading process; the default is 1024."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)


def _reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how files are read."""
    for option in reversed(_READING):
        command = option(command)
    return command


@click.group(cls=SuggestingGroup)
def corpus() -> None:
    """Look at corpora, and build data sets from them.

    \b
    musicgen corpus list                          collections that are known by name
    musicgen corpus check mytunes/                what would become of every tune, and why
    musicgen corpus build mytunes/ --out data     a data set, for musicgen train data
    """  # noqa: D301 - click wants the character itself


@corpus.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Print the names and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Show the source and the terms in full.")
def list_(quiet: bool, verbose: bool) -> None:
    """List the corpora that have a card, with their terms."""
    from musicgen.corpus.sources import cards, count_tunes

    for card in cards():
        if quiet:
            click.echo(card.name)
            continue
        count = count_tunes(card)
        click.echo(f"{card.name:12} {count or '?':>6} tunes  {card.title}: {card.description}")
        for text in (card.source, card.terms) if verbose else (card.in_short,):
            click.echo(f"{'':12} {'':>6}        {_plain(text)}")


@corpus.command()
@_SOURCES
@click.option("--out", type=OUT_PATH, required=True, help="The folder to write; it is new.")
@_reading
@click.option("--dask", metavar="ADDRESS", help="Read on a Dask cluster; it sees the same files.")
@click.option(
    "--force", is_flag=True, help="Replace a data set; only files that changed are read again."
)
@click.option("-v", "--verbose", is_flag=True, help="Name every tune that is left out.")
def build(
    sources: tuple[str, ...],
    out: Path,
    codec: str,
    jobs: int | None,
    seconds: float | None,
    memory: int | None,
    dask: str | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read, check, split and encode files, folders, archives or corpora by name.

    \b
    musicgen corpus build mytunes/ --out data
    musicgen corpus build mytunes/ more.zip ryan --out data --force    after a change
    musicgen corpus build chorales --out bach --jobs 8
    musicgen corpus build huge/ --out data --dask tcp://10.0.0.1:8786
    """  # noqa: D301 - click wants the character itself
    from musicgen.corpus import store
    from musicgen.corpus.build import build as build_dataset
    from musicgen.files import sweep_partials
    from musicgen.tokens.registry import find

    found = find(codec)
    store.check_out(out, force=force)
    sweep_partials(out.parent)
    with _cluster(dask) as executor, _progress(quiet=quiet) as progress:
        dataset, report = build_dataset(
            sources,
            out,
            codec=found,
            jobs=jobs or _cores(),
            limits=_limits(seconds, memory),
            executor=executor,
            progress=progress,
            force=force,
        )
    if verbose:
        for refusal in report.refusals:
            click.echo(_plain(str(refusal)), err=True)
    if not quiet:
        click.echo(_summary(dataset, report, out), err=True)


@corpus.command()
@_SOURCES
@_reading
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="List all, the tunes that are kept too.")
@click.pass_context
def check(
    ctx: click.Context,
    sources: tuple[str, ...],
    codec: str,
    jobs: int | None,
    seconds: float | None,
    memory: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Say what becomes of every tune: kept or refused, where and why; and which are alike.

    \b
    musicgen corpus check mytunes/
    musicgen corpus check book.abc -v
    musicgen corpus check ryan --json > ryan.json      keys: kept, refused, groups, counts
    """  # noqa: D301 - click wants the character itself
    from musicgen.corpus.dry_run import check as check_sources
    from musicgen.tokens.registry import find

    with _progress(quiet=quiet or as_json) as progress:
        checkup = check_sources(
            sources,
            codec=find(codec),
            jobs=jobs or _cores(),
            limits=_limits(seconds, memory),
            progress=progress,
        )
    if as_json:
        for text in checkup.to_json():
            click.echo(text, nl=False)
    elif not quiet:
        _print(checkup, None if verbose else ROWS_SHOWN)
    if not checkup.report.kept:
        ctx.exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limits(seconds: float | None, memory: int | None) -> Limits:
    from musicgen.corpus.sandbox import Limits

    plain = Limits()
    return Limits(seconds or plain.seconds, memory * 2**20 if memory else plain.memory_bytes)


@contextmanager
def _cluster(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    from musicgen.corpus.dispatch import dask

    with dask(address) as executor:
        yield executor


def _summary(dataset: Dataset, report: Report, out: Path) -> str:
    codes = ", ".join(f"{count:,} {code}" for code, count in report.codes.items())
    parts = (
        f"train {len(dataset.train):,}, valid {len(dataset.valid):,}, test {len(dataset.test):,}"
    )
    left_out = f"; left out {report.refused:,} ({codes})" if codes else ""
    taken = (
        f"; read {counted(report.files - report.taken_over, 'file')},"
        f" took over {report.taken_over:,} that did not change"
        if report.taken_over
        else ""
    )
    kept = f"kept {report.kept:,} of {counted(report.found, 'tune')} ({parts})"
    return f"{out}: {kept}{left_out}{taken}{_passed_over(report)}"


def _passed_over(report: Report) -> str:
    many = report.passed_over
    return f"; passed over: {counted(many, 'other file')}" if many else ""


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Draw a bar on stderr where that is a terminal, with the time left by bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda now: bar.update(
            task,
            completed=now.bytes,
            total=now.of_bytes,
            description=f"read {now.files:,} of {counted(now.of_files, 'file')}",
        )


# What check prints


def _print(checkup: Checkup, most: int | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    report = checkup.report
    if most is None:
        rows = ((t["source"], t["place"], t["key"], t["meter"], t["part"]) for t in checkup.kept())
        _table(console, "Kept", ("file", "tune", "key", "meter", "part"), rows, most)
    names = ("source", "place", "code", "message")
    refused = (tuple(row[name] for name in names) for row in checkup.refused())
    _table(console, "Refused", ("file", "place", "code", "why"), refused, most)
    remarked = (
        (t["source"], t["place"], remark) for t in checkup.kept() for remark in t["remarks"]
    )
    _table(console, "Kept, but odd", ("file", "tune", "what"), remarked, most)
    groups = checkup.groups()
    _table(console, "Alike", ("group", "file", "tune", "how"), _relatives(groups), most)
    _conclude(console, report, groups)


def _relatives(groups: dict[str, list[Member]]) -> Iterator[tuple[str, ...]]:
    for number, members in enumerate(groups.values(), 1):
        for member in members:
            how = f"{HOW[member.relation]} {member.like}" if member.relation else "the first"
            how += "" if member.part else "; refused"
            yield str(number), member.source, member.place, how


def _table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, ...]],
    most: int | None,
) -> None:
    """Print the first rows of a table, and how many more there are."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    count = 0
    for count, row in enumerate(rows, 1):
        if most is None or count <= most:
            table.add_row(*(Text(_plain(cell)) for cell in row))
    if count:
        console.print(table)
        if most is not None and count > most:
            console.print(f"and {count - most:,} more; --json or -v lists all")
        console.print()


def _conclude(console: Console, report: Report, groups: dict[str, list[Member]]) -> None:
    def told(counts: Counter[str]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    if report.remarks:
        console.print(f"odd: {told(Counter(report.remarks))}")
    if groups:
        alike = Counter(m.relation for ms in groups.values() for m in ms if m.relation)
        console.print(f"alike: {counted(len(groups), 'group')} ({told(alike)})")
    if report.codes:
        console.print(f"refused: {told(Counter(report.codes))}")
    console.print(
        f"found {counted(report.found, 'tune')} in {counted(report.files, 'file')}:"
        f" kept {report.kept:,}, refused {report.refused:,}{_passed_over(report)}"
    )


def _plain(text: str) -> str:
    """Return a text in one line without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
