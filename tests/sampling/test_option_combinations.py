"""Whatever is asked for together is met, and read back from the notes alone."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from musicgen import load
from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Score, find_sections
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.song_form import THROUGH, FormLayout
from musicgen.tokens.vocabulary import MEASURES
from tests.fake_models import SEEN_IDS, RandomEngine
from tests.sampling.test_valid import check_form

FORMS = (None, None, "A", "AB", "AABB", "ABAC", "AABA", "ABBA", "AABBCC", "ABACA", THROUGH)
KEYS = ("D", "G", "A", "C", "F", "Bb", "Am", "Em", "Edor", "Ddor", "Amix", "Dmix", "F#", "Ebm")
RANGES = (None, None, "D4-B5", "G3-D6", "C4-C5", "D4-A4", "G3-E6")
PICKUPS = (None, None, 0, 12, 24, 48, 96)


def some_wishes(luck: random.Random, meters: list[str], rhythms: list[str]) -> dict[str, Any]:
    """Draw a random combination of all options; some contradict each other."""
    form = luck.choice(FORMS)
    each = luck.choice((1, 2, 4, 8))
    whole = each * len(form) if form and form != THROUGH else luck.choice((1, 2, 5, 8, 16, 31))
    asked: dict[str, Any] = {
        "form": form,
        "bars": whole if luck.random() < 0.8 else None,
        "key": luck.choice((None, *KEYS)),
        "meter": luck.choice((None, *meters)),
        "rhythm": luck.choice((None, None, *rhythms)),
        "range": luck.choice(RANGES),
        "pickup": luck.choice(PICKUPS),
        "end": luck.choice(("any", "tonic")),
        "temperature": luck.choice((0.5, 0.8, 1.0, 1.3)),
        "tempo": luck.choice((None, 120.0)),
        "program": luck.choice((0, 73)),
        "top_k": luck.choice((None, None, 5)),
        "top_p": luck.choice((None, None, 0.9)),
        "min_p": luck.choice((None, None, 0.05)),
    }
    return {name: value for name, value in asked.items() if value is not None}


def check_asked(score: Score, wishes: SamplingOptions) -> None:
    """Check a tune against all that was asked for, without asking what drew it."""
    check_form(score, SamplingOptions(bars=wishes.heard_bars))
    assert wishes.heard_bars in (None, count_heard_bars(score))
    if wishes.key:
        assert score.key == wishes.key
    if wishes.meter:
        assert score.meter == wishes.meter
    if wishes.rhythm:
        assert score.rhythm == wishes.rhythm
    if wishes.range:
        assert {wishes.range[0] <= note.pitch <= wishes.range[1] for note in score.notes} == {True}
    first = find_bars(score)[0]
    pickup = first.steps if first.kind == "partial" else 0
    assert wishes.pickup in (None, pickup)
    last = score.notes[-1].onset
    top = max(note.pitch for note in score.notes if note.onset == last)
    assert wishes.end == "any" or (top - score.key.pitch_class) % 12 == 0
    assert (score.parts[0].program, wishes.tempo) in ((wishes.program, None),
                                                      (wishes.program, score.qpm))  # fmt: skip
    if wishes.layout:
        check_letters(score, wishes.layout, pickup)
    elif wishes.form == THROUGH:
        assert find_sections(score) == ()


def check_letters(score: Score, layout: FormLayout, pickup: int) -> None:
    """Check repeat signs and their places, and that a letter that returns has the same notes."""
    full, at = score.meter.steps, 0
    repeats, starts = [], []
    for stretch in layout.sections:
        starts.append(at + (pickup if stretch.has_pickup else 0))
        end = starts[-1] + stretch.bars * full - (pickup if stretch.has_short_end else 0)
        repeats += [(at, end, stretch.plays)] if stretch.plays > 1 else []
        at = end
    assert at == score.end
    assert [(one.start, one.stop, one.plays) for one in find_sections(score)] == repeats
    for place, stretch in enumerate(layout.sections):
        if stretch.source is not None:
            length = min(b - a for a, b in pairwise([*starts, score.end]))
            pair = (notes_in(score, starts[n], length) for n in (place, stretch.source))
            assert next(pair) == next(pair)


def notes_in(score: Score, start: int, length: int) -> list[tuple[int, int, int]]:
    """Return the notes that begin in a stretch, but what the last bar may hold of a pickup."""
    stop = start + length - score.meter.steps
    return [(n.onset - start, n.pitch, n.duration) for n in score.notes if start <= n.onset < stop]


def check_many(sampler: Sampler, first: int, count: int) -> int:
    """Check some tunes; return how many combinations were refused as impossible."""
    known = {kind: [str(MEASURES.events[i].value) for i in MEASURES.ranges[kind] if i in
                    sampler.seen_ids] for kind in ("meter", "rhythm")}  # fmt: skip
    rhythms = [name for name in known["rhythm"] if name not in ("", "other")]
    refused = 0
    for number in range(first, first + count):
        luck = random.Random(number)
        try:
            wishes = SamplingOptions.parse(**some_wishes(luck, known["meter"], rhythms))
            score = sampler.sample(wishes, Noise(3, number))
        except InvalidValue:
            refused += 1
            continue
        check_asked(score, wishes)
    return refused


def folk() -> Sampler:
    sampler = load("folk").sampler
    assert isinstance(sampler, Sampler)
    return sampler


def test_folk_meets_what_is_asked_for() -> None:
    assert check_many(folk(), 0, 60) < 30


def test_random_weights_meet_what_is_asked_for() -> None:
    assert check_many(Sampler(RandomEngine(0), SEEN_IDS), 0, 60) < 30


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(10))
def test_10_000_tunes_of_folk_meet_what_is_asked_for(chunk: int) -> None:
    assert check_many(folk(), 1000 * (chunk + 1), 1000) < 500


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(10))
def test_10_000_tunes_of_random_weights_meet_what_is_asked_for(chunk: int) -> None:
    engine = RandomEngine(chunk)
    assert check_many(Sampler(engine, SEEN_IDS), 1000 * (chunk + 1), 1000) < 500
