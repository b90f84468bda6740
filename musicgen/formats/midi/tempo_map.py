"""The tempo map of a MIDI file: its ticks in milliseconds and in quarter notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from musicgen.formats.midi.parser import DEFAULT_TEMPO, SMPTE_TICKS_PER_QUARTER, ParsedMidi
from musicgen.music.arrays import IntArray
from musicgen.music.score import DEFAULT_QPM

_MIN_TEMPO_CHANGE: Final = 0.03  # of the tempo; a smaller change is not written


class TempoMap:
    """Converts the ticks of a file to milliseconds and to ticks per quarter note."""

    def __init__(self, file: ParsedMidi) -> None:
        self.ticks_per_quarter = file.ticks_per_quarter
        self.ticks_per_second = file.ticks_per_second
        tempos = [(0, DEFAULT_TEMPO), *file.merge_events("tempos")]
        self.starts = np.array([tick for tick, _ in tempos], dtype=np.int64)
        self.tempos = np.array([tempo for _, tempo in tempos], dtype=np.int64)
        lengths = np.diff(self.starts) * self.tempos[:-1]
        self.elapsed = np.concatenate([[0], np.cumsum(lengths)])  # microseconds * ticks per quarter

    def to_milliseconds(self, ticks: IntArray) -> IntArray:
        """Convert ticks to milliseconds in exact integer arithmetic; round halves up.

        Args:
            ticks: (n,) int64.

        Returns:
            (n,) int64 milliseconds from the start of the file.
        """
        if self.ticks_per_second is not None:
            rate = self.ticks_per_second
            return (2_000 * ticks * rate.denominator + rate.numerator) // (2 * rate.numerator)
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        elapsed = self.elapsed[index] + (ticks - self.starts[index]) * self.tempos[index]
        divisor = 1_000 * self.ticks_per_quarter
        milliseconds: IntArray = (2 * elapsed + divisor) // (2 * divisor)
        return milliseconds

    def to_quarter_ticks(self, ticks: ArrayLike) -> IntArray:
        """Convert ticks of SMPTE frames to SMPTE_TICKS_PER_QUARTER; return other ticks unchanged.

        Args:
            ticks: (n,) int64.

        Returns:
            (n,) int64.
        """
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is None:
            return ticks
        # quarter notes per tick at each tempo: 10^6 / (tempo * ticks per second)
        rates = 1_000_000 * SMPTE_TICKS_PER_QUARTER / (self.tempos * float(self.ticks_per_second))
        elapsed = np.concatenate([[0.0], np.cumsum(np.diff(self.starts) * rates[:-1])])
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        exact = elapsed[index] + (ticks - self.starts[index]) * rates[index]
        return np.floor(np.minimum(exact, 2.0**53) + 0.5).astype(np.int64)


def average_tempos(
    tempos: Sequence[tuple[int, float]], lines: Sequence[int]
) -> list[tuple[int, float]]:
    """Replace the tempos of a played file by the mean tempo of each bar.

    The mean is the length of the bar over its duration, so bars last as long as before. A change
    of less than _MIN_TEMPO_CHANGE is left out.

    Args:
        tempos: (step, quarter notes per minute), ascending.
        lines: steps of the bar lines, ascending, without 0.
    """
    tempos = [(step, qpm) for step, qpm in tempos if lines and step < lines[-1]]
    if len(tempos) < 2:
        return tempos
    starts = np.array([0, *(step for step, _ in tempos if step), lines[-1]], dtype=np.int64)
    first = [DEFAULT_QPM] if tempos[0][0] else []
    qpm = np.array([*first, *(value for _, value in tempos)], dtype=np.float64)
    minutes = np.concatenate([[0.0], np.cumsum(np.diff(starts) / qpm)])
    edges = np.array([0, *lines])
    means = np.diff(edges) / np.diff(np.interp(edges, starts, minutes))
    averaged: list[tuple[int, float]] = []
    for step, mean in zip(edges.tolist(), means.tolist(), strict=False):
        if not averaged or abs(mean - averaged[-1][1]) >= _MIN_TEMPO_CHANGE * averaged[-1][1]:
            averaged.append((step, round(mean, 1)))
    return averaged
