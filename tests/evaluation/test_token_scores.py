from __future__ import annotations

import numpy as np
import pytest

from musicgen.evaluation.token_scores import (
    Place,
    PlaceBits,
    find_returns,
    place_notes,
)
from musicgen.tokens.registry import find_codec
from tests.evaluation.encoded_tunes import PICKUP, PLAIN, encode_tune, parse_tune

CODEC = find_codec("measures")


def tabulate(*texts: str) -> dict[Place, PlaceBits]:
    """Return the rows of tunes in which each id costs one bit."""
    tunes = [encode_tune(text) for text in texts]
    bits = np.ones(sum(len(tune.ids) for tune in tunes))
    places = place_notes(CODEC, tunes, map(parse_tune, texts))
    return {row.place: row for row in places.average_bits(bits)}


def test_returns_are_counted_with_their_distance() -> None:
    assert find_returns(["a", "b", "a", "", "a", "", "b"]) == [
        (1, 0), (1, 0), (2, 2), (0, 0), (3, 2), (0, 0), (2, 5),
    ]  # fmt: skip


def test_bars_that_return_are_compared_with_their_first_time() -> None:
    """Bars of the tune: a b a c | d b a c."""
    rows = tabulate(PLAIN)
    counts = {
        (place.kind, place.number): row.notes for place, row in rows.items() if not place.meter
    }
    assert counts == {
        ("bar_distance", 2): 4,  # a
        ("bar_distance", 4): 4 + 4 + 2,  # b, a, c
        ("bar_occurrence", 1): 4 + 4 + 2,
        ("bar_occurrence", 2): 4 + 4 + 2,
        ("bar_occurrence", 3): 4,
        ("section_bar", 1): 8,
        ("section_bar", 2): 8,
        ("section_bar", 3): 8,
        ("section_bar", 4): 4,
    }  # fmt: skip


def test_phrases_that_return_are_counted_per_section() -> None:
    phrase = "GABc|dedB|GABc|d2G2"
    rows = tabulate(f"X:1\nM:2/4\nL:1/8\nK:G\n{phrase}|{phrase}|\n")
    notes = {place.number: row.notes for place, row in rows.items()
             if place.kind == "phrase_occurrence"}  # fmt: skip
    assert notes == {1: 14, 2: 14}


def test_eighths_count_from_the_bar_line_and_ignore_pickups() -> None:
    rows = tabulate(PICKUP)
    notes = {place.number: row.notes for place, row in rows.items() if place.meter == "6/8"}
    assert notes == {1: 3, 2: 2, 3: 3, 4: 3, 6: 2}


def test_own_ids_of_a_note_are_its_bits() -> None:
    row = tabulate(PLAIN)[Place("eighth", 1, "2/4")]
    assert row.bits_per_note == pytest.approx(2)  # duration and pitch
    assert row.to_json()["notes"] == 8


def test_codec_without_bars_has_no_places() -> None:
    codec = find_codec("frames")
    tune = encode_tune(PLAIN, codec)
    places = place_notes(codec, [tune], [parse_tune(PLAIN)])
    assert places.average_bits(np.ones(len(tune.ids))) == ()
