"""Chords are recognised in chord tracks, arpeggios and bass lines, with a confidence."""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.formats import abc, midi
from musicgen.music.accompaniment import PATTERNS, accompany
from musicgen.music.chord_recognition import (
    NO_CHORD,
    RecognisedChord,
    add_chord_symbols,
    recognise_chords,
)
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import ChordSymbol
from tests.strategies import scores

COMMON = ("", "", "", "m", "m", "7", "7")
BAR = 192


def make_tune(rng: random.Random, bars: int = 16) -> Score:
    """Make a melody of chord tones and passing notes over chords of half a bar or a bar."""
    notes, marks = [], []
    for bar in range(bars):
        marks.append(Mark((bar + 1) * BAR, "bar"))
        for half in range(rng.choice((1, 1, 2))):
            chord = ChordSymbol(rng.choice((0, 2, 4, 5, 7, 9)), rng.choice(COMMON))
            marks.append(Mark(bar * BAR + half * BAR // 2, "chord", str(chord)))
        for eighth in range(8):
            pitch = 72 + rng.choice((0, 2, 4, 5, 7, 9, 11))
            notes.append(Note(bar * BAR + eighth * 24, pitch, 24))
    return Score(notes, tuple(marks))


def forget_chords(score: Score) -> Score:
    return replace(score, marks=tuple(mark for mark in score.marks if mark.kind != "chord"))


def count_agreements(score: Score, chords: tuple[RecognisedChord, ...]) -> tuple[int, int]:
    """Return how many chord symbols of a score have equal root and quality, and their number."""
    steps = [chord.step for chord in chords]
    symbols = list(score.of("chord"))
    agreements = 0
    for mark, stop in zip(symbols, [*(m.onset for m in symbols[1:]), score.end], strict=True):
        index = bisect_right(steps, (mark.onset + stop) // 2) - 1
        written, found = ChordSymbol.parse(mark.value), ChordSymbol.parse(chords[index].symbol)
        assert written is not None
        agreements += found is not None and found.root == written.root and (
            found.quality == written.quality
        )  # fmt: skip
    return agreements, len(symbols)


@pytest.mark.parametrize("name", PATTERNS)
def test_accompaniment_written_as_midi_is_read_back(name: str) -> None:
    rng = random.Random(5)
    right = total = 0
    for _ in range(12):
        score = make_tune(rng)
        data = midi.render(forget_chords(accompany(score, name)))
        (read,), _ = midi.parse(data, "a.mid")
        agreements, count = count_agreements(score, recognise_chords(read))
        right, total = right + agreements, total + count
    assert right / total >= (0.97)


def test_block_chords_have_names_places_and_confidence() -> None:
    chords = ((48, 60, 64, 67), (45, 60, 64, 69), (43, 59, 62, 65, 67), (48, 60, 64, 67))
    notes = [Note(bar * BAR, pitch, BAR) for bar, tones in enumerate(chords) for pitch in tones]
    score = Score(notes, tuple(Mark(BAR * bar, "bar") for bar in range(1, 5)))
    recognised = recognise_chords(score)
    assert [(chord.step // BAR, chord.symbol) for chord in recognised] == [
        (0, "C"), (1, "Am"), (2, "G7"), (3, "C")
    ]  # fmt: skip
    assert all(0.9 < chord.confidence <= 1 for chord in recognised)


def test_inversion_is_named() -> None:
    notes = [Note(0, pitch, BAR) for pitch in (40, 60, 64, 67)]
    (chord,) = recognise_chords(Score(notes, (Mark(BAR, "bar"),)))
    assert chord.symbol == "C/E"


def test_arpeggio_over_a_bass_is_one_chord() -> None:
    arpeggio = [Note(24 * k, pitch, 24) for k, pitch in enumerate((57, 60, 64, 69, 64, 60, 57, 60))]
    score = Score([Note(0, 45, BAR), *arpeggio], (Mark(BAR, "bar"),))
    assert [chord.symbol for chord in recognise_chords(score)] == ["Am"]


def test_melody_alone_is_less_sure_than_chords() -> None:
    score = make_tune(random.Random(1), bars=8)
    alone = recognise_chords(forget_chords(score))
    accompanied = recognise_chords(forget_chords(accompany(score, "boom-chick")))
    mean = [sum(c.confidence for c in found) / len(found) for found in (alone, accompanied)]
    assert mean[0] < 0.8 < 0.95 < mean[1]


def test_silence_between_chords_is_no_chord() -> None:
    notes = [Note(bar * BAR, pitch, BAR) for bar in (0, 3) for pitch in (48, 60, 64, 67)]
    score = Score(notes, tuple(Mark(BAR * bar, "bar") for bar in range(1, 5)))
    symbols = [chord.symbol for chord in recognise_chords(score)]
    assert symbols in (["C"], ["C", NO_CHORD, "C"])


def test_chords_start_with_the_accompaniment_and_not_with_the_pickup() -> None:
    text = 'X:1\nT:t\nM:4/4\nL:1/8\nK:C\nG2|"C"c2e2 g2e2|"G7"d2f2 b2g2|"C"c6|]\n'
    (score,), _ = abc.parse(text)
    recognised = recognise_chords(forget_chords(accompany(score)))
    assert [(chord.step, chord.symbol) for chord in recognised] == [
        (48, "C"), (240, "G7"), (432, "C")
    ]  # fmt: skip


def test_grid_limits_the_places_of_changes() -> None:
    score = accompany(make_tune(random.Random(2)), "boom-chick")
    assert {c.step % 96 for c in recognise_chords(score, "half")} == {0}
    assert {c.step % 192 for c in recognise_chords(score, "bar")} == {0}


def test_drums_are_left_out() -> None:
    notes = [Note(0, pitch, BAR) for pitch in (48, 60, 64, 67)]
    drums = [Note(0, pitch, 24, part=1) for pitch in (37, 42, 46)]
    parts = (Part(), Part("kit", is_drums=True))
    score = Score([*notes, *drums], (Mark(BAR, "bar"),), parts)
    assert [chord.symbol for chord in recognise_chords(score)] == ["C"]
    assert recognise_chords(Score(drums, (), parts)) == ()


@settings(max_examples=40, deadline=None)
@given(scores(), st.sampled_from(("beat", "half", "bar")))
def test_any_score_has_an_answer(score: Score, grid: str) -> None:
    recognised = recognise_chords(score, grid)  # type: ignore[arg-type]
    steps = [chord.step for chord in recognised]
    assert steps == sorted(set(steps))
    assert all(0 <= chord.confidence <= 1 + 1e-9 for chord in recognised)
    assert all(0 <= step < score.end for step in steps)
    named = add_chord_symbols(score, recognised)
    assert [mark.value for mark in named.of("chord")] == [chord.symbol for chord in recognised]
    assert named.notes == score.notes
