"""The whole language model by hand: the loss of one window, and its gradient by every weight.

    x = E[ids]                                 embedding
    h = layers(x)                              through_time.py
    y = h; or N h, where the model narrows     to the embedding's width
    logits = H y + b                           head; H is E where the two are tied
    loss = mean of -log softmax(logits)[target]

Each line has its way back, taken in the other order; a matrix that is used twice adds up both of
its gradients. The names are those of a checkpoint's weights, and a test holds each gradient equal
to torch's. Dropout is left out: it would only multiply by masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musicgen.config import BEGIN, ModelSettings
from musicgen.sampling.through_time import Array, State, Weights, Window, forward, outer

States = tuple[State, ...]  # one a layer
Named = Mapping[str, Array]
EMBEDDING, HEAD, BIAS, NARROW = "embedding.weight", "head.weight", "head.bias", "narrow.weight"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What some ids teach."""

    loss: float  # nats an id
    gradients: dict[str, Array]  # by the weights' names
    states: States  # after the last id


def learn(
    settings: ModelSettings,
    weights: Named,
    inputs: Array,
    targets: Array,
    states: States | None = None,
) -> Learnt:
    """Return the loss of one window and its gradient by every weight.

    Args:
        settings: the model's shape.
        weights: the model's own, by their names.
        inputs: (lane, window) ids; the state is zero before each begin event.
        targets: (lane, window) ids: what came next.
        states: what the window before returned, to which no gradient goes back; None is zero.
    """
    ids = inputs.T  # (window, lane)
    windows = run_layers(settings, weights, ids, states)
    outputs = windows[-1].outputs
    loss, d_logits = cross_entropy(logits(weights, outputs), targets.T)
    d_outputs, gradients = head_backward(weights, outputs, d_logits)
    d_embedded, of_layers = layers_backward(windows, d_outputs)
    d_table = gradients.setdefault(EMBEDDING, np.zeros_like(weights[EMBEDDING]))
    np.add.at(d_table, ids, d_embedded)  # an id that was fed twice adds twice
    return Learnt(loss, gradients | of_layers, tuple(window.state for window in windows))


def learn_truncated(
    settings: ModelSettings, weights: Named, inputs: Array, targets: Array, bptt: int
) -> Learnt:
    """Return the same loss, and what of its gradient is left where windows of `bptt` ids cut it.

    The state goes on from window to window, the gradient does not (Williams and Peng, 1990).
    """
    total, states = 0.0, start(settings, len(inputs), weights[EMBEDDING].dtype)
    gradients = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for begin in range(0, inputs.shape[1], bptt):
        cut = slice(begin, begin + bptt)
        learnt = learn(settings, weights, inputs[:, cut], targets[:, cut], states)
        share = inputs[:, cut].shape[1] / inputs.shape[1]
        total, states = total + share * learnt.loss, learnt.states
        for name, gradient in learnt.gradients.items():
            gradients[name] += share * gradient
    return Learnt(
        total, gradients, states or start(settings, len(inputs), weights[EMBEDDING].dtype)
    )


def clip(gradients: Mapping[str, Array], largest: float) -> float:
    """Shorten the gradients, in place, to a norm of at most `largest`; return what it was.

    All of them together are one vector, whose direction stays (Pascanu, Mikolov and Bengio, 2013).
    """
    norm = math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients.values()))
    share = min(1.0, largest / (norm + 1e-6))  # torch's own guard against a norm of 0
    for gradient in gradients.values():
        gradient *= share
    return norm


def start(settings: ModelSettings, lanes: int, dtype: np.dtype) -> States:
    """Return the state before a tune: zero."""
    zero = np.zeros((lanes, settings.hidden), dtype)
    return ((zero,) * (2 if settings.cell == "lstm" else 1),) * settings.layers


def run_layers(
    settings: ModelSettings, weights: Named, ids: Array, states: States | None = None
) -> list[Window]:
    """Run every layer over ids (window, lane), each over what the one below it says."""
    x = weights[EMBEDDING][ids]  # (window, lane, embedding)
    windows: list[Window] = []
    for layer, state in enumerate(states or start(settings, ids.shape[1], x.dtype)):
        own = Weights(*(weights[name] for name in names_of(layer)))
        windows.append(forward(settings.cell, own, x, state, ids == BEGIN))
        x = windows[-1].outputs
    return windows


def layers_backward(windows: Sequence[Window], d_outputs: Array) -> tuple[Array, dict[str, Array]]:
    """Go back through the layers; return the gradients of what was fed, and of their weights."""
    gradients: dict[str, Array] = {}
    for layer, window in reversed(list(enumerate(windows))):
        back = window.backward(d_outputs, tuple(np.zeros_like(part) for part in window.state))
        gradients |= zip(names_of(layer), back.weights, strict=True)
        d_outputs = back.x
    return d_outputs, gradients


def names_of(layer: int) -> list[str]:
    """Return the names of a layer's weights, in the order of `Weights`."""
    parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [f"layers.{layer}.{part}" for part in parts]


def logits(weights: Named, outputs: Array) -> Array:
    """Return the logits (window, lane, vocabulary) from what the last layer says."""
    return narrowed(weights, outputs) @ weights[head_of(weights)].T + weights[BIAS]


def head_backward(
    weights: Named, outputs: Array, d_logits: Array
) -> tuple[Array, dict[str, Array]]:
    """Return the gradients of what the last layer says, and of the head's weights."""
    name = head_of(weights)
    d_narrowed = d_logits @ weights[name]
    gradients = {
        name: outer(d_logits, narrowed(weights, outputs)),
        BIAS: d_logits.sum((0, 1)),
    }
    if NARROW not in weights:
        return d_narrowed, gradients
    gradients[NARROW] = outer(d_narrowed, outputs)
    return d_narrowed @ weights[NARROW], gradients


def head_of(weights: Named) -> str:
    """Return the name of the head's matrix: the embedding's own where they are tied."""
    return HEAD if HEAD in weights else EMBEDDING


def narrowed(weights: Named, outputs: Array) -> Array:
    """Bring what the last layer says to the embedding's width, where the model does."""
    return outputs @ weights[NARROW].T if NARROW in weights else outputs


def cross_entropy(logits: Array, targets: Array) -> tuple[float, Array]:
    """Return the mean loss of targets (window, lane), and its gradient: softmax less target."""
    shifted = logits - logits.max(-1, keepdims=True)
    told = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # log softmax
    chosen = targets[..., np.newaxis]
    d_logits = np.exp(told)
    np.put_along_axis(d_logits, chosen, np.take_along_axis(d_logits, chosen, -1) - 1, -1)
    return -float(np.take_along_axis(told, chosen, -1).mean()), d_logits / targets.size
