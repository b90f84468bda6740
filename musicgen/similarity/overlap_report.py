"""The overlap of a tune with the training tunes: its receipt.

    index = OverlapIndex.from_bytes(checkpoint.read_extra_file("receipt.bin"))
    print(index.make_receipt(score).format_line())

A run is consecutive notes of the written form, ties joined, broken by rests (`music.melodic_runs`).
Two runs are equal if all their durations and the intervals between their notes are equal, in any
key; in a performance, if the rounded ratios of the times between their notes are. The results are
exact: hashes only find candidates, which are then compared note for note.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musicgen.checkpoint import Checkpoint
from musicgen.errors import escape_unprintable
from musicgen.music.arrays import IntArray, UInt64Array, unique_sorted
from musicgen.music.melodic_runs import RunColumns, place_numbers, to_compared_form
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import Score
from musicgen.similarity.copy_filter import IndexCopyDetector
from musicgen.similarity.note_index import (
    INDEX_FILE,
    AnyIntArray,
    Label,
    NoteIndex,
    RollingHash,
    are_runs_equal,
    is_member,
)

RUN_NOTES: Final = 8  # notes of the runs that are counted, and of the shortest that is listed
LONG_RUN_NOTES: Final = 16  # of the runs that no tune shares with another by chance
MOST_LISTED: Final = 32  # runs in a receipt
_KEPT_LENGTHS: Final = (RUN_NOTES, LONG_RUN_NOTES)
_MAX_TITLE_LENGTH: Final = 40  # characters of a title in a short line


@dataclass(frozen=True, slots=True)
class SharedRun:
    """A run of a tune that also occurs in a training tune."""

    notes: int
    onset: int  # step of its first note
    end: int  # step at which its last note ends
    bars: tuple[int, int]  # numbers of the first and last bar in this tune
    label: Label  # of the training tune
    their_bars: tuple[int, int]  # numbers of the first and last bar in the training tune
    in_seconds: bool = False  # whether the bars are seconds, of a performance

    def __str__(self) -> str:
        return f"{_format_notes(self.notes)}, {self.place}: {self.label}, {self.their_place}"

    @property
    def place(self) -> str:
        """Where the run is in this tune: "bars 3-4", or "0:12-0:15" of a performance."""
        return _format_seconds(self.bars) if self.in_seconds else _format_bars(self.bars)

    @property
    def their_place(self) -> str:
        """Where the run is in the training tune."""
        bars = self.their_bars
        return _format_seconds(bars) if self.in_seconds else _format_bars(bars)

    def to_json(self) -> dict[str, Any]:
        """Return the run as a JSON object; the places in a performance are seconds."""
        unit = "seconds" if self.in_seconds else "bars"
        return {
            "notes": self.notes,
            "onset": self.onset,
            "end": self.end,
            unit: list(self.bars),
            "tune": self.label.title,
            "source": self.label.source,
            "number": self.label.number,
            f"tune_{unit}": list(self.their_bars),
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """The overlap of a tune with the training tunes."""

    notes: int  # notes that were compared: those in runs
    runs: tuple[SharedRun, ...]  # longest first, disjoint; all but the first have RUN_NOTES or more
    copied_runs: int  # how many of its RUN_NOTES-note runs occur in the training tunes
    run_count: int  # how many RUN_NOTES-note runs it has, one from each note with enough after it
    longer_than: float | None = None  # share of reference tunes whose longest run is shorter
    more_than: float | None = None  # share of reference tunes that share less of their runs

    @property
    def longest(self) -> SharedRun | None:
        """The longest shared run; among equals that of the training tune that shares most."""
        return self.runs[0] if self.runs else None

    @property
    def share(self) -> float:
        """The share of its RUN_NOTES-note runs that occur in the training tunes, 0 to 1."""
        return self.copied_runs / max(1, self.run_count)

    def format_short_line(self) -> str:
        """Describe the longest shared run in a few words."""
        best = self.longest
        if best is None:
            return self.format_line()
        title = best.label.title or str(best.label)
        title = title if len(title) <= _MAX_TITLE_LENGTH else f"{title[: _MAX_TITLE_LENGTH - 3]}..."
        comparison = _format_comparison("longer", self.longer_than)
        return escape_unprintable(
            f"shares {best.notes} of {_format_notes(self.notes)} with {title!r}{comparison}"
        )

    def format_line(self) -> str:
        """Describe the overlap in one sentence."""
        best = self.longest
        if best is None:
            if not self.notes:
                return "there are no notes to compare with the training tunes"
            return "nothing is shared with the training tunes"
        clauses = [
            f"the longest run shared with a training tune is {best.notes} of"
            f" {_format_notes(self.notes)},"
            f" {best.place}, from {best.label}, {best.their_place}"
            + _format_comparison("longer", self.longer_than),
            f"{self.share:.0%} of the {RUN_NOTES}-note runs are copied"
            + _format_comparison("more", self.more_than),
        ]
        return escape_unprintable("; ".join(clauses if self.run_count else clauses[:1]))

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as a JSON object, with the fields of the longest run at the top."""
        best = self.longest
        unit = "seconds" if best and best.in_seconds else "bars"
        return {
            "longest_run": best.notes if best else 0,
            "notes": self.notes,
            "tune": best.label.title if best else None,
            "source": best.label.source if best else None,
            "number": best.label.number if best else None,
            unit: list(best.bars) if best else None,
            f"tune_{unit}": list(best.their_bars) if best else None,
            "share": round(self.share, 4),
            "copied_runs": self.copied_runs,
            "of_runs": self.run_count,
            "longer_than": self.longer_than,
            "more_than": self.more_than,
            "runs": [run.to_json() for run in self.runs],
        }


@dataclass(frozen=True, slots=True)
class OverlapCounts:
    """The overlap of a tune with the training tunes in numbers, without the places of a receipt."""

    longest_run: int  # notes of the longest shared run; 0 without any
    copied_runs: int  # how many of its RUN_NOTES-note runs occur in the training tunes
    run_count: int  # how many RUN_NOTES-note runs it has
    copied_long_runs: int  # the same for runs of LONG_RUN_NOTES notes
    long_run_count: int


def _format_notes(count: int) -> str:
    return f"{count:,} note{'' if count == 1 else 's'}"


def _format_bars(bars: tuple[int, int]) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]}-{bars[1]}"


def _format_seconds(seconds: tuple[int, int]) -> str:
    first, last = (f"{second // 60}:{second % 60:02d}" for second in seconds)
    return first if first == last else f"{first}-{last}"


def _format_comparison(comparative: str, share: float | None) -> str:
    return "" if share is None else f", {comparative} than in {share:.0%} of real tunes"


def load_index(checkpoint: Checkpoint) -> OverlapIndex | None:
    """Read the index of a checkpoint; None if it has none. Raises DamagedCheckpoint."""
    path = checkpoint.folder / INDEX_FILE
    if not path.is_file():
        return None
    return OverlapIndex.from_bytes(checkpoint.read_extra_file(INDEX_FILE), str(path))


@dataclass(frozen=True, eq=False)
class _Matches:
    """The positions of the runs of one length that a tune and the training tunes share.

    `training_runs` numbers the distinct runs of the tune.
    """

    length: int  # notes
    training_positions: IntArray  # (match,) positions in the training tunes
    tune_positions: IntArray  # (m,) positions in the tune
    training_runs: IntArray  # (match,) which distinct run of the tune starts at the position

    def without(self, training_position: int) -> _Matches:
        is_kept = self.training_positions != training_position
        return replace(
            self,
            training_positions=self.training_positions[is_kept],
            training_runs=self.training_runs[is_kept],
        )


@dataclass(frozen=True, slots=True)
class _LocatedRun:
    """A shared run by position."""

    notes: int
    tune_position: int
    training_position: int


@dataclass(frozen=True, eq=False)
class OverlapIndex:
    """Compares tunes with the training tunes."""

    note_index: NoteIndex
    _hashes: dict[int, UInt64Array] = field(default_factory=dict, repr=False)  # by run length

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "receipt.bin") -> OverlapIndex:
        """Read the bytes of a `NoteIndex`. Raises DamagedCheckpoint."""
        return cls(NoteIndex.from_bytes(data, source))

    @property
    def tune_count(self) -> int:
        """The number of training tunes."""
        return len(self.note_index.runs)

    @cached_property
    def rolling_hash(self) -> RollingHash:
        """The hashes of the training tunes' runs."""
        notes = self.note_index
        return RollingHash.of(notes.codes, notes.intervals, notes.edges, border=0)

    def _get_hashes(self, length: int) -> UInt64Array:
        """Return the hash of `length` notes from each position; keep those of common lengths."""
        if length not in self._hashes:
            hashes = self.rolling_hash.compute_all_hashes(length)
            if length not in _KEPT_LENGTHS:
                return hashes
            self._hashes[length] = hashes
        return self._hashes[length]

    def make_copy_detector(self, limit: int) -> IndexCopyDetector:
        """Make the detector of runs of more than `limit` notes. Raises InvalidValue."""
        return IndexCopyDetector(self.note_index, self.rolling_hash, limit)

    def encode_durations(self, durations: IntArray) -> IntArray:
        """Look up the codes of durations.

        Args:
            durations: (n,) int64 steps.

        Returns:
            (n,) int64 codes; for durations that no training tune has, the size of the table.
        """
        table = self.note_index.table
        codes = np.searchsorted(table, durations)
        is_known = np.append(table, -1)[codes] == durations
        return np.where(is_known, codes, len(table))

    def make_receipt(self, score: Score, excluded_group: int | None = None) -> Receipt:
        """Compare a score with the training tunes.

        Args:
            score: the tune, not necessarily canonical.
            excluded_group: near-duplicate group whose tunes are ignored, such as the tune's own.
        """
        compared = to_compared_form(score)
        columns = RunColumns.of(compared)
        tune_hash = self._hash_runs(columns)
        matches = self._find_longest_matches(tune_hash, excluded_group)
        located_runs = list(self._find_shared_runs(tune_hash, matches)) if matches else []
        bars = place_numbers(compared, columns.onsets).tolist() if located_runs else []
        runs = tuple(self._make_shared_run(columns, bars, run) for run in located_runs)
        if is_performance(compared):
            runs = tuple(replace(run, in_seconds=True) for run in runs)
        copied_runs = len(matches.tune_positions) if matches and matches.length == RUN_NOTES else 0
        run_count = len(tune_hash.find_starts(RUN_NOTES))
        return Receipt(
            len(tune_hash),
            runs,
            copied_runs,
            run_count,
            _compute_share_below(self.note_index.longest, runs[0].notes if runs else 0),
            _compute_share_below(self.note_index.shares, copied_runs / max(1, run_count)),
        )

    def count_overlap(self, score: Score) -> OverlapCounts:
        """Count the runs that a score shares with the training tunes.

        The counts are those of `make_receipt`, without the search for the places and the tunes of
        further runs, which takes most of its time.

        Args:
            score: the tune, not necessarily canonical.
        """
        tune_hash = self._hash_runs(RunColumns.of(to_compared_form(score)))
        matches = self._find_longest_matches(tune_hash, None)
        runs = self._find_shared_runs(tune_hash, matches) if matches else iter(())
        longest = next((run.notes for run in runs), 0)
        has_long = longest >= LONG_RUN_NOTES
        long_matches = self._find_matches(tune_hash, LONG_RUN_NOTES, None) if has_long else None
        return OverlapCounts(
            longest,
            len(matches.tune_positions) if matches and matches.length == RUN_NOTES else 0,
            len(tune_hash.find_starts(RUN_NOTES)),
            len(long_matches.tune_positions) if long_matches else 0,
            len(tune_hash.find_starts(LONG_RUN_NOTES)),
        )

    def _hash_runs(self, columns: RunColumns) -> RollingHash:
        edges = np.append(np.flatnonzero(columns.starts), len(columns.starts))
        codes = self.encode_durations(columns.rhythms)
        return RollingHash.of(codes, columns.intervals.astype(np.int8), edges, border=1)

    def _make_shared_run(self, columns: RunColumns, bars: list[int], run: _LocatedRun) -> SharedRun:
        first, last = run.tune_position, run.tune_position + run.notes - 1
        start = run.training_position
        return SharedRun(
            run.notes,
            int(columns.onsets[first]),
            int(columns.onsets[last] + columns.durations[last]),
            (bars[first], bars[last]),
            self.note_index.get_label(int(self._find_tunes(np.array([start]))[0])),
            self.note_index.find_bars(start, start + run.notes),
        )

    def _find_longest_matches(
        self, tune_hash: RollingHash, excluded_group: int | None
    ) -> _Matches | None:
        """Find the shared runs of RUN_NOTES notes, or else those of the greatest shorter length."""
        for length in range(RUN_NOTES, 0, -1):
            matches = self._find_matches(tune_hash, length, excluded_group)
            if len(matches.training_positions):
                return matches
        return None

    def _find_matches(
        self, tune_hash: RollingHash, length: int, excluded_group: int | None
    ) -> _Matches:
        """Find all shared runs of a length."""
        positions = tune_hash.find_starts(length)
        if not len(positions):
            return _Matches(length, positions, positions, positions)
        hashes = tune_hash.compute_hashes(positions, length)
        order = np.argsort(hashes, kind="stable")
        firsts = order[np.append(True, np.diff(hashes[order]) != 0)]  # the first of equal runs
        run_hashes = hashes[firsts]
        training_hashes = self._get_hashes(length)
        candidates = _find_candidates(training_hashes, run_hashes)
        runs = np.searchsorted(run_hashes, training_hashes[candidates])
        runs = np.minimum(runs, len(run_hashes) - 1)
        is_equal = run_hashes[runs] == training_hashes[candidates]
        candidates, runs = candidates[is_equal], runs[is_equal]
        is_equal = are_runs_equal(
            self.rolling_hash, candidates, tune_hash, positions[firsts[runs]], length
        )
        if excluded_group is not None:
            is_equal &= self.note_index.groups[self._find_tunes(candidates)] != excluded_group
        candidates, runs = candidates[is_equal], runs[is_equal]
        is_shared = np.zeros(len(run_hashes), dtype=bool)
        is_shared[runs] = True
        shared_positions = positions[is_shared[np.searchsorted(run_hashes, hashes)]]
        return _Matches(length, candidates, shared_positions, runs)

    def _find_tunes(self, positions: IntArray) -> IntArray:
        """Look up the training tunes of positions."""
        return self.note_index.tune_by_run[self.rolling_hash.find_runs(positions)]

    def _find_shared_runs(self, tune_hash: RollingHash, matches: _Matches) -> Iterator[_LocatedRun]:
        """Yield disjoint shared runs, the longest first; of less than RUN_NOTES notes only one."""
        shared_counts = self._count_shared_runs(matches)
        # the end of the part of each note's run that is not yet covered by a yielded run
        stops = np.repeat(tune_hash.edges[1:], np.diff(tune_hash.edges))
        for _ in range(MOST_LISTED):
            longest = self._find_greatest_length(tune_hash, stops, matches)
            if longest is None:
                return
            run = self._choose_match(tune_hash, longest, shared_counts)
            first, start = run.tune_position, run.training_position
            if not are_runs_equal(
                self.rolling_hash, np.array([start]), tune_hash, np.array([first]), run.notes
            )[0]:
                matches = matches.without(start)  # a hash collision
                continue
            yield run
            if run.notes < RUN_NOTES:
                return
            np.minimum(stops[:first], first, out=stops[:first])
            stops[first : first + run.notes] = 0

    def _count_shared_runs(self, matches: _Matches) -> IntArray:
        """Count for each training tune the distinct runs of the tune that it contains."""
        run_count = int(matches.training_runs.max(initial=0)) + 1
        tunes = self._find_tunes(matches.training_positions)
        pairs = unique_sorted(tunes * run_count + matches.training_runs)
        return np.bincount(pairs // run_count, minlength=self.tune_count)

    def _find_greatest_length(
        self, tune_hash: RollingHash, stops: IntArray, matches: _Matches
    ) -> _Matches | None:
        """Find the longest shared runs by doubling and bisecting the length."""
        longest = self._filter_by_length(tune_hash, stops, matches.length, matches)
        if longest is None:
            return None
        step = 1
        while longer := self._filter_by_length(tune_hash, stops, longest.length + step, longest):
            longest, step = longer, 2 * step
        while step := step // 2:
            longer = self._filter_by_length(tune_hash, stops, longest.length + step, longest)
            longest = longer or longest
        return longest

    def _filter_by_length(
        self, tune_hash: RollingHash, stops: IntArray, length: int, matches: _Matches
    ) -> _Matches | None:
        """Keep the positions at which runs of a greater length are shared; None without any."""
        remaining = self.rolling_hash.count_remaining_notes(matches.training_positions)
        training_positions = matches.training_positions[remaining >= length]
        training_runs = matches.training_runs[remaining >= length]
        positions = matches.tune_positions
        positions = positions[stops[positions] - positions >= length]
        training_hashes = self.rolling_hash.compute_hashes(training_positions, length)
        hashes = tune_hash.compute_hashes(positions, length)
        is_shared = is_member(training_hashes, hashes)
        if not is_shared.any():
            return None
        positions = positions[is_member(hashes, training_hashes)]
        return _Matches(length, training_positions[is_shared], positions, training_runs[is_shared])

    def _choose_match(
        self, tune_hash: RollingHash, matches: _Matches, shared_counts: IntArray
    ) -> _LocatedRun:
        """Choose the training tune that shares most in all; among equals, the first."""
        starts = matches.training_positions
        order = np.lexsort((starts, -shared_counts[self._find_tunes(starts)]))
        start = starts[order[:1]]
        is_equal = tune_hash.compute_hashes(
            matches.tune_positions, matches.length
        ) == self.rolling_hash.compute_hashes(start, matches.length)
        first = matches.tune_positions[np.flatnonzero(is_equal)[0]]
        return _LocatedRun(matches.length, int(first), int(start[0]))


def _find_candidates(hashes: UInt64Array, run_hashes: UInt64Array) -> IntArray:
    """Find the indexes of hashes that may be among run_hashes: a table rules out most others."""
    bits = min(22, max(16, len(run_hashes).bit_length() + 8))
    shift = np.uint64(64 - bits)
    table = np.zeros(2**bits, dtype=bool)
    table[run_hashes >> shift] = True
    return np.flatnonzero(table.take((hashes >> shift).view(np.int64), mode="wrap"))


def _compute_share_below(
    ascending: AnyIntArray | NDArray[np.floating[Any]], value: float
) -> float | None:
    """Return the share of numbers below a value, 0 to 1; None without numbers."""
    if not len(ascending):
        return None
    return round(bisect_left(ascending, value) / len(ascending), 4)
