from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from musicgen.checkpoint import round_to_float16
from musicgen.config import BEGIN_ID, CELLS, CONTEXTS, ModelSettings
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel
from musicgen.sampling.engine import Engine, NumpyEngine
from musicgen.tokens.constraints import Rules
from musicgen.tokens.context_families import make_context_source
from musicgen.tokens.performance import PERFORMANCE, PerformanceCodec
from musicgen.tokens.score_context import ContextTable
from musicgen.tokens.vocabulary import MEASURES
from tests.random_walks import BAND_IDS, MELODY_IDS, walk_codec, walk_rules

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
        logits, state = engine.step([number], state)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=tolerance)


def draw_tune(settings: ModelSettings) -> list[int]:
    """Draw a tune, or a performance, that the model of some settings could write."""
    rng = random.Random(5)
    if settings.vocabulary_size == len(PERFORMANCE):
        return walk_codec(PerformanceCodec(), rng)[:200]
    ids_in_use = BAND_IDS if settings.reads_vertical else MELODY_IDS
    return walk_rules(Rules(allowed_ids=ids_in_use, max_bars=8), rng)


@pytest.mark.parametrize("context", list(CONTEXTS))
@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_network_with_the_score_context(cell: str, context: str) -> None:
    size = len(PERFORMANCE) if context == "time" else len(MEASURES)
    settings = ModelSettings(size, cell=cell, hidden=8, embedding=5, context=CONTEXTS[context])
    model = LanguageModel(settings, torch.Generator().manual_seed(7)).double()
    if model.gates is not None:
        torch.nn.init.normal_(model.gates.weight, 0, 0.5, torch.Generator().manual_seed(8))
    engine = NumpyEngine(settings, model.copy_weights(), np.float64)
    tune = draw_tune(settings)
    source = make_context_source(settings.context_fields) or ContextTable()
    fields = source.compute([np.array(tune)])[0].astype(np.int64)
    ids = [BEGIN_ID, *tune[:-1]]
    with torch.no_grad():
        logits, _ = model(torch.tensor([ids]), context=torch.from_numpy(fields)[None])
    state = engine.start()
    live = [3, 300, 12, 200]
    restricted = engine.restrict_vocabulary(live)
    for id_, wanted in zip(ids, logits[0].numpy(), strict=True):
        few, _ = restricted.step([id_], state)
        each, state = engine.step([id_], state)
        most = 1e-5 * (1 + np.abs(wanted).max())  # an irnn grows
        np.testing.assert_allclose(each, wanted, rtol=0, atol=most)
        np.testing.assert_allclose(few, each[live], rtol=1e-12, atol=1e-9)


def test_many_ids_at_once_are_the_same_as_one_after_another() -> None:
    _, engine = make()
    at_once, last = engine.step(IDS, engine.start())
    state = engine.start()
    for number in IDS:
        logits, state = engine.step([number], state)
    assert np.array_equal(at_once, logits)
    assert np.array_equal(last.layers, state.layers)
    assert last.context == state.context


def test_an_old_state_still_holds() -> None:
    _, engine = make()
    _, state = engine.step(IDS, engine.start())
    first, _ = engine.step([4], state)
    engine.step([5], state)
    again, _ = engine.step([4], state)
    assert np.array_equal(first, again)


def test_no_ids_are_refused() -> None:
    engine: Engine = make()[1]
    with pytest.raises(InvalidValue, match="no ids were given to the model"):
        engine.step([], engine.start())


def test_no_torch_is_imported() -> None:
    code = "import sys, musicgen.sampling.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
