"""Pictures of training and of memory, as SVG text or PNG bytes.

    picture = loss_curves([Line("lstm", tokens, losses)])
    picture.svg()    # one element <svg>: no script, no font file, equal bytes for equal values
    picture.png()    # the same picture

No display is opened and no state of matplotlib's is left changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.model.diagnostics import Fade, HalfLives, Norms

Values = Sequence[float] | np.ndarray


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

    def svg(self) -> str:
        """Return the picture as one <svg> element, to stand in a page or in a file."""
        raise NotImplementedError

    def png(self, dots_per_inch: int = 160) -> bytes:
        """Return the picture as PNG."""
        raise NotImplementedError


def loss_curves(
    lines: Sequence[Line],
    *,
    title: str = "Loss on held-out tunes",
    across: str = "ids learnt from",
    up: str = "nats an id",
) -> Picture:
    """Draw losses over training: one line a model, or one run's training and held-out loss."""
    raise NotImplementedError


def fading(
    panels: Mapping[str, Sequence[Fade]],
    *,
    layer: int = -1,
    title: str = "How far back an error is felt",
) -> Picture:
    """Draw the gradient's norm by distance, on a log axis: one line a cell, one panel a title.

    Args:
        panels: as {"before training": [fade of rnn, fade of lstm], "after training": [...]}.
        layer: which layer's state; -1 is the last one's.
        title: stands above.
    """
    raise NotImplementedError


def half_lives(
    memories: Sequence[HalfLives], *, title: str = "How long the units remember"
) -> Picture:
    """Draw the half-lives of all units, sorted, one line a layer; in bars where there are bars."""
    raise NotImplementedError


def norms(
    runs: Mapping[str, Norms], *, title: str = "The gradient's norm, before clipping"
) -> Picture:
    """Draw the norm at each update, with clipping and without; one panel a run, as {"rnn": ...}."""
    raise NotImplementedError


def bars(
    rows: Sequence[Bar], *, title: str = "Held-out tunes", across: str = "bits a note"
) -> Picture:
    """Draw a horizontal bar for each row, with its interval, in the order given."""
    raise NotImplementedError
