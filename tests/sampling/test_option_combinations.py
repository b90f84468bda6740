"""All options can be combined: a sampled tune meets them, judged by its notes alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from musicgen import load
from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.score import Score, find_sections
from musicgen.music.theory import Key, Meter, parse_range
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.song_form import THROUGH, FormLayout
from musicgen.tokens.vocabulary import MEASURES
from tests.cadence import ends_with_cadence
from tests.fake_models import SEEN_IDS, RandomEngine
from tests.sampling.test_valid import check_form

FORMS = (None, None, "A", "AB", "AABB", "ABAC", "AABA", "ABBA", "AABBCC", "ABACA", THROUGH)
KEYS = ("D", "G", "A", "C", "F", "Bb", "Am", "Em", "Edor", "Ddor", "Amix", "Dmix", "F#", "Ebm")
RANGES = (None, None, "D4-B5", "G3-D6", "C4-C5", "D4-A4", "G3-E6")
PICKUPS = (None, None, 0, 12, 24, 48, 96)
REFUSED = r"^(range|pickup)"  # the refusals of impossible combinations begin so


def draw_options(rng: random.Random, meters: list[str], rhythms: list[str]) -> dict[str, Any]:
    """Draw a random combination of all options; some contradict each other."""
    form = rng.choice(FORMS)
    bars_per_letter = rng.choice((1, 1, 1, 2, 2, 2, 4, 8))  # long tunes take long, and prove less
    bars = (
        bars_per_letter * len(form)
        if form and form != THROUGH
        else rng.choice((1, 2, 2, 3, 5, 5, 8, 16, 31))
    )
    options: dict[str, Any] = {
        "form": form,
        "bars": bars if rng.random() < 0.9 else None,
        "key": rng.choice((None, *KEYS)),
        "meter": rng.choice((None, *meters)),
        "rhythm": rng.choice((None, None, *rhythms)),
        "range": rng.choice(RANGES),
        "pickup": rng.choice(PICKUPS),
        "end": rng.choice(("any", "tonic", "cadence")),
        "temperature": rng.choice((0.5, 0.8, 1.0, 1.3)),
        "tempo": rng.choice((None, 120.0)),
        "program": rng.choice((0, 73)),
        "top_k": rng.choice((None, None, 5)),
        "top_p": rng.choice((None, None, 0.9)),
        "min_p": rng.choice((None, None, 0.05)),
    }
    return {name: value for name, value in options.items() if value is not None}


def is_impossible(options: dict[str, Any], meters: list[str], partial_bars: set[int]) -> bool:
    """Predict that no tune can meet a combination.

    Args:
        options: a combination of `draw_options`.
        meters: the meters in the training data.
        partial_bars: lengths, in steps, of the short bars in the training data.
    """
    return lacks_tonic(options) or lacks_pickup(options, meters, partial_bars)


def lacks_tonic(options: dict[str, Any]) -> bool:
    """Return whether the tune must end on a tonic that the range does not contain."""
    if options["end"] == "any" or not {"key", "range"} <= options.keys():
        return False
    lowest, highest = parse_range(options["range"])
    tonic = Key.parse(options["key"]).pitch_class
    return all(pitch % 12 != tonic for pitch in range(lowest, highest + 1))


def lacks_pickup(options: dict[str, Any], meters: list[str], partial_bars: set[int]) -> bool:
    """Return whether the pickup fits neither the form nor any meter that the tune may have."""
    pickup, form, bars = options.get("pickup"), options.get("form"), options.get("bars")
    if not pickup:
        return False
    if form and (form != THROUGH or bars) and not FormLayout.of(form, bars).allows_pickup:
        return True
    possible_meters = [options["meter"]] if "meter" in options else meters
    bar_lengths = [Meter.parse(meter).steps for meter in possible_meters]
    return not any(
        pickup < steps and {pickup, steps - pickup} <= partial_bars for steps in bar_lengths
    )


def check_options_met(score: Score, options: SamplingOptions) -> None:
    """Check a tune against all options, without asking the code that sampled it."""
    check_form(score, SamplingOptions(bars=options.heard_bars))
    assert options.heard_bars in (None, count_heard_bars(score))
    if options.key:
        assert score.key == options.key
    if options.meter:
        assert score.meter == options.meter
    if options.rhythm:
        assert score.rhythm == options.rhythm
    if options.common_range:
        lowest, highest = options.common_range
        assert all(lowest <= note.pitch <= highest for note in score.notes)
    first_bar = find_bars(score)[0]
    pickup = first_bar.steps if first_bar.kind == "partial" else 0
    assert options.pickup in (None, pickup)
    last_onset = score.notes[-1].onset
    top_pitch = max(note.pitch for note in score.notes if note.onset == last_onset)
    assert options.end == "any" or (top_pitch - score.key.pitch_class) % 12 == 0
    assert options.end != "cadence" or ends_with_cadence(score)
    assert score.parts[0].program == options.program
    assert options.tempo in (None, score.qpm)
    if options.layout:
        check_letters(score, options.layout, pickup)
    elif options.form == THROUGH:
        assert find_sections(score) == ()


def check_letters(score: Score, layout: FormLayout, pickup: int) -> None:
    """Check the places of repeat signs, and that a returning letter has the same notes."""
    bar_steps, start = score.meter.steps, 0
    repeats, starts = [], []
    for section in layout.sections:
        starts.append(start + (pickup if section.has_pickup else 0))
        end = starts[-1] + section.bars * bar_steps - (pickup if section.has_short_end else 0)
        repeats += [(start, end, section.plays)] if section.plays > 1 else []
        start = end
    assert start == score.end
    assert [(span.start, span.stop, span.plays) for span in find_sections(score)] == repeats
    for index, section in enumerate(layout.sections):
        if section.source is not None:
            length = min(b - a for a, b in pairwise([*starts, score.end]))
            length -= score.meter.steps if pickup else 0  # which may shorten the last bar
            assert notes_in(score, starts[index], length) == notes_in(
                score, starts[section.source], length
            )


def notes_in(score: Score, start: int, length: int) -> list[tuple[int, int, int]]:
    """Return the notes of a stretch; onsets are from its start."""
    stop = start + length
    return [
        (note.onset - start, note.pitch, note.duration)
        for note in score.notes
        if start <= note.onset < stop
    ]


@dataclass(frozen=True)
class Combinations:
    """Random combinations of options, of the meters, rhythms and pickups that a model has seen."""

    meters: list[str]
    rhythms: list[str]
    partial_bars: set[int]  # lengths, in steps, of the short bars in the training data

    @classmethod
    def of(cls, sampler: Sampler) -> Combinations:
        values = {
            kind: [
                MEASURES.events[id_].value
                for id_ in MEASURES.ranges[kind]
                if id_ in sampler.seen_ids
            ]
            for kind in ("meter", "rhythm", "partial")
        }
        return cls(
            [str(meter) for meter in values["meter"]],
            [str(name) for name in values["rhythm"] if name not in ("", "other")],
            {int(steps or 0) for steps in values["partial"]},
        )

    def draw(self, number: int) -> tuple[dict[str, Any], bool]:
        """Draw the combination of a number, and predict whether no tune can meet it."""
        options = draw_options(random.Random(number), self.meters, self.rhythms)
        return options, is_impossible(options, self.meters, self.partial_bars)


def check_combinations(sampler: Sampler, first: int, count: int) -> None:
    """Check that the combinations of some random seeds are met, or refused where impossible."""
    combinations = Combinations.of(sampler)
    met = 0
    for number in range(first, first + count):
        options, impossible = combinations.draw(number)
        if impossible:
            with pytest.raises(InvalidValue, match=REFUSED):
                sampler.sample(SamplingOptions.parse(**options), Noise(3, number))
            continue
        parsed = SamplingOptions.parse(**options)
        check_options_met(sampler.sample(parsed, Noise(3, number)), parsed)
        met += 1
    assert met > count / 2


@pytest.fixture(scope="module")
def folk() -> Sampler:
    sampler = load("folk").sampler
    assert isinstance(sampler, Sampler)
    return sampler


def test_folk_meets_all_combinations(folk: Sampler) -> None:
    check_combinations(folk, 0, 30)


def test_random_weights_meet_all_combinations() -> None:
    check_combinations(Sampler(RandomEngine(0), SEEN_IDS), 0, 30)


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(10))
def test_folk_meets_10_000_combinations(folk: Sampler, chunk: int) -> None:
    check_combinations(folk, 1000 * (chunk + 1), 1000)


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(10))
def test_random_weights_meet_10_000_combinations(chunk: int) -> None:
    check_combinations(Sampler(RandomEngine(chunk), SEEN_IDS), 1000 * (chunk + 1), 1000)
