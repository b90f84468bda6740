"""Diagnostics of recurrent networks: gradient decay over distance, and half-lives of units.

`compute_gradient_decay` measures vanishing gradients, `GradientNorms` exploding ones, and
`compute_half_lives` how long gates keep information.

The loss at one id is a function of all ids before it. Its gradient with respect to the state k ids
earlier measures how much a small change of that state would have changed the loss:

    dloss_t / dh_{t-k} = J'_{t-k+1} ... J'_t dloss_t / dh_t      with J_s = dh_s / dh_{s-1}

These are k factors, each with the recurrent matrix (Bengio, Simard and Frasconi, 1994). The
gradient is computed in float64: after 200 ids, that of a cell without gates is below the range of
float32.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel, RecurrentState, get_layer_weights
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, TokenIds
from musicgen.sampling.reference_cells import GRUStep, LSTMStep, Step, Window, run_layers
from musicgen.training.batches import IGNORE_INDEX, batch_whole_tunes, shift_right

GATED_CELLS: Final = ("gru", "lstm")
MIN_SHARE: Final = 1e-30  # smaller shares are raised to this, so that their logarithm is finite
DECAY_QUANTILES: Final = (0.1, 0.9)
MAX_GATE_VALUE: Final = 1 - 2**-24  # the largest float32 below 1
GATE_LANES, GATE_WINDOW = 32, 64  # tunes per batch, ids per window


@dataclass(frozen=True, slots=True)
class GradientDecay:
    """The norm of a gradient by distance, as a share of the norm at distance 0."""

    cell: str
    distances: IntArray  # (distance,) int64, in ids: 0, 1, 2, ...
    mean: FloatArray  # (layer, distance) float64, geometric mean over positions
    low: FloatArray  # (layer, distance) float64, the lowest decile of the positions
    high: FloatArray  # (layer, distance) float64, the highest decile

    def first_distance_below(self, share: float = 0.01, layer: int = -1) -> int | None:
        """Return the first distance, in ids, at which the mean is below a share, or None."""
        below = np.flatnonzero(self.mean[layer] < share)
        return int(self.distances[below[0]]) if len(below) else None


@dataclass(frozen=True, slots=True)
class HalfLives:
    """The half-lives of the units of a gated cell."""

    cell: str
    ids: tuple[FloatArray, ...]  # per layer (unit,) float64, in ids, ascending
    ids_per_bar: float | None  # None if no tune has bars

    @property
    def bars(self) -> tuple[FloatArray, ...]:
        """The half-lives in bars, per layer (unit,) float64, ascending.

        Raises:
            InvalidValue: no tune has bars.
        """
        if self.ids_per_bar is None:
            raise InvalidValue("these tunes have no bars: ask for the half-lives in ids")
        return tuple(ids / self.ids_per_bar for ids in self.ids)


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """Gradient norms before clipping of two runs that differ only in clipping."""

    clip: float  # the largest norm in the run with clipping
    clipped: FloatArray  # (update,) float64, of the run with clipping
    unclipped: FloatArray  # (update,) float64, without; shorter, with inf last, if it diverged


def compute_gradient_decay(
    model: LanguageModel,
    tunes: Sequence[TokenIds],
    generator: np.random.Generator,
    *,
    max_distance: int = 200,
    positions: int = 64,
    hidden_only: bool = False,
) -> GradientDecay:
    """Measure the gradient of the loss at one id by the state of each layer k ids before.

    The state of an LSTM is one vector (h, c), because information passes through both parts. The
    path from h through the layer above is included.

    Args:
        model: with any cell; dropout is not used, and its weights and gradients do not change.
        tunes: (token,) int16 or int64 each; each position is at least the largest distance from
            the start of its tune.
        generator: draws the positions.
        max_distance: the largest k, in ids; less if no tune is that long.
        positions: number of losses.
        hidden_only: ignore c of an LSTM.
    """
    require_tunes(tunes)
    distance_count = min(max_distance, max(len(ids) for ids in tunes) - 1)
    chosen_positions = draw_positions(
        [len(ids) for ids in tunes], distance_count, positions, generator
    )
    float64_model = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False)
    inputs = pad_left([shift_right(tunes[tune])[: last + 1] for tune, last in chosen_positions])
    targets = torch.tensor([int(tunes[tune][last]) for tune, last in chosen_positions])
    norms = compute_state_gradient_norms(
        float64_model, inputs, targets, distance_count, 1 if hidden_only else 2
    )
    shares = np.maximum(norms / np.maximum(norms[:, :1], MIN_SHARE), MIN_SHARE)
    low, high = np.quantile(shares, DECAY_QUANTILES, axis=2)
    mean = np.exp(np.log(shares).mean(2))
    return GradientDecay(model.settings.cell, np.arange(distance_count + 1), mean, low, high)


def require_tunes(tunes: Sequence[TokenIds]) -> None:
    """Check that there is a tune, (token,) int16 or int64.

    Raises:
        InvalidValue: there is none.
    """
    if not tunes:
        raise InvalidValue("no tune was given to diagnose the network with: give at least one")


def draw_positions(
    lengths: Sequence[int], earliest: int, count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw distinct (tune, index of an id), uniformly from the ids at index `earliest` or later."""
    ends = np.cumsum(np.maximum(np.array(lengths) - earliest, 0))
    chosen_ids = generator.choice(ends[-1], min(count, int(ends[-1])), replace=False)
    tunes = np.searchsorted(ends, chosen_ids, side="right")
    return [
        (int(tune), lengths[tune] - int(ends[tune] - chosen_id))
        for tune, chosen_id in zip(tunes, chosen_ids, strict=True)
    ]


def pad_left(rows: Sequence[TokenIds]) -> Tensor:
    """Right-align rows of ids, padded with begin events: (token,) each to (lane, window) int64.

    The padding has no effect, because each begin event resets the state.
    """
    length = max(len(row) for row in rows)
    padded = [np.concatenate([np.full(length - len(row), BEGIN_ID), row]) for row in rows]
    return torch.from_numpy(np.stack(padded).astype(np.int64))


def compute_state_gradient_norms(
    model: LanguageModel, inputs: Tensor, targets: Tensor, max_distance: int, state_parts: int
) -> FloatArray:
    """Return the norms of the gradients of the last loss with respect to earlier states.

    Args:
        model: in float64.
        inputs: (lane, window) int64.
        targets: (lane,) int64, of the last position.
        max_distance: the largest distance, in ids.
        state_parts: parts of the state of each layer: 1 is h, 2 is h and c.

    Returns:
        (layer, distance, lane) float64.
    """
    state = compute_state(model, inputs[:, : -max_distance - 1])
    states = list(iterate_states(model, inputs[:, -max_distance - 1 :], state))
    loss = functional.cross_entropy(
        model.compute_logits(states[-1][-1][0]), targets, reduction="sum"
    )
    parts = [part for step_state in states for layer in step_state for part in layer[:state_parts]]
    gradients = torch.autograd.grad(loss, parts, materialize_grads=True)
    squares = torch.stack([gradient.square().sum(1) for gradient in gradients])
    shape = max_distance + 1, len(model.layers), -1, len(targets)  # (distance, layer, part, lane)
    norms: FloatArray = squares.detach().view(shape).flip(0).sum(2).sqrt().transpose(0, 1).numpy()
    return norms


@torch.no_grad()
def compute_state(model: LanguageModel, ids: Tensor) -> RecurrentState:
    """Return the state after ids, (lane, window) int64, reset before each begin event."""
    start = model.start(len(ids))
    return deque(iterate_states(model, ids, start), maxlen=1).pop() if ids.shape[1] else start


def iterate_states(
    model: LanguageModel, inputs: Tensor, state: RecurrentState
) -> Iterator[RecurrentState]:
    """Yield the state after each id, as tensors of the graph, for gradients.

    Each begin event resets the state of its lane.

    The yielded c is a separate view for the next step: the path from c to h in its own step is not
    part of the gradient of c, so that (h, c) is one vector without double counting.

    Args:
        model: with any cell.
        inputs: (lane, window) int64.
        state: before the window.
    """
    state = tuple(tuple(part.requires_grad_() for part in layer) for layer in state)
    for ids in inputs.unbind(1):
        keep = (ids != BEGIN_ID).unsqueeze(1)
        values, new_state = model.embedding(ids), []
        for layer, layer_state in zip(model.layers, state, strict=True):
            values, *c = take_step(layer, values, tuple(part * keep for part in layer_state))
            new_state.append((values, *(part.view_as(part) for part in c)))
        state = tuple(new_state)
        yield state


def take_step(layer: nn.Module, values: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Take one step of a layer of torch, and return its state.

    Args:
        layer: of any cell.
        values: (lane, features) float64.
        state: h, and c of an LSTM, (lane, hidden) float64.
    """
    weights = get_layer_weights(layer)
    if isinstance(layer, nn.LSTM):
        return torch.lstm_cell(values, state, *weights)
    if isinstance(layer, nn.GRU):
        return (torch.gru_cell(values, state[0], *weights),)
    rectified = isinstance(layer, nn.RNN) and layer.nonlinearity == "relu"
    cell = torch.rnn_relu_cell if rectified else torch.rnn_tanh_cell
    return (cell(values, state[0], *weights),)


def compute_half_lives(
    model: LanguageModel, tunes: Sequence[TokenIds], bar_ids: Collection[int] = ()
) -> HalfLives:
    """Measure the half-life of each unit, from its mean forget gate (GRU: update gate) on tunes.

    A unit keeps the share f of its c (GRU: u of its h) at each id, so half of it is left after
    log(1/2) / log(f) ids.

    Args:
        model: an LSTM or a GRU.
        tunes: (token,) int16 or int64 each.
        bar_ids: the ids that start bars.

    Raises:
        InvalidValue: the cell has no gates, or there is no tune.
    """
    if model.settings.cell not in GATED_CELLS:
        raise InvalidValue(f"cell {model.settings.cell!r} has no gate: choose lstm or gru")
    require_tunes(tunes)
    gates = np.minimum(average_gates(model, tunes), MAX_GATE_VALUE)  # (layer, unit)
    half_lives = np.sort(math.log(0.5) / np.log(np.maximum(gates, MIN_SHARE)), axis=1)
    bar_count = sum(int(np.isin(ids, list(bar_ids)).sum()) for ids in tunes)
    total = sum(len(ids) for ids in tunes)
    return HalfLives(
        model.settings.cell, tuple(half_lives), total / bar_count if bar_count else None
    )


def average_gates(model: LanguageModel, tunes: Sequence[TokenIds]) -> FloatArray:
    """Return the mean forget or update gate of each unit over all ids, (layer, unit) float64."""
    total = np.zeros((model.settings.layers, model.settings.hidden))
    for windows, is_token in run_reference_cells(model, tunes):
        for layer, layer_window in enumerate(windows):
            gates = np.stack([select_keep_gate(step) for step in layer_window.steps])
            total[layer] += gates[is_token].sum(0, dtype=np.float64)
    return total / sum(len(ids) for ids in tunes)


def run_reference_cells(
    model: LanguageModel, tunes: Sequence[TokenIds]
) -> Iterator[tuple[list[Window], BoolArray]]:
    """Run the NumPy cells, which record their gates, over whole tunes.

    Args:
        model: with any cell.
        tunes: (token,) int16 or int64 each.

    Yields:
        The layers of each window, and where its ids are not padding, (window, lane) bool.
    """
    settings, weights = model.settings, model.copy_weights()
    for _, inputs, targets in batch_whole_tunes(tunes, GATE_LANES):
        states = None
        for first_column in range(0, inputs.shape[1], GATE_WINDOW):
            columns = slice(first_column, first_column + GATE_WINDOW)
            windows = run_layers(settings, weights, inputs[:, columns].T, states)
            yield windows, targets[:, columns].T != IGNORE_INDEX
            states = tuple(window.state for window in windows)


def select_keep_gate(step: Step) -> NDArray[np.floating[Any]]:
    """Return the share of its previous state that each unit kept, (lane, hidden) float32."""
    if isinstance(step, LSTMStep):
        return step.f
    assert isinstance(step, GRUStep)
    return step.u
