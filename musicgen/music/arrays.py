"""Rows of whole numbers, as NumPy holds them."""

from __future__ import annotations

from typing import Any

import numpy as np


def unique_sorted(values: Any) -> Any:
    """Return each value once, ascending: what np.unique does with a table of hashes, sooner."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def ragged_arange(sizes: Any) -> Any:
    """Count from 0 for each size: 2, 3 gives 0, 1, 0, 1, 2."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def splitmix64(values: Any) -> Any:
    """Scatter numbers evenly over 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
