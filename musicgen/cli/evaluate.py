"""`musicgen evaluate`: how tunes compare with real ones, figure by figure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import click

from musicgen.cli.command_options import OUT_PATH, SEED, ParsedText, WholeNumber, quiet_option
from musicgen.errors import InvalidValue
from musicgen.tokens.song_form import parse_form

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from musicgen.cli.tune_sources import RealTunes
    from musicgen.evaluation.figures import Figure
    from musicgen.evaluation.likelihood import BaselineScore, LikelihoodReport
    from musicgen.evaluation.live_figures import LiveCard
    from musicgen.evaluation.score_card import ScoreCard, TuneSet

# How well a model predicts held-out tunes, and the baselines on the same tunes as text.
Likelihoods: TypeAlias = "tuple[()] | tuple[LikelihoodReport, tuple[BaselineScore, ...]]"

_DEFAULT_REFERENCE: Final = "folk"
_MOST_TUNES: Final = 5000
_HEADINGS: Final = ("tunes", "real", "95 % of real", "verdict")
_DEFAULT_COUNT: Final = 500
_DEFAULT_PERFORMANCES: Final = 32


@click.command()
@click.argument("target", metavar="MODEL|FOLDER")
@click.option(
    "--against",
    metavar="SOURCE",
    help="Real tunes to judge a FOLDER by: a model or data set, of which one part is taken, a"
    f" corpus, or files.  [default: {_DEFAULT_REFERENCE}]",
)
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    show_default=True,
    help="Held-out part to judge by; read test once, last.",
)
@click.option(
    "--data",
    metavar="SOURCE",
    help="Tunes that the model was trained on, as files or a data set, where it is not a corpus.",
)
@click.option(
    "--count",
    type=WholeNumber(4, _MOST_TUNES),
    show_default=f"{_DEFAULT_COUNT}; {_DEFAULT_PERFORMANCES} performances",
    help="Tunes to sample from a model, per form.",
)
@click.option(
    "--form",
    type=ParsedText("FORM", parse_form),
    help="Form of the sampled tunes.  [default: free, then the model's default form]",
)
@click.option(
    "--curve",
    is_flag=True,
    help="Also fit the baselines to parts of the corpus, and train a small network on them; takes"
    " minutes.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Random seed.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--html", type=OUT_PATH, metavar="FILE", help="Write a page with plots and tunes.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Also print the figures of the page's plots.")
def evaluate(
    target: str,
    against: str | None,
    split: str,
    data: str | None,
    count: int | None,
    form: str | None,
    curve: bool,
    seed: int,
    as_json: bool,
    html: Path | None,
    force: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare the tunes of a model or a folder with real ones, figure by figure.

    Each figure has a verdict: inside the range of 95 % of as many real tunes, or outside, and by
    how much.

    \b
    musicgen evaluate folk                       its tunes beside its held-out ones
    musicgen evaluate folk --html card.html      with plots, and tunes engraved
    musicgen evaluate mytunes/ --against folk    files of any program: .abc .mid .musicxml
    musicgen evaluate folk --json                keys: sections_8, bar_likeness, ...
    musicgen evaluate live --data mymidi/        a model of performances: figures per minute
    """  # noqa: D301 - click reads the backspace character
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    if html is not None:
        from musicgen.render.report_page import SCORE_CARD_TITLE, prepare_page

        prepare_page(html, SCORE_CARD_TITLE, "musicgen evaluate", force=force)
    is_live = _writes_performances(target)
    count = count or (_DEFAULT_PERFORMANCES if is_live else _DEFAULT_COUNT)
    options = _Options(target, against, split, data, count, form, curve, seed)
    if is_live:
        live_card = _make_live_card(options, html, console)
        if as_json:
            click.echo(json.dumps({**live_card.to_json(), "command": options.format_command()}))
        elif not quiet:
            _print_live_card(live_card, with_details=verbose)
        return
    tunes = _collect_tunes(options, console)

    from musicgen.evaluation.score_card import make_score_card

    with console.status("measuring"):
        card = make_score_card(tunes.sets, tunes.real.tunes, tunes.real.index, *tunes.likelihoods)
    command = options.format_command()
    if html is not None:
        _write_page(card, html, command, force=force)
        console.print(f"{html}: open it in a browser", markup=False)
    if as_json:
        click.echo(json.dumps({**card.to_json(), "left_out": tunes.left_out, "command": command}))
    elif not quiet:
        _print_card(card, with_details=verbose)


@dataclass(frozen=True, slots=True)
class _Options:
    """What is evaluated, and by what: the options of the command that decide the figures."""

    target: str
    against: str | None
    split: str
    data: str | None
    count: int
    form: str | None
    curve: bool
    seed: int

    def format_command(self) -> str:
        """Return the command that repeats the evaluation."""
        words = ["musicgen", "evaluate", self.target]
        for name in ("against", "split", "data", "count", "form", "seed"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join([*words, "--curve"] if self.curve else words)


@dataclass(frozen=True, slots=True, eq=False)
class _CollectedTunes:
    """The tunes to judge, those to judge by, and what was measured of a model."""

    sets: list[TuneSet]
    real: RealTunes
    left_out: dict[str, int] = field(default_factory=dict)  # files that were not read, by reason
    likelihoods: Likelihoods = ()  # () for a folder


def _collect_tunes(options: _Options, console: Console) -> _CollectedTunes:
    """Sample a model, or read a folder, and load the real tunes.

    Raises InvalidValue for an option of models where the target holds tunes, or others are read.
    """
    from musicgen.cli import tune_sources as sources

    target, against, form = options.target, options.against, options.form
    model = sources.open_model(target)
    if model is None:
        for name, value in (("--form " + str(form), form), ("--curve", options.curve)):
            if value:
                raise InvalidValue(f"{name}: {target} holds tunes, not a model; leave it out")
        tunes, left_out = sources.read_tunes(target, console)
        reference = against or _DEFAULT_REFERENCE
        real = sources.load_real_tunes(reference, options.split, options.data, console)
        return _CollectedTunes([tunes], real, left_out)
    sources.check_has_bars(model)
    if options.curve and against is not None:
        raise InvalidValue("--curve: it needs the training part of the model; leave --against out")
    if against is None:
        real = sources.load_held_out_tunes(model, options.split, options.data, console)
    else:
        real = sources.load_real_tunes(against, options.split, options.data, console)
    likelihoods = sources.measure_likelihood(model, real, with_curve=options.curve, console=console)
    sets = list(sources.sample_forms(model, form, options.count, options.seed, console))
    return _CollectedTunes(sets, real, likelihoods=likelihoods)


def _writes_performances(target: str) -> bool:
    from musicgen.cli import tune_sources as sources
    from musicgen.tokens.performance import PerformanceCodec

    model = sources.open_model(target)
    return model is not None and isinstance(model.codec, PerformanceCodec)


def _make_live_card(options: _Options, html: Path | None, console: Console) -> LiveCard:
    """Compare the performances of a model with real ones. Raises InvalidValue for other options."""
    from musicgen.cli import tune_sources as sources

    given = {"html": html, "against": options.against, "form": options.form, "curve": options.curve}
    for name in (name for name, value in given.items() if value):
        raise InvalidValue(
            f"--{name}: {options.target} writes performances, which have no bars and no page; leave"
            " it out"
        )
    model = sources.open_model(options.target)
    assert model is not None
    count = options.count
    return sources.make_live_card(model, options.split, options.data, count, options.seed, console)


def _print_live_card(card: LiveCard, *, with_details: bool) -> None:
    """Print how well the model predicts performances, and a table of minutes."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=True)
    if card.likelihood:
        figures = [figure for figure in card.model_figures if with_details or not figure.is_detail]
        tunes = len(card.likelihood.units.notes)
        out.print(_make_model_table(f"{tunes:,} held-out performances", figures))
    title = (
        f"{card.sampled.name}: {len(card.sampled.minutes)} minutes beside"
        f" {len(card.real.minutes)} real ones, of {card.real.name}"
    )
    rows = [(*f.format_row(), f"{card.shares_inside[f.key]:.0%}") for f in card.figures]
    out.print(_make_rows(title, (*_HEADINGS, "minutes"), rows))
    for line in card.notes:
        out.print(f"  {line}", markup=False)


def _write_page(card: ScoreCard, path: Path, command: str, *, force: bool) -> None:
    from musicgen.evaluation.card_page import render_card
    from musicgen.files import write_atomically

    write_atomically(path, render_card(card, command=command).encode(), force=force)


def _print_card(card: ScoreCard, *, with_details: bool) -> None:
    """Print a table per set of tunes, and what gives its tunes away."""
    from rich.console import Console

    from musicgen.evaluation.likelihood import NETWORK_NOTE

    def select(figures: Sequence[Figure]) -> list[Figure]:
        return [figure for figure in figures if with_details or not figure.is_detail]

    out = Console(highlight=False, soft_wrap=True)
    if card.model_figures:
        figures = select(card.model_figures)
        out.print(_make_model_table(f"{len(card.real):,} held-out tunes", figures))
    if card.likelihood and card.likelihood.learning_curve:
        out.print(_make_curve_table(card.likelihood))
        out.print(f"  {NETWORK_NOTE}")
    for column in card.columns:
        name, count = column.tunes.name, len(column.tunes)
        title = f"{name}: {count:,} tunes beside {len(card.real):,} real ones"
        out.print(_make_table(title, select(column.figures)))
        for line in (*column.notes, *map(str, column.judgement.telltales)):
            out.print(f"  {line}", markup=False)


def _make_model_table(title: str, figures: Sequence[Figure]) -> Table:
    """Return measures of a model as a table."""
    rows = [figure.format_model_row() for figure in figures]
    return _make_rows(f"how well the model predicts {title}", ("bits", "95 % interval"), rows)


def _make_curve_table(likelihood: LikelihoodReport) -> Table:
    """Return the learning curve as a table: a row per model, a column per number of tunes."""
    bits = {(p.model, p.training_tunes): p.bits_per_note for p in likelihood.learning_curve}
    models, sizes = (list(dict.fromkeys(column)) for column in zip(*bits, strict=True))
    rows = [(model, *(f"{bits[model, size]:.3f}" for size in sizes)) for model in models]
    title = f"bits per {likelihood.units.unit} by number of training tunes"
    return _make_rows(title, [f"{size:,}" for size in sizes], rows, first="model")


def _make_table(title: str, figures: Sequence[Figure]) -> Table:
    """Return figures as a table at most 80 columns wide."""
    rows = [figure.format_row() for figure in figures]
    return _make_rows(title, _HEADINGS, rows)


def _make_rows(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, first: str = "figure"
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    table.title, table.title_justify = Text(title), "left"
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
