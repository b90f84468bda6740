"""Keep the lines of all readers on disk until all files are read.

A spool belongs to one thread: a file of lines as `encode_file` yields them, grouped by tune file.
In memory a tune takes about 100 bytes: the position of its line, and the numbers by which tunes are
compared. Grams are spilt to bucket files by their highest bits, so that equal grams meet in one
bucket.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from musicgen.corpus.split import PAIR_DTYPE, Int64Array, RecordArray

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
