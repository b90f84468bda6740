from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.tokens.codec import Setting, find_first_illegal
from musicgen.tokens.performance import (
    MAX_HELD_UNITS,
    MAX_SILENT_UNITS,
    PERFORMANCE,
    UNIT_MILLISECONDS,
    VELOCITIES_PER_BIN,
    PerformanceCodec,
    PerformanceGrammar,
    to_units,
)
from tests.random_walks import walk_codec
from tests.strategies import scores

CODEC = PerformanceCodec()
MARKS = (Mark(0, "tempo", 1250.0),)


def names(score: Score) -> list[str]:
    return [PERFORMANCE.names[id_] for id_ in CODEC.encode(score).ids]


def played(*notes: Note) -> Score:
    return Score(notes, MARKS)


@st.composite
def performances(draw: st.DrawFn) -> Score:
    """Draw notes at any millisecond; a pitch starts again at least 10 ms later."""
    notes: list[Note] = []
    for pitch in draw(st.sets(st.integers(0, 127), max_size=12)):
        onset = 0
        for _ in range(draw(st.integers(1, 6))):
            onset += draw(st.integers(0, 4000))
            duration = draw(st.integers(1, 3000))
            notes.append(Note(onset, pitch, duration, draw(st.integers(1, 127))))
            onset += max(UNIT_MILLISECONDS, duration)
    return Score(tuple(notes), MARKS)


def assert_near(before: Score, after: Score) -> None:
    """Check that each note is kept, within 5 ms and in its velocity bin."""
    assert len(after.notes) == len(before.notes)
    by_pitch = [sorted(s.notes, key=lambda n: (n.pitch, n.onset)) for s in (before, after)]
    for old, new in zip(*by_pitch, strict=True):
        assert old.pitch == new.pitch
        assert abs(old.onset - new.onset) <= 5
        assert old.velocity // VELOCITIES_PER_BIN == new.velocity // VELOCITIES_PER_BIN
        assert abs(old.end - new.end) <= 5 or old.duration < 2 * UNIT_MILLISECONDS


@given(performances())
def test_round_trip_keeps_onsets_within_5_ms_and_velocity_bins(score: Score) -> None:
    encoded = CODEC.encode(score)
    assert encoded.lost == 0
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    assert decoded.dropped == 0
    assert_near(score, decoded.score)


@given(scores(drums=False))
def test_encoding_a_decoded_score_gives_the_same_ids(score: Score) -> None:
    encoded = CODEC.encode(score)
    decoded = CODEC.decode(encoded.ids, encoded.setting)
    assert decoded.dropped == 0
    assert len(decoded.score.notes) + encoded.lost == len(to_performance(score).notes)
    assert CODEC.encode(decoded.score) == replace(encoded, lost=0)


@given(scores(drums=False))
def test_encoded_scores_obey_the_grammar(score: Score) -> None:
    assert find_first_illegal(CODEC.encode(score).ids, CODEC.create_grammar(strict=False)) is None


def test_rounding_errors_do_not_accumulate() -> None:
    """Of 1,000 notes 104 ms apart, rounded one by one, the last would be 4 seconds early."""
    score = played(*(Note(number * 104, 60 + number % 12, 50) for number in range(1000)))
    encoded = CODEC.encode(score)
    assert_near(score, CODEC.decode(encoded.ids, encoded.setting).score)


@given(st.lists(st.integers(0, len(PERFORMANCE) - 1), max_size=200))
def test_decoding_accepts_any_ids(ids: list[int]) -> None:
    decoded = CODEC.decode(ids, Setting())
    assert 0 <= decoded.dropped <= len(ids)
    again = CODEC.encode(decoded.score)
    assert again.lost == 0
    assert CODEC.decode(again.ids, again.setting).score.notes == decoded.score.notes


@given(st.integers(0, 10**9), st.integers(1, 120))
def test_every_walk_yields_a_piece_without_dropped_ids(seed: int, max_ids: int) -> None:
    ids = walk_codec(CODEC, random.Random(seed), max_ids)
    decoded = CODEC.decode(ids, Setting())
    assert decoded.dropped == 0
    assert decoded.score.notes
    assert list(CODEC.encode(decoded.score).ids) == ids


def test_encoding_of_a_small_piece() -> None:
    score = played(Note(52, 60, 1500, 80), Note(1000, 64, 552, 83), Note(1550, 60, 100, 90))
    assert names(score) == [
        "shift=5", "velocity=20", "on=60", "shift=95", "on=64",
        "shift=55", "off=60", "off=64", "velocity=22", "on=60", "shift=10", "off=60", "end",
    ]  # fmt: skip


def test_repeated_pitch_ends_the_previous_note() -> None:
    score = played(Note(0, 60, 1000, 80), Note(500, 60, 200, 80))
    assert names(score) == [
        "velocity=20", "on=60", "shift=50", "off=60", "on=60", "shift=20", "off=60", "end",
    ]  # fmt: skip


def test_second_note_within_a_unit_is_counted_as_lost() -> None:
    encoded = CODEC.encode(played(Note(0, 60, 100), Note(3, 60, 300)))
    assert encoded.lost == 1
    (note,) = CODEC.decode(encoded.ids, encoded.setting).score.notes
    assert (note.onset, note.duration) == (0, 300)


def test_parts_are_merged_with_the_program_of_the_busiest() -> None:
    parts = Part("left", 0), Part("right", 11)
    notes = Note(0, 48, 96, 64, 0), Note(0, 72, 48, 64, 1), Note(48, 74, 48, 64, 1)
    encoded = CODEC.encode(Score(notes, (Mark(0, "tempo", 60.0),), parts, "Two hands"))
    score = CODEC.decode(encoded.ids, encoded.setting).score
    assert score.parts == (Part("right", 11),)
    assert [(note.onset, note.pitch) for note in score.notes] == [(0, 48), (0, 72), (1000, 74)]
    assert (score.title, score.qpm) == ("Two hands", 1250)


def test_drums_are_refused() -> None:
    score = Score((Note(0, 38, 48),), (), (Part("kit", 0, is_drums=True),))
    with pytest.raises(Refusal, match=r"drums cannot be merged .* use --codec measures") as caught:
        CODEC.encode(score)
    assert caught.value.code == "no-event"


def legal_names(*events: str) -> set[str]:
    grammar = PerformanceGrammar(1000)
    for name in events:
        id_ = PERFORMANCE.names.index(name)
        assert id_ in grammar.legal_ids(), name
        grammar.take(id_)
    return {PERFORMANCE.names[id_] for id_ in grammar.legal_ids()}


def test_legal_events_are_playable() -> None:
    assert "on=60" not in legal_names()  # there is no velocity yet
    assert "end" not in legal_names()
    assert legal_names("velocity=9") == {f"on={pitch}" for pitch in range(128)}
    after_on = legal_names("velocity=9", "on=60")
    assert {"on=59", "on=60", "off=60", "velocity=9", "end"} & after_on == set()
    after_shift = legal_names("velocity=9", "on=60", "shift=7")
    assert {"off=60", "on=61", "velocity=8"} <= after_shift
    assert {"on=60", "off=61", "shift=1", "end"} & after_shift == set()
    assert "shift=1" in legal_names("velocity=9", "on=60", "shift=100")
    assert "end" in legal_names("velocity=9", "on=60", "shift=7", "off=60")
    assert "end" not in legal_names("velocity=9", "on=60", "shift=7", "off=60", "shift=7")


@pytest.mark.parametrize(("milliseconds", "units"), [(0, 0), (4, 0), (5, 1), (14, 1), (15, 2)])
def test_times_are_rounded_to_the_nearest_unit(milliseconds: int, units: int) -> None:
    assert to_units(milliseconds) == units


def test_reading_a_file_applies_its_tempo() -> None:
    score = Score((Note(0, 60, 48), Note(48, 62, 48)), (Mark(0, "tempo", 90.0),))
    (performance,), refusals = CODEC.read(formats.midi.render(score), ".mid")
    assert not refusals
    assert [note.onset for note in performance.notes] == [0, 667]


@given(st.integers(0, 10**6))
def test_sampled_piece_is_never_silent_for_longer_than_five_seconds(seed: int) -> None:
    score = CODEC.decode(walk_codec(CODEC, random.Random(seed), 200), Setting()).score
    sounding_until = idle_since = 0
    for note in sorted(score.notes, key=lambda note: note.onset):
        assert note.onset - sounding_until <= UNIT_MILLISECONDS * MAX_SILENT_UNITS
        sounding_until = max(sounding_until, note.end)
    for time in sorted({time for note in score.notes for time in (note.onset, note.end)}):
        assert time - idle_since <= UNIT_MILLISECONDS * MAX_HELD_UNITS
        idle_since = time
