"""Figures of the comparison: gradient norms, gradient decay, half-lives, scores.

They share colours and line styles with `render.plots`. Colours are those of Okabe and Ito (2008),
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
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from musicgen.music.arrays import FloatArray
from musicgen.render.plots import (
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

if TYPE_CHECKING:  # drawing does not need torch
    from musicgen.compare.diagnostics import GradientDecay, GradientNorms, HalfLives


LAYER_DASHES: Final = ("-", (0, (6, 1.5)), (0, (1.5, 1)))
MIN_SHARE_DRAWN: Final = 1e-9
MEDIAN_BINS: Final = 40  # of the medians of a noisy curve
MAX_BARS_DRAWN, MAX_IDS_DRAWN = 256, 4096  # longer than any tune of the corpora


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One row of a bar chart, optionally with an interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def plot_gradient_decay(
    panels: Mapping[str, Sequence[GradientDecay]],
    *,
    layer: int = -1,
    title: str = "Gradient decay over distance",
) -> Picture:
    """Plot gradient norms by distance on a logarithmic axis, one line per cell.

    Args:
        panels: title of each panel and its curves; panels without curves are left out.
        layer: index of the layer; -1 is the last one.
        title: of the figure.
    """
    non_empty = {name: decays for name, decays in panels.items() if decays}

    def draw(figure: Figure) -> None:
        for axes, (name, decays) in zip(
            make_panel_row(figure, len(non_empty)), non_empty.items(), strict=True
        ):
            axes.set_title(escape_label(name), loc="left")
            for decay, style in zip(
                decays, choose_styles([decay.cell for decay in decays]), strict=True
            ):
                draw_decay_curve(axes, decay, layer, style)
            axes.set(xlabel="distance, in ids", yscale="log", xmargin=0)
            axes.xaxis.set_major_locator(MaxNLocator(max(8 // len(non_empty), 2), integer=True))
        share_scale(figure, [decay for decays in non_empty.values() for decay in decays], layer)
        add_legend(figure, *figure.axes)

    return Picture(title, draw, height=4.2)


def draw_decay_curve(axes: Axes, decay: GradientDecay, layer: int, style: Style) -> None:
    """Draw the curve of one cell, and the range of the middle 80 % of the positions."""
    axes.fill_between(
        decay.distances, decay.low[layer], decay.high[layer], color=style["color"], alpha=0.13, lw=0
    )
    axes.plot(decay.distances, decay.mean[layer], label=escape_label(decay.cell), **style)


def share_scale(figure: Figure, decays: Sequence[GradientDecay], layer: int) -> None:
    """Give all panels the same y scale, and label the first one."""
    if not decays:
        return
    lowest = min(float(decay.mean[layer].min()) for decay in decays)
    highest = max(float(decay.high[layer].max()) for decay in decays)
    for axes in figure.axes:
        axes.set_ylim(max(lowest / 2, MIN_SHARE_DRAWN), max(highest * 2, 3))
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    figure.axes[0].set_ylabel("norm of the gradient,\nas a share of that at distance 0")


def plot_half_lives(
    cell_half_lives: Sequence[HalfLives], *, title: str = "Half-lives of the units"
) -> Picture:
    """Plot the sorted half-lives of all units, one line per layer; in bars if all have bars."""
    in_bars = all(cell.ids_per_bar for cell in cell_half_lives)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for cell, style in zip(
            cell_half_lives, choose_styles([m.cell for m in cell_half_lives]), strict=True
        ):
            for layer, lives in enumerate(cell.bars if in_bars else cell.ids):
                dash = {"linestyle": LAYER_DASHES[layer % len(LAYER_DASHES)]}
                label = escape_label(f"{cell.cell}, layer {layer + 1}")
                axes.plot(percentiles(len(lives)), lives, label=label, **style | dash)
        axes.set(xlabel="units, from the shortest memory to the longest (%)", xlim=(0, 100))
        axes.set_ylabel(f"half-life, in {'bars' if in_bars else 'ids'}")
        scale_by_doubling(axes, MAX_BARS_DRAWN if in_bars else MAX_IDS_DRAWN)
        add_legend(figure, axes)

    return Picture(title, draw)


def percentiles(count: int) -> FloatArray:
    """Return the percentiles of `count` sorted values, (count,) float64, in percent."""
    return (np.arange(count) + 0.5) / count * 100


def scale_by_doubling(axes: Axes, longest: int) -> None:
    """Scale the y axis of half-lives by powers of two, up to at most `longest`."""
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
    runs: Mapping[str, GradientNorms], *, title: str = "Gradient norm before clipping"
) -> Picture:
    """Plot the gradient norm of each update, with and without clipping, one panel per name."""

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
    """Draw the norms of both runs and the threshold; a cross marks divergence."""
    unclipped = run.unclipped[np.isfinite(run.unclipped)]
    for values, name, color in ((unclipped, "not clipped", RED), (run.clipped, "clipped", BLUE)):
        axes.plot(np.arange(1, len(values) + 1), values, color=color, lw=0.6, alpha=0.35)
        axes.plot(*binned_medians(values), label=name, color=color)
    axes.axhline(run.clip, color=BLACK, lw=1, ls=(0, (4, 2)), label="threshold", zorder=3)
    if 0 < len(unclipped) < len(run.unclipped):
        axes.plot(
            len(unclipped),
            unclipped[-1],
            "X",
            color=RED,
            mec="white",
            ms=9,
            label="diverged",
            zorder=4,
        )


def binned_medians(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean update number and the median value of each bin of updates.

    Args:
        values: (update,) float64.

    Returns:
        Two arrays (bin,) float64.
    """
    updates = np.arange(1, len(values) + 1)
    count = min(len(values), MEDIAN_BINS) or 1
    pairs = zip(np.array_split(updates, count), np.array_split(values, count), strict=True)
    points = [
        (np.mean(bin_updates), np.median(bin_values))
        for bin_updates, bin_values in pairs
        if len(bin_values)
    ]
    middles, medians = np.array(points, float).reshape(-1, 2).T
    return middles, medians


def plot_bars(
    rows: Sequence[ChartBar], *, title: str = "Held-out tunes", x_label: str = "bits per note"
) -> Picture:
    """Plot a horizontal bar per row, with its interval, in the given order."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        positions = range(len(rows))
        axes.barh(positions, [bar.value for bar in rows], height=0.62, color=SKY)
        for position, bar in zip(positions, rows, strict=True):
            draw_interval(axes, position, bar)
        axes.set_yticks(positions, [escape_label(bar.name) for bar in rows])
        axes.invert_yaxis()
        axes.tick_params("y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=escape_label(x_label), xlim=(0, axes.get_xlim()[1] * 1.06))

    return Picture(title, draw, height=1.2 + 0.34 * len(rows))


def draw_interval(axes: Axes, y: float, bar: ChartBar) -> None:
    """Draw the interval of a bar, and write its value at its end."""
    low = bar.value if bar.low is None else bar.low
    high = bar.value if bar.high is None else bar.high
    if high > low:
        axes.plot([low, high], [y, y], color=BLACK, lw=1.3, marker="|", ms=7)
    axes.annotate(
        f"{bar.value:.2f}", (max(high, bar.value), y), (6, 0), textcoords="offset points",
        va="center",
    )  # fmt: skip


def make_panel_row(figure: Figure, count: int) -> list[Axes]:
    """Return panels side by side that share the y scale."""
    return list(figure.subplots(1, max(count, 1), sharey=True, squeeze=False).flat)[:count]


def make_panel_grid(figure: Figure, count: int) -> list[Axes]:
    """Return panels in one row, or in two columns if there are four or more."""
    columns = max(count, 1) if count < 4 else 2
    panels = figure.subplots(
        math.ceil(count / columns) or 1, columns, sharex=True, sharey=True, squeeze=False
    )
    for unused in panels.flat[count:]:
        unused.remove()
    return list(panels.flat[:count])
