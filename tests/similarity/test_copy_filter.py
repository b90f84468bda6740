"""The copy detector blocks exactly the notes that would copy too long a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.score import Score
from tests.related_tunes import (
    FEW_DURATIONS,
    FEW_PITCHES,
    find_longest_run,
    indexed,
    line,
    lines,
    slice_runs,
)

NOTES = st.tuples(st.sampled_from(FEW_PITCHES), st.sampled_from(FEW_DURATIONS))


@given(st.lists(lines(60), min_size=1, max_size=4), st.lists(NOTES, max_size=12), st.integers(4, 6))
def test_exactly_the_copying_notes_are_blocked(
    training: list[Score], tail: list[tuple[int, int]], limit: int
) -> None:
    candidates = [(pitch, duration) for pitch in (*FEW_PITCHES, 61) for duration in (24, 48, 36)]
    blocked = indexed(training).make_copy_detector(limit).find_blocked(tail, candidates)
    runs = {run for score in training for run in slice_runs(score, limit + 1)}
    last = tail[-limit:]
    for candidate, is_blocked in zip(candidates, blocked, strict=True):
        new_runs = slice_runs(line([*last, candidate]), limit + 1) if len(last) == limit else []
        assert is_blocked == any(run in runs for run in new_runs)


@given(st.lists(lines(60), min_size=1, max_size=3), st.lists(NOTES, max_size=60))
def test_filtered_tune_shares_no_longer_run(
    training: list[Score], notes: list[tuple[int, int]]
) -> None:
    detector = indexed(training).make_copy_detector(4)
    tune: list[tuple[int, int]] = []
    for note in notes:
        if not detector.find_blocked(tune, [note])[0]:
            tune.append(note)
    assert find_longest_run(line(tune), training) <= 4


def test_only_the_last_notes_count_in_any_key() -> None:
    notes = [(60, 24), (67, 48), (62, 24), (71, 24), (60, 24)]
    detector = indexed([line(notes)]).make_copy_detector(4)
    transposed = [(pitch + 5, duration) for pitch, duration in notes]
    assert detector.find_forbidden(transposed[:4]) == {(-11, 24)}
    assert detector.find_blocked([(40, 36), *transposed[:4]], [transposed[4], (65, 48)]) == [
        True,
        False,
    ]
    assert detector.find_blocked(transposed[:3], [transposed[3]]) == [False]
    assert detector.find_blocked([*transposed[:3], (76, 36)], [transposed[4]]) == [False]


@pytest.mark.parametrize("limit", [3, 0, -1])
def test_limit_below_the_minimum_is_refused(limit: int) -> None:
    with pytest.raises(InvalidValue, match=r"every tune shares three notes .* 4 or more"):
        indexed([line([(60, 24)])]).make_copy_detector(limit)
