"""Figures of voice leading and chords: golden values of small scores with faults made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.voice_leading import VOICE_LEADING_FIGURES, name_chord, read_voices
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.music.tune_content import TuneContent
from musicgen.music.voice_lines import CADENCES

QUARTER = 48
CHOIR = tuple(Part(name) for name in ("Soprano", "Alto", "Tenor", "Bass"))


def make_chorale(
    *chords: Sequence[int],
    key: str = "C",
    fermatas: Sequence[int] = (),
    parts: Sequence[Part] = CHOIR,
    symbols: Sequence[tuple[int, str]] = (),
) -> Score:
    """Make chords of quarters, each as pitches from the highest voice to the lowest; 0 rests."""
    notes = [
        Note(QUARTER * beat, pitch, QUARTER, part=part)
        for beat, chord in enumerate(chords)
        for part, pitch in enumerate(chord)
        if pitch
    ]
    bars = -(-len(chords) // 4)
    marks = [Mark(0, "meter", Meter(4, 4)), Mark(0, "key", Key(key, "major"))]
    marks += [Mark(192 * number, "bar") for number in range(1, bars + 1)]
    marks += [Mark(QUARTER * beat, "fermata") for beat in fermatas]
    marks += [Mark(QUARTER * beat, "chord", symbol) for beat, symbol in symbols]
    return Score(notes, tuple(marks), tuple(parts))


def measure(score: Score) -> dict[str, float]:
    """Return the figures of one tune by key."""
    table = FigureTable.of([TuneContent.of(score)], VOICE_LEADING_FIGURES)
    return dict(zip((d.key for d in table.definitions), table.values.tolist(), strict=True))


C, F, G, A_MINOR = (72, 67, 64, 48), (72, 69, 65, 41), (71, 67, 62, 43), (72, 64, 60, 45)


def test_plain_chords_have_no_faults() -> None:
    figures = measure(make_chorale(C, F, G, C))
    for key in ("crossings", "voice_overlaps", "parallel_fifths", "parallel_octaves"):
        assert figures[key] == 0, key
    assert figures["vocal_range"] == figures["named_chords"] == figures["final_tonic"] == 1
    assert figures["distinct_chords"] == 3
    assert figures["harmonic_rhythm"] == 3  # in one bar


def test_parallels_are_counted_by_pair_of_voices() -> None:
    # bass and tenor move in fifths, bass and soprano in octaves; the alto stays
    score = make_chorale((72, 64, 55, 48), (74, 64, 57, 50), (74, 64, 57, 50))
    figures = measure(score)
    assert figures["parallel_fifths"] == 100  # in the only chord change
    assert figures["parallel_octaves"] == 100


def test_contrary_and_repeated_fifths_are_not_parallel() -> None:
    contrary = make_chorale((67, 60), (74, 55), parts=CHOIR[:2])  # a fifth, then a twelfth
    repeated = make_chorale((67, 60), (67, 60), (69, 60), parts=CHOIR[:2])
    assert measure(contrary)["parallel_fifths"] == 0
    assert measure(repeated)["parallel_fifths"] == 0


def test_a_rest_between_ends_parallels() -> None:
    score = make_chorale((67, 60, 55), (0, 0, 55), (69, 62, 55), parts=CHOIR[:3])
    assert measure(score)["parallel_fifths"] == 0


def test_crossings_count_chords_with_crossed_voices() -> None:
    # the alto is above the soprano in the second and third of four chords: three changes
    score = make_chorale((67, 64), (65, 69), (64, 69), (67, 64), parts=CHOIR[:2])
    figures = measure(score)
    assert figures["crossings"] == pytest.approx(100 * 2 / 3)
    assert figures["voice_overlaps"] == 0  # what is crossed is not an overlap too


def test_crossings_follow_the_roles_of_voices_not_their_order() -> None:
    parts = (Part("Bass", role="bass"), Part("Soprano", role="soprano"), Part("Alto", role="alto"))
    score = make_chorale((48, 67, 64), (50, 64, 67), parts=parts)
    voices = read_voices(TuneContent.of(score))
    assert voices is not None
    assert [part.role for part in voices.parts] == ["soprano", "alto", "bass"]
    assert measure(score)["crossings"] == 100


def test_overlaps_pass_the_note_that_a_neighbour_has_left() -> None:
    # the lower voice moves to 69, above 67, which the upper one has just left
    score = make_chorale((67, 60), (72, 69), parts=CHOIR[:2])
    figures = measure(score)
    assert figures["voice_overlaps"] == 100
    assert figures["crossings"] == 0


def test_leaps_are_over_a_fifth_and_not_across_rests() -> None:
    score = make_chorale((60, 48), (67, 48), (76, 48), (0, 48), (60, 36), parts=CHOIR[:2])
    figures = measure(score)
    # upper voice: 7, 9; lower: 0, 0, 0, 12
    assert figures["leaps"] == pytest.approx(2 / 6)
    assert figures["leaps_by_voice.1"] == 1 / 2
    assert figures["leaps_by_voice.2"] == 1 / 4
    assert math.isnan(figures["leaps_by_voice.3"])


def test_doubled_leading_notes_are_those_of_the_key() -> None:
    score = make_chorale((71, 67, 59, 43), (71, 67, 62, 43), C)
    assert measure(score)["doubled_leading_notes"] == 1 / 2
    assert measure(make_chorale((71, 67, 59, 43), C, key="G"))["doubled_leading_notes"] != 1


@pytest.mark.parametrize(
    ("kind", "before", "last"),
    [
        ("authentic", G, C),
        ("authentic", (74, 66, 57, 50), (74, 67, 59, 43)),  # D major to G major, in C
        ("half", C, G),
        ("half", F, G),
        ("plagal", F, C),
        ("deceptive", G, A_MINOR),
        ("other", (74, 67, 60, 52), C),
        ("other", C, C),
        ("half", (74, 65, 57, 50), G),  # D minor has no leading note
    ],
)
def test_cadences_have_kinds(kind: str, before: Sequence[int], last: Sequence[int]) -> None:
    figures = measure(make_chorale(C, before, last))
    assert {name: figures[f"cadences.{name}"] for name in CADENCES} == {
        name: float(name == kind) for name in CADENCES
    }


def test_phrases_end_at_fermatas_and_at_the_end() -> None:
    figures = measure(make_chorale(C, G, C, G, F, C, fermatas=[2, 3]))
    assert figures["cadences.authentic"] == figures["cadences.half"] == pytest.approx(1 / 3)
    assert figures["cadences.plagal"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("tones", "bass", "name"),
    [
        ({0, 4, 7}, 0, (0, "")), ({0, 4, 7}, 4, (0, "")), ({9, 0, 4, 7}, 9, (9, "m7")),
        ({11, 2, 5}, 2, (11, "dim")), ({0, 4}, 0, (0, "")), ({0, 3, 6, 9}, 6, (6, "dim7")),
        ({0, 4, 8}, 4, (4, "aug")), ({0, 1, 2}, 0, None), ({0, 7}, 0, None), ({0}, 0, None),
    ],
)  # fmt: skip
def test_chords_are_named(tones: set[int], bass: int, name: tuple[int, str] | None) -> None:
    assert name_chord(frozenset(tones), bass) == name


def test_ranges_are_those_of_the_voice() -> None:
    figures = measure(make_chorale((84, 67, 64, 48), C))
    assert figures["vocal_range"] == 7 / 8
    pianos = (Part("left", 0), Part("right", 0))
    assert math.isnan(measure(make_chorale((84, 67), C[:2], parts=pianos))["vocal_range"])


@pytest.mark.parametrize(
    "score",
    [
        make_chorale(C, F, parts=(*CHOIR[:3], Part("kit", is_drums=True))),
        make_chorale((60,), (62,), parts=CHOIR[:1]),
        Score([Note(0, pitch, 48, part=part) for pitch in (60, 64, 67) for part in (0, 1)],
              parts=(Part("piano"), Part("organ"))),
    ],
)  # fmt: skip
def test_drums_single_parts_and_chords_in_parts_are_no_voices(score: Score) -> None:
    figures = measure(score)
    assert all(map(math.isnan, figures.values()))


def test_chord_symbols_are_compared_with_the_melody() -> None:
    score = make_chorale(
        (64,), (65,), (67,), (72,), (74,), parts=[Part()], symbols=[(1, "Dm"), (3, "C7"), (4, "C7")]
    )
    figures = measure(score)
    # the note before the first symbol does not count; F, G over D minor, C and D over C7
    assert figures["melody_in_chord"] == 2 / 4
    assert figures["symbol_rhythm"] == pytest.approx(2 / 2)
    assert figures["distinct_symbols"] == 2
