from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.notes import LATEST_STEP
from musicgen.music.score import (
    FASTEST_QPM,
    SLOWEST_QPM,
    Ending,
    Mark,
    MarkKind,
    Note,
    Part,
    Score,
    find_jumps,
    find_sections,
)
from musicgen.music.theory import Key, Meter
from tests.strategies import scores

QUARTER = 48


def quarter_notes(*pitches: int) -> tuple[Note, ...]:
    return tuple(Note(i * QUARTER, pitch, QUARTER) for i, pitch in enumerate(pitches))


def played_pitches(score: Score) -> list[int]:
    return [note.pitch for note in score.unfolded().notes]


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({"onset": -1, "pitch": 60, "duration": 1}, "starts at step 0"),
        ({"onset": 0, "pitch": 128, "duration": 1}, "pitch is outside 0..127"),
        ({"onset": 0, "pitch": 60, "duration": 0}, "lasts at least one step"),
        ({"onset": LATEST_STEP, "pitch": 60, "duration": 1}, "at the latest"),
        ({"onset": 2**70, "pitch": 60, "duration": 1}, "at the latest"),
        ({"onset": 0, "pitch": 60, "duration": 1, "velocity": 0}, "velocity is outside"),
    ],
)
def test_note_out_of_range_is_refused(note: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Note(**note)


def test_note_of_a_missing_part_is_refused() -> None:
    with pytest.raises(InvalidValue, match="the score has 1 parts"):
        Score((Note(0, 60, 48, part=1),))


def test_repeat_without_a_start_returns_to_the_beginning() -> None:
    score = Score(quarter_notes(60, 61, 62), (Mark(2 * QUARTER, "repeat_end", 2),))
    assert played_pitches(score) == [60, 61, 60, 61, 62]


def test_second_repeat_returns_to_the_first() -> None:
    marks = (Mark(QUARTER, "repeat_end", 2), Mark(3 * QUARTER, "repeat_end", 3))
    assert played_pitches(Score(quarter_notes(60, 61, 62), marks)) == [
        60,
        60,
        61,
        62,
        61,
        62,
        61,
        62,
    ]


def test_endings_are_played_in_their_passes() -> None:
    marks = (
        Mark(QUARTER, "ending", Ending((1,), 2 * QUARTER)),
        Mark(2 * QUARTER, "repeat_end", 2),
        Mark(2 * QUARTER, "ending", Ending((2,), 3 * QUARTER)),
    )
    assert played_pitches(Score(quarter_notes(60, 61, 62, 63), marks)) == [60, 61, 60, 62, 63]


def test_repeat_end_after_the_last_ending_has_no_effect() -> None:
    marks = (
        Mark(QUARTER, "ending", Ending((1,), 2 * QUARTER)),
        Mark(2 * QUARTER, "repeat_end", 2),
        Mark(2 * QUARTER, "ending", Ending((2,), 3 * QUARTER)),
        Mark(3 * QUARTER, "repeat_end", 2),
    )
    assert played_pitches(Score(quarter_notes(60, 61, 62), marks)) == [60, 61, 60, 62]


def test_tie_does_not_sound_over_a_jump() -> None:
    score = Score((Note(0, 60, 2 * QUARTER),), (Mark(QUARTER, "repeat_end", 2),))
    assert [(n.onset, n.duration) for n in score.unfolded().notes] == [(0, 48), (48, 48), (96, 48)]


def test_unfolding_moves_the_key_and_meter_that_hold() -> None:
    marks = (
        Mark(0, "key", Key("D")),
        Mark(QUARTER, "key", Key("A")),
        Mark(2 * QUARTER, "repeat_end", 2),
    )
    played = Score(quarter_notes(60, 61), marks).unfolded()
    assert [(m.onset, str(m.value)) for m in played.of("key")] == [
        (0, "D major"), (48, "A major"), (96, "D major"), (144, "A major"),
    ]  # fmt: skip


def test_canonical_adds_implied_marks() -> None:
    score = Score(quarter_notes(60, 61), (Mark(2 * QUARTER, "repeat_end", 2),)).canonical()
    assert [(m.onset, m.kind) for m in score.marks] == [
        (0, "repeat_start"), (0, "key"), (0, "meter"), (96, "repeat_end"), (96, "bar"),
    ]  # fmt: skip
    assert score.meter == Meter(4, 4)


def test_canonical_drops_a_meter_replaced_at_the_same_step() -> None:
    meters = (Mark(0, "meter", Meter(8, 4)), *(Mark(96, "meter", Meter(n, 4)) for n in (14, 8)))
    score = Score(quarter_notes(60, 62, 64, 65), meters).canonical()
    assert [mark.onset for mark in score.of("meter")] == [0]
    assert score.canonical() == replace(score).canonical()


def test_canonical_ends_a_note_where_its_pitch_starts_again() -> None:
    doubled = Score((Note(0, 60, 96), Note(48, 60, 48), Note(0, 60, 24, 90)))
    assert [(n.onset, n.duration) for n in doubled.canonical().notes] == [(0, 48), (48, 48)]


@given(scores())
def test_canonical_is_idempotent(score: Score) -> None:
    once = score.canonical()
    assert replace(once).canonical() == once  # a copy has no cache


@given(scores())
def test_canonical_keeps_onsets_and_pitches(score: Score) -> None:
    def note_starts(played_score: Score) -> set[tuple[int, int, int]]:
        return {(note.onset, note.pitch, note.part) for note in played_score.unfolded().notes}

    assert note_starts(score.canonical()) == note_starts(score)


@given(scores(most_parts=2, drums=False), st.integers(-12, 12))
def test_transposing_moves_the_pitches_and_nothing_else(score: Score, semitones: int) -> None:
    moved = score.transpose(semitones)
    assert [n.pitch - semitones for n in sorted(moved.notes, key=lambda n: (n.part, n))] == [
        n.pitch for n in sorted(score.notes, key=lambda n: (n.part, n))
    ]
    assert find_jumps(moved) == find_jumps(score)
    assert find_sections(moved) == find_sections(score)


def test_drums_do_not_move() -> None:
    score = Score((Note(0, 38, 48),), parts=(Part("drums", 0, is_drums=True),))
    assert score.transpose(5).notes == score.notes


@pytest.mark.parametrize(
    "tempo", [0, -5, 1e300, 1e-300, float("nan"), float("inf"), FASTEST_QPM + 1, 3.5, "120", None]
)
def test_tempos_out_of_range_are_refused(tempo: object) -> None:
    with pytest.raises(InvalidValue, match=r"is outside of 3\.6 to 60,000,000"):
        Mark(0, "tempo", tempo)


@pytest.mark.parametrize("tempo", [SLOWEST_QPM, 120, FASTEST_QPM])
def test_tempos_within_the_midi_range_are_kept(tempo: float) -> None:
    assert Score(marks=(Mark(0, "tempo", tempo),)).qpm == tempo


@pytest.mark.parametrize(
    ("kind", "value"),
    [("key", "C"), ("meter", "4/4"), ("chord", 5), ("ending", 1), ("repeat_end", 2.5), ("bar", 1)],
)
def test_marks_hold_values_of_their_kind(kind: MarkKind, value: object) -> None:
    with pytest.raises(InvalidValue, match=kind):
        Mark(0, kind, value)


@pytest.mark.parametrize("step", [-1, LATEST_STEP + 1, 2**70, 0.5, float("nan")])
def test_marks_and_endings_outside_of_steps_are_refused(step: int) -> None:
    with pytest.raises(InvalidValue, match="is at step"):
        Mark(step, "bar")
    with pytest.raises(InvalidValue, match="is at step"):
        Ending((1,), step)


@pytest.mark.parametrize("field", ["onset", "pitch", "duration", "velocity", "part"])
@pytest.mark.parametrize("value", [float("nan"), 60.5, "60", None])
def test_notes_refuse_other_values_than_whole_numbers(field: str, value: object) -> None:
    fields: dict[str, object] = {"onset": 0, "pitch": 60, "duration": 1, field: value}
    with pytest.raises(InvalidValue, match="whole numbers"):
        Note(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("program", [-1, 128, 300, 0.5, "flute"])
def test_programs_outside_of_general_midi_are_refused(program: int) -> None:
    with pytest.raises(InvalidValue, match="write a whole number from 0 to 127"):
        Part("", program)


@pytest.mark.parametrize(("beats", "unit"), [(3.5, 4), (4, 4.0), (float("nan"), 4), (10**9, 4)])
def test_meters_refuse_other_values_than_whole_numbers(beats: int, unit: int) -> None:
    with pytest.raises(InvalidValue, match="write 1 to 64 beats"):
        Meter(beats, unit)
