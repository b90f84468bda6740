"""The piano roll shows every note heard, at its time and pitch."""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

from musicgen.errors import Refusal
from musicgen.music.score import Ending, Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.render.piano_roll import COLOURS, MAX_ROWS, draw_pianoroll_png, draw_pianoroll_svg
from musicgen.render.timeline import timeline
from tests.strategies import scores

SVG = "{http://www.w3.org/2000/svg}"
JIG = Score(
    tuple(Note(24 * k, 62 + k % 5, 24) for k in range(19)),
    (
        Mark(0, "meter", Meter(6, 8)),
        Mark(0, "key", Key("D", "major")),
        Mark(24, "bar"),
        Mark(24, "repeat_start"),
        Mark(168, "bar"),
        Mark(168, "ending", Ending((1,), 312)),
        Mark(312, "bar"),
        Mark(312, "repeat_end", 2),
        Mark(312, "ending", Ending((2,), 456)),
        Mark(456, "bar"),
    ),
    title="A jig",
)


def parse_roll(score: Score) -> ElementTree.Element:
    return ElementTree.fromstring(draw_pianoroll_svg(score))


def find_elements(score: Score, name: str) -> list[ElementTree.Element]:
    return [element for element in parse_roll(score).iter() if element.get("class") == name]


def list_texts(score: Score) -> list[str]:
    return [element.text or "" for element in parse_roll(score).iter(f"{SVG}text")]


def test_repeats_are_unfolded() -> None:
    notes = find_elements(JIG, "note")
    assert len(notes) == len(timeline(JIG)) == 25
    names = [note[0].text for note in notes]
    assert names[:5] == ["D4", "D♯4", "E4", "F4", "F♯4"]
    xs = [float(note.get("x", "")) for note in notes]
    assert xs == sorted(xs)
    assert {note.get("width") for note in notes} == {"16.0"}


def test_bars_have_numbers_and_beats() -> None:
    assert list_texts(JIG)[0] == "A jig"
    numbers = [word for word in list_texts(JIG)[1:] if word.isdigit()]
    assert numbers == ["1", "2", "3", "4"]  # the pickup has none
    assert len(find_elements(JIG, "bar")) == 5
    assert len(find_elements(JIG, "beat")) == 4


def test_pickup_and_its_completion_are_numbered_once() -> None:
    marks = (Mark(0, "meter", Meter(2, 4)), Mark(24, "bar"), Mark(120, "bar"), Mark(192, "bar"),
             Mark(192, "repeat_end", 2))  # fmt: skip
    score = Score(tuple(Note(24 * k, 60, 24) for k in range(8)), marks)
    numbers = [word for word in list_texts(score) if word.isdigit()]
    assert numbers == ["1", "2", "3", "4"]
    assert len(find_elements(score, "bar")) == 6


def test_parts_have_colours_and_names() -> None:
    parts = (Part("Soprano", 73), Part("", 40), Part("", 0, is_drums=True))
    score = Score(tuple(Note(0, 60 + 4 * k, 48, part=k) for k in range(3)), parts=parts)
    assert [note.get("fill") for note in find_elements(score, "note")] == list(COLOURS[:3])
    assert {"Soprano", "violin", "drums"} < set(list_texts(score))
    assert len(set(COLOURS)) == 8


def test_louder_notes_are_more_opaque() -> None:
    score = Score((Note(0, 60, 48, 20), Note(48, 60, 48, 120)))
    faint, strong = (float(note.get("fill-opacity", "")) for note in find_elements(score, "note"))
    assert 0.5 < faint < strong <= 1


def test_long_note_continues_across_rows() -> None:
    score = Score((Note(0, 45, 192 * 40), Note(0, 60, 48)))
    drone = [note for note in find_elements(score, "note") if note[0].text == "A2"]
    assert len(drone) == len(find_elements(score, "edge")) == 5
    assert sum(float(note.get("width", "")) for note in drone) == pytest.approx(160 * 32, abs=1)


@given(scores())
@settings(max_examples=25)
def test_every_note_is_inside_a_row(score: Score) -> None:
    if not score.notes:
        return
    rows = [
        (float(edge.get("y", "")), float(edge.get("height", "")), float(edge.get("width", "")))
        for edge in find_elements(score, "edge")
    ]
    notes = find_elements(score, "note")
    assert len(notes) >= len(timeline(score))
    for note in notes:
        top, left = float(note.get("y", "")), float(note.get("x", ""))
        assert any(y <= top < y + height and left <= 45 + width for y, height, width in rows)


def test_titles_and_names_are_escaped() -> None:
    evil = '<script>alert("1")</script>\x00\x1b[31m&'
    score = Score((Note(0, 60, 48),), (), (Part(evil), Part()), title=evil)
    assert "<script" not in draw_pianoroll_svg(score)
    assert list_texts(score)[0].startswith('<script>alert("1")</script>[31m&')


def test_png_has_the_size_of_the_svg() -> None:
    data = draw_pianoroll_png(JIG)
    width, height = struct.unpack(">II", data[16:24])
    svg = parse_roll(JIG)
    assert data.startswith(b"\x89PNG")
    assert (width, height) == (
        round(1.5 * int(svg.get("width", ""))),
        round(1.5 * int(svg.get("height", ""))),
    )
    assert b"http" not in data


def test_score_without_notes_is_refused() -> None:
    with pytest.raises(Refusal, match="the tune has no notes to show"):
        draw_pianoroll_svg(Score())


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(Refusal, match=f"needs more than {MAX_ROWS} rows"):
        draw_pianoroll_svg(Score((Note(0, 60, 48), Note(48 * 20_000, 60, 48))))


def test_wide_range_has_fewer_key_names() -> None:
    score = Score((Note(0, 30, 48), Note(0, 90, 48)))
    key_names = {word for word in list_texts(score) if word and not word.isdigit()}
    assert {word[0] for word in key_names} == {"C", "G"}
