"""Data on disk that would not fit in memory: stored tunes, and what readers found so far.

`ParquetRows` and `StoredIds` are lazy sequences over the rows of Parquet files and over the ids of
many tunes.

Until all files are read, the lines of all readers are kept on disk. A spool belongs to one thread:
a file of lines as `encode_file` yields them, grouped by tune file. In memory a tune takes about 100
bytes: the position of its line, and the numbers by which tunes are compared. Grams are spilt to
bucket files by their highest bits, so that equal grams meet in one bucket.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.split import PAIR_DTYPE, Int64Array, RecordArray

Item = TypeVar("Item")
Row = TypeVar("Row")
Int16Array: TypeAlias = NDArray[np.int16]
BatchToRows = Callable[[Any], list[Row]]  # a record batch -> its rows
_CACHED_GROUPS: Final = 2
BUCKET_COUNT: Final = 64
MAX_PAIRS_IN_MEMORY: Final = 2**15  # before they are spilt to disk
TUNE_DTYPE: Final = np.dtype([
    ("spool", "<u2"), ("file", "<u4"), ("start", "<u8"), ("size", "<u4"),
    ("content", "<u8", 4),  # SHA-256 of its ids
    ("smallest_gram", "<u8"),
    ("pitch", "<i2"), ("moves", "<u8"), ("shape", "<u8"),
    ("order", "u1"),  # of its parts; 0: as written
])  # fmt: skip
FILE_DTYPE: Final = np.dtype([
    ("spool", "<u2"), ("file", "<u4"), ("start", "<u8"), ("stop", "<u8"),
    ("key", "V32"),  # cache key
    ("kept", "<u4"), ("refused", "<u4"),
    ("cacheable", "?"),  # whether reading it again would give the same lines
])  # fmt: skip
_TRANSIENT_CODES: Final = frozenset(("too-slow", "memory", "crashed", "unreadable"))


class LazySequence(Sequence[Item], Generic[Item]):
    """A sequence whose items are made when they are indexed."""

    def get_item(self, index: int) -> Item:
        """Return the item at an index in 0..len - 1."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Return an item, or a list of the items of a slice."""
        indices = range(len(self))[index]
        if isinstance(indices, range):
            return [self.get_item(number) for number in indices]
        return self.get_item(indices)


class ParquetRows(LazySequence[Row], Generic[Row]):
    """The rows of several Parquet files in order; one row group is read at a time.

    Args:
        paths: the files.
        make_rows: turns a record batch into rows.
        keep_alive: an object that must live as long as the files are read.
    """

    def __init__(
        self, paths: Sequence[Path], make_rows: BatchToRows[Row], keep_alive: object = None
    ) -> None:
        import pyarrow.parquet as pq  # 0.3 s

        self.paths = tuple(paths)
        self._make_rows = make_rows
        self._keep_alive = keep_alive
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in paths:
            file = pq.read_metadata(path)
            self._groups += [(path, number) for number in range(file.num_row_groups)]
            sizes += [file.row_group(number).num_rows for number in range(file.num_row_groups)]
        self._starts: list[int] = list(accumulate(sizes, initial=0))
        self._group_cache: OrderedDict[int, list[Row]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def get_item(self, index: int) -> Row:
        """Return a row."""
        group = bisect_right(self._starts, index) - 1
        return self._load_group(group)[index - self._starts[group]]

    def __iter__(self) -> Iterator[Row]:
        for group in range(len(self._groups)):
            yield from self._load_group(group)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def iter_column(self, name: str) -> Iterator[Any]:
        """Yield a column as one Arrow array per row group; no other column is read."""
        import pyarrow.parquet as pq

        for path in self.paths:
            with pq.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number, columns=[name]).column(0).combine_chunks()

    @cached_property
    def ids(self) -> StoredIds:
        """The token ids of all rows, memory-mapped."""
        return StoredIds(self.iter_column("ids"))

    def _load_group(self, group: int) -> list[Row]:
        """Read a row group; the last few are cached."""
        import pyarrow.parquet as pq

        if group not in self._group_cache:
            path, number = self._groups[group]
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(number).combine_chunks()
            rows = [row for batch in table.to_batches() for row in self._make_rows(batch)]
            self._group_cache[group] = rows
            while len(self._group_cache) > _CACHED_GROUPS:
                self._group_cache.popitem(last=False)
        return self._group_cache[group]


class StoredIds(LazySequence[Int16Array]):
    """The token ids of many tunes, concatenated in an unnamed, memory-mapped temporary file.

    Any tune can be read at once, and unused pages take no memory.
    """

    def __init__(self, chunks: Iterator[Any]) -> None:
        lengths = [np.zeros(1, np.int64)]
        with tempfile.TemporaryFile(prefix="musicgen-") as file:
            for chunk in chunks:
                lengths.append(chunk.value_lengths().to_numpy(zero_copy_only=False))
                file.write(chunk.flatten().to_numpy().astype("<i2").tobytes())
            file.flush()
            self._edges = np.cumsum(np.concatenate(lengths), dtype=np.int64)
            size = int(self._edges[-1])
            self._flat = np.memmap(file, "<i2", "r") if size else np.zeros(0, np.int16)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def get_item(self, index: int) -> Int16Array:
        """Return the ids of a tune, (tokens,) int16, without a copy."""
        return np.asarray(self._flat[self._edges[index] : self._edges[index + 1]])

    @property
    def token_count(self) -> int:
        """The number of ids of all tunes."""
        return int(self._edges[-1])

    @property
    def flat(self) -> Int16Array:
        """The ids of all tunes, concatenated: (token_count,) int16."""
        return np.asarray(self._flat)


class Spool:
    """The lines of the files that one thread read."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder
        self._file = (folder / f"lines-{number}").open("w+b")
        self._tunes, self._files = bytearray(), bytearray()
        self._pairs: list[RecordArray] = []
        self._pair_count = 0
        self._offset = 0

    def add_file(self, file: int, key: bytes, lines: Iterable[bytes]) -> tuple[int, int]:
        """Write the lines of a file; return how many tunes were kept and refused.

        Args:
            file: the number of the file.
            key: its cache key, b"" if it has none.
            lines: as `encode_file` yields them.
        """
        start, kept, refused, cacheable = self._offset, 0, 0, bool(key)
        for line in lines:
            answer = json.loads(line)
            self._file.write(line + b"\n")
            if "tune" in answer:
                self._record_tune(file, answer["tune"], len(line))
                kept += answer["tune"].get("order", 0) == 0
            else:
                cacheable = cacheable and answer["refusal"]["code"] not in _TRANSIENT_CODES
                refused += 1
            self._offset += len(line) + 1
        padded_key = key.ljust(32, b"\0")
        record = (self.number, file, start, self._offset, padded_key, kept, refused, cacheable)
        self._files += np.array([record], FILE_DTYPE).tobytes()
        return kept, refused

    def _record_tune(self, file: int, row: dict[str, Any], size: int) -> None:
        content = struct.unpack(">4Q", hashlib.sha256(base64.b64decode(row["ids"])).digest())
        grams = np.frombuffer(base64.b64decode(row["group"]), "<u8")
        pitch, moves, shape = row["line"]
        tune = len(self._tunes) // TUNE_DTYPE.itemsize
        record = (self.number, file, self._offset, size, content, grams[0],
                  pitch, int(moves, 16), int(shape, 16), row.get("order", 0))  # fmt: skip
        self._tunes += np.array([record], TUNE_DTYPE).tobytes()
        pairs = np.empty(len(grams), PAIR_DTYPE)
        pairs["gram"], pairs["tune"] = grams, tune
        self._pairs.append(pairs)
        self._pair_count += len(pairs)
        if self._pair_count >= MAX_PAIRS_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        pairs = np.concatenate([np.zeros(0, PAIR_DTYPE), *self._pairs])
        pairs = pairs[np.argsort(pairs["gram"])]
        edges = np.arange(BUCKET_COUNT, dtype=np.uint64) * np.uint64(2**64 // BUCKET_COUNT)
        starts = np.searchsorted(pairs["gram"], edges)
        for bucket, bucket_pairs in enumerate(np.split(pairs, starts[1:])):
            if len(bucket_pairs):
                with self._bucket_path(bucket).open("ab") as file:
                    file.write(bucket_pairs.tobytes())
        self._pairs, self._pair_count = [], 0

    def _bucket_path(self, bucket: int) -> Path:
        return self._folder / f"grams-{self.number}-{bucket}"

    def finish_writing(self) -> tuple[RecordArray, RecordArray]:
        """Write everything to disk; from now on the spool can be read.

        Returns:
            (tunes,) structured TUNE_DTYPE, and (files,) structured FILE_DTYPE.
        """
        self._spill()
        self._file.flush()
        tables = np.frombuffer(self._tunes, TUNE_DTYPE), np.frombuffer(self._files, FILE_DTYPE)
        self._tunes, self._files = bytearray(), bytearray()
        return tables

    def close_file(self) -> None:
        """Close the file."""
        self._file.close()

    def read_pairs(self, bucket: int) -> RecordArray:
        """Return the (pairs,) structured PAIR_DTYPE of a bucket, tunes numbered per spool."""
        path = self._bucket_path(bucket)
        return np.fromfile(path, PAIR_DTYPE) if path.exists() else np.zeros(0, PAIR_DTYPE)

    def read_row(self, tune: np.void) -> dict[str, Any]:
        """Read the row of a record of TUNE_DTYPE."""
        self._file.seek(int(tune["start"]))
        return dict(json.loads(self._file.read(int(tune["size"])))["tune"])

    def iter_lines(self, file: np.void) -> Iterator[bytes]:
        """Yield the lines of a record of FILE_DTYPE."""
        self._file.seek(int(file["start"]))
        remaining_bytes = int(file["stop"]) - int(file["start"])
        while remaining_bytes:
            line = self._file.readline()
            remaining_bytes -= len(line)
            yield line[:-1]


class SpoolSet:
    """All spools of a build, with one table of their tunes and one of their files."""

    def __init__(self, folder: Path, count: int) -> None:
        self.spools = [Spool(folder, number) for number in range(count)]

    def finish_writing(self) -> None:
        """Write all spools to disk, and concatenate their tables."""
        tables = [spool.finish_writing() for spool in self.spools]
        self._first_tunes = np.cumsum([0, *(len(tunes) for tunes, _ in tables)])
        self.tunes = np.concatenate([tunes for tunes, _ in tables])
        self.files = np.concatenate([files for _, files in tables])

    def close_files(self) -> None:
        """Close the files of all spools."""
        for spool in self.spools:
            spool.close_file()

    def iter_buckets(self, owner: Int64Array) -> Iterator[RecordArray]:
        """Yield the pairs of gram and tune, bucket by bucket; equal grams are in the same bucket.

        Args:
            owner: (tunes,) int64, the new number of each tune.

        Yields:
            (pairs,) structured PAIR_DTYPE.
        """
        for bucket in range(BUCKET_COUNT):
            parts = [spool.read_pairs(bucket) for spool in self.spools]
            for pairs, first_tune in zip(parts, self._first_tunes, strict=False):
                pairs["tune"] = owner[pairs["tune"] + first_tune]
            yield np.concatenate(parts)

    def read_row(self, tune: int) -> dict[str, Any]:
        """Read the row of a tune by its number."""
        record = self.tunes[tune]
        return self.spools[int(record["spool"])].read_row(record)

    def iter_lines(self, file: np.void) -> Iterator[bytes]:
        """Yield the lines of a record of FILE_DTYPE."""
        return self.spools[int(file["spool"])].iter_lines(file)

    def sort_files(self, get_name: Callable[[int], str]) -> list[np.void]:
        """Return the records of all files, sorted by name and then by cache key."""

        def sort_key(record: np.void) -> tuple[str, bytes]:
            return get_name(int(record["file"])), bytes(record["key"])

        return sorted(self.files, key=sort_key)
