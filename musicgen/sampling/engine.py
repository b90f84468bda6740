"""The one-tune engine: ids in, logits for the next id out, with NumPy only.

One token costs one pass over the weights, so memory bandwidth is the limit. The input part of the
first layer is a row of a table, filled in when an event first occurs. Each cell has the parameters
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
        """Replace the state (part, hidden) by the next; `projected`, W x + b, is used up."""


def sigmoid(values: Array) -> None:
    """Replace values by their sigmoid, written with tanh: it cannot overflow."""
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
        """Replace h and c by the next."""
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
        """Replace h by the next."""
        size, h = self.hidden, state[0]
        own = np.dot(self.recurrent, h, out=self.scratch)
        own += self.recurrent_bias
        gates, n = projected[: 2 * size], projected[2 * size :]
        gates += own[: 2 * size]
        sigmoid(gates)
        reset, update = gates[:size], gates[size:]
        reset *= own[2 * size :]
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
        """Replace h by the next."""
        projected += np.dot(self.recurrent, state[0], out=self.scratch)
        if self.relu:
            np.maximum(projected, 0, out=state[0])
        else:
            np.tanh(projected, out=state[0])


def make_cell(name: str, w: Array, u: Array, b_input: Array, b_hidden: Array) -> Cell:
    """Make the cell of that name from torch's four parameters."""
    if name == "lstm":
        return LSTM(w, u, b_input, b_hidden)
    if name == "gru":
        return GRU(w, u, b_input, b_hidden)
    return RNN(w, u, b_input, b_hidden, relu=name == "irnn")


State = Any  # an engine's own
PARAMETERS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Engine(Protocol):
    """What the sampler needs of a model."""

    def start(self) -> State:
        """Return the state before a tune."""

    def step(self, ids: Sequence[int], context: object, state: State) -> tuple[np.ndarray, State]:
        """Feed the ids one after another.

        Returns logits (vocabulary,) for the id after them, and the new state; the old one still
        holds. The context is what the grammar knows of the place; a model may ignore it.
        """


class NumpyEngine:
    """A trained model as an engine; its state is an array (layer, part, hidden)."""

    def __init__(self, settings: ModelSettings, weights: Weights, dtype: Any = np.float32) -> None:
        held = {name: np.ascontiguousarray(array, dtype) for name, array in weights.items()}
        self.settings = settings
        self.cells = [
            make_cell(settings.cell, *(held[f"layers.{layer}.{name}"] for name in PARAMETERS))
            for layer in range(settings.layers)
        ]
        self.embedding = held["embedding.weight"]  # (vocabulary, embedding)
        self.narrow = held.get("narrow.weight")
        self.head = held.get("head.weight", self.embedding)  # (vocabulary, hidden or embedding)
        self.head_bias = held["head.bias"]
        rows = len(self.cells[0].bias)
        self.table = np.empty((settings.vocabulary_size, rows), dtype)
        self.is_row_filled = [False] * settings.vocabulary_size
        self.projected = np.empty(rows, dtype)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> NumpyEngine:
        """Make the engine of a checkpoint."""
        return cls(checkpoint.settings, checkpoint.weights)

    def start(self) -> np.ndarray:
        """Return the state before a tune: zero."""
        shape = len(self.cells), self.cells[0].parts, self.settings.hidden
        return np.zeros(shape, self.head_bias.dtype)

    def step(
        self, ids: Sequence[int], context: object, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Feed the ids; return the logits (vocabulary,) after the last, and the new state."""
        del context
        if not len(ids):
            raise InvalidValue("no id was given to the model; a tune starts with the begin event")
        state = state.copy()
        for number in ids:
            self.advance(number, state)
        return self.logits_of(state[-1, 0]), state

    def restrict_vocabulary(self, ids: Sequence[int] | np.ndarray) -> NumpyEngine:
        """Return an engine that answers for some ids alone, in their order."""
        engine = copy(self)
        engine.head, engine.head_bias = self.head[ids], self.head_bias[ids]
        return engine

    def advance(self, id_: int, state: np.ndarray) -> None:
        """Feed one id: replace the state by the next."""
        projected = self.projected
        projected[:] = self.row(id_)
        for layer, cell in enumerate(self.cells):
            if layer:
                np.dot(cell.inputs, state[layer - 1, 0], out=projected)
                projected += cell.bias
            cell.step(projected, state[layer])

    def row(self, id_: int) -> np.ndarray:
        """Return what the first layer gets from an event: projected once, then kept."""
        if not self.is_row_filled[id_]:
            first = self.cells[0]
            self.table[id_] = first.inputs @ self.embedding[id_] + first.bias
            self.is_row_filled[id_] = True
        return self.table[id_]  # type: ignore[no-any-return]

    @property
    def whole_table(self) -> np.ndarray:
        """What the first layer gets from each event, (vocabulary, rows)."""
        for number in np.flatnonzero(~np.array(self.is_row_filled)):
            self.row(int(number))
        return self.table

    def logits_of(self, output: np.ndarray) -> np.ndarray:
        """Return the logits from what the last layer says: (hidden,), or (lane, hidden)."""
        if self.narrow is not None:
            output = output @ self.narrow.T
        logits = output @ self.head.T
        logits += self.head_bias
        return logits  # type: ignore[no-any-return]


class RestrictedEngine:
    """Any engine, asked for some ids alone."""

    def __init__(self, engine: Engine, ids: Sequence[int] | np.ndarray) -> None:
        self.engine, self.ids = engine, np.asarray(ids)

    def start(self) -> State:
        """Return the state before a tune."""
        return self.engine.start()

    def step(self, ids: Sequence[int], context: object, state: State) -> tuple[np.ndarray, State]:
        """Feed the ids; return the logits of those that are asked for, and the new state."""
        logits, state = self.engine.step(ids, context, state)
        return logits[self.ids], state


def restrict_vocabulary(engine: Engine, ids: Sequence[int] | np.ndarray) -> Engine:
    """Return an engine that answers for some ids alone, in their order."""
    return (
        engine.restrict_vocabulary(ids)
        if isinstance(engine, NumpyEngine)
        else RestrictedEngine(engine, ids)
    )
