"""Note values, beams, accidentals and the contents of measures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from musicgen import formats
from musicgen.music.bars import find_bars
from musicgen.music.durations import choose_tempo_beat
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.notation.clefs import (
    BASS,
    DRUM_SYMBOLS,
    PERCUSSION,
    PITCH_BY_DRUM_SYMBOL,
    TREBLE,
    TREBLE_8VB,
    choose_clef,
)
from musicgen.notation.engraving import Measure, build_sheet
from musicgen.notation.note_values import NoteValue, split_by_meter
from tests.strategies import bands, scores


def measures(music: str, meter: str = "4/4", key: str = "C") -> tuple[Measure, ...]:
    text = f"X:1\nM:{meter}\nL:1/8\nK:{key}\n{music}\n"
    return build_sheet(formats.parse(text.encode(), ".abc")[0][0]).measures


def beams(music: str, meter: str) -> list[int]:
    return [symbol.beam for symbol in measures(music, meter)[0].staves[0][0].symbols]


def accidentals(music: str, key: str = "C") -> list[int | None]:
    return [
        head.accidental
        for measure in measures(music, key=key)
        for symbol in measure.staves[0][0].symbols
        for head in symbol.heads
    ]


@pytest.mark.parametrize(
    ("meter", "start", "steps", "written"),
    [
        ("6/8", 48, 48, (24, 24)),  # over the middle of the bar
        ("6/8", 0, 96, (72, 24)),
        ("6/8", 0, 144, (144,)),
        ("9/8", 0, 216, (144, 72)),
        ("4/4", 24, 48, (48,)),  # a syncopation that shows the beat
        ("4/4", 24, 72, (72,)),
        ("4/4", 48, 96, (96,)),
        ("4/4", 48, 144, (144,)),
        ("4/4", 72, 48, (24, 24)),
        ("4/4", 48, 72, (48, 24)),
        ("3/4", 24, 96, (24, 72)),
        ("3/4", 24, 48, (48,)),
        ("3/2", 144, 96, (96,)),
        ("2/4", 24, 48, (48,)),
        ("4/4", 0, 240, (192, 48)),
    ],
)
def test_notes_are_split_to_show_the_beats(
    meter: str, start: int, steps: int, written: object
) -> None:
    assert split_by_meter(Meter.parse(meter), start, steps, False) == written


@pytest.mark.parametrize(
    ("meter", "start", "steps", "written"),
    [
        ("4/4", 48, 96, (48, 48)),
        ("4/4", 0, 144, (96, 48)),
        ("6/8", 24, 48, (24, 24)),
        ("6/8", 0, 48, (48,)),
        ("6/8", 72, 72, (72,)),
        ("3/4", 48, 96, (48, 48)),
    ],
)
def test_rests_are_split_to_show_the_beats(
    meter: str, start: int, steps: int, written: object
) -> None:
    assert split_by_meter(Meter.parse(meter), start, steps, True) == written


@pytest.mark.parametrize(
    ("music", "meter", "expected"),
    [
        ("ABcd efga", "4/4", [1, 1, 1, 1, 2, 2, 2, 2]),
        ("A/B/cde fg a2", "4/4", [1, 1, 1, 2, 2, 3, 3, 0]),
        ("A>B cd e4", "4/4", [1, 1, 2, 2, 0]),
        ("ABc def", "6/8", [1, 1, 1, 2, 2, 2]),
        ("A2B cde", "6/8", [0, 0, 1, 1, 1]),
        ("ABc def gab", "9/8", [1, 1, 1, 2, 2, 2, 3, 3, 3]),
        ("AB cd ef", "3/4", [1, 1, 2, 2, 3, 3]),
        ("ABc", "3/8", [1, 1, 1]),
        ("ABcd ef g2", "2/2", [1, 1, 1, 1, 2, 2, 0]),
        ("(3ABc de f4", "4/4", [1, 1, 1, 2, 2, 0]),
        ("ABc de fg", "7/8", [1, 1, 1, 2, 2, 3, 3]),
        ("Az AB c4", "4/4", [0, 0, 1, 1, 0]),
    ],
)
def test_beams_follow_beats(music: str, meter: str, expected: list[int]) -> None:
    assert beams(music, meter) == expected


def test_tuplets_stay_within_beats() -> None:
    (measure,) = measures("(3ABc (3def (3gab (3abc'")
    symbols = measure.staves[0][0].symbols
    assert [symbol.opens_tuplet for symbol in symbols] == [True, False, False] * 4
    assert {symbol.value for symbol in symbols} == {NoteValue(8)}


def test_accidentals_follow_from_key_and_measure() -> None:
    assert accidentals("^F2F2 =F2f2|F2^F2 F2f2|", "C") == [1, None, 0, None, None, 1, None, 1]
    assert accidentals("F2=F2 F2^F2|F8|", "D") == [None, 0, None, 1, None]
    assert accidentals("^F8-|F4 F4|") == [1, None, None]  # only the tie carries it over
    assert accidentals("^F8-|F4 ^F4|") == [1, None, 1]


def test_measures_are_numbered_as_players_count() -> None:
    sheet_measures = measures("A|:d2e fed|B2A AFA|1 e3 e2d:|2 e3 e2||c|d2e fed|", "6/8")
    assert [measure.number for measure in sheet_measures] == [0, 1, 2, 3, 4, 5, 5]
    sheet_measures = measures("A|d2e fed|B2A A2:|:d|f2e def|e3 e2:|", "6/8")
    assert [measure.number for measure in sheet_measures] == [0, 1, 2, 3, 3, 4]
    assert [measure.repeat_plays for measure in sheet_measures] == [0, 0, 2, 0, 0, 2]
    assert [measure.has_repeat_start for measure in sheet_measures] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def test_endings_start_and_stop() -> None:
    sheet_measures = measures("|:c8|d8|1 e8|f8:|2 g8|a8||b8|]")
    assert [measure.starting_passes for measure in sheet_measures] == [
        (),
        (),
        (1,),
        (),
        (2,),
        (),
        (),
    ]
    assert [measure.stopping_passes for measure in sheet_measures] == [
        (),
        (),
        (),
        (1,),
        (),
        (2,),
        (),
    ]
    assert [measure.bar_line_style for measure in sheet_measures][-2:] == ["double", "final"]


def test_key_and_meter_changes_are_in_their_measure() -> None:
    sheet_measures = measures("c8|c8|[K:D]c8|[M:3/4]c6|")
    assert [str(m.key) if m.key else "" for m in sheet_measures] == ["C major", "", "D major", ""]
    assert [str(m.meter) if m.meter else "" for m in sheet_measures] == ["4/4", "", "", "3/4"]
    assert sheet_measures[1].bar_line_style == "double"


def test_clef_minimizes_ledger_lines() -> None:
    assert choose_clef([]) == TREBLE
    assert choose_clef(range(60, 80)) == TREBLE
    assert choose_clef(range(40, 58)) == BASS
    assert choose_clef([50, 67]) == TREBLE_8VB


def test_every_drum_has_a_distinct_symbol() -> None:
    assert {drum: pitch for pitch, drum in DRUM_SYMBOLS.items()} == PITCH_BY_DRUM_SYMBOL
    assert len(DRUM_SYMBOLS) == len(PITCH_BY_DRUM_SYMBOL) >= 40


def test_drums_without_hits_are_written_as_rests() -> None:
    score = Score([Note(0, 60, 192)], (Mark(192, "bar"),), (Part(), Part(is_drums=True)))
    (measure,) = build_sheet(score, as_strokes=True).measures
    (layer,) = measure.staves[1]
    assert layer.symbols[0].is_measure_rest


def test_drums_may_be_written_as_strokes() -> None:
    notes = [Note(step, 42, 6, part=0) for step in range(0, 192, 24)] + [Note(0, 36, 12, part=0)]
    score = Score(notes, (Mark(192, "bar"),), (Part(is_drums=True),))
    sheet = build_sheet(score, as_strokes=True)
    assert sheet.staves[0].clef == PERCUSSION
    (layer,) = sheet.measures[0].staves[0]
    assert [len(symbol.heads) for symbol in layer.symbols] == [2, 1, 1, 1, 1, 1, 1, 1]
    assert {symbol.value for symbol in layer.symbols} == {NoteValue(8)}


def test_empty_score_is_a_measure_of_rest() -> None:
    (measure,) = build_sheet(Score(marks=(Mark(0, "meter", Meter(3, 4)),))).measures
    ((layer,),) = measure.staves
    assert layer.symbols[0].is_measure_rest
    assert layer.symbols[0].stop == 144


@pytest.mark.parametrize(
    ("qpm", "meter", "expected"),
    [(120.0, "4/4", (48, 120)), (168.0, "6/8", (72, 112)), (100.0, "6/8", (48, 100)),
     (66.5, "4/4", (24, 133)), (33.3, "4/4", (48, 33.3))],
)  # fmt: skip
def test_tempo_is_counted_in_whole_beats(
    qpm: float, meter: str, expected: tuple[int, float]
) -> None:
    steps, pace = choose_tempo_beat(qpm, Meter.parse(meter))
    assert (steps, float(pace)) == expected


@settings(max_examples=40, deadline=None)
@given(bands() | scores())
def test_symbols_fill_layers_and_include_every_note(score: Score) -> None:
    sheet = build_sheet(score)
    element_ids: list[str] = []
    for measure in sheet.measures:
        for layer in (layer for staff in measure.staves for layer in staff):
            edges = [0, *(symbol.stop for symbol in layer.symbols)]
            assert [symbol.start for symbol in layer.symbols] == edges[:-1]
            assert edges[-1] == measure.bar.steps
            element_ids += [head.element_id for symbol in layer.symbols for head in symbol.heads]
    assert len(element_ids) == len(set(element_ids))
    assert {f"n{index}" for index in range(len(score.notes))} <= set(element_ids)
    assert [measure.bar for measure in sheet.measures] == list(find_bars(score)) or score.end == 0


def test_key_of_over_seven_accidentals_is_respelled() -> None:
    score = Score((Note(0, 60, 192),), (Mark(0, "key", Key("G#", "major")),))
    assert build_sheet(score).measures[0].key == Key("Ab", "major")
