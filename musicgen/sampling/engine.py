"""The one-tune engine: ids in, logits for the next id out, with NumPy only.

One token costs one pass over the weights, so memory bandwidth is the limit. The input part of the
first layer is a row of a table, filled when an event first occurs. Each cell has the parameters
and the gate order of torch's (a test holds them equal); a step works in place and allocates
nothing. `reference_cells` has windows, batches and the backward pass.

    LSTM   i, f, o = sigmoid(z), g = tanh(z),  z = W x + U h + b
           c <- f c + i g,  h <- o tanh(c)                      (Hochreiter and Schmidhuber, 1997)
    GRU    r, u = sigmoid(z), n = tanh(W x + b + r (U h + b'))
           h <- (1 - u) n + u h                                           (Cho et al., 2014)
    RNN    h <- tanh(z); with ReLU and an identity initialisation: IRNN
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol

import numpy as np

from musicgen.checkpoint import Checkpoint, Weights
from musicgen.config import (
    CONTEXT_WIDTHS,
    LOOKED_UP_FIELDS,
    MULTI_HOT_FIELDS,
    TIME_FIELDS,
    VERTICAL_FIELDS,
    ModelSettings,
)
from musicgen.errors import InvalidValue, Mismatch
from musicgen.tokens.context_families import find_columns, make_context_source
from musicgen.tokens.context_source import Context
from musicgen.tokens.score_context import FIRST_ECHO, FIRST_VERTICAL

Array = np.ndarray


class Cell(Protocol):
    """One recurrent layer."""

    parts: int  # arrays in the state: h, and c for an LSTM
    inputs: Array  # (rows, inputs): W
    bias: Array  # (rows,): all of the bias that goes with the input

    def step(self, projected: Array, state: Array) -> None:
        """Advance the state in place by one step.

        Args:
            projected: (rows,) float32 W x + b; its values are overwritten.
            state: (part, hidden) float32: h, and c for an LSTM.
        """


def sigmoid(values: Array) -> None:
    """Apply the sigmoid in place, written with tanh, which cannot overflow: (...) float32."""
    values *= 0.5
    np.tanh(values, out=values)
    values += 1.0
    values *= 0.5


class LSTM:
    """State (2, hidden): h, c."""

    parts = 2

    def __init__(self, w: Array, u: Array, b_input: Array, b_hidden: Array) -> None:
        self.inputs, self.recurrent = w, u
        self.bias = b_input + b_hidden
        self.hidden = u.shape[1]
        self.scratch = np.empty(u.shape[0], u.dtype)

    def step(self, projected: Array, state: Array) -> None:
        """Replace h and c in place: projected (rows,) and state (part, hidden), float32."""
        size, h, c = self.hidden, state[0], state[1]
        z = projected
        z += np.dot(self.recurrent, h, out=self.scratch)
        g = z[2 * size : 3 * size]
        np.tanh(g, out=g)
        sigmoid(z[: 2 * size])
        sigmoid(z[3 * size :])
        g *= z[:size]
        c *= z[size : 2 * size]
        c += g
        np.tanh(c, out=h)
        h *= z[3 * size :]


class GRU:
    """State (1, hidden): h."""

    parts = 1

    def __init__(self, w: Array, u: Array, b_input: Array, b_hidden: Array) -> None:
        self.inputs, self.recurrent = w, u
        self.bias, self.recurrent_bias = b_input, b_hidden
        self.hidden = u.shape[1]
        self.scratch = np.empty(u.shape[0], u.dtype)

    def step(self, projected: Array, state: Array) -> None:
        """Replace h in place: projected (rows,) and state (part, hidden), float32."""
        size, h = self.hidden, state[0]
        recurrent = np.dot(self.recurrent, h, out=self.scratch)
        recurrent += self.recurrent_bias
        gates, n = projected[: 2 * size], projected[2 * size :]
        gates += recurrent[: 2 * size]
        sigmoid(gates)
        reset, update = gates[:size], gates[size:]
        reset *= recurrent[2 * size :]
        n += reset
        np.tanh(n, out=n)
        h -= n
        h *= update
        h += n


class RNN:
    """State (1, hidden): h."""

    parts = 1

    def __init__(
        self, w: Array, u: Array, b_input: Array, b_hidden: Array, *, relu: bool = False
    ) -> None:
        self.inputs, self.recurrent = w, u
        self.bias = b_input + b_hidden
        self.hidden = u.shape[1]
        self.relu = relu
        self.scratch = np.empty(u.shape[0], u.dtype)

    def step(self, projected: Array, state: Array) -> None:
        """Replace h in place: projected (rows,) and state (part, hidden), float32."""
        projected += np.dot(self.recurrent, state[0], out=self.scratch)
        if self.relu:
            np.maximum(projected, 0, out=state[0])
        else:
            np.tanh(projected, out=state[0])


def make_cell(name: str, w: Array, u: Array, b_input: Array, b_hidden: Array) -> Cell:
    """Make a cell from the four parameters that torch gives a layer.

    Args:
        name: lstm, gru, rnn or irnn.
        w: (rows, inputs) float32.
        u: (rows, hidden) float32.
        b_input: (rows,) float32.
        b_hidden: (rows,) float32.
    """
    if name == "lstm":
        return LSTM(w, u, b_input, b_hidden)
    if name == "gru":
        return GRU(w, u, b_input, b_hidden)
    return RNN(w, u, b_input, b_hidden, relu=name == "irnn")


State = Any  # of an engine, opaque to the sampler
_MAX_ROW_SUMS = 4096
_GROUP_NAMES = {  # of fields whose values recur together
    **{f"match{lag}": "match" for lag in (1, 2, 4, 8)}, "alike": "likeness", "echoed": "likeness",
}  # fmt: skip
PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Engine(Protocol):
    """The interface through which the sampler runs a model."""

    def start(self) -> State:
        """Return the state before a tune."""

    def step(self, ids: Sequence[int], state: State) -> tuple[np.ndarray, State]:
        """Feed ids one after another.

        Args:
            ids: token ids, at least one.
            state: the state before the ids; it is not changed.

        Returns:
            The logits (vocabulary,) float32 of the next id, and the state after the ids.
        """


class EngineState(NamedTuple):
    """The state of a NumPy engine between two ids; it is never changed."""

    layers: Array  # (layer, part, hidden) float32
    context: Context | None  # of a model that reads it


class RowTable:
    """The projections of embeddings by a part of a matrix, filled when a row is first used.

    Args:
        embeddings: (row, width) float32.
        weight: (rows of the projection, width) float32.
        bias: (rows of the projection,) float32.
    """

    def __init__(self, embeddings: Array, weight: Array, bias: Array | float = 0.0) -> None:
        self.embeddings, self.weight, self.bias = embeddings, weight, bias
        self.rows = np.empty((len(embeddings), len(weight)), embeddings.dtype)
        self.is_filled = [False] * len(embeddings)

    def __getitem__(self, index: int) -> Array:
        """Return the projection of a row, (rows of the projection,) float32."""
        if not self.is_filled[index]:
            self.rows[index] = self.weight @ self.embeddings[index] + self.bias
            self.is_filled[index] = True
        return self.rows[index]  # type: ignore[no-any-return]

    @property
    def whole(self) -> Array:
        """The projections of all rows: (row, rows of the projection) float32."""
        for index in np.flatnonzero(~np.array(self.is_filled)):
            self[int(index)]
        return self.rows


class MultiHotRows:
    """The projections of fields that are sets of bits.

    Args:
        columns: of the fields, by name.
        weights: (rows of the projection, bit) float32 per field.
    """

    def __init__(self, columns: Mapping[str, int], weights: Sequence[Array]) -> None:
        counts = [MULTI_HOT_FIELDS[name] for name in columns]
        self.indices = np.repeat([*columns.values()], counts)  # by bit
        self.shifts = np.concatenate([np.arange(count) for count in counts])
        self.whole = np.concatenate([weight.T for weight in weights])  # (bit, rows)

    def unpack(self, fields: Array | Sequence[int]) -> Array:
        """Return the bits of all sets, (..., bit) of 0 or 1; fields is (..., field) int64."""
        return (np.asarray(fields)[..., self.indices] >> self.shifts) & 1  # type: ignore[no-any-return]

    def project(self, fields: Array | Sequence[int]) -> Array:
        """Return the sum of the projections of the bits that are set: (..., rows) float32."""
        return self.unpack(fields).astype(self.whole.dtype) @ self.whole  # type: ignore[no-any-return]


class NumpyEngine:
    """A trained model as an engine."""

    def __init__(self, settings: ModelSettings, weights: Weights, dtype: Any = np.float32) -> None:
        if settings.reads_frames:
            raise Mismatch(
                "a model that reads the context of frames is for scoring only:"
                " benchmarks/polyphonic.py scores pieces with it"
            )
        arrays = {name: np.ascontiguousarray(array, dtype) for name, array in weights.items()}
        self.settings = settings
        self.cells = [
            make_cell(settings.cell, *(arrays[f"layers.{layer}.{name}"] for name in PARAMETERS))
            for layer in range(settings.layers)
        ]
        self.embedding = arrays["embedding.weight"]  # (vocabulary, embedding)
        self.narrow = arrays.get("narrow.weight")
        self.head = arrays.get("head.weight", self.embedding)  # (vocabulary, hidden or embedding)
        self.head_bias = arrays["head.bias"]
        first, size = self.cells[0], settings.embedding
        self.projected = np.empty(len(first.bias), dtype)
        self.event_rows = RowTable(self.embedding, first.inputs[:, :size], first.bias)
        self.context_source = make_context_source(settings.context_fields)
        columns = find_columns(settings.context_fields)
        self.context_rows: list[tuple[int, RowTable]] = []  # index of the field, and its rows
        bit_weights: list[Array] = []
        for name in settings.context_fields:
            weight = first.inputs[:, size : (size := size + CONTEXT_WIDTHS[name])]
            if name in MULTI_HOT_FIELDS:
                bit_weights.append(weight)
                continue
            rows = RowTable(arrays[f"context.{name}.weight"], weight)
            self.context_rows.append((columns[name], rows))
        sets = {name: columns[name] for name in settings.multi_hot_fields}
        self.multi_hot_rows = MultiHotRows(sets, bit_weights) if sets else None
        names = [name for name in columns if name not in sets]
        self.context_groups = _group_fields(names)
        self.vertical_group = [n for n, name in enumerate(names) if name in VERTICAL_FIELDS]
        self.row_sums: dict[tuple[int, ...], Array] = {}  # by first field of a group, and values
        self.vertical_sums: dict[tuple[int, ...], Array] = {}  # by the values of VERTICAL_FIELDS
        self.gates, self.gate_bias = arrays.get("gates.weight"), arrays.get("gates.bias")
        self.lag_indices = [columns[name] for name in settings.lags]
        # by id + 1: the column of the event in the logits; -1 for none and for 0, no event
        self.columns = np.arange(-1, settings.vocabulary_size)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> NumpyEngine:
        """Make the engine of a checkpoint."""
        return cls(checkpoint.settings, checkpoint.weights)

    def start(self) -> EngineState:
        """Return the zero state before a tune."""
        shape = len(self.cells), self.cells[0].parts, self.settings.hidden
        source = self.context_source
        return EngineState(
            np.zeros(shape, self.head_bias.dtype), None if source is None else source.start()
        )

    def step(self, ids: Sequence[int], state: EngineState) -> tuple[np.ndarray, EngineState]:
        """Feed ids one after another; see `Engine.step`.

        Returns:
            The logits (vocabulary,) float32 of the next id, and the state after the ids.

        Raises:
            InvalidValue: there are no ids.
        """
        if not len(ids):
            raise InvalidValue("no ids were given to the model; a tune starts with the begin event")
        layers, context = state.layers.copy(), state.context
        fields: tuple[int, ...] = ()
        for id_ in ids:
            if context is not None:
                context = context.take(id_)
                fields = context.compute_fields()
            self.advance(id_, layers, fields)
        logits = self.logits_of(layers[-1, 0])
        if self.gates is not None:
            self._add_gates(logits, layers[-1, 0], fields)
        return logits, EngineState(layers, context)

    def restrict_vocabulary(self, ids: Sequence[int] | np.ndarray) -> NumpyEngine:
        """Return an engine whose logits are those of some ids: (live,) int64, in their order."""
        engine = copy(self)
        engine.head, engine.head_bias = self.head[ids], self.head_bias[ids]
        engine.columns = np.full_like(self.columns, -1)
        engine.columns[np.asarray(ids) + 1] = np.arange(len(ids))
        return engine

    def advance(self, id_: int, state: np.ndarray, fields: Sequence[int] = ()) -> None:
        """Feed one id, and advance the state (layer, part, hidden) float32 in place.

        Args:
            id_: the id.
            state: before and after it.
            fields: the score context after the id, for a model that reads it.
        """
        projected = self.projected
        projected[:] = self.event_rows[id_]
        for group in self.context_groups:
            projected += self._sum_rows(group, fields)
        if self.settings.reads_vertical:
            projected += self._sum_vertical_rows(tuple(fields))
        elif self.multi_hot_rows is not None:
            projected += self.multi_hot_rows.project(fields)
        for layer, cell in enumerate(self.cells):
            if layer:
                np.dot(cell.inputs, state[layer - 1, 0], out=projected)
                projected += cell.bias
            cell.step(projected, state[layer])

    def _sum_rows(self, group: tuple[int, ...], fields: Sequence[int]) -> Array:
        """Return the sum of the rows of some fields, (rows,) float32; sums recur and are kept."""
        values = [fields[self.context_rows[number][0]] for number in group]
        if len(group) == 1:
            return self.context_rows[group[0]][1][values[0]]
        key = group[0], *values
        if key not in self.row_sums:
            if len(self.row_sums) >= _MAX_ROW_SUMS:
                self.row_sums.clear()
            pairs = zip(group, values, strict=True)
            self.row_sums[key] = np.sum(
                [self.context_rows[number][1][value] for number, value in pairs], axis=0
            )
        return self.row_sums[key]

    def _sum_vertical_rows(self, fields: tuple[int, ...]) -> Array:
        """Return the sum of the rows of the vertical fields, (rows,) float32, which is kept."""
        key = fields[FIRST_VERTICAL:FIRST_ECHO]
        if key not in self.vertical_sums:
            if len(self.vertical_sums) >= _MAX_ROW_SUMS:
                self.vertical_sums.clear()
            total, sets = np.zeros_like(self.projected), self.multi_hot_rows
            for index, table in (self.context_rows[number] for number in self.vertical_group):
                total += table[fields[index]]
            self.vertical_sums[key] = total if sets is None else total + sets.project(fields)
        return self.vertical_sums[key]

    def _add_gates(self, logits: np.ndarray, output: np.ndarray, fields: Sequence[int]) -> None:
        """Add to the logit of each event that a lag looked up what the gate of the lag says."""
        gates = self.gates @ output + self.gate_bias
        for gate, index in zip(gates, self.lag_indices, strict=True):
            column = self.columns[fields[index]]
            if column >= 0:
                logits[column] += gate

    def logits_of(self, output: np.ndarray) -> np.ndarray:
        """Return the logits (..., vocabulary) of the last layer's output (..., hidden), float32."""
        if self.narrow is not None:
            output = output @ self.narrow.T
        logits = output @ self.head.T
        logits += self.head_bias
        return logits  # type: ignore[no-any-return]


def _group_fields(names: Sequence[str]) -> list[tuple[int, ...]]:
    """Group the fields whose values recur together, by index: positions, matches, likeness.

    A field that looks an id up, or is one of time, is a group of its own. Vertical fields are left
    out.
    """
    groups: dict[str, list[int]] = {"position": []}
    lags = [name for name in names if name in LOOKED_UP_FIELDS or name in TIME_FIELDS]
    for key in (*lags, "match", "likeness"):
        groups[key] = []
    for number, name in enumerate(names):
        if name not in VERTICAL_FIELDS:
            groups[_GROUP_NAMES.get(name, name if name in lags else "position")].append(number)
    return [tuple(group) for group in groups.values() if group]


class RestrictedEngine:
    """An engine whose logits are restricted to some ids."""

    def __init__(self, engine: Engine, ids: Sequence[int] | np.ndarray) -> None:
        self.engine, self.ids = engine, np.asarray(ids)

    def start(self) -> State:
        """Return the state before a tune."""
        return self.engine.start()

    def step(self, ids: Sequence[int], state: State) -> tuple[np.ndarray, State]:
        """Feed ids; return the logits (live,) float32 of the restricted ids, and the state."""
        logits, state = self.engine.step(ids, state)
        return logits[self.ids], state


def restrict_vocabulary(engine: Engine, ids: Sequence[int] | np.ndarray) -> Engine:
    """Return an engine whose logits are those of some ids: (live,) int64, in their order."""
    return (
        engine.restrict_vocabulary(ids)
        if isinstance(engine, NumpyEngine)
        else RestrictedEngine(engine, ids)
    )
