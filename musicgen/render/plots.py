"""Plots, as SVG text or PNG bytes.

    picture = plot_loss_curves([Line("lstm", tokens, losses)])
    picture.to_svg()    # one <svg> element: no script, no font file, deterministic
    picture.to_png()    # the same picture

No display is opened, and the matplotlib settings of the user are neither read nor changed. The
colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish; in greyscale,
the dashes differ.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from typing import Any, Final, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from musicgen.errors import escape_unprintable
from musicgen.music.arrays import FloatArray

Values: TypeAlias = Sequence[float] | NDArray[np.integer[Any] | np.floating[Any]]
Style: TypeAlias = dict[Any, Any]  # matplotlib properties by name

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
STYLE_SETTINGS: Final[Style] = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "normal", "axes.labelsize": 9.5,
    "figure.titlesize": 12, "legend.frameon": False, "legend.fontsize": 9.5,
    "legend.handlelength": 2.8, "lines.linewidth": 1.8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#444444", "axes.grid": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "xtick.color": "#444444", "ytick.color": "#444444", "svg.fonttype": "path",
}  # fmt: skip
FAINT_STYLE: Final[Style] = {"color": GREY, "linewidth": 0.6, "alpha": 0.6, "zorder": 1.5}
WIDTH, HEIGHT = 6.6, 3.9  # inches: the width of a column of text
TALL: Final = 6.2  # inches: two panels
METADATA: Final = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)  # versions and title
LEGEND_COLUMNS: Final = 4
LEGEND_LOCATION: Final = "outside lower center"
MAX_HEIGHT_RATIO: Final = 4  # axis height over the range of the lower three quarters of losses


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, with its name in the legend."""

    name: str
    x: Values
    y: Values
    faint: bool = False  # draw thin and pale, behind the others, for noisy values


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot that is drawn each time it is rendered."""

    title: str
    draw: Callable[[Figure], None]
    width: float = WIDTH  # inches
    height: float = HEIGHT  # inches

    def to_svg(self) -> str:
        """Return the picture as one <svg> element, for a page or a file."""
        metadata = {"Title": escape_unprintable(self.title), "Date": None}
        text = self.render("svg", metadata=metadata).decode("utf-8")
        return make_ids_unique(METADATA.sub("", text[text.index("<svg ") :], count=1))

    def to_png(self, dots_per_inch: int = 160) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        return self.render("png", dpi=dots_per_inch, metadata={"Software": None})

    def render(self, kind: str, **options: Any) -> bytes:
        """Draw the picture, and return the bytes of a file format of matplotlib."""
        with use_own_style(salt=self.title):
            figure = Figure((self.width, self.height), layout="constrained")
            figure.suptitle(escape_label(self.title), x=0.01, ha="left")
            self.draw(figure)
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


@contextmanager
def use_own_style(salt: str) -> Iterator[None]:
    """Use the style of this module on top of matplotlib's defaults; restore all settings after."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE_SETTINGS | {"svg.hashsalt": salt})
        yield


def make_ids_unique(svg: str) -> str:
    """Prefix the ids of an SVG, so that several fit in one page, and set its role to img."""
    prefix = "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    tag = re.compile(r"<[a-z][^<>]*>")
    name = re.compile(r'( id="|href="#|url\(#)')
    svg = tag.sub(lambda match: name.sub(rf"\g<1>{prefix}-", match[0]), svg)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def escape_label(text: str) -> str:
    """Escape a label, so that it is drawn literally: no formulas, no control characters."""
    text = escape_unprintable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def plot_loss_curves(
    lines: Sequence[Line],
    *,
    title: str = "Loss on held-out tunes",
    x_label: str = "training tokens",
    y_label: str = "nats per token",
    share_lines: Sequence[Line] = (),
) -> Picture:
    """Plot losses over training: one line per model, or the losses of one run.

    Args:
        lines: the losses.
        title: of the picture.
        x_label: what is counted to the right.
        y_label: the unit of the losses.
        share_lines: figures of one run as shares, 0 to 1, in a second panel below; () for none.
    """

    def draw(figure: Figure) -> None:
        if share_lines:
            top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 2))
            _draw_losses(top, lines)
            _draw_shares(bottom, share_lines)
            for axes in (top, bottom):
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        else:
            top = bottom = figure.subplots()
            _draw_losses(top, lines)
            add_legend(figure, top)
        top.set_ylabel(escape_label(y_label))
        bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
        bottom.set_xlabel(escape_label(x_label))

    return Picture(title, draw, height=TALL if share_lines else HEIGHT)


def _draw_losses(axes: Axes, lines: Sequence[Line]) -> None:
    strong = iter(choose_styles([line.name for line in lines if not line.faint]))
    for line in lines:
        style = FAINT_STYLE if line.faint else next(strong)
        axes.plot(line.x, line.y, label=escape_label(line.name), **style)
    if scale := choose_y_limits(lines):
        axes.set_ylim(*scale)


def _draw_shares(axes: Axes, lines: Sequence[Line]) -> None:
    for line, style in zip(lines, choose_styles([line.name for line in lines]), strict=True):
        percents = 100 * np.asarray(line.y)
        axes.plot(line.x, percents, label=escape_label(line.name), marker=".", **style)
    axes.set(ylim=(0, 100), ylabel="%")


def choose_y_limits(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return y limits that cut off high initial losses, or None if there are none."""
    strong_values = concatenate_finite([line.y for line in lines if not line.faint])
    if not len(strong_values):
        return None
    lowest, usual = float(strong_values.min()), float(np.quantile(strong_values, 0.75))
    highest = lowest + MAX_HEIGHT_RATIO * (usual - lowest)
    bottom = float(concatenate_finite([line.y for line in lines]).min())
    margin = 0.05 * (highest - bottom)
    return (bottom - margin, highest) if lowest < highest < strong_values.max() else None


def concatenate_finite(curves: Sequence[Values]) -> FloatArray:
    """Concatenate the finite values of curves, (point,) each, to (value,) float64."""
    values = np.concatenate([[], *curves])
    finite: FloatArray = values[np.isfinite(values)]
    return finite


def choose_styles(names: Sequence[str]) -> list[Style]:
    """Return the colour and dash of each name: those of a cell, or the next unused ones."""
    other_styles = cycle(OTHER_STYLES)
    chosen = (CELL_STYLES[name] if name in CELL_STYLES else next(other_styles) for name in names)
    return [{"color": color, "linestyle": dash} for color, dash in chosen]


def add_legend(figure: Figure, *panels: Axes) -> None:
    """Add one legend below all panels, in which each label occurs once."""
    handles: dict[Any, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(len(handles), LEGEND_COLUMNS)
    labels = [label for column in range(columns) for label in list(handles)[column::columns]]
    if handles:  # matplotlib fills columns, but readers read rows
        figure.legend(
            [handles[label] for label in labels], labels, loc=LEGEND_LOCATION, ncols=columns
        )
