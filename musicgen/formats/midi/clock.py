"""Ticks to milliseconds, and ticks of film frames to quarters, by the tempos of a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from musicgen.formats.midi.survey import DEFAULT_TEMPO, SMPTE_TICKS, Survey


class Clock:
    """When each tick of a file sounds."""

    def __init__(self, survey: Survey) -> None:
        self.ticks_per_quarter = survey.ticks_per_quarter
        self.ticks_per_second = survey.ticks_per_second
        tempos = [(0, DEFAULT_TEMPO), *survey.all_of("tempos")]
        self.starts = np.array([tick for tick, _ in tempos], dtype=np.int64)
        self.tempos = np.array([tempo for _, tempo in tempos], dtype=np.int64)
        lengths = np.diff(self.starts) * self.tempos[:-1]
        self.passed = np.concatenate([[0], np.cumsum(lengths)])  # microseconds * ticks a quarter

    def milliseconds(self, ticks: Any) -> Any:
        """Return when ticks sound, halves upward; whole numbers throughout, so exact."""
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is not None:
            rate = self.ticks_per_second
            return (2_000 * ticks * rate.denominator + rate.numerator) // (2 * rate.numerator)
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        passed = self.passed[index] + (ticks - self.starts[index]) * self.tempos[index]
        whole = 1_000 * self.ticks_per_quarter
        return (2 * passed + whole) // (2 * whole)

    def on_quarters(self, ticks: Sequence[int] | Any) -> Any:
        """Return ticks of film frames as SMPTE_TICKS a quarter, and other ticks as they are."""
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is None:
            return ticks
        # quarters a tick while each tempo holds: 10^6 / (tempo * ticks a second)
        rates = 1_000_000 * SMPTE_TICKS / (self.tempos * float(self.ticks_per_second))
        passed = np.concatenate([[0.0], np.cumsum(np.diff(self.starts) * rates[:-1])])
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        exact = passed[index] + (ticks - self.starts[index]) * rates[index]
        return np.floor(np.minimum(exact, 2.0**53) + 0.5).astype(np.int64)
