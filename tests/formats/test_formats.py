"""Reading and writing by suffix."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from musicgen.errors import InvalidValue, NotFound, OutputExists, Refusal
from musicgen.formats import READABLE_SUFFIXES, WRITABLE_SUFFIXES, musicxml, read, write
from musicgen.music.bars import find_bars
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter

TUNE = Score(
    notes=tuple(Note(24 * n, 62 + (5 * n) % 12, 24) for n in range(12)),
    marks=(
        Mark(0, "key", Key("D", "major")),
        Mark(0, "meter", Meter(6, 8)),
        Mark(144, "bar"),
        Mark(288, "bar"),
    ),
    title="Ó Súilleabháin",
    rhythm="jig",
)


@pytest.mark.parametrize("suffix", [".abc", ".mid", ".midi", ".MID"])
def test_reading_undoes_writing(tmp_path: Path, suffix: str) -> None:
    write(TUNE, tmp_path / f"tune{suffix}")
    ((parsed,), refusals) = read(tmp_path / f"tune{suffix}")
    assert refusals == ()
    assert parsed.canonical() == TUNE.canonical()


def test_suffixes_are_these() -> None:
    assert READABLE_SUFFIXES == (".abc", ".mid", ".midi", ".musicxml", ".xml", ".mxl", ".krn")
    assert WRITABLE_SUFFIXES == (".abc", ".mid", ".midi", ".musicxml", ".xml")


def test_unknown_suffix_error_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"suffix '.pdf' cannot be read; known are \.abc, \.mid"):
        read(tmp_path / "tune.pdf")
    with pytest.raises(InvalidValue, match=r"suffix '\(none\)' cannot be written"):
        write(TUNE, tmp_path / "tune")


def test_existing_file_is_overwritten_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "tune.mid"
    write(TUNE, path)
    with pytest.raises(OutputExists):
        write(TUNE, path)
    write(TUNE.transpose(2), path, force=True)
    assert read(path)[0][0].notes[0].pitch == 64


def test_missing_file_is_not_found_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read(tmp_path / "none.mid")
    for suffix in READABLE_SUFFIXES:
        (tmp_path / f"folder{suffix}").mkdir()
        scores, (refusal,) = read(tmp_path / f"folder{suffix}")
        assert (scores, refusal.code) == ((), "not-regular")
    with (tmp_path / "large.mid").open("wb") as file:
        file.truncate(2**40)
    assert read(tmp_path / "large.mid")[1][0].code == "too-large"


XML = """<?xml version="1.0"?>
<score-partwise version="4.0">
 <work><work-title>Two Voices</work-title></work>
 <part-list>
  <score-part id="A"><part-name>Upper</part-name></score-part>
  <score-part id="B"><part-name>Lower</part-name></score-part>
 </part-list>
 <part id="A">
  <measure number="0" implicit="yes">
   <attributes><divisions>2</divisions><key><fifths>-1</fifths><mode>dorian</mode></key>
    <time><beats>3</beats><beat-type>4</beat-type></time></attributes>
   <note><pitch><step>G</step><octave>4</octave></pitch><duration>2</duration></note>
  </measure>
  <measure number="1">
   <barline location="left"><repeat direction="forward"/></barline>
   <harmony><root><root-step>B</root-step><root-alter>-1</root-alter></root>
    <kind>major</kind></harmony>
   <note><grace/><pitch><step>A</step><octave>4</octave></pitch></note>
   <note><pitch><step>B</step><alter>-1</alter><octave>4</octave></pitch><duration>6</duration>
    <tie type="start"/></note>
  </measure>
  <measure number="2">
   <barline location="left"><ending number="1" type="start"/></barline>
   <note><pitch><step>B</step><alter>-1</alter><octave>4</octave></pitch><duration>2</duration>
    <tie type="stop"/></note>
   <note><rest/><duration>4</duration></note>
   <barline location="right"><ending number="1" type="stop"/><repeat direction="backward"/>
    </barline>
  </measure>
  <measure number="3">
   <barline location="left"><ending number="2" type="start"/></barline>
   <note><pitch><step>C</step><octave>5</octave></pitch><duration>6</duration></note>
   <barline location="right"><ending number="2" type="stop"/></barline>
  </measure>
 </part>
 <part id="B">
  <measure number="0" implicit="yes"><attributes><divisions>2</divisions></attributes>
   <note><rest/><duration>2</duration></note></measure>
  <measure number="1"><note><pitch><step>G</step><octave>3</octave></pitch><duration>6</duration>
   </note></measure>
  <measure number="2"><note><pitch><step>F</step><octave>3</octave></pitch><duration>6</duration>
   </note></measure>
  <measure number="3"><note><pitch><step>G</step><octave>3</octave></pitch><duration>6</duration>
   </note></measure>
 </part>
</score-partwise>
"""


def packed(text: str, name: str = "score.xml") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in (("META-INF/container.xml", "<container/>"), (name, text)):
            # without the time of day: bytes are part of a test's name, equal in every worker
            archive.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [XML.encode(), packed(XML)], ids=["plain", "packed"])
def test_musicxml_is_read_in_written_form(data: bytes) -> None:
    ((score,), refusals) = musicxml.parse(data, "x.xml")
    assert refusals == ()
    assert (score.title, score.parts) == ("Two Voices", (Part("Upper"), Part("Lower")))
    assert (score.key, score.meter) == (Key("G", "dorian"), Meter(3, 4))
    upper = [(n.onset, n.pitch, n.duration) for n in score.notes if n.part == 0]
    assert upper == [(0, 67, 48), (48, 70, 192), (336, 72, 144)]
    assert [mark.onset for mark in score.of("bar")] == [48, 192, 336, 480]
    assert [mark.onset for mark in score.of("repeat_start")] == [48]
    assert [(m.onset, m.value.passes, m.value.end) for m in score.of("ending")] == [
        (192, (1,), 336), (336, (2,), 480)
    ]  # fmt: skip
    assert [(m.onset, m.value) for m in score.of("chord")] == [(48, "Bb")]
    played = [n.pitch for n in score.unfolded().notes if n.part == 1]
    assert played == [55, 53, 55, 55]
    assert find_bars(score)[0].steps == 48


def test_humdrum_is_read() -> None:
    rows = ("**kern", "*M3/4", "*k[f#]", "=1", "4G", "4A", "4B", "=2", "2.G", "==", "*-")
    text = "".join(f"{row}\t{row}\n" for row in rows)
    ((score,), refusals) = musicxml.parse_humdrum(text.encode(), "x.krn")
    assert refusals == ()
    assert len(score.parts) == 2
    assert len(score.notes) == 8
    assert score.meter == Meter(3, 4)
    assert score.key.fifths == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "damaged"),
        (b"<html></html>", "damaged"),
        (XML.encode()[:900], "damaged"),
        (b"PK\x03\x04nonsense", "damaged"),
        (packed("x", "readme.txt"), "damaged"),
        (packed(" " * (musicxml.MAX_XML_BYTES + 1)), "too-large"),
        (XML.replace("<pitch>", "<unpitched>").replace("</pitch>", "</unpitched>").encode(), None),
    ],
    ids=["empty", "other root", "cut", "no archive", "no score", "too large", "unpitched"],
)
def test_bad_musicxml_is_refused(data: bytes, code: str | None) -> None:
    scores, (refusal,) = musicxml.parse(data, "x.xml")
    assert scores == ()
    assert isinstance(refusal, Refusal)
    assert str(refusal).startswith("x.xml: ")
    assert code is None or refusal.code == code


def test_chorale_of_music21_has_four_voices() -> None:
    from musicgen.corpus.sources import list_files

    (file,) = (file for file in list_files("chorales") if file.path.name == "bwv10.7.mxl")
    ((score,), _) = file.read()
    assert [part.name for part in score.parts] == ["Soprano", "Alto", "Tenor", "Bass"]
    assert score.key == Key("G", "minor")
    assert {bar.kind for bar in find_bars(score.canonical())} == {"full"}
