"""Array types, and operations on arrays of integers that NumPy lacks."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
UInt64Array: TypeAlias = NDArray[np.uint64]
TokenIds: TypeAlias = NDArray[np.integer[Any]]  # (token,) the ids of one tune: int16 or int64

_Scalar = TypeVar("_Scalar", bound=np.generic)


def unique_sorted(values: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Return the distinct values in ascending order, faster than np.unique, which hashes.

    Args:
        values: (n,) any dtype that sorts.
    """
    values = np.sort(values)
    return np.compress(is_new_value(values), values)


def sort_rows(*columns: IntArray) -> IntArray:
    """Return the stable order of rows by their columns, the first column first.

    Columns that fit into one integer are sorted as such, which is several times as fast as
    np.lexsort; an unstable sort is faster still, and the same where all rows are distinct.

    Args:
        columns: (n,) int64 each, 0 or more.
    """
    keys, bits = columns[0], 0
    for column in columns[1:]:
        width = int(column.max(initial=0)).bit_length()
        keys, bits = keys << width | column, bits + width
    if bits + int(columns[0].max(initial=0)).bit_length() > _INTEGER_BITS:
        return np.lexsort(columns[::-1])
    order = np.argsort(keys)
    is_distinct = is_new_value(keys[order]).all()
    return order if is_distinct else np.argsort(keys, kind="stable")


_INTEGER_BITS: Final = 63


def is_new_value(values: NDArray[_Scalar]) -> BoolArray:
    """Return for each value whether it is the first or differs from the one before it.

    Args:
        values: (n,) any dtype.

    Returns:
        (n,) bool.
    """
    is_new = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return is_new


def find_median(values: NDArray[_Scalar]) -> float:
    """Return the median of numbers, faster than np.median on short arrays.

    Args:
        values: (n,) int64 or float64, n at least 1.
    """
    ordered = np.sort(values)
    count = len(ordered)
    return float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)


def ragged_arange(sizes: IntArray) -> IntArray:
    """Count from 0 for each size: sizes 2, 3 give 0, 1, 0, 1, 2.

    Args:
        sizes: (n,) int64, each 0 or more.

    Returns:
        (sum(sizes),) int64.
    """
    return ragged_ranges(np.zeros_like(sizes), sizes)


def ragged_ranges(starts: IntArray, sizes: IntArray) -> IntArray:
    """Count from each start: starts 7, 4 and sizes 2, 3 give 7, 8, 4, 5, 6.

    Args:
        starts: (n,) int64.
        sizes: (n,) int64, each 0 or more.

    Returns:
        (sum(sizes),) int64.
    """
    return np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)


def splitmix64(values: UInt64Array) -> UInt64Array:
    """Hash integers to 64 bits with the finalizer of splitmix64.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.

    Args:
        values: (n,) uint64.

    Returns:
        (n,) uint64.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def find_repetitions(codes: IntArray, most: int) -> tuple[IntArray, IntArray]:
    """Find for each place the earlier one before which the most values were the same.

    Args:
        codes: (n,) int64.
        most: a longer repetition counts as this long; of several, the latest is chosen.

    Returns:
        (n,) the earlier place, -1 where even the value before differs from all earlier ones; and
        (n,) the length of the repetition.
    """
    earlier, lengths = np.full(len(codes), -1), np.zeros(len(codes), np.int64)
    runs = np.zeros(len(codes), np.int64)  # by place: the values before it that are repeated
    for place in range(1, len(codes)):
        is_same = codes[: place - 1] == codes[place - 1]
        runs[1:place] = (runs[: place - 1] + 1) * is_same
        capped = np.minimum(runs[:place], most)
        best = place - 1 - int(np.argmax(capped[::-1]))
        if capped[best]:
            earlier[place], lengths[place] = best, capped[best]
    return earlier, lengths
