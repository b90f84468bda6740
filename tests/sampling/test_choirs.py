"""Models of choirs: four voices by default, each in its range, with fermatas if they met any."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from musicgen.checkpoint import Manifest
from musicgen.config import ModelSettings
from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.voice_leading import VOICE_LEADING_FIGURES
from musicgen.music.bars import find_bars
from musicgen.music.instrument_ranges import find_voice_range
from musicgen.music.roles import CHOIR_PROGRAM
from musicgen.music.score import CHOIR_ROLES, Part, Score
from musicgen.music.tune_content import TuneContent
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import CHOIR_BARS, SamplingOptions, complete_options
from musicgen.sampling.part_requests import format_parts
from musicgen.sampling.part_writing import PartWriting
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES, Event, Value
from tests.fake_models import RandomEngine, may_be_seen, may_be_seen_in_bands

PARALLELS = ("parallel_fifths", "parallel_octaves")
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
    return sampler.sample(
        complete(CHOIR_SEEN, **{"bars": 3, "end": "any", **options}), Noise(1, seed)
    )


def test_choir_sings_in_four_voices_and_a_free_form_unless_asked_otherwise() -> None:
    options = complete(CHOIR_SEEN)
    assert format_parts(options.parts or ()) == "soprano,alto,tenor,bass"
    assert options.form is None
    assert (options.bars, options.min_bars) == (CHOIR_BARS, None)
    asked = complete(CHOIR_SEEN, parts="bass,tenor,alto,soprano", form="AABB")
    assert format_parts(asked.parts or ()) == "bass,tenor,alto,soprano"
    assert asked.form == "AABB"


def test_bands_have_melody_bass_and_drums_by_default() -> None:
    seen = tuple(int(may_be_seen_in_bands(event)) for event in MEASURES.events)
    parts = complete(seen).parts
    assert parts is not None
    assert [part.role for part in parts] == ["melody", "bass", "drums"]


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
    scores = [draw(seed, bars=2) for seed in range(3)]
    steps = [[mark.onset for mark in score.of("fermata")] for score in scores]
    assert any(steps)
    assert all(len(row) == len(set(row)) for row in steps)


def test_programs_and_roles_of_a_choir_can_be_asked_for() -> None:
    score = draw(1, program="organ", bars=1)
    assert score.parts[0].program != CHOIR_PROGRAM


def measure_faults(score: Score) -> dict[str, float]:
    definitions = [d for d in VOICE_LEADING_FIGURES if d.key in ("crossings", *PARALLELS)]
    table = FigureTable.of([TuneContent.of(score)], definitions)
    return dict(zip((d.key for d in definitions), table.values.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_drawn_voices_neither_cross_nor_move_in_parallel(seed: int) -> None:
    parts = ("soprano,alto,tenor,bass", "alto,tenor,soprano,bass", "bass,tenor,alto,soprano")[
        seed % 3
    ]
    faults = measure_faults(draw(seed, parts=parts, pickup="none"))
    assert set(faults.values()) == {0.0}


def draw_one(last: tuple[int, int], held: int, given: int) -> Callable[[int], bool]:
    """Return what tells whether an alto may sing a pitch under a soprano that has moved.

    Args:
        last: pitches of soprano and alto in the chord before.
        held: pitch of the soprano now.
        given: pitch of the alto, as an id that is legal besides.
    """
    rules = PartWriting.of([Part(role="soprano"), Part(role="alto")])
    grammar = MeasuresGrammar(Rules(opens_with_all_parts=False))
    events: list[tuple[str, Value]] = [
        ("meter", "2/4"), ("mode", "major"), ("rhythm", ""), ("lineup", 2),
        ("role", "soprano"), ("family", "ensemble"), ("role", "alto"), ("family", "ensemble"),
        ("bar", None), ("duration", 48), ("pitch", last[0] - 60), ("duration", 48),
        ("pitch", held - 60), ("part", 1), ("duration", 48), ("pitch", last[1] - 60),
        ("duration", 48),
    ]  # fmt: skip
    ids = [MEASURES.id(kind, value) for kind, value in events]
    for id_ in ids:
        grammar.take(id_)
    engine = RandomEngine(1)
    generation = GenerationState(engine, grammar, None, Noise(1, 1), (), {}, ids=[0, *ids])
    others = (MEASURES.id("pitch", given - 60),)

    def is_allowed(pitch: int) -> bool:
        id_ = MEASURES.id("pitch", pitch - 60)
        return id_ in rules.restrict(generation, tuple(sorted({id_, *others})))

    return is_allowed


@pytest.mark.parametrize(
    ("last", "held", "pitch", "is_allowed"),
    [
        ((67, 60), 69, 62, False),  # parallel fifths
        ((72, 60), 74, 62, False),  # parallel octaves
        ((67, 60), 69, 64, True),
        ((67, 60), 65, 70, False),  # crossed
        ((67, 60), 65, 65, True),  # a unison is not a crossing
        ((67, 60), 67, 60, True),  # neither moves
        ((67, 60), 67, 55, True),  # only one moves
        ((64, 60), 67, 60, True),
        ((67, 60), 60, 53, False),  # parallel fifths downwards
    ],
)
def test_notes_are_kept_or_left_out_by_the_rules(
    last: tuple[int, int], held: int, pitch: int, *, is_allowed: bool
) -> None:
    assert draw_one(last, held, 57)(pitch) == is_allowed


def test_where_no_note_keeps_the_rules_a_parallel_is_better_than_a_crossing() -> None:
    is_possible = draw_one((67, 60), 69, 72)
    assert is_possible(62)  # parallel fifths, beside a crossing
