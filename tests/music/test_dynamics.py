"""Dynamics in eight levels: the velocity of each note, and what canonical scores keep of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from musicgen.music.dynamics import (
    DEFAULT_LEVEL,
    LEVEL_NAMES,
    LEVEL_VELOCITIES,
    find_level,
    find_levels,
    with_levels,
    with_one_velocity,
)
from musicgen.music.score import DEFAULT_VELOCITY, Note, Part, Score
from tests.strategies import scores


def test_each_level_is_the_nearest_of_its_own_velocity() -> None:
    assert find_levels(LEVEL_VELOCITIES).tolist() == list(range(8))
    assert LEVEL_NAMES[DEFAULT_LEVEL] == "mf"
    assert LEVEL_VELOCITIES[DEFAULT_LEVEL] == DEFAULT_VELOCITY


def test_no_velocity_is_further_from_its_level_than_from_another() -> None:
    for velocity in range(1, 128):
        distances = np.abs(LEVEL_VELOCITIES - velocity)
        assert distances[find_level(velocity)] == distances.min()


@given(scores())
def test_levels_of_levels_are_the_same(score: Score) -> None:
    leveled = with_levels(score.columns)
    assert np.array_equal(with_levels(leveled), leveled)


@given(scores())
def test_canonical_velocities_do_not_depend_on_whether_levels_were_taken_before(
    score: Score,
) -> None:
    leveled = with_levels(score.columns)
    assert np.array_equal(with_one_velocity(leveled), with_one_velocity(score.columns))


@given(scores())
def test_dynamics_keep_the_level_of_each_note(score: Score) -> None:
    leveled = with_levels(score.columns)
    assert np.array_equal(find_levels(leveled[3]), find_levels(score.columns[3]))
    assert np.array_equal(leveled[[0, 1, 2, 4]], score.columns[[0, 1, 2, 4]])


def test_part_of_one_velocity_keeps_it() -> None:
    score = Score((Note(0, 60, 48, 91), Note(48, 62, 48, 91)))
    assert score.canonical_with_dynamics() == score.canonical()
    assert {note.velocity for note in score.canonical().notes} == {91}


def test_accents_of_one_part_leave_another_as_it_is() -> None:
    notes = (
        Note(0, 60, 48, 90),
        Note(48, 60, 48, 90),
        Note(96, 60, 48, 120),
        Note(0, 40, 48, 70, 1),
    )
    score = Score(notes, parts=(Part(), Part()))
    velocities = [(n.part, n.onset, n.velocity) for n in score.canonical_with_dynamics().notes]
    assert sorted(velocities) == [(0, 0, 90), (0, 48, 90), (0, 96, 127), (1, 0, 70)]
