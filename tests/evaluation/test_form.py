"""Figures of form: equal to counts made by hand or by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.form import FORM_FIGURES, TRAINING_FIGURES, average_likeness, form_figures
from musicgen.music.score import Note, Part, Score
from musicgen.music.tune_content import REST, Event, TuneContent, compare_bars
from tests.related_tunes import line
from tests.toy_tunes import make_dance, read_abc

BARS_8 = "CDEF GABc|" * 8


def measure(*scores: Score) -> dict[str, float]:
    """Return the figures of form of some tunes by key."""
    table = FigureTable.of([TuneContent.of(score) for score in scores], FORM_FIGURES)
    return dict(zip((d.key for d in table.definitions), table.values.tolist(), strict=True))


def section_lengths(body: str) -> list[int]:
    return [section.length for section in TuneContent.of(read_abc(body)).sections]


@pytest.mark.parametrize(
    ("body", "lengths"),
    [
        (f"|:{BARS_8[:-1]}:|{BARS_8}|", [8, 8]),
        (f"|:{'CDEF GABc|' * 3}CDEF GABc:|:{'CDEF GABc|' * 7}cBAG FEDC:|", [4, 8]),
        ("C|:" + "CDEF GABc|" * 7 + "CDEF GAB:|", [8]),  # the repeat starts after the pickup
        ("|:C|" + "CDEF GABc|" * 7 + "CDEF GAB:|", [8]),  # a pickup and its partner
        ("|:" + "CDEF GABc|" * 7 + "[1 CDEF GABc:|[2 c8|]", [8]),  # the second ending is left out
        (f"|:{BARS_8[:-1]}:|" + "CDEF GABc|" * 6 + "c8|]", [8, 7]),
        (BARS_8, [8]),
    ],
)
def test_sections_are_the_bars_between_repeat_signs(body: str, lengths: list[int]) -> None:
    assert section_lengths(body) == lengths


def test_shares_of_sections_are_over_all_sections_of_tunes_with_repeats() -> None:
    eight_and_six = read_abc(f"|:{BARS_8[:-1]}:|:{'CDEF GABc|' * 5}cBAG FEDC:|")
    twelve = read_abc(f"|:{'CDEF GABc|' * 11}cBAG FEDC:|")
    through = read_abc("CDEF GABc|" * 5)  # where its sections end is not known
    figures = measure(eight_and_six, twelve, through)
    assert figures["sections_8"] == pytest.approx(1 / 3)
    assert figures["sections_multiple_of_4"] == pytest.approx(2 / 3)
    assert figures["repeats"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("body", "share"),
    [
        ("CDEF GABc|cBAG FEDC|" * 5, 1),
        ("CDEF GABc|cBAG FEDC|" * 4 + "C8|", 0),
        ("CDEF GABc|" * 10, 1),
        ("CDEF GABc|" * 9 + "C8|", 0),
        ("CDEF GABc|cBAG FEDC|" * 3 + "C8|" + "CDEF GABc|cBAG FEDC|" * 3, 0),
    ],
)
def test_loop_is_two_bars_more_than_four_times_in_a_row(body: str, share: float) -> None:
    assert measure(read_abc(body))["loops"] == share


def test_sections_are_unknown_without_repeat_signs() -> None:
    assert math.isnan(measure(read_abc(BARS_8))["sections_8"])


def count_alike(first: Sequence[Event], second: Sequence[Event]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=False)) / max(len(first), len(second))


EVENTS = st.lists(
    st.tuples(st.sampled_from((24, 48)), st.sampled_from((REST, 60, 62))), min_size=1, max_size=5
).map(tuple)


@given(st.lists(EVENTS, max_size=6), st.lists(EVENTS, max_size=6))
def test_likeness_is_the_share_of_equal_events(
    first: list[tuple[Event, ...]], second: list[tuple[Event, ...]]
) -> None:
    expected = [[count_alike(a, b) for b in second] for a in first]
    likeness = compare_bars(first, second, "bar")
    assert likeness == pytest.approx(np.array(expected).reshape(len(first), len(second)))


@given(st.lists(EVENTS, min_size=2, max_size=2))
def test_kinds_of_likeness_compare_parts_of_events(bars: list[tuple[Event, ...]]) -> None:
    def like(kind: str) -> float:
        return float(compare_bars(bars[:1], bars[1:], kind)[0, 0])  # type: ignore[arg-type]

    rhythms = [[(duration, pitch == REST) for duration, pitch in bar] for bar in bars]
    pitches = [[(0, pitch) for _, pitch in bar] for bar in bars]
    assert like("rhythm") == pytest.approx(count_alike(*rhythms))
    assert like("pitch") == pytest.approx(count_alike(*pitches))
    assert like("bar") <= min(like("rhythm"), like("pitch"))


def test_contour_is_free_of_key_and_rhythm() -> None:
    rising, higher, falling = ((24, 60), (24, 64)), ((48, 70), (12, 71)), ((24, 64), (24, 60))
    assert compare_bars([rising], [higher, falling], "contour").tolist() == [[1.0, 0.5]]


def list_events_by_hand(notes: Sequence[tuple[int, int]]) -> list[list[Event]]:
    """Cut a line of (pitch, duration) into bars of 96 steps; neighboring rests are one."""
    bars: list[list[Event]] = []
    now = 0
    for pitch, duration in notes:
        while duration:
            if now % 96 == 0:
                bars.append([])
            piece = min(duration, 96 - now % 96)
            value = pitch or REST
            if value == REST and bars[-1] and bars[-1][-1][1] == REST:
                bars[-1][-1] = (bars[-1][-1][0] + piece, REST)
            else:
                bars[-1].append((piece, value))
            now, duration = now + piece, duration - piece
    return bars


@given(st.lists(st.tuples(st.sampled_from((0, 60, 62, 64)), st.sampled_from((24, 48, 72)))))
def test_likeness_by_lag_equals_the_count_by_hand(notes: list[tuple[int, int]]) -> None:
    notes = [*notes, (60, 96 - sum(duration for _, duration in notes) % 96)]  # the last bar is full
    bars = list_events_by_hand(notes)
    content = TuneContent.of(line(notes))
    assert [list(bar.events) for bar in content.bars] == bars
    figures = measure(line(notes))
    for lag in (1, 2, 4):
        pairs = [count_alike(bars[i], bars[i - lag]) for i in range(lag, len(bars))]
        expected = sum(pairs) / len(pairs) if pairs else math.nan
        assert figures[f"bar_likeness.{lag}"] == pytest.approx(expected, nan_ok=True)


def test_melody_is_the_top_line_of_the_first_part_without_drums() -> None:
    notes = (Note(0, 40, 96, part=0), Note(0, 60, 96, part=1), Note(0, 67, 192, part=1),
             Note(96, 64, 96, part=1), Note(0, 50, 96, part=2))  # fmt: skip
    content = TuneContent.of(Score(notes, parts=(Part(is_drums=True), Part(), Part())))
    assert content.bars[0].events == ((96, 67), (96, 64))


PHRASE = "CDEF GABc|cBAG FEDC|CEGc cGEC|"


@pytest.mark.parametrize(
    ("answer", "relation"),
    [
        (PHRASE + "C8|", "exact"),
        ("DEFG ABcd|dcBA GFED|DFAd dAFD|D8|", "new"),  # scale steps, not semitones
        ("D^FEG AB^cd|", "new"),
        (PHRASE + "D8|", "varied"),
        ("c,e,g,b, c,e,g,b,|" * 4, "new"),
    ],
)
def test_phrases_return(answer: str, relation: str) -> None:
    figures = measure(read_abc(f"|:{PHRASE}C8|{answer[:-1]}:|"))
    shares = {name: figures[f"phrases_{name}"] for name in ("exact", "transposed", "varied")}
    if answer.count("|") < 4:
        assert all(map(math.isnan, shares.values()))
    else:
        assert shares == {name: float(name == relation) for name in shares}


def test_transposed_phrase_is_found() -> None:
    figures = measure(read_abc(f"{PHRASE}C8|D E ^F G A B ^c d|d^cBA G^FED|D^FAd dA^FD|D8|"))
    assert figures["phrases_transposed"] == 1


def test_cadences_are_the_last_notes_of_phrases() -> None:
    figures = measure(read_abc("CDEF GABc|" * 3 + "CDEF D4|" + "CDEF GABc|" * 3 + "GFED C4|"))
    assert figures["phrases_on_tonic"] == 0.5
    assert figures["cadence_beats"] == 2
    assert figures["cadence_steps"] == 0.5  # F D is a third
    assert figures["ends_on_tonic"] == 1


def test_equal_sections_are_wholly_alike() -> None:
    half = "CDEF GABc|cBAG FEDC|CEGc cGEC|C8"
    assert measure(read_abc(f"|:{half}:|:{half}:|"))["part_likeness"] == 1


def test_likeness_of_sections_is_the_mean_over_their_pairs() -> None:
    figures = measure(read_abc("|:CDEF GABc:|:CDEF cBAG:|:CDEF GABc:|"))
    assert figures["part_likeness"] == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_repeats_endings_and_pickups_are_counted() -> None:
    bars = "CDEF GABc|" * 7
    with_endings = read_abc(f"|:{bars}[1 CDEF GABc:|[2 c8|]")
    with_pickup = read_abc(f"C|:{bars}CDEF GAB:|")
    figures = measure(with_endings, with_pickup, read_abc(bars))
    assert figures["repeats"] == pytest.approx(2 / 3)
    assert figures["endings"] == pytest.approx(1 / 2)  # over repeated sections
    assert figures["pickups"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("kind", "equal"), [("bar", 0), ("rhythm", 6), ("pitch", 1), ("contour", 7)]
)
def test_kinds_of_likeness_of_a_known_tune(kind: str, equal: int) -> None:
    """Eight events and seven: only the first pitches are equal, and their durations differ."""
    figures = measure(read_abc("CDEF GABc|C2EF GABd|"))
    assert figures[f"{kind}_likeness.1"] == equal / 8


def test_order_of_tunes_changes_nothing() -> None:
    dances = [make_dance(seed) for seed in range(6)]
    assert measure(*dances) == pytest.approx(measure(*dances[::-1]), nan_ok=True)


def test_form_figures_of_training_are_those_of_the_card() -> None:
    dances = [make_dance(seed) for seed in range(4)]
    figures = measure(*dances)
    assert form_figures(dances) == pytest.approx({key: figures[key] for key in TRAINING_FIGURES})
    assert set(form_figures([])) == set(TRAINING_FIGURES)
    assert all(map(math.isnan, form_figures([]).values()))


def test_matrix_averages_over_the_tunes_that_have_both_bars() -> None:
    same = [TuneContent.of(read_abc("CDEF GABc|" * count)) for count in (2, 4)]
    matrix = average_likeness(same, "bar", size=5)
    assert matrix[:4, :4].tolist() == np.ones((4, 4)).tolist()
    assert np.isnan(matrix[4]).all()
