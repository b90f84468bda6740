"""The LSTM, GRU and RNN written out for reading, forward and backward through time, in NumPy.

`engine` takes one step of one tune, as fast as it can. This module has the same arithmetic for a
window and a batch, written to be read. Names and order of the weights are torch's; a test holds
every output and every gradient equal to torch's.

At each step a cell receives two sums and its state. Input and memory meet only inside the cell:

    fed_t = W x_t + b_ih        recurrent_t = U h_{t-1} + b_hh        z_t = fed_t + recurrent_t

    LSTM   i, f, o = sigmoid(z), g = tanh(z)
           c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)       (Hochreiter and Schmidhuber, 1997;
                                                            the gate f: Gers et al., 2000)
    GRU    r, u = sigmoid(z), n = tanh(fed + r recurrent)
           h_t = (1 - u) n + u h_{t-1}                             (Cho et al., 2014)
    RNN    h_t = tanh(z)                                           (Elman, 1990)
    IRNN   h_t = max(z, 0), U = 1 initially                        (Le, Jaitly and Hinton, 2015)

Backpropagation through time (Werbos, 1990) is the chain rule from the last step to the first. With
dx for the gradient of the loss with respect to x, and U' for U transposed, the gradient of the
state is the sum of what the output of this step and the next step (through U) send back:

    dh_t = doutput_t + U' drecurrent_{t+1} + what the cell carries past its gates
    dW = sum_t dfed_t x_t'      dU = sum_t drecurrent_t h_{t-1}'      dx_t = W' dfed_t

The factor U' occurs once per step, so its k-th power over k steps: this is what vanishes or
explodes (Bengio, Simard and Frasconi, 1994). An LSTM's dc_{t-1} = f dc_t has no U in it.

The language model around the cells:

    x = E[ids]                                 embedding
    h = layers(x)
    y = h; or N h, where the model narrows     to the width of the embedding
    logits = H y + b                           head; H is E where the two are tied
    loss = mean of -log softmax(logits)[target]

Each line has its backward step, in reverse order; a matrix that is used twice adds up both of its
gradients. Dropout is left out: it would only multiply by masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from musicgen.config import BEGIN_ID, ModelSettings

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


class StepGradients(NamedTuple):
    """The gradients of a step's inputs."""

    fed: Array  # (lane, rows)
    recurrent: Array  # (lane, rows)
    state: State  # without the path through U


class Step(Protocol):
    """One completed step of a cell, with the values that the backward pass needs."""

    @property
    def state(self) -> State:
        """Return the state after the step."""

    def backward(self, d_state: State) -> StepGradients:
        """Return the gradients of the step's inputs from those of the state after it."""


@dataclass(frozen=True, slots=True)
class LSTMStep:
    """i, f, o = sigmoid(z), g = tanh(z); c = f before + i g; h = o tanh(c)."""

    i: Array  # each (lane, hidden)
    f: Array
    g: Array
    o: Array
    previous_c: Array  # c of the step before
    c: Array

    @classmethod
    def forward(cls, fed: Array, recurrent: Array, state: State) -> LSTMStep:
        """Take one step: fed and recurrent (lane, rows), state (lane, hidden), any dtype."""
        i, f, g, o = np.split(fed + recurrent, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        before = state[1]
        return cls(i, f, g, o, before, f * before + i * g)

    @property
    def state(self) -> State:
        """Return h and c."""
        return self.o * np.tanh(self.c), self.c

    def backward(self, d_state: State) -> StepGradients:
        """Follow h back to o and c, then c to i, f, g and to the c before."""
        i, f, g, o, tanh_c = self.i, self.f, self.g, self.o, np.tanh(self.c)
        d_h, d_c = d_state
        d_o = d_h * tanh_c
        d_c = d_c + d_h * o * tanh_slope(tanh_c)
        d_i, d_f, d_g = d_c * g, d_c * self.previous_c, d_c * i
        d_z = np.concatenate(
            [
                d_i * sigmoid_slope(i),
                d_f * sigmoid_slope(f),
                d_g * tanh_slope(g),
                d_o * sigmoid_slope(o),
            ],
            axis=1,
        )
        return StepGradients(d_z, d_z, (np.zeros_like(d_h), d_c * f))


@dataclass(frozen=True, slots=True)
class GRUStep:
    """r, u = sigmoid(z), n = tanh(fed + r own); h = (1 - u) n + u before."""

    r: Array  # each (lane, hidden)
    u: Array
    n: Array
    recurrent_n: Array  # n's part of U h + b_hh
    previous_h: Array  # h of the step before

    @classmethod
    def forward(cls, fed: Array, recurrent: Array, state: State) -> GRUStep:
        """Take one step: fed and recurrent (lane, rows), state (lane, hidden), any dtype."""
        fed_r, fed_u, fed_n = np.split(fed, 3, axis=1)
        own_r, own_u, own_n = np.split(recurrent, 3, axis=1)
        r, u = sigmoid(fed_r + own_r), sigmoid(fed_u + own_u)
        return cls(r, u, np.tanh(fed_n + r * own_n), own_n, state[0])

    @property
    def state(self) -> State:
        """Return h."""
        return ((1 - self.u) * self.n + self.u * self.previous_h,)

    def backward(self, d_state: State) -> StepGradients:
        """Follow h back to u, n and the h before, then n to r and to both sums."""
        r, u, n = self.r, self.u, self.n
        (d_h,) = d_state
        d_u = d_h * (self.previous_h - n) * sigmoid_slope(u)
        d_n = d_h * (1 - u) * tanh_slope(n)
        d_r = d_n * self.recurrent_n * sigmoid_slope(r)
        d_fed = np.concatenate([d_r, d_u, d_n], axis=1)
        d_recurrent = np.concatenate([d_r, d_u, d_n * r], axis=1)
        return StepGradients(d_fed, d_recurrent, (d_h * u,))


@dataclass(frozen=True, slots=True)
class RNNStep:
    """h = tanh(z), or max(z, 0)."""

    h: Array  # (lane, hidden)
    slope: Array  # (lane, hidden): dh / dz

    @classmethod
    def tanh(cls, fed: Array, recurrent: Array, state: State) -> RNNStep:
        """Take one tanh step: fed and recurrent (lane, rows), state (lane, hidden), any dtype."""
        del state  # h comes in through U alone
        h = np.tanh(fed + recurrent)
        return cls(h, tanh_slope(h))

    @classmethod
    def relu(cls, fed: Array, recurrent: Array, state: State) -> RNNStep:
        """Take one ReLU step: fed and recurrent (lane, rows), state (lane, hidden), any dtype."""
        del state
        h = np.maximum(fed + recurrent, 0)
        return cls(h, (h > 0).astype(h.dtype))

    @property
    def state(self) -> State:
        """Return h."""
        return (self.h,)

    def backward(self, d_state: State) -> StepGradients:
        """Follow h back to z."""
        d_z = d_state[0] * self.slope
        return StepGradients(d_z, d_z, (np.zeros_like(d_z),))


STEPS: dict[str, Callable[[Array, Array, State], Step]] = {
    "lstm": LSTMStep.forward,
    "gru": GRUStep.forward,
    "rnn": RNNStep.tanh,
    "irnn": RNNStep.relu,
}


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), written with tanh, which cannot overflow: (...) any dtype."""
    return (np.tanh(z / 2) + 1) / 2


def sigmoid_slope(value: Array) -> Array:
    """Return the derivative of the sigmoid where its value is this: (...) any dtype."""
    slope: Array = value * (1 - value)
    return slope


def tanh_slope(value: Array) -> Array:
    """Return the derivative of tanh where its value is this: (...) any dtype."""
    slope: Array = 1 - value * value
    return slope


def outer(d_products: Array, values: Array) -> Array:
    """Return a matrix's gradient, d(M v) v' summed over window and lane.

    Args:
        d_products: (window, lane, rows) any dtype, the gradient of M v.
        values: (window, lane, columns) any dtype, v.

    Returns:
        (rows, columns) any dtype.
    """
    return np.tensordot(d_products, values, ((0, 1), (0, 1)))


class Gradients(NamedTuple):
    """The gradients of a window's inputs."""

    x: Array  # (window, lane, inputs)
    weights: Weights
    state: State


@dataclass(frozen=True, slots=True)
class Window:
    """One layer after a window: its outputs, and the values that the backward pass needs."""

    weights: Weights
    x: Array  # (window, lane, inputs)
    keep_mask: Array  # (window, lane, 1): 0 where a tune starts, else 1
    previous_h: Array  # (window, lane, hidden): h before each step
    steps: tuple[Step, ...]

    @property
    def outputs(self) -> Array:
        """Return h after each step: (window, lane, hidden), any dtype."""
        return np.stack([step.state[0] for step in self.steps])

    @property
    def state(self) -> State:
        """Return the state after the window."""
        return self.steps[-1].state

    def backward(self, d_outputs: Array, d_state: State) -> Gradients:
        """Go back through time.

        Args:
            d_outputs: (window, lane, hidden) any dtype, the gradient of the loss by each output.
            d_state: (lane, hidden) each, the gradient by the state after the window; zero where
                later windows are truncated.
        """
        step_gradients: list[StepGradients] = []
        for step, d_output, mask in zip(
            reversed(self.steps), d_outputs[::-1], self.keep_mask[::-1], strict=True
        ):
            gradients = step.backward((d_state[0] + d_output, *d_state[1:]))
            d_h = gradients.state[0] + gradients.recurrent @ self.weights.u
            d_state = tuple(part * mask for part in (d_h, *gradients.state[1:]))
            step_gradients.append(gradients)
        d_fed = np.stack([gradients.fed for gradients in reversed(step_gradients)])
        d_recurrent = np.stack([gradients.recurrent for gradients in reversed(step_gradients)])
        return Gradients(
            d_fed @ self.weights.w, self.sum_weight_gradients(d_fed, d_recurrent), d_state
        )

    def sum_weight_gradients(self, d_fed: Array, d_recurrent: Array) -> Weights:
        """Sum gradients (window, lane, rows), any dtype, by weight, over steps and lanes."""
        return Weights(
            w=outer(d_fed, self.x),
            u=outer(d_recurrent, self.previous_h),
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
    keep_mask = np.ones((*x.shape[:2], 1), x.dtype)
    if starts is not None:
        keep_mask[starts] = 0
    previous_h, steps = np.empty((*x.shape[:2], weights.u.shape[1]), x.dtype), []
    for t in range(len(x)):
        state = tuple(part * keep_mask[t] for part in state)
        previous_h[t] = state[0]
        steps.append(STEPS[cell](fed[t], state[0] @ weights.u.T + weights.b_hh, state))
        state = steps[-1].state
    return Window(weights, x, keep_mask, previous_h, tuple(steps))


States = tuple[State, ...]  # one per layer
NamedWeights = Mapping[str, Array]
EMBEDDING, HEAD, BIAS, NARROW = "embedding.weight", "head.weight", "head.bias", "narrow.weight"


@dataclass(frozen=True, slots=True)
class LossAndGradients:
    """Loss and gradients of some ids."""

    loss: float  # nats per token
    gradients: dict[str, Array]  # by the weights' names
    states: States  # after the last id


def compute_gradients(
    settings: ModelSettings,
    weights: NamedWeights,
    inputs: Array,
    targets: Array,
    states: States | None = None,
) -> LossAndGradients:
    """Return the loss of one window and its gradient by every weight.

    Args:
        settings: the model's shape.
        weights: the model's own, by their names.
        inputs: (lane, window) int64 ids; the state is zero before each begin event.
        targets: (lane, window) int64, the next ids.
        states: the states after the previous window, which get no gradient; None is zero.
    """
    ids = inputs.T  # (window, lane)
    windows = run_layers(settings, weights, ids, states)
    outputs = windows[-1].outputs
    loss, d_logits = cross_entropy(logits(weights, outputs), targets.T)
    d_outputs, gradients = head_backward(weights, outputs, d_logits)
    d_embedded, of_layers = layers_backward(windows, d_outputs)
    d_table = gradients.setdefault(EMBEDDING, np.zeros_like(weights[EMBEDDING]))
    np.add.at(d_table, ids, d_embedded)  # an id that was fed twice adds twice
    return LossAndGradients(loss, gradients | of_layers, tuple(window.state for window in windows))


def compute_truncated_gradients(
    settings: ModelSettings, weights: NamedWeights, inputs: Array, targets: Array, bptt: int
) -> LossAndGradients:
    """Return the loss and its gradient truncated to windows (Williams and Peng, 1990).

    The state continues from window to window, the gradient does not.

    Args:
        settings: the model's shape.
        weights: the model's own, by name.
        inputs: (lane, window) int64 ids.
        targets: (lane, window) int64, the next ids.
        bptt: tokens per truncated window.
    """
    total, states = 0.0, make_zero_states(settings, len(inputs), weights[EMBEDDING].dtype)
    gradients = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for begin in range(0, inputs.shape[1], bptt):
        cut = slice(begin, begin + bptt)
        result = compute_gradients(settings, weights, inputs[:, cut], targets[:, cut], states)
        share = inputs[:, cut].shape[1] / inputs.shape[1]
        total, states = total + share * result.loss, result.states
        for name, gradient in result.gradients.items():
            gradients[name] += share * gradient
    return LossAndGradients(
        total,
        gradients,
        states or make_zero_states(settings, len(inputs), weights[EMBEDDING].dtype),
    )


def clip_gradients(gradients: Mapping[str, Array], max_norm: float) -> float:
    """Scale gradients in place to a maximum norm (Pascanu, Mikolov and Bengio, 2013).

    Args:
        gradients: by name, (...) any dtype; their norm is that of all of them as one vector.
        max_norm: the largest norm.

    Returns:
        The norm before scaling.
    """
    norm = math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients.values()))
    share = min(1.0, max_norm / (norm + 1e-6))  # torch's own guard against a norm of 0
    for gradient in gradients.values():
        gradient *= share
    return norm


def make_zero_states(settings: ModelSettings, lanes: int, dtype: np.dtype) -> States:
    """Return the state before a tune: zero."""
    zero = np.zeros((lanes, settings.hidden), dtype)
    return ((zero,) * (2 if settings.cell == "lstm" else 1),) * settings.layers


def run_layers(
    settings: ModelSettings, weights: NamedWeights, ids: Array, states: States | None = None
) -> list[Window]:
    """Run all layers over (window, lane) int64 ids, each over the outputs of the one below."""
    x = weights[EMBEDDING][ids]  # (window, lane, embedding)
    windows: list[Window] = []
    for layer, state in enumerate(states or make_zero_states(settings, ids.shape[1], x.dtype)):
        layer_weights = Weights(*(weights[name] for name in names_of(layer)))
        windows.append(forward(settings.cell, layer_weights, x, state, ids == BEGIN_ID))
        x = windows[-1].outputs
    return windows


def layers_backward(windows: Sequence[Window], d_outputs: Array) -> tuple[Array, dict[str, Array]]:
    """Go back through the layers.

    Args:
        windows: the layers, the lowest first.
        d_outputs: (window, lane, hidden) any dtype, the gradient of the top layer's outputs.

    Returns:
        The gradient of the lowest layer's inputs, and those of the weights by name.
    """
    gradients: dict[str, Array] = {}
    for layer, window in reversed(list(enumerate(windows))):
        layer_gradients = window.backward(
            d_outputs, tuple(np.zeros_like(part) for part in window.state)
        )
        gradients |= zip(names_of(layer), layer_gradients.weights, strict=True)
        d_outputs = layer_gradients.x
    return d_outputs, gradients


def names_of(layer: int) -> list[str]:
    """Return the names of a layer's weights, in the order of `Weights`."""
    parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [f"layers.{layer}.{part}" for part in parts]


def logits(weights: NamedWeights, outputs: Array) -> Array:
    """Return the logits (window, lane, vocabulary), any dtype, of the last layer's outputs."""
    return narrow_outputs(weights, outputs) @ weights[head_of(weights)].T + weights[BIAS]


def head_backward(
    weights: NamedWeights, outputs: Array, d_logits: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the gradients of the head's inputs and weights.

    Args:
        weights: the model's own, by name.
        outputs: (window, lane, hidden) any dtype, the last layer's.
        d_logits: (window, lane, vocabulary) any dtype.

    Returns:
        The gradient of the outputs, and those of the weights by name.
    """
    name = head_of(weights)
    d_narrowed = d_logits @ weights[name]
    gradients = {
        name: outer(d_logits, narrow_outputs(weights, outputs)),
        BIAS: d_logits.sum((0, 1)),
    }
    if NARROW not in weights:
        return d_narrowed, gradients
    gradients[NARROW] = outer(d_narrowed, outputs)
    return d_narrowed @ weights[NARROW], gradients


def head_of(weights: NamedWeights) -> str:
    """Return the name of the head's matrix, which is the embedding where they are tied."""
    return HEAD if HEAD in weights else EMBEDDING


def narrow_outputs(weights: NamedWeights, outputs: Array) -> Array:
    """Project outputs (..., hidden), any dtype, to the embedding's width where the model does."""
    return outputs @ weights[NARROW].T if NARROW in weights else outputs


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the mean loss in nats, and its gradient: softmax minus one-hot target.

    Args:
        logits: (window, lane, vocabulary) any dtype.
        targets: (window, lane) int64 ids.
    """
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # log softmax
    chosen = targets[..., np.newaxis]
    d_logits = np.exp(log_probs)
    np.put_along_axis(d_logits, chosen, np.take_along_axis(d_logits, chosen, -1) - 1, -1)
    return -float(np.take_along_axis(log_probs, chosen, -1).mean()), d_logits / targets.size
