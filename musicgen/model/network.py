"""The recurrent language model: embedding, recurrent layers, head.

The recurrent state is zero before every tune. A tune's first input is the begin event (id 0), so
the ids themselves say where: one lane of a batch may hold the end of a tune and the start of the
next, and neither sees the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID, ModelSettings
from musicgen.model.devices import get_matmul_dtype, send
from musicgen.model.gru_through_time import gru_window
from musicgen.model.rnn_through_time import rnn_window
from musicgen.model.segments import Segments, cut, run_segments
from musicgen.model.through_time import lstm_window, project

RecurrentState = tuple[
    tuple[Tensor, ...], ...
]  # for each layer: h, and c for an LSTM, (lane, hidden)
FORGET_BIAS = 1.0


@dataclass(frozen=True, slots=True)
class DropoutMasks:
    """What dropout leaves of one window: the same units at each of its steps (Gal, 2016)."""

    embedding: Tensor | None  # (vocabulary, 1): whole events
    outputs: tuple[Tensor, ...]  # for each layer (lane, hidden)
    recurrent: tuple[Tensor, ...]  # for each layer like its recurrent weights; or none

    def select_lanes(self, lanes: slice) -> DropoutMasks:
        """Return what belongs to some of the lanes."""
        return DropoutMasks(
            self.embedding, tuple(mask[lanes] for mask in self.outputs), self.recurrent
        )


class SequenceModelSettings(Protocol):
    """What a trainer asks of a model's settings."""

    @property
    def hidden(self) -> int:
        """The width of the model's widest layer."""


class SequenceModel(Protocol):
    """A model that a trainer trains: recurrent networks, and the rungs of the ladder below."""

    @property
    def settings(self) -> SequenceModelSettings:
        """The model's shape."""

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Go through the weights, each once."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Go through the weights and their names, each once."""

    def start(self, lanes: int) -> RecurrentState:
        """Return the state before a tune, lane first in each part."""

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw what dropout leaves for one window, for all lanes; None drops nothing."""

    def __call__(
        self, ids: Tensor, state: RecurrentState | None = None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Return logits (lane, window, vocabulary) and the state after the last id."""

    def copy_weights(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights, as float32 arrays."""

    def load_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Take weights."""


class SerializableModule(nn.Module):
    """A module whose weights go out, and come back, as arrays."""

    def copy_weights(self) -> dict[str, np.ndarray]:
        """Return a copy of the weights, as float32 arrays, for a checkpoint."""
        return {
            name: weight.detach().to("cpu", torch.float32).numpy().copy()
            for name, weight in self.named_parameters()
        }

    @torch.no_grad()
    def load_weights(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the weights of `arrays`; the names must be the model's own."""
        for name, weight in self.named_parameters():
            weight.copy_(torch.from_numpy(np.asarray(arrays[name], np.float32)))


class LanguageModel(SerializableModule):
    """Logits for the next id, from the ids so far."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.settings = settings
        size, hidden = settings.embedding, settings.hidden
        self.embedding = nn.Embedding(settings.vocabulary_size, size)
        self.layers = nn.ModuleList(
            make_recurrent_layer(settings.cell, hidden if layer else size, hidden)
            for layer in range(settings.layers)
        )
        narrowed = settings.tied and size != hidden
        self.narrow = nn.Linear(hidden, size, bias=False) if narrowed else None
        self.head = nn.Linear(size if settings.tied else hidden, settings.vocabulary_size)
        if settings.tied:
            self.head.weight = self.embedding.weight
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the first weights."""
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
        """Where the model is computed."""
        return self.head.bias.device

    def start(self, lanes: int) -> RecurrentState:
        """Return the state before a tune: zero."""
        zero = self.head.bias.new_zeros(lanes, self.settings.hidden)
        parts = 2 if self.settings.cell == "lstm" else 1
        return tuple((zero,) * parts for _ in self.layers)

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw what dropout leaves for one window; None where the settings have no dropout."""
        settings = self.settings
        if not (settings.dropout or settings.embedding_dropout or settings.weight_dropout):
            return None
        unit = self.head.bias.new_empty(lanes, settings.hidden)
        return DropoutMasks(
            draw_dropout_mask(self.embedding.weight[:, :1], settings.embedding_dropout, generator),
            tuple(draw_dropout_mask(unit, settings.dropout, generator) for _ in self.layers),
            tuple(
                draw_dropout_mask(
                    layer.get_parameter("weight_hh_l0"), settings.weight_dropout, generator
                )
                for layer in self.layers
                if settings.weight_dropout
            ),
        )

    def forward(
        self, ids: Tensor, state: RecurrentState | None = None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Return logits (lane, window, vocabulary) and the state after the last id.

        Args:
            ids: (lane, window) int64, best on the CPU: where tunes start is then known without
                waiting for a GPU. The state is zero before each begin event.
            state: what the window before returned; None is zero.
            masks: from `draw_masks` in training; None drops nothing.
        """
        outputs, state = self.run_layers(ids, state or self.start(len(ids)), masks)
        return self.compute_logits(outputs.transpose(1, 2)).transpose(0, 1), state

    def run_layers(
        self, ids: Tensor, state: RecurrentState, masks: DropoutMasks | None
    ) -> tuple[Tensor, RecurrentState]:
        """Return what the last layer says, (window, hidden, lane), from ids (lane, window)."""
        own = self.uses_custom_loop(masks)
        cuts = None if own else cut(ids.cpu()).to(self.device)
        values = send(ids, self.device).t()
        starts = values == BEGIN_ID
        compact = own and self.device.type == "cpu"
        table, values = self.look_up_embeddings(values, masks.embedding if masks else None, compact)
        after: list[tuple[Tensor, ...]] = []
        for number, layer in enumerate(self.layers):
            recurrent = masks.recurrent[number] if masks and masks.recurrent else None
            if cuts is None:
                run = CUSTOM_LOOPS[self.settings.cell]
                values, last = run(layer, values, table, state[number], starts, recurrent)
            else:
                values, last = run_torch_layer(layer, values, table, state[number], cuts)
            after.append(last)
            if masks is not None:
                values = values * masks.outputs[number].t().contiguous()
        return values, tuple(after)

    def look_up_embeddings(
        self, ids: Tensor, mask: Tensor | None, compact: bool
    ) -> tuple[Tensor, Tensor]:
        """Return a table (rows, embedding), and the row of each id, in the ids' own shape.

        A compact table has no other rows than those of the ids. `mask` is (vocabulary, 1).
        """
        table = self.embedding.weight
        if compact:  # a window holds few of the vocabulary's events
            found, ids = torch.unique(ids, return_inverse=True)
            table = functional.embedding(found, table)
            mask = None if mask is None else mask[found]
        return table if mask is None else table * mask, ids

    def uses_custom_loop(self, masks: DropoutMasks | None) -> bool:
        """Tell whether the loop written out here runs: it is the faster one, but on CUDA.

        Dropout of the recurrent weights is for an LSTM only, and needs it everywhere.
        """
        masked = masks is not None and bool(masks.recurrent)
        if self.settings.cell == "lstm":
            return masked or self.device.type != "cuda"
        return self.device.type == "cpu"

    def compute_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits from what the last layer says."""
        return self.head(outputs if self.narrow is None else self.narrow(outputs))  # type: ignore[no-any-return]


def detach(state: RecurrentState) -> RecurrentState:
    """Return the state with its gradient cut."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def draw_dropout_mask(like: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Draw a mask: 0 with the probability `dropout`, else what keeps the mean."""
    mask = torch.empty(like.shape, dtype=like.dtype)  # drawn on the CPU: the same on each device
    return send(mask.bernoulli_(1 - dropout, generator=generator).div_(1 - dropout), like.device)


def make_recurrent_layer(cell: str, inputs: int, hidden: int) -> nn.RNNBase:
    """Make one recurrent layer of torch's."""
    if cell == "lstm":
        return nn.LSTM(inputs, hidden)
    if cell == "gru":
        return nn.GRU(inputs, hidden)
    return nn.RNN(inputs, hidden, nonlinearity="relu" if cell == "irnn" else "tanh")


def reset_parameter(
    cell: str, name: str, weight: Tensor, generator: torch.Generator | None
) -> None:
    """Draw one parameter of a recurrent layer: uniform; biases 0, but for the forget gate."""
    hidden = weight.shape[0] // {"lstm": 4, "gru": 3}.get(cell, 1)
    if name.startswith("bias"):
        nn.init.zeros_(weight)
        if cell == "lstm" and name.startswith("bias_ih"):
            weight[hidden : 2 * hidden] = FORGET_BIAS
    elif cell == "irnn" and name.startswith("weight_hh"):
        nn.init.eye_(weight)  # Le, Jaitly and Hinton, 2015
    else:
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(weight, -bound, bound, generator)


def project_inputs(
    values: Tensor, table: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the input's part of each step, (window, rows, lane), of rows or of a layer's outputs.

    Each event is projected once, not each time that it occurs.
    """
    if values.dim() > 2:
        return project(values, weight.to(dtype), bias)
    rows = functional.linear(table, weight, bias)
    return functional.embedding(values, rows).transpose(1, 2).contiguous()


def run_lstm_layer(
    layer: nn.Module,
    values: Tensor,  # (window, lane): rows of the table; or (window, hidden, lane)
    table: Tensor,  # (rows, embedding)
    state: tuple[Tensor, ...],
    starts: Tensor,  # (window, lane), bool
    recurrent_mask: Tensor | None,  # what is kept of the recurrent weights
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run an LSTM layer over a window, to (window, hidden, lane); zero its state at each start."""
    kind = get_matmul_dtype(table)
    weight_in, weight = (layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0"))
    bias = layer.get_parameter("bias_ih_l0") + layer.get_parameter("bias_hh_l0")
    kept = (weight if recurrent_mask is None else weight * recurrent_mask).to(kind)
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias, kind)
        h, c = (part.t().contiguous() for part in state)
        outputs, last = lstm_window(projected, kept, (h, c), starts)
    return outputs, tuple(part.t() for part in last)


def run_gru_layer(
    layer: nn.Module,
    values: Tensor,  # (window, lane): rows of the table; or (window, hidden, lane)
    table: Tensor,  # (rows, embedding)
    state: tuple[Tensor, ...],
    starts: Tensor,  # (window, lane), bool
    _: Tensor | None,  # no recurrent weights are dropped
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a GRU layer over a window, with the shapes of `run_lstm`."""
    kind = get_matmul_dtype(table)
    weight_in, weight = (layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0"))
    own = layer.get_parameter("bias_hh_l0")
    inside = 2 * weight.shape[1]  # what follows stands inside the reset gate
    bias = layer.get_parameter("bias_ih_l0") + functional.pad(own[:inside], (0, inside // 2))
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias, kind)
        before = state[0].t().contiguous()
        outputs, last = gru_window(projected, weight.to(kind), own[inside:], before, starts)
    return outputs, (last.t(),)


def run_rnn_layer(
    layer: nn.Module,
    values: Tensor,  # (window, lane): rows of the table; or (window, hidden, lane)
    table: Tensor,  # (rows, embedding)
    state: tuple[Tensor, ...],
    starts: Tensor,  # (window, lane), bool
    _: Tensor | None,  # no recurrent weights are dropped
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a plain layer over a window, with the shapes of `run_lstm`."""
    kind = get_matmul_dtype(table)
    weight_in, weight = (layer.get_parameter(name) for name in ("weight_ih_l0", "weight_hh_l0"))
    bias = layer.get_parameter("bias_ih_l0") + layer.get_parameter("bias_hh_l0")
    assert isinstance(layer, nn.RNN)
    with torch.autocast(table.device.type, enabled=False):
        projected = project_inputs(values, table, weight_in, bias, kind)
        before, relu = state[0].t().contiguous(), layer.nonlinearity == "relu"
        outputs, last = rnn_window(projected, weight.to(kind), before, starts, relu)
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
    """Run one of torch's own layers over a window, with the shapes of `run_lstm`."""
    first = values.dim() == 2
    inputs = functional.embedding(values, table) if first else values.transpose(1, 2)
    outputs, after = run_segments(layer, inputs, state, segments)
    return outputs.transpose(1, 2), after
