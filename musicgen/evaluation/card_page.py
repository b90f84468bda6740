"""The page of a score card: verdicts, plots over those of real tunes, and tunes engraved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure as Canvas

from musicgen.errors import InvalidValue
from musicgen.evaluation.drum_figures import DRUM_FIGURES
from musicgen.evaluation.figures import Figure
from musicgen.evaluation.form import MATRIX_BARS, MAX_LAG, average_likeness, find_cadences
from musicgen.evaluation.likelihood import NETWORK_NOTE
from musicgen.evaluation.score_card import Column, ScoreCard
from musicgen.evaluation.statistics import FEATURES
from musicgen.music.arrays import FloatArray
from musicgen.music.general_midi import KIT_GROUPS
from musicgen.music.score import Score
from musicgen.music.tune_content import LIKENESS_KINDS
from musicgen.render.plots import (
    BLACK,
    Line,
    Picture,
    add_legend,
    choose_styles,
    escape_label,
    plot_loss_curves,
)
from musicgen.render.report_page import SCORE_CARD_TITLE, format_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from musicgen.evaluation.likelihood import LikelihoodReport
    from musicgen.evaluation.score_card import Column, ScoreCard, TuneSet

_PANEL_TITLES: Final = {
    "bar": "duration and pitch", "rhythm": "rhythm", "pitch": "pitch", "contour": "contour",
}  # fmt: skip
_HISTOGRAMS: Final = {  # feature -> value of its first bin, label of the axis
    "pitch": (-12, "semitones above the tonic"),
    "interval": (-12, "semitones to the next note"),
    "duration": (0, "duration in 16th notes"),
    "onset": (0, "onset in the bar, in 16th notes"),
    "bar_rhythm": (0, "notes per bar"),
}
_KIT_KEYS: Final = [d.key for d in DRUM_FIGURES if d.key.startswith("kit_share")]
_LONGEST_SECTION: Final = 33  # bars; longer ones are counted here
_TALL: Final = 5.6  # inches: two rows of panels
_HEADINGS: Final = ("figure", "tunes", "real", "95 % of real", "verdict")
_MODEL_HEADINGS: Final = ("figure", "held-out tunes", "95 % interval")


def list_pictures(card: ScoreCard) -> list[Picture]:
    """Return the plots of a card in the order of the page."""
    pictures = [
        plot_likeness(card),
        plot_matrices(card),
        plot_sections(card),
        plot_cadences(card),
        plot_histograms(card),
    ]
    kit = [plot_kit(card)] if any(f.key in _KIT_KEYS for f in card.columns[0].figures) else []
    return [*(pictures if card.real.has_melody else []), *kit]


def plot_learning_curve(likelihood: LikelihoodReport) -> Picture:
    """Plot the bits per note of models after training on more and more tunes."""
    points = likelihood.learning_curve
    lines = [
        Line(
            model,
            [point.training_tunes for point in points if point.model == model],
            [point.bits_per_note for point in points if point.model == model],
        )
        for model in dict.fromkeys(point.model for point in points)
    ]
    return plot_loss_curves(
        lines,
        title="Learning curve",
        x_label="training tunes",
        y_label=f"bits per {likelihood.units.unit}",
    )


def _get_sets(card: ScoreCard) -> dict[str, TuneSet]:
    """Return the sets of tunes by name, the real ones first."""
    return {
        f"real ({card.real.name})": card.real,
        **{column.tunes.name: column.tunes for column in card.columns},
    }


def plot_likeness(card: ScoreCard) -> Picture:
    """Plot how like bars are to those 1 to MAX_LAG bars before, with the band of real tunes."""
    lags = range(1, MAX_LAG + 1)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(2, 2, sharex=True)
        for axes, kind in zip(panels.flat, LIKENESS_KINDS, strict=True):
            curves = [[column.get_figure(f"{kind}_likeness.{lag}") for lag in lags]
                      for column in card.columns]  # fmt: skip
            first = curves[0]
            axes.fill_between(lags, [f.low for f in first], [f.high for f in first],
                              color=BLACK, alpha=0.12, linewidth=0)  # fmt: skip
            rows = [[figure.real for figure in first],
                    *([figure.value for figure in curve] for curve in curves)]  # fmt: skip
            _draw_lines(axes, lags, dict(zip(_get_sets(card), rows, strict=True)))
            axes.set_title(_PANEL_TITLES[kind], loc="left")
            axes.set_xticks([1, 2, 4, 8, 12, 16])
        for axes in panels[1]:
            axes.set_xlabel("full bars before")
        add_legend(canvas, *panels.flat)

    return Picture("Likeness of a bar to earlier ones", draw, height=_TALL)


def _draw_lines(axes: Axes, x: Sequence[float], lines: dict[str, Sequence[float]]) -> None:
    for (name, y), style in zip(lines.items(), choose_styles(list(lines)), strict=True):
        axes.plot(x, y, label=escape_label(name), **style)


def plot_matrices(card: ScoreCard) -> Picture:
    """Plot the likeness of each pair of the first MATRIX_BARS full bars, averaged over tunes."""
    sets = _get_sets(card)
    matrices = {name: average_likeness(tunes.contents, "bar") for name, tunes in sets.items()}

    def draw(canvas: Canvas) -> None:
        panels = np.atleast_1d(canvas.subplots(1, len(matrices), sharey=True))
        edges = np.arange(MATRIX_BARS + 1) + 0.5
        for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
            np.fill_diagonal(matrix, np.nan)
            mesh = axes.pcolormesh(edges, edges, matrix, vmin=0, vmax=0.6, cmap="viridis")
            axes.set_title(escape_label(name), loc="left")
            axes.set(
                aspect="equal",
                xlabel="full bar",
                xticks=range(1, MATRIX_BARS, 8),
                yticks=range(1, 33, 8),
            )
            axes.invert_yaxis()
            axes.grid(visible=False)
        scale = canvas.colorbar(mesh, ax=list(panels), shrink=0.7)
        assert scale.solids is not None
        scale.solids.set_rasterized(False)  # a raster image would be loaded from a data: address

    return Picture("Self-similarity: likeness of bars i and j", draw, height=2.9)


def plot_sections(card: ScoreCard) -> Picture:
    """Plot the distribution of section lengths in bars."""
    shares = {name: _count_sections(tunes) for name, tunes in _get_sets(card).items()}
    return _plot_bars("Length of sections", shares, "bars", 1, [4, 8, 12, 16, 20, 24, 28, 32])


def _count_sections(tunes: TuneSet) -> FloatArray:
    """Return the share of sections of 1, 2, ... bars, (_LONGEST_SECTION,) float64."""
    counts = Counter(
        min(max(section.length, 1), _LONGEST_SECTION)
        for content in tunes.contents
        if content.has_repeats
        for section in content.sections
    )
    total = max(1, counts.total())
    return np.array([counts[length] / total for length in range(1, _LONGEST_SECTION + 1)])


def plot_cadences(card: ScoreCard) -> Picture:
    """Plot the scale degrees on which phrases of four bars end."""
    shares = {}
    for name, tunes in _get_sets(card).items():
        degrees = [c.degree for content in tunes.contents for c in find_cadences(content)]
        counts = np.bincount(np.array(degrees, dtype=np.int64), minlength=12)
        shares[name] = counts / max(1, counts.sum())
    return _plot_bars("Last notes of phrases", shares, "semitones above the tonic", 0, range(12))


def _plot_bars(
    title: str, shares: dict[str, FloatArray], label: str, first: int, ticks: Sequence[int]
) -> Picture:
    """Plot shares as bars side by side; `first` is the value of the first share."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        width = 0.8 / len(shares)
        for number, ((name, row), style) in enumerate(
            zip(shares.items(), choose_styles(list(shares)), strict=True)
        ):
            x = first + np.arange(len(row)) + (number - (len(shares) - 1) / 2) * width
            axes.bar(x, 100 * row, width, label=escape_label(name), color=style["color"])
        axes.set(xlabel=label, ylabel="%", xticks=ticks)
        add_legend(canvas, axes)

    return Picture(title, draw, height=3.0)


def plot_histograms(card: ScoreCard) -> Picture:
    """Plot the distributions of single notes, averaged over tunes."""
    features = {feature.key: feature.measure for feature in FEATURES}

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(3, 2)
        for axes, (key, (first, label)) in zip(panels.flat, _HISTOGRAMS.items(), strict=False):
            rows = {name: _average(tunes, features[key]) for name, tunes in _get_sets(card).items()}
            x = first + np.arange(len(next(iter(rows.values()))))
            _draw_lines(
                axes, x.tolist(), {name: (100 * row).tolist() for name, row in rows.items()}
            )
            axes.set(xlabel=label, ylabel="%")
        panels.flat[-1].set_axis_off()
        add_legend(canvas, *panels.flat)

    return Picture("Notes", draw, height=7.0)


def _average(tunes: TuneSet, measure: Callable[..., FloatArray]) -> FloatArray:
    rows = [measure(content) for content in tunes.contents if content.has_melody]
    mean: FloatArray = np.mean(rows, axis=0)
    return mean


def plot_kit(card: ScoreCard) -> Picture:
    """Plot the share of drum hits of each group of the kit."""
    rows = [[column.get_figure(key) for key in _KIT_KEYS] for column in card.columns]
    values = [[f.real for f in rows[0]], *([f.value for f in row] for row in rows)]
    shares = {name: np.array(row) for name, row in zip(_get_sets(card), values, strict=True)}
    picture = _plot_bars("Drum hits", shares, "group of the kit", 0, range(len(KIT_GROUPS)))

    def draw(canvas: Canvas) -> None:
        picture.draw(canvas)
        canvas.axes[0].set_xticklabels(KIT_GROUPS)

    return replace(picture, draw=draw)


def find_extremes(column: Column) -> tuple[int, int]:
    """Return the indexes of the most and the least typical tune of a set."""
    return int(np.argmin(column.distances)), int(np.argmax(column.distances))


def render_card(card: ScoreCard, *, command: str = "musicgen evaluate") -> str:
    """Render a score card as an HTML page; `command` is shown in the footer."""
    body = [f"<h1>{SCORE_CARD_TITLE}</h1>", _render_introduction(card)]
    if card.model_figures:
        body += ["<h2>How well the model predicts real tunes</h2>"]
        shown = [figure.format_model_row() for figure in card.model_figures if not figure.is_detail]
        body += _render_rows(_MODEL_HEADINGS, [(row, False) for row in shown])
    if card.likelihood and card.likelihood.learning_curve:
        body.append(f"<figure>{plot_learning_curve(card.likelihood).to_svg()}</figure>")
        body.append(f'<p class="soft">{NETWORK_NOTE}</p>')
    for column in card.columns:
        body += _render_column(column)
    body.append("<h2>Form and notes</h2>")
    body += [f"<figure>{picture.to_svg()}</figure>" for picture in list_pictures(card)]
    for column in card.columns:
        body += _render_extremes(column)
    body.append(f"<footer><p>Made by <code>{escape(command)}</code>.</p></footer>")
    return format_page(SCORE_CARD_TITLE, "\n".join(body))


def _render_introduction(card: ScoreCard) -> str:
    names = " and ".join(f"{len(c.tunes):,} tunes, {c.tunes.name}," for c in card.columns)
    return (
        f"<p>{escape(names)} beside the {len(card.real):,} real tunes of {escape(card.real.name)}."
        " A figure is inside if 95 of 100 sets of as many real tunes would score as near to the"
        " real value; otherwise the distance to that range is given.</p>"
    )


def _render_column(column: Column) -> Iterator[str]:
    shown = [figure for figure in column.figures if not figure.is_detail]
    known = [figure for figure in shown if figure.verdict != "not known"]
    inside = sum(figure.is_inside for figure in known)
    yield f"<h2>{escape(column.tunes.name)}: {inside} of {len(known)} figures inside</h2>"
    yield from _render_table(shown)
    if column.judgement.telltales:
        yield "<p>What gives these tunes away, the clearest first:</p><ul>"
        yield from (f"<li>{escape(str(line))}</li>" for line in column.judgement.telltales)
        yield "</ul>"
    yield from (f'<p class="soft">{escape(note)}</p>' for note in column.notes)


def _render_table(figures: Sequence[Figure]) -> Iterator[str]:
    rows = [(figure.format_row(), figure.verdict == "inside") for figure in figures]
    yield from _render_rows(_HEADINGS, rows)


def _render_rows(
    headings: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]
) -> Iterator[str]:
    """Render rows of texts, some of them marked as good."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    yield f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>'
    for texts, is_good in rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        style = ' class="best"' if is_good else ""
        yield f"<tr{style}>{cells}</tr>"
    yield "</tbody></table></div>"


def _render_extremes(column: Column) -> Iterator[str]:
    """Engrave the tunes whose figures are nearest to and farthest from those of real tunes."""
    for name, index in zip(("most", "least"), find_extremes(column), strict=True):
        score = column.tunes.scores[index]
        yield f"<h2>{escape(column.tunes.name)}: the {name} typical tune</h2>"
        yield (
            f'<p class="soft">Tune {index + 1}: its figures are {column.distances[index]:.2f}'
            " standard deviations from the mean of real tunes, on average.</p>"
        )
        yield f'<div class="wide">{_engrave(score)}</div>'


def _engrave(score: Score) -> str:
    from musicgen.notation.score_images import engrave

    try:
        return engrave(score)
    except InvalidValue as fault:
        return f"<p>{escape(str(fault))}</p>"
