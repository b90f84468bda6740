from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from musicgen.checkpoint import round_to_float16
from musicgen.config import BEGIN_ID, CELLS, ModelSettings
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel
from musicgen.sampling.engine import Engine, NumpyEngine

IDS = [BEGIN_ID, 3, 9, 3, 1, 12, 7, 7]


def make(
    dtype: type[np.floating] = np.float64, cell: str = "lstm", tied: bool = True, embedding: int = 8
) -> tuple[LanguageModel, NumpyEngine]:
    settings = ModelSettings(13, cell=cell, hidden=8, embedding=embedding, tied=tied)
    model = LanguageModel(settings, torch.Generator().manual_seed(7))
    model.load_weights(round_to_float16(model.copy_weights()))
    engine = NumpyEngine(settings, model.copy_weights(), dtype)
    return (model.double() if dtype is np.float64 else model), engine


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_network(
    cell: str, tied: bool, dtype: type[np.floating], tolerance: float
) -> None:
    model, engine = make(dtype, cell, tied, embedding=5)
    with torch.no_grad():
        expected = model(torch.tensor([IDS]))[0][0].numpy()
    state = engine.start()
    for number, wanted in zip(IDS, expected, strict=True):
        logits, state = engine.step([number], None, state)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=tolerance)


def test_many_ids_at_once_are_the_same_as_one_after_another() -> None:
    _, engine = make()
    at_once, last = engine.step(IDS, None, engine.start())
    state = engine.start()
    for number in IDS:
        logits, state = engine.step([number], None, state)
    assert np.array_equal(at_once, logits)
    assert np.array_equal(last, state)


def test_an_old_state_still_holds() -> None:
    _, engine = make()
    _, state = engine.step(IDS, None, engine.start())
    first, _ = engine.step([4], None, state)
    engine.step([5], None, state)
    again, _ = engine.step([4], None, state)
    assert np.array_equal(first, again)


def test_no_ids_are_refused() -> None:
    engine: Engine = make()[1]
    with pytest.raises(InvalidValue, match="no ids were given to the model"):
        engine.step([], None, engine.start())


def test_no_torch_is_imported() -> None:
    code = "import sys, musicgen.sampling.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
