"""Figures of the comparison: gradient norms, gradient decay over distance, half-lives, bars.

They share colours and line styles with `training.plots`. Colours are those of Okabe and Ito (2008),
which colour-blind readers can tell apart; in grey, the dashes differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from musicgen.training.plots import (
    BLACK,
    BLUE,
    HEIGHT,
    RED,
    SKY,
    STYLE_SETTINGS,
    Picture,
    Style,
    add_legend,
    choose_styles,
    escape_label,
)

if TYPE_CHECKING:  # to draw takes no torch
    from musicgen.compare.diagnostics import GradientDecay, GradientNorms, HalfLives


LAYER_DASHES: Final = ("-", (0, (6, 1.5)), (0, (1.5, 1)))
MIN_SHARE_DRAWN: Final = 1e-9
MEDIAN_BINS: Final = 40  # of a noisy curve, of which the medians are drawn
MAX_BARS_DRAWN, MAX_IDS_DRAWN = 256, 4096  # longer than any tune of the books


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One row of a bar chart, with its interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def plot_gradient_decay(
    panels: Mapping[str, Sequence[GradientDecay]],
    *,
    layer: int = -1,
    title: str = "How far back an error is felt",
) -> Picture:
    """Draw the gradient's norm by distance, on a log axis: one line a cell, one panel a title.

    Args:
        panels: as {"before training": [fade of rnn, fade of lstm], "after training": [...]}; one
            without fades is left out.
        layer: which layer's state; -1 is the last one's.
        title: stands above.
    """
    shown = {name: fades for name, fades in panels.items() if fades}

    def draw(figure: Figure) -> None:
        for axes, (name, fades) in zip(
            make_panel_row(figure, len(shown)), shown.items(), strict=True
        ):
            axes.set_title(escape_label(name), loc="left")
            for fade, style in zip(
                fades, choose_styles([fade.cell for fade in fades]), strict=True
            ):
                draw_decay_curve(axes, fade, layer, style)
            axes.set(xlabel="distance, in ids", yscale="log", xmargin=0)
            axes.xaxis.set_major_locator(MaxNLocator(max(8 // len(shown), 2), integer=True))
        share_scale(figure, [fade for fades in shown.values() for fade in fades], layer)
        add_legend(figure, *figure.axes)

    return Picture(title, draw, height=4.2)


def draw_decay_curve(axes: Axes, decay: GradientDecay, layer: int, style: Style) -> None:
    """Draw one cell's curve, and about it what eight positions of ten lie in."""
    axes.fill_between(
        decay.distances, decay.low[layer], decay.high[layer], color=style["color"], alpha=0.13, lw=0
    )
    axes.plot(decay.distances, decay.mean[layer], label=escape_label(decay.cell), **style)


def share_scale(figure: Figure, decays: Sequence[GradientDecay], layer: int) -> None:
    """Give all panels the same scale, and the first one its name."""
    if not decays:
        return
    lowest = min(float(fade.mean[layer].min()) for fade in decays)
    highest = max(float(fade.high[layer].max()) for fade in decays)
    for axes in figure.axes:
        axes.set_ylim(max(lowest / 2, MIN_SHARE_DRAWN), max(highest * 2, 3))
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    figure.axes[0].set_ylabel("norm of the gradient,\nas a share of that at distance 0")


def plot_half_lives(
    cell_half_lives: Sequence[HalfLives], *, title: str = "How long the units remember"
) -> Picture:
    """Draw the half-lives of all units, sorted, one line a layer; in bars where there are bars."""
    in_bars = all(memory.ids_per_bar for memory in cell_half_lives)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for memory, style in zip(
            cell_half_lives, choose_styles([m.cell for m in cell_half_lives]), strict=True
        ):
            for layer, lives in enumerate(memory.bars if in_bars else memory.ids):
                dash = {"linestyle": LAYER_DASHES[layer % len(LAYER_DASHES)]}
                label = escape_label(f"{memory.cell}, layer {layer + 1}")
                axes.plot(percentiles(len(lives)), lives, label=label, **style | dash)
        axes.set(xlabel="units, from the shortest memory to the longest (%)", xlim=(0, 100))
        axes.set_ylabel(f"half-life, in {'bars' if in_bars else 'ids'}")
        scale_by_doubling(axes, MAX_BARS_DRAWN if in_bars else MAX_IDS_DRAWN)
        add_legend(figure, axes)

    return Picture(title, draw)


def percentiles(count: int) -> np.ndarray:
    """Return where each of sorted values stands among them, in percent."""
    return (np.arange(count) + 0.5) / count * 100


def scale_by_doubling(axes: Axes, longest: int) -> None:
    """Scale a half-life's axis by powers of two, up to what no tune is long enough to show."""
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, longest))
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_power_of_two(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def format_power_of_two(value: float) -> str:
    """Write 8 as "8" and 0.125 as "1/8"."""
    return f"{value:.0f}" if value >= 1 else f"1/{1 / value:.0f}"


def plot_gradient_norms(
    runs: Mapping[str, GradientNorms], *, title: str = "The gradient's norm, before clipping"
) -> Picture:
    """Draw the norm at each update, with clipping and without; one panel a run, as {"rnn": ...}."""

    def draw(figure: Figure) -> None:
        for axes, (name, run) in zip(make_panel_grid(figure, len(runs)), runs.items(), strict=True):
            axes.set_title(escape_label(name), loc="left")
            draw_norms(axes, run)
        for axes in figure.axes:
            axes.set(yscale="log", xmargin=0, xlabel="updates")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.label_outer()
        figure.supylabel("norm of the gradient", fontsize=STYLE_SETTINGS["axes.labelsize"])
        add_legend(figure, *figure.axes)

    return Picture(title, draw, height=HEIGHT if len(runs) < 4 else 5.4)


def draw_norms(axes: Axes, run: GradientNorms) -> None:
    """Draw both runs' norms and the threshold; a cross where the run without it ended."""
    free = run.unclipped[np.isfinite(run.unclipped)]
    for values, name, color in ((free, "not clipped", RED), (run.clipped, "clipped", BLUE)):
        axes.plot(np.arange(1, len(values) + 1), values, color=color, lw=0.6, alpha=0.35)
        axes.plot(*binned_medians(values), label=name, color=color)
    axes.axhline(run.clip, color=BLACK, lw=1, ls=(0, (4, 2)), label="threshold", zorder=3)
    if 0 < len(free) < len(run.unclipped):
        axes.plot(
            len(free), free[-1], "X", color=RED, mec="white", ms=9, label="diverged", zorder=4
        )


def binned_medians(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where stretches of the updates have their middles, and the medians of their values."""
    updates = np.arange(1, len(values) + 1)
    count = min(len(values), MEDIAN_BINS) or 1
    pairs = zip(np.array_split(updates, count), np.array_split(values, count), strict=True)
    found = [(np.mean(where), np.median(part)) for where, part in pairs if len(part)]
    middles, halves = np.array(found, float).reshape(-1, 2).T
    return middles, halves


def plot_bars(
    rows: Sequence[ChartBar], *, title: str = "Held-out tunes", x_label: str = "bits a note"
) -> Picture:
    """Draw a horizontal bar for each row, with its interval, in the order given."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh(places, [bar.value for bar in rows], height=0.62, color=SKY)
        for place, bar in zip(places, rows, strict=True):
            draw_interval(axes, place, bar)
        axes.set_yticks(places, [escape_label(bar.name) for bar in rows])
        axes.invert_yaxis()
        axes.tick_params("y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=escape_label(x_label), xlim=(0, axes.get_xlim()[1] * 1.06))

    return Picture(title, draw, height=1.2 + 0.34 * len(rows))


def draw_interval(axes: Axes, y: float, bar: ChartBar) -> None:
    """Draw a bar's interval, and write its value behind it."""
    low = bar.value if bar.low is None else bar.low
    high = bar.value if bar.high is None else bar.high
    if high > low:
        axes.plot([low, high], [y, y], color=BLACK, lw=1.3, marker="|", ms=7)
    axes.annotate(
        f"{bar.value:.2f}", (max(high, bar.value), y), (6, 0), textcoords="offset points",
        va="center",
    )  # fmt: skip


def make_panel_row(figure: Figure, count: int) -> list[Axes]:
    """Return panels beside each other, with one scale."""
    return list(figure.subplots(1, max(count, 1), sharey=True, squeeze=False).flat)[:count]


def make_panel_grid(figure: Figure, count: int) -> list[Axes]:
    """Return panels in a row, or from four on in two columns; what is over is left empty."""
    columns = max(count, 1) if count < 4 else 2
    panels = figure.subplots(
        math.ceil(count / columns) or 1, columns, sharex=True, sharey=True, squeeze=False
    )
    for empty in panels.flat[count:]:
        empty.remove()
    return list(panels.flat[:count])
