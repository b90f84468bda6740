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
    measure_gradient_norms,
    spectra,
)
from musicgen.config import BEGIN_ID, CELLS, ModelSettings, TrainingSettings
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


def make(shape: ModelSettings = SHAPE, seed: int = 5) -> LanguageModel:
    return LanguageModel(shape, torch.Generator().manual_seed(seed))


def draw(*lengths: int, seed: int = 1) -> list[np.ndarray]:
    luck = np.random.default_rng(seed)
    return [luck.integers(1, SIZE, length).astype(np.int16) for length in lengths]


def luck() -> np.random.Generator:
    return np.random.default_rng(0)


def linear(recurrent: np.ndarray) -> LanguageModel:
    """Make a rectified network that never rectifies: no input, weight or bias is below zero."""
    model = make(replace(SHAPE, cell="irnn"))
    weights = {name: np.abs(weight) for name, weight in model.copy_weights().items()}
    weights["layers.0.bias_ih_l0"] += 0.1
    weights["layers.0.weight_hh_l0"] = recurrent
    model.load_weights(weights)
    return model


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1])
def test_what_is_left_of_a_rotation_is_a_power_of_its_size(factor: float) -> None:
    """A permutation moves a vector and keeps its length, so each step back is one factor."""
    turn = np.roll(np.eye(HIDDEN), 1, axis=0)
    fade = compute_gradient_decay(linear(factor * turn), draw(30, 50), luck(), max_distance=20)
    expected = float(np.float32(factor)) ** fade.distances
    for curve in (fade.mean[0], fade.low[0], fade.high[0]):
        np.testing.assert_allclose(curve, expected, rtol=1e-9)


def test_any_linear_network_fades_by_powers_of_its_matrix() -> None:
    """By numpy's own matrix powers: |U'^k g| over |g|, g the gradient at the head."""
    matrix = np.abs(np.random.default_rng(3).normal(size=(HIDDEN, HIDDEN)))
    model, tune = linear(matrix / 7), draw(26)[0]
    fade = compute_gradient_decay(model, [tune], luck(), max_distance=25)
    weights = doubled(model)
    gradient = head_gradient(weights, model.settings, tune)
    lengths = []
    for _ in range(26):
        lengths.append(np.linalg.norm(gradient))
        gradient = gradient @ weights["layers.0.weight_hh_l0"]
    np.testing.assert_allclose(fade.mean[0], np.array(lengths) / lengths[0], rtol=1e-9)


def doubled(model: LanguageModel) -> Weights:
    return {name: weight.astype(np.float64) for name, weight in model.copy_weights().items()}


def head_gradient(weights: Weights, shape: ModelSettings, tune: np.ndarray) -> np.ndarray:
    """Return the gradient (hidden,) of a tune's last loss by the last layer's last h."""
    outputs = run_layers(shape, weights, shift_right(tune)[:, np.newaxis])[-1].outputs[-1:]
    _, d_logits = cross_entropy(logits(weights, outputs), tune[-1:, np.newaxis].astype(np.int64))
    d_outputs, _ = head_backward(weights, outputs, d_logits)
    gradient: np.ndarray = d_outputs[0, 0]
    return gradient


def by_hand(model: LanguageModel, tune: np.ndarray, parts: int) -> np.ndarray:
    """Return the norms (layer, distance) of a tune's last loss, by the NumPy cells' way back."""
    shape, weights = model.settings, doubled(model)
    windows = run_layers(shape, weights, shift_right(tune)[:, np.newaxis])
    d_outputs = np.zeros_like(windows[-1].outputs)
    d_outputs[-1, 0] = head_gradient(weights, shape, tune)
    found = []
    for window in reversed(windows):
        zero = tuple(np.zeros_like(part) for part in window.state)
        rows = [np.linalg.norm(d_outputs[-1])]
        for end in range(len(tune) - 1, 0, -1):
            before = forward(shape.cell, window.weights, window.x[:end], zero).state
            rest = forward(shape.cell, window.weights, window.x[end:], before)
            d_h, *d_c = rest.backward(d_outputs[end:], zero).state
            both = [d_h + d_outputs[end - 1], *d_c][:parts]
            rows.append(np.linalg.norm(np.concatenate(both)))
        found.append(rows)
        d_outputs = window.backward(d_outputs, zero).x
    return np.array(found[::-1])


@pytest.mark.parametrize("hidden_only", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cells_fade_is_that_of_the_cells_by_hand(cell: str, hidden_only: bool) -> None:
    shape = replace(SHAPE, cell=cell, layers=2, tied=True, embedding=4)
    model, (tune,) = make(shape), draw(14)
    fade = compute_gradient_decay(model, [tune], luck(), max_distance=99, hidden_only=hidden_only)
    norms = by_hand(model, tune, 1 if hidden_only else 2)
    assert fade.distances.tolist() == list(range(14))
    np.testing.assert_allclose(fade.mean, norms / norms[:, :1], rtol=1e-8, atol=MIN_SHARE)


def test_positions_deep_in_long_tunes_are_followed_from_the_state_that_they_had() -> None:
    """One position at a time is all at once; each is at the end of its own tune, cut there."""
    model = make(replace(SHAPE, cell="lstm", layers=2))
    tune = draw(90)[0]
    whole = compute_gradient_decay(model, [tune], luck(), max_distance=12, positions=1000)
    single = [
        compute_gradient_decay(
            model, [tune[:end]], LastOnly(end), max_distance=12, positions=1
        ).mean
        for end in range(13, 91)
    ]
    expected = np.exp(np.mean(np.log(single), axis=0))
    np.testing.assert_allclose(whole.mean, expected, rtol=1e-9)
    low, high = np.quantile(single, [0.1, 0.9], axis=0)
    np.testing.assert_allclose(whole.low, low, rtol=1e-9)
    np.testing.assert_allclose(whole.high, high, rtol=1e-9)


class LastOnly(np.random.Generator):
    """A generator that always chooses the last place of all."""

    def __init__(self, end: int) -> None:
        super().__init__(np.random.PCG64(end))

    def choice(self, a: int, size: int, replace: bool = True) -> np.ndarray:  # type: ignore[override]
        return np.array([a - 1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_walk_ends_in_the_models_own_state(cell: str) -> None:
    model = make(replace(SHAPE, cell=cell, layers=2)).double()
    ids = torch.from_numpy(np.stack(draw(20, 20)).astype(np.int64))
    ids[0, 7] = BEGIN_ID
    *_, last = iterate_states(model, ids[:, 5:], compute_state(model, ids[:, :5]))
    for mine, theirs in zip(last, compute_state(model, ids), strict=True):
        for part, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(part.detach(), expected, rtol=0, atol=1e-12)


def test_nothing_is_measured_on_no_tune() -> None:
    with pytest.raises(InvalidValue, match=r"no tune was given .* give one at least"):
        compute_gradient_decay(make(), [], luck())
    with pytest.raises(InvalidValue, match="no tune was given"):
        compute_half_lives(make(), [])


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = make()
    before = model.copy_weights()
    compute_gradient_decay(model, draw(30), luck(), max_distance=5)
    assert all(np.array_equal(before[name], now) for name, now in model.copy_weights().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.head.bias.dtype == torch.float32


def test_positions_are_different_deep_enough_and_all_alike_likely() -> None:
    lengths = [3, 10, 4, 12]
    everything = draw_positions(lengths, 4, 1000, luck())
    expected = [(1, at) for at in range(4, 10)] + [(3, at) for at in range(4, 12)]
    assert sorted(everything) == expected
    some = draw_positions(lengths, 4, 5, luck())
    assert len(set(some)) == 5
    assert set(some) <= set(expected)


def test_what_has_died_counts_as_the_faintest() -> None:
    model = linear(np.zeros((HIDDEN, HIDDEN)))
    fade = compute_gradient_decay(model, draw(10), luck(), max_distance=3)
    np.testing.assert_allclose(fade.mean[0], [1, MIN_SHARE, MIN_SHARE, MIN_SHARE])


def test_the_reach_is_where_the_mean_falls_below_a_share() -> None:
    mean = np.array([[1, 0.5, 0.009, 0.02], [1, 0.9, 0.8, 0.7]])
    fade = GradientDecay("rnn", np.arange(4), mean, mean, mean)
    assert fade.first_distance_below(0.01, layer=0) == 2
    assert fade.first_distance_below(0.75) == 3
    assert fade.first_distance_below(0.01) is None


def with_gates(cell: str, kept: list[float]) -> LanguageModel:
    """Make a network whose units keep the given shares, whatever is fed to it."""
    model = make(replace(SHAPE, cell=cell, hidden=len(kept), embedding=len(kept)))
    weights = {name: np.zeros_like(weight) for name, weight in model.copy_weights().items()}
    odds = np.array(kept) / (1 - np.array(kept))
    weights["layers.0.bias_ih_l0"][len(kept) : 2 * len(kept)] = np.log(odds)
    model.load_weights(weights)
    return model


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_half_lives_follow_from_the_gates(cell: str) -> None:
    """A unit that keeps the k-th root of a half has half of it left after k ids."""
    kept = [0.5 ** (1 / ids) for ids in (40, 1, 7)]
    tunes = [np.array([9, 2, 3, 9, 4, 5, 9, 6]), np.array([9, 2, 3, 4])]
    found = compute_half_lives(with_gates(cell, kept), tunes, [9, 8])
    np.testing.assert_allclose(found.ids, [[1, 7, 40]], rtol=1e-5)
    assert found.ids_per_bar == 3
    np.testing.assert_allclose(found.bars, [[1 / 3, 7 / 3, 40 / 3]], rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_gates_mean_is_over_whole_tunes_one_id_each(cell: str) -> None:
    """Against torch's states: the gate written out for each id of each tune alone."""
    model, tunes = make(replace(SHAPE, cell=cell, layers=2)), draw(150, 70, 3)
    weights, gates = doubled(model), []
    for tune in tunes:
        ids = torch.from_numpy(shift_right(tune))[None]
        states = list(iterate_states(model, ids, model.start(1)))
        zero = np.zeros(HIDDEN)
        h = [zero] + [state[1][0][0].detach().numpy() for state in states[:-1]]
        x = [state[0][0][0].detach().numpy() for state in states]
        rows = slice(HIDDEN, 2 * HIDDEN)
        w, u, b, own_b = (weights[f"layers.1.{name}"][rows] for name in
                          ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))  # fmt: skip
        gates += [1 / (1 + np.exp(-(w @ a + u @ c + b + own_b))) for a, c in zip(x, h, strict=True)]
    expected = np.sort(math.log(0.5) / np.log(np.mean(gates, axis=0)))
    np.testing.assert_allclose(compute_half_lives(model, tunes).ids[1], expected, rtol=1e-5)


def test_a_gate_that_is_wide_open_has_a_finite_half_life() -> None:
    model = with_gates("lstm", [0.5, 1 - 1e-12])
    assert np.isfinite(compute_half_lives(model, draw(5)).ids).all()


def test_tunes_without_bars_have_half_lives_in_ids_only() -> None:
    found = compute_half_lives(with_gates("lstm", [0.5]), draw(5), [])
    assert found.ids_per_bar is None
    with pytest.raises(InvalidValue, match="have no bars: ask for the half-lives in ids"):
        _ = found.bars


@pytest.mark.parametrize("cell", ["rnn", "irnn"])
def test_a_cell_without_a_gate_is_refused(cell: str) -> None:
    with pytest.raises(InvalidValue, match=f"cell '{cell}' has no gate: choose lstm or gru"):
        compute_half_lives(make(replace(SHAPE, cell=cell)), draw(5))


def test_clipping_changes_what_follows_it_and_not_what_is_before() -> None:
    settings = TrainingSettings(tokens=2000, lanes=2, bptt=8, clip=0.05, learning_rate=0.02)
    norms = measure_gradient_norms(
        lambda: make(replace(SHAPE, dropout=0)), draw(40, 30), settings, 12
    )
    assert norms.clip == 0.05
    assert len(norms.clipped) == len(norms.unclipped) == 12
    assert norms.clipped[0] == norms.unclipped[0] > 0.05
    assert not np.array_equal(norms.clipped, norms.unclipped)


def test_a_run_that_diverges_ends_its_norms_with_infinity() -> None:
    def explosive() -> LanguageModel:
        return linear(np.full((HIDDEN, HIDDEN), 3e4))

    settings = TrainingSettings(tokens=2000, lanes=2, bptt=16)
    norms = measure_gradient_norms(explosive, draw(40, 30), settings, 12)
    assert norms.unclipped[-1] == math.inf
    assert len(norms.unclipped) < 12


def test_spectra_tell_the_long_run_from_a_single_step() -> None:
    shear = np.array([[0.5, 10], [0, 0.25]])
    model = make(replace(SHAPE, cell="irnn", hidden=2, embedding=2))
    model.load_weights(model.copy_weights() | {"layers.0.weight_hh_l0": shear})
    (found,) = spectra(model)
    assert found.radius == pytest.approx(0.5)
    assert found.spectral_norm == pytest.approx(np.linalg.svd(shear)[1][0])
    assert [s.block for s in spectra(make(replace(SHAPE, cell="gru", layers=2)))] == list("runrun")
