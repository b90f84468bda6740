"""The recurrent language model: embedding, recurrent layers, head.

A window never contains the end of one tune and the start of the next in the same lane (see
`training.batches`), so torch's own layers run it in one call. `reset_lanes` sets the state of the
lanes whose tune starts to zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from musicgen.checkpoint import GATES, LAYER_WEIGHTS, Weights
from musicgen.config import CONTEXT_WIDTHS, MOTION_OFFSETS, MULTI_HOT_FIELDS, ModelSettings
from musicgen.model.devices import limit_recurrent_precision, send
from musicgen.tokens.context_families import count_field_values, find_columns
from musicgen.tokens.frames import PITCH

RecurrentState: TypeAlias = tuple[tuple[Tensor, ...], ...]  # per layer: h, and c of an LSTM
RECURRENT_WEIGHT: Final = "weight_hh_l0"  # of a recurrent layer of torch
LOOK_BACK_PREFIXES: Final = (  # of the fields of context dropout
    "lag", "match", "echo", "alike",
    "ago500", "ago1000", "ago2000", "ago4000", "repeat", "motif", "apart", "run",
)  # fmt: skip
FORGET_BIAS: Final = 1.0  # initial bias of the forget gates of an LSTM


@dataclass(frozen=True, slots=True)
class DropoutMasks:
    """Dropout masks of one window, the same at each of its steps.

    Sources: Gal and Ghahramani, "Dropout in recurrent neural networks", 2016; for the recurrent
    weights, Merity, Keskar and Socher, "Regularizing and optimizing LSTM language models", 2018.
    """

    embedding: Tensor | None  # (vocabulary, 1) float32: drops whole events
    outputs: tuple[Tensor, ...]  # per layer, (lane, hidden) float32
    recurrent: tuple[Tensor, ...] = ()  # per layer, (gates x hidden, hidden) float32
    context: Mapping[str, Tensor] = field(default_factory=dict)  # by field, (value, 1) float32
    inputs: Tensor | None = None  # (lane, input) float32

    def select_lanes(self, lanes: slice) -> DropoutMasks:
        """Return the masks of some of the lanes."""
        inputs = None if self.inputs is None else self.inputs[lanes]
        return replace(self, outputs=tuple(mask[lanes] for mask in self.outputs), inputs=inputs)


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
        """Return the state before a tune, all zeros; each part has its lanes first."""

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw the dropout masks of one window, for all lanes; None without dropout."""

    def __call__(
        self,
        ids: Tensor,
        state: RecurrentState | None = None,
        masks: DropoutMasks | None = None,
        context: Tensor | None = None,
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
        self.context = nn.ModuleDict(
            {
                name: nn.Embedding(
                    count_field_values(name, settings.vocabulary_size), CONTEXT_WIDTHS[name]
                )
                for name in settings.embedded_fields
            }
        )
        # by field that the model reads: its column in a context tensor
        self.columns = find_columns(settings.context_fields)
        self.lag_columns = [self.columns[name] for name in settings.lags]
        self.gates = nn.Linear(hidden, len(settings.lags)) if settings.lags else None
        offsets = [list(MOTION_OFFSETS[name]) for name in settings.motions]
        # by motion gate: the column of its field, and its interval
        self.motion_columns = [
            self.columns[name]
            for name, row in zip(settings.motions, offsets, strict=True)
            for _ in row
        ]
        self.intervals = [interval for row in offsets for interval in row]
        self.motions = nn.Linear(hidden, len(self.intervals)) if offsets else None
        self.layers = nn.ModuleList(
            make_recurrent_layer(settings.cell, hidden if layer else settings.input_size, hidden)
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
        for name, table in self.context.items():
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, 0, CONTEXT_WIDTHS[name] ** -0.5, generator)
        for gates in (self.gates, self.motions):
            if gates is not None:
                nn.init.zeros_(gates.weight)
                nn.init.zeros_(gates.bias)

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
        rates = (settings.dropout, settings.embedding_dropout,
                 settings.weight_dropout, settings.context_dropout,
                 settings.input_dropout)  # fmt: skip
        if not any(rates):
            return None
        outputs = self.head.bias.new_empty(lanes, settings.hidden)
        return DropoutMasks(
            draw_dropout_mask(self.embedding.weight[:, :1], settings.embedding_dropout, generator),
            tuple(draw_dropout_mask(outputs, settings.dropout, generator) for _ in self.layers),
            self._draw_recurrent_masks(generator) if settings.weight_dropout else (),
            self._draw_context_masks(generator) if settings.context_dropout else {},
            self._draw_input_mask(lanes, generator) if settings.input_dropout else None,
        )

    def _draw_input_mask(self, lanes: int, generator: torch.Generator | None) -> Tensor:
        inputs = self.head.bias.new_empty(lanes, self.settings.input_size)
        return draw_dropout_mask(inputs, self.settings.input_dropout, generator)

    def _draw_recurrent_masks(self, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        rate = self.settings.weight_dropout
        weights = (layer.get_parameter(RECURRENT_WEIGHT) for layer in self.layers)
        return tuple(draw_dropout_mask(weight, rate, generator) for weight in weights)

    def _draw_context_masks(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        rate = self.settings.context_dropout
        return {
            name: draw_dropout_mask(
                self.context.get_parameter(f"{name}.weight")[:, :1], rate, generator
            )
            for name in self.context
            if name.startswith(LOOK_BACK_PREFIXES)
        }

    def forward(
        self,
        ids: Tensor,
        state: RecurrentState | None = None,
        masks: DropoutMasks | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Run the model over a window.

        Args:
            ids: (lane, window) int64, of one tune per lane.
            state: returned for the previous window; None is zero.
            masks: from `draw_masks` in training; None disables dropout.
            context: (lane, window, field) int64, the score context before each next id; needed by a
                model that reads fields of it.

        Returns:
            The logits (lane, window, vocabulary) float32, or bfloat16 under autocast, and the state
            after the last id.
        """
        values = self.look_up_embeddings(send(ids, self.device).t(), masks)
        if self.columns and context is not None:
            context = send(context, self.device).transpose(0, 1)
            values = torch.cat([values, *self.look_up_context(context, masks)], -1)
        if masks is not None and masks.inputs is not None:
            values = values * masks.inputs
        new_state = []
        for number, (layer, before) in enumerate(
            zip(self.layers, state or self.start(len(ids)), strict=True)
        ):
            recurrent_mask = masks.recurrent[number] if masks and masks.recurrent else None
            values, after = run_layer(layer, values, before, recurrent_mask)
            new_state.append(after)
            if masks is not None:
                values = values * masks.outputs[number]
        logits = self.compute_logits(values)
        if self.gates is not None and context is not None:
            logits = self.add_gates(logits, values, context[..., self.lag_columns])
        if self.motions is not None and context is not None:
            logits = self.add_motions(logits, values, context[..., self.motion_columns])
        return logits.transpose(0, 1), tuple(new_state)

    def look_up_embeddings(self, ids: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Return the embeddings of ids (...) int64, (..., embedding) float32."""
        return look_up(self.embedding, ids, None if masks is None else masks.embedding)

    def look_up_context(self, context: Tensor, masks: DropoutMasks | None = None) -> list[Tensor]:
        """Return the inputs of the fields that the model reads: embeddings, or bits of sets.

        Args:
            context: (..., field) int64.
            masks: in training.

        Returns:
            (..., width) float32 each.
        """
        context_masks: Mapping[str, Tensor] = {} if masks is None else masks.context
        return [
            look_up(self.context[name], context[..., column], context_masks.get(name))
            if name in self.context
            else unpack_bits(context[..., column], MULTI_HOT_FIELDS[name]).to(self.head.bias.dtype)
            for name, column in self.columns.items()
            if CONTEXT_WIDTHS[name]
        ]

    def add_gates(self, logits: Tensor, outputs: Tensor, seen: Tensor) -> Tensor:
        """Add to the logit of each event that a lag looked up what the gate of the lag says.

        Args:
            logits: (window, lane, vocabulary).
            outputs: (window, lane, hidden) of the last layer.
            seen: (window, lane, lag) int64, the id + 1 looked up; 0 where there was none.
        """
        assert self.gates is not None
        gates = self.gates(outputs).to(logits.dtype) * (seen > 0)
        return logits.scatter_add(2, (seen - 1).clamp(min=0), gates)

    def add_motions(self, logits: Tensor, outputs: Tensor, seen: Tensor) -> Tensor:
        """Add to the logits of the pitches at intervals from a looked-up pitch.

        The gates do not depend on the pitch, so what they learn holds in every key.

        Args:
            logits: (window, lane, vocabulary).
            outputs: (window, lane, hidden) of the last layer.
            seen: (window, lane, gate) int64, the id + 1 looked up; 0 where there was none.
        """
        assert self.motions is not None
        ids = seen - 1 + torch.tensor(self.intervals, device=seen.device)
        is_pitch = (seen > PITCH.start) & (ids >= PITCH.start) & (ids < PITCH.stop)
        gates = self.motions(outputs).to(logits.dtype) * is_pitch
        return logits.scatter_add(2, ids.clamp(PITCH.start, PITCH.stop - 1), gates)

    def compute_logits(self, outputs: Tensor) -> Tensor:
        """Return the logits of outputs of the last layer, (..., hidden) float32."""
        return self.head(outputs if self.narrow is None else self.narrow(outputs))  # type: ignore[no-any-return]


def reset_lanes(state: RecurrentState, starts: Tensor) -> RecurrentState:
    """Set the state of the lanes whose tune starts to zero.

    Args:
        state: (lane, ...) each part.
        starts: (lane,) bool.
    """
    return tuple(
        tuple(part.masked_fill(starts.unsqueeze(1), 0) for part in layer) for layer in state
    )


def detach(state: RecurrentState) -> RecurrentState:
    """Detach a state from the graph, so that no gradient passes through it."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def look_up(table: nn.Module, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Return the rows of an embedding, (..., width) float32.

    Args:
        table: an embedding.
        ids: (...) int64.
        mask: (row, 1) float32, a factor of each row; None is 1.
    """
    values: Tensor = table(ids)
    return values if mask is None else values * functional.embedding(ids, mask)


def unpack_bits(sets: Tensor, bits: int) -> Tensor:
    """Return the bits of sets (...) int64, the lowest first: (..., bit) int64, 0 or 1."""
    return (sets.unsqueeze(-1) >> torch.arange(bits, device=sets.device)) & 1


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


def get_layer_weights(layer: nn.Module) -> list[nn.Parameter]:
    """Return the input and recurrent matrices and biases of a layer, in the order LAYER_WEIGHTS."""
    return [layer.get_parameter(name) for name in LAYER_WEIGHTS]


def run_layer(
    layer: nn.Module,
    values: Tensor,
    state: tuple[Tensor, ...],
    recurrent_mask: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a recurrent layer of torch over a window.

    Args:
        layer: of any cell.
        values: (window, lane, features) float32.
        state: h, and c of an LSTM, before the window: (lane, hidden) float32 each.
        recurrent_mask: (gates x hidden, hidden) float32, a factor of the recurrent weights.

    Returns:
        The outputs (window, lane, hidden) float32, or bfloat16 under autocast, and the new state.
    """
    before = tuple(part.unsqueeze(0) for part in state)
    weights = {}
    if recurrent_mask is not None:
        weights[RECURRENT_WEIGHT] = layer.get_parameter(RECURRENT_WEIGHT) * recurrent_mask
    with limit_recurrent_precision(values.device):
        outputs, after = functional_call(
            layer, weights, (values, before if len(before) > 1 else before[0])
        )
    parts = after if isinstance(after, tuple) else (after,)
    return outputs, tuple(part[0].to(state[0].dtype) for part in parts)
