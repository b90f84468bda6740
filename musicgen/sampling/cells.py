"""Recurrent cells, one step at a time, in NumPy.

Every cell has torch's parameters and torch's order of gates; a test holds them equal. A step works
in place and allocates nothing. Windows, batches and the way back through time: through_time.py.

    LSTM   i, f, o = sigmoid(z), g = tanh(z),  z = W x + U h + b
           c <- f c + i g,  h <- o tanh(c)                      (Hochreiter and Schmidhuber, 1997)
    GRU    r, u = sigmoid(z), n = tanh(W x + b + r (U h + b'))
           h <- (1 - u) n + u h                                           (Cho and others, 2014)
    RNN    h <- tanh(z); with ReLU and an identity to begin with: IRNN
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

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
        self.bias, self.own_bias = b_input, b_hidden
        self.hidden = u.shape[1]
        self.scratch = np.empty(u.shape[0], u.dtype)

    def step(self, projected: Array, state: Array) -> None:
        """Replace h by the next."""
        size, h = self.hidden, state[0]
        own = np.dot(self.recurrent, h, out=self.scratch)
        own += self.own_bias
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
