"""Look inside a recurrent network: how far an error reaches back, and what is kept for how long.

`gradient_by_distance` is the picture of the vanishing gradient, `gradient_norms` that of the
exploding one, `half_lives` that of what a gate does about both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.config import TrainingSettings
from musicgen.model.network import LanguageModel


@dataclass(frozen=True, slots=True)
class Fade:
    """What is left of a gradient some ids back, as a share of what it was at distance 0."""

    cell: str
    distances: np.ndarray  # (distance,) ids back: 0, 1, 2 ...
    mean: np.ndarray  # (layer, distance) geometric mean over positions
    low: np.ndarray  # (layer, distance) a tenth of the positions are below
    high: np.ndarray  # (layer, distance) a tenth are above


@dataclass(frozen=True, slots=True)
class HalfLives:
    """How long the units of a gated cell keep half of what they hold."""

    cell: str
    ids: tuple[np.ndarray, ...]  # for each layer (unit,) ids, ascending
    ids_per_bar: float | None  # None where no tune has bars

    @property
    def bars(self) -> tuple[np.ndarray, ...]:
        """Return, for each layer, the half-lives in bars, ascending; refused without bars."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Norms:
    """The gradient's norm, before clipping, at each update of the same run done twice."""

    clip: float  # the threshold of the run that clips
    clipped: np.ndarray  # (update,) with clipping
    free: np.ndarray  # (update,) without; it ends early, with inf, where the run diverged


def gradient_by_distance(
    model: LanguageModel,
    tunes: Sequence[np.ndarray],
    generator: np.random.Generator,
    *,
    furthest: int = 200,
    positions: int = 64,
    hidden_only: bool = False,
) -> Fade:
    """Measure the gradient of the loss at one id by the state of each layer k ids before.

    Args:
        model: any cell; no dropout is used, and its weights and gradients stay as they are.
        tunes: from which positions are drawn; none is nearer to its start than the distances reach.
        generator: draws the positions.
        furthest: the largest k; less where no tune is that long.
        positions: how many losses are followed back.
        hidden_only: of an LSTM's state (h, c), h alone; no other cell has a c.
    """
    raise NotImplementedError


def half_lives(
    model: LanguageModel, tunes: Sequence[np.ndarray], bar_ids: Collection[int] = ()
) -> HalfLives:
    """Measure how long each unit remembers, from its forget gate (GRU: update gate) on tunes.

    Args:
        model: an LSTM or a GRU; a cell without such a gate is refused (InvalidValue).
        tunes: ids of held-out tunes.
        bar_ids: the ids that start bars.
    """
    raise NotImplementedError


def gradient_norms(
    make: Callable[[], LanguageModel],
    tunes: Sequence[np.ndarray],
    settings: TrainingSettings,
    updates: int = 200,
) -> Norms:
    """Train twice from the same start for some updates, with clipping at settings.clip and without.

    Args:
        make: makes the same untrained model each time.
        tunes: the training part.
        settings: of both runs, but for the clipping.
        updates: how many.
    """
    raise NotImplementedError
