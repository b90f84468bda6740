"""Many tunes side by side have the bytes that each has alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from musicgen.checkpoint import weight_shapes
from musicgen.config import CONTEXTS, ModelSettings
from musicgen.music.theory import Meter
from musicgen.sampling import batch_sampler
from musicgen.sampling.batch_sampler import BatchSampler, NumpyBatchEngine
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.generation_state import CompiledSampler
from musicgen.sampling.noise import Ids, Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import load
from tests.fake_models import SEEN_IDS
from tests.lane_comparison import LANES, LIVE, check_lanes

CELLS = ("lstm", "gru", "rnn", "irnn")
ASKED = [
    SamplingOptions(),
    SamplingOptions.parse(key="Edor", meter="6/8", rhythm="jig", bars=8, temperature=1.1),
    SamplingOptions.parse(form="AABB", bars=8, range="D4-B5", end="tonic"),
    SamplingOptions(bars=8, temperature=1.1, min_p=0.1),
    SamplingOptions.parse(bars=6, end="cadence"),
]


def random_engine(
    cell: str, layers: int = 2, context: str = "none", embedding: int = 12, scale: float = 0.4
) -> NumpyEngine:
    settings = ModelSettings(
        len(MEASURES), cell, layers, hidden=20, embedding=embedding, context=CONTEXTS[context]
    )
    rng = np.random.default_rng(7)
    return NumpyEngine(settings, {
        name: (rng.normal(size=shape) * scale).astype(np.float32)
        for name, shape in weight_shapes(settings).items()
    })  # fmt: skip


def stream(sampler: Sampler, options: SamplingOptions, width: int = 64) -> BatchSampler:
    compiled = sampler.get_compiled_sampler(options)
    return BatchSampler(
        compiled,
        lambda number: compiled.capture_header(sampler.start_tune(options, Noise(3, number))),
        lambda lanes: NumpyBatchEngine(engine_of(compiled), lanes),
        options.temperature,
        width=width,
        min_p=options.min_p,
    )


def engine_of(compiled: CompiledSampler) -> NumpyEngine:
    assert isinstance(compiled.restricted_engine, NumpyEngine)
    return compiled.restricted_engine


def one_by_one(sampler: Sampler, options: SamplingOptions, count: int) -> dict[int, list[int]]:
    return {n: [0, *sampler.sample_encoded(options, Noise(3, n)).ids] for n in range(count)}


@pytest.mark.parametrize("context", ["none", "all", "all+vertical"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_lanes_have_the_logits_of_one_tune(cell: str, layers: int, context: str) -> None:
    scale = 0.2 if cell in ("rnn", "irnn") else 0.4  # differences of rounding grow without gates
    engine = random_engine(cell, layers, context, scale=scale).restrict_vocabulary(LIVE)
    check_lanes(NumpyBatchEngine(engine, LANES), engine, 1e-5)


@pytest.mark.parametrize("options", ASKED, ids=range(len(ASKED)))
def test_the_tunes_of_folk_are_those_drawn_alone(options: SamplingOptions) -> None:
    sampler = load("folk").sampler
    assert isinstance(sampler, Sampler)
    assert dict(stream(sampler, options, 4).draw(range(9))) == one_by_one(sampler, options, 9)


@pytest.mark.parametrize("context", ["none", "all", "all+vertical"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_tunes_of_random_weights_are_those_drawn_alone(cell: str, context: str) -> None:
    # without gates, larger weights let differences of rounding grow from step to step
    scale = 0.2 if cell in ("rnn", "irnn") else 0.4
    sampler = Sampler(random_engine(cell, context=context, scale=scale), SEEN_IDS)
    options = SamplingOptions(bars=4)
    assert dict(stream(sampler, options, 4).draw(range(9))) == one_by_one(sampler, options, 9)


def off_by(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add noise to all logits of lanes."""
    step, rng = NumpyBatchEngine.step, np.random.default_rng(2)

    def noisy(self: NumpyBatchEngine, ids: Ids) -> np.ndarray:
        logits = step(self, ids)
        return logits + rng.uniform(-most, most, logits.shape).astype(np.float32)

    monkeypatch.setattr(NumpyBatchEngine, "step", noisy)


def test_near_ties_are_decided_by_the_one_tune_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, options = (
        Sampler(random_engine("lstm"), SEEN_IDS),
        SamplingOptions(meter=Meter(3, 4), bars=2),
    )
    expected, settled = one_by_one(sampler, options, 6), []
    off_by(0.2, monkeypatch)
    monkeypatch.setattr(batch_sampler, "TOLERANCE", 1)
    decide = CompiledSampler.decide

    def counted(*arguments: Any) -> int:
        settled.append(1)
        return decide(*arguments)

    monkeypatch.setattr(CompiledSampler, "decide", counted)
    assert dict(stream(sampler, options).draw(range(6))) == expected
    assert settled


def test_tunes_are_drawn_one_by_one_where_logits_are_too_far_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, options = (
        Sampler(random_engine("lstm"), SEEN_IDS),
        SamplingOptions(meter=Meter(3, 4), bars=2),
    )
    expected = one_by_one(sampler, options, 6)
    off_by(0.2, monkeypatch)
    assert dict(stream(sampler, options).draw(range(6))) == expected
    loose = replace(stream(sampler, options), is_exact=False)  # without the check
    assert dict(loose.draw(range(6))) != expected


def test_a_tune_does_not_depend_on_the_others() -> None:
    sampler, options = Sampler(random_engine("gru"), SEEN_IDS), SamplingOptions(bars=2)
    alone = dict(stream(sampler, options).draw([8]))
    among = dict(stream(sampler, options, 3).draw(range(10)))
    assert alone[8] == among[8]
    assert dict(islice(stream(sampler, options, 3).draw(iter(range(10**9))), 2))
