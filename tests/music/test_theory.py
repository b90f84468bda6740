from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.theory import (
    CHORD_QUALITIES,
    MODES,
    ChordSymbol,
    Key,
    Meter,
    find_key,
    normalize_chord,
    signature,
    spell,
    spell_chord,
    transpose_chord,
)
from tests.strategies import keys


@pytest.mark.parametrize(
    ("text", "tonic", "mode", "fifths"),
    [
        ("D", "D", "major", 2),
        ("Am", "A", "minor", 0),
        ("Edor", "E", "dorian", 2),
        ("Dmix", "D", "mixolydian", 1),
        ("F# minor", "F#", "minor", 3),
        ("bb", "Bb", "major", -2),
        ("B♭ Dorian", "Bb", "dorian", -4),
        ("GMixolydian", "G", "mixolydian", 0),
        ("C aeolian", "C", "minor", -3),
        ("Elydian", "E", "lydian", 5),
    ],
)
def test_key_parses_common_spellings(text: str, tonic: str, mode: str, fifths: int) -> None:
    key = Key.parse(text)
    assert (key.tonic, key.mode, key.fifths) == (tonic, mode, fifths)


@pytest.mark.parametrize("text", ["", "H", "Dfoo", "D##", "8"])
def test_unknown_key_error_suggests_valid_keys(text: str) -> None:
    with pytest.raises(InvalidValue, match="write a tonic and a mode, such as D, Am"):
        Key.parse(text)


def test_signature_alters_the_letters_in_the_order_of_fifths() -> None:
    order = "FCGDAEB"
    for fifths in range(-7, 8):
        altered = order[:fifths] if fifths > 0 else order[7 + fifths :] if fifths else ""
        expected = {letter: (1 if fifths > 0 else -1) * (letter in altered) for letter in order}
        assert signature(fifths) == expected


@given(st.integers(0, 127), keys())
def test_spelling_keeps_the_pitch(pitch: int, key: Key) -> None:
    assert spell(pitch, key).pitch == pitch


@given(keys())
def test_scale_is_spelt_without_accidentals(key: Key) -> None:
    alterations = signature(key.fifths)
    for pitch in range(60, 72):
        if pitch % 12 in key.scale:
            spelled = spell(pitch, key)
            assert spelled.alteration == alterations[spelled.letter]


def test_leading_note_is_sharp_and_lowered_seventh_flat() -> None:
    assert spell(68, Key("A", "minor")).letter == "G"
    assert spell(70, Key("C", "major")).letter == "B"


@given(keys(), st.integers(-24, 24))
def test_transposing_a_key_there_and_back_sounds_the_same(key: Key, semitones: int) -> None:
    back = key.transpose(semitones).transpose(-semitones)
    assert (back.pitch_class, back.mode) == (key.pitch_class, key.mode)


def test_every_pitch_class_and_mode_has_a_key() -> None:
    for mode in MODES:
        assert {Key.of(pc, mode).pitch_class for pc in range(12)} == set(range(12))


@pytest.mark.parametrize(
    ("text", "steps", "beat"),
    [("6/8", 144, 72), ("C|", 192, 96), ("C", 192, 48), ("3/4", 144, 48), ("2+3/8", 120, 24),
     ("9/8", 216, 72), ("3/8", 72, 24)],
)  # fmt: skip
def test_meter_is_read_and_measured(text: str, steps: int, beat: int) -> None:
    meter = Meter.parse(text)
    assert (meter.steps, meter.beat_steps) == (steps, beat)


@pytest.mark.parametrize("text", ["", "7/0", "0/4", "999999999/4", "4/3", "six"])
def test_unknown_meter_error_suggests_valid_meters(text: str) -> None:
    with pytest.raises(InvalidValue, match="write "):
        Meter.parse(text)


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("D/f+", "D/F#"), ("Gm/bb", "Gm/Bb"), ("C/e", "C/E"), ("C/c", "C"), ("Cd", "Cdim"),
        ("Bbd", "Bbdim"), ("Ca", "Caug"), ("(E7)", "E7"), (" B7", "B7"), ("D m", "Dm"),
        ("E7b9", "E7"), ("Dm6", "Dm6"), ("Cadd9", "C"), ("Cmaj", "C"), ("CM7", "Cmaj7"),
        ("C-7", "Cm7"), ("C+", "Caug"), ("C°7", "Cdim7"), ("Csus", "Csus4"), ("Cø", "Cm7b5"),
        ("C6/9", "C6"), ("C13", "C9"), ("Cdescending", "C"), ("N.C.", "N.C."), ("Fine", "F"),
    ],
)  # fmt: skip
def test_spellings_of_chord_symbols(text: str, symbol: str) -> None:
    assert normalize_chord(text) == symbol


@pytest.mark.parametrize(
    ("symbol", "key", "spelled"),
    [
        ("Dbm", "A", "C#m"), ("Db", "F#m", "C#"), ("A7/Db", "D", "A7/C#"), ("E7/Ab", "Am", "E7/G#"),
        ("G#", "C", "Ab"), ("Abdim7", "Am", "G#dim7"), ("D#", "Bb", "Eb"), ("Em/Eb", "Em", "Em/D#"),
        ("N.C.", "D", "N.C."), ("B/D#", "Cb", "Cb/Eb"),
    ],
)  # fmt: skip
def test_chord_symbols_are_spelled_in_a_key(symbol: str, key: str, spelled: str) -> None:
    assert spell_chord(symbol, Key.parse(key)) == spelled


@given(st.sampled_from(CHORD_QUALITIES), st.integers(0, 11), st.none() | st.integers(0, 11), keys())
def test_spelling_keeps_the_chord(quality: str, root: int, bass: int | None, key: Key) -> None:
    chord = ChordSymbol(root, quality, None if bass == root else bass)
    assert ChordSymbol.parse(chord.spell(key)) == ChordSymbol.parse(str(chord)) == chord


def test_vocabulary_keeps_the_order_of_qualities() -> None:
    assert CHORD_QUALITIES == (
        "", "m", "7", "m7", "maj7", "dim", "aug", "sus4", "sus2", "6", "m6", "9", "dim7", "m7b5",
    )  # fmt: skip


def test_chord_symbols_are_spelt_plainly_and_transposed() -> None:
    assert normalize_chord("C#min7/G#") == "Dbm7/Ab"
    assert normalize_chord("something") == "N.C."
    assert transpose_chord("F#m7/C#", 1) == "Gm7/D"
    assert ChordSymbol.parse("Bbmaj7") == ChordSymbol(10, "maj7")


def scale_weights(key: Key) -> list[float]:
    """Sound each degree of a key, the tonic and the fifth for longer."""
    weights = [0.0] * 12
    for pitch in key.scale:
        weights[pitch] = 1.0
    weights[key.pitch_class] += 1.5
    weights[(key.pitch_class + 7) % 12] += 0.75
    return weights


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_key_is_found_from_what_sounds(tonic: int, mode: str) -> None:
    key = Key.of(tonic, mode)
    assert find_key(scale_weights(key)) == key


@pytest.mark.parametrize(
    ("weights", "key"),
    [
        # J. S. Bach, Prelude in C minor BWV 847, first bar: Krumhansl's own kind of example
        ([6, 0, 2, 6, 0, 1, 0, 4, 0, 0, 0, 1], Key("C", "minor")),
        ([4, 0, 0, 0, 3, 0, 0, 3, 0, 0, 0, 0], Key("C", "major")),
        ([0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 5], Key("E", "major")),
    ],
)
def test_key_is_found_from_few_notes(weights: list[float], key: Key) -> None:
    assert find_key(weights) == key


@pytest.mark.parametrize("weights", [[0.0] * 12, [2.0] * 12])
def test_no_key_is_found_from_uniform_weights(weights: list[float]) -> None:
    assert find_key(weights) is None
