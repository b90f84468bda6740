from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musicgen.compare.baselines import (
    BagOfWords,
    FeedForward,
    FeedForwardSettings,
    FixedWindow,
    choose_width,
    count_parameters,
)
from musicgen.config import BEGIN_ID, ModelSettings
from musicgen.model.network import LanguageModel, RecurrentState, reset_lanes

SIZE = 7
SHAPE = FeedForwardSettings(SIZE, hidden=8, context_length=3)
MODELS = {
    "one": FixedWindow(
        FeedForwardSettings(SIZE, hidden=8, context_length=1), torch.Generator().manual_seed(1)
    ).double(),
    "window": FixedWindow(SHAPE, torch.Generator().manual_seed(1)).double(),
    "bag": BagOfWords(SHAPE, torch.Generator().manual_seed(1)).double(),
}
NAMES = sorted(MODELS)
ids_of_a_lane = st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=24)


def run_in_windows(model: FeedForward, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Run lanes window by window, carrying the state."""
    state: RecurrentState | None = None
    parts = []
    for window in torch.split(ids, sizes, 1):
        logits, state = model(window, state)
        parts.append(logits)
    return torch.cat(parts, 1)


def last_logits(model: FeedForward, ids: list[int]) -> torch.Tensor:
    """Return the logits after the ids."""
    logits, _ = model.forward(torch.tensor([ids]))
    return logits[0, -1]


@pytest.mark.parametrize("name", NAMES)
@given(ids=ids_of_a_lane, data=st.data())
def test_windows_of_any_size_equal_one_pass(name: str, ids: list[int], data: st.DataObject) -> None:
    model, lanes = MODELS[name], torch.tensor([ids, ids[::-1]])
    expected, _ = model(lanes)
    first_size = data.draw(st.integers(1, len(ids)))
    sizes = [first_size, len(ids) - first_size] if first_size < len(ids) else [first_size]
    torch.testing.assert_close(run_in_windows(model, lanes, sizes), expected, rtol=0, atol=1e-12)
    in_single_ids = run_in_windows(model, lanes, [1] * len(ids))
    torch.testing.assert_close(in_single_ids, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(previous_ids=ids_of_a_lane, tune=st.lists(st.integers(1, SIZE - 1), max_size=9))
def test_tune_does_not_depend_on_previous_tunes_of_its_lane(
    name: str, previous_ids: list[int], tune: list[int]
) -> None:
    model, tune_ids = MODELS[name], [BEGIN_ID, *tune]
    alone, _ = model(torch.tensor([tune_ids]))
    _, state = model(torch.tensor([previous_ids]))
    logits, _ = model(torch.tensor([tune_ids]), reset_lanes(state, torch.tensor([True])))
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-12)


@given(st.lists(st.integers(1, SIZE - 1), min_size=4, max_size=12), st.integers(1, SIZE - 1))
def test_fixed_window_ignores_earlier_ids(ids: list[int], new_id: int) -> None:
    changed = [*ids]
    changed[-4] = new_id
    assert torch.equal(last_logits(MODELS["window"], ids), last_logits(MODELS["window"], changed))


@pytest.mark.parametrize("back", [1, 2, 3])
def test_fixed_window_uses_each_of_its_ids(back: int) -> None:
    changed = [2, 3, 4, 5]
    changed[-back] = 6
    logits = last_logits(MODELS["window"], [2, 3, 4, 5]), last_logits(MODELS["window"], changed)
    assert not torch.allclose(*logits)


def test_fixed_window_depends_on_the_order() -> None:
    assert not torch.allclose(
        last_logits(MODELS["window"], [2, 3, 4]), last_logits(MODELS["window"], [3, 2, 4])
    )


@given(st.lists(st.integers(1, SIZE - 1), min_size=2, max_size=12), st.randoms())
def test_bag_of_words_ignores_the_order(ids: list[int], rng: object) -> None:
    shuffled = [*ids]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    logits = last_logits(MODELS["bag"], ids), last_logits(MODELS["bag"], shuffled)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-12)


def test_bag_of_words_uses_all_ids() -> None:
    tail = [3] * 500
    assert not torch.allclose(
        last_logits(MODELS["bag"], [4, *tail]), last_logits(MODELS["bag"], [5, *tail])
    )


def test_counts_of_a_bag_of_words() -> None:
    model = MODELS["bag"]
    _, state = model(torch.tensor([[2, 2]]))
    features, _ = model.compute_features(torch.tensor([[2, 5, 2]]), state)
    counts = features.expm1().round().int()[0].tolist()
    assert counts == [[0, 0, 3, 0, 0, 0, 0], [0, 0, 3, 0, 0, 1, 0], [0, 0, 4, 0, 0, 1, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_loading_copied_weights_gives_the_same_model(name: str) -> None:
    model, model_class = MODELS[name], BagOfWords if name == "bag" else FixedWindow
    copy = model_class(model.settings, torch.Generator().manual_seed(9)).double()
    ids = torch.tensor([[2, 3, 4]])
    assert not torch.allclose(model(ids)[0], copy(ids)[0])
    copy.load_weights(model.copy_weights())
    torch.testing.assert_close(model(ids)[0], copy(ids)[0], rtol=0, atol=1e-5)


def test_dropout_masks_depend_on_the_generator() -> None:
    model = FixedWindow(
        FeedForwardSettings(SIZE, hidden=50, dropout=0.5), torch.Generator().manual_seed(1)
    )
    first, second = (model.draw_masks(2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first.outputs[0], second.outputs[0])
    ids = torch.tensor([[2, 3], [4, 5]])
    assert not torch.allclose(model(ids)[0], model(ids, None, first)[0])
    assert MODELS["bag"].draw_masks(2) is None


@pytest.mark.parametrize("target", [100_000, 500_000, 2_000_000])
@pytest.mark.parametrize("name", ["window-4", "window-64", "bag", "lstm", "rnn"])
def test_choose_width_gives_about_the_target_number_of_parameters(name: str, target: int) -> None:
    def make_model(hidden: int) -> FeedForward | LanguageModel:
        if name.startswith("window"):
            return FixedWindow(FeedForwardSettings(844, hidden, int(name[7:])))
        if name == "bag":
            return BagOfWords(FeedForwardSettings(844, hidden))
        return LanguageModel(ModelSettings(844, name, layers=1, hidden=hidden, embedding=hidden))

    width = choose_width(make_model, target)
    assert width % 4 == 0
    assert count_parameters(make_model(width)) == pytest.approx(target, rel=0.04)
