from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue, Refusal
from musicgen.formats import abc
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.swing import Swing
from musicgen.music.theory import Key, Meter
from musicgen.tokens.codec import Decoded, Setting, find_first_illegal
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES
from tests.strategies import scores

CODEC = MeasuresCodec()


def names(score: Score) -> list[str]:
    return [MEASURES.names[id_] for id_ in CODEC.encode(score).ids]


def read(text: str) -> Score:
    (score,), refusals = abc.parse(text)
    assert not refusals
    return score.canonical()


@given(scores())
def test_decoding_undoes_encoding(score: Score) -> None:
    canonical = score.canonical()
    encoded = CODEC.encode(canonical)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)


@given(scores())
def test_decoding_undoes_encoding_with_dynamics(score: Score) -> None:
    canonical = score.canonical_with_dynamics()
    encoded = CODEC.encode(score)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)


@given(scores())
def test_encoded_scores_obey_the_grammar(score: Score) -> None:
    encoded = CODEC.encode(score)
    assert (
        find_first_illegal(encoded.ids, CODEC.create_grammar(encoded.setting, strict=False)) is None
    )


@given(scores(), st.sets(st.integers(0, 600), max_size=6))
def test_fermatas_are_kept_and_obey_the_grammar(score: Score, steps: set[int]) -> None:
    marks = (*score.marks, *(Mark(step, "fermata") for step in steps))
    canonical = replace(score, marks=marks).canonical()
    encoded = CODEC.encode(canonical)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)
    grammar = CODEC.create_grammar(encoded.setting, strict=False)
    assert find_first_illegal(encoded.ids, grammar) is None


def test_fermata_precedes_its_note_and_follows_the_chord_symbol() -> None:
    marks = (Mark(48, "fermata"), Mark(48, "chord", "G7"), Mark(192, "bar"))
    events = names(Score((Note(0, 60, 48), Note(48, 62, 144)), marks))
    assert events[-6:] == ["pitch=0", "chord=7 7", "fermata", "duration=144", "pitch=2", "end"]


@given(st.lists(st.integers(0, len(MEASURES) - 1), max_size=200))
def test_decoding_accepts_any_ids(ids: list[int]) -> None:
    decoded = CODEC.decode(ids, Setting(parts=(Part(), Part("drums", 0, is_drums=True)),
                                        velocities=(80, 90)))  # fmt: skip
    assert 0 <= decoded.dropped <= len(ids)
    assert decoded.score.canonical_with_dynamics() == decoded.score


@given(scores())
def test_setting_round_trips_through_json(score: Score) -> None:
    setting = CODEC.encode(score).setting
    assert Setting.from_json(setting.to_json()) == setting


@given(scores(drums=False), st.integers(-5, 5))
def test_transposing_changes_the_setting_but_no_id(score: Score, semitones: int) -> None:
    before, after = CODEC.encode(score), CODEC.encode(score.transpose(semitones))
    shift = after.setting.tonic_pitch - before.setting.tonic_pitch - semitones
    if shift == 0:
        assert after.ids == before.ids


def test_encoding_of_a_small_tune() -> None:
    tune = read("X:1\nT:Small\nR:jig\nM:6/8\nL:1/8\nK:G\n|:D|G2A B2c|(3ABA G-G2:|\n")
    assert names(tune) == [
        "meter=6/8", "mode=major", "rhythm=jig", "parts=1",
        "repeat_start", "partial=24", "duration=24", "pitch=-5",
        "bar", "duration=48", "pitch=0", "duration=24", "pitch=2",
        "duration=48", "pitch=4", "duration=24", "pitch=5",
        "partial=120", "tuplet=3 2 24", "duration=24", "pitch=2", "duration=24", "pitch=4",
        "duration=24", "pitch=2", "duration=72", "pitch=0",
        "repeat_end=2", "end",
    ]  # fmt: skip


def test_tie_across_a_bar_line_is_a_hold() -> None:
    tune = read("X:1\nM:2/4\nL:1/4\nK:C\nCD-|D2|\n")
    assert names(tune)[4:-1] == [
        "bar", "duration=48", "pitch=0", "duration=48", "pitch=2", "bar", "duration=96", "hold",
    ]  # fmt: skip


def test_endings_enclose_their_bars() -> None:
    tune = read("X:1\nM:2/4\nL:1/4\nK:C\n|:CD|1 EF:|2 GA||\n")
    structure = [name for name in names(tune) if not name.startswith(("duration", "pitch"))]
    assert structure[4:] == [
        "repeat_start", "bar", "ending=1", "bar", "repeat_end=2", "ending=2", "bar", "ending_end",
        "end",
    ]  # fmt: skip


def test_several_voices_drums_and_chord_symbols() -> None:
    score = Score(
        notes=(Note(0, 60, 96), Note(0, 72, 48), Note(48, 71, 48), Note(0, 38, 48, part=1)),
        marks=(Mark(0, "meter", Meter(2, 4)), Mark(0, "key", Key("C")), Mark(0, "chord", "Am/E"),
               Mark(96, "bar")),
        parts=(Part("piano"), Part("drums", 0, is_drums=True)),
    )  # fmt: skip
    assert names(score)[3:] == [
        "lineup=2", "role=", "family=piano", "role=", "family=drum kit",
        "bar", "chord=9 m", "bass=4", "duration=48", "pitch=12", "duration=48", "pitch=11",
        "voice=1", "duration=96", "pitch=0",
        "part=1", "duration=48", "drum=38", "duration=48", "rest", "end",
    ]  # fmt: skip


def test_music_without_an_event_is_refused() -> None:
    score = Score((Note(0, 60, 48),), (Mark(0, "meter", Meter(17, 8)),))
    with pytest.raises(Refusal, match=r"no event for meter=17/8; the tune was left out"):
        CODEC.encode(score)


def test_doubled_note_is_counted_as_lost() -> None:
    parts = (Part("melody"), Part("piano"))
    notes = (Note(0, 60, 48), Note(0, 60, 24, part=1), Note(0, 60, 96, part=1), Note(96, 60, 48))
    encoded = CODEC.encode(Score(notes, parts=parts))
    decoded = CODEC.decode(encoded.ids, encoded.setting).score
    assert (encoded.lost, len(decoded.notes)) == (1, 3)
    assert CODEC.encode(decoded).lost == 0


@given(scores())
def test_every_onset_is_encoded_or_counted_as_lost(score: Score) -> None:
    encoded = CODEC.encode(score)
    decoded = CODEC.decode(encoded.ids, encoded.setting).score
    onsets = {(note.part, note.onset, note.pitch) for note in score.notes}
    assert len(onsets) == len(score.notes) - encoded.lost
    assert onsets <= {(note.part, note.onset, note.pitch) for note in decoded.notes}


def test_setting_needs_a_velocity_per_part() -> None:
    with pytest.raises(InvalidValue, match="a setting of 2 parts has 1 velocities; give one"):
        Setting(parts=(Part(), Part()))


def test_swing_is_kept_beside_the_ids() -> None:
    score = read("X:1\nM:4/4\nL:1/8\nK:C\nCDEF GABc|\n")
    swung = replace(score, swing=Swing(0.6667))
    encoded = CODEC.encode(swung)
    setting = Setting.from_json(encoded.setting.to_json())
    assert CODEC.decode(encoded.ids, setting).score == swung
    assert encoded.ids == CODEC.encode(score).ids


def test_setting_without_swing_has_the_bytes_of_before() -> None:
    assert "swing" not in Setting().to_json()
    assert Setting.from_json(Setting().to_json()) == Setting()
