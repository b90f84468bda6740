"""The operations on arrays agree with the slower ones of NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.arrays import (
    find_median,
    find_repetitions,
    ragged_ranges,
    sort_rows,
    unique_sorted,
)

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


@given(st.lists(st.integers(0, 2), max_size=24), st.integers(1, 6))
def test_repetitions_are_the_longest_common_suffixes(codes: list[int], most: int) -> None:
    def count_repeated(place: int, earlier: int) -> int:
        length = 0
        while length < earlier and codes[earlier - 1 - length] == codes[place - 1 - length]:
            length += 1
        return min(length, most)

    expected = []
    for place in range(len(codes)):
        lengths = [count_repeated(place, earlier) for earlier in range(place)]
        longest = max(lengths, default=0)
        latest = max((n for n, length in enumerate(lengths) if length == longest), default=-1)
        expected.append((latest if longest else -1, longest))
    earlier, lengths_found = find_repetitions(np.array(codes, np.int64), most)
    assert list(zip(earlier.tolist(), lengths_found.tolist(), strict=True)) == expected
