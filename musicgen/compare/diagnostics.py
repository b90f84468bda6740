"""Look inside a recurrent network: how far an error reaches back, and what is kept for how long.

`gradient_by_distance` is the picture of the vanishing gradient, `gradient_norms` that of the
exploding one, `half_lives` that of what a gate does about both, `spectra` the matrices behind them.

The loss at one id is a function of everything fed before it. Its gradient by the state that the
network was in k ids earlier says how much a small change of that state would have mattered:

    dloss_t / dh_{t-k} = J'_{t-k+1} ... J'_t dloss_t / dh_t      with J_s = dh_s / dh_{s-1}

so k factors, each with the recurrent matrix in it (Bengio, Simard and Frasconi, 1994). It is
computed exactly, in float64: after 200 ids a plain cell's is far below what float32 can hold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID, TrainingSettings
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel, RecurrentState
from musicgen.sampling.reference_cells import GRUStep, LSTMStep, Step, Window, run_layers
from musicgen.training.batches import IGNORE_INDEX, batch_whole_tunes, shift_right
from musicgen.training.trainer import Diverged, Trainer

MIN_SHARE = 1e-30  # a smaller share counts as this: the mean of logarithms knows no zero
DECAY_QUANTILES = (0.1, 0.9)
MAX_GATE_VALUE = 1 - 2**-24  # the largest float32 below 1: a gate that says more cannot be told
GATE_LANES, GATE_WINDOW = 32, 64
LAYER_PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
GATE_BLOCKS = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "u", "n")}  # in torch's order
SINGLE_BLOCK = ""  # the name of the one block of other cells
PREFIX_WINDOW = 64


@dataclass(frozen=True, slots=True)
class GradientDecay:
    """What is left of a gradient some ids back, as a share of what it was at distance 0."""

    cell: str
    distances: np.ndarray  # (distance,) ids back: 0, 1, 2 ...
    mean: np.ndarray  # (layer, distance) geometric mean over positions
    low: np.ndarray  # (layer, distance) a tenth of the positions are below
    high: np.ndarray  # (layer, distance) a tenth are above

    def first_distance_below(self, share: float = 0.01, layer: int = -1) -> int | None:
        """Return how many ids back the mean first falls below a share; None if it never does."""
        below = np.flatnonzero(self.mean[layer] < share)
        return int(self.distances[below[0]]) if len(below) else None


@dataclass(frozen=True, slots=True)
class HalfLives:
    """How long the units of a gated cell keep half of what they hold."""

    cell: str
    ids: tuple[np.ndarray, ...]  # for each layer (unit,) ids, ascending
    ids_per_bar: float | None  # None where no tune has bars

    @property
    def bars(self) -> tuple[np.ndarray, ...]:
        """Return, for each layer, the half-lives in bars, ascending."""
        if self.ids_per_bar is None:
            raise InvalidValue("these tunes have no bars: ask for the half-lives in ids")
        return tuple(ids / self.ids_per_bar for ids in self.ids)


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """The gradient's norm, before clipping, at each update of the same run done twice."""

    clip: float  # the threshold of the run that clips
    clipped: np.ndarray  # (update,) with clipping
    unclipped: np.ndarray  # (update,) without; it ends early, with inf, where the run diverged


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What one square block of a recurrent matrix does to a vector that goes through it again."""

    layer: int
    block: str  # the gate's letter; "" where there is one block
    radius: float  # largest absolute eigenvalue: the factor a step, after many
    spectral_norm: float  # largest singular value: the largest factor of one step


def compute_gradient_decay(
    model: LanguageModel,
    tunes: Sequence[np.ndarray],
    generator: np.random.Generator,
    *,
    max_distance: int = 200,
    positions: int = 64,
    hidden_only: bool = False,
) -> GradientDecay:
    """Measure the gradient of the loss at one id by the state of each layer k ids before.

    Of an LSTM both parts of the state count, as one vector (h, c): what the past says to the
    future goes through both. What the layer above reads from h counts too. No other cell has a c.

    Args:
        model: any cell; no dropout is used, and its weights and gradients stay as they are.
        tunes: from which positions are drawn; none is nearer to its start than the distances reach.
        generator: draws the positions.
        max_distance: the largest k; less where no tune is that long.
        positions: how many losses are followed back.
        hidden_only: of an LSTM's state, h alone.
    """
    require_tunes(tunes)
    reach = min(max_distance, max(len(ids) for ids in tunes) - 1)
    chosen = draw_positions([len(ids) for ids in tunes], reach, positions, generator)
    exact = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False)
    inputs = pad_left([shift_right(tunes[tune])[: last + 1] for tune, last in chosen])
    targets = torch.tensor([int(tunes[tune][last]) for tune, last in chosen])
    norms = compute_state_gradient_norms(exact, inputs, targets, reach, 1 if hidden_only else 2)
    shares = np.maximum(norms / np.maximum(norms[:, :1], MIN_SHARE), MIN_SHARE)
    low, high = np.quantile(shares, DECAY_QUANTILES, axis=2)
    mean = np.exp(np.log(shares).mean(2))
    return GradientDecay(model.settings.cell, np.arange(reach + 1), mean, low, high)


def require_tunes(tunes: Sequence[np.ndarray]) -> None:
    """Refuse a list of tunes without a tune."""
    if not tunes:
        raise InvalidValue("no tune was given to look into the network with: give one at least")


def draw_positions(
    lengths: Sequence[int], earliest: int, count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw different (tune, index of an id), the ids at `earliest` or later all alike likely."""
    ends = np.cumsum(np.maximum(np.array(lengths) - earliest, 0))
    chosen = generator.choice(ends[-1], min(count, int(ends[-1])), replace=False)
    tunes = np.searchsorted(ends, chosen, side="right")
    return [
        (int(tune), lengths[tune] - int(ends[tune] - at))
        for tune, at in zip(tunes, chosen, strict=True)
    ]


def pad_left(rows: Sequence[np.ndarray]) -> Tensor:
    """Lay ids out so that their ends meet, (lane, window); a begin event more does no harm."""
    length = max(len(row) for row in rows)
    padded = [np.concatenate([np.full(length - len(row), BEGIN_ID), row]) for row in rows]
    return torch.from_numpy(np.stack(padded).astype(np.int64))


def compute_state_gradient_norms(
    model: LanguageModel, inputs: Tensor, targets: Tensor, max_distance: int, state_parts: int
) -> np.ndarray:
    """Return the norms (layer, distance, lane) of the last loss's gradients by the states."""
    state = compute_state(model, inputs[:, : -max_distance - 1])
    visited = list(iterate_states(model, inputs[:, -max_distance - 1 :], state))
    loss = functional.cross_entropy(
        model.compute_logits(visited[-1][-1][0]), targets, reduction="sum"
    )
    wanted = [part for states in visited for layer in states for part in layer[:state_parts]]
    found = torch.autograd.grad(loss, wanted, materialize_grads=True)
    squares = torch.stack([gradient.square().sum(1) for gradient in found])
    shape = max_distance + 1, len(model.layers), -1, len(targets)  # (distance, layer, part, lane)
    norms: np.ndarray = squares.detach().view(shape).flip(0).sum(2).sqrt().transpose(0, 1).numpy()
    return norms


@torch.no_grad()
def compute_state(model: LanguageModel, ids: Tensor) -> RecurrentState:
    """Return the state after ids (lane, window), in windows that bound the memory."""
    state = model.start(len(ids))
    for window in ids.split(PREFIX_WINDOW, 1) if ids.shape[1] else ():  # type: ignore[no-untyped-call]
        _, state = model(window, state)
    return state


def iterate_states(
    model: LanguageModel, inputs: Tensor, state: RecurrentState
) -> Iterator[RecurrentState]:
    """Yield the state after each id, as tensors that gradients can be asked of.

    What is yielded of c is what the next step gets; what h takes from c in its own step does not
    count as c's, so that (h, c) is one vector of which each part says only its own.
    """
    state = tuple(tuple(part.requires_grad_() for part in layer) for layer in state)
    for ids in inputs.unbind(1):
        kept = (ids != BEGIN_ID).unsqueeze(1)
        values, after = model.embedding(ids), []
        for layer, before in zip(model.layers, state, strict=True):
            values, *c = take_step(layer, values, tuple(part * kept for part in before))
            after.append((values, *(part.view_as(part) for part in c)))
        state = tuple(after)
        yield state


def take_step(layer: nn.Module, values: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Take one step of one of torch's layers: features (lane, features) in, its state out."""
    weights = [layer.get_parameter(name) for name in LAYER_PARAMETERS]
    if isinstance(layer, nn.LSTM):
        return torch.lstm_cell(values, state, *weights)
    if isinstance(layer, nn.GRU):
        return (torch.gru_cell(values, state[0], *weights),)
    rectified = isinstance(layer, nn.RNN) and layer.nonlinearity == "relu"
    cell = torch.rnn_relu_cell if rectified else torch.rnn_tanh_cell
    return (cell(values, state[0], *weights),)


def compute_half_lives(
    model: LanguageModel, tunes: Sequence[np.ndarray], bar_ids: Collection[int] = ()
) -> HalfLives:
    """Measure how long each unit remembers, from its forget gate (GRU: update gate) on tunes.

    A unit keeps the share f of its c (GRU: u of its h) at each id; with f's mean over the tunes,
    half of it is left after log(1/2) / log(f) ids.

    Args:
        model: an LSTM or a GRU; a cell without such a gate is refused (InvalidValue).
        tunes: ids of held-out tunes.
        bar_ids: the ids that start bars.
    """
    if model.settings.cell not in GATE_BLOCKS:
        raise InvalidValue(f"cell {model.settings.cell!r} has no gate: choose lstm or gru")
    require_tunes(tunes)
    kept = np.minimum(average_gates(model, tunes), MAX_GATE_VALUE)  # (layer, unit)
    found = np.sort(math.log(0.5) / np.log(np.maximum(kept, MIN_SHARE)), axis=1)
    bars = sum(int(np.isin(ids, list(bar_ids)).sum()) for ids in tunes)
    total = sum(len(ids) for ids in tunes)
    return HalfLives(model.settings.cell, tuple(found), total / bars if bars else None)


def average_gates(model: LanguageModel, tunes: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of each unit's keeping gate over all ids of the tunes, (layer, unit)."""
    total = np.zeros((model.settings.layers, model.settings.hidden))
    for windows, real in run_reference_cells(model, tunes):
        for layer, window in enumerate(windows):
            gates = np.stack([select_keep_gate(taken) for taken in window.steps])
            total[layer] += gates[real].sum(0, dtype=np.float64)
    return total / sum(len(ids) for ids in tunes)


def run_reference_cells(
    model: LanguageModel, tunes: Sequence[np.ndarray]
) -> Iterator[tuple[list[Window], np.ndarray]]:
    """Run the NumPy cells, which keep their gates, over whole tunes.

    Yields each window's layers, and which of its (window, lane) are ids and no padding.
    """
    settings, weights = model.settings, model.copy_weights()
    for _, inputs, targets in batch_whole_tunes(tunes, GATE_LANES):
        states = None
        for begin in range(0, inputs.shape[1], GATE_WINDOW):
            cut = slice(begin, begin + GATE_WINDOW)
            windows = run_layers(settings, weights, inputs[:, cut].T, states)
            yield windows, targets[:, cut].T != IGNORE_INDEX
            states = tuple(window.state for window in windows)


def select_keep_gate(step: Step) -> np.ndarray:
    """Return the share of the state before that each unit kept, (lane, hidden)."""
    if isinstance(step, LSTMStep):
        return step.f
    assert isinstance(step, GRUStep)
    return step.u


def measure_gradient_norms(
    make_model: Callable[[], LanguageModel],
    tunes: Sequence[np.ndarray],
    settings: TrainingSettings,
    updates: int = 200,
) -> GradientNorms:
    """Train twice from the same start for some updates, with clipping at settings.clip and without.

    Args:
        make_model: makes the same untrained model each time.
        tunes: the training part.
        settings: of both runs, but for the clipping.
        updates: how many.
    """
    free = replace(settings, clip=math.inf)
    clipped, unclipped = (
        np.array(list(iterate_gradient_norms(Trainer(make_model(), tunes, [], each), updates)))
        for each in (settings, free)
    )
    return GradientNorms(settings.clip, clipped, unclipped)


def iterate_gradient_norms(trainer: Trainer, updates: int) -> Iterator[float]:
    """Yield the gradient's norm at each update; inf, and no more, where the run diverges."""
    try:
        for _ in range(updates):
            yield trainer.train_on_window(trainer.next_window()).gradient_norm
    except Diverged:
        yield math.inf


def spectra(model: LanguageModel) -> list[Spectrum]:
    """Return what each block of each layer's recurrent matrix does."""
    settings, weights = model.settings, model.copy_weights()
    square = -1, settings.hidden, settings.hidden
    return [
        Spectrum(layer, name, spectral_radius(block), float(np.linalg.norm(block, 2)))
        for layer in range(settings.layers)
        for name, block in zip(
            GATE_BLOCKS.get(settings.cell, (SINGLE_BLOCK,)),
            weights[f"layers.{layer}.weight_hh_l0"].reshape(square),
            strict=True,
        )
    ]


def spectral_radius(matrix: np.ndarray) -> float:
    """Return the largest absolute eigenvalue."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())
