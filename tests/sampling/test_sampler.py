from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from musicgen.errors import InvalidValue
from musicgen.music.bars import count_heard_bars
from musicgen.music.theory import Key, Meter
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from tests.fake_models import SEEN_IDS, FixedEngine, RandomEngine

FLAT = np.zeros(len(MEASURES))


def sampler(seed: int = 0) -> Sampler:
    return Sampler(RandomEngine(seed), SEEN_IDS)


def test_options_are_met() -> None:
    options = SamplingOptions(
        Key("E", "dorian"), Meter(6, 8), "jig", bars=16, tempo=130, program=73
    )
    score = sampler().sample(options, Noise(1))
    assert (score.key, score.meter, score.rhythm) == (Key("E", "dorian"), Meter(6, 8), "jig")
    assert (score.qpm, score.parts[0].program, count_heard_bars(score)) == (130, 73, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bars": 0}, "bars 0: ask for 1 to 512 bars"),
        ({"tempo": 1.0}, "tempo 1.0: choose 10 to 1000"),
        ({"program": 128}, "program 128: choose 0 to 127"),
        ({"key": "H"}, "write a tonic and a mode"),
        ({"meter": "7/0"}, "write 1 to 64 beats"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        SamplingOptions.parse(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            SamplingOptions(meter=Meter(17, 8)),
            r"meter 17/8: not in the training data, which has 1/1",
        ),
        (SamplingOptions(rhythm="tango"), r"rhythm 'tango' is unknown: choose one of air"),
    ],
)
def test_values_outside_the_training_data_are_refused_by_name(
    options: SamplingOptions, words: str
) -> None:
    with pytest.raises(InvalidValue, match=words):
        sampler().sample(options, Noise(1))


def test_options_survive_a_json_round_trip() -> None:
    options = SamplingOptions(
        Key("F#", "minor"), Meter(3, 4), "waltz", 8, "AABB", 24, (62, 83), "tonic", 90.0, 12,
        0.7, 5, 0.9, 0.1, 6,
    )  # fmt: skip
    assert SamplingOptions.from_json(options.to_json()) == options
    assert SamplingOptions.from_json(SamplingOptions().to_json()) == SamplingOptions()


def test_the_engine_is_fed_what_was_drawn() -> None:
    engine = FixedEngine(FLAT)
    ids = Sampler(engine, SEEN_IDS).draw_ids(SamplingOptions(bars=4), Noise(1))
    fed = [MEASURES.id("begin"), *ids]
    assert engine.fed == fed[: len(engine.fed)]
    assert len(engine.fed) > len(ids) - 3  # what must come at the end is not


def test_a_cold_tune_takes_the_likeliest_events() -> None:
    logits = FLAT.copy()
    for name in ("meter=3/4", "bar", "duration=48", "pitch=7", "mode=dorian", "end"):
        logits[MEASURES.names.index(name)] = 9
    score = Sampler(FixedEngine(logits), SEEN_IDS).sample(
        SamplingOptions(temperature=0.02, bars=4), Noise(3)
    )
    assert score.meter == Meter(3, 4)
    assert {note.duration for note in score.notes} == {48}


def test_a_small_change_keeps_the_noise() -> None:
    a, b = (
        Sampler(FixedEngine(FLAT), SEEN_IDS).draw_ids(
            SamplingOptions(meter=Meter(6, 8), bars=8, temperature=t), Noise(5)
        )
        for t in (1.0, 1.01)
    )
    assert a == b  # flat logits stay flat at any temperature, and the noise is the same


class HeaderEngine(RandomEngine):
    """After 2/2 a reel is sure, after 6/8 a jig; 6/8 is the likelier meter."""

    def step(self, ids: Sequence[int], state: Any) -> tuple[np.ndarray, Any]:
        logits, _ = super().step(ids, None)
        name = MEASURES.names[ids[-1]]
        state = name if name.startswith("meter") else state
        favoured = {"meter=2/2": "rhythm=reel", "meter=6/8": "rhythm=jig"}.get(str(state))
        if name == "begin":
            logits[[MEASURES.names.index(n) for n in ("meter=6/8", "meter=2/2")]] += (25, 20)
        if favoured and name.startswith("mode"):
            logits[MEASURES.names.index(favoured)] += 40
        return logits, state


def test_a_requested_dance_gets_its_meter() -> None:
    for seed in range(5):
        dances = Sampler(HeaderEngine(seed, spread=0.5), SEEN_IDS)
        free = dances.sample(SamplingOptions(bars=2, temperature=0.3), Noise(seed))
        assert (str(free.meter), free.rhythm) == ("6/8", "jig")
        reel = dances.sample(SamplingOptions(bars=2, rhythm="reel", temperature=0.3), Noise(seed))
        assert (str(reel.meter), reel.rhythm) == ("2/2", "reel")


def test_nothing_unseen_is_drawn() -> None:
    for seed in range(20):
        ids = sampler(seed).draw_ids(SamplingOptions(), Noise(seed))
        assert set(ids) <= SEEN_IDS
