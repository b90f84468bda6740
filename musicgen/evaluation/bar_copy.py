"""The repeat baseline: the event at the same place some bars ago, mixed with another model.

    p(w | h) = lambda_m [w = copy(h)] + (1 - lambda_m) p_0(w | h)
    copy(h) is the id as many ids after the start of the bar `lag` full bars ago as the next id is
    after the start of its own bar, m the number of ids just before that equal their copies

The weights lambda maximise the likelihood of held-out tunes, by expectation maximisation (deleted
interpolation: Jelinek and Mercer, 1980). Without a bar so long ago, p_0 alone predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from musicgen.config import BEGIN_ID
from musicgen.evaluation.heldout_score import SurprisalFunction
from musicgen.music.arrays import FloatArray, IntArray, TokenIds

LAG: Final = 4  # bars: half of the usual section
MAX_MATCH: Final = 16  # ids; longer matches share a weight
STEPS: Final = 100  # of expectation maximisation


def find_copies(ids: TokenIds, bar_id: int, lag: int = LAG) -> tuple[IntArray, IntArray]:
    """Find the copy of each id, and how many ids before it equal their copies.

    Args:
        ids: (token,) int16 or int64.
        bar_id: the event that opens a full bar.
        lag: bars.

    Returns:
        The copies, (token,) int64, BEGIN_ID without a bar so long ago; and the matches, (token,)
        int64, at most MAX_MATCH.
    """
    positions = np.arange(len(ids))
    starts = np.flatnonzero(ids == bar_id)
    bars = np.searchsorted(starts, positions) - 1  # the last bar that opened before each id
    has_copy = bars >= lag
    shifts = starts[bars[has_copy]] - starts[bars[has_copy] - lag]
    copies = np.full(len(ids), BEGIN_ID, np.int64)
    copies[has_copy] = ids[positions[has_copy] - shifts]
    mismatches = np.append(-1, np.where(copies == ids, -1, positions)[:-1])
    return copies, np.minimum(positions - 1 - np.maximum.accumulate(mismatches), MAX_MATCH)


@dataclass(frozen=True, slots=True)
class BarCopy:
    """The mixture; its weights are fitted by `fit`."""

    base: SurprisalFunction
    bar_id: int
    weights: FloatArray  # (MAX_MATCH + 1,) float64, by number of matches
    lag: int = LAG

    @classmethod
    def fit(
        cls, base: SurprisalFunction, tunes: Sequence[TokenIds], bar_id: int, lag: int = LAG
    ) -> Self:
        """Choose the weights on held-out tunes.

        Args:
            base: a model fitted on other tunes.
            tunes: (token,) int16 or int64 each.
            bar_id: the event that opens a full bar.
            lag: bars.
        """
        pairs = [find_copies(ids, bar_id, lag) for ids in tunes]
        copies, matches = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        nats = np.concatenate([base(ids) for ids in tunes])
        has_copy = copies != BEGIN_ID
        is_equal = (copies == np.concatenate(tunes))[has_copy]
        others, matches = np.exp(-nats)[has_copy], matches[has_copy]
        counts = np.maximum(1, np.bincount(matches, minlength=MAX_MATCH + 1))
        weights = np.full(MAX_MATCH + 1, 0.5)
        for _ in range(STEPS):
            copied = weights[matches] * is_equal
            shares = copied / (copied + (1 - weights[matches]) * others)
            weights = np.bincount(matches, shares, MAX_MATCH + 1) / counts
        return cls(base, bar_id, np.minimum(weights, 1 - 1 / (counts + 1)), lag)

    def surprisal(self, ids: TokenIds) -> FloatArray:
        """Return the nats of each id of a tune: (token,) int16 or int64 to (token,) float64."""
        copies, matches = find_copies(ids, self.bar_id, self.lag)
        weights = np.where(copies == BEGIN_ID, 0.0, self.weights[matches])
        nats: FloatArray = -np.log(
            weights * (copies == ids) + (1 - weights) * np.exp(-self.base(ids))
        )
        return nats
