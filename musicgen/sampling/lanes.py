"""Many states at once: the one-tune engine's cells over lanes, in NumPy.

The weights are packed once, for products that take what a layer reads from below and from itself
in one. A sigmoid is half a tanh and a half, so that the LSTM's gates go through one tanh: the
halves are powers of two and change no digit of the weights that hold them.

Sums are taken in another order than one tune takes them, so that logits differ by the rounding of
float32; `many.py` lets the one-tune engine decide wherever that could matter.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from musicgen.sampling.cells import GRU, LSTM, RNN, Cell, sigmoid
from musicgen.sampling.draw import Ids
from musicgen.sampling.engine import NumpyEngine

Array = np.ndarray


class Lanes(Protocol):
    """An engine over lanes: tunes that stand at different places, each with its own state."""

    def put(self, lane: int, state: Array) -> None:
        """Set a lane to a state of the one-tune engine, (layer, part, hidden)."""

    def step(self, ids: Ids) -> Array:
        """Feed an id to each lane; return its logits (lane, live)."""

    def keep(self, kept: Ids) -> None:
        """Go on with some of the lanes."""


class Layer(Protocol):
    """One layer over lanes."""

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h and c by the next.

        Args:
            projected: (lane, rows), all of W x + b and, but for a GRU, U h; it is used up.
            own: (lane, hidden), a view: h.
            state: (lane, hidden): c, or a GRU's scratch.
        """


class LSTMLayer:
    """Gates i, f, g, o as half-angle tanh."""

    def __init__(self, cell: LSTM) -> None:
        self.hidden = cell.hidden

    @staticmethod
    def scale(rows: Array) -> Array:
        """Halve the rows of the gates that are sigmoids."""
        scaled, size = rows.copy(), len(rows) // 4
        scaled[: 2 * size] *= 0.5
        scaled[3 * size :] *= 0.5
        return scaled

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h and c by the next."""
        size, z = self.hidden, projected
        np.tanh(z, out=z)
        i, f, g, o = (z[:, n * size : (n + 1) * size] for n in range(4))
        sigmoids = z[:, : 2 * size]
        sigmoids += 1.0
        o += 1.0
        g *= i
        state *= f
        state += g
        state *= 0.5
        np.tanh(state, out=own)
        own *= o
        own *= 0.5


class GRULayer:
    """Its own part of n stands inside the reset gate, and takes a product of its own."""

    def __init__(self, cell: GRU) -> None:
        self.hidden, self.bias = cell.hidden, cell.own_bias
        self.recurrent = np.ascontiguousarray(cell.recurrent.T)

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h by the next."""
        del state
        size, z = self.hidden, projected
        recurrent = own @ self.recurrent
        recurrent += self.bias
        gates, n = z[:, : 2 * size], z[:, 2 * size :]
        gates += recurrent[:, : 2 * size]
        sigmoid(gates)
        recurrent[:, 2 * size :] *= gates[:, :size]
        n += recurrent[:, 2 * size :]
        np.tanh(n, out=n)
        own -= n
        own *= gates[:, size:]
        own += n


class RNNLayer:
    """One product and its squashing."""

    def __init__(self, cell: RNN) -> None:
        self.relu = cell.relu

    def step(self, projected: Array, own: Array, state: Array) -> None:
        """Replace h by the next."""
        del state
        if self.relu:
            np.maximum(projected, 0, out=own)
        else:
            np.tanh(projected, out=own)


def _layer(cell: Cell) -> Layer:
    if isinstance(cell, LSTM):
        return LSTMLayer(cell)
    if isinstance(cell, GRU):
        return GRULayer(cell)
    assert isinstance(cell, RNN)
    return RNNLayer(cell)


class NumpyLanes:
    """A model over lanes; it answers for the ids of the engine that it was made from."""

    def __init__(self, engine: NumpyEngine, lanes: int) -> None:
        self.engine = engine
        self.hidden = engine.settings.hidden
        kind = engine.head_bias.dtype
        self.layers = [_layer(cell) for cell in engine.cells]
        self.weights = [_packed(cell, first=not n) for n, cell in enumerate(engine.cells)]
        self.biases = [_scaled(cell, cell.bias) for cell in engine.cells]
        self.outputs: Array = np.zeros((lanes, self.hidden * len(self.layers)), kind)  # each h
        self.states: Array = np.zeros((len(self.layers), lanes, self.hidden), kind)  # each c
        self.table: Array = _scaled(engine.cells[0], engine.whole_table.T).T.copy()
        self.scratch = [np.empty((lanes, len(bias)), kind) for bias in self.biases]

    def put(self, lane: int, state: Array) -> None:
        """Set a lane to a state of the one-tune engine, (layer, part, hidden)."""
        self.outputs[lane] = state[:, 0].ravel()
        if state.shape[1] > 1:
            self.states[:, lane] = state[:, 1]

    def keep(self, kept: Ids) -> None:
        """Go on with some of the lanes."""
        self.outputs, self.states = self.outputs[kept], self.states[:, kept]
        self.scratch = [scratch[: len(kept)] for scratch in self.scratch]

    def step(self, ids: Ids) -> Array:
        """Feed an id to each lane; return its logits (lane, live)."""
        size = self.hidden
        for number, layer in enumerate(self.layers):
            z, own = self.scratch[number], self.outputs[:, number * size : (number + 1) * size]
            if number:
                read = self.outputs[:, (number - 1) * size : number * size]
                if not isinstance(layer, GRULayer):
                    read = self.outputs[:, (number - 1) * size : (number + 1) * size]
                np.dot(read, self.weights[number], out=z)
                z += self.biases[number]
            elif isinstance(layer, GRULayer):
                np.take(self.table, ids, axis=0, out=z)
            else:
                np.dot(own, self.weights[0], out=z)
                z += self.table[ids]
            layer.step(z, own, self.states[number])
        return self.engine.logits_of(own)


def _scaled(cell: Cell, rows: Array) -> Array:
    return LSTMLayer.scale(rows) if isinstance(cell, LSTM) else rows


def _packed(cell: Any, *, first: bool) -> Array:
    """Return what a layer's step multiplies by, (inputs, rows): W, U, or both."""
    parts = [] if first else [cell.inputs]
    if not isinstance(cell, GRU):
        parts.append(cell.recurrent)
    found = _scaled(cell, np.concatenate(parts, axis=1)) if parts else cell.inputs
    return np.ascontiguousarray(found.T)
