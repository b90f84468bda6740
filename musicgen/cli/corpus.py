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
from musicgen.cli.formatting import format_count
from musicgen.cli.param_types import OUT_PATH, POSITIVE, WholeNumber

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from musicgen.corpus.build import BuildProgress
    from musicgen.corpus.dry_run import DryRunResult, GroupMember
    from musicgen.corpus.report import Report
    from musicgen.corpus.sandbox import ReadLimits
    from musicgen.corpus.store import Dataset

ROWS_SHOWN = 20  # of a table, without -v
RELATION_TEXTS = {
    "exact": "the same notes as",
    "transposed": "transposed:",
    "rescaled": "in other note values:",
    "variant": "much like",
}
PLAIN_WIDTH = 160  # columns where there is no terminal

OptionDecorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_SOURCES = click.argument("sources", metavar="SOURCE ...", nargs=-1, required=True)
_READER_OPTIONS: Sequence[OptionDecorator] = (
    click.option(
        "--codec", default="measures", show_default=True, help="How tunes become ids: see docs."
    ),
    click.option(
        "--jobs", type=WholeNumber(1, 256), help="Processes that read; the default: one a core."
    ),
    click.option(
        "--seconds",
        type=POSITIVE,
        help="CPU time for a file, or for a tune of an ABC book; the default is 5.",
    ),
    click.option(
        "--memory",
        type=WholeNumber(192, 2**24),
        help="MiB for a reading process; the default is 1024.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)


def _add_reader_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how files are read."""
    for option in reversed(_READER_OPTIONS):
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
    from musicgen.corpus.sources import count_tunes, list_cards

    for card in list_cards():
        if quiet:
            click.echo(card.name)
            continue
        count = count_tunes(card)
        click.echo(f"{card.name:12} {count or '?':>6} tunes  {card.title}: {card.description}")
        for text in (card.source, card.terms) if verbose else (card.in_short,):
            click.echo(f"{'':12} {'':>6}        {_to_one_line(text)}")


@corpus.command()
@_SOURCES
@click.option("--out", type=OUT_PATH, required=True, help="The folder to write; it is new.")
@_add_reader_options
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
    from musicgen.tokens.registry import find_codec

    found = find_codec(codec)
    store.check_output_folder(out, force=force)
    sweep_partials(out.parent)
    with _connect_cluster(dask) as executor, _show_progress(quiet=quiet) as progress:
        dataset, report = build_dataset(
            sources,
            out,
            codec=found,
            jobs=jobs or _count_cores(),
            limits=_make_limits(seconds, memory),
            executor=executor,
            progress=progress,
            force=force,
        )
    if verbose:
        for refusal in report.refusals:
            click.echo(_to_one_line(str(refusal)), err=True)
    if not quiet:
        click.echo(_format_summary(dataset, report, out), err=True)


@corpus.command()
@_SOURCES
@_add_reader_options
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
    from musicgen.corpus.dry_run import check_sources as check_sources
    from musicgen.tokens.registry import find_codec

    with _show_progress(quiet=quiet or as_json) as progress:
        checkup = check_sources(
            sources,
            codec=find_codec(codec),
            jobs=jobs or _count_cores(),
            limits=_make_limits(seconds, memory),
            progress=progress,
        )
    if as_json:
        for text in checkup.iter_json():
            click.echo(text, nl=False)
    elif not quiet:
        _print_checkup(checkup, None if verbose else ROWS_SHOWN)
    if not checkup.report.kept:
        ctx.exit(1)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_limits(seconds: float | None, memory: int | None) -> ReadLimits:
    from musicgen.corpus.sandbox import ReadLimits

    plain = ReadLimits()
    return ReadLimits(seconds or plain.seconds, memory * 2**20 if memory else plain.memory_bytes)


@contextmanager
def _connect_cluster(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    from musicgen.corpus.dispatch import connect_dask

    with connect_dask(address) as executor:
        yield executor


def _format_summary(dataset: Dataset, report: Report, out: Path) -> str:
    codes = ", ".join(f"{count:,} {code}" for code, count in report.codes.items())
    parts = (
        f"train {len(dataset.train):,}, valid {len(dataset.valid):,}, test {len(dataset.test):,}"
    )
    left_out = f"; left out {report.refused:,} ({codes})" if codes else ""
    taken = (
        f"; read {format_count(report.files - report.reused_files, 'file')},"
        f" took over {report.reused_files:,} that did not change"
        if report.reused_files
        else ""
    )
    kept = f"kept {report.kept:,} of {format_count(report.found, 'tune')} ({parts})"
    return f"{out}: {kept}{left_out}{taken}{_format_skipped(report)}"


def _format_skipped(report: Report) -> str:
    many = report.skipped_files
    return f"; passed over: {format_count(many, 'other file')}" if many else ""


@contextmanager
def _show_progress(*, quiet: bool) -> Iterator[Callable[[BuildProgress], None]]:
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
            total=now.total_bytes,
            description=f"read {now.files:,} of {format_count(now.total_files, 'file')}",
        )


# What check prints


def _print_checkup(checkup: DryRunResult, max_rows: int | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    report = checkup.report
    if max_rows is None:
        rows = (
            (t["source"], t["place"], t["key"], t["meter"], t["part"]) for t in checkup.iter_kept()
        )
        _print_table(console, "Kept", ("file", "tune", "key", "meter", "part"), rows, max_rows)
    names = ("source", "place", "code", "message")
    refused = (tuple(row[name] for name in names) for row in checkup.iter_refused())
    _print_table(console, "Refused", ("file", "place", "code", "why"), refused, max_rows)
    remarked = (
        (t["source"], t["place"], remark) for t in checkup.iter_kept() for remark in t["remarks"]
    )
    _print_table(console, "Kept, but odd", ("file", "tune", "what"), remarked, max_rows)
    groups = checkup.group_relatives()
    _print_table(
        console, "Alike", ("group", "file", "tune", "how"), _format_relatives(groups), max_rows
    )
    _print_totals(console, report, groups)


def _format_relatives(groups: dict[str, list[GroupMember]]) -> Iterator[tuple[str, ...]]:
    for number, members in enumerate(groups.values(), 1):
        for member in members:
            how = (
                f"{RELATION_TEXTS[member.relation]} {member.like}"
                if member.relation
                else "the first"
            )
            how += "" if member.part else "; refused"
            yield str(number), member.source, member.place, how


def _print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, ...]],
    max_rows: int | None,
) -> None:
    """Print the first rows of a table, and how many more there are."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    count = 0
    for count, row in enumerate(rows, 1):
        if max_rows is None or count <= max_rows:
            table.add_row(*(Text(_to_one_line(cell)) for cell in row))
    if count:
        console.print(table)
        if max_rows is not None and count > max_rows:
            console.print(f"and {count - max_rows:,} more; --json or -v lists all")
        console.print()


def _print_totals(console: Console, report: Report, groups: dict[str, list[GroupMember]]) -> None:
    def told(counts: Counter[str]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    if report.remarks:
        console.print(f"odd: {told(Counter(report.remarks))}")
    if groups:
        alike = Counter(m.relation for ms in groups.values() for m in ms if m.relation)
        console.print(f"alike: {format_count(len(groups), 'group')} ({told(alike)})")
    if report.codes:
        console.print(f"refused: {told(Counter(report.codes))}")
    console.print(
        f"found {format_count(report.found, 'tune')} in {format_count(report.files, 'file')}:"
        f" kept {report.kept:,}, refused {report.refused:,}{_format_skipped(report)}"
    )


def _to_one_line(text: str) -> str:
    """Return a text in one line without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
