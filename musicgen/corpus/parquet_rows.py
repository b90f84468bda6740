"""Rows of Parquet files as sequences that are read when they are asked for, and not kept."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Row = TypeVar("Row")
BatchToRows = Callable[[Any], list[Row]]  # a record batch -> its rows
_CACHED_GROUPS: Final = 2


class ParquetRows(Sequence[Row], Generic[Row]):
    """The rows of some Parquet files, one file after the other; a row group is read at a time."""

    def __init__(
        self, paths: Sequence[Path], make: BatchToRows[Row], keep_alive: object = None
    ) -> None:
        import pyarrow.parquet as pq  # 0.3 s

        self.paths = tuple(paths)
        self._make = make
        self._keep_alive = keep_alive  # what holds the files
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in paths:
            about = pq.read_metadata(path)
            self._groups += [(path, number) for number in range(about.num_row_groups)]
            sizes += [about.row_group(number).num_rows for number in range(about.num_row_groups)]
        self._starts: list[int] = list(accumulate(sizes, initial=0))
        self._group_cache: OrderedDict[int, list[Row]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Return a row, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
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
        """Yield one column, a chunk for each row group; nothing else is read."""
        import pyarrow.parquet as pq

        for path in self.paths:
            with pq.ParquetFile(path) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number, columns=[name]).column(0).combine_chunks()

    @cached_property
    def ids(self) -> StoredIds:
        """The ids of all rows."""
        return StoredIds(self.iter_column("ids"))

    def _load_group(self, group: int) -> list[Row]:
        """Read a row group; a few are kept for the rows that are asked for next."""
        import pyarrow.parquet as pq

        if group not in self._group_cache:
            path, number = self._groups[group]
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(number).combine_chunks()
            rows = [row for batch in table.to_batches() for row in self._make(batch)]
            self._group_cache[group] = rows
            while len(self._group_cache) > _CACHED_GROUPS:
                self._group_cache.popitem(last=False)
        return self._group_cache[group]


class StoredIds(Sequence[NDArray[np.int16]]):
    """The ids of many tunes, end to end in a file without a name that is mapped into memory.

    Any tune is at hand at once, and what is not in use takes no memory that others need.
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

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int16]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.int16]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int16] | list[NDArray[np.int16]]:
        """Return a tune's ids, without a copy."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f"tune {index} of {len(self)}")
        return np.asarray(self._flat[self._edges[index] : self._edges[index + 1]])

    @property
    def token_count(self) -> int:
        """How many ids there are in all."""
        return int(self._edges[-1])

    @property
    def flat(self) -> NDArray[np.int16]:
        """All ids, end to end."""
        return np.asarray(self._flat)
