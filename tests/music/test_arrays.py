"""The operations on arrays agree with the slower ones of NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.arrays import find_median, ragged_ranges, sort_rows, unique_sorted

SMALL = st.integers(0, 3)
ANY_SIZE = st.one_of(SMALL, st.integers(0, 2**40))


@given(st.lists(st.tuples(ANY_SIZE, SMALL, ANY_SIZE)))
def test_rows_are_sorted_as_by_lexsort(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    assert sort_rows(*columns).tolist() == np.lexsort(columns[::-1]).tolist()


@given(st.lists(st.integers(-9, 9), min_size=1))
def test_median_and_distinct_values_are_those_of_numpy(values: list[int]) -> None:
    assert find_median(np.array(values)) == np.median(values)
    assert unique_sorted(np.array(values)).tolist() == sorted(set(values))


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4))))
def test_ragged_ranges_count_from_each_start(ranges: list[tuple[int, int]]) -> None:
    starts, sizes = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    expected = [start + n for start, size in ranges for n in range(size)]
    assert ragged_ranges(starts, sizes).tolist() == expected
