"""The whole model by hand against torch's, weight by weight; truncation and clipping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from musicgen.config import BEGIN_ID, CELLS, ModelSettings, TrainingSettings
from musicgen.model.network import LanguageModel, RecurrentState
from musicgen.sampling.reference_cells import (
    Array,
    LossAndGradients,
    clip_gradients,
    compute_gradients,
    compute_truncated_gradients,
)
from musicgen.training.trainer import Trainer

SIZE = 13
SHAPE = ModelSettings(SIZE, hidden=7, embedding=5, dropout=0, embedding_dropout=0)
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def make(shape: ModelSettings, seed: int = 3, dtype: torch.dtype = torch.float64) -> LanguageModel:
    return LanguageModel(shape, torch.Generator().manual_seed(seed)).to(dtype)


def named(model: LanguageModel) -> dict[str, Array]:
    return {name: weight.detach().numpy() for name, weight in model.named_parameters()}


def draw(lanes: int, window: int, seed: int = 0) -> tuple[Array, Array]:
    """Draw what is fed and what comes next: each lane starts a tune."""
    ids = np.random.default_rng(seed).integers(1, SIZE, (lanes, window + 1))
    targets = ids[:, 1:].copy()
    ids[:, 0] = BEGIN_ID
    return ids[:, :-1], targets


def by_torch(
    model: LanguageModel, inputs: Array, targets: Array, state: RecurrentState | None = None
) -> tuple[float, dict[str, Array], RecurrentState]:
    logits, after = model(torch.from_numpy(inputs), state)
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters)
    found = {name: grad.numpy() for name, grad in zip(names, gradients, strict=True)}
    return float(loss.detach()), found, after


def compare(mine: dict[str, Array], theirs: dict[str, Array], tolerance: float) -> None:
    assert set(mine) == set(theirs)
    for name, expected in theirs.items():
        assert mine[name].dtype == expected.dtype
        difference = np.abs(mine[name] - expected).max()
        assert difference <= tolerance * np.abs(expected).max(), name


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=12)
@given(
    st.integers(1, 3), st.booleans(), st.sampled_from([4, 7]), st.integers(1, 3),
    st.integers(2, 12), st.integers(0, 1000),
)  # fmt: skip
def test_the_gradient_by_every_weight_equals_torchs(
    cell: str, dtype: torch.dtype, tolerance: float, layers: int, tied: bool, embedding: int,
    lanes: int, window: int, seed: int,
) -> None:  # fmt: skip
    shape = replace(SHAPE, cell=cell, layers=layers, tied=tied, embedding=embedding)
    model = make(shape, seed, dtype)
    inputs, targets = draw(lanes, window, seed)
    result = compute_gradients(shape, named(model), inputs, targets)
    loss, gradients, after = by_torch(model, inputs, targets)
    assert result.loss == pytest.approx(loss, rel=tolerance)
    compare(result.gradients, gradients, tolerance)
    for ours, theirs in zip(result.states, after, strict=True):
        for part, other_result in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(part, other_result.detach().numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_that_is_handed_on_equals_torchs(cell: str) -> None:
    shape = replace(SHAPE, cell=cell)
    model = make(shape)
    inputs, targets = draw(2, 5)
    inputs[:, 0] = 1
    rng = np.random.default_rng(8)
    states = tuple(
        tuple(rng.normal(size=(2, shape.hidden)) for _ in layer) for layer in model.start(2)
    )
    given = tuple(tuple(torch.from_numpy(part) for part in layer) for layer in states)
    loss, gradients, _ = by_torch(model, inputs, targets, given)
    result = compute_gradients(shape, named(model), inputs, targets, states)
    assert result.loss == pytest.approx(loss, abs=1e-12)
    compare(result.gradients, gradients, 1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_begin_event_resets_the_state(cell: str) -> None:
    shape = replace(SHAPE, cell=cell)
    weights, (inputs, targets) = named(make(shape)), draw(1, 5)
    alone = compute_gradients(shape, weights, inputs, targets)
    twice = [np.concatenate([part, part], 1) for part in (inputs, targets)]
    result = compute_gradients(shape, weights, twice[0], twice[1])
    assert result.loss == pytest.approx(alone.loss, abs=1e-12)
    compare(result.gradients, alone.gradients, 1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_the_whole_gradient_is_the_slope_of_the_loss(cell: str) -> None:
    """No torch's gradient: a step against it in weight space lowers the loss by its square."""
    shape = replace(SHAPE, cell=cell)
    weights, (inputs, targets) = named(make(shape)), draw(2, 9)
    result = compute_gradients(shape, weights, inputs, targets)
    squared = sum(np.vdot(g, g) for g in result.gradients.values())

    def at(nudge: float) -> float:
        moved = {name: w + nudge * result.gradients[name] for name, w in weights.items()}
        return compute_gradients(shape, moved, inputs, targets).loss

    assert (at(1e-5) - at(-1e-5)) / 2e-5 == pytest.approx(squared, rel=1e-6)


def distance(actual: LossAndGradients, other_result: LossAndGradients) -> float:
    """Return how far two gradients are apart, as a share of the second's norm."""
    pairs = [
        (actual.gradients[name], other_result.gradients[name]) for name in other_result.gradients
    ]
    apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return float(np.sqrt(apart / sum(float((b**2).sum()) for _, b in pairs)))


@pytest.mark.parametrize("cell", CELLS)
def test_windows_as_long_as_the_tune_give_the_full_gradient_and_shorter_ones_do_not(
    cell: str,
) -> None:
    shape = replace(SHAPE, cell=cell)
    weights, (inputs, targets) = named(make(shape)), draw(1, 24)
    full = compute_gradients(shape, weights, inputs, targets)
    apart = []
    for bptt in (100, 24, 12, 6, 1):
        cut = compute_truncated_gradients(shape, weights, inputs, targets, bptt)
        assert cut.loss == pytest.approx(full.loss, abs=1e-12)
        apart.append(distance(cut, full))
    assert apart[:2] == [0, 0]
    assert min(apart[2:]) > 1e-3


@pytest.mark.parametrize("bptt", [3, 8])
def test_truncated_gradients_equal_those_of_torch_in_windows(bptt: int) -> None:
    """What the trainer does: the state goes on, detached."""
    model = make(SHAPE)
    inputs, targets = draw(2, 8)
    state: RecurrentState | None = None
    total = {name: np.zeros_like(weight) for name, weight in named(model).items()}
    for begin in range(0, 8, bptt):
        cut = slice(begin, begin + bptt)
        _, gradients, state = by_torch(model, inputs[:, cut], targets[:, cut], state)
        state = tuple(tuple(part.detach() for part in layer) for layer in state)
        for name, gradient in gradients.items():
            total[name] += gradient * inputs[:, cut].shape[1] / 8
    compare(
        compute_truncated_gradients(SHAPE, named(model), inputs, targets, bptt).gradients,
        total,
        1e-10,
    )


@pytest.mark.parametrize("cell", CELLS)
def test_the_trainers_own_gradients_are_those_by_hand(cell: str) -> None:
    """Over three windows of lanes whose tunes end and start with them, the states handed on."""
    shape = replace(SHAPE, cell=cell)
    model = make(shape, dtype=torch.float32)
    rng = np.random.default_rng(4)
    tunes = [rng.integers(1, SIZE, length) for length in (11, 33, 22)]
    trainer = Trainer(model, tunes, [], TrainingSettings(tokens=1000, lanes=3, bptt=11))
    states = None
    for window in (trainer.next_window() for _ in range(3)):
        loss = trainer.backward(window)
        result = compute_gradients(shape, named(model), window.inputs, window.targets, states)
        assert result.loss == pytest.approx(float(loss), rel=1e-6)
        states = result.states
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        found = {name: grad.numpy() for name, grad in gradients.items() if grad is not None}
        compare(result.gradients, found, 1e-5)


@pytest.mark.parametrize("largest", [1e-3, 0.5, 1e6])
def test_clipping_equals_torchs(largest: float) -> None:
    rng = np.random.default_rng(2)
    gradients = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=7)}
    leaves = [torch.zeros(g.shape, dtype=torch.float64) for g in gradients.values()]
    for leaf, gradient in zip(leaves, gradients.values(), strict=True):
        leaf.grad = torch.from_numpy(gradient.copy())
    expected = float(torch.nn.utils.clip_grad_norm_(leaves, largest))
    assert clip_gradients(gradients, largest) == pytest.approx(expected, rel=1e-12)
    for leaf, gradient in zip(leaves, gradients.values(), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-12)
    assert clip_gradients(gradients, largest) == pytest.approx(min(expected, largest), rel=1e-5)


def test_clipping_a_gradient_of_zero_leaves_it() -> None:
    gradients = {"a": np.zeros(3)}
    assert clip_gradients(gradients, 1.0) == 0
    assert not gradients["a"].any()
