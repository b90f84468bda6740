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

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np

from musicgen.checkpoint import Checkpoint, Weights
from musicgen.config import ModelSettings
from musicgen.errors import InvalidValue

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
PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Engine(Protocol):
    """The interface through which the sampler runs a model."""

    def start(self) -> State:
        """Return the state before a tune."""

    def step(self, ids: Sequence[int], context: object, state: State) -> tuple[np.ndarray, State]:
        """Feed ids one after another.

        Args:
            ids: token ids, at least one.
            context: the score context at the last id; a model may ignore it.
            state: the state before the ids; it is not changed.

        Returns:
            The logits (vocabulary,) float32 of the next id, and the state after the ids.
        """


class NumpyEngine:
    """A trained model as an engine; its state is an array (layer, part, hidden)."""

    def __init__(self, settings: ModelSettings, weights: Weights, dtype: Any = np.float32) -> None:
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
        rows = len(self.cells[0].bias)
        self.table = np.empty((settings.vocabulary_size, rows), dtype)
        self.is_row_filled = [False] * settings.vocabulary_size
        self.projected = np.empty(rows, dtype)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> NumpyEngine:
        """Make the engine of a checkpoint."""
        return cls(checkpoint.settings, checkpoint.weights)

    def start(self) -> np.ndarray:
        """Return the zero state before a tune: (layer, part, hidden) float32."""
        shape = len(self.cells), self.cells[0].parts, self.settings.hidden
        return np.zeros(shape, self.head_bias.dtype)

    def step(
        self, ids: Sequence[int], context: object, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feed ids one after another; see `Engine.step`.

        Returns:
            The logits (vocabulary,) float32 of the next id, and the state (layer, part, hidden).

        Raises:
            InvalidValue: there are no ids.
        """
        del context
        if not len(ids):
            raise InvalidValue("no ids were given to the model; a tune starts with the begin event")
        state = state.copy()
        for id_ in ids:
            self.advance(id_, state)
        return self.logits_of(state[-1, 0]), state

    def restrict_vocabulary(self, ids: Sequence[int] | np.ndarray) -> NumpyEngine:
        """Return an engine whose logits are those of some ids: (live,) int64, in their order."""
        engine = copy(self)
        engine.head, engine.head_bias = self.head[ids], self.head_bias[ids]
        return engine

    def advance(self, id_: int, state: np.ndarray) -> None:
        """Feed one id, and advance the state (layer, part, hidden) float32 in place."""
        projected = self.projected
        projected[:] = self.row(id_)
        for layer, cell in enumerate(self.cells):
            if layer:
                np.dot(cell.inputs, state[layer - 1, 0], out=projected)
                projected += cell.bias
            cell.step(projected, state[layer])

    def row(self, id_: int) -> np.ndarray:
        """Return the first layer's projected input (rows,) float32 for an id; it is cached."""
        if not self.is_row_filled[id_]:
            first = self.cells[0]
            self.table[id_] = first.inputs @ self.embedding[id_] + first.bias
            self.is_row_filled[id_] = True
        return self.table[id_]  # type: ignore[no-any-return]

    @property
    def whole_table(self) -> np.ndarray:
        """The first layer's projected input for each id: (vocabulary, rows) float32."""
        for id_ in np.flatnonzero(~np.array(self.is_row_filled)):
            self.row(int(id_))
        return self.table

    def logits_of(self, output: np.ndarray) -> np.ndarray:
        """Return the logits (..., vocabulary) of the last layer's output (..., hidden), float32."""
        if self.narrow is not None:
            output = output @ self.narrow.T
        logits = output @ self.head.T
        logits += self.head_bias
        return logits  # type: ignore[no-any-return]


class RestrictedEngine:
    """An engine whose logits are restricted to some ids."""

    def __init__(self, engine: Engine, ids: Sequence[int] | np.ndarray) -> None:
        self.engine, self.ids = engine, np.asarray(ids)

    def start(self) -> State:
        """Return the state before a tune."""
        return self.engine.start()

    def step(self, ids: Sequence[int], context: object, state: State) -> tuple[np.ndarray, State]:
        """Feed ids; return the logits (live,) float32 of the restricted ids, and the state."""
        logits, state = self.engine.step(ids, context, state)
        return logits[self.ids], state


def restrict_vocabulary(engine: Engine, ids: Sequence[int] | np.ndarray) -> Engine:
    """Return an engine whose logits are those of some ids: (live,) int64, in their order."""
    return (
        engine.restrict_vocabulary(ids)
        if isinstance(engine, NumpyEngine)
        else RestrictedEngine(engine, ids)
    )
