"""Hashes of runs of notes of any length, from one sum over all notes.

A note is a number of 64 bits, of its duration and of the interval that leads to it; a run is the
sum of its notes times the powers of BASE, without its first interval. Equal runs have equal hashes;
others have them so seldom that whoever asks compares the notes too (Karp and Rabin, 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from musicgen.music.columns import mixed

BASE: Final = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
MASK: Final = 2**64 - 1
_MOVES: Final = mixed(np.arange(2**40, 2**40 + 256, dtype=np.uint64))  # by interval, modulo 256
_BORDERS: Final = mixed(np.arange(2**41, 2**41 + 2, dtype=np.uint64))
_ROW: Final = 1024


@dataclass(frozen=True, eq=False)
class Rolled:
    """Notes, run after run, of which any stretch has a hash."""

    codes: Any  # by note: the number of its duration
    intervals: Any  # by note: semitones from the note before; nothing where a run starts
    edges: Any  # where each run starts; one more, where the last stops
    sums: Any  # hashes of all notes before each; one more
    moves: Any  # what each note's interval has in its own number
    unpowers: Any  # the inverse of each note's power of BASE

    @classmethod
    def of(cls, codes: Any, intervals: Any, edges: Any, border: int) -> Rolled:
        """Sum notes up.

        Args:
            codes: as the field.
            intervals: as the field; -127 to 127, in a byte.
            edges: as the field.
            border: 0 or 1; over the border of a run no hash is that of another border's.
        """
        moves = _MOVES.take(intervals.view(np.uint8), mode="wrap")
        moves[edges[:-1]] = _BORDERS[border]
        values = durations(int(codes.max(initial=0)) + 1).take(codes, mode="wrap")
        values += moves
        values *= _powers(BASE, len(codes))
        sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(values, out=sums[1:])
        return cls(codes, intervals, edges, sums, moves, _powers(pow(BASE, -1, 2**64), len(codes)))

    def __len__(self) -> int:
        return len(self.codes)

    def runs_of(self, places: Any) -> Any:
        """Return in which run each place is."""
        return np.searchsorted(self.edges, places, side="right") - 1

    def rests(self, places: Any) -> Any:
        """Return how many notes each place's run has from there on."""
        return self.edges[self.runs_of(places) + 1] - places

    def places(self, length: int) -> Any:
        """Return where runs of so many notes start."""
        sizes = np.diff(self.edges)
        rests = np.repeat(self.edges[1:], sizes) - np.arange(len(self))
        return np.flatnonzero(rests >= length)

    def all_hashes(self, length: int) -> Any:
        """Return the hash of so many notes from each place on that has as many before the end."""
        count = max(0, len(self) - length + 1)
        found = self.sums[length:] - self.sums[:count] if count else self.sums[:0].copy()
        found *= self.unpowers[:count]
        found -= self.moves[:count]
        return found

    def hashes(self, places: Any, length: int) -> Any:
        """Return the hashes of so many notes from some places on."""
        found = self.sums[places + length] - self.sums[places]
        found *= self.unpowers[places]
        found -= self.moves[places]
        return found


def durations(count: int) -> Any:
    """Return the numbers of so many durations."""
    return mixed(np.arange(1, count + 1, dtype=np.uint64))


def move(interval: int) -> int:
    """Return the number of an interval."""
    return int(_MOVES[interval % 256])


def _powers(base: int, count: int) -> Any:
    """Return the powers of a number: a table of them, row by row, is made sooner than a row."""
    fine = np.cumprod(np.array([1, *[base] * (_ROW - 1)], dtype=np.uint64))
    rows = -(-count // _ROW)
    coarse = np.cumprod(np.array([1, *[pow(base, _ROW, 2**64)] * max(0, rows - 1)], np.uint64))
    return (coarse[:rows, None] * fine).ravel()[:count]


def among(values: Any, others: Any) -> Any:
    """Tell which values are among others: as np.isin does, which takes 20 ms the first time."""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    ordered = np.sort(others)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def equal(one: Rolled, places: Any, other: Rolled, others: Any, length: int) -> Any:
    """Tell of pairs of places whether the runs from there on are equal, note for note."""
    steps = np.arange(length)
    here, there = places[:, None] + steps, others[:, None] + steps
    same = (one.codes[here] == other.codes[there]).all(axis=1)
    here, there = here[:, 1:], there[:, 1:]
    same &= (one.intervals[here] == other.intervals[there]).all(axis=1)
    return same & (one.rests(places) >= length) & (other.rests(others) >= length)
