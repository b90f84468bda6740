"""Damage files in the ways that disks and interrupted copies do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

Damage = Callable[[bytes, np.random.Generator], bytes]


def flip_bit(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def zero_out(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 64)))
    return data[:start] + bytes(stop - start) + data[stop:]


DAMAGES: Final = (flip_bit, truncate, zero_out)


def damage_files(folder: Path, damage: Damage, times: int) -> Iterator[Path]:
    """Damage the files of a folder in turn; yield each while it is damaged, then restore it."""
    rng = np.random.default_rng(5)
    files = sorted(folder.iterdir())
    count = 0
    while count < times:
        path = files[count % len(files)]
        original = path.read_bytes()
        damaged = damage(original, rng)
        if damaged == original:
            continue
        count += 1
        path.write_bytes(damaged)
        yield path
        path.write_bytes(original)
