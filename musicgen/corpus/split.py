"""Near-duplicates into groups, and groups into train, valid and test.

Two tunes belong together if they share SHARED_MOVES consecutive moves (interval and duration), or
are equal where they are shorter. A group's part follows from its content alone, so that neither
the order of files nor a later corpus moves a tune, unless that brings a relative of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from musicgen.music.runs import Move

SHARED_MOVES: Final = 20
SplitName = Literal["train", "valid", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "valid", "test")
_VALID_FROM, _TEST_FROM = 0.85, 0.925
_GROUPS_FOR_VALID, _GROUPS_FOR_TEST = 2, 5  # as few groups as may fill that part

Grams = NDArray[np.uint64]


def grams(moves: Sequence[Move], length: int = SHARED_MOVES) -> Grams:
    """Hash every stretch of a tune's moves, or the whole of a shorter tune; sorted, each once."""
    if len(moves) < length:
        return np.array([_hash(repr(list(moves)).encode())], dtype=np.uint64)
    table = np.array(moves, dtype=np.int64).astype(np.uint64)
    values = _mixed(table[:, 0] * np.uint64(1 << 32) + table[:, 1])
    weights = _mixed(np.arange(1, length + 1, dtype=np.uint64)) | np.uint64(1)
    windows = np.lib.stride_tricks.sliding_window_view(values, length)
    return np.unique(_mixed((windows * weights).sum(axis=1, dtype=np.uint64)))


def groups(tunes: Sequence[Grams]) -> list[str]:
    """Name the group of each tune: tunes that share a hash are in one, and so are their relatives.

    The name is the group's smallest hash, which a slightly different relative seldom changes.
    """
    links = _Links(len(tunes))
    if tunes:
        owners = np.repeat(np.arange(len(tunes)), [len(tune) for tune in tunes])
        hashes = np.concatenate(tunes)
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        for first, second in zip(owners[order][equal], owners[order][equal + 1], strict=True):
            links.join(int(first), int(second))
    smallest: dict[int, int] = {}
    for index, tune in enumerate(tunes):
        root = links.root(index)
        smallest[root] = min(smallest.get(root, 2**64), int(tune[0]))
    return [f"{smallest[links.root(index)]:016x}" for index in range(len(tunes))]


def splits(names: Iterable[str]) -> Mapping[str, SplitName]:
    """Give each group its part by its name; a small corpus fills train first, then valid."""
    places = {name: _hash(name.encode()) / 2**64 for name in set(names)}
    ordered = sorted(places, key=lambda name: (places[name], name))
    chosen = {name: _part(places[name]) for name in ordered}
    taken = set(chosen.values())
    if len(ordered) >= _GROUPS_FOR_TEST and "test" not in taken:
        chosen[ordered[-1]] = "test"
    if ordered and "train" not in chosen.values():
        chosen[ordered[0]] = "train"
    trained = [name for name in ordered if chosen[name] == "train"]
    if len(trained) >= _GROUPS_FOR_VALID and "valid" not in chosen.values():
        chosen[trained[-1]] = "valid"
    return chosen


def _part(place: float) -> SplitName:
    return "train" if place < _VALID_FROM else "valid" if place < _TEST_FROM else "test"


class _Links:
    """Which tunes are joined: a forest whose roots stand for the groups."""

    def __init__(self, size: int) -> None:
        self.parents = list(range(size))

    def root(self, index: int) -> int:
        while self.parents[index] != index:
            self.parents[index] = self.parents[self.parents[index]]
            index = self.parents[index]
        return index

    def join(self, first: int, second: int) -> None:
        self.parents[self.root(second)] = self.root(first)


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _mixed(values: Grams) -> Grams:
    """Scatter numbers evenly over 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
