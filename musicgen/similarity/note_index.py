"""The notes of the training tunes, stored as a small file beside a checkpoint's weights.

    8 bytes      MAGIC, with the version
    8 bytes      length of the rest, uncompressed
    the rest     zlib: a line of JSON that names the columns, then their bytes, little-endian

`NoteIndex` holds numbers and titles: for each note its duration, its interval from the previous
note and the number of written bars entered since; for each tune its title, its near-duplicate group
and the name of its file.

`RollingHash` finds runs of notes (Karp and Rabin, "Efficient randomized pattern-matching
algorithms", 1987). A note is a 64-bit number made of its duration and the interval that leads to
it; the hash of a run is the sum of its notes times the powers of BASE, without its first interval,
modulo 2**64. Equal runs have equal hashes. Different runs rarely do, so the notes are compared too.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import DamagedCheckpoint
from musicgen.music.arrays import BoolArray, IntArray, UInt64Array, splitmix64
from musicgen.music.melodic_runs import RunColumns, place_numbers
from musicgen.music.score import Score

BASE: Final = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
MASK: Final = 2**64 - 1
_INTERVAL_HASHES: Final = splitmix64(
    np.arange(2**40, 2**40 + 256, dtype=np.uint64)
)  # by interval, modulo 256
_RUN_START_HASHES: Final = splitmix64(np.arange(2**41, 2**41 + 2, dtype=np.uint64))
_ROW: Final = 1024

AnyIntArray: TypeAlias = NDArray[np.integer[Any]]  # stored columns have the narrowest dtype


@dataclass(frozen=True, eq=False)
class RollingHash:
    """Notes, run after run, with prefix sums from which the hash of any slice follows.

    Positions are note indexes.
    """

    codes: AnyIntArray  # (note,) index of the duration in a table
    intervals: AnyIntArray  # (note,) semitones from the previous note; unused where a run starts
    edges: IntArray  # (run + 1,) position at which each run starts, and at which the last one ends
    prefix_sums: UInt64Array  # (note + 1,) sum of the weighted numbers of all notes before
    interval_hashes: UInt64Array  # (note,) the part of each note's number that is its interval's
    inverse_powers: UInt64Array  # (note,) inverse of each note's power of BASE, modulo 2**64

    @classmethod
    def of(
        cls, codes: AnyIntArray, intervals: AnyIntArray, edges: IntArray, border: int
    ) -> RollingHash:
        """Compute the prefix sums of some runs.

        Args:
            codes: (note,) uint8, uint16 or int64 index of the duration.
            intervals: (note,) int8 semitones from the previous note.
            edges: (run + 1,) int64 positions of the starts of runs, and of the end.
            border: 0 or 1; slices across the start of a run never equal those of the other value.
        """
        interval_hashes = _INTERVAL_HASHES.take(intervals.view(np.uint8), mode="wrap")
        interval_hashes[edges[:-1]] = _RUN_START_HASHES[border]
        values = hash_durations(int(codes.max(initial=0)) + 1).take(codes, mode="wrap")
        values += interval_hashes
        values *= _compute_powers(BASE, len(codes))
        sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(values, out=sums[1:])
        inverse_powers = _compute_powers(pow(BASE, -1, 2**64), len(codes))
        return cls(codes, intervals, edges, sums, interval_hashes, inverse_powers)

    def __len__(self) -> int:
        return len(self.codes)

    def find_runs(self, positions: IntArray) -> IntArray:
        """Look up the run of each position.

        Args:
            positions: (n,) int64.

        Returns:
            (n,) int64 run numbers.
        """
        return np.searchsorted(self.edges, positions, side="right") - 1

    def count_remaining_notes(self, positions: IntArray) -> IntArray:
        """Count the notes from each position, (n,) int64, to the end of its run; (n,) int64."""
        return self.edges[self.find_runs(positions) + 1] - positions

    def find_starts(self, length: int) -> IntArray:
        """Find the positions, (n,) int64, from which a run has at least `length` more notes."""
        sizes = np.diff(self.edges)
        remaining = np.repeat(self.edges[1:], sizes) - np.arange(len(self))
        return np.flatnonzero(remaining >= length)

    def compute_all_hashes(self, length: int) -> UInt64Array:
        """Compute the hash of `length` notes from each position; (note - length + 1,) uint64."""
        count = max(0, len(self) - length + 1)
        hashes = self.prefix_sums[len(self) + 1 - count :] - self.prefix_sums[:count]
        hashes *= self.inverse_powers[:count]
        hashes -= self.interval_hashes[:count]
        return hashes

    def compute_hashes(self, positions: IntArray, length: int) -> UInt64Array:
        """Compute the hash of `length` notes from each position, (n,) int64; (n,) uint64."""
        hashes = self.prefix_sums[positions + length] - self.prefix_sums[positions]
        hashes *= self.inverse_powers[positions]
        hashes -= self.interval_hashes[positions]
        return hashes


def hash_durations(count: int) -> UInt64Array:
    """Return the numbers that stand for duration codes 0 to count - 1; (count,) uint64."""
    return splitmix64(np.arange(1, count + 1, dtype=np.uint64))


def hash_interval(interval: int) -> int:
    """Return the number that stands for an interval in semitones."""
    return int(_INTERVAL_HASHES[interval % 256])


def _compute_powers(base: int, count: int) -> UInt64Array:
    """Return base**0 to base**(count - 1) modulo 2**64: faster as an outer product."""
    fine = np.cumprod(np.array([1, *[base] * (_ROW - 1)], np.uint64), dtype=np.uint64)
    rows = -(-count // _ROW)
    row_factors = np.array([1, *[pow(base, _ROW, 2**64)] * max(0, rows - 1)], np.uint64)
    coarse = np.cumprod(row_factors, dtype=np.uint64)
    return (coarse[:rows, None] * fine).ravel()[:count]


def is_member(hashes: UInt64Array, others: UInt64Array) -> BoolArray:
    """Tell which hashes occur among others; the first call of np.isin takes 20 ms.

    Args:
        hashes: (n,) uint64.
        others: (m,) uint64, in any order.

    Returns:
        (n,) bool.
    """
    if not len(others):
        return np.zeros(len(hashes), dtype=bool)
    ordered = np.sort(others)
    nearest = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)]
    is_found: BoolArray = nearest == hashes
    return is_found


def are_runs_equal(
    first: RollingHash,
    first_positions: IntArray,
    second: RollingHash,
    second_positions: IntArray,
    length: int,
) -> BoolArray:
    """Tell for pairs of positions whether the same run of `length` notes starts at both.

    Args:
        first: the notes that `first_positions` refer to.
        first_positions: (pair,) int64.
        second: the notes that `second_positions` refer to.
        second_positions: (pair,) int64.
        length: notes to compare.

    Returns:
        (pair,) bool.
    """
    offsets = np.arange(length)
    firsts, seconds = first_positions[:, None] + offsets, second_positions[:, None] + offsets
    is_equal: BoolArray = (first.codes[firsts] == second.codes[seconds]).all(axis=1)
    firsts, seconds = firsts[:, 1:], seconds[:, 1:]
    is_equal &= (first.intervals[firsts] == second.intervals[seconds]).all(axis=1)
    is_equal &= first.count_remaining_notes(first_positions) >= length
    is_equal &= second.count_remaining_notes(second_positions) >= length
    return is_equal


INDEX_FILE: Final = "receipt.bin"
MAGIC: Final = b"MGNOTES1"
MAX_BYTES: Final = 256 * 2**20  # unpacked
MAX_NOTES: Final = 32 * 2**20
REPAIR_HINT: Final = "install or train the model again"
_HEAD: Final = struct.Struct("<8sQ")
_MAX_BYTE_CODES: Final = 256
_MOST_BARS: Final = 255  # entered between two notes; more are not counted
_COLUMNS: Final = {
    "table": "<i4",
    "codes": "<u2", "intervals": "i1", "entered": "u1",  # by note
    "lengths": "<u4", "first_bars": "<i4",  # by run
    "runs": "<u4", "books": "<u4", "numbers": "<u4", "groups": "<u4",  # by tune
    "longest": "<u4", "shares": "<f4",  # by reference tune
}  # fmt: skip
_TEXTS: Final = ("titles", "names")
_BY_TUNE: Final = ("runs", "books", "numbers", "groups")

TuneNotes: TypeAlias = NDArray[np.int32]  # (4, note): duration, interval, bar, starts a run


def extract_notes(score: Score) -> TuneNotes:
    """Extract the notes of a score's runs as rows.

    Returns:
        (4, note) int32: duration in steps, semitones from the previous note, bar number, and
        whether a run starts; of a performance, ratios and seconds for durations and bars.
    """
    columns = RunColumns.of(score)
    places = place_numbers(score, columns.onsets)
    rows = (columns.rhythms, columns.intervals, places, columns.starts)
    return np.stack(rows).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Label:
    """Identifies a training tune."""

    title: str
    source: str  # name of its file, without folders
    number: int  # position among the tunes of its file, from 1; 0: not stated
    group: int  # tunes with the same number are near-duplicates

    def __str__(self) -> str:
        source = f"{self.source}, tune {self.number}" if self.number else self.source
        return f"{self.title!r} ({source})" if self.title else source or "an unnamed tune"


@dataclass(frozen=True, eq=False)
class NoteIndex:
    """The notes of many tunes as columns, and the labels of the tunes.

    `longest` and `shares` are statistics of reference tunes, held-out tunes where there are some:
    what human composers share with tunes of other groups.
    """

    table: AnyIntArray  # (code,) durations in steps, ascending
    codes: AnyIntArray  # (note,) index of its duration in the table
    intervals: AnyIntArray  # (note,) semitones from the previous note; 0 where a run starts
    entered: AnyIntArray  # (note,) bars entered since the previous note; 0 where a run starts
    lengths: AnyIntArray  # (run,) its notes
    first_bars: AnyIntArray  # (run,) number of the written bar of its first note
    runs: AnyIntArray  # (tune,) number of its runs
    books: AnyIntArray  # (tune,) index of its file in `names`
    numbers: AnyIntArray  # (tune,) position among the tunes of its file
    groups: AnyIntArray  # (tune,) near-duplicate group
    longest: AnyIntArray  # (reference tune,) notes of its longest shared run, ascending
    shares: NDArray[np.floating[Any]]  # (reference tune,) share of its 8-note runs, ascending
    titles: str  # one line per tune
    names: str  # one line per file

    @classmethod
    def of(cls, tunes: Iterable[tuple[TuneNotes, Label]]) -> NoteIndex:
        """Build an index of tunes.

        Args:
            tunes: (4, note) int32 notes of each, as `extract_notes` returns them, and its label.
        """
        note_rows, labels = [np.zeros((4, 0), np.int32)], list[Label]()
        for rows, label in tunes:
            note_rows.append(rows)
            labels.append(label)
        notes = np.concatenate(note_rows, axis=1)
        durations, intervals, bars, starts = notes
        table, codes = np.unique(durations, return_inverse=True)
        firsts = np.flatnonzero(starts)
        entered = np.diff(bars, prepend=0)
        entered[firsts] = 0
        names = list(dict.fromkeys(_to_one_line(label.source) for label in labels))
        books = {name: index for index, name in enumerate(names)}
        return cls(
            table=table,
            codes=codes.astype(np.uint8 if len(table) <= _MAX_BYTE_CODES else np.uint16),
            intervals=intervals.astype(np.int8),
            entered=np.clip(entered, 0, _MOST_BARS).astype(np.uint8),
            lengths=np.diff(np.append(firsts, len(starts))),
            first_bars=bars[firsts],
            runs=np.array([int(rows[3].sum()) for rows in note_rows[1:]], dtype=np.int64),
            books=np.array([books[_to_one_line(label.source)] for label in labels], dtype=np.int64),
            numbers=np.array([label.number for label in labels], dtype=np.int64),
            groups=np.array([label.group for label in labels], dtype=np.int64),
            longest=np.zeros(0, np.int64),
            shares=np.zeros(0),
            titles="\n".join(_to_one_line(label.title) for label in labels),
            names="\n".join(names),
        )

    def with_reference_stats(self, longest: Sequence[int], shares: Sequence[float]) -> NoteIndex:
        """Return the index with statistics of reference tunes.

        Args:
            longest: notes of the longest run that each reference tune shares.
            shares: share of the 8-note runs of each reference tune that are shared, 0 to 1.
        """
        return replace(self, longest=np.sort(np.array(longest, dtype=np.int64)),
                       shares=np.sort(np.array(shares, dtype=np.float64)))  # fmt: skip

    def to_tunes(self) -> list[tuple[TuneNotes, Label]]:
        """Return the tunes one by one, as `of` takes them: (4, note) int32 and a label each."""
        bars = np.cumsum(self.entered, dtype=np.int64)
        firsts = self.edges[:-1]
        bars += np.repeat(self.first_bars - bars[firsts], self.lengths)
        starts = np.zeros(len(self), dtype=bool)
        starts[firsts] = True
        rows = (self.table[self.codes], self.intervals, bars, starts)
        notes = np.stack(rows).astype(np.int32)
        edges = self.edges[np.append(0, np.cumsum(self.runs, dtype=np.int64))].tolist()
        return [
            (notes[:, edges[tune] : edges[tune + 1]], self.get_label(tune))
            for tune in range(len(self.runs))
        ]

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def edges(self) -> IntArray:
        """(run + 1,) int64 position at which each run starts, and at which the last one ends."""
        return np.append(0, np.cumsum(self.lengths, dtype=np.int64))

    @cached_property
    def tune_by_run(self) -> IntArray:
        """(run,) int64 number of the tune of each run."""
        return np.repeat(np.arange(len(self.runs)), self.runs)

    def find_bars(self, start: int, stop: int) -> tuple[int, int]:
        """Return the numbers of the first and the last bar of notes start..stop of one run."""
        run = int(np.searchsorted(self.edges, start, side="right")) - 1
        second_note = int(self.edges[run]) + 1
        first = int(self.first_bars[run]) + int(self.entered[second_note : start + 1].sum())
        return first, first + int(self.entered[start + 1 : stop].sum())

    def get_label(self, tune: int) -> Label:
        """Return the label of a tune by its number."""
        source = self._names[int(self.books[tune])]
        return Label(self._titles[tune], source, int(self.numbers[tune]), int(self.groups[tune]))

    @cached_property
    def _titles(self) -> list[str]:
        return self.titles.split("\n")

    @cached_property
    def _names(self) -> list[str]:
        return self.names.split("\n")

    def to_bytes(self) -> bytes:
        """Serialize the index; `from_bytes` reads it."""
        columns = {
            name: np.asarray(getattr(self, name))
            .astype(_get_column_dtype(name, len(self.table)))
            .tobytes()
            for name in _COLUMNS
        }
        parts = columns | {name: getattr(self, name).encode() for name in _TEXTS}
        sizes = json.dumps({name: len(data) for name, data in parts.items()}).encode()
        body = b"\n".join([sizes, b"".join(parts.values())])
        return _HEAD.pack(MAGIC, len(body)) + zlib.compress(body, 9)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = INDEX_FILE) -> NoteIndex:
        """Read what `to_bytes` wrote.

        Args:
            data: the bytes of the file.
            source: the file's name, for the error message.

        Raises:
            DamagedCheckpoint: the bytes are not an index, or its columns contradict each other.
        """
        try:
            index = _parse_columns(_decompress(data))
            _check_columns(index)
        except (ValueError, TypeError, KeyError, struct.error, zlib.error) as fault:
            message = f"{source}: not a similarity index ({fault}); {REPAIR_HINT}"
            raise DamagedCheckpoint(message) from fault
        return index


def _to_one_line(text: str) -> str:
    """Join the lines of a text and escape what cannot be encoded as UTF-8."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")


def _decompress(data: bytes) -> bytes:
    magic, size = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"it starts with {magic!r}, not {MAGIC!r}")
    if size > MAX_BYTES:
        raise ValueError(f"its uncompressed size of {size:,} bytes exceeds {MAX_BYTES:,}")
    decompressor = zlib.decompressobj()
    body = decompressor.decompress(data[_HEAD.size :], size + 1)
    if len(body) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError("its length differs from the length that it states")
    return body


def _get_column_dtype(name: str, durations: int) -> str:
    """Return the stored dtype of a column: codes of few durations take one byte."""
    return "u1" if name == "codes" and durations <= _MAX_BYTE_CODES else _COLUMNS[name]


def _parse_columns(body: bytes) -> NoteIndex:
    start = body.index(b"\n") + 1
    columns: dict[str, Any] = {}
    for name, size in json.loads(body[:start]).items():
        if not isinstance(size, int) or not 0 <= size <= len(body) - start:
            raise ValueError(f"{name} has {size} bytes")
        if name in _TEXTS:
            columns[name] = body[start : start + size].decode()
        else:
            dtype = np.dtype(_get_column_dtype(name, len(columns.get("table", ()))))
            count, remainder = divmod(size, dtype.itemsize)
            if remainder:
                raise ValueError(f"{name} has {size} bytes")
            columns[name] = np.frombuffer(body, dtype, count, start)
        start += size
    return NoteIndex(**columns)


def _check_columns(index: NoteIndex) -> None:
    """Raise ValueError if the columns contradict each other."""
    notes, runs = len(index.codes), len(index.lengths)
    tunes = {len(getattr(index, name)) for name in _BY_TUNE}
    is_consistent = (
        len(index.intervals) == len(index.entered) == notes <= MAX_NOTES
        and len(index.first_bars) == runs == int(index.runs.sum(dtype=np.int64))
        and int(index.lengths.sum(dtype=np.int64)) == notes
        and bool(np.all(index.lengths > 0))
        and bool(np.all(np.diff(index.table.astype(np.int64)) > 0))
        and int(index.codes.max(initial=0)) < max(1, len(index.table))
        and len(tunes) == 1
        and len(index.titles.split("\n")) == max(1, *tunes)
        and int(index.books.max(initial=0)) < len(index.names.split("\n"))
        and len(index.longest) == len(index.shares)
        and bool(np.isfinite(index.shares).all())
        and bool(np.all(np.diff(index.longest.astype(np.int64)) >= 0))
        and bool(np.all(np.diff(index.shares) >= 0))
    )
    if not is_consistent:
        raise ValueError("its columns contradict each other")
