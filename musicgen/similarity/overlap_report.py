"""What a tune shares with the training tunes: its receipt.

    index = Index.parse(checkpoint.extra("receipt.bin"))
    print(index.receipt(score).line())

A run is consecutive notes of the written form, ties joined, broken by rests (`music.runs`). Two
runs are equal if all their durations and the intervals between their notes are: in any key. What is
told is exact; hashes only find it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from musicgen.checkpoint import Checkpoint
from musicgen.errors import escape_unprintable
from musicgen.music.arrays import unique_sorted
from musicgen.music.melodic_runs import RunColumns, bar_numbers
from musicgen.music.score import Score
from musicgen.similarity.copy_filter import IndexCopyDetector
from musicgen.similarity.note_index import (
    INDEX_FILE,
    Label,
    NoteIndex,
    RollingHash,
    are_runs_equal,
    is_member,
)

RUN_NOTES: Final = 8  # of the runs that are counted, and of the shortest that is listed
MOST_LISTED: Final = 32
_MAX_TITLE_LENGTH: Final = 40  # characters of a title in a short line


@dataclass(frozen=True, slots=True)
class SharedRun:
    """A run of a tune that stands in a training tune."""

    notes: int
    onset: int  # step of its first note
    end: int  # the first step at which its last note no longer sounds
    bars: tuple[int, int]  # the first and the last, in this tune
    label: Label  # of the training tune
    their_bars: tuple[int, int]  # in the training tune

    def __str__(self) -> str:
        here = f"{_format_notes(self.notes)}, {_format_bars(self.bars)}"
        return f"{here}: {self.label}, {_format_bars(self.their_bars)}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        return {
            "notes": self.notes,
            "onset": self.onset,
            "end": self.end,
            "bars": list(self.bars),
            "tune": self.label.title,
            "source": self.label.source,
            "number": self.label.number,
            "tune_bars": list(self.their_bars),
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a tune shares with the training tunes."""

    notes: int  # that were compared: of the runs
    runs: tuple[SharedRun, ...]  # the longest first, no note in two; all but the first have NOTES
    copied_runs: int  # of its runs of NOTES notes, each from another note on: how many are known
    run_count: int  # how many there are
    longer_than: float | None = None  # share of real tunes whose longest run is shorter
    more_than: float | None = None  # share of real tunes that share less of their 8-note runs

    @property
    def longest(self) -> SharedRun | None:
        """The longest run that stands in a training tune; of equals the tune that shares most."""
        return self.runs[0] if self.runs else None

    @property
    def share(self) -> float:
        """The share of its runs of eight notes that stand in training tunes."""
        return self.copied_runs / max(1, self.run_count)

    def format_short_line(self) -> str:
        """Say the longest shared run in a few words."""
        best = self.longest
        if best is None:
            return self.format_line()
        title = best.label.title or str(best.label)
        named = title if len(title) <= _MAX_TITLE_LENGTH else f"{title[: _MAX_TITLE_LENGTH - 3]}..."
        than = _format_comparison("longer", self.longer_than)
        return escape_unprintable(
            f"shares {best.notes} of {_format_notes(self.notes)} with {named!r}{than}"
        )

    def format_line(self) -> str:
        """Say it in one sentence."""
        best = self.longest
        if best is None:
            what = "there are no notes to compare" if not self.notes else "nothing is shared"
            return f"{what} with the training tunes"
        told = [
            f"the longest run shared with a training tune is {best.notes} of"
            f" {_format_notes(self.notes)},"
            f" {_format_bars(best.bars)}, from {best.label}, {_format_bars(best.their_bars)}"
            + _format_comparison("longer", self.longer_than),
            f"{self.share:.0%} of the {RUN_NOTES}-note runs are copied"
            + _format_comparison("more", self.more_than),
        ]
        return escape_unprintable("; ".join(told if self.run_count else told[:1]))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types; the longest run's own at the top."""
        best = self.longest
        return {
            "longest_run": best.notes if best else 0,
            "notes": self.notes,
            "tune": best.label.title if best else None,
            "source": best.label.source if best else None,
            "number": best.label.number if best else None,
            "bars": list(best.bars) if best else None,
            "tune_bars": list(best.their_bars) if best else None,
            "share": round(self.share, 4),
            "copied_runs": self.copied_runs,
            "of_runs": self.run_count,
            "longer_than": self.longer_than,
            "more_than": self.more_than,
            "runs": [run.to_json() for run in self.runs],
        }


def _format_notes(count: int) -> str:
    return f"{count:,} note{'' if count == 1 else 's'}"


def _format_bars(bars: tuple[int, int]) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]}-{bars[1]}"


def _format_comparison(comparative: str, share: float | None) -> str:
    return "" if share is None else f", {comparative} than in {share:.0%} of real tunes"


def load_index(checkpoint: Checkpoint) -> OverlapIndex | None:
    """Read the index of a checkpoint, None where it has none. Raises DamagedCheckpoint."""
    path = checkpoint.folder / INDEX_FILE
    if not path.is_file():
        return None
    return OverlapIndex.from_bytes(checkpoint.read_extra_file(INDEX_FILE), str(path))


@dataclass(frozen=True, eq=False)
class _Matches:
    """The places of runs of one length that a tune and the training tunes share."""

    length: int
    training_places: Any  # places in the training tunes
    tune_places: Any  # places in the tune
    run_kinds: Any  # of each known place: which of the tune's different runs it is


@dataclass(frozen=True, eq=False)
class OverlapIndex:
    """The training tunes, ready to be compared with."""

    note_index: NoteIndex

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "receipt.bin") -> OverlapIndex:
        """Read the bytes of an index. Raises DamagedCheckpoint."""
        return cls(NoteIndex.from_bytes(data, source))

    @property
    def tune_count(self) -> int:
        """How many tunes it knows."""
        return len(self.note_index.runs)

    @cached_property
    def rolling_hash(self) -> RollingHash:
        """The notes, of which any run has a hash."""
        known = self.note_index
        return RollingHash.of(known.codes, known.intervals, known.edges, border=0)

    @cached_property
    def _hashes(self) -> Any:
        return self.rolling_hash.compute_all_hashes(RUN_NOTES)

    def make_copy_detector(self, limit: int) -> IndexCopyDetector:
        """Return who keeps a tune under way from sharing longer runs. Raises InvalidValue."""
        return IndexCopyDetector(self.note_index, self.rolling_hash, limit)

    def encode_durations(self, durations: Any) -> Any:
        """Return the numbers of durations; those that no training tune has get one of their own."""
        table = self.note_index.table
        places = np.searchsorted(table, durations)
        found = np.append(table, -1)[places] == durations
        return np.where(found, places, len(table))

    def make_receipt(self, score: Score, excluded_group: int | None = None) -> Receipt:
        """Compare a score with all training tunes, or with all but those of a group."""
        whole = score.canonical()
        columns = RunColumns.of(whole)
        edges = np.append(np.flatnonzero(columns.starts), len(columns.starts))
        intervals = columns.intervals.astype(np.int8)
        own = RollingHash.of(self.encode_durations(columns.durations), intervals, edges, border=1)
        matches = self._find_longest_matches(own, excluded_group)
        found = list(self._find_shared_runs(own, matches)) if matches else []
        bars = bar_numbers(whole, columns.onsets).tolist() if found else []
        runs = tuple(self._make_shared_run(columns, bars, *places) for places in found)
        copied = len(matches.tune_places) if matches and matches.length == RUN_NOTES else 0
        count = len(own.find_starts(RUN_NOTES))
        return Receipt(
            len(own),
            runs,
            copied,
            count,
            _compute_share_below(self.note_index.longest, runs[0].notes if runs else 0),
            _compute_share_below(self.note_index.shares, copied / max(1, count)),
        )

    def _make_shared_run(
        self, columns: RunColumns, bars: list[int], notes: int, at: int, there: int
    ) -> SharedRun:
        last = at + notes - 1
        return SharedRun(
            notes,
            int(columns.onsets[at]),
            int(columns.onsets[last] + columns.durations[last]),
            (bars[at], bars[last]),
            self.note_index.get_label(self._find_tune(there)),
            self.note_index.find_bars(there, there + notes),
        )

    def _find_longest_matches(
        self, tune_hash: RollingHash, excluded_group: int | None
    ) -> _Matches | None:
        """Return the runs of NOTES notes that are shared, or else those of the next best length."""
        for length in range(RUN_NOTES, 0, -1):
            matches = self._find_matches(tune_hash, length, excluded_group)
            if len(matches.training_places):
                return matches
        return None

    def _find_matches(
        self, tune_hash: RollingHash, length: int, excluded_group: int | None
    ) -> _Matches:
        """Find all runs of a length that are shared."""
        places = tune_hash.find_starts(length)
        if not len(places):
            return _Matches(length, places, places, places)
        hashes = tune_hash.compute_hashes(places, length)
        order = np.argsort(hashes, kind="stable")
        firsts = order[np.append(True, np.diff(hashes[order]) != 0)]  # of equal runs the first
        kinds = hashes[firsts]
        theirs = (
            self._hashes if length == RUN_NOTES else self.rolling_hash.compute_all_hashes(length)
        )
        near = _find_candidates(theirs, kinds)
        kind = np.minimum(np.searchsorted(kinds, theirs[near]), len(kinds) - 1)
        same = kinds[kind] == theirs[near]
        near, kind = near[same], kind[same]
        same = are_runs_equal(self.rolling_hash, near, tune_hash, places[firsts[kind]], length)
        if excluded_group is not None:
            same &= self.note_index.groups[self._find_tunes(near)] != excluded_group
        near, kind = near[same], kind[same]
        is_met = np.zeros(len(kinds), dtype=bool)
        is_met[kind] = True
        return _Matches(length, near, places[is_met[np.searchsorted(kinds, hashes)]], kind)

    def _find_tunes(self, places: Any) -> Any:
        return self.note_index.tune_by_run[self.rolling_hash.find_runs(places)]

    def _find_tune(self, place: int) -> int:
        return int(self._find_tunes(np.array([place]))[0])

    def _find_shared_runs(
        self, tune_hash: RollingHash, matches: _Matches
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (notes, place in the tune, place in the training tunes), the longest first."""
        together = self._count_shared_runs(matches)
        stops = np.repeat(
            tune_hash.edges[1:], np.diff(tune_hash.edges)
        )  # where what is not yet told ends
        known = matches.training_places
        for _ in range(MOST_LISTED):
            grown = self._find_greatest_length(
                tune_hash, stops, matches.length, known, matches.tune_places
            )
            if grown is None:
                return
            length, theirs, ours = grown
            at, there = self._choose_match(tune_hash, ours, theirs, length, together)
            if not are_runs_equal(
                self.rolling_hash, np.array([there]), tune_hash, np.array([at]), length
            )[0]:
                known = known[known != there]  # two runs of one hash: it may happen once in ages
                continue
            yield length, at, there
            if length < RUN_NOTES:
                return
            np.minimum(stops[:at], at, out=stops[:at])
            stops[at : at + length] = 0

    def _count_shared_runs(self, matches: _Matches) -> Any:
        """Count, for each training tune, how many of the tune's different runs it shares."""
        kinds = int(matches.run_kinds.max(initial=0)) + 1
        pairs = unique_sorted(self._find_tunes(matches.training_places) * kinds + matches.run_kinds)
        return np.bincount(pairs // kinds, minlength=self.tune_count)

    def _find_greatest_length(
        self,
        tune_hash: RollingHash,
        stops: Any,
        length: int,
        training_places: Any,
        tune_places: Any,
    ) -> tuple[int, Any, Any] | None:
        """Return the greatest length at which something is shared, and the places of it there."""
        best = self._filter_by_length(tune_hash, stops, length, training_places, tune_places)
        if best is None:
            return None
        step = 1
        while longer := self._filter_by_length(tune_hash, stops, length + step, *best):
            best, length, step = longer, length + step, 2 * step
        while step := step // 2:
            if longer := self._filter_by_length(tune_hash, stops, length + step, *best):
                best, length = longer, length + step
        return length, *best

    def _filter_by_length(
        self,
        tune_hash: RollingHash,
        stops: Any,
        length: int,
        training_places: Any,
        tune_places: Any,
    ) -> tuple[Any, Any] | None:
        """Return which places are shared at a length too, None where there are none."""
        training_places = training_places[
            self.rolling_hash.count_remaining_notes(training_places) >= length
        ]
        tune_places = tune_places[stops[tune_places] - tune_places >= length]
        theirs, ours = (
            self.rolling_hash.compute_hashes(training_places, length),
            tune_hash.compute_hashes(tune_places, length),
        )
        training_places = training_places[is_member(theirs, ours)]
        return (
            (training_places, tune_places[is_member(ours, theirs)])
            if len(training_places)
            else None
        )

    def _choose_match(
        self,
        tune_hash: RollingHash,
        tune_places: Any,
        training_places: Any,
        length: int,
        shared_counts: Any,
    ) -> tuple[int, int]:
        """Choose among equals the training tune that shares most in all, else the first."""
        tunes = self._find_tunes(training_places)
        there = training_places[np.lexsort((training_places, -shared_counts[tunes]))[0]]
        same = tune_hash.compute_hashes(tune_places, length) == self.rolling_hash.compute_hashes(
            np.array([there]), length
        )
        return int(tune_places[np.flatnonzero(same)[0]]), int(there)


def _find_candidates(hashes: Any, run_hashes: Any) -> Any:
    """Return where hashes are that may be some of these: a small table rules out most others."""
    bits = min(22, max(16, len(run_hashes).bit_length() + 8))
    shift = np.uint64(64 - bits)
    table = np.zeros(2**bits, dtype=bool)
    table[run_hashes >> shift] = True
    return np.flatnonzero(table.take((hashes >> shift).view(np.int64), mode="wrap"))


def _compute_share_below(ascending: Any, value: float) -> float | None:
    """Return the share of numbers that are under a value, None where there are no numbers."""
    if not len(ascending):
        return None
    return round(bisect_left(ascending, value) / len(ascending), 4)
