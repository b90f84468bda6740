"""Chord symbols in the spines **mxhm and **harm of Humdrum files."""

from __future__ import annotations

from fractions import Fraction

import pytest

from musicgen.formats import parse
from musicgen.formats.musicxml.humdrum_chords import iter_humdrum_chords, read_numeral
from musicgen.music.theory import Key

MXHM = """**kern\t**mxhm
*k[f#]\t*
*M4/4\t*
*G:\t*
=1\t=1
4.g\tG
8a\t.
4b\tD7/F#
4a\tB- minor
=2\t=2
2g\tC major-seventh/E
2g\t.
==\t==
*-\t*-
"""


def test_symbols_are_read_with_the_notes() -> None:
    (score,), refusals = parse(MXHM.encode(), ".krn")
    assert refusals == ()
    assert [(mark.onset, mark.value) for mark in score.of("chord")] == [
        (0, "G"), (96, "D7/F#"), (144, "Bbm"), (192, "Cmaj7/E")
    ]  # fmt: skip


def test_numerals_follow_the_key_and_split_spines_keep_the_time() -> None:
    lines = ("**kern\t**harm", "*D:\t*", "2d\tI", "*^\t*", "4f#\t4d\tV7b", "4e\t4c\t.", "*v\t*v\t*",
             "2d\tvi", "*-\t*-")  # fmt: skip
    assert list(iter_humdrum_chords("\n".join(lines))) == [
        (Fraction(0), "D"), (Fraction(2), "A7/C#"), (Fraction(4), "Bm")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "numeral", "symbol"),
    [
        ("C", "I", "C"), ("C", "ii7", "Dm7"), ("C", "IV7", "Fmaj7"), ("C", "V7", "G7"),
        ("C", "viio", "Bdim"), ("C", "V7/V", "D7"), ("C", "Ib", "C/E"), ("C", "V7d", "G7/F"),
        ("C", "-VI", "Ab"), ("Am", "i", "Am"), ("Am", "V", "E"), ("Am", "viio7", "G#dim7"),
        ("Am", "VI", "F"), ("C", "III+", "Eaug"),
    ],
)  # fmt: skip
def test_numerals(key: str, numeral: str, symbol: str) -> None:
    chord = read_numeral(numeral, Key.parse(key))
    assert chord is not None
    assert chord.spell(Key.parse(key)) == symbol


@pytest.mark.parametrize("numeral", ["", "x", "IIII", "V/x", "G7", "I" * 9])
def test_other_texts_are_no_numerals(numeral: str) -> None:
    assert read_numeral(numeral, Key("C")) is None


@pytest.mark.parametrize(
    "text", ["**mxhm\tC", "**kern\t**mxhm\n4c", "**mxhm\n*^\n*^\nC\tC\tC\n", "**kern\t**harm\n.\tI"]
)
def test_malformed_spines_give_nothing(text: str) -> None:
    assert list(iter_humdrum_chords(text)) == []
