"""Recurrent cells over a window, forward and backward through time, by hand, in NumPy.

`cells.py` takes one step of one tune, as fast as it can. Here stands the same arithmetic for a
window and a batch, written to be read. Names and order of the weights are torch's; a test holds
every output and every gradient equal to torch's.

At each step a cell is given two sums and its state. What is fed to it and what it remembers meet
only inside of the cell, so all that is the cell's own is a few lines:

    fed_t = W x_t + b_ih        recurrent_t = U h_{t-1} + b_hh        z_t = fed_t + recurrent_t

    LSTM   i, f, o = sigmoid(z), g = tanh(z)
           c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)       (Hochreiter and Schmidhuber, 1997;
                                                            the gate f: Gers and others, 2000)
    GRU    r, u = sigmoid(z), n = tanh(fed + r recurrent)
           h_t = (1 - u) n + u h_{t-1}                             (Cho and others, 2014)
    RNN    h_t = tanh(z)                                           (Elman, 1990)
    IRNN   h_t = max(z, 0), U = 1 to begin with                    (Le, Jaitly and Hinton, 2015)

Backward through time (Werbos, 1990) is the chain rule from the last step to the first. With dx for
the gradient of the loss by x, and U' for U transposed, the state's gradient is what the output of
this step says and what the next step sends back through U:

    dh_t = doutput_t + U' drecurrent_{t+1} + what the cell carries on past its gates
    dW = sum_t dfed_t x_t'      dU = sum_t drecurrent_t h_{t-1}'      dx_t = W' dfed_t

The factor U' stands once in each step, so over k steps its k-th power: this is what vanishes or
explodes (Bengio, Simard and Frasconi, 1994). An LSTM's dc_{t-1} = f dc_t has no U in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

Array = np.ndarray
State = tuple[Array, ...]  # h, and c for an LSTM: each (lane, hidden)


class Weights(NamedTuple):
    """The parameters of one layer, or their gradients; the rows are the gates', one after another.

    LSTM: i, f, g, o. GRU: r, u, n. RNN and IRNN: one.
    """

    w: Array  # (rows, inputs)
    u: Array  # (rows, hidden)
    b_ih: Array  # (rows,)
    b_hh: Array  # (rows,)


class Back(NamedTuple):
    """What a step sends back: the gradients of all that it was given."""

    fed: Array  # (lane, rows)
    recurrent: Array  # (lane, rows)
    state: State  # but for the way through U


class Step(Protocol):
    """One step of a cell that has been taken: its values, kept for the way back."""

    @property
    def state(self) -> State:
        """Return the state after the step."""

    def backward(self, d_state: State) -> Back:
        """Return the gradients of what the step was given, from those of the state after it."""


@dataclass(frozen=True, slots=True)
class LSTMStep:
    """i, f, o = sigmoid(z), g = tanh(z); c = f before + i g; h = o tanh(c)."""

    i: Array  # each (lane, hidden)
    f: Array
    g: Array
    o: Array
    before: Array  # c of the step before
    c: Array

    @classmethod
    def forward(cls, fed: Array, recurrent: Array, state: State) -> LSTMStep:
        """Take the step."""
        i, f, g, o = np.split(fed + recurrent, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before = state[1]
        return cls(i, f, g, o, before, f * before + i * g)

    @property
    def state(self) -> State:
        """Return h and c."""
        return self.o * np.tanh(self.c), self.c

    def backward(self, d_state: State) -> Back:
        """Follow h back to o and c, then c to i, f, g and to the c before."""
        i, f, g, o, tanh_c = self.i, self.f, self.g, self.o, np.tanh(self.c)
        d_h, d_c = d_state
        d_o = d_h * tanh_c
        d_c = d_c + d_h * o * tanh_slope(tanh_c)
        d_i, d_f, d_g = d_c * g, d_c * self.before, d_c * i
        d_z = np.concatenate(
            [
                d_i * sigmoid_slope(i),
                d_f * sigmoid_slope(f),
                d_g * tanh_slope(g),
                d_o * sigmoid_slope(o),
            ],
            axis=1,
        )
        return Back(d_z, d_z, (np.zeros_like(d_h), d_c * f))


@dataclass(frozen=True, slots=True)
class GRUStep:
    """r, u = sigmoid(z), n = tanh(fed + r own); h = (1 - u) n + u before."""

    r: Array  # each (lane, hidden)
    u: Array
    n: Array
    own: Array  # n's part of U h + b_hh
    before: Array  # h of the step before

    @classmethod
    def forward(cls, fed: Array, recurrent: Array, state: State) -> GRUStep:
        """Take the step."""
        fed_r, fed_u, fed_n = np.split(fed, 3, axis=1)
        own_r, own_u, own_n = np.split(recurrent, 3, axis=1)
        r, u = sigmoid(fed_r + own_r), sigmoid(fed_u + own_u)
        return cls(r, u, np.tanh(fed_n + r * own_n), own_n, state[0])

    @property
    def state(self) -> State:
        """Return h."""
        return ((1 - self.u) * self.n + self.u * self.before,)

    def backward(self, d_state: State) -> Back:
        """Follow h back to u, n and the h before, then n to r and to both sums."""
        r, u, n = self.r, self.u, self.n
        (d_h,) = d_state
        d_u = d_h * (self.before - n) * sigmoid_slope(u)
        d_n = d_h * (1 - u) * tanh_slope(n)
        d_r = d_n * self.own * sigmoid_slope(r)
        d_fed = np.concatenate([d_r, d_u, d_n], axis=1)
        d_recurrent = np.concatenate([d_r, d_u, d_n * r], axis=1)
        return Back(d_fed, d_recurrent, (d_h * u,))


@dataclass(frozen=True, slots=True)
class RNNStep:
    """h = tanh(z), or max(z, 0)."""

    h: Array  # (lane, hidden)
    slope: Array  # (lane, hidden): dh / dz

    @classmethod
    def tanh(cls, fed: Array, recurrent: Array, state: State) -> RNNStep:
        """Take the step of a plain cell."""
        del state  # h comes in through U alone
        h = np.tanh(fed + recurrent)
        return cls(h, tanh_slope(h))

    @classmethod
    def relu(cls, fed: Array, recurrent: Array, state: State) -> RNNStep:
        """Take the step of a rectified cell."""
        del state
        h = np.maximum(fed + recurrent, 0)
        return cls(h, (h > 0).astype(h.dtype))

    @property
    def state(self) -> State:
        """Return h."""
        return (self.h,)

    def backward(self, d_state: State) -> Back:
        """Follow h back to z."""
        d_z = d_state[0] * self.slope
        return Back(d_z, d_z, (np.zeros_like(d_z),))


STEPS: dict[str, Callable[[Array, Array, State], Step]] = {
    "lstm": LSTMStep.forward,
    "gru": GRUStep.forward,
    "rnn": RNNStep.tanh,
    "irnn": RNNStep.relu,
}


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), written with tanh: it cannot overflow."""
    return (np.tanh(z / 2) + 1) / 2


def sigmoid_slope(value: Array) -> Array:
    """Return the derivative of the sigmoid where it has this value."""
    slope: Array = value * (1 - value)
    return slope


def tanh_slope(value: Array) -> Array:
    """Return the derivative of tanh where it has this value."""
    slope: Array = 1 - value * value
    return slope


def outer(d_products: Array, values: Array) -> Array:
    """Return a matrix's gradient (row, column): d(M v) v', added up over (window, lane)."""
    return np.tensordot(d_products, values, ((0, 1), (0, 1)))


class Gradients(NamedTuple):
    """The gradients of all that a window was given."""

    x: Array  # (window, lane, inputs)
    weights: Weights
    state: State


@dataclass(frozen=True, slots=True)
class Window:
    """One layer that has run over one window: what it said, and what the way back needs."""

    weights: Weights
    x: Array  # (window, lane, inputs)
    kept: Array  # (window, lane, 1): 0 where a tune starts, else 1
    entered: Array  # (window, lane, hidden): h before each step
    steps: tuple[Step, ...]

    @property
    def outputs(self) -> Array:
        """Return h after each step, (window, lane, hidden)."""
        return np.stack([step.state[0] for step in self.steps])

    @property
    def state(self) -> State:
        """Return the state after the window."""
        return self.steps[-1].state

    def backward(self, d_outputs: Array, d_state: State) -> Gradients:
        """Go back through time.

        Args:
            d_outputs: (window, lane, hidden), the gradient of the loss by each output.
            d_state: by the state after the window; zero where the windows after it are cut off.
        """
        sent: list[Back] = []
        for step, d_output, kept in zip(
            reversed(self.steps), d_outputs[::-1], self.kept[::-1], strict=True
        ):
            back = step.backward((d_state[0] + d_output, *d_state[1:]))
            d_h = back.state[0] + back.recurrent @ self.weights.u
            d_state = tuple(part * kept for part in (d_h, *back.state[1:]))
            sent.append(back)
        d_fed = np.stack([back.fed for back in reversed(sent)])
        d_recurrent = np.stack([back.recurrent for back in reversed(sent)])
        return Gradients(d_fed @ self.weights.w, self.of_weights(d_fed, d_recurrent), d_state)

    def of_weights(self, d_fed: Array, d_recurrent: Array) -> Weights:
        """Add up, over steps and lanes, what each weight did."""
        return Weights(
            w=outer(d_fed, self.x),
            u=outer(d_recurrent, self.entered),
            b_ih=d_fed.sum((0, 1)),
            b_hh=d_recurrent.sum((0, 1)),
        )


def forward(
    cell: str, weights: Weights, x: Array, state: State, starts: Array | None = None
) -> Window:
    """Run one layer over one window.

    Args:
        cell: one of STEPS.
        weights: of the layer.
        x: (window, lane, inputs)
        state: before the window.
        starts: (window, lane) bool: the state is zero before these steps; None is nowhere.
    """
    fed = x @ weights.w.T + weights.b_ih  # (window, lane, rows)
    kept = np.ones((*x.shape[:2], 1), x.dtype)
    if starts is not None:
        kept[starts] = 0
    entered, steps = np.empty((*x.shape[:2], weights.u.shape[1]), x.dtype), []
    for t in range(len(x)):
        state = tuple(part * kept[t] for part in state)
        entered[t] = state[0]
        steps.append(STEPS[cell](fed[t], state[0] @ weights.u.T + weights.b_hh, state))
        state = steps[-1].state
    return Window(weights, x, kept, entered, tuple(steps))
