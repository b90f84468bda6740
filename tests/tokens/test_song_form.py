"""Forms by letters: laid out, walked at random, and found again in what was written."""

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
from musicgen.tokens.song_form import THROUGH, FormLayout, FormSection, check_form, parse_form
from musicgen.tokens.vocabulary import MEASURES
from tests.tokens.test_grammar import BASE, wander

FORMS = ("A", "AB", "AABB", "ABAC", "AABBCC", "ABBA", "AABA", "AAAB", "ABACA", THROUGH)
PLAIN = BASE - {*MEASURES.ranges["key"], *MEASURES.ranges["chord"], *MEASURES.ranges["voice"]}


@pytest.mark.parametrize(
    ("form", "bars_", "stretches"),
    [
        ("AABB", 32, [(8, 2, None), (8, 2, None)]),
        ("ABAC", 32, [(8, 1, None), (8, 1, None), (8, 1, 0), (8, 1, None)]),
        ("AABA", 16, [(4, 2, None), (4, 1, None), (4, 1, 0)]),
        ("AB", None, [(8, 1, None), (8, 1, None)]),
        (THROUGH, 12, [(12, 1, None)]),
    ],
)
def test_letters_become_stretches(
    form: str, bars_: int | None, stretches: list[tuple[int, int, int | None]]
) -> None:
    found = FormLayout.of(form, bars_).sections
    assert [(one.bars, one.plays, one.source) for one in found] == stretches


@pytest.mark.parametrize(
    ("form", "bars_", "can"),
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
def test_a_pickup_needs_bars_that_balance_it(form: str, bars_: int, can: bool) -> None:
    assert FormLayout.of(form, bars_).allows_pickup is can


@pytest.mark.parametrize(
    ("form", "said"),
    [("", "it has no letters; write letters such as AABB"), ("A1", "letters A to H, and '1' is"),
     ("AB" * 8 + "C", "at most 16 letters, and this one has 17"), ("hello", "A to H, and 'L' is"),
     ("AIA", "A to H, and 'I' is none"), ("BAB", "starts with A, and this one with B"),
     ("trough", "did you mean through\\?"), ("Throug", "did you mean through\\?"),
     ("fre", "did you mean free\\?"), ("A" * 100_000 + "é", "'É' is none"),
     ("AAAAAB", "A stands 5 times in a row")],
)  # fmt: skip
def test_forms_that_are_none_are_refused(form: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said) as refusal:
        parse_form(form)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("form", "read"),
    [(" aabb ", "AABB"), ("Through", "through"), ("FREE", "free"), ("ABCDEFGH", "ABCDEFGH")],
)
def test_forms_are_read_in_any_case(form: str, read: str) -> None:
    assert parse_form(form) == read


def test_letters_of_an_old_recipe_are_kept() -> None:
    assert check_form("HELLO") == "HELLO"
    with pytest.raises(InvalidValue, match="at most 16 letters"):
        check_form("A" * 17)


def test_bars_that_a_form_does_not_divide_are_refused() -> None:
    with pytest.raises(InvalidValue, match="ask for a multiple of 4, such as 28"):
        FormLayout.of("AABB", 30)


def written_bars(score: Score) -> list[int]:
    """Return the lengths of the written bars."""
    return [bar.steps for bar in find_bars(score)]


def check_stretches(score: Score, layout: FormLayout) -> None:
    """Check repeat signs and lengths against the letters, from the score alone."""
    full, lengths = score.meter.steps, written_bars(score)
    pickup = lengths[0] if lengths[0] < full else 0
    at, borders = 0, []
    for stretch in layout.sections:
        end = at + stretch.bars * full
        end -= pickup if stretch.has_short_end else 0
        end += pickup if stretch.has_pickup else 0
        borders.append((at, end, stretch.plays))
        at = end
    assert at == score.end
    repeats = [(one.start, one.stop, one.plays) for one in find_sections(score)]
    assert repeats == [border for border in borders if border[2] > 1]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**9),
    st.sampled_from(FORMS),
    st.integers(1, 5),
    st.sampled_from((None, 0, 24, 48)),
    st.booleans(),
)
def test_every_walk_has_the_form_that_was_asked_for(
    seed: int, form: str, each: int, pickup: int | None, tonic: bool
) -> None:
    count = each if form == THROUGH else each * len(form)
    layout = FormLayout.of(form, count)
    if pickup and not layout.allows_pickup:
        pickup = None
    closing = frozenset(MEASURES.id("pitch", n) for n in (-12, 0, 12)) if tonic else frozenset()
    rules = Rules(PLAIN, count, count, layout=layout, pickup=pickup, final_pitch_ids=closing)
    ids = wander(rules, random.Random(seed))
    decoded = MeasuresCodec().decode(ids, Setting())
    score = decoded.score
    assert decoded.dropped == 0
    assert count_heard_bars(score) == count
    assert all(bar.kind != "irregular" for bar in find_bars(score))
    check_stretches(score, layout)
    first = find_bars(score)[0]
    if pickup is not None:
        assert (first.steps if first.kind == "partial" else 0) == pickup
    if tonic:
        assert max(n.pitch for n in score.notes if n.onset == score.notes[-1].onset) % 12 == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from((None, 1, 3, 8)), st.sampled_from((None, 0, 48)))
def test_free_forms_end_on_the_tonic_with_the_pickup(
    seed: int, asked: int | None, pickup: int | None
) -> None:
    closing = frozenset([MEASURES.id("pitch", 0)])
    rules = Rules(PLAIN, asked or 1, asked or 9, pickup=pickup, final_pitch_ids=closing)
    score = MeasuresCodec().decode(wander(rules, random.Random(seed)), Setting()).score
    assert max(n.pitch for n in score.notes if n.onset == score.notes[-1].onset) == 60
    first = find_bars(score)[0]
    assert pickup is None or (first.steps if first.kind == "partial" else 0) == pickup


def test_nothing_is_held_into_a_part() -> None:
    rules = Rules(PLAIN, 2, 2, layout=FormLayout.of("AB", 2))
    walk = MeasuresGrammar(rules)
    names = ("meter=6/8", "mode=major", "rhythm=jig", "parts=1", "bar", "duration=144", "pitch=0")
    for name in (*names, "bar", "duration=144"):
        id_ = MEASURES.names.index(name)
        assert id_ in walk.legal_ids()
        walk.take(id_)
    assert MEASURES.id("hold") not in walk.legal_ids()


def test_pickups_that_no_meter_has_are_refused_with_those_that_there_are() -> None:
    meters = {*MEASURES.ranges["meter"]} - {MEASURES.id("meter", "2/4")}
    with pytest.raises(InvalidValue, match=r"pickup of 96 steps: .* knows 6, 12, .*, 90 \(48"):
        Rules(PLAIN - meters, pickup=96)


def test_the_stretches_of_a_form_alternate() -> None:
    for form in FORMS[:-1]:
        stretches = FormLayout.of(form, 4 * len(form)).sections
        assert all(isinstance(one, FormSection) for one in stretches)
        assert sum(one.bars * one.plays for one in stretches) == 4 * len(form)
        assert all(a.has_short_end == b.has_pickup for a, b in pairwise(stretches))
