"""Group near-duplicates, and split the groups into train, valid and test.

Two tunes are near-duplicates if they share SHARED_MOVES consecutive moves (interval and duration),
or are equal if they are shorter; in tunes of drums alone, hits take the place of moves. A *gram* is
the hash of such a stretch of moves. The split of a group follows from its content alone, so that
neither the order of files nor a later corpus moves a tune to another split, unless the corpus adds
a near-duplicate of it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen.music.arrays import splitmix64
from musicgen.music.melodic_runs import Move

SHARED_MOVES: Final = 20
SplitName = Literal["train", "valid", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "valid", "test")
_TRAIN, _VALID, _TEST = range(len(SPLITS))
_VALID_FROM, _TEST_FROM = 0.85, 0.925
_GROUPS_FOR_VALID, _GROUPS_FOR_TEST = 2, 5  # smallest corpus that has that split

RELATIONS: Final = ("", "exact", "transposed", "rescaled", "variant")
_, EXACT, TRANSPOSED, RESCALED, VARIANT = range(len(RELATIONS))

Grams: TypeAlias = NDArray[np.uint64]
Int64Array: TypeAlias = NDArray[np.int64]
RecordArray: TypeAlias = NDArray[np.void]
PAIR_DTYPE: Final = np.dtype([("gram", "<u8"), ("tune", "<u4")])


def hash_grams(moves: Sequence[Move], length: int = SHARED_MOVES) -> Grams:
    """Hash every stretch of `length` moves of a tune, or the whole of a shorter tune.

    Returns:
        (grams,) uint64, sorted and unique.
    """
    if len(moves) < length:
        return np.array([_hash_bytes(repr(list(moves)).encode())], dtype=np.uint64)
    table = np.array(moves, dtype=np.int64).astype(np.uint64)
    values = splitmix64(table[:, 0] * np.uint64(1 << 32) + table[:, 1])
    weights = splitmix64(np.arange(1, length + 1, dtype=np.uint64)) | np.uint64(1)
    windows = np.lib.stride_tricks.sliding_window_view(values, length)
    return np.unique(splitmix64((windows * weights).sum(axis=1, dtype=np.uint64)))


def format_group_name(number: int) -> str:
    """Write the number of a group as 16 hex digits."""
    return f"{int(number):016x}"


def find_group_roots(count: int, chunks: Iterable[RecordArray]) -> Int64Array:
    """Group tunes that share a gram, directly or through other tunes.

    Args:
        count: number of tunes.
        chunks: each (pairs,) structured PAIR_DTYPE; equal grams are in the same chunk.

    Returns:
        (count,) int64: for each tune, the tune that represents its group.
    """
    links = _DisjointSets(count)
    for pairs in chunks:
        order = np.lexsort((pairs["tune"], pairs["gram"]))
        hashes, owners = pairs["gram"][order], pairs["tune"][order]
        repeats = np.flatnonzero(hashes[1:] == hashes[:-1])
        edges = np.unique(owners[repeats].astype(np.int64) * count + owners[repeats + 1])
        for edge in edges.tolist():
            links.merge(*divmod(edge, count))
    return np.array([links.find_root(index) for index in range(count)], dtype=np.int64)


def number_groups(roots: Int64Array, smallest_grams: Grams) -> Grams:
    """Number each group by its smallest gram, which a slightly different relative seldom changes.

    Args:
        roots: (tunes,) int64, as `find_group_roots` returns them.
        smallest_grams: (tunes,) uint64, the smallest gram of each tune.

    Returns:
        (tunes,) uint64: the number of the group of each tune.
    """
    smallest = np.full(len(roots), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, roots, smallest_grams)
    return smallest[roots]


def find_first_equal(*keys: NDArray[Any]) -> Int64Array:
    """Return, for each tune, the first tune with the same keys.

    Args:
        keys: each (tunes,) of any dtype.

    Returns:
        (tunes,) int64.
    """
    order = np.lexsort(keys)  # stable: among equal tunes the first comes first
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    first_equal = np.empty(len(order), dtype=np.int64)
    first_equal[order] = order[is_new][np.cumsum(is_new) - 1]
    return first_equal


def find_relations(roots: Int64Array, tunes: RecordArray) -> tuple[Int64Array, Int64Array]:
    """Relate each tune to an earlier tune of its group.

    Args:
        roots: (tunes,) int64, as `find_group_roots` returns them.
        tunes: (tunes,) structured, with the fields "pitch", "moves" and "shape".

    Returns:
        (tunes,) int64 indices of RELATIONS, and (tunes,) int64 the related tunes. The first tune
        of a group has relation 0, to itself.
    """
    indices = np.arange(len(roots))
    first = find_first_equal(roots)
    same_shape, same_moves = (find_first_equal(tunes[name], roots) for name in ("shape", "moves"))
    kinds = np.where(tunes["pitch"] == tunes["pitch"][same_moves], EXACT, TRANSPOSED)
    like = same_moves
    for related, kind in ((same_shape, RESCALED), (first, VARIANT)):
        kinds = np.where(like == indices, kind, kinds)
        like = np.where(like == indices, related, like)
    return np.where(like == indices, 0, kinds), like


def assign_splits(names: Iterable[str]) -> dict[str, SplitName]:
    """Return the split of each group by its name; a small corpus fills train first, then valid."""
    unique = sorted(set(names))
    codes = _compute_split_codes(unique).tolist()
    return {name: SPLITS[code] for name, code in zip(unique, codes, strict=True)}


def split_position(name: str) -> float:
    """Return the position of a group in 0..1, which decides its split."""
    return _hash_bytes(name.encode()) / 2**64


def assign_split_codes(groups: Grams) -> Int64Array:
    """Assign each tune to a split by the number of its group.

    Args:
        groups: (tunes,) uint64, as `number_groups` returns them.

    Returns:
        (tunes,) int64 indices of SPLITS.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    codes: Int64Array = _compute_split_codes(
        [format_group_name(number) for number in numbers.tolist()]
    )[group]
    return codes


def _compute_split_codes(names: Sequence[str]) -> Int64Array:
    """Return the index in SPLITS of each group; the names are unique and sorted."""
    positions = np.array([split_position(name) for name in names])
    ordered = np.argsort(positions, kind="stable")
    codes: Int64Array = np.digitize(positions, (_VALID_FROM, _TEST_FROM))
    if len(names) >= _GROUPS_FOR_TEST and not np.any(codes == _TEST):
        codes[ordered[-1]] = _TEST
    if len(names) and not np.any(codes == _TRAIN):
        codes[ordered[0]] = _TRAIN
    train_groups = ordered[codes[ordered] == _TRAIN]
    if len(train_groups) >= _GROUPS_FOR_VALID and not np.any(codes == _VALID):
        codes[train_groups[-1]] = _VALID
    return codes


class _DisjointSets:
    """Disjoint sets of tunes (union-find): a forest whose roots represent the groups."""

    def __init__(self, size: int) -> None:
        self.parents = array("q", range(size))

    def find_root(self, index: int) -> int:
        while self.parents[index] != index:
            self.parents[index] = self.parents[self.parents[index]]
            index = self.parents[index]
        return index

    def merge(self, first: int, second: int) -> None:
        self.parents[self.find_root(second)] = self.find_root(first)


def _hash_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
