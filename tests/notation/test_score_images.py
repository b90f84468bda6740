"""Sheet music has the notes of the score, and escapes the texts of a tune."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

import musicgen
from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.formats import abc
from musicgen.music.bars import find_bars
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.notation import mei
from musicgen.notation.engraving import build_sheet
from musicgen.notation.score_images import engrave, engrave_pages, engrave_png
from tests import read_svg
from tests.oracles import all_tunes, corpus_root
from tests.strategies import bands, scores

JIG = """X:1
T:The Test
R:jig
M:6/8
L:1/8
Q:3/8=112
K:D
A|:"D"d2A FAd|(3fga f edB|"Em7"A3 B2^c|[1 d3- d2 A:|[2 d3 d2||
|:=c|"G"B2G [GBd]3|ABc dz2|^A6|d3 d2:|
"""
LIVE = re.compile(r"<script|<foreignObject|<image|<style|\son\w+=|javascript:|url\(", re.IGNORECASE)


def jig(title: str = "The Test") -> Score:
    return formats.parse(JIG.replace("The Test", title).encode(), ".abc")[0][0]


def real_tunes(count: int) -> Iterator[Score]:
    """Yield a fixed sample of tunes from music21's corpus."""
    for text in random.Random(6).sample(all_tunes(), count):
        yield from abc.parse(text, "")[0]


def assert_on_page(score: Score) -> None:
    """Compare the notes on the page with those of the score."""
    lengths = [bar.steps for bar in find_bars(score)] or [score.meter.steps]
    page = read_svg.read(mei.render(build_sheet(score)), lengths)
    assert all(end == length for end, length in page.layers)
    assert len(page.notes) == len(score.notes)
    for index, note in enumerate(score.notes):
        expected = read_svg.Seen(note.onset, note.pitch, note.duration, note.part)
        assert page.notes[f"n{index}"] == expected


def test_notes_of_real_tunes_are_on_the_page() -> None:
    for score in real_tunes(60):
        assert_on_page(score)


def test_notes_of_chorales_are_on_the_page() -> None:
    for path in sorted((corpus_root() / "bach").glob("bwv*.mxl"))[5:140:60]:
        assert_on_page(formats.read(path)[0][0])


def test_notes_of_sampled_tunes_are_on_the_page() -> None:
    model = musicgen.load("folk")
    for seed, meter in enumerate(("6/8", "4/4", "9/8")):
        assert_on_page(model.sample(seed=seed, meter=meter, bars=16).score)


@settings(max_examples=40, deadline=None)
@given(bands() | scores())
def test_notes_of_any_score_are_on_the_page(score: Score) -> None:
    assert_on_page(score)


@pytest.mark.promises
def test_notes_of_all_real_tunes_are_on_the_page() -> None:
    for score in real_tunes(3000):
        assert_on_page(score)


def test_svg_has_the_id_of_every_note_and_measure() -> None:
    for score in (jig(), *real_tunes(3)):
        svg = engrave(score)
        svg_ids = re.findall(r' id="([nm]\d+(?:-\d+)?)"', svg)
        assert len(svg_ids) == len(set(svg_ids))
        head_ids = [
            head.element_id
            for measure in build_sheet(score).measures
            for staff in measure.staves
            for layer in staff
            for symbol in layer.symbols
            for head in symbol.heads
        ]
        assert set(svg_ids) == {*head_ids, *(f"m{index}" for index in range(len(find_bars(score))))}


def test_drums_and_doubled_notes_keep_their_ids() -> None:
    notes = [
        Note(0, 36, 24, 80, 1),
        Note(0, 36, 24, 90, 1),
        Note(24, 42, 6, 80, 1),
        Note(0, 60, 96),
    ]
    score = Score(notes, (Mark(0, "meter", Meter(2, 4)),), (Part(), Part("Kit", 0, True)))
    assert set(re.findall(r' id="(n\d+)"', engrave(score))) == {"n0", "n1", "n2", "n3"}


def test_svg_is_self_contained_and_inherits_its_color() -> None:
    svg = engrave(jig())
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert [child.text for child in root][:2] == [
        "The Test", "Sheet music: jig in D major, 6/8, 11 measures",
    ]  # fmt: skip
    assert not LIVE.search(svg)
    assert not re.search(r'href="[^#]', svg)
    assert not re.search(r"black|#000|rgb\(", svg)
    assert "currentColor" in svg
    assert len(svg) < 30_000


def test_engraving_is_deterministic_across_threads() -> None:
    another_svg = engrave(jig("Another"))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(engrave, [jig()] * 6)) == {engrave(jig())}
    assert engrave(jig("Another")) == another_svg


HOSTILE = (
    "<script>alert(1)</script>",
    "]]><svg onload=alert(1)>&amp;\"'",
    "a\x00b\x1b[31m\x08\u202ec\ufffe",
    "&lt;b&gt; &#x3c;script&#x3e; <lb/>",
    "x" * 5000,
    "--> <!-- ?> <?php",
    "\ud800\udfff",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_a_tune_are_escaped(text: str) -> None:
    marks = (Mark(0, "chord", text), Mark(96, "chord", "Am"))
    score = Score((Note(0, 60, 192),), marks, (Part(text), Part(text)), text, text)
    svg = engrave(score)
    known_tags = {element.tag for element in ElementTree.fromstring(engrave(jig())).iter()} | {
        "{http://www.w3.org/2000/svg}polyline",
        "{http://www.w3.org/2000/svg}rect",
    }
    assert {element.tag for element in ElementTree.fromstring(svg).iter()} <= known_tags
    assert not re.search(r"<script|onload=[^&]*>|\x1b|\x00", re.sub(r">[^<]*<", "><", svg))
    assert engrave_png(score).startswith(b"\x89PNG")


def test_png_has_the_requested_size() -> None:
    small, large = (engrave_png(jig(), zoom=zoom) for zoom in (1.0, 2.0))
    width, height = struct.unpack(">II", small[16:24])
    assert width == 840
    assert struct.unpack(">II", large[16:24]) == (2 * width, 2 * height)


def test_lines_have_four_measures() -> None:
    svg = engrave(jig())
    assert svg.count('class="system"') == 2
    assert svg.index('id="m5"') < svg.rindex('class="system"') < svg.index('id="m6"')


def test_width_is_applied_or_refused() -> None:
    assert ' width="500" ' in engrave(jig(), width=500)
    with pytest.raises(InvalidValue, match=r"width 10 is out of range: write 240 to 4000"):
        engrave(jig(), width=10)


def test_print_pages_contain_the_whole_tune() -> None:
    notes = [Note(96 * step, 60 + step % 12, 96) for step in range(700)]
    score = Score(notes, tuple(Mark(192 * bar, "bar") for bar in range(1, 351)), title="Long")
    pages = engrave_pages(score)
    assert len(pages) > 1
    note_ids = [name for page in pages for name in re.findall(r' id="(n\d+)"', page)]
    assert note_ids == [f"n{index}" for index in range(700)]
    assert set(re.findall(r' id="(n\d+)"', engrave(score))) == set(note_ids)


def test_empty_score_has_a_page() -> None:
    assert 'id="m0"' in engrave(Score())
