"""Forms in letters: layout, random tunes of a form, and the form of the decoded tunes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Score, find_sections
from musicgen.tokens.codec import Setting
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.song_form import THROUGH, FormLayout, check_form, parse_form
from musicgen.tokens.vocabulary import MEASURES
from tests.random_walks import MELODY_IDS, walk_rules

FORMS = ("A", "AB", "AABB", "ABAC", "AABBCC", "ABBA", "AABA", "AAAB", "ABACA", THROUGH)
PLAIN = MELODY_IDS - {*MEASURES.ranges["key"], *MEASURES.ranges["chord"], *MEASURES.ranges["voice"]}


@pytest.mark.parametrize(
    ("form", "bars", "sections"),
    [
        ("AABB", 32, [(8, 2, None), (8, 2, None)]),
        ("ABAC", 32, [(8, 1, None), (8, 1, None), (8, 1, 0), (8, 1, None)]),
        ("AABA", 16, [(4, 2, None), (4, 1, None), (4, 1, 0)]),
        ("AB", None, [(8, 1, None), (8, 1, None)]),
        (THROUGH, 12, [(12, 1, None)]),
    ],
)
def test_letters_become_sections(
    form: str, bars: int | None, sections: list[tuple[int, int, int | None]]
) -> None:
    layout = FormLayout.of(form, bars)
    assert [
        (section.bars, section.plays, section.source) for section in layout.sections
    ] == sections


@pytest.mark.parametrize(
    ("form", "bars", "allows_pickup"),
    [
        ("AABB", 32, True),
        ("ABAC", 16, True),
        ("ABBA", 16, True),
        ("AABA", 16, True),
        ("AABAC", 40, False),  # the A that returns would end in a bar of another length
        ("AABB", 4, False),  # a bar cannot lack both its beginning and its end
        (THROUGH, 1, False),
    ],
)
def test_pickup_needs_short_bars_that_complete_it(
    form: str, bars: int, allows_pickup: bool
) -> None:
    assert FormLayout.of(form, bars).allows_pickup is allows_pickup


@pytest.mark.parametrize(
    ("form", "message"),
    [("", "it has no letters; write letters such as AABB"), ("A1", "letters A to H, not '1'"),
     ("AB" * 8 + "C", "at most 16 letters, not 17"), ("hello", "A to H, not 'L'"),
     ("AIA", "A to H, not 'I'"), ("BAB", "starts with A, not with B"),
     ("trough", "did you mean through\\?"), ("Throug", "did you mean through\\?"),
     ("fre", "did you mean free\\?"), ("A" * 100_000 + "é", "A to H, not 'É'"),
     ("AAAAAB", "A occurs 5 times in a row")],
)  # fmt: skip
def test_invalid_forms_are_refused(form: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as refusal:
        parse_form(form)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("text", "form"),
    [(" aabb ", "AABB"), ("Through", "through"), ("FREE", "free"), ("ABCDEFGH", "ABCDEFGH")],
)
def test_forms_are_parsed_in_any_case(text: str, form: str) -> None:
    assert parse_form(text) == form


def test_forms_of_old_recipes_are_accepted() -> None:
    assert check_form("HELLO") == "HELLO"
    with pytest.raises(InvalidValue, match="at most 16 letters"):
        check_form("A" * 17)


def test_number_of_bars_must_be_a_multiple_of_the_letters() -> None:
    with pytest.raises(InvalidValue, match="ask for a multiple of 4, such as 28"):
        FormLayout.of("AABB", 30)


def check_sections(score: Score, layout: FormLayout) -> None:
    """Check repeat signs and lengths in a score against a layout."""
    bar_steps, first_bar_steps = score.meter.steps, find_bars(score)[0].steps
    pickup = first_bar_steps if first_bar_steps < bar_steps else 0
    start, repeats = 0, []
    for section in layout.sections:
        end = start + section.bars * bar_steps
        end -= pickup if section.has_short_end else 0
        end += pickup if section.has_pickup else 0
        if section.plays > 1:
            repeats.append((start, end, section.plays))
        start = end
    assert start == score.end
    assert [(found.start, found.stop, found.plays) for found in find_sections(score)] == repeats


def highest_final_pitch(score: Score) -> int:
    return max(note.pitch for note in score.notes if note.onset == score.notes[-1].onset)


@given(
    st.integers(0, 10**9),
    st.sampled_from(FORMS),
    st.integers(1, 5),
    st.sampled_from((None, 0, 24, 48)),
    st.booleans(),
)
def test_every_walk_has_the_required_form(
    seed: int, form: str, section_bars: int, pickup: int | None, ends_on_tonic: bool
) -> None:
    bars = section_bars if form == THROUGH else section_bars * len(form)
    layout = FormLayout.of(form, bars)
    if pickup and not layout.allows_pickup:
        pickup = None
    tonics = [MEASURES.id("pitch", n) for n in (-12, 0, 12)] if ends_on_tonic else []
    rules = Rules(
        PLAIN, bars, bars, layout=layout, pickup=pickup, final_pitch_ids=frozenset(tonics)
    )
    ids = walk_rules(rules, random.Random(seed))
    decoded = MeasuresCodec().decode(ids, Setting())
    score = decoded.score
    assert decoded.dropped == 0
    assert count_heard_bars(score) == bars
    assert all(bar.kind != "irregular" for bar in find_bars(score))
    check_sections(score, layout)
    first = find_bars(score)[0]
    if pickup is not None:
        assert (first.steps if first.kind == "partial" else 0) == pickup
    if ends_on_tonic:
        assert highest_final_pitch(score) % 12 == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((None, 1, 3, 8)), st.sampled_from((None, 0, 48)))
def test_free_forms_end_on_the_tonic_with_the_pickup(
    seed: int, bars: int | None, pickup: int | None
) -> None:
    tonic = frozenset([MEASURES.id("pitch", 0)])
    rules = Rules(PLAIN, bars or 1, bars or 9, pickup=pickup, final_pitch_ids=tonic)
    score = MeasuresCodec().decode(walk_rules(rules, random.Random(seed)), Setting()).score
    assert highest_final_pitch(score) == 60
    first = find_bars(score)[0]
    assert pickup is None or (first.steps if first.kind == "partial" else 0) == pickup


def test_no_note_is_held_into_a_section() -> None:
    rules = Rules(PLAIN, 2, 2, layout=FormLayout.of("AB", 2))
    grammar = MeasuresGrammar(rules)
    names = ("meter=6/8", "mode=major", "rhythm=jig", "parts=1", "bar", "duration=144", "pitch=0")
    for name in (*names, "bar", "duration=144"):
        id_ = MEASURES.names.index(name)
        assert id_ in grammar.legal_ids()
        grammar.take(id_)
    assert MEASURES.id("hold") not in grammar.legal_ids()


def test_impossible_pickups_are_refused_with_a_list_of_possible_ones() -> None:
    other_meters = {*MEASURES.ranges["meter"]} - {MEASURES.id("meter", "2/4")}
    with pytest.raises(InvalidValue, match=r"pickup of 96 steps: .* knows 6, 12, .*, 90 \(48"):
        Rules(PLAIN - other_meters, pickup=96)


def test_short_ends_precede_pickups() -> None:
    for form in FORMS[:-1]:
        sections = FormLayout.of(form, 4 * len(form)).sections
        assert sum(section.bars * section.plays for section in sections) == 4 * len(form)
        assert all(a.has_short_end == b.has_pickup for a, b in pairwise(sections))
