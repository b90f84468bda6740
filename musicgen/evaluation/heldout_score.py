"""The score of a model on held-out tunes: nats per token and bits per note, with an interval.

- **nats per token**: the nats of all tunes over their ids.
- **bits per note**: the bits of all tunes over their notes. Header, bars and end are included, so
  that different encodings of one corpus can be compared.

Both are micro averages. The interval is the 95 % percentile bootstrap over tunes (Efron, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from musicgen.music.arrays import FloatArray, IntArray, TokenIds

SurprisalFunction: TypeAlias = Callable[[TokenIds], FloatArray]  # ids of a tune -> nats of each


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """The score of a model on held-out tunes."""

    nats: FloatArray  # (tune,) float64, the sum over the ids of each tune
    tokens: IntArray  # (tune,) int64
    notes: IntArray  # (tune,) int64

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_note(self) -> float:
        """Bits per note: the bits of all tunes over their notes."""
        return float(self.nats.sum() / math.log(2) / max(1, self.notes.sum()))

    def bootstrap_interval(
        self, generator: np.random.Generator, samples: int = 2000, share: float = 0.95
    ) -> tuple[float, float]:
        """Return the bootstrap interval of bits per note, resampling tunes.

        Args:
            generator: draws the samples.
            samples: number of bootstrap samples.
            share: coverage of the interval, 0 to 1.
        """
        return bootstrap_ratio(self.nats / math.log(2), self.notes, generator, samples, share)


def evaluate_surprisal(
    surprisal: SurprisalFunction, tunes: Sequence[TokenIds], notes: Sequence[int] | None = None
) -> HeldOutScore:
    """Score a model given by a function from a tune to the nats of each of its ids.

    Args:
        surprisal: from (token,) ids to (token,) float64 nats.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
    """
    nats = np.array([float(np.sum(surprisal(ids))) for ids in tunes])
    return make_held_out_score(nats, tunes, notes)


def make_held_out_score(
    nats: FloatArray, tunes: Sequence[TokenIds], notes: Sequence[int] | None
) -> HeldOutScore:
    """Combine nats per tune with the counts of ids and notes.

    Args:
        nats: (tune,) float64.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
    """
    tokens = np.array([len(ids) for ids in tunes])
    return HeldOutScore(nats, tokens, tokens if notes is None else np.asarray(notes))


def bootstrap_ratio(
    numerators: FloatArray,
    denominators: IntArray,
    generator: np.random.Generator,
    samples: int = 2000,
    share: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a ratio of sums, resampling tunes (Efron, 1979).

    Args:
        numerators: (tune,) float64.
        denominators: (tune,) int64; a sum below 1 counts as 1.
        generator: draws the samples.
        samples: number of bootstrap samples.
        share: coverage of the interval, 0 to 1.
    """
    chosen = generator.integers(0, len(numerators), (samples, len(numerators)))
    ratios = numerators[chosen].sum(1) / np.maximum(1, denominators[chosen].sum(1))
    low, high = np.quantile(ratios, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
