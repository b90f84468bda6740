"""The notes of the training tunes, as a small file beside a checkpoint's weights.

    8 bytes      MAGIC, with the version
    8 bytes      length of the rest, uncompressed
    the rest     zlib: a line of JSON that names the columns, then their bytes, little-endian

It holds numbers and titles: for each note its duration, its interval from the note before and the
number of written bars entered since; for each tune its title, its near-duplicate group and the name
of its file.

Runs of notes are found by a rolling hash (Karp and Rabin, 1987). A note is a 64-bit number made of
its duration and the interval that leads to it; the hash of a run is the sum of its notes times the
powers of BASE, without its first interval. Equal runs have equal hashes; different runs so rarely
that the notes are compared as well.
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

from musicgen.errors import DamagedCheckpoint
from musicgen.music.arrays import splitmix64
from musicgen.music.melodic_runs import RunColumns, bar_numbers
from musicgen.music.score import Score

BASE: Final = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
MASK: Final = 2**64 - 1
_INTERVAL_HASHES: Final = splitmix64(
    np.arange(2**40, 2**40 + 256, dtype=np.uint64)
)  # by interval, modulo 256
_RUN_START_HASHES: Final = splitmix64(np.arange(2**41, 2**41 + 2, dtype=np.uint64))
_ROW: Final = 1024


@dataclass(frozen=True, eq=False)
class RollingHash:
    """Notes, run after run, of which any stretch has a hash."""

    codes: Any  # by note: the number of its duration
    intervals: Any  # by note: semitones from the note before; nothing where a run starts
    edges: Any  # where each run starts; one more, where the last stops
    prefix_sums: Any  # hashes of all notes before each; one more
    interval_hashes: Any  # what each note's interval has in its own number
    inverse_powers: Any  # the inverse of each note's power of BASE

    @classmethod
    def of(cls, codes: Any, intervals: Any, edges: Any, border: int) -> RollingHash:
        """Sum notes up.

        Args:
            codes: as the field.
            intervals: as the field; -127 to 127, in a byte.
            edges: as the field.
            border: 0 or 1; over the border of a run no hash is that of another border's.
        """
        moves = _INTERVAL_HASHES.take(intervals.view(np.uint8), mode="wrap")
        moves[edges[:-1]] = _RUN_START_HASHES[border]
        values = hash_durations(int(codes.max(initial=0)) + 1).take(codes, mode="wrap")
        values += moves
        values *= _compute_powers(BASE, len(codes))
        sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(values, out=sums[1:])
        return cls(
            codes, intervals, edges, sums, moves, _compute_powers(pow(BASE, -1, 2**64), len(codes))
        )

    def __len__(self) -> int:
        return len(self.codes)

    def find_runs(self, places: Any) -> Any:
        """Return in which run each place is."""
        return np.searchsorted(self.edges, places, side="right") - 1

    def count_remaining_notes(self, places: Any) -> Any:
        """Return how many notes each place's run has from there on."""
        return self.edges[self.find_runs(places) + 1] - places

    def find_starts(self, length: int) -> Any:
        """Return where runs of so many notes start."""
        sizes = np.diff(self.edges)
        rests = np.repeat(self.edges[1:], sizes) - np.arange(len(self))
        return np.flatnonzero(rests >= length)

    def compute_all_hashes(self, length: int) -> Any:
        """Return the hash of so many notes from each place on that has as many before the end."""
        count = max(0, len(self) - length + 1)
        found = (
            self.prefix_sums[length:] - self.prefix_sums[:count]
            if count
            else self.prefix_sums[:0].copy()
        )
        found *= self.inverse_powers[:count]
        found -= self.interval_hashes[:count]
        return found

    def compute_hashes(self, places: Any, length: int) -> Any:
        """Return the hashes of so many notes from some places on."""
        found = self.prefix_sums[places + length] - self.prefix_sums[places]
        found *= self.inverse_powers[places]
        found -= self.interval_hashes[places]
        return found


def hash_durations(count: int) -> Any:
    """Return the numbers of so many durations."""
    return splitmix64(np.arange(1, count + 1, dtype=np.uint64))


def hash_interval(interval: int) -> int:
    """Return the number of an interval."""
    return int(_INTERVAL_HASHES[interval % 256])


def _compute_powers(base: int, count: int) -> Any:
    """Return the powers of a number: a table of them, row by row, is made sooner than a row."""
    fine = np.cumprod(np.array([1, *[base] * (_ROW - 1)], dtype=np.uint64))
    rows = -(-count // _ROW)
    coarse = np.cumprod(np.array([1, *[pow(base, _ROW, 2**64)] * max(0, rows - 1)], np.uint64))
    return (coarse[:rows, None] * fine).ravel()[:count]


def is_member(values: Any, others: Any) -> Any:
    """Tell which values are among others: as np.isin does, which takes 20 ms the first time."""
    if not len(others):
        return np.zeros(len(values), dtype=bool)
    ordered = np.sort(others)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def are_runs_equal(
    one: RollingHash, places: Any, other: RollingHash, others: Any, length: int
) -> Any:
    """Tell of pairs of places whether the runs from there on are equal, note for note."""
    steps = np.arange(length)
    here, there = places[:, None] + steps, others[:, None] + steps
    same = (one.codes[here] == other.codes[there]).all(axis=1)
    here, there = here[:, 1:], there[:, 1:]
    same &= (one.intervals[here] == other.intervals[there]).all(axis=1)
    return (
        same
        & (one.count_remaining_notes(places) >= length)
        & (other.count_remaining_notes(others) >= length)
    )


INDEX_FILE: Final = "receipt.bin"
MAGIC: Final = b"MGNOTES1"
MAX_BYTES: Final = 256 * 2**20  # unpacked
MAX_NOTES: Final = 32 * 2**20
REPAIR_HINT: Final = "install or train the model again"
_HEAD: Final = struct.Struct("<8sQ")
_MAX_BYTE_CODES: Final = 256
_MOST_BARS: Final = 255  # entered between two notes; a note that is longer loses the others
_COLUMNS: Final = {
    "table": "<i4",
    "codes": "<u2", "intervals": "i1", "entered": "u1",  # by note
    "lengths": "<u4", "first_bars": "<i4",  # by run
    "runs": "<u4", "books": "<u4", "numbers": "<u4", "groups": "<u4",  # by tune
    "longest": "<u4", "shares": "<f4",  # by real tune
}  # fmt: skip
_TEXTS: Final = ("titles", "names")
_BY_TUNE: Final = ("runs", "books", "numbers", "groups")

TuneNotes: TypeAlias = Any  # (4, note): duration, interval, bar, whether a run starts


def extract_notes(score: Score) -> TuneNotes:
    """Return the notes of a score's runs, as an index keeps them."""
    columns = RunColumns.of(score)
    bars = bar_numbers(score, columns.onsets)
    rows = (columns.durations, columns.intervals, bars, columns.starts)
    return np.stack(rows).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Label:
    """What names a training tune."""

    title: str
    source: str  # the file that it stands in, without its folders
    number: int  # which of the file's tunes
    group: int  # tunes with the same number are near-duplicates

    def __str__(self) -> str:
        place = f"{self.source}, tune {self.number}" if self.number else self.source
        return f"{self.title!r} ({place})" if self.title else place or "an unnamed tune"


@dataclass(frozen=True, eq=False)
class NoteIndex:
    """The notes of many tunes as columns, and what names the tunes."""

    table: Any  # durations in steps, ascending
    codes: Any  # by note: its duration's place in the table
    intervals: Any  # by note: semitones from the note before; 0 where a run starts
    entered: Any  # by note: written bars entered since the note before, 0 where a run starts
    lengths: Any  # by run: its notes
    first_bars: Any  # by run: the bar that its first note stands in
    runs: Any  # by tune: how many it has
    books: Any  # by tune: the place of its file's name
    numbers: Any  # by tune: which of the file's tunes
    groups: Any  # by tune
    longest: Any  # of real tunes, ascending: the longest run shared with a tune of another group
    shares: Any  # of real tunes, ascending: the share of their 8-note runs that such tunes have
    titles: str  # a line a tune
    names: str  # a line a file

    @classmethod
    def of(cls, tunes: Iterable[tuple[TuneNotes, Label]]) -> NoteIndex:
        """Put tunes together."""
        found = list(tunes)
        notes = np.concatenate([np.zeros((4, 0), np.int32), *(own for own, _ in found)], axis=1)
        durations, intervals, bars, starts = notes
        table, codes = np.unique(durations, return_inverse=True)
        firsts = np.flatnonzero(starts)
        entered = np.diff(bars, prepend=0)
        entered[firsts] = 0
        labels = [label for _, label in found]
        names = list(dict.fromkeys(_to_one_line(label.source) for label in labels))
        places = {name: place for place, name in enumerate(names)}
        return cls(
            table=table,
            codes=codes.astype(np.uint8 if len(table) <= _MAX_BYTE_CODES else np.uint16),
            intervals=intervals.astype(np.int8),
            entered=np.clip(entered, 0, _MOST_BARS).astype(np.uint8),
            lengths=np.diff(np.append(firsts, len(starts))),
            first_bars=bars[firsts],
            runs=np.array([int(own[3].sum()) for own, _ in found], dtype=np.int64),
            books=np.array(
                [places[_to_one_line(label.source)] for label in labels], dtype=np.int64
            ),
            numbers=np.array([label.number for label in labels], dtype=np.int64),
            groups=np.array([label.group for label in labels], dtype=np.int64),
            longest=np.zeros(0, np.int64),
            shares=np.zeros(0),
            titles="\n".join(_to_one_line(label.title) for label in labels),
            names="\n".join(names),
        )

    def with_reference_stats(self, longest: Sequence[int], shares: Sequence[float]) -> NoteIndex:
        """Return the same with what real tunes share."""
        return replace(self, longest=np.sort(np.array(longest, dtype=np.int64)),
                       shares=np.sort(np.array(shares, dtype=np.float64)))  # fmt: skip

    def to_tunes(self) -> list[tuple[TuneNotes, Label]]:
        """Return the tunes one by one: what `of` takes."""
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
    def edges(self) -> Any:
        """Where each run starts; one more, where the last one stops."""
        return np.append(0, np.cumsum(self.lengths, dtype=np.int64))

    @cached_property
    def tune_by_run(self) -> Any:
        """The tune of each run."""
        return np.repeat(np.arange(len(self.runs)), self.runs)

    def find_bars(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and the last bar of some notes of one run."""
        run = int(np.searchsorted(self.edges, start, side="right")) - 1
        begun = int(self.edges[run]) + 1
        first = int(self.first_bars[run]) + int(self.entered[begun : start + 1].sum())
        return first, first + int(self.entered[start + 1 : stop].sum())

    def get_label(self, tune: int) -> Label:
        """Return what names a tune."""
        source = self._names[int(self.books[tune])]
        return Label(self._titles[tune], source, int(self.numbers[tune]), int(self.groups[tune]))

    @cached_property
    def _titles(self) -> list[str]:
        return self.titles.split("\n")

    @cached_property
    def _names(self) -> list[str]:
        return self.names.split("\n")

    def to_bytes(self) -> bytes:
        """Write all of it as bytes."""
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
        """Read what `render` wrote. Raises DamagedCheckpoint for anything else."""
        try:
            found = _parse_columns(_decompress(data))
            _check_columns(found)
        except (ValueError, TypeError, KeyError, struct.error, zlib.error) as fault:
            raise DamagedCheckpoint(f"{source}: it is no receipt index ({fault}); {REPAIR_HINT}") \
                from fault  # fmt: skip
        return found


def _to_one_line(text: str) -> str:
    """Return a text on one line that can be written as UTF-8."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")


def _decompress(data: bytes) -> bytes:
    magic, size = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError(f"it starts with {magic!r}, not {MAGIC!r}")
    if size > MAX_BYTES:
        raise ValueError(f"unpacked it has {size:,} bytes, over {MAX_BYTES:,}")
    packed = zlib.decompressobj()
    body = packed.decompress(data[_HEAD.size :], size + 1)
    if len(body) != size or not packed.eof or packed.unused_data:
        raise ValueError("it is longer or shorter than it says")
    return body


def _get_column_dtype(name: str, durations: int) -> str:
    """Return how a column is written: few durations have numbers of one byte."""
    return "u1" if name == "codes" and durations <= _MAX_BYTE_CODES else _COLUMNS[name]


def _parse_columns(body: bytes) -> NoteIndex:
    start = body.index(b"\n") + 1
    found: dict[str, Any] = {}
    for name, size in json.loads(body[:start]).items():
        if not isinstance(size, int) or not 0 <= size <= len(body) - start:
            raise ValueError(f"{name} has {size} bytes")
        if name in _TEXTS:
            found[name] = body[start : start + size].decode()
        else:
            kind = np.dtype(_get_column_dtype(name, len(found.get("table", ()))))
            count, odd = divmod(size, kind.itemsize)
            if odd:
                raise ValueError(f"{name} has {size} bytes")
            found[name] = np.frombuffer(body, kind, count, start)
        start += size
    return NoteIndex(**found)


def _check_columns(index: NoteIndex) -> None:
    """Raise ValueError unless the columns belong together."""
    notes, runs = len(index.codes), len(index.lengths)
    tunes = {len(getattr(index, name)) for name in _BY_TUNE}
    together = (
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
    if not together:
        raise ValueError("its columns do not belong together")
