"""The torch engine against the one-tune engine, and the tunes that it samples."""

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
from musicgen.trained_model import get_batch_engine, load, sample_many
from tests.lane_comparison import LANES, LIVE, check_lanes
from tests.sampling.test_batch_sampler import CELLS, random_engine
from tests.sampling.test_valid import check_form

CPU = torch.device("cpu")


def check_logits(
    cell: str,
    layers: int,
    device: torch.device,
    dtype: torch.dtype,
    tolerance: float,
    context: str = "none",
) -> None:
    engine = random_engine(cell, layers, context).restrict_vocabulary(LIVE)
    check_lanes(TorchBatchEngine(engine, LANES, device, dtype), engine, tolerance)


@pytest.mark.parametrize("context", ["none", "all", "all+vertical"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_logits_equal_those_of_the_one_tune_engine(cell: str, layers: int, context: str) -> None:
    check_logits(cell, layers, CPU, torch.float32, 1e-5, context)


def test_bfloat16_logits_are_close() -> None:
    check_logits("lstm", 2, CPU, torch.bfloat16, 0.1)


@pytest.mark.cuda
@pytest.mark.parametrize("cell", CELLS)
def test_cuda_logits_equal_those_of_the_one_tune_engine(cell: str) -> None:
    check_logits(cell, 2, torch.device("cuda"), torch.float32, 1e-4)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(bars=8),
        SamplingOptions.parse(form="AABB", bars=16, end="tonic", temperature=1.2),
    ],
)
def test_sampled_tunes_are_valid_and_reproducible(options: SamplingOptions) -> None:
    model, request = load("folk"), GenerationRequest(options, 2, engine="torch")
    first, second = (list(sample_many(model, request, count=7, jobs=1)) for _ in range(2))
    assert [tune.recipe.notes_hash for tune in first] == [tune.recipe.notes_hash for tune in second]
    assert [tune.number for tune in first] == list(range(7))
    assert first[0].recipe.request.engine == "torch"
    for tune in first:
        check_form(tune.score, replace(options, bars=options.heard_bars))


def test_most_tunes_equal_those_of_the_one_tune_engine() -> None:
    sampler, request = load("folk").sampler, GenerationRequest(SamplingOptions(bars=8), 3)
    assert isinstance(sampler, Sampler)
    make_fp32_engine = partial(TorchBatchEngine, device=CPU, dtype=torch.float32)
    numpy_tunes, torch_tunes = (
        dict(generate_tunes(sampler, request, range(12), m)) for m in (None, make_fp32_engine)
    )
    equal_count = sum(
        numpy_tunes[number].encoded == torch_tunes[number].encoded for number in range(12)
    )
    assert equal_count >= 11


def test_engines_are_selected_by_name() -> None:
    assert get_batch_engine("numpy") is None
    assert get_batch_engine("torch") is TorchBatchEngine
    with pytest.raises(InvalidValue, match="engine 'jax' is unknown: choose one of numpy, torch"):
        get_batch_engine("jax")
