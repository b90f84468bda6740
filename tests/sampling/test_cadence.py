"""`--end cadence`: every tune ends with a tonic from a beat to the end of its last bar."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen import Model, load, tweak
from musicgen.errors import InvalidValue
from musicgen.formats import parse
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Score
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.song_form import THROUGH, FormLayout
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import sample_many
from tests.cadence import decode_first_voice, ends_with_cadence
from tests.fake_models import SEEN_IDS, RandomEngine
from tests.random_walks import MELODY_IDS, thin_out, walk_rules

TONICS = frozenset(MEASURES.id("pitch", n) for n in (-12, 0, 12))
VALUES = {*MEASURES.ranges["duration"], *MEASURES.ranges["tuplet"]}
VOICES = MELODY_IDS | {MEASURES.id("parts", 2), MEASURES.id("part", 1), MEASURES.id("voice", 1)}
METERS = [str(MEASURES.events[id_].value) for id_ in MEASURES.ranges["meter"]]
FORMS = (None, "A", "AB", "AABB", "ABAC", "ABA", "AABA", "ABACA", THROUGH)


def limit_meter(ids: frozenset[int], meter: str) -> frozenset[int]:
    return ids - set(MEASURES.ranges["meter"]) | {MEASURES.id("meter", meter)}


def make_rules(
    ids: frozenset[int],
    fewest: int,
    most: int,
    layout: FormLayout | None = None,
    pickup: int | None = None,
) -> Rules:
    """Return rules that require a cadence in C."""
    return Rules(ids, fewest, most, layout=layout, pickup=pickup, final_pitch_ids=TONICS,
                 requires_cadence=True)  # fmt: skip


def check_walk(rules: Rules, seed: int) -> Score:
    """Draw a random tune of some rules, check its end, and return its first voice."""
    score = decode_first_voice(walk_rules(rules, random.Random(seed)))
    assert ends_with_cadence(score), (seed, score.meter)
    assert rules.min_bars <= count_heard_bars(score) <= rules.max_bars
    return score


def check_all_meters(seed: int) -> None:
    rng = random.Random(seed)
    for meter in METERS:
        ids = limit_meter(thin_out(rng) | TONICS if rng.random() < 0.5 else MELODY_IDS, meter)
        bars = rng.choice((1, 2))
        check_walk(make_rules(ids, bars, bars), rng.randrange(10**9))


def test_walks_in_all_meters_end_with_a_cadence() -> None:
    check_all_meters(1)


@pytest.mark.promises
def test_5_000_walks_in_all_meters_end_with_a_cadence() -> None:
    for seed in range(2, 66):
        check_all_meters(seed)


@given(
    st.integers(0, 10**9), st.sampled_from(FORMS), st.integers(1, 3),
    st.sampled_from((None, 0, 24, 48, 96)),
    st.sampled_from(("2/2", "2/4", "3/4", "4/4", "6/8", "9/8", "7/8")),
)  # fmt: skip
def test_walks_of_all_forms_end_with_a_cadence(
    seed: int, form: str | None, section_bars: int, pickup: int | None, meter: str
) -> None:
    bars = section_bars * len(form or "AAAA") if form != THROUGH else section_bars
    layout = FormLayout.of(form, bars) if form else None
    if (layout and not layout.allows_pickup) or (meter == "2/4" and pickup == 96):
        pickup = None
    fewest = 1 if layout is None else bars
    check_walk(make_rules(limit_meter(MELODY_IDS, meter), fewest, bars, layout, pickup), seed)


@pytest.mark.parametrize("seed", range(8))
def test_the_first_voice_has_the_cadence(seed: int) -> None:
    check_walk(make_rules(limit_meter(VOICES, "6/8"), 1, 3), seed)


@pytest.mark.parametrize("steps", [48, 144])
def test_a_last_bar_that_no_value_divides_at_a_beat_has_tonics_only(steps: int) -> None:
    ids = limit_meter(MELODY_IDS - VALUES | {MEASURES.id("duration", steps)}, "6/8")
    note_counts = []
    for seed in range(8):
        score = check_walk(make_rules(ids, 2, 2), seed)
        last_bar = find_bars(score)[-1]
        onsets = [note.onset for note in score.notes if note.onset >= last_bar.start]
        assert set(onsets) <= set(range(last_bar.start, last_bar.end, steps))
        note_counts.append(len(score.notes))
    assert max(note_counts) > 1


def follow(meter: str, *names: str) -> set[str]:
    """Return the names of the legal ids in the only bar of a tune, without chord symbols."""
    grammar = MeasuresGrammar(make_rules(MELODY_IDS, 1, 1, FormLayout.of("A", 1), pickup=0))
    for name in (f"meter={meter}", "mode=major", "rhythm=", "parts=1", "bar", *names):
        id_ = MEASURES.names.index(name)
        assert id_ in grammar.legal_ids(), name
        grammar.take(id_)
    return {MEASURES.names[id_] for id_ in grammar.legal_ids()}


TONIC_NAMES = {MEASURES.names[id_] for id_ in TONICS}


@pytest.mark.parametrize(
    ("meter", "names", "legal"),
    [
        ("6/8", ["duration=96"], TONIC_NAMES),  # no beat starts after it
        ("6/8", ["duration=72", "pitch=2", "duration=72"], TONIC_NAMES),
        ("3/4", ["duration=96", "pitch=2", "duration=48"], TONIC_NAMES),
        ("3/4", ["duration=96", "pitch=0", "duration=48"], {*TONIC_NAMES, "hold"}),
        ("3/4", ["duration=96", "pitch=2", "duration=24", "pitch=0", "duration=24"],
         {*TONIC_NAMES, "hold"}),
        ("6/4", ["tuplet=4 3 48", "duration=144", "pitch=2", "duration=48", "pitch=2",
                 "duration=96", "pitch=2", "duration=48"], TONIC_NAMES),
    ],
)  # fmt: skip
def test_heads_lead_to_a_tonic_on_a_beat(meter: str, names: list[str], legal: set[str]) -> None:
    assert follow(meter, *names) == legal


def test_heads_and_values_before_the_last_beat_are_free() -> None:
    assert {"pitch=5", "rest", "hold"} <= follow("6/8", "duration=24", "pitch=2", "duration=48")
    durations = follow("6/8", "duration=24", "pitch=2")
    assert {"duration=12", "duration=36", "duration=48"} <= durations
    assert durations.isdisjoint({"duration=72", "duration=84", "duration=96"})


def test_random_weights_end_with_a_cadence() -> None:
    sampler = Sampler(RandomEngine(0), SEEN_IDS)
    for number, form in enumerate(FORMS):
        options = SamplingOptions.parse(form=form, end="cadence", range="C4-C6")
        options = replace(options, bars=2 * len(form) if form not in (None, THROUGH) else 5)
        assert ends_with_cadence(sampler.sample(options, Noise(1, number)))


@pytest.fixture(scope="module")
def folk() -> Model:
    return load("folk")


REQUESTS: list[dict[str, Any]] = [
    {"form": "AABB"}, {"form": "ABAC", "bars": 16, "rhythm": "reel"}, {"form": "free"},
    {"form": "through", "bars": 9, "meter": "3/4"}, {"rhythm": "jig", "pickup": "1/8"},
    {"rhythm": "slip jig", "form": "AABA"}, {"meter": "2/4", "pickup": "1/4", "bars": 8},
    {"meter": "9/8", "min_bars": 12}, {"key": "Edor", "range": "D4-B5", "bars": 6},
]  # fmt: skip


def sample_folk(folk: Model, wishes: dict[str, Any], count: int) -> list[Score]:
    request = GenerationRequest(SamplingOptions.parse(end="cadence", **wishes), 1)
    return [tune.score for tune in sample_many(folk, request, count=count, jobs=1)]


@pytest.mark.parametrize("wishes", REQUESTS, ids=str)
def test_tunes_of_folk_end_with_a_cadence(folk: Model, wishes: dict[str, Any]) -> None:
    assert all(map(ends_with_cadence, sample_folk(folk, wishes, 3)))


@pytest.mark.promises
@pytest.mark.parametrize("wishes", REQUESTS, ids=str)
def test_100_tunes_of_folk_end_with_a_cadence(folk: Model, wishes: dict[str, Any]) -> None:
    assert all(map(ends_with_cadence, sample_folk(folk, wishes, 100)))


def test_other_ends_are_not_always_cadences(folk: Model) -> None:
    tunes = [folk.sample(seed=seed, bars=2, end="tonic", temperature=1.6) for seed in range(6)]
    assert not all(ends_with_cadence(tune.score) for tune in tunes)


@pytest.mark.parametrize("limit", [4, 8])
def test_a_copy_limit_is_met_as_well(folk: Model, limit: int) -> None:
    for seed in range(2):
        tune = folk.sample(seed=seed, bars=8, end="cadence", max_copy=limit, range="D4-C#5",
                           key="D", meter="2/4")  # fmt: skip
        assert ends_with_cadence(tune.score)
        tune.check_copies()


@pytest.mark.parametrize("form", ["free", "ABA", "AABB"])
def test_the_end_of_kept_bars_is_drawn_as_a_cadence(folk: Model, form: str) -> None:
    bars = None if form == "free" else 2 * len(form)
    tune = folk.sample(seed=2, form=form, bars=bars, min_bars=None if bars else 4)
    variant = tune.tweak(keep="1", end="cadence", candidates=2)
    assert variant.bars == tune.bars
    assert ends_with_cadence(variant.score)
    assert variant.tweak().score == variant.score


def test_a_kept_last_bar_without_a_cadence_is_refused(folk: Model) -> None:
    (tune,), _ = parse(b"X:1\nM:2/4\nL:1/8\nK:C\nC2E2|G2E2|C2E2|CDEF|\n", ".abc")
    start = folk.sample(seed=1, primer=tune, bars=4, form="through")
    with pytest.raises(InvalidValue, match="is kept there, and the options exclude it"):
        start.tweak(keep="4", end="cadence", candidates=1)


def test_a_primer_gives_way_to_the_cadence(folk: Model) -> None:
    (tune,), _ = parse(b"X:1\nM:2/4\nL:1/8\nK:C\nC2E2|G2E2|C2E2|CDEF|\n", ".abc")
    primed = folk.sample(seed=1, primer=tune, bars=4, form="through", end="cadence")
    assert ends_with_cadence(primed.score)
    assert "the rest is new" in primed.messages[0]


def test_the_recipe_gives_the_same_bytes(folk: Model, tmp_path: Path) -> None:
    tune = folk.sample(seed=4, bars=4, end="cadence")
    assert tune.recipe.to_json()["wishes"]["end"] == "cadence"
    tune.write(tmp_path / "first.mid")
    tweak(tmp_path / "first.mid").write(tmp_path / "again.mid")
    assert (tmp_path / "first.mid").read_bytes() == (tmp_path / "again.mid").read_bytes()
