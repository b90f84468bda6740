"""`musicgen compare`: the ladder from a fixed window to the LSTM, measured on tunes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from musicgen.cli.formatting import format_count, format_duration
from musicgen.cli.load_dataset import DEFAULT_SOURCE, load_or_build_dataset
from musicgen.cli.param_types import MINUTES, OutputPath, ParsedText, WholeNumber
from musicgen.config import CELLS
from musicgen.errors import InvalidValue

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from musicgen.compare.comparison import Comparison, ComparisonProgress, ModelResult
    from musicgen.training.heldout_loss import HeldOutScore

PLAIN_LINE_SECONDS: Final = 20.0  # seconds between two plain lines, where there is no terminal


def _parse_cells(text: str) -> tuple[str, ...]:
    """Read names of cells with commas between them."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        raise InvalidValue(f"cell {unknown[0]!r} is unknown: choose of {', '.join(CELLS)}")
    return names


@click.command()
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option(
    "--minutes",
    type=MINUTES,
    default=24.0,
    show_default=True,
    help="For learning, in all, shared out evenly; made numbers of tokens at the start.",
)
@click.option(
    "--tokens",
    type=WholeNumber(1, 10**15),
    help="Let each network learn from so many tokens, instead of minutes: the same figures again.",
)
@click.option(
    "--cells",
    type=ParsedText("NAME,NAME", _parse_cells),
    default="rnn,irnn,gru,lstm",
    show_default=True,
    help="The recurrent cells that are compared.",
)
@click.option(
    "--parameters",
    type=WholeNumber(10_000, 50_000_000),
    default=500_000,
    show_default=True,
    help="Weights of each network, as near as a whole width comes to it.",
)
@click.option("--seed", type=WholeNumber(0, 2**31 - 1), default=1, show_default=True)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA, then MPS, then the CPU.",
)
@click.option(
    "--out",
    type=OutputPath(path_type=Path, dir_okay=False),
    default=Path("ladder.html"),
    show_default=True,
    help="The page with table, pictures and what they say.",
)
@click.option("--json", "as_json", is_flag=True, help="Write what was measured to stdout.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Tell each held-out score along the way.")
def compare(
    sources: tuple[str, ...],
    minutes: float,
    tokens: int | None,
    cells: tuple[str, ...],
    parameters: int,
    seed: int,
    device: str,
    out: Path,
    as_json: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure the ladder of sequence models on SOURCEs, else on three books of dances.

    Every rung learns from the same tunes, for the same time, with as many weights, and is asked
    for each next event of tunes that none has seen:

    \b
    window-4     sees the last 4 events, and forgets what lies beyond
    bag          counts all events before, and loses their order
    window-64    sees far, but learns each place anew
    n-gram       counts what followed the same few events (Kneser-Ney)
    rnn, irnn    share their weights over time; their gradients vanish or explode
    gru, lstm    decide by gates what is kept

    Each cell learns a second time without clipping. The page shows the losses, how far back each
    cell's gradient reaches, what clipping does, and for how many bars gates remember.

    \b
    musicgen compare                            under 30 minutes on two cores
    musicgen compare mytunes/ --minutes 5 --out mine.html
    musicgen compare --minutes 0.5              a toy, to look at the page
    """  # noqa: D301 - click wants the character itself
    from rich.console import Console

    from musicgen.files import prepare_outputs, write_atomically

    prepare_outputs([out], force=force)
    _refuse_other_page(out)
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    dataset = load_or_build_dataset(sources or (DEFAULT_SOURCE,), None, console)

    from musicgen.compare.comparison import Comparison, ComparisonOptions
    from musicgen.compare.report import render_html_report

    options = ComparisonOptions(minutes, tokens, cells, parameters, seed, device)
    comparison = Comparison(dataset, options)
    _print_dataset_summary(comparison, console)
    _show_progress(comparison.run(), len(comparison.list_model_names()), console, verbose=verbose)
    console.print(_make_table(comparison))
    page = render_html_report(
        comparison, command=_format_command_line(sources, minutes, tokens, cells, seed)
    )
    write_atomically(out, page.encode(), force=force)
    console.print(f"{out}: open it in a browser", markup=False)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2))


def _refuse_other_page(out: Path) -> None:
    """Raise OutputExists for a file that is not a page of this command."""
    from musicgen.files import refuse_foreign

    if out.exists():
        from musicgen.compare.report import PAGE_TEMPLATE  # slow to import

        head = PAGE_TEMPLATE.partition("<style>")[0].encode()
        refuse_foreign(out, head, "a page of musicgen compare")


def _format_command_line(
    sources: tuple[str, ...], minutes: float, tokens: int | None, cells: tuple[str, ...], seed: int
) -> str:
    budget = f"--tokens {tokens}" if tokens else f"--minutes {minutes:g}"
    named = "".join(f" {source}" for source in sources)
    return f"musicgen compare{named} {budget} --cells {','.join(cells)} --seed {seed}"


def _print_dataset_summary(comparison: Comparison, console: Console) -> None:
    parts = comparison.dataset
    console.print(
        f"{format_count(len(parts.train), 'tune')} to learn from, {len(parts.valid):,} held out,"
        f" {len(parts.test):,} kept for the test"
    )
    if not parts.test:
        console.print("too few tunes for a test part: the rungs are compared by the held-out ones")


def _show_progress(
    steps: Iterable[ComparisonProgress], model_count: int, console: Console, *, verbose: bool
) -> None:
    """Show what goes on: a live line on a terminal, plain lines elsewhere."""
    with console.status("") as status:
        for line, is_news in _format_progress(steps, model_count, verbose=verbose):
            if console.is_terminal:
                status.update(line)
            if is_news and (verbose or not console.is_terminal):
                console.print(line, markup=False)


def _format_progress(
    steps: Iterable[ComparisonProgress], model_count: int, *, verbose: bool
) -> Iterator[tuple[str, bool]]:
    """Yield each step as a line, and whether it is worth a line of its own."""
    spoke, doing, seen, held = 0.0, "", [], ""
    began = time.monotonic()
    for told in steps:
        if told.activity == "learning" and told.model_name not in seen:
            seen.append(told.model_name)
            held = ""
        point = told.point
        if point is not None and point.held_out_score is not None:
            held = f"  held-out {point.held_out_score.loss:.3f} nats a token"
        line = f"{len(seen)}/{model_count}  {told.model_name}: {told.activity}"
        if point is not None:
            loss = f"  loss {point.loss:.3f}" if point.loss is not None else ""
            line += f"  {100 * told.fraction_done:.0f} %{loss}{held}"
        now = time.monotonic()
        is_news = (
            told.model_name + told.activity != doing or now - spoke > PLAIN_LINE_SECONDS
        ) or (verbose and point is not None and point.held_out_score is not None)
        if is_news:
            spoke, doing = now, told.model_name + told.activity
        yield f"{line}  ({format_duration(now - began)})", is_news


def _make_table(comparison: Comparison) -> Table:
    """Set the results in a table that a terminal of 80 columns holds."""
    from rich import box
    from rich.table import Table

    unit = comparison.unit
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("rung", no_wrap=True)
    for title in ("weights", "tokens/s", "learnt\nfrom", f"bits a {unit}\nheld out",
                  f"bits a {unit}\ntest", "nats a\ntoken"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for result in comparison.results:
        table.add_row(*_make_row(result))
    if any(result.fault for result in comparison.results):
        table.caption = "! broke down there: its best weights before that are scored"
    return table


def _make_row(result: ModelResult) -> Iterator[str]:
    from musicgen.compare.report import format_bits, select_score

    yield result.name
    yield f"{result.parameters:,}"
    yield (
        f"{result.tokens_per_second:,.0f}"
        if result.tokens_per_second < 1e6
        else f"{result.tokens_per_second / 1e6:.1f} M"
    )
    yield f"{result.tokens:,}{'!' if result.fault else ''}"
    yield _format_score(result.valid)
    yield _format_score(result.test)
    yield format_bits(select_score(result).loss)


def _format_score(score: HeldOutScore | None) -> str:
    from musicgen.compare.comparison import confidence_interval
    from musicgen.compare.report import format_bits

    if score is None:
        return "none"
    low, high = confidence_interval(score)
    return f"{format_bits(score.bits_per_note)}\n{format_bits(low, 2)} to {format_bits(high, 2)}"
