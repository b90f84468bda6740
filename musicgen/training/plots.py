"""Pictures of training and of memory, as SVG text or PNG bytes.

    picture = loss_curves([Line("lstm", tokens, losses)])
    picture.svg()    # one element <svg>: no script, no font file, equal bytes for equal values
    picture.png()    # the same picture

No display is opened, and what a user has set in matplotlib is neither asked nor changed. Colours
are those of Okabe and Ito (2008), which colour-blind eyes can tell apart; in grey, dashes can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
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
)

from musicgen.errors import escape_unprintable

if TYPE_CHECKING:  # to draw takes no torch
    pass


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
STYLE_SETTINGS: Final[Style] = {
    "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "normal", "axes.labelsize": 9.5,
    "figure.titlesize": 12, "legend.frameon": False, "legend.fontsize": 9.5,
    "legend.handlelength": 2.8, "lines.linewidth": 1.8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#444444", "axes.grid": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "xtick.color": "#444444", "ytick.color": "#444444", "svg.fonttype": "path",
}  # fmt: skip
FAINT_STYLE: Final[Style] = {"color": GREY, "linewidth": 0.6, "alpha": 0.6, "zorder": 1.5}
WIDTH, HEIGHT = 6.6, 3.9  # inches: a column of text
METADATA: Final = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)  # versions; title, again
LEGEND_COLUMNS: Final = 4
LEGEND_LOCATION: Final = "outside lower center"
MAX_HEIGHT_RATIO: Final = 4  # of what three quarters of the losses lie in


@dataclass(frozen=True, slots=True)
class Line:
    """One curve, with a name for the legend."""

    name: str
    x: Values
    y: Values
    faint: bool = False  # drawn thin and pale, behind: what is noisy


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is drawn when asked for."""

    title: str
    draw: Callable[[Figure], None]
    width: float = WIDTH  # inches
    height: float = HEIGHT

    def to_svg(self) -> str:
        """Return the picture as one <svg> element, to stand in a page or in a file."""
        metadata = {"Title": escape_unprintable(self.title), "Date": None}
        text = self.render("svg", metadata=metadata).decode("utf-8")
        return make_ids_unique(METADATA.sub("", text[text.index("<svg ") :], count=1))

    def to_png(self, dots_per_inch: int = 160) -> bytes:
        """Return the picture as PNG."""
        return self.render("png", dpi=dots_per_inch, metadata={"Software": None})

    def render(self, kind: str, **options: Any) -> bytes:
        """Draw, and return the bytes of that format."""
        with use_own_style(salt=self.title):
            figure = Figure((self.width, self.height), layout="constrained")
            figure.suptitle(escape_label(self.title), x=0.01, ha="left")
            self.draw(figure)
            buffer = BytesIO()
            figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()


@contextmanager
def use_own_style(salt: str) -> Iterator[None]:
    """Draw with matplotlib's defaults and this file's look, then give all settings back."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE_SETTINGS | {"svg.hashsalt": salt})
        yield


def make_ids_unique(svg: str) -> str:
    """Make a picture's ids its own, so that several can stand in one page, and name it an image."""
    prefix = "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    tag = re.compile(r"<[a-z][^<>]*>")
    name = re.compile(r'( id="|href="#|url\(#)')
    svg = tag.sub(lambda found: name.sub(rf"\g<1>{prefix}-", found[0]), svg)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def escape_label(text: str) -> str:
    """Return text that is drawn as it stands: no formulas, no steering of terminals or legends."""
    text = escape_unprintable(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def plot_loss_curves(
    lines: Sequence[Line],
    *,
    title: str = "Loss on held-out tunes",
    x_label: str = "ids learnt from",
    y_label: str = "nats an id",
) -> Picture:
    """Draw losses over training: one line a model, or one run's training and held-out loss."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        strong = iter(choose_styles([line.name for line in lines if not line.faint]))
        for line in lines:
            style = FAINT_STYLE if line.faint else next(strong)
            axes.plot(line.x, line.y, label=escape_label(line.name), **style)
        if scale := choose_y_limits(lines):
            axes.set_ylim(*scale)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel=escape_label(x_label), ylabel=escape_label(y_label))
        add_legend(figure, axes)

    return Picture(title, draw)


def choose_y_limits(lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return a scale that cuts off what is high at first only, for the rest to be seen; or None."""
    strong = concatenate_finite([line.y for line in lines if not line.faint])
    if not len(strong):
        return None
    lowest, usual = float(strong.min()), float(np.quantile(strong, 0.75))
    highest = lowest + MAX_HEIGHT_RATIO * (usual - lowest)
    bottom = float(concatenate_finite([line.y for line in lines]).min())
    margin = 0.05 * (highest - bottom)
    return (bottom - margin, highest) if lowest < highest < strong.max() else None


def concatenate_finite(curves: Sequence[Values]) -> np.ndarray:
    """Lay the curves' values end to end, but for those that are no numbers."""
    values = np.concatenate([[], *curves])
    kept: np.ndarray = values[np.isfinite(values)]
    return kept


def choose_styles(names: Sequence[str]) -> list[Style]:
    """Return a colour and a dash for each name: a cell's own, or the next that is free."""
    free = cycle(OTHER_STYLES)
    chosen = (CELL_STYLES[name] if name in CELL_STYLES else next(free) for name in names)
    return [{"color": color, "linestyle": dash} for color, dash in chosen]


def add_legend(figure: Figure, *panels: Axes) -> None:
    """Name each line once, below all panels."""
    found: dict[Any, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = min(len(found), LEGEND_COLUMNS)
    labels = [label for column in range(columns) for label in list(found)[column::columns]]
    if found:  # matplotlib fills columns; it is read by rows
        figure.legend(
            [found[label] for label in labels], labels, loc=LEGEND_LOCATION, ncols=columns
        )
