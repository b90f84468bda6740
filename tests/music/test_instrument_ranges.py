"""The ranges of instruments: complete for those that have one, and plausible."""

from __future__ import annotations

import pytest

from musicgen.music.general_midi import FAMILIES, PROGRAMS, find_family, parse_program
from musicgen.music.instrument_ranges import find_range, find_voice_range

ELECTRONIC = {"synth lead", "synth pad", "synth effects", "sound effects"}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("acoustic grand piano", 21, 108), ("violin", 55, 100), ("flute", 60, 96),
     ("trumpet", 52, 84), ("electric bass (finger)", 28, 64), ("acoustic guitar (nylon)", 40, 83)],
)  # fmt: skip
def test_range_holds_what_every_player_has(name: str, low: int, high: int) -> None:
    span = find_range(parse_program(name))
    assert span is not None
    assert span.low <= low < high <= span.high


def test_each_acoustic_family_has_ranges_and_no_electronic_one() -> None:
    families = {find_family(n) for n in range(len(PROGRAMS)) if find_range(n)}
    assert families == set(FAMILIES) - ELECTRONIC


def test_ranges_are_ordered_pitches() -> None:
    spans = [span for span in map(find_range, range(128)) if span]
    assert all(0 <= span.low < span.high <= 127 for span in spans)


def test_voices_of_a_choir_have_ranges_of_about_two_octaves() -> None:
    spans = [find_voice_range(role) for role in ("soprano", "alto", "tenor", "bass")]
    lows, highs = zip(*filter(None, spans), strict=True)
    assert sorted(lows, reverse=True) == list(lows)
    assert sorted(highs, reverse=True) == list(highs)
    assert all(19 <= high - low <= 28 for low, high in zip(lows, highs, strict=True))
    assert find_voice_range("melody") is None
