"""Near-duplicates into groups, and groups into train, valid and test.

Two tunes belong together if they share SHARED_MOVES consecutive moves (interval and duration), or
are equal where they are shorter. A group's part follows from its content alone, so that neither
the order of files nor a later corpus moves a tune, unless that brings a relative of it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from musicgen.music.arrays import splitmix64
from musicgen.music.melodic_runs import Move

SHARED_MOVES: Final = 20
SplitName = Literal["train", "valid", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "valid", "test")
_TRAIN, _VALID, _TEST = range(len(SPLITS))
_VALID_FROM, _TEST_FROM = 0.85, 0.925
_GROUPS_FOR_VALID, _GROUPS_FOR_TEST = 2, 5  # as few groups as may fill that part

RELATIONS: Final = ("", "exact", "transposed", "rescaled", "variant")
_, EXACT, TRANSPOSED, RESCALED, VARIANT = range(len(RELATIONS))

Grams = NDArray[np.uint64]
PAIR_DTYPE: Final = np.dtype([("gram", "<u8"), ("tune", "<u4")])


def hash_grams(moves: Sequence[Move], length: int = SHARED_MOVES) -> Grams:
    """Hash every stretch of a tune's moves, or the whole of a shorter tune; sorted, each once."""
    if len(moves) < length:
        return np.array([_hash_bytes(repr(list(moves)).encode())], dtype=np.uint64)
    table = np.array(moves, dtype=np.int64).astype(np.uint64)
    values = splitmix64(table[:, 0] * np.uint64(1 << 32) + table[:, 1])
    weights = splitmix64(np.arange(1, length + 1, dtype=np.uint64)) | np.uint64(1)
    windows = np.lib.stride_tricks.sliding_window_view(values, length)
    return np.unique(splitmix64((windows * weights).sum(axis=1, dtype=np.uint64)))


def group_tunes(tunes: Sequence[Grams]) -> list[str]:
    """Name the group of each tune: tunes that share a hash are in one, and so are their relatives.

    The name is the group's smallest hash, which a slightly different relative seldom changes.
    """
    pairs = np.zeros(sum(map(len, tunes)), PAIR_DTYPE)
    if tunes:
        pairs["gram"] = np.concatenate(tunes)
        pairs["tune"] = np.repeat(np.arange(len(tunes)), [len(tune) for tune in tunes])
    smallest = np.array([tune[0] for tune in tunes], dtype=np.uint64)
    return [
        format_group_name(name)
        for name in number_groups(find_group_roots(len(tunes), [pairs]), smallest)
    ]


def format_group_name(number: int) -> str:
    """Write a group's number as data sets do."""
    return f"{int(number):016x}"


def find_group_roots(count: int, chunks: Iterable[NDArray[Any]]) -> NDArray[np.int64]:
    """Return, for each of so many tunes, the one that stands for its group.

    A chunk holds pairs of gram and tune; equal grams stand in the same chunk.
    """
    links = _DisjointSets(count)
    for pairs in chunks:
        order = np.lexsort((pairs["tune"], pairs["gram"]))
        hashes, owners = pairs["gram"][order], pairs["tune"][order]
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        edges = np.unique(owners[equal].astype(np.int64) * count + owners[equal + 1])
        for edge in edges.tolist():
            links.merge(*divmod(edge, count))
    return np.array([links.find_root(index) for index in range(count)], dtype=np.int64)


def number_groups(roots: NDArray[np.int64], smallest: Grams) -> Grams:
    """Number each tune's group by the smallest hash of any of its tunes."""
    least = np.full(len(roots), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, roots, smallest)
    return least[roots]


def find_first_equal(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Return, for each tune, the first one whose keys are all equal to its own."""
    order = np.lexsort(keys)  # stable: among equal ones the first comes first
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    found = np.empty(len(order), dtype=np.int64)
    found[order] = order[fresh][np.cumsum(fresh) - 1]
    return found


def find_relations(
    roots: NDArray[np.int64], lines: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Say how each tune is related to an earlier one of its group: places in RELATIONS, and which.

    The first tune of a group is related to itself, by nothing.
    """
    own = np.arange(len(roots))
    first = find_first_equal(roots)
    same_shape, same_moves = (find_first_equal(lines[name], roots) for name in ("shape", "moves"))
    kinds = np.where(lines["pitch"] == lines["pitch"][same_moves], EXACT, TRANSPOSED)
    like = same_moves
    for others, kind in ((same_shape, RESCALED), (first, VARIANT)):
        kinds = np.where(like == own, kind, kinds)
        like = np.where(like == own, others, like)
    return np.where(like == own, 0, kinds), like


def assign_splits(names: Iterable[str]) -> Mapping[str, SplitName]:
    """Give each group its part by its name; a small corpus fills train first, then valid."""
    known = sorted(set(names))
    return dict(zip(known, (SPLITS[code] for code in _compute_split_codes(known)), strict=True))


def split_position(name: str) -> float:
    """Return where a group stands between 0 and 1: by that its part is decided."""
    return _hash_bytes(name.encode()) / 2**64


def assign_split_codes(groups: Grams) -> NDArray[np.int64]:
    """Return each tune's place in SPLITS, by the number of its group."""
    numbers, group = np.unique(groups, return_inverse=True)
    codes: NDArray[np.int64] = _compute_split_codes(
        [format_group_name(number) for number in numbers.tolist()]
    )[group]
    return codes


def _compute_split_codes(names: Sequence[str]) -> NDArray[np.int64]:
    """Return the place in SPLITS of groups in the order of their names."""
    places = np.array([split_position(name) for name in names])
    ordered = np.argsort(places, kind="stable")
    codes: NDArray[np.int64] = np.digitize(places, (_VALID_FROM, _TEST_FROM))
    if len(names) >= _GROUPS_FOR_TEST and not np.any(codes == _TEST):
        codes[ordered[-1]] = _TEST
    if len(names) and not np.any(codes == _TRAIN):
        codes[ordered[0]] = _TRAIN
    trained = ordered[codes[ordered] == _TRAIN]
    if len(trained) >= _GROUPS_FOR_VALID and not np.any(codes == _VALID):
        codes[trained[-1]] = _VALID
    return codes


class _DisjointSets:
    """Which tunes are joined: a forest whose roots stand for the groups."""

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
