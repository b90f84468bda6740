"""The guard: what would copy a note too much is blocked, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.score import Score
from tests.related_tunes import (
    FEW_DURATIONS,
    FEW_PITCHES,
    indexed,
    line,
    lines,
    pieces,
    slow_longest,
)

NOTES = st.tuples(st.sampled_from(FEW_PITCHES), st.sampled_from(FEW_DURATIONS))


@settings(max_examples=200)
@given(st.lists(lines(60), min_size=1, max_size=4), st.lists(NOTES, max_size=12), st.integers(4, 6))
def test_it_blocks_what_would_copy_more_and_nothing_else(
    known: list[Score], tail: list[tuple[int, int]], limit: int
) -> None:
    candidates = [(pitch, duration) for pitch in (*FEW_PITCHES, 61) for duration in (24, 48, 36)]
    blocked = indexed(known).make_copy_detector(limit).find_blocked(tail, candidates)
    runs = {piece for score in known for piece in pieces(score, limit + 1)}
    last = tail[-limit:]
    for candidate, is_blocked in zip(candidates, blocked, strict=True):
        written = pieces(line([*last, candidate]), limit + 1) if len(last) == limit else []
        assert is_blocked == any(piece in runs for piece in written)


@settings(max_examples=50)
@given(st.lists(lines(60), min_size=1, max_size=3), st.lists(NOTES, max_size=60))
def test_a_tune_drawn_under_it_shares_no_longer_run(
    known: list[Score], wishes: list[tuple[int, int]]
) -> None:
    guard = indexed(known).make_copy_detector(4)
    tune: list[tuple[int, int]] = []
    for wish in wishes:
        if not guard.find_blocked(tune, [wish])[0]:
            tune.append(wish)
    assert slow_longest(line(tune), known) <= 4


def test_only_the_last_notes_matter_and_any_key_is_known() -> None:
    notes = [(60, 24), (67, 48), (62, 24), (71, 24), (60, 24)]
    guard = indexed([line(notes)]).make_copy_detector(4)
    higher = [(pitch + 5, duration) for pitch, duration in notes]
    assert guard.find_forbidden(higher[:4]) == {(-11, 24)}
    assert guard.find_blocked([(40, 36), *higher[:4]], [higher[4], (65, 48)]) == [True, False]
    assert guard.find_blocked(higher[:3], [higher[3]]) == [False]
    assert guard.find_blocked([*higher[:3], (76, 36)], [higher[4]]) == [False]


@pytest.mark.parametrize("limit", [3, 0, -1])
def test_a_limit_that_no_tune_keeps_is_refused(limit: int) -> None:
    with pytest.raises(InvalidValue, match=r"every tune shares three notes .* 4 or more"):
        indexed([line([(60, 24)])]).make_copy_detector(limit)
