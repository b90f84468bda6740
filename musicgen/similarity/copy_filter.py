"""`--max-copy N`: forbid ids that would copy more than N consecutive notes of a training tune.

    detector = index.make_copy_detector(8)
    detector.find_blocked(tail, candidates)

A run (`music.melodic_runs`) is a sequence of consecutive notes, ties joined, compared by durations
and intervals; a rest ends it. A run that shares N notes with a training tune may continue, but not
as that tune does. The filter is exact: hashes find the candidates, then the notes are compared. It
looks one note ahead; where given notes follow, or where a bar must end on certain notes, it looks
further, so that at least one continuation remains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final, Protocol, TypeAlias

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.arrays import IntArray, UInt64Array
from musicgen.music.melodic_runs import Move
from musicgen.similarity.note_index import (
    BASE,
    MASK,
    NoteIndex,
    RollingHash,
    hash_durations,
    hash_interval,
)
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

MIN_LIMIT: Final = 4  # notes; every tune shares three with some other tune

MelodyNote: TypeAlias = tuple[int, int]  # pitch (or pitch id value), duration in steps
RUN_BREAK: Final[MelodyNote] = (-1, 0)  # a rest, which ends a run
_NOTHING_FORBIDDEN: Final[frozenset[Move]] = frozenset()


class IndexCopyDetector:
    """Finds the notes that would complete a run of `limit` + 1 notes of a training tune.

    The caller keeps the tail of the current run: its notes since the last rest, ties joined. A note
    that may still be extended by a tie is checked with its duration so far, and again at each tie.
    """

    def __init__(self, note_index: NoteIndex, rolling_hash: RollingHash, limit: int) -> None:
        """Check the limit and prepare the look-up tables.

        Args:
            note_index: the notes of the training tunes.
            rolling_hash: the hashes of the same notes.
            limit: the longest run that a tune may share, in notes.

        Raises:
            InvalidValue: the limit is below MIN_LIMIT.
        """
        if limit < MIN_LIMIT:
            raise InvalidValue(
                f"max-copy {limit}: every tune shares three notes with some other: ask for"
                f" {MIN_LIMIT} or more"
            )
        self.note_index, self.rolling_hash = note_index, rolling_hash
        self.limit = limit
        self._powers = [pow(BASE, exponent, 2**64) for exponent in range(1, limit)]
        table = note_index.table.tolist()
        self._codes = {duration: code for code, duration in enumerate(table)}
        self._duration_hashes = dict(zip(table, hash_durations(len(table)).tolist(), strict=True))

    @cached_property
    def _sorted_hashes(self) -> tuple[UInt64Array, IntArray]:
        """Hashes of all runs of `limit` notes that a note follows, ascending, and their starts."""
        starts = self.rolling_hash.find_starts(self.limit + 1)
        hashes = self.rolling_hash.compute_hashes(starts, self.limit)
        order = np.argsort(hashes)
        return hashes[order], starts[order]

    def find_forbidden(self, tail: Sequence[MelodyNote]) -> frozenset[Move]:
        """Find the moves that may not follow the current run.

        Args:
            tail: the run's notes; only the last `limit` of them matter.
        """
        if len(tail) < self.limit:
            return _NOTHING_FORBIDDEN
        last = tail[-self.limit :]
        if not all(duration in self._codes for _, duration in last):
            return _NOTHING_FORBIDDEN
        intervals = [after[0] - before[0] for before, after in pairwise(last)]
        run_hash = np.uint64(self._hash_run(last, intervals))
        hashes, starts = self._sorted_hashes
        first = int(hashes.searchsorted(run_hash))
        if first == len(hashes) or hashes[first] != run_hash:
            return _NOTHING_FORBIDDEN
        stop = int(hashes.searchsorted(run_hash, side="right"))
        return self._find_continuations(starts[first:stop], last, intervals)

    def find_blocked(
        self, tail: Sequence[MelodyNote], candidates: Iterable[MelodyNote]
    ) -> list[bool]:
        """Tell for each next note whether it would make the current run longer than the limit."""
        forbidden = self.find_forbidden(tail)
        if not forbidden:
            return [False for _ in candidates]
        last_pitch = tail[-1][0]
        return [(pitch - last_pitch, duration) in forbidden for pitch, duration in candidates]

    def _hash_run(self, notes: Sequence[MelodyNote], intervals: Sequence[int]) -> int:
        """Return the hash of a run, as `RollingHash` computes it."""
        total = int(self._duration_hashes[notes[0][1]])
        for (_, duration), interval, power in zip(notes[1:], intervals, self._powers, strict=True):
            total += (self._duration_hashes[duration] + hash_interval(interval)) * power
        return int(total & MASK)

    def _find_continuations(
        self, starts: IntArray, notes: Sequence[MelodyNote], intervals: Sequence[int]
    ) -> frozenset[Move]:
        """Return the moves that follow exactly these notes in the training tunes."""
        index, positions = self.note_index, starts[:, None] + np.arange(self.limit)
        codes = [self._codes[duration] for _, duration in notes]
        is_equal = (index.codes[positions] == codes).all(axis=1)
        is_equal &= (index.intervals[positions[:, 1:]] == intervals).all(axis=1)
        following = starts[is_equal] + self.limit
        durations = index.table[index.codes[following]].tolist()
        return frozenset(zip(index.intervals[following].tolist(), durations, strict=True))


class CopyDetector(Protocol):
    """Finds the notes that would copy too long a run of a training tune."""

    @property
    def limit(self) -> int:
        """The longest run that may be shared, in notes."""

    def find_blocked(
        self, tail: Sequence[MelodyNote], candidates: Sequence[MelodyNote]
    ) -> list[bool]:
        """Tell for each next note whether it would make the current run longer than the limit."""


@dataclass(slots=True)
class MelodyLine:
    """The notes of the first voice so far."""

    notes: list[MelodyNote] = field(default_factory=list)
    id_positions: list[int] = field(default_factory=list)  # of each note: index of its first id
    count: int = 0  # ids followed

    def copy(self) -> MelodyLine:
        """Return an independent copy."""
        return MelodyLine(list(self.notes), list(self.id_positions), self.count)

    def follow(self, grammar: MeasuresGrammar, id_: int) -> None:
        """Follow the id that a grammar is about to take."""
        event = MEASURES.events[id_]
        position, self.count = self.count, self.count + 1
        if grammar.in_header or grammar.duration is None or grammar.voice != (0, 0):
            return
        if event.kind == "hold":
            pitch, duration = self.notes[-1]
            if (pitch, duration) != RUN_BREAK:
                self.notes[-1] = pitch, duration + grammar.duration_steps
        elif event.kind in ("rest", "drum"):  # drums have no runs
            self._add(RUN_BREAK, position)
        elif event.kind == "pitch":
            self._add((int(event.value or 0), grammar.duration_steps), position)

    def _add(self, note: MelodyNote, position: int) -> None:
        self.notes.append(note)
        self.id_positions.append(position)

    def get_run_tail(self, max_notes: int) -> list[MelodyNote]:
        """Return the last notes of the current run, at most `max_notes`."""
        last = self.notes[-max_notes:]
        rests = [index for index, note in enumerate(last) if note == RUN_BREAK]
        return last[rests[-1] + 1 :] if rests else last

    def get_notes_between(self, first: int, stop: int) -> list[MelodyNote]:
        """Return the notes whose first id has an index from `first` to `stop` - 1."""
        positioned = zip(self.id_positions, self.notes, strict=True)
        return [note for position, note in positioned if first <= position < stop]


@dataclass(slots=True)
class CopyFilter:
    """Removes ids from the legal ones that would copy too long a run of a training tune."""

    detector: CopyDetector
    line: MelodyLine = field(default_factory=MelodyLine)

    def copy(self) -> CopyFilter:
        """Return an independent copy."""
        return CopyFilter(self.detector, self.line.copy())

    def follow(self, grammar: MeasuresGrammar, id_: int) -> None:
        """Follow the id that a grammar is about to take."""
        self.line.follow(grammar, id_)

    def filter_legal(
        self,
        grammar: MeasuresGrammar,
        legal: tuple[int, ...],
        lookahead_notes: Sequence[MelodyNote] = (),
    ) -> tuple[int, ...]:
        """Return the legal ids after which no run is too long; all of them if none qualifies.

        The sampler checks the finished tune again, so returning all ids is safe.

        Args:
            grammar: the grammar before the id.
            legal: the ids that the grammar allows.
            lookahead_notes: notes that are given after the current bar.
        """
        if grammar.in_header or not grammar.in_bar:
            return legal
        if grammar.duration is not None:
            allowed = self._filter_heads(grammar, legal, lookahead_notes)
        elif grammar.must_land:
            allowed = tuple(
                id_ for id_ in legal if self._has_continuation(grammar, id_, lookahead_notes)
            )
        else:
            return legal
        return allowed or legal

    def _filter_heads(
        self,
        grammar: MeasuresGrammar,
        legal: tuple[int, ...],
        lookahead_notes: Sequence[MelodyNote],
    ) -> tuple[int, ...]:
        """Remove the heads that complete a copy, or that inevitably lead to one."""
        allowed = self._drop_copying_heads(grammar, legal)
        if lookahead_notes and grammar.is_filling_bar:
            allowed = tuple(id_ for id_ in allowed if self._can_join(grammar, id_, lookahead_notes))
        if grammar.must_land or grammar.is_filling_bar:
            allowed = tuple(
                id_ for id_ in allowed if self._has_continuation(grammar, id_, lookahead_notes)
            )
        return allowed

    def _drop_copying_heads(
        self, grammar: MeasuresGrammar, legal: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Remove the heads that make the current run too long."""
        limit, steps = self.detector.limit, grammar.duration_steps
        tail = self.line.get_run_tail(limit + 1)
        hold = MEASURES.id("hold")
        pitches = [id_ for id_ in legal if MEASURES.events[id_].kind == "pitch"]
        candidates = [(int(MEASURES.events[id_].value or 0), steps) for id_ in pitches]
        removed = set()
        if len(tail) >= limit:
            blocked = self.detector.find_blocked(tail[-limit:], candidates)
            removed = {id_ for id_, is_blocked in zip(pitches, blocked, strict=True) if is_blocked}
        if hold in legal and len(tail) > limit:
            extended = (tail[-1][0], tail[-1][1] + steps)
            if self.detector.find_blocked(tail[:-1], [extended])[0]:
                removed.add(hold)
        return tuple(id_ for id_ in legal if id_ not in removed)

    def _can_join(
        self, grammar: MeasuresGrammar, id_: int, lookahead_notes: Sequence[MelodyNote]
    ) -> bool:
        """Tell whether the given notes may follow a head."""
        line = self.line.copy()
        line.follow(grammar, id_)
        limit = self.detector.limit
        run = line.get_run_tail(limit)
        for note in lookahead_notes[:limit]:
            if note == RUN_BREAK:
                return True
            if len(run) >= limit and self.detector.find_blocked(run[-limit:], [note])[0]:
                return False
            run = [*run, note]
        return True

    def _has_continuation(
        self, grammar: MeasuresGrammar, id_: int, lookahead_notes: Sequence[MelodyNote]
    ) -> bool:
        """Tell whether an allowed head remains once an id and all forced ids are taken."""
        is_before_given_bar = bool(lookahead_notes) and not grammar.must_land
        grammar, lookahead = self._copy_after(grammar, id_)
        if grammar.rules.requires_cadence:
            return is_before_given_bar or lookahead._can_fill_bar(grammar, lookahead_notes)
        while len(legal := grammar.legal_ids()) == 1 and grammar.duration is None:
            lookahead.follow(grammar, legal[0])
            grammar.take(legal[0])
        if grammar.duration is None or not grammar.must_land:
            return True
        return bool(lookahead._drop_copying_heads(grammar, legal))

    def _copy_after(self, grammar: MeasuresGrammar, id_: int) -> tuple[MeasuresGrammar, CopyFilter]:
        """Return copies of the grammar and the filter that have taken an id."""
        grammar, lookahead = grammar.copy(), self.copy()
        lookahead.follow(grammar, id_)
        grammar.take(id_)
        return grammar, lookahead

    def _can_fill_bar(
        self, grammar: MeasuresGrammar, lookahead_notes: Sequence[MelodyNote]
    ) -> bool:
        """Tell whether notes that copy nothing can fill the bar that must end with a cadence.

        A bar that is full already leads to the next one, if there is no choice.
        """
        grammar.lowest_tone_id, grammar.change_rank = None, 4  # chords change no run
        legal = grammar.legal_ids()
        while len(legal) == 1 and not grammar.must_reach_cadence:
            self.follow(grammar, legal[0])
            grammar.take(legal[0])
            legal = grammar.legal_ids()
        if not grammar.must_reach_cadence or grammar.is_full:
            return True
        if grammar.duration is None:
            legal = tuple(sorted(legal, reverse=True))  # the longest first
        else:
            legal = tuple(sorted(self._drop_copying_heads(grammar, legal)))  # the rest first
            if lookahead_notes and grammar.is_filling_bar:
                legal = tuple(i for i in legal if self._can_join(grammar, i, lookahead_notes))
        return any(
            lookahead._can_fill_bar(after, lookahead_notes)
            for after, lookahead in (self._copy_after(grammar, id_) for id_ in legal)
        )
