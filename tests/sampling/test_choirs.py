"""Models of choirs: four voices by default, each in its range, with fermatas if they met any."""

from __future__ import annotations

import pytest

from musicgen.checkpoint import Manifest
from musicgen.config import ModelSettings
from musicgen.music.bars import find_bars
from musicgen.music.instrument_ranges import find_voice_range
from musicgen.music.roles import CHOIR_PROGRAM
from musicgen.music.score import CHOIR_ROLES, Score
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import MIN_BARS, SamplingOptions, complete_options
from musicgen.sampling.part_requests import format_parts
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES, Event
from tests.fake_models import RandomEngine, may_be_seen, may_be_seen_in_bands

CHOIR_EVENTS = {
    "lineup": (4,), "role": CHOIR_ROLES, "family": ("ensemble",), "part": (1, 2, 3), "level": (),
    "voice": (), "drum": (), "fermata": (None,), "parts": (),
}  # fmt: skip


def may_be_seen_in_chorales(event: Event) -> bool:
    """Tell what a corpus of choirs would hold."""
    if event.kind in CHOIR_EVENTS:
        return event.value in CHOIR_EVENTS[event.kind]
    return may_be_seen(event)


CHOIR_SEEN = tuple(int(may_be_seen_in_chorales(event)) for event in MEASURES.events)
CHOIR_SEEN_IDS = frozenset(id_ for id_, seen in enumerate(CHOIR_SEEN) if seen)


def complete(seen: tuple[int, ...], **options: object) -> SamplingOptions:
    shape = ModelSettings(len(MEASURES), hidden=16, embedding=16)
    manifest = Manifest("some", 1, shape, MEASURES.names, seen, "measures")
    return complete_options(options, manifest)


def draw(seed: int, **options: object) -> Score:
    sampler = Sampler(RandomEngine(seed), CHOIR_SEEN_IDS)
    return sampler.sample(complete(CHOIR_SEEN, bars=4, **options), Noise(1, seed))


def test_choir_sings_in_four_voices_and_a_free_form_unless_asked_otherwise() -> None:
    options = complete(CHOIR_SEEN)
    assert format_parts(options.parts or ()) == "soprano,alto,tenor,bass"
    assert options.form is None
    assert options.min_bars == MIN_BARS
    asked = complete(CHOIR_SEEN, parts="bass,tenor,alto,soprano", form="AABB")
    assert format_parts(asked.parts or ()) == "bass,tenor,alto,soprano"
    assert asked.form == "AABB"


def test_bands_have_no_default_parts() -> None:
    seen = tuple(int(may_be_seen_in_bands(event)) for event in MEASURES.events)
    assert complete(seen).parts is None


@pytest.mark.parametrize("seed", range(6))
def test_each_voice_stays_in_its_range_and_bars_are_full(seed: int) -> None:
    score = draw(seed, end=("any", "tonic", "cadence")[seed % 3], pickup="none")
    assert [part.role for part in score.parts] == [*CHOIR_ROLES]
    assert {part.program for part in score.parts} == {CHOIR_PROGRAM}
    for number, part in enumerate(score.parts):
        low, high = find_voice_range(part.role) or (0, 0)
        pitches = {note.pitch for note in score.notes if note.part == number}
        assert pitches
        assert low <= min(pitches) <= max(pitches) <= high
    assert all(bar.kind != "irregular" for bar in find_bars(score))


def test_fermatas_are_drawn_at_most_once_at_a_place() -> None:
    scores = [draw(seed) for seed in range(4)]
    steps = [[mark.onset for mark in score.of("fermata")] for score in scores]
    assert any(steps)
    assert all(len(row) == len(set(row)) for row in steps)


def test_programs_and_roles_of_a_choir_can_be_asked_for() -> None:
    score = draw(1, program="organ")
    assert score.parts[0].program != CHOIR_PROGRAM
