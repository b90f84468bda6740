from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from musicgen.compare.diagnostics import (
    MIN_SHARE,
    GradientDecay,
    compute_gradient_decay,
    compute_half_lives,
    compute_state,
    draw_positions,
    iterate_states,
)
from musicgen.config import BEGIN_ID, CELLS, ModelSettings
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel
from musicgen.sampling.reference_cells import (
    cross_entropy,
    forward,
    head_backward,
    logits,
    run_layers,
)
from musicgen.training.batches import shift_right

SIZE, HIDDEN = 11, 6
SHAPE = ModelSettings(SIZE, layers=1, hidden=HIDDEN, embedding=HIDDEN, tied=False, dropout=0.4)
Weights = dict[str, np.ndarray]


def make_model(shape: ModelSettings = SHAPE, seed: int = 5) -> LanguageModel:
    return LanguageModel(shape, torch.Generator().manual_seed(seed))


def draw_tunes(*lengths: int, seed: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, SIZE, length).astype(np.int16) for length in lengths]


def make_rng() -> np.random.Generator:
    return np.random.default_rng(0)


def make_linear_model(recurrent: np.ndarray) -> LanguageModel:
    """Make an irnn that is linear, because no input, weight or bias is negative."""
    model = make_model(replace(SHAPE, cell="irnn"))
    weights = {name: np.abs(weight) for name, weight in model.copy_weights().items()}
    weights["layers.0.bias_ih_l0"] += 0.1
    weights["layers.0.weight_hh_l0"] = recurrent
    model.load_weights(weights)
    return model


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1])
def test_decay_of_a_scaled_rotation_is_a_power_of_its_factor(factor: float) -> None:
    """A permutation keeps the norm of a vector, so each step contributes one factor."""
    rotation = np.roll(np.eye(HIDDEN), 1, axis=0)
    decay = compute_gradient_decay(
        make_linear_model(factor * rotation), draw_tunes(30, 50), make_rng(), max_distance=20
    )
    expected = float(np.float32(factor)) ** decay.distances
    for curve in (decay.mean[0], decay.low[0], decay.high[0]):
        np.testing.assert_allclose(curve, expected, rtol=1e-9)


def test_decay_of_a_linear_network_follows_powers_of_its_matrix() -> None:
    """The expected decay is |U'^k g| / |g|, where g is the gradient at the head."""
    matrix = np.abs(np.random.default_rng(3).normal(size=(HIDDEN, HIDDEN)))
    model, tune = make_linear_model(matrix / 7), draw_tunes(26)[0]
    decay = compute_gradient_decay(model, [tune], make_rng(), max_distance=25)
    weights = to_float64(model)
    gradient = head_gradient(weights, model.settings, tune)
    lengths = []
    for _ in range(26):
        lengths.append(np.linalg.norm(gradient))
        gradient = gradient @ weights["layers.0.weight_hh_l0"]
    np.testing.assert_allclose(decay.mean[0], np.array(lengths) / lengths[0], rtol=1e-9)


def to_float64(model: LanguageModel) -> Weights:
    return {name: weight.astype(np.float64) for name, weight in model.copy_weights().items()}


def head_gradient(weights: Weights, shape: ModelSettings, tune: np.ndarray) -> np.ndarray:
    """Return the gradient (hidden,) of a tune's last loss by the last layer's last h."""
    outputs = run_layers(shape, weights, shift_right(tune)[:, np.newaxis])[-1].outputs[-1:]
    _, d_logits = cross_entropy(logits(weights, outputs), tune[-1:, np.newaxis].astype(np.int64))
    d_outputs, _ = head_backward(weights, outputs, d_logits)
    gradient: np.ndarray = d_outputs[0, 0]
    return gradient


def compute_norms_with_numpy(model: LanguageModel, tune: np.ndarray, parts: int) -> np.ndarray:
    """Return the norms (layer, distance) for the last loss of a tune, with the NumPy cells."""
    shape, weights = model.settings, to_float64(model)
    windows = run_layers(shape, weights, shift_right(tune)[:, np.newaxis])
    d_outputs = np.zeros_like(windows[-1].outputs)
    d_outputs[-1, 0] = head_gradient(weights, shape, tune)
    norms = []
    for window in reversed(windows):
        zero = tuple(np.zeros_like(part) for part in window.state)
        rows = [np.linalg.norm(d_outputs[-1])]
        for end in range(len(tune) - 1, 0, -1):
            state = forward(shape.cell, window.weights, window.x[:end], zero).state
            later = forward(shape.cell, window.weights, window.x[end:], state)
            d_h, *d_c = later.backward(d_outputs[end:], zero).state
            both = [d_h + d_outputs[end - 1], *d_c][:parts]
            rows.append(np.linalg.norm(np.concatenate(both)))
        norms.append(rows)
        d_outputs = window.backward(d_outputs, zero).x
    return np.array(norms[::-1])


@pytest.mark.parametrize("hidden_only", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_decay_equals_that_of_the_numpy_cells(cell: str, hidden_only: bool) -> None:
    shape = replace(SHAPE, cell=cell, layers=2, tied=True, embedding=4)
    model, (tune,) = make_model(shape), draw_tunes(14)
    decay = compute_gradient_decay(
        model, [tune], make_rng(), max_distance=99, hidden_only=hidden_only
    )
    norms = compute_norms_with_numpy(model, tune, 1 if hidden_only else 2)
    assert decay.distances.tolist() == list(range(14))
    np.testing.assert_allclose(decay.mean, norms / norms[:, :1], rtol=1e-8, atol=MIN_SHARE)


def test_decay_of_many_positions_equals_single_positions() -> None:
    """Each position is also measured alone, at the end of a tune that is cut there."""
    model = make_model(replace(SHAPE, cell="lstm", layers=2))
    tune = draw_tunes(90)[0]
    combined = compute_gradient_decay(model, [tune], make_rng(), max_distance=12, positions=1000)
    single = [
        compute_gradient_decay(
            model, [tune[:end]], LastOnly(end), max_distance=12, positions=1
        ).mean
        for end in range(13, 91)
    ]
    expected = np.exp(np.mean(np.log(single), axis=0))
    np.testing.assert_allclose(combined.mean, expected, rtol=1e-9)
    low, high = np.quantile(single, [0.1, 0.9], axis=0)
    np.testing.assert_allclose(combined.low, low, rtol=1e-9)
    np.testing.assert_allclose(combined.high, high, rtol=1e-9)


class LastOnly(np.random.Generator):
    """A generator that always chooses the last position."""

    def __init__(self, end: int) -> None:
        super().__init__(np.random.PCG64(end))

    def choice(self, a: int, size: int, replace: bool = True) -> np.ndarray:  # type: ignore[override]
        return np.array([a - 1])


@pytest.mark.parametrize("cell", CELLS)
def test_iterate_states_ends_in_the_state_of_the_model(cell: str) -> None:
    model = make_model(replace(SHAPE, cell=cell, layers=2)).double()
    ids = torch.from_numpy(np.stack(draw_tunes(20, 20)).astype(np.int64))
    ids[0, 7] = BEGIN_ID
    *_, last = iterate_states(model, ids[:, 5:], compute_state(model, ids[:, :5]))
    for mine, theirs in zip(last, compute_state(model, ids), strict=True):
        for part, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(part.detach(), expected, rtol=0, atol=1e-12)


def test_empty_list_of_tunes_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"no tune was given .* give at least one"):
        compute_gradient_decay(make_model(), [], make_rng())
    with pytest.raises(InvalidValue, match="no tune was given"):
        compute_half_lives(make_model(), [])


def test_measuring_does_not_change_the_model() -> None:
    model = make_model()
    weights = model.copy_weights()
    compute_gradient_decay(model, draw_tunes(30), make_rng(), max_distance=5)
    assert all(
        np.array_equal(weights[name], current) for name, current in model.copy_weights().items()
    )
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.head.bias.dtype == torch.float32


def test_positions_are_distinct_and_late_enough() -> None:
    lengths = [3, 10, 4, 12]
    everything = draw_positions(lengths, 4, 1000, make_rng())
    expected = [(1, at) for at in range(4, 10)] + [(3, at) for at in range(4, 12)]
    assert sorted(everything) == expected
    some = draw_positions(lengths, 4, 5, make_rng())
    assert len(set(some)) == 5
    assert set(some) <= set(expected)


def test_zero_gradients_count_as_the_minimal_share() -> None:
    model = make_linear_model(np.zeros((HIDDEN, HIDDEN)))
    decay = compute_gradient_decay(model, draw_tunes(10), make_rng(), max_distance=3)
    np.testing.assert_allclose(decay.mean[0], [1, MIN_SHARE, MIN_SHARE, MIN_SHARE])


def test_first_distance_below_a_share() -> None:
    mean = np.array([[1, 0.5, 0.009, 0.02], [1, 0.9, 0.8, 0.7]])
    decay = GradientDecay("rnn", np.arange(4), mean, mean, mean)
    assert decay.first_distance_below(0.01, layer=0) == 2
    assert decay.first_distance_below(0.75) == 3
    assert decay.first_distance_below(0.01) is None


def make_model_with_gates(cell: str, gates: list[float]) -> LanguageModel:
    """Make a network whose units keep the given shares for any input."""
    model = make_model(replace(SHAPE, cell=cell, hidden=len(gates), embedding=len(gates)))
    weights = {name: np.zeros_like(weight) for name, weight in model.copy_weights().items()}
    odds = np.array(gates) / (1 - np.array(gates))
    weights["layers.0.bias_ih_l0"][len(gates) : 2 * len(gates)] = np.log(odds)
    model.load_weights(weights)
    return model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_half_lives_are_computed_from_gates(cell: str) -> None:
    """A unit that keeps the k-th root of 1/2 per id has a half-life of k ids."""
    gates = [0.5 ** (1 / ids) for ids in (40, 1, 7)]
    tunes = [np.array([9, 2, 3, 9, 4, 5, 9, 6]), np.array([9, 2, 3, 4])]
    half_lives = compute_half_lives(make_model_with_gates(cell, gates), tunes, [9, 8])
    np.testing.assert_allclose(half_lives.ids, [[1, 7, 40]], rtol=1e-5)
    assert half_lives.ids_per_bar == 3
    np.testing.assert_allclose(half_lives.bars, [[1 / 3, 7 / 3, 40 / 3]], rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_are_averaged_over_all_ids(cell: str) -> None:
    """The expected gates are computed from the states of torch, for each tune alone."""
    model, tunes = make_model(replace(SHAPE, cell=cell, layers=2)), draw_tunes(150, 70, 3)
    weights, gates = to_float64(model), []
    for tune in tunes:
        ids = torch.from_numpy(shift_right(tune))[None]
        states = list(iterate_states(model, ids, model.start(1)))
        zero = np.zeros(HIDDEN)
        h = [zero] + [state[1][0][0].detach().numpy() for state in states[:-1]]
        x = [state[0][0][0].detach().numpy() for state in states]
        rows = slice(HIDDEN, 2 * HIDDEN)
        w, u, b, bias_hidden = (weights[f"layers.1.{name}"][rows] for name in
                          ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))  # fmt: skip
        gates += [
            1 / (1 + np.exp(-(w @ a + u @ c + b + bias_hidden))) for a, c in zip(x, h, strict=True)
        ]
    expected = np.sort(math.log(0.5) / np.log(np.mean(gates, axis=0)))
    np.testing.assert_allclose(compute_half_lives(model, tunes).ids[1], expected, rtol=1e-5)


def test_open_gate_has_a_finite_half_life() -> None:
    model = make_model_with_gates("lstm", [0.5, 1 - 1e-12])
    assert np.isfinite(compute_half_lives(model, draw_tunes(5)).ids).all()


def test_tunes_without_bars_have_no_half_lives_in_bars() -> None:
    half_lives = compute_half_lives(make_model_with_gates("lstm", [0.5]), draw_tunes(5), [])
    assert half_lives.ids_per_bar is None
    with pytest.raises(InvalidValue, match="have no bars: ask for the half-lives in ids"):
        _ = half_lives.bars


@pytest.mark.parametrize("cell", ["rnn", "irnn"])
def test_cell_without_gates_is_refused(cell: str) -> None:
    with pytest.raises(InvalidValue, match=f"cell '{cell}' has no gate: choose lstm or gru"):
        compute_half_lives(make_model(replace(SHAPE, cell=cell)), draw_tunes(5))
