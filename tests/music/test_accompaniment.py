"""An accompaniment plays the chord symbols of a tune and never clashes with its bars."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.formats import abc, midi
from musicgen.music.accompaniment import (
    ACCOMPANIMENTS,
    BASS_PART,
    CHORD_PART,
    LOWEST_BASS,
    LOWEST_TONE,
    PATTERNS,
    accompany,
    choose_pattern,
    has_chord_symbols,
    split_accompaniment,
)
from musicgen.music.bars import find_bars
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Note, Part, Score
from musicgen.music.theory import ChordSymbol, Meter
from tests.strategies import scores

EIGHTH = 24
WALTZ = 'X:1\nT:w\nM:3/4\nL:1/4\nK:G\nD|:"G"G A B|"D7"c2 A|"C"E2 "D7"F|1 "G"G2 D:|2 "G"G3|]\n'
REEL = 'X:1\nT:r\nM:4/4\nL:1/8\nK:D\n"D"d2fd "A7/E"c2ec|"N.C."d4 "Bm"B4|"D"d8|]\n'


def read_tune(text: str) -> Score:
    (score,), _ = abc.parse(text)
    return score


def list_strokes(score: Score, part: Part) -> list[tuple[int, list[int], int]]:
    """Return onset in eighths, pitches and length in eighths of what a part strikes."""
    number = score.parts.index(part)
    notes = [note for note in score.notes if note.part == number]
    onsets = sorted({note.onset for note in notes})
    return [
        (onset // EIGHTH, sorted(note.pitch for note in notes if note.onset == onset),
         next(note.duration for note in notes if note.onset == onset) // EIGHTH)
        for onset in onsets
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("meter", "name"),
    [("4/4", "boom-chick"), ("2/4", "boom-chick"), ("2/2", "boom-chick"), ("3/4", "waltz"),
     ("3/8", "waltz"), ("6/8", "jig"), ("9/8", "jig"), ("12/8", "jig"), ("5/4", "boom-chick")],
)  # fmt: skip
def test_meter_chooses_the_pattern(meter: str, name: str) -> None:
    assert choose_pattern(Meter.parse(meter)) == name


@pytest.mark.parametrize("name", PATTERNS)
@given(beats=st.integers(1, 16), unit=st.sampled_from((1, 2, 4, 8, 16)))
def test_strokes_lie_in_the_bar_and_start_with_a_bass(name: str, beats: int, unit: int) -> None:
    meter = Meter(beats, unit)
    strokes = list(PATTERNS[name](meter))
    assert (strokes[0].step, strokes[0].kind) == (0, "bass")
    assert all(0 <= stroke.step < meter.steps for stroke in strokes)
    assert [stroke.step for stroke in strokes] == sorted(stroke.step for stroke in strokes)


def test_boom_chick_alternates_root_and_fifth() -> None:
    score = accompany(read_tune('X:1\nT:t\nM:4/4\nL:1/8\nK:D\n"D"d2fd c2ec|d8|]\n'))
    bass = list_strokes(score, BASS_PART)
    assert bass == [(0, [50], 2), (4, [45], 2), (8, [50], 2), (12, [50], 2)]  # ends on the root
    chords = list_strokes(score, CHORD_PART)
    assert chords[0] == (2, [54, 57, 62], 2)
    assert [onset for onset, _, _ in chords] == [2, 6, 10, 14]


def test_slash_bass_no_chord_and_late_change() -> None:
    score = accompany(read_tune(REEL))
    bass = list_strokes(score, BASS_PART)
    assert bass == [(0, [50], 2), (4, [40], 2), (12, [47], 2), (16, [50], 2), (20, [50], 2)]
    assert [onset for onset, _, _ in list_strokes(score, CHORD_PART)] == [2, 6, 14, 18, 22]


def test_waltz_is_silent_in_the_pickup_and_follows_repeats() -> None:
    score = accompany(read_tune(WALTZ))
    bass = list_strokes(score, BASS_PART)
    assert bass[0] == (2, [43], 2)
    assert [onset for onset, _, _ in bass] == [2, 8, 14, 18, 20, 26]
    heard = [note for note in score.unfolded().notes if note.part == 1]
    assert len(heard) == 5 + 5


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("symbol", ["D", "Gm7", "F#dim7", "C9", "Bbsus4/Eb", "E7/G#"])
def test_short_span_has_bass_and_all_tones(name: str, symbol: str) -> None:
    score = read_tune(f'X:1\nT:t\nM:6/8\nL:1/8\nK:C\n"C"C2 "{symbol}"D "F"EFG|C6|]\n')
    played = accompany(score, name)
    chord = ChordSymbol.parse(symbol)
    assert chord is not None
    inside = [note for note in played.notes if note.part > 0 and 48 <= note.onset < 72]
    assert min(note.pitch for note in inside) % 12 == chord.bass_class
    left_out = {chord.tones[2]} if len(chord.tones) == 5 else set()
    assert {note.pitch % 12 for note in inside} >= set(chord.tones) - left_out


@settings(max_examples=60, deadline=None)
@given(scores(), st.sampled_from(sorted(PATTERNS)))
def test_no_note_leaves_its_bar_its_chord_or_its_range(score: Score, name: str) -> None:
    played = accompany(score, name)
    bars = find_bars(score)
    starts = [bar.start for bar in bars]
    changes = sorted(mark.onset for mark in score.of("chord"))
    added = [note for note in played.notes if note.part >= len(score.parts)]
    for note in added:
        bar = bars[bisect_right(starts, note.onset) - 1]
        later = [step for step in changes if step > note.onset]
        assert note.end <= min([bar.end, *later])
        lowest = LOWEST_BASS if note.part == len(score.parts) else LOWEST_TONE
        assert lowest <= note.pitch < lowest + 12
    base, rest = split_accompaniment(played)
    assert base == score
    assert (rest is None) == (not added)


def test_none_takes_away_and_a_name_replaces() -> None:
    score = read_tune(REEL)
    played = accompany(score, "waltz")
    assert accompany(played, "none") == score
    assert accompany(played, "boom-chick") == accompany(score, "boom-chick") != played


def test_auto_leaves_bands_and_performances_alone() -> None:
    score = read_tune(REEL)
    bass = Note(0, 40, 48, part=1)
    band = Score([*score.notes, bass], score.marks, (Part(), Part("b", 32, role="bass")))
    assert accompany(band) == band
    assert len(accompany(band, "waltz").parts) == 4
    performance = to_performance(score)
    assert accompany(performance, "waltz") == performance


def test_tune_without_chord_symbols_stays() -> None:
    score = read_tune("X:1\nT:t\nM:4/4\nL:1/8\nK:D\nd8|]\n")
    assert not has_chord_symbols(score)
    assert all(accompany(score, name) is score for name in ACCOMPANIMENTS)


def test_velocities_follow_the_melody() -> None:
    score = read_tune(REEL)
    loud = Score([Note(n.onset, n.pitch, n.duration, 120) for n in score.notes], score.marks)
    added = {note.part: note.velocity for note in accompany(loud).notes}
    assert added == {0: 120, 1: 84, 2: 72}


def test_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidValue, match="accompaniment 'polka': choose auto, none, boom-chick"):
        accompany(read_tune(REEL), "polka")


def test_melody_and_chord_symbols_come_back_from_midi() -> None:
    score = read_tune(WALTZ)
    (read,), _ = midi.parse(midi.render(accompany(score)), "a.mid")
    base, added = split_accompaniment(read)
    assert added is not None
    assert base.notes == score.unfolded().notes
    assert list(base.of("chord")) == list(score.unfolded().of("chord"))
