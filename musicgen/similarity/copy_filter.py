"""`--max-copy N`: forbid ids that would copy more than N consecutive notes of a training tune.

    guard = index.guard(8)
    guard.blocked(tail, candidates)

A run (`music.melodic_runs`) is a row of consecutive notes with their ties, as durations and
intervals; a rest ends it. A run that shares N notes with a training tune may go on, but not as that
tune does. The filter is exact: hashes find the candidates, then the notes are compared. It looks
one note ahead, and further where notes are given that follow and where a bar must end on certain
notes, so that at least one continuation always stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.similarity.note_index import (
    BASE,
    MASK,
    NoteIndex,
    RollingHash,
    hash_durations,
    hash_interval,
)
from musicgen.tokens.grammar import HEADER_KINDS, MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

MIN_LIMIT: Final = 4  # notes: three are shared by every tune with some other
PitchDuration = tuple[int, int]  # pitch and duration of a note

_NOTHING_FORBIDDEN: Final[frozenset[PitchDuration]] = frozenset()


class IndexCopyDetector:
    """Knows the training tunes' runs of one note more than a tune may share.

    The caller follows the run under way: its notes so far, ties joined, since the last rest. A note
    that may still be held is judged by the duration that it has by now, and again when it is held.
    """

    def __init__(self, note_index: NoteIndex, rolling_hash: RollingHash, limit: int) -> None:
        """Raise InvalidValue for a limit that no tune keeps."""
        if limit < MIN_LIMIT:
            raise InvalidValue(
                f"max-copy {limit}: every tune shares three notes with some other: ask for"
                f" {MIN_LIMIT} or more"
            )
        self.note_index, self.rolling_hash = note_index, rolling_hash
        self.limit = limit
        self._powers = [pow(BASE, place, 2**64) for place in range(1, limit)]
        table = note_index.table.tolist()
        self._codes = {duration: code for code, duration in enumerate(table)}
        self._duration_hashes = dict(zip(table, hash_durations(len(table)).tolist(), strict=True))

    @cached_property
    def _sorted_hashes(self) -> tuple[Any, Any]:
        """The hashes of all runs of `limit` notes that go on, ascending, and where they start."""
        places = self.rolling_hash.find_starts(self.limit + 1)
        hashes = self.rolling_hash.compute_hashes(places, self.limit)
        order = np.argsort(hashes)
        return hashes[order], places[order]

    def find_forbidden(self, tail: Sequence[PitchDuration]) -> frozenset[PitchDuration]:
        """Return what may not follow the run so far, as (interval, duration).

        Args:
            tail: pitch and duration of the run's notes; only the last `limit` of them matter.
        """
        if len(tail) < self.limit:
            return _NOTHING_FORBIDDEN
        last = tail[-self.limit :]
        if not all(duration in self._codes for _, duration in last):
            return _NOTHING_FORBIDDEN
        intervals = [after[0] - before[0] for before, after in pairwise(last)]
        found = np.uint64(self._hash_run(last, intervals))
        hashes, places = self._sorted_hashes
        start = int(hashes.searchsorted(found))
        if start == len(hashes) or hashes[start] != found:
            return _NOTHING_FORBIDDEN
        stop = int(hashes.searchsorted(found, side="right"))
        return self._find_continuations(places[start:stop], last, intervals)

    def find_blocked(
        self, tail: Sequence[PitchDuration], candidates: Iterable[PitchDuration]
    ) -> list[bool]:
        """Tell of notes, as pitch and duration, which would make the run longer than it may be."""
        wrong = self.find_forbidden(tail)
        if not wrong:
            return [False for _ in candidates]
        last = tail[-1][0]
        return [(pitch - last, duration) in wrong for pitch, duration in candidates]

    def _hash_run(self, notes: Sequence[PitchDuration], intervals: Sequence[int]) -> int:
        """Return the hash of a run, as `Rolled` has it."""
        total = int(self._duration_hashes[notes[0][1]])
        for (_, duration), interval, power in zip(notes[1:], intervals, self._powers, strict=True):
            total += (self._duration_hashes[duration] + hash_interval(interval)) * power
        return int(total & MASK)

    def _find_continuations(
        self, places: Any, notes: Sequence[PitchDuration], intervals: Sequence[int]
    ) -> frozenset[PitchDuration]:
        """Return how the training tunes go on where they have just these notes."""
        known, there = self.note_index, places[:, None] + np.arange(self.limit)
        codes = [self._codes[duration] for _, duration in notes]
        same = (known.codes[there] == codes).all(axis=1)
        same &= (known.intervals[there[:, 1:]] == intervals).all(axis=1)
        after = places[same] + self.limit
        lasting = known.table[known.codes[after]].tolist()
        return frozenset(zip(known.intervals[after].tolist(), lasting, strict=True))


MelodyNote = tuple[int, int]  # pitch and duration in steps
RUN_BREAK: Final[MelodyNote] = (-1, 0)  # a rest, which ends a run


class CopyDetector(Protocol):
    """What knows the runs of the training tunes."""

    @property
    def limit(self) -> int:
        """The longest run that may be shared, in notes."""

    def find_blocked(
        self, tail: Sequence[MelodyNote], candidates: Sequence[MelodyNote]
    ) -> list[bool]:
        """Tell of each next note whether it completes a run over the limit, after the tail."""


@dataclass(slots=True)
class MelodyLine:
    """The notes of the first voice so far, and at which id each began."""

    notes: list[MelodyNote] = field(default_factory=list)
    id_positions: list[int] = field(default_factory=list)
    count: int = 0  # ids followed

    def copy(self) -> MelodyLine:
        """Return one that goes on from here alone."""
        return MelodyLine(list(self.notes), list(self.id_positions), self.count)

    def follow(self, walk: MeasuresGrammar, id_: int) -> None:
        """Take the id that a walk is about to take."""
        event = MEASURES.events[id_]
        here, self.count = self.count, self.count + 1
        if (
            walk.header_events_read < len(HEADER_KINDS)
            or walk.duration is None
            or walk.voice != (0, 0)
        ):
            return
        if event.kind == "hold":
            pitch, duration = self.notes[-1]
            if (pitch, duration) != RUN_BREAK:
                self.notes[-1] = pitch, duration + walk.duration_steps
        elif event.kind in ("rest", "drum"):  # drums have no runs
            self.notes.append(RUN_BREAK)
            self.id_positions.append(here)
        elif event.kind == "pitch":
            self.notes.append((int(event.value or 0), walk.duration_steps))
            self.id_positions.append(here)

    def get_run_tail(self, max_notes: int) -> list[MelodyNote]:
        """Return the last notes of the run under way."""
        found = self.notes[-max_notes:]
        rests = [place for place, note in enumerate(found) if note == RUN_BREAK]
        return found[rests[-1] + 1 :] if rests else found

    def get_notes_between(self, first: int, stop: int) -> list[MelodyNote]:
        """Return the notes that began at the ids of a stretch."""
        pairs = zip(self.id_positions, self.notes, strict=True)
        return [note for place, note in pairs if first <= place < stop]


@dataclass(slots=True)
class CopyFilter:
    """What may be drawn, given the notes so far."""

    detector: CopyDetector
    line: MelodyLine = field(default_factory=MelodyLine)

    def copy(self) -> CopyFilter:
        """Return one that goes on from here alone."""
        return CopyFilter(self.detector, self.line.copy())

    def follow(self, walk: MeasuresGrammar, id_: int) -> None:
        """Take the id that a walk is about to take."""
        self.line.follow(walk, id_)

    def filter_legal(
        self,
        walk: MeasuresGrammar,
        legal: tuple[int, ...],
        lookahead_notes: Sequence[MelodyNote] = (),
    ) -> tuple[int, ...]:
        """Leave of the legal ids those after which no run is too long.

        lookahead_notes: the notes that are given after the bar under way.
        Should nothing be left, all are: what is written is looked at again when it is finished.
        """
        if walk.header_events_read < len(HEADER_KINDS) or not walk.in_bar:
            return legal
        if walk.duration is not None:
            kept = self._filter_heads(walk, legal, lookahead_notes)
        elif walk.must_land:
            kept = tuple(id_ for id_ in legal if self._has_continuation(walk, id_))
        else:
            return legal
        return kept or legal

    def _filter_heads(
        self, walk: MeasuresGrammar, legal: tuple[int, ...], lookahead_notes: Sequence[MelodyNote]
    ) -> tuple[int, ...]:
        """Leave out the heads that complete a copy, or lead to one that must come."""
        free = self._drop_copying_heads(walk, legal)
        if lookahead_notes and walk.is_filling_bar:
            free = tuple(id_ for id_ in free if self._can_join(walk, id_, lookahead_notes))
        if walk.must_land or walk.is_filling_bar:
            free = tuple(id_ for id_ in free if self._has_continuation(walk, id_))
        return free

    def _drop_copying_heads(self, walk: MeasuresGrammar, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Leave out the heads with which the run under way is too long."""
        limit, spent = self.detector.limit, walk.duration_steps
        tail = self.line.get_run_tail(limit + 1)
        hold = MEASURES.id("hold")
        pitches = [id_ for id_ in legal if MEASURES.events[id_].kind == "pitch"]
        candidates = [(int(MEASURES.events[id_].value or 0), spent) for id_ in pitches]
        cut = set()
        if len(tail) >= limit:
            blocked = self.detector.find_blocked(tail[-limit:], candidates)
            cut = {id_ for id_, is_cut in zip(pitches, blocked, strict=True) if is_cut}
        if hold in legal and len(tail) > limit:
            longer = (tail[-1][0], tail[-1][1] + spent)
            if self.detector.find_blocked(tail[:-1], [longer])[0]:
                cut.add(hold)
        return tuple(id_ for id_ in legal if id_ not in cut)

    def _can_join(
        self, walk: MeasuresGrammar, id_: int, lookahead_notes: Sequence[MelodyNote]
    ) -> bool:
        """Tell whether the notes that are given may follow a head."""
        after, line = walk.copy(), self.line.copy()
        line.follow(after, id_)
        limit = self.detector.limit
        run = line.get_run_tail(limit)
        for note in lookahead_notes[:limit]:
            if note == RUN_BREAK:
                return True
            if len(run) >= limit and self.detector.find_blocked(run[-limit:], [note])[0]:
                return False
            run = [*run, note]
        return True

    def _has_continuation(self, walk: MeasuresGrammar, id_: int) -> bool:
        """Tell whether a head that must follow an id without any choice is free."""
        after, other = walk.copy(), self.copy()
        other.follow(after, id_)
        after.take(id_)
        while len(legal := after.legal_ids()) == 1 and after.duration is None:
            other.follow(after, legal[0])
            after.take(legal[0])
        if after.duration is None or not after.must_land:
            return True
        return bool(other._drop_copying_heads(after, legal))
