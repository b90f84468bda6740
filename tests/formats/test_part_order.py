"""Sections are written out in the order of Y:, as in the Nottingham Music Database."""

from __future__ import annotations

import pytest

from musicgen.formats import abc
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Score


def read_tune(order: str, music: str, meter: str = "4/4") -> Score:
    text = f"X:1\nT:t\nY:{order}\nM:{meter}\nL:1/4\nK:C\n{music}\n"
    (score,), refusals = abc.parse(text)
    assert refusals == ()
    return score


def heard_letters(score: Score) -> str:
    """Return the names of the notes as heard."""
    return "".join("C D EF G A B"[note.pitch % 12] for note in score.unfolded().notes)


PLAIN = "P:A\nCDEF|\nP:B\nGABG|\nP:C\nAAAA|"
REPEATED = "P:A\n|:CDEF:|\nP:B\nGABG|"


@pytest.mark.parametrize(
    ("order", "heard"),
    [
        ("ABC", "CDEF GABG AAAA"),
        ("AABA", "CDEF CDEF GABG CDEF"),
        ("A B A C", "CDEF GABG CDEF AAAA"),
        ("AAAAA", "CDEF CDEF CDEF CDEF"),  # a section is repeated three times at most
        ("AXB", "CDEF GABG AAAA"),  # X is no section: as written
        ("", "CDEF GABG AAAA"),
    ],
)
def test_sections_are_heard_in_order(order: str, heard: str) -> None:
    assert heard_letters(read_tune(order, PLAIN)) == heard.replace(" ", "")


@pytest.mark.parametrize(
    ("order", "heard"),
    [
        ("AB", "CDEF CDEF GABG"),  # a single letter is the section as written
        ("ABA", "CDEF CDEF GABG CDEF CDEF"),
        ("AAB", "CDEF CDEF GABG"),  # a double letter counts the repeat
        ("AABA", "CDEF CDEF GABG CDEF"),
        ("AAAB", "CDEF CDEF CDEF GABG"),
    ],
)
def test_repeated_section_counts_as_heard(order: str, heard: str) -> None:
    assert heard_letters(read_tune(order, REPEATED)) == heard.replace(" ", "")


def test_last_ending_is_played_where_a_section_returns_once() -> None:
    score = read_tune("AABA", "P:A\nCD|1 EF:|2 GA|\nP:B\nBBBB|", meter="2/4")
    assert heard_letters(score) == "CDEFCDGABBBBCDGA"


def test_short_bar_and_pickup_become_one_bar() -> None:
    score = read_tune("ABAB", "P:A\nC|DEFG|ABA|\nP:B\nG|FEDC|BAG|")
    assert [bar.kind for bar in find_bars(score)].count("irregular") == 0
    assert count_heard_bars(score) == 8
    text = abc.render(score)
    (again,), _ = abc.parse(text)
    assert again.canonical().notes == score.canonical().notes
    assert again.canonical().marks == score.canonical().marks


def test_repeat_does_not_go_back_over_a_label() -> None:
    score = read_tune("AB", "P:A\nCDEF|\nP:B\nGABG:|")
    assert heard_letters(score) == "CDEFGABGGABG"


def test_keys_and_meters_of_a_section_return_with_it() -> None:
    score = read_tune("ABA", "P:A\nCDEF|\nP:B\nK:G\nM:2/4\nGF|")
    assert [(mark.onset, str(mark.value)) for mark in score.of("key")] == [
        (0, "C major"), (192, "G major"), (288, "C major")
    ]  # fmt: skip
    assert [str(bar.meter) for bar in find_bars(score)] == ["4/4", "2/4", "4/4"]


def test_order_of_the_header_field_p_is_not_applied() -> None:
    text = "X:1\nT:t\nP:ABA\nM:4/4\nL:1/4\nK:C\nP:A\nCDEF|\nP:B\nGABG|\n"
    (score,), _ = abc.parse(text)
    assert heard_letters(score) == "CDEFGABG"
