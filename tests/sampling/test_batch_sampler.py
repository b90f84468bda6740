"""Many tunes side by side have the bytes that each has alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from musicgen.checkpoint import shapes
from musicgen.config import ModelSettings
from musicgen.music.theory import Meter
from musicgen.sampling import batch_sampler
from musicgen.sampling.batch_sampler import NumpyLanes, Stream
from musicgen.sampling.compiled_sampler import Course
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Ids, Noise
from musicgen.sampling.options import Wishes
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from musicgen.tune import load
from tests.fake_models import SEEN_IDS
from tests.lane_comparison import LANES, LIVE, check_lanes

CELLS = ("lstm", "gru", "rnn", "irnn")
ASKED = [
    Wishes(),
    Wishes.read(key="Edor", meter="6/8", rhythm="jig", bars=8, temperature=1.1),
    Wishes.read(form="AABB", bars=8, range="D4-B5", end="tonic"),
]


def random_engine(
    cell: str, layers: int = 2, embedding: int = 12, scale: float = 0.4
) -> NumpyEngine:
    settings = ModelSettings(len(MEASURES), cell, layers, hidden=20, embedding=embedding)
    luck = np.random.default_rng(7)
    return NumpyEngine(settings, {
        name: (luck.normal(size=shape) * scale).astype(np.float32)
        for name, shape in shapes(settings).items()
    })  # fmt: skip


def stream(sampler: Sampler, wishes: Wishes, width: int = 64) -> Stream:
    course = sampler.course(wishes)
    return Stream(
        course,
        lambda number: course.begun(sampler.begun(wishes, Noise(3, number))),
        lambda lanes: NumpyLanes(engine_of(course), lanes),
        wishes.temperature,
        width=width,
    )


def engine_of(course: Course) -> NumpyEngine:
    assert isinstance(course.answers, NumpyEngine)
    return course.answers


def one_by_one(sampler: Sampler, wishes: Wishes, count: int) -> dict[int, list[int]]:
    return {n: [0, *sampler.encoded(wishes, Noise(3, n)).ids] for n in range(count)}


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_lanes_have_the_logits_of_one_tune(cell: str, layers: int) -> None:
    engine = random_engine(cell, layers).over(LIVE)
    check_lanes(NumpyLanes(engine, LANES), engine, 1e-5)


@pytest.mark.parametrize("wishes", ASKED, ids=range(len(ASKED)))
def test_the_tunes_of_folk_are_those_drawn_alone(wishes: Wishes) -> None:
    sampler = load("folk").sampler
    assert isinstance(sampler, Sampler)
    assert dict(stream(sampler, wishes, 4).draw(range(9))) == one_by_one(sampler, wishes, 9)


@pytest.mark.parametrize("cell", CELLS)
def test_the_tunes_of_random_weights_are_those_drawn_alone(cell: str) -> None:
    sampler, wishes = Sampler(random_engine(cell), SEEN_IDS), Wishes(bars=4)
    assert dict(stream(sampler, wishes, 4).draw(range(9))) == one_by_one(sampler, wishes, 9)


def off_by(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add noise to all logits of lanes."""
    step, luck = NumpyLanes.step, np.random.default_rng(2)

    def noisy(self: NumpyLanes, ids: Ids) -> np.ndarray:
        logits = step(self, ids)
        return logits + luck.uniform(-most, most, logits.shape).astype(np.float32)

    monkeypatch.setattr(NumpyLanes, "step", noisy)


def test_near_ties_are_decided_by_the_one_tune_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, wishes = Sampler(random_engine("lstm"), SEEN_IDS), Wishes(meter=Meter(3, 4), bars=2)
    expected, settled = one_by_one(sampler, wishes, 6), []
    off_by(0.2, monkeypatch)
    monkeypatch.setattr(batch_sampler, "TOLERANCE", 1)
    decide = Course.decide

    def counted(*arguments: Any) -> int:
        settled.append(1)
        return decide(*arguments)

    monkeypatch.setattr(Course, "decide", counted)
    assert dict(stream(sampler, wishes).draw(range(6))) == expected
    assert settled


def test_tunes_are_drawn_one_by_one_where_logits_are_too_far_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, wishes = Sampler(random_engine("lstm"), SEEN_IDS), Wishes(meter=Meter(3, 4), bars=2)
    expected = one_by_one(sampler, wishes, 6)
    off_by(0.2, monkeypatch)
    assert dict(stream(sampler, wishes).draw(range(6))) == expected
    loose = replace(stream(sampler, wishes), exact=False)  # had nobody looked
    assert dict(loose.draw(range(6))) != expected


def test_a_tune_does_not_depend_on_the_others() -> None:
    sampler, wishes = Sampler(random_engine("gru"), SEEN_IDS), Wishes(bars=2)
    alone = dict(stream(sampler, wishes).draw([8]))
    among = dict(stream(sampler, wishes, 3).draw(range(10)))
    assert alone[8] == among[8]
    assert dict(islice(stream(sampler, wishes, 3).draw(iter(range(10**9))), 2))
