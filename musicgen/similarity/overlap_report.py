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
from musicgen.errors import printable
from musicgen.music.arrays import each_once
from musicgen.music.melodic_runs import RunColumns, bar_numbers
from musicgen.music.score import Score
from musicgen.similarity.copy_filter import CopyGuard
from musicgen.similarity.note_index import NAME, Known, Label, Rolled, among, equal

NOTES: Final = 8  # of the runs that are counted, and of the shortest that is listed
MOST_LISTED: Final = 32
_SHOWN: Final = 40  # characters of a title in a short line


@dataclass(frozen=True, slots=True)
class Shared:
    """A run of a tune that stands in a training tune."""

    notes: int
    onset: int  # step of its first note
    end: int  # the first step at which its last note no longer sounds
    bars: tuple[int, int]  # the first and the last, in this tune
    label: Label  # of the training tune
    their_bars: tuple[int, int]  # in the training tune

    def __str__(self) -> str:
        return f"{_notes(self.notes)}, {_bars(self.bars)}: {self.label}, {_bars(self.their_bars)}"

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
    runs: tuple[Shared, ...]  # the longest first, no note in two; all but the first have NOTES
    copied: int  # of its runs of NOTES notes, each from another note on: how many are known
    of: int  # how many there are
    longer_than: float | None = None  # share of real tunes whose longest run is shorter
    more_than: float | None = None  # share of real tunes that share less of their 8-note runs

    @property
    def longest(self) -> Shared | None:
        """The longest run that stands in a training tune; of equals the tune that shares most."""
        return self.runs[0] if self.runs else None

    @property
    def share(self) -> float:
        """The share of its runs of eight notes that stand in training tunes."""
        return self.copied / max(1, self.of)

    def short_line(self) -> str:
        """Say the longest shared run in a few words."""
        best = self.longest
        if best is None:
            return self.line()
        title = best.label.title or str(best.label)
        named = title if len(title) <= _SHOWN else f"{title[: _SHOWN - 3]}..."
        than = _than("longer", self.longer_than)
        return printable(f"shares {best.notes} of {_notes(self.notes)} with {named!r}{than}")

    def line(self) -> str:
        """Say it in one sentence."""
        best = self.longest
        if best is None:
            what = "there are no notes to compare" if not self.notes else "nothing is shared"
            return f"{what} with the training tunes"
        told = [
            f"the longest run shared with a training tune is {best.notes} of {_notes(self.notes)},"
            f" {_bars(best.bars)}, from {best.label}, {_bars(best.their_bars)}"
            + _than("longer", self.longer_than),
            f"{self.share:.0%} of the {NOTES}-note runs are copied" + _than("more", self.more_than),
        ]
        return printable("; ".join(told if self.of else told[:1]))

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
            "copied_runs": self.copied,
            "of_runs": self.of,
            "longer_than": self.longer_than,
            "more_than": self.more_than,
            "runs": [run.to_json() for run in self.runs],
        }


def _notes(count: int) -> str:
    return f"{count:,} note{'' if count == 1 else 's'}"


def _bars(bars: tuple[int, int]) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]}-{bars[1]}"


def _than(what: str, share: float | None) -> str:
    return "" if share is None else f", {what} than in {share:.0%} of real tunes"


def index_beside(checkpoint: Checkpoint) -> Index | None:
    """Read the index of a checkpoint, None where it has none. Raises DamagedCheckpoint."""
    path = checkpoint.folder / NAME
    if not path.is_file():
        return None
    return Index.parse(checkpoint.extra(NAME), str(path))  # noqa: S610 - a file's name


@dataclass(frozen=True, eq=False)
class _Matches:
    """The places of runs of one length that a tune and the training tunes share."""

    length: int
    known: Any  # places in the training tunes
    own: Any  # places in the tune
    kinds: Any  # of each known place: which of the tune's different runs it is


@dataclass(frozen=True, eq=False)
class Index:
    """The training tunes, ready to be compared with."""

    known: Known

    @classmethod
    def parse(cls, data: bytes, source: str = "receipt.bin") -> Index:
        """Read the bytes of an index. Raises DamagedCheckpoint."""
        return cls(Known.parse(data, source))

    @property
    def tunes(self) -> int:
        """How many tunes it knows."""
        return len(self.known.runs)

    @cached_property
    def rolled(self) -> Rolled:
        """The notes, of which any run has a hash."""
        known = self.known
        return Rolled.of(known.codes, known.intervals, known.edges, border=0)

    @cached_property
    def _hashes(self) -> Any:
        return self.rolled.all_hashes(NOTES)

    def guard(self, limit: int) -> CopyGuard:
        """Return who keeps a tune under way from sharing longer runs. Raises InvalidValue."""
        return CopyGuard(self.known, self.rolled, limit)

    def codes(self, durations: Any) -> Any:
        """Return the numbers of durations; those that no training tune has get one of their own."""
        table = self.known.table
        places = np.searchsorted(table, durations)
        found = np.append(table, -1)[places] == durations
        return np.where(found, places, len(table))

    def receipt(self, score: Score, without: int | None = None) -> Receipt:
        """Compare a score with all training tunes, or with all but those of a group."""
        whole = score.canonical()
        columns = RunColumns.of(whole)
        edges = np.append(np.flatnonzero(columns.starts), len(columns.starts))
        intervals = columns.intervals.astype(np.int8)
        own = Rolled.of(self.codes(columns.durations), intervals, edges, border=1)
        matches = self._longest_matches(own, without)
        found = list(self._found(own, matches)) if matches else []
        bars = bar_numbers(whole, columns.onsets).tolist() if found else []
        runs = tuple(self._shared(columns, bars, *places) for places in found)
        copied = len(matches.own) if matches and matches.length == NOTES else 0
        count = len(own.places(NOTES))
        return Receipt(
            len(own),
            runs,
            copied,
            count,
            _below(self.known.longest, runs[0].notes if runs else 0),
            _below(self.known.shares, copied / max(1, count)),
        )

    def _shared(
        self, columns: RunColumns, bars: list[int], notes: int, at: int, there: int
    ) -> Shared:
        last = at + notes - 1
        return Shared(
            notes,
            int(columns.onsets[at]),
            int(columns.onsets[last] + columns.durations[last]),
            (bars[at], bars[last]),
            self.known.label(self._tune(there)),
            self.known.bars(there, there + notes),
        )

    def _longest_matches(self, own: Rolled, without: int | None) -> _Matches | None:
        """Return the runs of NOTES notes that are shared, or else those of the next best length."""
        for length in range(NOTES, 0, -1):
            matches = self._matches(own, length, without)
            if len(matches.known):
                return matches
        return None

    def _matches(self, own: Rolled, length: int, without: int | None) -> _Matches:
        """Find all runs of a length that are shared."""
        places = own.places(length)
        if not len(places):
            return _Matches(length, places, places, places)
        hashes = own.hashes(places, length)
        order = np.argsort(hashes, kind="stable")
        firsts = order[np.append(True, np.diff(hashes[order]) != 0)]  # of equal runs the first
        kinds = hashes[firsts]
        theirs = self._hashes if length == NOTES else self.rolled.all_hashes(length)
        near = _near(theirs, kinds)
        kind = np.minimum(np.searchsorted(kinds, theirs[near]), len(kinds) - 1)
        same = kinds[kind] == theirs[near]
        near, kind = near[same], kind[same]
        same = equal(self.rolled, near, own, places[firsts[kind]], length)
        if without is not None:
            same &= self.known.groups[self._tunes(near)] != without
        near, kind = near[same], kind[same]
        is_met = np.zeros(len(kinds), dtype=bool)
        is_met[kind] = True
        return _Matches(length, near, places[is_met[np.searchsorted(kinds, hashes)]], kind)

    def _tunes(self, places: Any) -> Any:
        return self.known.owners[self.rolled.runs_of(places)]

    def _tune(self, place: int) -> int:
        return int(self._tunes(np.array([place]))[0])

    def _found(self, own: Rolled, matches: _Matches) -> Iterator[tuple[int, int, int]]:
        """Yield (notes, place in the tune, place in the training tunes), the longest first."""
        together = self._together(matches)
        stops = np.repeat(own.edges[1:], np.diff(own.edges))  # where what is not yet told ends
        known = matches.known
        for _ in range(MOST_LISTED):
            grown = self._grown(own, stops, matches.length, known, matches.own)
            if grown is None:
                return
            length, theirs, ours = grown
            at, there = self._chosen(own, ours, theirs, length, together)
            if not equal(self.rolled, np.array([there]), own, np.array([at]), length)[0]:
                known = known[known != there]  # two runs of one hash: it may happen once in ages
                continue
            yield length, at, there
            if length < NOTES:
                return
            np.minimum(stops[:at], at, out=stops[:at])
            stops[at : at + length] = 0

    def _together(self, matches: _Matches) -> Any:
        """Count, for each training tune, how many of the tune's different runs it shares."""
        kinds = int(matches.kinds.max(initial=0)) + 1
        pairs = each_once(self._tunes(matches.known) * kinds + matches.kinds)
        return np.bincount(pairs // kinds, minlength=self.tunes)

    def _grown(
        self, own: Rolled, stops: Any, length: int, known: Any, mine: Any
    ) -> tuple[int, Any, Any] | None:
        """Return the greatest length at which something is shared, and the places of it there."""
        best = self._still(own, stops, length, known, mine)
        if best is None:
            return None
        step = 1
        while longer := self._still(own, stops, length + step, *best):
            best, length, step = longer, length + step, 2 * step
        while step := step // 2:
            if longer := self._still(own, stops, length + step, *best):
                best, length = longer, length + step
        return length, *best

    def _still(
        self, own: Rolled, stops: Any, length: int, known: Any, mine: Any
    ) -> tuple[Any, Any] | None:
        """Return which places are shared at a length too, None where there are none."""
        known = known[self.rolled.rests(known) >= length]
        mine = mine[stops[mine] - mine >= length]
        theirs, ours = self.rolled.hashes(known, length), own.hashes(mine, length)
        known = known[among(theirs, ours)]
        return (known, mine[among(ours, theirs)]) if len(known) else None

    def _chosen(
        self, own: Rolled, ours: Any, theirs: Any, length: int, together: Any
    ) -> tuple[int, int]:
        """Choose among equals the training tune that shares most in all, else the first."""
        tunes = self._tunes(theirs)
        there = theirs[np.lexsort((theirs, -together[tunes]))[0]]
        same = own.hashes(ours, length) == self.rolled.hashes(np.array([there]), length)
        return int(ours[np.flatnonzero(same)[0]]), int(there)


def _near(hashes: Any, kinds: Any) -> Any:
    """Return where hashes are that may be some of these: a small table rules out most others."""
    bits = min(22, max(16, len(kinds).bit_length() + 8))
    shift = np.uint64(64 - bits)
    table = np.zeros(2**bits, dtype=bool)
    table[kinds >> shift] = True
    return np.flatnonzero(table.take((hashes >> shift).view(np.int64), mode="wrap"))


def _below(ascending: Any, value: float) -> float | None:
    """Return the share of numbers that are under a value, None where there are no numbers."""
    if not len(ascending):
        return None
    return round(bisect_left(ascending, value) / len(ascending), 4)
