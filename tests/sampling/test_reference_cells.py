"""The cells over a window and back through time, against torch's own gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from musicgen.config import CELLS
from musicgen.sampling.engine import make_cell
from musicgen.sampling.reference_cells import STEPS, Array, State, Weights, Window, forward

ROWS = {"lstm": 4, "gru": 3, "rnn": 1, "irnn": 1}
PRECISIONS = [(np.float64, 1e-10), (np.float32, 1e-5)]


@dataclass(frozen=True)
class Case:
    """Random layers, what they are given, and what follows them."""

    cell: str
    layers: tuple[Weights, ...]
    x: Array  # (window, lane, inputs)
    states: tuple[State, ...]
    d_outputs: Array  # (window, lane, hidden)
    d_states: tuple[State, ...]


def draw(
    cell: str, layers: int, window: int, lanes: int, inputs: int, hidden: int, seed: int,
    dtype: type[np.floating] = np.float64,
) -> Case:  # fmt: skip
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape).astype(dtype)

    def state() -> State:
        return tuple(normal(lanes, hidden) for _ in range(2 if cell == "lstm" else 1))

    def weights(width: int) -> Weights:
        rows, scale = ROWS[cell] * hidden, np.sqrt(hidden).astype(dtype)
        matrices = normal(rows, width) / scale, normal(rows, hidden) / scale
        return Weights(*matrices, normal(rows), normal(rows))

    return Case(
        cell,
        tuple(weights(hidden if layer else inputs) for layer in range(layers)),
        normal(window, lanes, inputs),
        tuple(state() for _ in range(layers)),
        normal(window, lanes, hidden),
        tuple(state() for _ in range(layers)),
    )


def by_hand(case: Case) -> Iterator[Array]:
    """Yield the outputs, the last states, then the gradients: of x, each layer's weights, state."""
    windows: list[Window] = []
    x = case.x
    for weights, state in zip(case.layers, case.states, strict=True):
        windows.append(forward(case.cell, weights, x, state))
        x = windows[-1].outputs
    yield x
    yield from (part for window in windows for part in window.state)
    d_x, outputs = case.d_outputs, []
    for window, d_state in zip(reversed(windows), reversed(case.d_states), strict=True):
        gradients = window.backward(d_x, d_state)
        d_x = gradients.x
        outputs.append([*gradients.weights, *gradients.state])
    yield d_x
    yield from (gradient for layer in reversed(outputs) for gradient in layer)


def torch_layers(cell: str, inputs: int, hidden: int, layers: int) -> nn.RNNBase:
    if cell == "lstm":
        return nn.LSTM(inputs, hidden, layers)
    if cell == "gru":
        return nn.GRU(inputs, hidden, layers)
    return nn.RNN(inputs, hidden, layers, nonlinearity="relu" if cell == "irnn" else "tanh")


def by_torch(case: Case) -> Iterator[Array]:
    """Yield what `by_hand` does, from torch's layers and its automatic gradients."""
    hidden, inputs = case.d_outputs.shape[2], case.x.shape[2]
    x = torch.from_numpy(case.x).requires_grad_()
    network = torch_layers(case.cell, inputs, hidden, len(case.layers)).to(x.dtype)
    with torch.no_grad():
        for mine, theirs in zip(
            (array for weights in case.layers for array in weights),
            network.parameters(),
            strict=True,
        ):
            theirs.copy_(torch.from_numpy(mine))
    before = [stacked(parts).requires_grad_() for parts in zip(*case.states, strict=True)]
    outputs, last = network(x, tuple(before) if len(before) > 1 else before[0])
    after = list(last) if len(before) > 1 else [last]
    yield outputs.detach().numpy()
    yield from (part[layer].detach().numpy() for layer in range(len(before[0])) for part in after)
    upstream = [stacked(parts) for parts in zip(*case.d_states, strict=True)]
    torch.autograd.backward([outputs, *after], [torch.from_numpy(case.d_outputs), *upstream])
    yield gradient_of(x)
    parameters = list(network.parameters())
    for layer in range(len(case.layers)):
        yield from map(gradient_of, parameters[4 * layer : 4 * layer + 4])
        yield from (gradient_of(part)[layer] for part in before)


def stacked(parts: tuple[Array, ...]) -> Tensor:
    return torch.from_numpy(np.stack(parts))


def gradient_of(leaf: Tensor) -> Array:
    assert leaf.grad is not None
    return leaf.grad.numpy()


def compare(case: Case, tolerance: float, least: float) -> None:
    """Hold all equal, as shares of each array's largest entry, or of `least`."""
    for mine, theirs in zip(by_hand(case), by_torch(case), strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= tolerance * max(np.abs(theirs).max(), least)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
@settings(max_examples=20)
@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 6),
    st.integers(1, 9), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_outputs_and_every_gradient_equal_torchs(
    cell: str, dtype: type[np.floating], tolerance: float, layers: int, window: int, lanes: int,
    inputs: int, hidden: int, seed: int,
) -> None:  # fmt: skip
    """Of a saturated unit, 1 - h h has few digits: there the measure is what came from above, 1."""
    compare(draw(cell, layers, window, lanes, inputs, hidden, seed, dtype), tolerance, least=1)


@pytest.mark.promises
@settings(max_examples=500)
@given(
    st.sampled_from(CELLS), st.sampled_from(PRECISIONS), st.integers(1, 3), st.integers(1, 40),
    st.integers(1, 9), st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_five_hundred_networks_equal_torchs(
    cell: str, precision: tuple[type[np.floating], float], layers: int, window: int, lanes: int,
    inputs: int, hidden: int, seed: int,
) -> None:  # fmt: skip
    dtype, tolerance = precision
    compare(draw(cell, layers, window, lanes, inputs, hidden, seed, dtype), tolerance, least=1)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_size_that_is_trained_with_equals_torchs(
    cell: str, dtype: type[np.floating], tolerance: float
) -> None:
    compare(draw(cell, 2, 40, 8, 48, 64, seed=1, dtype=dtype), tolerance, least=0)


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_the_samplers(cell: str) -> None:
    case = draw(cell, 1, 15, 1, 3, 5, seed=2)
    weights, state = case.layers[0], np.stack([part[0] for part in case.states[0]])
    window = forward(cell, weights, case.x, case.states[0])
    step = make_cell(cell, *weights)
    for x, expected in zip(case.x[:, 0], window.outputs[:, 0], strict=True):
        step.step(step.inputs @ x + step.bias, state)
        np.testing.assert_allclose(state[0], expected, rtol=0, atol=1e-12)


def loss(case: Case, weights: Weights, x: Array, state: State, starts: Array) -> float:
    """Weigh everything that comes out of one layer, so that each gradient is random."""
    window = forward(case.cell, weights, x, state, starts)
    total = np.vdot(window.outputs, case.d_outputs)
    for part, weight in zip(window.state, case.d_states[0], strict=True):
        total += np.vdot(part, weight)
    return float(total)


@pytest.mark.parametrize("cell", CELLS)
def test_every_gradient_is_the_finite_difference(cell: str) -> None:
    """No torch: each entry of each input moved a little both ways, tunes starting inside."""
    case = draw(cell, 1, 6, 2, 3, 4, seed=7)
    starts = np.zeros((6, 2), bool)
    starts[0, 1] = starts[3, 0] = True
    weights, state = case.layers[0], case.states[0]
    window = forward(cell, weights, case.x, state, starts)
    gradients = window.backward(case.d_outputs, case.d_states[0])
    values = [*weights, case.x, *state]
    for array, gradient in zip(
        values, [*gradients.weights, gradients.x, *gradients.state], strict=True
    ):
        for index in np.ndindex(array.shape):
            original, heights = array[index], []
            for nudge in (1e-5, -1e-5):
                array[index] = original + nudge
                heights.append(loss(case, weights, case.x, state, starts))
            array[index] = original
            assert gradient[index] == pytest.approx((heights[0] - heights[1]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_no_gradient_passes_the_start_of_a_tune(cell: str) -> None:
    case = draw(cell, 1, 5, 2, 3, 4, seed=3)
    starts = np.zeros((5, 2), bool)
    starts[2, 0] = True
    window = forward(cell, case.layers[0], case.x, case.states[0], starts)
    late = case.d_outputs.copy()
    late[:2] = 0
    gradients = window.backward(late, case.d_states[0])
    assert not gradients.x[:2, 0].any()
    assert not any(part[0].any() for part in gradients.state)
    assert gradients.x[:2, 1].any()
    assert any(part[1].any() for part in gradients.state)
    alone = forward(cell, case.layers[0], case.x[2:], tuple(p * 0 for p in case.states[0]))
    np.testing.assert_allclose(window.outputs[2:, 0], alone.outputs[:, 0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("cell", CELLS)
def test_two_windows_are_one(cell: str) -> None:
    """Handing the state on, and its gradient back, loses nothing."""
    case = draw(cell, 1, 9, 2, 3, 4, seed=5)
    weights = case.layers[0]
    whole = forward(cell, weights, case.x, case.states[0])
    first = forward(cell, weights, case.x[:4], case.states[0])
    second = forward(cell, weights, case.x[4:], first.state)
    gradients = second.backward(case.d_outputs[4:], case.d_states[0])
    front = first.backward(case.d_outputs[:4], gradients.state)
    expected = whole.backward(case.d_outputs, case.d_states[0])
    for step, other, both in zip(front.weights, gradients.weights, expected.weights, strict=True):
        np.testing.assert_allclose(step + other, both, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        np.concatenate([front.x, gradients.x]), expected.x, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(front.state, expected.state, rtol=0, atol=1e-12)


def test_there_is_a_step_for_each_cell() -> None:
    assert set(STEPS) == set(CELLS)
