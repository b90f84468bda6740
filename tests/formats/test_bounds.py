"""Numbers out of range in MusicXML and Humdrum are refused with their line, before music21."""

from __future__ import annotations

import time

import pytest

from musicgen.formats import parse
from musicgen.music.score import Score

XML = """<?xml version="1.0"?>
<score-partwise version="3.1"><part-list><score-part id="P1"><part-name>A</part-name></score-part>
</part-list><part id="P1"><measure number="1"><attributes><divisions>1</divisions><key>
<fifths>0</fifths></key><time><beats>4</beats><beat-type>4</beat-type></time></attributes>
<barline location="left"><ending number="1" type="start"/></barline>
<direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>100</per-minute>
</metronome></direction-type><sound tempo="100"/></direction><harmony><root><root-step>C</root-step>
</root><kind>major</kind><degree><degree-value>9</degree-value><degree-alter>0</degree-alter>
<degree-type>add</degree-type></degree></harmony>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration></note>
<barline location="right"><ending number="1" type="stop"/><repeat direction="backward" times="2"/>
</barline></measure></part></score-partwise>"""
KERN = "**kern\n*M4/4\n*MM100\n4c\n4d\n4e\n4f\n=\n*-\n"


def refused(data: str, suffix: str) -> str:
    start = time.process_time()
    scores, (refusal,) = parse(data.encode(), suffix, "tune")
    assert not scores
    assert time.process_time() - start < 5  # most of it is music21's import, the first time
    return str(refusal)


def read(data: str, suffix: str) -> Score:
    (score,), refusals = parse(data.encode(), suffix, "tune")
    assert not refusals
    return score


def test_values_within_bounds_are_read() -> None:
    for score in (read(XML, ".musicxml"), read(KERN, ".krn")):
        assert score.qpm == 100
        assert score.notes[0].pitch == 60


@pytest.mark.parametrize("tempo", ["1e300", "1e-300", "0", "-5", "nan", "inf", "60000001", "3.5"])
def test_tempos_out_of_range_are_refused(tempo: str) -> None:
    assert "line 7: tempo" in refused(XML.replace('tempo="100"', f'tempo="{tempo}"'), ".xml")
    assert "line 6: tempo" in refused(XML.replace(">100<", f">{tempo}<"), ".musicxml")
    assert "line 3: tempo" in refused(KERN.replace("MM100", f"MM{tempo}"), ".krn")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<octave>4", "<octave>10", "octave '10': write a whole number from -1 to 9"),
        ("<octave>4", "<octave>-2", "octave '-2'"),
        ("<step>C</step><octave>4", "<step>A</step><octave>9", "A9 is outside of MIDI's 0..127"),
        ("<beats>4", "<beats>1000000000", "beats '1000000000'"),
        ("<beats>4", "<beats>1e9", "beats '1e9'"),
        ("<beats>4", "<beats>nan", "beats 'nan'"),
        ("<beat-type>4", "<beat-type>0", "beat-type '0'"),
        ("<fifths>0", "<fifths>-1000000000", "fifths '-1000000000'"),
        ("<divisions>1", "<divisions>0", "divisions '0'"),
        ("<divisions>1", "<divisions>nan", "divisions 'nan'"),
        ("<duration>4", "<duration>-4", "duration '-4'"),
        ("<duration>4", "<duration>1e300", "duration '1e300'"),
        ("<duration>4", "<duration>100000000", "at the latest"),
        ('number="1" type="start"', 'number="1-999999999" type="start"', "number '1-999999999'"),
        ('times="2"', 'times="nan"', "times 'nan'"),
        ("<degree-value>9", "<degree-value>1000000000", "degree-value '1000000000'"),
    ],
)
def test_musicxml_numbers_out_of_range_are_refused(old: str, new: str, words: str) -> None:
    assert old in XML
    assert words in refused(XML.replace(old, new), ".musicxml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("*M4/4", "*M999999999/4", "line 2: beats '999999999'"),
        ("*M4/4", "*M0/4", "line 2: beats '0'"),
        ("*M4/4", "*M4/99999999", "line 2: beat unit"),
        ("4c", "99999999999c", "line 4: length '99999999999'"),
        ("4c", "3%1000000000c", "line 4: length '1000000000'"),
        ("4c", "4cccccccc", "outside of MIDI's 0..127"),
        ("4c", "4CCCCCCCC", "outside of MIDI's 0..127"),
    ],
)
def test_humdrum_numbers_out_of_range_are_refused(old: str, new: str, words: str) -> None:
    assert words in refused(KERN.replace(old, new), ".krn")


def test_other_encodings_are_checked_too() -> None:
    data = XML.replace('tempo="100"', 'tempo="1e300"').encode("utf-16")
    assert "tempo '1e300'" in str(parse(data, ".xml", "tune")[1][0])


def test_tempo_in_words_is_accepted() -> None:
    assert read(XML.replace(">100<", ">ca. 100<"), ".musicxml").notes


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<beats>4<", "<beats>100000000<x/><", "line 4: beats holds the element 'x'"),
        ("<beats>4<", "<beats><x/>100000000<", "line 4: beats holds the element 'x'"),
        ("<octave>4<", "<octave>10<octave/><", "octave holds the element 'octave'"),
        ("<beats>4<", "<beats>1000<!-- --><![CDATA[00000]]><", "beats '100000000'"),
        ("<beats>4<", "<beats>1000<?x ?>00000<", "beats '100000000'"),
        ("<beats>4<", "<beats>1&#48;0&#x30;00000<", "beats '100000000'"),
        ("<beats>4</beats>", "<beats>4</beats><beats>100000000</beats>", "beats '100000000'"),
        (
            '"1.0"?>',
            '"1.0"?><!DOCTYPE score-partwise [<!ENTITY n "100000000">]>',
            "line 1: entity 'n' is declared",
        ),
        (
            '"1.0"?>',
            '"1.0"?><!DOCTYPE score-partwise [<!ENTITY % n "<!ENTITY m \'9\'>">]>',
            "line 1: entity 'n' is declared",
        ),
        (">100<", ">1_0e300<", "tempo '1_0e300'"),
        (">100<", ">\uff11e300<", "tempo '\uff11e300'"),
        ('number="1" type="start"', 'number="1-\u0669999999999" type="start"', "number '1-"),
    ],
)
def test_disguised_musicxml_numbers_are_refused(old: str, new: str, words: str) -> None:
    assert old in XML
    assert words in refused(XML.replace(old, new), ".musicxml")


@pytest.mark.parametrize("encoding", ["UTF-16", "none-such", "US-ASCII"])
def test_numbers_are_checked_in_any_declared_encoding(encoding: str) -> None:
    data = XML.replace('"1.0"?>', f'"1.0" encoding="{encoding}"?><!-- \u00e9 -->')
    assert "beats" in refused(data.replace("<beats>4<", "<beats>1000000000<"), ".musicxml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("MM100", "MM\uff19e300", "line 3: tempo"),
        ("*M4/4", "*M\uff11\uff10000000/4", "line 2: beats"),
        ("\n4c", "\n" + "\uff14" * 9 + "c", "line 4: length"),
    ],
)
def test_humdrum_numbers_of_unicode_digits_are_refused(old: str, new: str, words: str) -> None:
    assert old in KERN
    assert words in refused(KERN.replace(old, new), ".krn")
