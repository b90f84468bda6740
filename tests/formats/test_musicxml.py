"""MusicXML that we write is read back equal by our reader and by music21."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings

import musicgen
from musicgen import formats
from musicgen.errors import InvalidValue
from musicgen.formats import abc, musicxml
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import CHORD_QUALITIES, Key, Meter
from tests.oracles import all_tunes, corpus_root
from tests.strategies import bands, scores


def real_tunes(count: int, seed: int = 8) -> Iterator[Score]:
    """Yield a fixed sample of tunes from music21's corpus."""
    for text in random.Random(seed).sample(all_tunes(), count):
        yield from abc.parse(text, "")[0]


def assert_round_trip(score: Score) -> None:
    """Check that a score is read back equal."""
    (parsed,), refusals = musicxml.parse(musicxml.render(score))
    assert refusals == ()
    assert parsed.canonical() == score.canonical()


def test_reading_undoes_writing_of_real_tunes() -> None:
    for score in real_tunes(12):
        assert_round_trip(score)


@pytest.mark.parametrize("length", ["z4", "z8", "z6", "z3"])
def test_silent_bar_shorter_than_its_meter_keeps_its_length(length: str) -> None:
    tune = f"X:1\nM:16/4\nL:1/4\nK:C\nC16 | D16 | {length} |]\n"
    assert_round_trip(abc.parse(tune, "")[0][0])


def test_reading_undoes_writing_of_a_chorale() -> None:
    assert_round_trip(formats.read(corpus_root() / "bach" / "bwv10.7.mxl")[0][0])


def test_reading_undoes_writing_of_sampled_tunes() -> None:
    model = musicgen.load("folk")
    for seed, meter in enumerate(("6/8", "4/4")):
        assert_round_trip(model.sample(seed=seed, meter=meter, bars=16).score)


@settings(max_examples=12, deadline=None)
@given(bands())
def test_reading_undoes_writing_of_a_band(score: Score) -> None:
    assert_round_trip(score)


@settings(max_examples=12, deadline=None)
@given(scores())
def test_notes_of_any_score_round_trip(score: Score) -> None:
    if score.notes:
        (parsed,), _ = musicxml.parse(musicxml.render(score))
        assert parsed.canonical().notes == score.canonical().notes


@pytest.mark.promises
def test_reading_undoes_writing_of_many_real_tunes() -> None:
    for score in real_tunes(600, seed=9):
        assert_round_trip(score)


def test_chords_dynamics_rhythm_and_drums_round_trip() -> None:
    chords = [Mark(24 * n, "chord", f"F#{quality}") for n, quality in enumerate(CHORD_QUALITIES)]
    more = [Mark(600, "chord", "Bb7/D"), Mark(624, "chord", "N.C."), Mark(384, "tempo", 61.7)]
    notes = [Note(0, 60, 768, 33)]
    notes += [Note(24 * n, pitch, 24, 101, 1) for n, pitch in enumerate(range(24, 56))]
    marks = (Mark(0, "key", Key("C#", "phrygian")), *chords, *more)
    bar_lines = tuple(Mark(192 * bar, "bar") for bar in range(1, 5))
    score = Score(notes, (*marks, *bar_lines), (Part("A", 40), Part("", 0, True)), "T", "slow air")
    assert_round_trip(score)


def test_play_counts_and_endings_round_trip() -> None:
    text = "X:1\nM:2/4\nL:1/8\nK:Am\n|:A4|B4::|:c4|1,3 d4:|2 e4:|4 f4||g4-|g4|]\n"
    assert_round_trip(formats.parse(text.encode(), ".abc")[0][0])


def test_music21_plays_the_repeats_as_we_do() -> None:
    """Compare the playing order of repeats and endings with music21's."""
    from music21 import converter

    tunes = [text for text in all_tunes() if ":|" in text]
    endings = [text for text in tunes if "|1" in text]
    rng = random.Random(3)
    for text in rng.sample(tunes, 4) + rng.sample(endings, 4):
        score = abc.parse(text, "")[0][0]
        stream: Any = converter.parseData(musicxml.render(score), format="musicxml")
        expected = [(Fraction(n.onset, 48), n.pitch) for n in score.unfolded().notes if n.part == 0]
        assert _played_pitches(stream.parts[0].expandRepeats()) == expected, score.title


def _played_pitches(part: Any) -> list[tuple[Fraction, int]]:
    """Return the onsets and pitches of a part, by adding up its measures."""
    onsets_and_pitches = []
    measure_start = Fraction(0)
    for measure in part.getElementsByClass("Measure"):
        for note in measure.flatten().notes:
            if "Harmony" in note.classes or (note.tie and note.tie.type != "start"):
                continue
            onsets_and_pitches += [
                (measure_start + Fraction(note.offset), pitch.midi) for pitch in note.pitches
            ]
        measure_start += Fraction(measure.highestTime)
    return sorted(onsets_and_pitches)


HOSTILE = "<script>&lt;\x00\x1b[31m]]>\"'\u202e\ud800"


def test_texts_of_a_tune_are_escaped() -> None:
    marks = (Mark(0, "chord", HOSTILE), Mark(192, "bar"))
    score = Score((Note(0, 60, 192),), marks, (Part(HOSTILE),), HOSTILE, HOSTILE)
    data = musicxml.render(score, remarks=['a="<b>&amp;"'])
    root = ElementTree.fromstring(data)
    assert root.find("script") is None
    assert root.findtext("work/work-title") == "<script>&lt;[31m]]>\"'"
    assert musicxml.read_remarks(data) == ('a="<b>&amp;"',)


def test_remarks_are_stored_in_the_file(tmp_path: Path) -> None:
    score = Score((Note(0, 60, 192),), (Mark(0, "meter", Meter(4, 4)),))
    assert formats.supports_remarks(".musicxml")
    formats.write(score, tmp_path / "a.musicxml", remarks=["recipe seed=7", 'x {"a": 1}'])
    assert formats.read_remarks(tmp_path / "a.musicxml") == ("recipe seed=7", 'x {"a": 1}')
    with pytest.raises(InvalidValue, match=r"write one line"):
        musicxml.render(score, remarks=["two\nlines"])


def test_elements_follow_the_standard() -> None:
    """Check the order of the elements of notes, their beams and the ends of ties."""
    text = "X:1\nM:4/4\nL:1/16\nK:D\n=c2c^c (3d2e2f2 [Ac]4-|[Ac]8 z8|\n"
    root = ElementTree.fromstring(musicxml.render(formats.parse(text.encode(), ".abc")[0][0]))
    notes = root.findall("part/measure/note")
    order = ["chord", "pitch", "rest", "duration", "tie", "voice", "type", "dot", "accidental",
             "time-modification", "notehead", "beam", "notations"]  # fmt: skip
    for note in notes:
        positions = [order.index(child.tag) for child in note]
        assert positions == sorted(positions)
    assert [beam.text for beam in notes[1].findall("beam")] == ["continue", "begin"]
    assert [beam.text for beam in notes[2].findall("beam")] == ["end", "end"]
    assert len(root.findall("part/measure/note/tie[@type='start']")) == 2
    assert len(root.findall("part/measure/note/tie[@type='stop']")) == 2


def make_phrases(*measures: int) -> Score:
    """Make measures of some quarters each, with a note on every quarter."""
    ends = [48 * sum(measures[: number + 1]) for number in range(len(measures))]
    notes = [Note(step, 60 + step // 48 % 5, 48) for step in range(0, ends[-1], 48)]
    marks = [Mark(0, "meter", Meter(4, 4)), *(Mark(end, "bar") for end in ends)]
    return Score(tuple(notes), tuple(marks))


@pytest.mark.parametrize(
    ("measures", "joined"),
    [
        ((4, 3, 1, 4), [4, 8, 12]),
        ((1, 4, 3, 1, 4, 3), [1, 5, 9, 13, 16]),  # the pickup and the last measure stay
        ((4, 2, 1, 4), [4, 6, 7, 11]),  # not a full bar
        ((4, 1, 3, 1, 3, 4), [4, 8, 12, 16]),
    ],
)
def test_bar_that_is_split_between_phrases_is_read_as_one(
    measures: tuple[int, ...], joined: list[int]
) -> None:
    score = make_phrases(*measures)
    (parsed,), _ = musicxml.parse(musicxml.render(score))
    assert [mark.onset // 48 for mark in parsed.canonical().of("bar")] == joined


def test_bar_that_is_split_at_a_repeat_stays_split() -> None:
    score = make_phrases(4, 3, 1, 4)
    score = Score(
        score.notes, (*score.marks, Mark(4 * 48, "repeat_start"), Mark(336, "repeat_end", 2))
    )
    (parsed,), _ = musicxml.parse(musicxml.render(score))
    assert 336 in {mark.onset for mark in parsed.of("bar")}


def test_fermatas_round_trip_and_are_those_of_the_first_part_that_has_any() -> None:
    parts = (Part("Soprano"), Part("Alto"))
    notes = tuple(Note(48 * n, 72 - 7 * part, 48, part=part) for n in range(8) for part in (0, 1))
    marks = (Mark(144, "fermata"), Mark(336, "fermata"), Mark(192, "bar"), Mark(384, "bar"))
    score = Score(notes, marks, parts)
    assert_round_trip(score)
    text = musicxml.render(score).decode()
    assert text.count("<fermata/>") == 2
    head, tail = text.split('<part id="P2">')
    moved = (
        head.replace("<fermata/>", "")
        + '<part id="P2">'
        + tail.replace("</note>", "<notations><fermata/></notations></note>", 1)
    )
    (parsed,), _ = musicxml.parse(moved.encode())
    assert [mark.onset for mark in parsed.of("fermata")] == [0]
