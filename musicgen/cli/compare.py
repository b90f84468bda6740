"""`musicgen compare`: sequence models, from a fixed window to the LSTM, compared on tunes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from musicgen.cli.command_options import (
    MINUTES,
    OutputPath,
    ParsedText,
    WholeNumber,
    device_option,
    quiet_option,
)
from musicgen.cli.output import PLAIN_LINE_SECONDS, format_count, format_duration
from musicgen.cli.tune_sources import DEFAULT_SOURCE, load_or_build_dataset
from musicgen.config import CELLS
from musicgen.errors import InvalidValue

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from musicgen.compare.comparison import (
        Comparison,
        ComparisonOptions,
        ComparisonProgress,
        ModelResult,
    )
    from musicgen.evaluation.heldout_score import HeldOutScore

_TABLE_HEADINGS: Final = (
    "params",
    "tokens/s",
    "training\ntokens",
    "bits/{unit}\nvalidation",
    "bits/{unit}\ntest",
    "nats/\ntoken",
)


def _parse_cells(text: str) -> tuple[str, ...]:
    """Parse comma-separated names of cells. Raises InvalidValue for an unknown one."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in CELLS]
    if unknown:
        raise InvalidValue(f"cell {unknown[0]!r} is unknown: choose one of {', '.join(CELLS)}")
    return names


@click.command()
@click.argument("sources", metavar="[SOURCE ...]", nargs=-1)
@click.option(
    "--minutes",
    type=MINUTES,
    default=24.0,
    show_default=True,
    help="Total training time, divided evenly; converted to tokens from measured speed.",
)
@click.option(
    "--tokens",
    type=WholeNumber(1, 10**15),
    help="Training tokens per network, instead of --minutes; makes the results reproducible.",
)
@click.option(
    "--cells",
    type=ParsedText("NAME,NAME", _parse_cells),
    default="rnn,irnn,gru,lstm",
    show_default=True,
    help="Recurrent cells to compare.",
)
@click.option(
    "--parameters",
    type=WholeNumber(10_000, 50_000_000),
    default=500_000,
    show_default=True,
    help="Approximate number of parameters of each network.",
)
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="Random seed.",
)
@device_option
@click.option(
    "--out",
    type=OutputPath(path_type=Path, dir_okay=False),
    default=Path("ladder.html"),
    show_default=True,
    help="HTML report to write, with tables, plots and explanations.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results to stdout as JSON.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print each validation score.")
def compare(
    sources: tuple[str, ...],
    out: Path,
    as_json: bool,
    force: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Compare sequence models on SOURCEs; by default, on three books of dance tunes.

    All models train on the same tunes, for the same time, with the same number of parameters, and
    predict each next event of held-out tunes:

    \b
    window-4     the last 4 events; forgets everything before
    bag          counts of all past events; loses their order
    window-64    the last 64 events; learns each position separately
    n-gram       counts of what followed the last few events (Kneser-Ney)
    rnn, irnn    weights shared over time; gradients vanish or explode
    gru, lstm    gates choose what to keep

    Each cell is trained again without gradient clipping. The report shows the losses, how far
    gradients reach back, the effect of clipping, and how many bars the gates remember.

    \b
    musicgen compare                            under 30 minutes on two cores
    musicgen compare mytunes/ --minutes 5 --out mine.html
    musicgen compare --minutes 0.5              a quick trial
    """  # noqa: D301 - click reads the backspace character
    from rich.console import Console

    from musicgen.render.report_page import COMPARISON_TITLE, prepare_page

    prepare_page(out, COMPARISON_TITLE, "musicgen compare", force=force)
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    dataset = load_or_build_dataset(sources or (DEFAULT_SOURCE,), None, console)

    from musicgen.compare.comparison import Comparison, ComparisonOptions

    comparison = Comparison(dataset, ComparisonOptions(**options))
    _run_comparison(comparison, console, verbose=verbose)
    _write_report(comparison, sources, out, force=force)
    console.print(f"{out}: open it in a browser", markup=False)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2))


def _write_report(
    comparison: Comparison, sources: tuple[str, ...], out: Path, *, force: bool
) -> None:
    from musicgen.compare.report import render_html_report
    from musicgen.files import write_atomically

    command = _format_command_line(sources, comparison.options)
    page = render_html_report(comparison, command=command)
    write_atomically(out, page.encode(), force=force)


def _format_command_line(sources: tuple[str, ...], options: ComparisonOptions) -> str:
    """Return a command that repeats the comparison."""
    budget = f"--tokens {options.tokens}" if options.tokens else f"--minutes {options.minutes:g}"
    return (
        f"musicgen compare{''.join(f' {source}' for source in sources)} {budget}"
        f" --cells {','.join(options.cells)} --seed {options.seed}"
    )


def _run_comparison(comparison: Comparison, console: Console, *, verbose: bool) -> None:
    """Train and score the models; print the split, the progress and a table of results."""
    split = comparison.dataset
    console.print(
        f"train {format_count(len(split.train), 'tune')}, validation {len(split.valid):,},"
        f" test {len(split.test):,}"
    )
    if not split.test:
        console.print("too few tunes for a test part: models are compared on the validation part")
    _show_progress(comparison.run(), len(comparison.list_model_names()), console, verbose=verbose)
    console.print(_make_table(comparison))


def _show_progress(
    steps: Iterable[ComparisonProgress], model_count: int, console: Console, *, verbose: bool
) -> None:
    """Show the progress as a live line on a terminal, as plain lines elsewhere."""
    with console.status("") as status:
        for line, is_news in _format_progress(steps, model_count, verbose=verbose):
            if console.is_terminal:
                status.update(line)
            if is_news and (verbose or not console.is_terminal):
                console.print(line, markup=False)


def _format_progress(
    steps: Iterable[ComparisonProgress], model_count: int, *, verbose: bool
) -> Iterator[tuple[str, bool]]:
    """Yield each step as a line, and whether the line is worth printing in a log."""
    start_time, last_line_time, last_stage = time.monotonic(), 0.0, ("", "")
    started_models: set[str] = set()
    score_text = ""
    for step in steps:
        if step.activity == "learning" and step.model_name not in started_models:
            started_models.add(step.model_name)
            score_text = ""
        score = step.point.held_out_score if step.point is not None else None
        if score is not None:
            score_text = f"  validation {score.loss:.3f} nats per token"
        line = f"{len(started_models)}/{model_count}  {step.model_name}: {step.activity}"
        if step.point is not None:
            loss_text = "" if step.point.loss is None else f"  loss {step.point.loss:.3f}"
            line += f"  {100 * step.fraction_done:.0f} %{loss_text}{score_text}"
        now, stage = time.monotonic(), (step.model_name, step.activity)
        is_due = stage != last_stage or now - last_line_time > PLAIN_LINE_SECONDS
        is_news = is_due or (verbose and score is not None)
        if is_news:
            last_line_time, last_stage = now, stage
        yield f"{line}  ({format_duration(now - start_time)})", is_news


def _make_table(comparison: Comparison) -> Table:
    """Return the results as a table at most 80 columns wide."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in _TABLE_HEADINGS:
        table.add_column(heading.format(unit=comparison.unit), justify="right", no_wrap=True)
    for result in comparison.results:
        table.add_row(*_make_row(result))
    if any(result.fault for result in comparison.results):
        table.caption = "! diverged: scored with its best weights before that"
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
