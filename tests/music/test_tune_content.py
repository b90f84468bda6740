"""Phrases and their returns: equal to a search that compares all events one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.score import Score
from musicgen.music.tune_content import (
    RELATIONS,
    REST,
    PhraseReturn,
    TuneContent,
    find_phrases,
    find_return,
)
from tests.related_tunes import line
from tests.toy_tunes import read_abc

Bar = tuple[tuple[int, int], ...]  # pitch (0: a rest) and duration of each event
BARS: tuple[Bar, ...] = (
    ((60, 48), (62, 48)),
    ((65, 48), (67, 48)),  # the first, five semitones up
    ((60, 48), (64, 48)),
    ((60, 24), (62, 24), (64, 48)),
    ((0, 48), (62, 48)),
    ((0, 96),),
)
THEME, MIDDLE = "CDEF GABc|cBAG FEDC|CEGc cGEC|", "GFGF GFGF|ABAB ABAB|E4 D4|C2E2 G4|"


def find_returns(score: Score) -> list[PhraseReturn | None]:
    content = TuneContent.of(score)
    phrases = find_phrases(content)
    return [find_return(content, phrases, index) for index in range(len(phrases))]


def find_return_by_hand(phrase: list[Bar], earlier: list[list[Bar]]) -> PhraseReturn | None:
    """Compare a phrase with all earlier ones, event by event."""
    best: PhraseReturn | None = None
    for source, other in enumerate(earlier):
        shares = [
            sum(a == b for a, b in zip(own, its, strict=False)) / max(len(own), len(its))
            for own, its in zip(phrase, other, strict=True)
        ]
        likeness, semitones = sum(shares) / 4, 0
        if phrase == other:
            candidate = PhraseReturn(source, "exact", likeness, 0)
        elif any(phrase == move(other, semitones := n) for n in range(-8, 8) if n):
            candidate = PhraseReturn(source, "transposed", likeness, semitones)
        elif likeness >= 0.5:
            candidate = PhraseReturn(source, "varied", likeness, 0)
        else:
            continue
        if best is None or rank(candidate) > rank(best):
            best = candidate
    return best


def move(phrase: list[Bar], semitones: int) -> list[Bar]:
    return [tuple((p and p + semitones, duration) for p, duration in bar) for bar in phrase]


def rank(phrase_return: PhraseReturn) -> tuple[int, float]:
    return -RELATIONS.index(phrase_return.relation), phrase_return.likeness


PHRASES = st.lists(st.sampled_from(BARS), min_size=4, max_size=4)
REGULAR_PHRASES = st.tuples(st.sampled_from(BARS), st.sampled_from(BARS)).map(lambda p: [*p, *p])


@given(st.lists(PHRASES | REGULAR_PHRASES, max_size=5))
def test_returns_equal_a_search_by_hand(phrases: list[list[Bar]]) -> None:
    notes = [event for phrase in phrases for bar in phrase for event in bar]
    score = line([*notes, (60, 96)])  # the last bar is not silent, and left over
    expected = [find_return_by_hand(p, phrases[:index]) for index, p in enumerate(phrases)]
    assert list(map(rounded, find_returns(score))) == list(map(rounded, expected))


def rounded(phrase_return: PhraseReturn | None) -> PhraseReturn | None:
    return phrase_return and replace(phrase_return, likeness=round(phrase_return.likeness, 9))


def test_first_of_several_equal_phrases_is_the_source() -> None:
    returns = find_returns(read_abc((THEME + "C8|") * 3))
    assert [r and r.source for r in returns] == [None, 0, 0]


def test_likest_phrase_is_the_source() -> None:
    returns = find_returns(read_abc(f"{THEME}C8|{THEME}C4 D4|{THEME}C4 E4|"))
    assert returns[2] == PhraseReturn(1, "varied", 7 / 8, 0)


@pytest.mark.parametrize(
    ("body", "phrases"),
    [
        (f"|:{THEME}C8:|{MIDDLE}", [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (f"G|{THEME}C8|{MIDDLE}", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        (f"|:G|{THEME}C7:|:B|{MIDDLE[:-2]}3:|", [(1, 2, 3, 4), (6, 7, 8, 9)]),
        (f"|:{THEME}[1C8:|[2c8||{MIDDLE}", [(0, 1, 2, 3), (5, 6, 7, 8)]),
        (THEME, []),
    ],
)
def test_phrases_are_counted_from_the_first_bar_after_a_pickup(
    body: str, phrases: list[tuple[int, ...]]
) -> None:
    content = TuneContent.of(read_abc(body))
    assert [phrase.bars for phrase in find_phrases(content)] == phrases


def test_rests_are_no_notes() -> None:
    silent, sounding = find_phrases(TuneContent.of(line([(0, 96 * 4), *[(60, 96)] * 4])))
    assert not silent.has_notes
    assert sounding.has_notes
    assert sounding.events[0] == (96, 60) != (96, REST)
