"""`--max-copy N`: what may not come next, so that no longer run is copied.

    guard = index.guard(8)
    guard.blocked(tail, candidates)

A run that shares N notes with a training tune may go on, but not as that tune does. What is asked
is exact: hashes find the places, the notes decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.sampling.known import Known
from musicgen.sampling.rolled import BASE, MASK, Rolled, durations, move

LEAST: Final = 4  # notes: three are shared by every tune with some other
Sounded = tuple[int, int]  # pitch and duration of a note

_NONE: Final[frozenset[Sounded]] = frozenset()


class CopyGuard:
    """Knows the training tunes' runs of one note more than a tune may share.

    The caller follows the run under way: its notes so far, ties joined, since the last rest. A note
    that may still be held is judged by the duration that it has by now, and again when it is held.
    """

    def __init__(self, known: Known, rolled: Rolled, limit: int) -> None:
        """Raise InvalidValue for a limit that no tune keeps."""
        if limit < LEAST:
            raise InvalidValue(
                f"max-copy {limit}: every tune shares three notes with some other: ask for"
                f" {LEAST} or more"
            )
        self.known, self.rolled = known, rolled
        self.limit = limit
        self._powers = [pow(BASE, place, 2**64) for place in range(1, limit)]
        table = known.table.tolist()
        self._codes = {duration: code for code, duration in enumerate(table)}
        self._numbers = dict(zip(table, durations(len(table)).tolist(), strict=True))

    @cached_property
    def _sorted(self) -> tuple[Any, Any]:
        """The hashes of all runs of `limit` notes that go on, ascending, and where they start."""
        places = self.rolled.places(self.limit + 1)
        hashes = self.rolled.hashes(places, self.limit)
        order = np.argsort(hashes)
        return hashes[order], places[order]

    def forbidden(self, tail: Sequence[Sounded]) -> frozenset[Sounded]:
        """Return what may not follow the run so far, as (interval, duration).

        Args:
            tail: pitch and duration of the run's notes; only the last `limit` of them matter.
        """
        if len(tail) < self.limit:
            return _NONE
        last = tail[-self.limit :]
        if not all(duration in self._codes for _, duration in last):
            return _NONE
        intervals = [after[0] - before[0] for before, after in pairwise(last)]
        found = np.uint64(self._hash(last, intervals))
        hashes, places = self._sorted
        start = int(hashes.searchsorted(found))
        if start == len(hashes) or hashes[start] != found:
            return _NONE
        stop = int(hashes.searchsorted(found, side="right"))
        return self._following(places[start:stop], last, intervals)

    def blocked(self, tail: Sequence[Sounded], candidates: Iterable[Sounded]) -> list[bool]:
        """Tell of notes, as pitch and duration, which would make the run longer than it may be."""
        wrong = self.forbidden(tail)
        if not wrong:
            return [False for _ in candidates]
        last = tail[-1][0]
        return [(pitch - last, duration) in wrong for pitch, duration in candidates]

    def _hash(self, notes: Sequence[Sounded], intervals: Sequence[int]) -> int:
        """Return the hash of a run, as `Rolled` has it."""
        total = int(self._numbers[notes[0][1]])
        for (_, duration), interval, power in zip(notes[1:], intervals, self._powers, strict=True):
            total += (self._numbers[duration] + move(interval)) * power
        return int(total & MASK)

    def _following(
        self, places: Any, notes: Sequence[Sounded], intervals: Sequence[int]
    ) -> frozenset[Sounded]:
        """Return how the training tunes go on where they have just these notes."""
        known, there = self.known, places[:, None] + np.arange(self.limit)
        codes = [self._codes[duration] for _, duration in notes]
        same = (known.codes[there] == codes).all(axis=1)
        same &= (known.intervals[there[:, 1:]] == intervals).all(axis=1)
        after = places[same] + self.limit
        lasting = known.table[known.codes[after]].tolist()
        return frozenset(zip(known.intervals[after].tolist(), lasting, strict=True))
