"""What readers say, kept on disk until all files are read.

A spool is one thread's: a file of lines as `encode_file` yields them, each file's lines together.
In memory a line costs some fifty bytes: where it stands, and the few numbers by which tunes are
compared. The hashes of a tune's stretches are spilt to files by their highest bits, so that equal
ones meet in one file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musicgen.corpus.split import PAIR_DTYPE

BUCKET_COUNT: Final = 64
MAX_PAIRS_IN_MEMORY: Final = 2**15  # before they are spilt
TUNE_DTYPE: Final = np.dtype([
    ("spool", "<u2"), ("file", "<u4"), ("start", "<u8"), ("size", "<u4"),
    ("content", "<u8", 4),  # the hash of its ids
    ("least", "<u8"),  # its smallest gram
    ("pitch", "<i2"), ("moves", "<u8"), ("shape", "<u8"),
])  # fmt: skip
FILE_DTYPE: Final = np.dtype([
    ("spool", "<u2"), ("file", "<u4"), ("start", "<u8"), ("stop", "<u8"),
    ("key", "V32"),  # of its bytes and of what read them
    ("kept", "<u4"), ("refused", "<u4"),
    ("lasting", "?"),  # whether it would say the same again
])  # fmt: skip
_TRANSIENT_CODES: Final = frozenset(("too-slow", "memory", "crashed", "unreadable"))


class Spool:
    """The lines that one thread's files gave."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder
        self._file = (folder / f"lines-{number}").open("w+b")
        self._tunes, self._files = bytearray(), bytearray()
        self._pairs: list[NDArray[Any]] = []
        self._pairs_held = 0
        self._offset = 0

    def add_file(self, file: int, key: bytes, lines: Iterable[bytes]) -> tuple[int, int]:
        """Keep what was said of a file; return how many tunes were kept and refused."""
        start, kept, refused, lasting = self._offset, 0, 0, bool(key)
        for line in lines:
            told = json.loads(line)
            self._file.write(line + b"\n")
            if "tune" in told:
                self._record_tune(file, told["tune"], len(line))
                kept += 1
            else:
                lasting = lasting and told["refusal"]["code"] not in _TRANSIENT_CODES
                refused += 1
            self._offset += len(line) + 1
        row = (self.number, file, start, self._offset, key.ljust(32, b"\0"), kept, refused, lasting)
        self._files += np.array([row], FILE_DTYPE).tobytes()
        return kept, refused

    def _record_tune(self, file: int, row: dict[str, Any], size: int) -> None:
        content = struct.unpack(">4Q", hashlib.sha256(base64.b64decode(row["ids"])).digest())
        grams = np.frombuffer(base64.b64decode(row["group"]), "<u8")
        pitch, moves, shape = row["line"]
        line = (pitch, int(moves, 16), int(shape, 16))
        tune = len(self._tunes) // TUNE_DTYPE.itemsize
        record = (self.number, file, self._offset, size, content, grams[0], *line)
        self._tunes += np.array([record], TUNE_DTYPE).tobytes()
        pairs = np.empty(len(grams), PAIR_DTYPE)
        pairs["gram"], pairs["tune"] = grams, tune
        self._pairs.append(pairs)
        self._pairs_held += len(pairs)
        if self._pairs_held >= MAX_PAIRS_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        pairs = np.concatenate([np.zeros(0, PAIR_DTYPE), *self._pairs])
        pairs = pairs[np.argsort(pairs["gram"])]
        edges = np.arange(BUCKET_COUNT, dtype=np.uint64) * np.uint64(2**64 // BUCKET_COUNT)
        starts = np.searchsorted(pairs["gram"], edges)
        for bucket, some in enumerate(np.split(pairs, starts[1:])):
            if len(some):
                with self._bucket_path(bucket).open("ab") as file:
                    file.write(some.tobytes())
        self._pairs, self._pairs_held = [], 0

    def _bucket_path(self, bucket: int) -> Path:
        return self._folder / f"grams-{self.number}-{bucket}"

    def finish_writing(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Have all on disk, to be read from now on; hand over the records of TUNE and of FILE."""
        self._spill()
        self._file.flush()
        tables = np.frombuffer(self._tunes, TUNE_DTYPE), np.frombuffer(self._files, FILE_DTYPE)
        self._tunes, self._files = bytearray(), bytearray()
        return tables

    def close_file(self) -> None:
        """Close the file."""
        self._file.close()

    def read_pairs(self, bucket: int) -> NDArray[Any]:
        """Return the grams of a bucket, each with the number of its tune in this spool."""
        path = self._bucket_path(bucket)
        return np.fromfile(path, PAIR_DTYPE) if path.exists() else np.zeros(0, PAIR_DTYPE)

    def read_row(self, tune: Any) -> dict[str, Any]:
        """Read the row of a tune."""
        self._file.seek(int(tune["start"]))
        return dict(json.loads(self._file.read(int(tune["size"])))["tune"])

    def iter_lines(self, file: Any) -> Iterator[bytes]:
        """Read all lines of a file."""
        self._file.seek(int(file["start"]))
        left = int(file["stop"]) - int(file["start"])
        while left:
            line = self._file.readline()
            left -= len(line)
            yield line[:-1]


class SpoolSet:
    """All spools of a build, and their tunes as one table."""

    def __init__(self, folder: Path, count: int) -> None:
        self.spools = [Spool(folder, number) for number in range(count)]

    def finish_writing(self) -> None:
        """Have all on disk, and put the tables together."""
        tables = [spool.finish_writing() for spool in self.spools]
        self._firsts = np.cumsum([0, *(len(tunes) for tunes, _ in tables)])
        self.tunes = np.concatenate([tunes for tunes, _ in tables])
        self.files = np.concatenate([files for _, files in tables])

    def close_files(self) -> None:
        """Close the files."""
        for spool in self.spools:
            spool.close_file()

    def iter_buckets(self, owner: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield grams, the tunes numbered as the owner of each says; equal grams come together."""
        for bucket in range(BUCKET_COUNT):
            found = [spool.read_pairs(bucket) for spool in self.spools]
            for pairs, first in zip(found, self._firsts, strict=False):
                pairs["tune"] = owner[pairs["tune"] + first]
            yield np.concatenate(found)

    def read_row(self, tune: int) -> dict[str, Any]:
        """Read the row of a tune."""
        record = self.tunes[tune]
        return self.spools[int(record["spool"])].read_row(record)

    def iter_lines(self, file: Any) -> Iterator[bytes]:
        """Read the lines of a record of FILE."""
        return self.spools[int(file["spool"])].iter_lines(file)

    def sort_files(self, names: Callable[[int], str]) -> Sequence[Any]:
        """Return the records of all files, by name and then by content."""
        table = [(names(int(record["file"])), bytes(record["key"])) for record in self.files]
        return [self.files[place] for place in sorted(range(len(table)), key=table.__getitem__)]
