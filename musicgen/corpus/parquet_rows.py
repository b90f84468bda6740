"""Lazy sequences over data on disk: rows of Parquet files, and the ids of many tunes."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Row = TypeVar("Row")
Int16Array: TypeAlias = NDArray[np.int16]
BatchToRows = Callable[[Any], list[Row]]  # a record batch -> its rows
_CACHED_GROUPS: Final = 2


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
