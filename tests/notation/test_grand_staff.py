"""A piano part of two hands is on two staves with a brace; drums have a percussion clef."""

from __future__ import annotations

import re

from musicgen.formats import musicxml
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.notation import mei
from musicgen.notation.clefs import BASS, PERCUSSION, TREBLE
from musicgen.notation.engraving import Sheet, build_sheet
from musicgen.notation.grand_staff import split_hands
from musicgen.notation.score_images import engrave

BAR = 192


def make_piano(low: int = 40, high: int = 76, program: int = 0) -> tuple[Note, ...]:
    left = [Note(48 * k, low + k % 3, 48) for k in range(8)]
    return (*left, *(Note(48 * k, high + k % 3, 48) for k in range(8)))


def make_score(notes: tuple[Note, ...], *parts: Part) -> Score:
    return Score(notes, (Mark(BAR, "bar"), Mark(2 * BAR, "bar")), parts or (Part("piano"),))


def layout(score: Score) -> Sheet:
    return build_sheet(score, with_grand_staves=True)


def test_piano_of_two_hands_has_two_staves() -> None:
    sheet = layout(make_score(make_piano()))
    assert [(staff.hand, staff.clef) for staff in sheet.staves] == [
        ("right", TREBLE), ("left", BASS),
    ]  # fmt: skip
    groups = re.findall(r'<staffGrp symbol="(\w+)"', mei.render(sheet))
    assert groups == ["brace"]


def test_all_notes_keep_their_numbers() -> None:
    score = make_score(make_piano())
    heads = {
        head.note_index: head.pitch
        for measure in layout(score).measures
        for layers in measure.staves
        for layer in layers
        for symbol in layer.symbols
        for head in symbol.heads
    }
    assert heads == dict(enumerate(note.pitch for note in score.notes))


def test_part_that_one_staff_holds_stays_on_one() -> None:
    for notes in (make_piano(low=60), make_piano(high=50), make_piano()[:8]):
        score = make_score(notes)
        assert split_hands(score) == (score, ())
    flute = make_score(make_piano(), Part("flute", 73))
    assert split_hands(flute) == (flute, ())


def test_band_with_piano_and_drums_is_engraved() -> None:
    drums = (Note(0, 36, 48, part=1), Note(48, 42, 48, part=1), Note(96, 49, 48, part=1))
    parts = Part("piano"), Part("drums", is_drums=True)
    score = make_score((*make_piano(), *drums), *parts)
    sheet = layout(score)
    assert [staff.clef for staff in sheet.staves] == [TREBLE, BASS, PERCUSSION]
    shapes = {
        head.pitch: head.shape
        for layer in sheet.measures[0].staves[2]
        for symbol in layer.symbols
        for head in symbol.heads
    }
    assert shapes == {36: "normal", 42: "x", 49: "x"}
    svg = engrave(score)
    assert ", 2 parts" in svg
    assert 'id="n0"' in svg


def test_musicxml_keeps_the_part_in_one() -> None:
    score = make_score(make_piano())
    (read,), refusals = musicxml.parse(musicxml.render(score))
    assert not refusals
    assert len(read.parts) == 1
