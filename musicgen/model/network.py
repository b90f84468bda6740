"""The recurrent language model: embedding, recurrent layers, head.

The recurrent state is reset to zero before every tune. The first input of a tune is the begin event
(id 0), so the ids mark where tunes start: a lane of a batch may contain the end of one tune and the
start of the next, and neither affects the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.checkpoint import GATES, LAYER_WEIGHTS, Weights
from musicgen.config import BEGIN_ID, ModelSettings
from musicgen.model.devices import get_matmul_dtype, send
from musicgen.model.gru_through_time import gru_window
from musicgen.model.rnn_through_time import rnn_window
from musicgen.model.segments import Segments, cut, run_segments
from musicgen.model.through_time import lstm_window, project

RecurrentState: TypeAlias = tuple[tuple[Tensor, ...], ...]  # per layer: h, and c of an LSTM
FORGET_BIAS: Final = 1.0  # initial bias of the forget gates of an LSTM


@dataclass(frozen=True, slots=True)
class DropoutMasks:
    """Dropout masks of one window, the same at each of its steps (Gal and Ghahramani, 2016)."""

    embedding: Tensor | None  # (vocabulary, 1) float32: drops whole events
    outputs: tuple[Tensor, ...]  # per layer, (lane, hidden) float32

    def select_lanes(self, lanes: slice) -> DropoutMasks:
        """Return the masks of some of the lanes."""
        return DropoutMasks(self.embedding, tuple(mask[lanes] for mask in self.outputs))


class SequenceModelSettings(Protocol):
    """The settings of a model that a trainer reads."""

    @property
    def hidden(self) -> int:
        """Units of the widest layer."""


class SequenceModel(Protocol):
    """The interface of a trainable model: recurrent networks, and the baselines of compare."""

    @property
    def settings(self) -> SequenceModelSettings:
        """The shape of the model."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield each weight once."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield each weight once, with its name."""

    def start(self, lanes: int) -> RecurrentState:
        """Return the state before a tune; each part has its lanes first."""

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw the dropout masks of one window, for all lanes; None without dropout."""

    def __call__(
        self, ids: Tensor, state: RecurrentState | None = None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Return the logits (lane, window, vocabulary), and the state after the last id."""

    def copy_weights(self) -> Weights:
        """Copy the weights, as float32 arrays by name."""

    def load_weights(self, arrays: Weights) -> None:
        """Replace the weights."""


class SerializableModule(nn.Module):
    """A module whose weights can be copied to and loaded from arrays."""

    def copy_weights(self) -> Weights:
        """Copy the weights, as float32 arrays by name, for a checkpoint."""
        return {
            name: weight.detach().to("cpu", torch.float32).numpy().copy()
            for name, weight in self.named_parameters()
        }

    @torch.no_grad()
    def load_weights(self, arrays: Weights) -> None:
        """Replace the weights; `arrays` must have the names and shapes of this model."""
        for name, weight in self.named_parameters():
            weight.copy_(torch.from_numpy(np.asarray(arrays[name], np.float32)))


class LanguageModel(SerializableModule):
    """Predicts logits for the next id from the ids so far."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        size, hidden = settings.embedding, settings.hidden
        self.embedding = nn.Embedding(settings.vocabulary_size, size)
        self.layers = nn.ModuleList(
            make_recurrent_layer(settings.cell, hidden if layer else size, hidden)
            for layer in range(settings.layers)
        )
        needs_projection = settings.tied and size != hidden
        self.narrow = nn.Linear(hidden, size, bias=False) if needs_projection else None
        self.head = nn.Linear(size if settings.tied else hidden, settings.vocabulary_size)
        if settings.tied:
            self.head.weight = self.embedding.weight
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise the weights."""
        for layer in self.layers:
            for name, weight in layer.named_parameters():
                reset_parameter(self.settings.cell, name, weight, generator)
        nn.init.normal_(self.embedding.weight, 0, self.settings.embedding**-0.5, generator)
        for linear in (self.head, self.narrow):
            if linear is not None and linear.weight is not self.embedding.weight:
                nn.init.normal_(linear.weight, 0, linear.in_features**-0.5, generator)
        nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.head.bias.device

    def start(self, lanes: int) -> RecurrentState:
        """Return the zero state, before a tune."""
        zero = self.head.bias.new_zeros(lanes, self.settings.hidden)
        parts = 2 if self.settings.cell == "lstm" else 1
        return tuple((zero,) * parts for _ in self.layers)

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw the dropout masks of one window; None if the settings have no dropout."""
        settings = self.settings
        if not (settings.dropout or settings.embedding_dropout):
            return None
        like = self.head.bias.new_empty(lanes, settings.hidden)
        return DropoutMasks(
            draw_dropout_mask(self.embedding.weight[:, :1], settings.embedding_dropout, generator),
            tuple(draw_dropout_mask(like, settings.dropout, generator) for _ in self.layers),
        )

    def forward(
        self, ids: Tensor, state: RecurrentState | None = None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Run the model over a window.

        Args:
            ids: (lane, window) int64, preferably on the CPU, so that finding where tunes start does
                not wait for a GPU. The state is reset before each begin event.
            state: returned for the previous window; None is zero.
            masks: from `draw_masks` in training; None disables dropout.

        Returns:
            The logits (lane, window, vocabulary) float32, or bfloat16 under autocast, and the state
            after the last id.
        """
        outputs, state = self.run_layers(ids, state or self.start(len(ids)), masks)
        return self.compute_logits(outputs.transpose(1, 2)).transpose(0, 1), state

    def run_layers(
        self, ids: Tensor, state: RecurrentState, masks: DropoutMasks | None
    ) -> tuple[Tensor, RecurrentState]:
        """Run the recurrent layers over a window.

        Args:
            ids: (lane, window) int64.
            state: before the window.
            masks: None disables dropout.

        Returns:
            The outputs of the last layer, (window, hidden, lane) float32, and the new state.
        """
        uses_loop = self.uses_custom_loop()
        cuts = None if uses_loop else cut(ids.cpu()).to(self.device)
        values = send(ids, self.device).t()
        starts = values == BEGIN_ID
        compact = uses_loop and self.device.type == "cpu"
        table, values = self.look_up_embeddings(values, masks.embedding if masks else None, compact)
        new_state: list[tuple[Tensor, ...]] = []
        for number, layer in enumerate(self.layers):
            if cuts is None:
                run = CUSTOM_LOOPS[self.settings.cell]
                values, last = run(layer, values, table, state[number], starts)
            else:
                values, last = run_torch_layer(layer, values, table, state[number], cuts)
            new_state.append(last)
            if masks is not None:
                values = values * masks.outputs[number].t().contiguous()
        return values, tuple(new_state)

    def look_up_embeddings(
        self, ids: Tensor, mask: Tensor | None, compact: bool
    ) -> tuple[Tensor, Tensor]:
        """Return an embedding table and the row of each id in it.

        Args:
            ids: (...) int64, any shape.
            mask: (vocabulary, 1) float32, multiplied with the rows; None is 1.
            compact: limit the table to the rows of the ids.

        Returns:
            The table (rows, embedding) float32, and the rows of the ids (...) int64.
        """
        table = self.embedding.weight
        if compact:  # a window contains few events of the vocabulary
            used_ids, ids = torch.unique(ids, return_inverse=True)
            table = functional.embedding(used_ids, table)
            mask = None if mask is None else mask[used_ids]
        return table if mask is None else table * mask, ids

    def uses_custom_loop(self) -> bool:
        """Tell whether the loops of this package run, which are faster than torch's on a CPU."""
        if self.settings.cell == "lstm":
            return self.device.type != "cuda"
        return self.device.type == "cpu"

    def compute_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits of outputs of the last layer, (..., hidden) float32."""
        return self.head(outputs if self.narrow is None else self.narrow(outputs))  # type: ignore[no-any-return]


def detach(state: RecurrentState) -> RecurrentState:
    """Detach a state from the graph, so that no gradient passes through it."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def draw_dropout_mask(like: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Draw a dropout mask: 0 with the probability `dropout`, otherwise 1 / (1 - dropout).

    Args:
        like: (...) float32, with the shape, dtype and device of the mask.
        dropout: 0 to below 1.
        generator: on the CPU.
    """
    mask = torch.empty(like.shape, dtype=like.dtype)  # drawn on the CPU: equal for all devices
    return send(mask.bernoulli_(1 - dropout, generator=generator).div_(1 - dropout), like.device)


def make_recurrent_layer(cell: str, inputs: int, hidden: int) -> nn.RNNBase:
    """Make a recurrent layer of torch."""
    if cell == "lstm":
        return nn.LSTM(inputs, hidden)
    if cell == "gru":
        return nn.GRU(inputs, hidden)
    return nn.RNN(inputs, hidden, nonlinearity="relu" if cell == "irnn" else "tanh")


def reset_parameter(
    cell: str, name: str, weight: Tensor, generator: torch.Generator | None
) -> None:
    """Initialise one weight of a recurrent layer, in place.

    Matrices are uniform in +-1 / sqrt(hidden), or the identity for the recurrent matrix of an irnn
    (Le, Jaitly and Hinton, 2015). Biases are 0, and FORGET_BIAS for the forget gate of an LSTM.

    Args:
        cell: the type of the layer.
        name: one of LAYER_WEIGHTS.
        weight: (gates x hidden, inputs) or (gates x hidden,) float32.
        generator: on the CPU.
    """
    hidden = weight.shape[0] // GATES[cell]
    if name.startswith("bias"):
        nn.init.zeros_(weight)
        if cell == "lstm" and name.startswith("bias_ih"):
            weight[hidden : 2 * hidden] = FORGET_BIAS
    elif cell == "irnn" and name.startswith("weight_hh"):
        nn.init.eye_(weight)
    else:
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(weight, -bound, bound, generator)


def project_inputs(
    values: Tensor, table: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return W x + b for each step; each event is projected once, not once per occurrence.

    Args:
        values: (window, lane) int64 rows of the table, or (window, features, lane) float32.
        table: (rows, embedding) float32.
        weight: (gates x hidden, features) float32.
        bias: (gates x hidden,) float32.
        dtype: of the matrix products.

    Returns:
        (window, gates x hidden, lane) float32.
    """
    if values.dim() > 2:
        return project(values, weight.to(dtype), bias)
    rows = functional.linear(table, weight, bias)
    return functional.embedding(values, rows).transpose(1, 2).contiguous()


def get_layer_weights(layer: nn.Module) -> list[nn.Parameter]:
    """Return the input and recurrent matrices and biases of a layer, in the order LAYER_WEIGHTS."""
    return [layer.get_parameter(name) for name in LAYER_WEIGHTS]


def run_lstm_layer(
    layer: nn.Module, values: Tensor, table: Tensor, state: tuple[Tensor, ...], starts: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run an LSTM layer over a window, and reset its state where tunes start.

    Args:
        layer: an LSTM of torch.
        values: (window, lane) int64 rows of the table, or (window, features, lane) float32.
        table: (rows, embedding) float32.
        state: h and c before the window, (lane, hidden) float32.
        starts: (window, lane) bool.

    Returns:
        The outputs (window, hidden, lane) float32, and the state after the window.
    """
    dtype = get_matmul_dtype(table)
    weight_in, weight, bias_in, bias_hidden = get_layer_weights(layer)
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias_in + bias_hidden, dtype)
        h, c = (part.t().contiguous() for part in state)
        outputs, last = lstm_window(projected, weight.to(dtype), (h, c), starts)
    return outputs, tuple(part.t() for part in last)


def run_gru_layer(
    layer: nn.Module, values: Tensor, table: Tensor, state: tuple[Tensor, ...], starts: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a GRU layer over a window: see `run_lstm_layer` (window, hidden, lane) float32."""
    dtype = get_matmul_dtype(table)
    weight_in, weight, bias_in, bias_hidden = get_layer_weights(layer)
    gate_rows = 2 * weight.shape[1]  # the bias of the other rows is inside the reset gate
    bias = bias_in + functional.pad(bias_hidden[:gate_rows], (0, gate_rows // 2))
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias, dtype)
        h = state[0].t().contiguous()
        outputs, last = gru_window(projected, weight.to(dtype), bias_hidden[gate_rows:], h, starts)
    return outputs, (last.t(),)


def run_rnn_layer(
    layer: nn.Module, values: Tensor, table: Tensor, state: tuple[Tensor, ...], starts: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a plain RNN layer over a window: see `run_lstm_layer` (window, hidden, lane) float32."""
    dtype = get_matmul_dtype(table)
    weight_in, weight, bias_in, bias_hidden = get_layer_weights(layer)
    assert isinstance(layer, nn.RNN)
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias_in + bias_hidden, dtype)
        h, relu = state[0].t().contiguous(), layer.nonlinearity == "relu"
        outputs, last = rnn_window(projected, weight.to(dtype), h, starts, relu)
    return outputs, (last.t(),)


CUSTOM_LOOPS: Final = {
    "lstm": run_lstm_layer,
    "gru": run_gru_layer,
    "rnn": run_rnn_layer,
    "irnn": run_rnn_layer,
}


def run_torch_layer(
    layer: nn.Module, values: Tensor, table: Tensor, state: tuple[Tensor, ...], segments: Segments
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the layer of torch over a window: see `run_lstm_layer` (window, hidden, lane) float32."""
    is_first_layer = values.dim() == 2
    inputs = functional.embedding(values, table) if is_first_layer else values.transpose(1, 2)
    outputs, new_state = run_segments(layer, inputs, state, segments)
    return outputs.transpose(1, 2), new_state
