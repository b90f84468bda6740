"""Swing: long and short halves of a beat, written as equal notes and played unequally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.arrays import FloatArray, IntArray

LEAST_RATIO, MOST_RATIO = 0.5, 0.75
SWUNG_VALUES: Final = (12, 24)  # steps of the notes that can swing: sixteenths or eighths


@dataclass(frozen=True, slots=True)
class Swing:
    """How a tune swings: the first of two equal notes takes more than half of their time.

    A score is written straight; playing applies the swing. Written offset x in a pair of notes of
    u steps each is played at 2rx in the first note, and at 2ru + 2(1 - r)(x - u) in the second.
    """

    ratio: float  # r: share of the first note, 0.5..0.75, to 4 decimals; 0.6667 is a triplet
    unit: int = 24  # u: steps of one note of the pair, in SWUNG_VALUES

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", round(self.ratio, 4))
        if not LEAST_RATIO <= self.ratio <= MOST_RATIO:
            raise InvalidValue(
                f"swing {self.ratio:g} is outside of {LEAST_RATIO:g} to {MOST_RATIO:g}"
            )
        if self.unit not in SWUNG_VALUES:
            raise InvalidValue(
                f"swing of {self.unit} steps: write 24 for eighths, 12 for sixteenths"
            )

    def to_played(self, written: IntArray | FloatArray, phase: int = 0) -> FloatArray:
        """Convert written times to played ones.

        Args:
            written: (n,) int64 or float64 steps.
            phase: a step at which a pair of notes starts.

        Returns:
            (n,) float64 steps.
        """
        return self._stretch(written, phase, self.unit, 2 * self.ratio * self.unit)

    def to_written(self, played: IntArray | FloatArray, phase: int = 0) -> FloatArray:
        """Convert played times to written ones: the inverse of `to_played`.

        Args:
            played: (n,) int64 or float64 steps.
            phase: a step at which a pair of notes starts.

        Returns:
            (n,) float64 steps.
        """
        return self._stretch(played, phase, 2 * self.ratio * self.unit, self.unit)

    def _stretch(
        self, times: IntArray | FloatArray, phase: int, old_middle: float, new_middle: float
    ) -> FloatArray:
        """Move the middle of each pair, and all times between in proportion."""
        pair = 2 * self.unit
        starts = np.floor((times - phase) / pair) * pair + phase
        offsets = times - starts
        first = offsets * (new_middle / old_middle)
        rest = (pair - new_middle) / (pair - old_middle)
        second = new_middle + (offsets - old_middle) * rest
        stretched: FloatArray = starts + np.where(offsets < old_middle, first, second)
        return stretched
