"""The torch engine's lanes against the one-tune engine, and the tunes that it writes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from musicgen.errors import InvalidValue
from musicgen.model.torch_sampling import TorchBatchEngine
from musicgen.sampling.batch_sampler import generate_tunes
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import Sampler
from musicgen.trained_model import get_batch_engine, load
from musicgen.tune_batch import sample_many
from tests.lane_comparison import LANES, LIVE, check_lanes
from tests.sampling.test_batch_sampler import CELLS, random_engine
from tests.sampling.test_valid import check_form

CPU = torch.device("cpu")


def compare(
    cell: str, layers: int, device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    engine = random_engine(cell, layers).restrict_vocabulary(LIVE)
    check_lanes(TorchBatchEngine(engine, LANES, device, dtype), engine, tolerance)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_lanes_have_the_logits_of_one_tune(cell: str, layers: int) -> None:
    compare(cell, layers, CPU, torch.float32, 1e-5)


def test_lanes_in_bfloat16_are_near() -> None:
    compare("lstm", 2, CPU, torch.bfloat16, 0.1)


@pytest.mark.cuda
@pytest.mark.parametrize("cell", CELLS)
def test_lanes_on_cuda_have_the_logits_of_one_tune(cell: str) -> None:
    compare(cell, 2, torch.device("cuda"), torch.float32, 1e-4)


@pytest.mark.parametrize(
    "wishes",
    [
        SamplingOptions(bars=8),
        SamplingOptions.parse(form="AABB", bars=16, end="tonic", temperature=1.2),
    ],
)
def test_its_tunes_are_whole_and_the_same_each_time(wishes: SamplingOptions) -> None:
    model, order = load("folk"), GenerationRequest(wishes, 2, engine="torch")
    first, again = (list(sample_many(model, order, count=7, jobs=1)) for _ in range(2))
    assert [tune.recipe.notes_hash for tune in first] == [tune.recipe.notes_hash for tune in again]
    assert [tune.number for tune in first] == list(range(7))
    assert first[0].recipe.request.engine == "torch"
    for tune in first:
        check_form(tune.score, replace(wishes, bars=wishes.heard_bars))


def test_its_tunes_are_nearly_always_those_of_the_one_tune_engine() -> None:
    sampler, order = load("folk").sampler, GenerationRequest(SamplingOptions(bars=8), 3)
    assert isinstance(sampler, Sampler)
    in_fp32 = partial(TorchBatchEngine, device=CPU, dtype=torch.float32)
    ours, theirs = (dict(generate_tunes(sampler, order, range(12), m)) for m in (None, in_fp32))
    same = sum(ours[number].encoded == theirs[number].encoded for number in range(12))
    assert same >= 11


def test_engines_are_known_by_name() -> None:
    assert get_batch_engine("numpy") is None
    assert get_batch_engine("torch") is TorchBatchEngine
    with pytest.raises(InvalidValue, match="engine 'jax' is unknown: choose one of numpy, torch"):
        get_batch_engine("jax")
