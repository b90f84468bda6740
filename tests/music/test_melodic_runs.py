from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.general_midi import PROGRAMS, parse_program
from musicgen.music.melodic_runs import find_runs, list_drum_moves, list_moves
from musicgen.music.score import Note, Part, Score
from tests.strategies import scores


def test_rest_breaks_a_run() -> None:
    score = Score((Note(0, 60, 24), Note(24, 62, 48), Note(96, 65, 24)))
    runs = find_runs(score)
    assert [(run.onset, run.first_duration, run.moves, len(run)) for run in runs] == [
        (0, 24, ((2, 48),), 2),
        (96, 24, (), 1),
    ]
    assert list_moves(score) == [(2, 48), (3, 24)]


@given(scores(drums=False), st.integers(-12, 12))
def test_runs_are_invariant_under_transposition(score: Score, semitones: int) -> None:
    assert find_runs(score.transpose(semitones)) == find_runs(score)
    assert list_moves(score.transpose(semitones)) == list_moves(score)


def test_every_instrument_is_found_by_its_name_and_number() -> None:
    assert len(PROGRAMS) == 128
    for number, name in enumerate(PROGRAMS):
        assert parse_program(name) == parse_program(str(number)) == number


def test_drum_moves_are_the_hits_in_order_and_the_steps_between_them() -> None:
    hits = [Note(0, 42, 12), Note(0, 36, 12), Note(24, 38, 12), Note(30, 60, 12, part=1)]
    score = Score(hits, parts=(Part(is_drums=True), Part()))
    assert list_drum_moves(score) == [(36, 0), (42, 0), (38, 24)]
    assert list_drum_moves(Score([Note(0, 60, 12)])) == []
