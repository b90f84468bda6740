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
from musicgen.model.network import LanguageModel, RecurrentState

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
ids_of_a_lane = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=24)


def in_windows(model: FeedForward, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Read lanes window by window, the state carried."""
    state: RecurrentState | None = None
    found = []
    for window in torch.split(ids, sizes, 1):
        logits, state = model(window, state)
        found.append(logits)
    return torch.cat(found, 1)


def last(model: FeedForward, ids: list[int]) -> torch.Tensor:
    """Return what is said after the ids."""
    logits, _ = model.forward(torch.tensor([ids]))
    return logits[0, -1]


@pytest.mark.parametrize("name", NAMES)
@given(ids=ids_of_a_lane, data=st.data())
def test_windows_of_any_size_say_what_one_pass_says(
    name: str, ids: list[int], data: st.DataObject
) -> None:
    model, lanes = MODELS[name], torch.tensor([ids, ids[::-1]])
    whole, _ = model(lanes)
    cut = data.draw(st.integers(1, len(ids)))
    sizes = [cut, len(ids) - cut] if cut < len(ids) else [cut]
    torch.testing.assert_close(in_windows(model, lanes, sizes), whole, rtol=0, atol=1e-12)
    one_at_a_time = in_windows(model, lanes, [1] * len(ids))
    torch.testing.assert_close(one_at_a_time, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@given(before=ids_of_a_lane, tune=st.lists(st.integers(1, SIZE - 1), max_size=9))
def test_a_tune_does_not_feel_what_came_before_it_in_its_lane(
    name: str, before: list[int], tune: list[int]
) -> None:
    model, begun = MODELS[name], [BEGIN_ID, *tune]
    alone, _ = model(torch.tensor([begun]))
    after, _ = model(torch.tensor([before + begun]))
    torch.testing.assert_close(after[:, len(before) :], alone, rtol=0, atol=1e-12)


@given(st.lists(st.integers(1, SIZE - 1), min_size=4, max_size=12), st.integers(1, SIZE - 1))
def test_a_window_is_blind_to_what_lies_beyond_it(ids: list[int], other: int) -> None:
    changed = [*ids]
    changed[-4] = other
    assert torch.equal(last(MODELS["window"], ids), last(MODELS["window"], changed))


@pytest.mark.parametrize("back", [1, 2, 3])
def test_a_window_sees_each_of_its_places(back: int) -> None:
    changed = [2, 3, 4, 5]
    changed[-back] = 6
    seen = last(MODELS["window"], [2, 3, 4, 5]), last(MODELS["window"], changed)
    assert not torch.allclose(*seen)


def test_a_window_knows_the_order_of_what_it_sees() -> None:
    assert not torch.allclose(last(MODELS["window"], [2, 3, 4]), last(MODELS["window"], [3, 2, 4]))


@given(st.lists(st.integers(1, SIZE - 1), min_size=2, max_size=12), st.randoms())
def test_a_bag_is_blind_to_order(ids: list[int], luck: object) -> None:
    shuffled = [*ids]
    luck.shuffle(shuffled)  # type: ignore[attr-defined]
    said = last(MODELS["bag"], ids), last(MODELS["bag"], shuffled)
    torch.testing.assert_close(*said, rtol=0, atol=1e-12)


def test_a_bag_forgets_nothing() -> None:
    tail = [3] * 500
    assert not torch.allclose(last(MODELS["bag"], [4, *tail]), last(MODELS["bag"], [5, *tail]))


def test_the_counts_of_a_bag_by_hand() -> None:
    model = MODELS["bag"]
    _, state = model(torch.tensor([[2, 2]]))
    known, _ = model.compute_features(torch.tensor([[2, 5, BEGIN_ID, 2]]), state)
    counts = known.expm1().round().int()[0].tolist()
    assert counts == [
        [0, 0, 3, 0, 0, 0, 0],
        [0, 0, 3, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_weights_go_out_and_come_back(name: str) -> None:
    model, kind = MODELS[name], BagOfWords if name == "bag" else FixedWindow
    other = kind(model.settings, torch.Generator().manual_seed(9)).double()
    ids = torch.tensor([[2, 3, 4]])
    assert not torch.allclose(model(ids)[0], other(ids)[0])
    other.load_weights(model.copy_weights())
    torch.testing.assert_close(model(ids)[0], other(ids)[0], rtol=0, atol=1e-5)


def test_dropout_leaves_out_units_and_follows_the_generator() -> None:
    model = FixedWindow(
        FeedForwardSettings(SIZE, hidden=50, dropout=0.5), torch.Generator().manual_seed(1)
    )
    first, again = (model.draw_masks(2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first.outputs[0], again.outputs[0])
    ids = torch.tensor([[2, 3], [4, 5]])
    assert not torch.allclose(model(ids)[0], model(ids, None, first)[0])
    assert MODELS["bag"].draw_masks(2) is None


@pytest.mark.parametrize("target", [100_000, 500_000, 2_000_000])
@pytest.mark.parametrize("rung", ["window-4", "window-64", "bag", "lstm", "rnn"])
def test_a_width_gives_about_the_asked_number_of_parameters(rung: str, target: int) -> None:
    def make(hidden: int) -> FeedForward | LanguageModel:
        if rung.startswith("window"):
            return FixedWindow(FeedForwardSettings(844, hidden, int(rung[7:])))
        if rung == "bag":
            return BagOfWords(FeedForwardSettings(844, hidden))
        return LanguageModel(ModelSettings(844, rung, layers=1, hidden=hidden, embedding=hidden))

    width = choose_width(make, target)
    assert width % 4 == 0
    assert count_parameters(make(width)) == pytest.approx(target, rel=0.04)
