"""`musicgen corpus`: list the known corpora, check files, build a data set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli import SuggestingGroup
from musicgen.cli.command_options import OUT_PATH, POSITIVE, WholeNumber, quiet_option
from musicgen.cli.output import format_count

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from musicgen.corpus.build import BuildProgress
    from musicgen.corpus.build_report import Report
    from musicgen.corpus.dry_run import DryRunResult, GroupMember
    from musicgen.corpus.sandbox import ReadLimits
    from musicgen.corpus.store import Dataset

MAX_ROWS: Final = 20  # of a table, without --verbose
RELATION_TEXTS: Final = {
    "exact": "the same notes as",
    "transposed": "transposed:",
    "rescaled": "in other note values:",
    "variant": "similar to",
}
PLAIN_WIDTH: Final = 160  # columns of a table if stdout is not a terminal

OptionDecorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_SOURCES = click.argument("sources", metavar="SOURCE ...", nargs=-1, required=True)
_READER_OPTIONS: Sequence[OptionDecorator] = (
    click.option(
        "--codec", default="measures", show_default=True, help="Encoding of tunes as tokens."
    ),
    click.option(
        "--jobs",
        type=WholeNumber(1, 256),
        help="Processes that read files; by default, one per core.",
    ),
    click.option(
        "--seconds",
        type=POSITIVE,
        help="CPU time limit per file, or per tune of an ABC book.  [default: 5]",
    ),
    click.option(
        "--memory",
        type=WholeNumber(192, 2**24),
        help="Memory limit of a reading process, in MiB.  [default: 1024]",
    ),
    quiet_option,
)


def _add_reader_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that control how files are read."""
    for option in reversed(_READER_OPTIONS):
        command = option(command)
    return command


@click.group(cls=SuggestingGroup)
def corpus() -> None:
    """List and check corpora, and build data sets from them.

    \b
    musicgen corpus list                          the corpora known by name
    musicgen corpus check mytunes/                which tunes can be used, and why not
    musicgen corpus build mytunes/ --out data     a data set, for musicgen train data
    """  # noqa: D301 - click reads the backspace character


@corpus.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Print only the names.")
@click.option("-v", "--verbose", is_flag=True, help="Print the source and the full terms.")
def list_(quiet: bool, verbose: bool) -> None:
    """List the corpora known by name, with their terms of use."""
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
@click.option("--out", type=OUT_PATH, required=True, help="New folder for the data set.")
@_add_reader_options
@click.option(
    "--dask", metavar="ADDRESS", help="Read files on a Dask cluster that sees the same file system."
)
@click.option(
    "--force", is_flag=True, help="Replace an existing data set; only changed files are read."
)
@click.option("-v", "--verbose", is_flag=True, help="Also print every tune that is left out.")
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
    """Read, check, split and encode files, folders, archives or named corpora.

    \b
    musicgen corpus build mytunes/ --out data
    musicgen corpus build mytunes/ more.zip ryan --out data --force    after a change
    musicgen corpus build chorales --out bach --jobs 8
    musicgen corpus build huge/ --out data --dask tcp://10.0.0.1:8786
    """  # noqa: D301 - click reads the backspace character
    from musicgen.corpus import store
    from musicgen.corpus.build import build as build_dataset
    from musicgen.files import sweep_partials
    from musicgen.tokens.registry import find_codec

    chosen_codec = find_codec(codec)
    store.check_output_folder(out, force=force)
    sweep_partials(out.parent)
    with _connect_cluster(dask) as executor, _show_progress(quiet=quiet) as progress:
        dataset, report = build_dataset(
            sources,
            out,
            codec=chosen_codec,
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
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("-v", "--verbose", is_flag=True, help="Print all rows, and the tunes that are kept.")
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
    """Report which tunes are kept or refused, where and why, and which are near-duplicates.

    \b
    musicgen corpus check mytunes/
    musicgen corpus check book.abc -v
    musicgen corpus check ryan --json > ryan.json      keys: kept, refused, groups, counts
    """  # noqa: D301 - click reads the backspace character
    from musicgen.corpus.dry_run import check_sources
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
        _print_checkup(checkup, None if verbose else MAX_ROWS)
    if not checkup.report.kept:
        ctx.exit(1)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _make_limits(seconds: float | None, memory: int | None) -> ReadLimits:
    from musicgen.corpus.sandbox import ReadLimits

    defaults = ReadLimits()
    return ReadLimits(
        seconds or defaults.seconds, memory * 2**20 if memory else defaults.memory_bytes
    )


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
    training_count = report.kept - len(dataset.valid) - len(dataset.test)
    split = (
        f"train {training_count:,}, validation {len(dataset.valid):,}, test {len(dataset.test):,}"
    )
    kept = f"kept {report.kept:,} of {format_count(report.found, 'tune')} ({split})"
    left_out = f"; left out {report.refused:,} ({codes})" if codes else ""
    reused = (
        f"; read {format_count(report.files - report.reused_files, 'file')},"
        f" reused {report.reused_files:,} unchanged"
        if report.reused_files
        else ""
    )
    return f"{out}: {kept}{left_out}{reused}{_format_skipped(report)}"


def _format_skipped(report: Report) -> str:
    count = report.skipped_files
    return f"; skipped {format_count(count, 'other file')}" if count else ""


@contextmanager
def _show_progress(*, quiet: bool) -> Iterator[Callable[[BuildProgress], None]]:
    """Show a progress bar on stderr if that is a terminal; yield a function that updates it."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda progress: bar.update(
            task,
            completed=progress.bytes,
            total=progress.total_bytes,
            description=f"read {progress.files:,} of {format_count(progress.total_files, 'file')}",
        )


def _print_checkup(checkup: DryRunResult, max_rows: int | None) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    print_table = partial(_print_table, console, max_rows)
    if max_rows is None:
        kept_keys = ("source", "place", "key", "meter", "part")
        kept = (
            (*(tune[key] for key in kept_keys), _format_roles(tune["parts"]))
            for tune in checkup.iter_kept()
        )
        print_table("Kept", ("file", "tune", "key", "meter", "split", "roles of parts"), kept)
    refused_keys = ("source", "place", "code", "message")
    refused = (tuple(row[key] for key in refused_keys) for row in checkup.iter_refused())
    print_table("Refused", ("file", "place", "code", "reason"), refused)
    remarks = (
        (tune["source"], tune["place"], remark)
        for tune in checkup.iter_kept()
        for remark in tune["remarks"]
    )
    print_table("Kept, with remarks", ("file", "tune", "remark"), remarks)
    groups = checkup.group_relatives()
    print_table("Near-duplicates", ("group", "file", "tune", "relation"), _format_relatives(groups))
    _print_totals(console, checkup.report, groups)


def _format_roles(parts: Sequence[Mapping[str, Any]]) -> str:
    """Write the role of each part, with its confidence."""
    return ", ".join(
        f"{part['name'] or number} {part['role']} {part['confidence']:.2f}"
        for number, part in enumerate(parts, 1)
    )


def _format_relatives(groups: dict[str, list[GroupMember]]) -> Iterator[tuple[str, ...]]:
    for number, members in enumerate(groups.values(), 1):
        for member in members:
            relation = "the first"
            if member.relation:
                relation = f"{RELATION_TEXTS[member.relation]} {member.like}"
            if not member.part:
                relation += "; refused"
            yield str(number), member.source, member.place, relation


def _print_table(
    console: Console,
    max_rows: int | None,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, ...]],
) -> None:
    """Print the first rows of a table, and the number of the others."""
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
    def format_counts(counts: Mapping[str, int]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())

    if report.remarks:
        console.print(f"remarks: {format_counts(Counter(report.remarks))}")
    if groups:
        relations = Counter(
            member.relation for members in groups.values() for member in members if member.relation
        )
        console.print(
            f"near-duplicates: {format_count(len(groups), 'group')} ({format_counts(relations)})"
        )
    if report.codes:
        console.print(f"refused: {format_counts(Counter(report.codes))}")
    console.print(
        f"found {format_count(report.found, 'tune')} in {format_count(report.files, 'file')}:"
        f" kept {report.kept:,}, refused {report.refused:,}{_format_skipped(report)}"
    )


def _to_one_line(text: str) -> str:
    """Join the lines of a text and replace control characters by question marks."""
    one_line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in one_line)
