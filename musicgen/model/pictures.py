"""Pictures of training and of memory, as SVG text or PNG bytes.

    picture = loss_curves([Line("lstm", tokens, losses)])
    picture.svg()    # one element <svg>: no script, no font file, equal bytes for equal values
    picture.png()    # the same picture

No display is opened, and what a user has set in matplotlib is neither asked nor changed. Colours
are those of Okabe and Ito (2008), which colour-blind eyes can tell apart; in grey, dashes can.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from musicgen.errors import printable

if TYPE_CHECKING:  # to draw takes no torch
    from musicgen.model.diagnostics import Fade, HalfLives, Norms

Values = Sequence[float] | np.ndarray
Style = dict[Any, Any]  # what matplotlib calls a thing: how it is to look

BLACK, GREY = "#000000", "#8a8a8a"
BLUE, SKY, GREEN, ORANGE, RED, PURPLE = (
    "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip
CELL_STYLES: Final = {
    "lstm": (BLUE, "-"), "gru": (GREEN, (0, (6, 1.5))), "rnn": (RED, (0, (4, 1, 1, 1))),
    "irnn": (ORANGE, (0, (1.5, 1))),
}  # fmt: skip
OTHER_STYLES: Final = (
    (BLACK, "-"), (PURPLE, (0, (6, 1.5))), (SKY, "-"), (GREY, (0, (4, 1, 1, 1))),
    (BLACK, (0, (1.5, 1))), (PURPLE, "-"),
)  # fmt: skip
LAYER_DASHES: Final = ("-", (0, (6, 1.5)), (0, (1.5, 1)))
LOOK: Final[Style] = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "normal", "axes.labelsize": 9.5,
    "figure.titlesize": 12, "legend.frameon": False, "legend.fontsize": 9.5,
    "legend.handlelength": 2.8, "lines.linewidth": 1.8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#444444", "axes.grid": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "xtick.color": "#444444", "ytick.color": "#444444", "svg.fonttype": "path",
}  # fmt: skip
FAINT: Final[Style] = {"color": GREY, "linewidth": 0.6, "alpha": 0.6, "zorder": 1.5}
WIDTH, HEIGHT = 6.6, 3.9  # inches: a column of text
METADATA: Final = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)  # versions; title, again
FAINTEST_DRAWN: Final = 1e-9
LEGEND_COLUMNS: Final = 4
BELOW: Final = "outside lower center"
MOST_HEIGHTS: Final = 4  # of what three quarters of the losses lie in
STRETCHES: Final = 40  # of a noisy curve, of which the medians are drawn
LONGEST_BARS, LONGEST_IDS = 256, 4096  # longer than any tune of the books


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, with a name for the legend."""

    name: str
    x: Values
    y: Values
    faint: bool = False  # drawn thin and pale, behind: what is noisy


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart, with its interval where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is drawn when asked for."""

    title: str
    draw: Callable[[Figure], None]
    width: float = WIDTH  # inches
    height: float = HEIGHT

    def svg(self) -> str:
        """Return the picture as one <svg> element, to stand in a page or in a file."""
        metadata = {"Title": printable(self.title), "Date": None}
        text = self.saved("svg", metadata=metadata).decode("utf-8")
        return own_names(METADATA.sub("", text[text.index("<svg ") :], count=1))

    def png(self, dots_per_inch: int = 160) -> bytes:
        """Return the picture as PNG."""
        return self.saved("png", dpi=dots_per_inch, metadata={"Software": None})

    def saved(self, kind: str, **options: Any) -> bytes:
        """Draw, and return the bytes of that format."""
        with own_look(salt=self.title):
            figure = Figure((self.width, self.height), layout="constrained")
            figure.suptitle(plain(self.title), x=0.01, ha="left")
            self.draw(figure)
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


@contextmanager
def own_look(salt: str) -> Iterator[None]:
    """Draw with matplotlib's defaults and this file's look, then give all settings back."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK | {"svg.hashsalt": salt})
        yield


def own_names(svg: str) -> str:
    """Make a picture's ids its own, so that several can stand in one page, and name it an image."""
    prefix = "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    tag = re.compile(r"<[a-z][^<>]*>")
    name = re.compile(r'( id="|href="#|url\(#)')
    svg = tag.sub(lambda found: name.sub(rf"\g<1>{prefix}-", found[0]), svg)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def plain(text: str) -> str:
    """Return text that is drawn as it stands: no formulas, no steering of terminals or legends."""
    text = printable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def loss_curves(
    lines: Sequence[Line],
    *,
    title: str = "Loss on held-out tunes",
    across: str = "ids learnt from",
    up: str = "nats an id",
) -> Picture:
    """Draw losses over training: one line a model, or one run's training and held-out loss."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        strong = iter(styles([line.name for line in lines if not line.faint]))
        for line in lines:
            style = FAINT if line.faint else next(strong)
            axes.plot(line.x, line.y, label=plain(line.name), **style)
        if scale := cut_scale(lines):
            axes.set_ylim(*scale)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel=plain(across), ylabel=plain(up))
        add_legend(figure, axes)

    return Picture(title, draw)


def cut_scale(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return a scale that cuts off what is high at first only, for the rest to be seen; or None."""
    strong = finite([line.y for line in lines if not line.faint])
    if not len(strong):
        return None
    lowest, usual = float(strong.min()), float(np.quantile(strong, 0.75))
    highest = lowest + MOST_HEIGHTS * (usual - lowest)
    bottom = float(finite([line.y for line in lines]).min())
    margin = 0.05 * (highest - bottom)
    return (bottom - margin, highest) if lowest < highest < strong.max() else None


def finite(curves: Sequence[Values]) -> np.ndarray:
    """Lay the curves' values end to end, but for those that are no numbers."""
    values = np.concatenate([[], *curves])
    kept: np.ndarray = values[np.isfinite(values)]
    return kept


def fading(
    panels: Mapping[str, Sequence[Fade]],
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
        for axes, (name, fades) in zip(row(figure, len(shown)), shown.items(), strict=True):
            axes.set_title(plain(name), loc="left")
            for fade, style in zip(fades, styles([fade.cell for fade in fades]), strict=True):
                draw_fade(axes, fade, layer, style)
            axes.set(xlabel="distance, in ids", yscale="log", xmargin=0)
            axes.xaxis.set_major_locator(MaxNLocator(max(8 // len(shown), 2), integer=True))
        share_scale(figure, [fade for fades in shown.values() for fade in fades], layer)
        add_legend(figure, *figure.axes)

    return Picture(title, draw, height=4.2)


def draw_fade(axes: Axes, fade: Fade, layer: int, style: Style) -> None:
    """Draw one cell's curve, and about it what eight positions of ten lie in."""
    axes.fill_between(
        fade.distances, fade.low[layer], fade.high[layer], color=style["color"], alpha=0.13, lw=0
    )
    axes.plot(fade.distances, fade.mean[layer], label=plain(fade.cell), **style)


def share_scale(figure: Figure, fades: Sequence[Fade], layer: int) -> None:
    """Give all panels the same scale, and the first one its name."""
    if not fades:
        return
    lowest = min(float(fade.mean[layer].min()) for fade in fades)
    highest = max(float(fade.high[layer].max()) for fade in fades)
    for axes in figure.axes:
        axes.set_ylim(max(lowest / 2, FAINTEST_DRAWN), max(highest * 2, 3))
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_locator(NullLocator())
    figure.axes[0].set_ylabel("norm of the gradient,\nas a share of that at distance 0")


def half_lives(
    memories: Sequence[HalfLives], *, title: str = "How long the units remember"
) -> Picture:
    """Draw the half-lives of all units, sorted, one line a layer; in bars where there are bars."""
    in_bars = all(memory.ids_per_bar for memory in memories)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for memory, style in zip(memories, styles([m.cell for m in memories]), strict=True):
            for layer, lives in enumerate(memory.bars if in_bars else memory.ids):
                dash = {"linestyle": LAYER_DASHES[layer % len(LAYER_DASHES)]}
                label = plain(f"{memory.cell}, layer {layer + 1}")
                axes.plot(percentiles(len(lives)), lives, label=label, **style | dash)
        axes.set(xlabel="units, from the shortest memory to the longest (%)", xlim=(0, 100))
        axes.set_ylabel(f"half-life, in {'bars' if in_bars else 'ids'}")
        scale_by_doubling(axes, LONGEST_BARS if in_bars else LONGEST_IDS)
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
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_two(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def power_of_two(value: float) -> str:
    """Write 8 as "8" and 0.125 as "1/8"."""
    return f"{value:.0f}" if value >= 1 else f"1/{1 / value:.0f}"


def norms(
    runs: Mapping[str, Norms], *, title: str = "The gradient's norm, before clipping"
) -> Picture:
    """Draw the norm at each update, with clipping and without; one panel a run, as {"rnn": ...}."""

    def draw(figure: Figure) -> None:
        for axes, (name, run) in zip(grid(figure, len(runs)), runs.items(), strict=True):
            axes.set_title(plain(name), loc="left")
            draw_norms(axes, run)
        for axes in figure.axes:
            axes.set(yscale="log", xmargin=0, xlabel="updates")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.label_outer()
        figure.supylabel("norm of the gradient", fontsize=LOOK["axes.labelsize"])
        add_legend(figure, *figure.axes)

    return Picture(title, draw, height=HEIGHT if len(runs) < 4 else 5.4)


def draw_norms(axes: Axes, run: Norms) -> None:
    """Draw both runs' norms and the threshold; a cross where the run without it ended."""
    free = run.free[np.isfinite(run.free)]
    for values, name, color in ((free, "not clipped", RED), (run.clipped, "clipped", BLUE)):
        axes.plot(np.arange(1, len(values) + 1), values, color=color, lw=0.6, alpha=0.35)
        axes.plot(*medians(values), label=name, color=color)
    axes.axhline(run.clip, color=BLACK, lw=1, ls=(0, (4, 2)), label="threshold", zorder=3)
    if 0 < len(free) < len(run.free):
        axes.plot(
            len(free), free[-1], "X", color=RED, mec="white", ms=9, label="diverged", zorder=4
        )


def medians(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where stretches of the updates have their middles, and the medians of their values."""
    updates = np.arange(1, len(values) + 1)
    count = min(len(values), STRETCHES) or 1
    pairs = zip(np.array_split(updates, count), np.array_split(values, count), strict=True)
    found = [(np.mean(where), np.median(part)) for where, part in pairs if len(part)]
    middles, halves = np.array(found, float).reshape(-1, 2).T
    return middles, halves


def bars(
    rows: Sequence[Bar], *, title: str = "Held-out tunes", across: str = "bits a note"
) -> Picture:
    """Draw a horizontal bar for each row, with its interval, in the order given."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh(places, [bar.value for bar in rows], height=0.62, color=SKY)
        for place, bar in zip(places, rows, strict=True):
            draw_interval(axes, place, bar)
        axes.set_yticks(places, [plain(bar.name) for bar in rows])
        axes.invert_yaxis()
        axes.tick_params("y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=plain(across), xlim=(0, axes.get_xlim()[1] * 1.06))

    return Picture(title, draw, height=1.2 + 0.34 * len(rows))


def draw_interval(axes: Axes, place: float, bar: Bar) -> None:
    """Draw a bar's interval, and write its value behind it."""
    low = bar.value if bar.low is None else bar.low
    high = bar.value if bar.high is None else bar.high
    if high > low:
        axes.plot([low, high], [place, place], color=BLACK, lw=1.3, marker="|", ms=7)
    axes.annotate(
        f"{bar.value:.2f}", (max(high, bar.value), place), (6, 0), textcoords="offset points",
        va="center",
    )  # fmt: skip


def styles(names: Sequence[str]) -> list[Style]:
    """Return a colour and a dash for each name: a cell's own, or the next that is free."""
    free = cycle(OTHER_STYLES)
    chosen = (CELL_STYLES[name] if name in CELL_STYLES else next(free) for name in names)
    return [{"color": color, "linestyle": dash} for color, dash in chosen]


def row(figure: Figure, count: int) -> list[Axes]:
    """Return panels beside each other, with one scale."""
    return list(figure.subplots(1, max(count, 1), sharey=True, squeeze=False).flat)[:count]


def grid(figure: Figure, count: int) -> list[Axes]:
    """Return panels in a row, or from four on in two columns; what is over is left empty."""
    columns = max(count, 1) if count < 4 else 2
    panels = figure.subplots(
        math.ceil(count / columns) or 1, columns, sharex=True, sharey=True, squeeze=False
    )
    for empty in panels.flat[count:]:
        empty.remove()
    return list(panels.flat[:count])


def add_legend(figure: Figure, *panels: Axes) -> None:
    """Name each line once, below all panels."""
    found: dict[Any, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = min(len(found), LEGEND_COLUMNS)
    labels = [label for column in range(columns) for label in list(found)[column::columns]]
    if found:  # matplotlib fills columns; it is read by rows
        figure.legend([found[label] for label in labels], labels, loc=BELOW, ncols=columns)
