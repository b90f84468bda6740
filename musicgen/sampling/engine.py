"""The one-tune engine: ids in, logits for the next id out, NumPy only.

One token costs one pass over the weights, so what bounds it is how fast memory is read. The input's
part of the first layer is a row of a table, filled in when an event first occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np

from musicgen.checkpoint import Checkpoint, Weights
from musicgen.config import ModelSettings
from musicgen.errors import InvalidValue
from musicgen.sampling.cells import make_cell

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
        self.known = [False] * settings.vocabulary_size
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

    def over(self, ids: Sequence[int] | np.ndarray) -> NumpyEngine:
        """Return an engine that answers for some ids alone, in their order."""
        engine = copy(self)
        engine.head, engine.head_bias = self.head[ids], self.head_bias[ids]
        return engine

    def advance(self, number: int, state: np.ndarray) -> None:
        """Feed one id: replace the state by the next."""
        projected = self.projected
        projected[:] = self.row(number)
        for layer, cell in enumerate(self.cells):
            if layer:
                np.dot(cell.inputs, state[layer - 1, 0], out=projected)
                projected += cell.bias
            cell.step(projected, state[layer])

    def row(self, number: int) -> np.ndarray:
        """Return what the first layer gets from an event: projected once, then kept."""
        if not self.known[number]:
            first = self.cells[0]
            self.table[number] = first.inputs @ self.embedding[number] + first.bias
            self.known[number] = True
        return self.table[number]  # type: ignore[no-any-return]

    @property
    def whole_table(self) -> np.ndarray:
        """What the first layer gets from each event, (vocabulary, rows)."""
        for number in np.flatnonzero(~np.array(self.known)):
            self.row(int(number))
        return self.table

    def logits_of(self, output: np.ndarray) -> np.ndarray:
        """Return the logits from what the last layer says: (hidden,), or (lane, hidden)."""
        if self.narrow is not None:
            output = output @ self.narrow.T
        logits = output @ self.head.T
        logits += self.head_bias
        return logits  # type: ignore[no-any-return]


class Selected:
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


def over(engine: Engine, ids: Sequence[int] | np.ndarray) -> Engine:
    """Return an engine that answers for some ids alone, in their order."""
    return engine.over(ids) if isinstance(engine, NumpyEngine) else Selected(engine, ids)
