from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from musicgen.sampling.engine import make_cell, sigmoid

LAYERS: dict[str, Callable[[], nn.RNNBase]] = {
    "lstm": lambda: nn.LSTM(5, 7),
    "gru": lambda: nn.GRU(5, 7),
    "rnn": lambda: nn.RNN(5, 7),
    "irnn": lambda: nn.RNN(5, 7, nonlinearity="relu"),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("name", LAYERS)
def test_twenty_steps_equal_torchs(name: str, dtype: type[np.floating], tolerance: float) -> None:
    torch.manual_seed(4)
    layer = LAYERS[name]().to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    parameters = [parameter.detach().numpy() for parameter in layer.parameters()]
    cell = make_cell(name, *parameters)
    inputs: np.ndarray = np.random.default_rng(1).normal(size=(20, 5)).astype(dtype)
    with torch.no_grad():
        expected, last = layer(torch.from_numpy(inputs)[:, None])
    state: np.ndarray = np.zeros((cell.parts, 7), dtype)
    for x, wanted in zip(inputs, expected[:, 0].numpy(), strict=True):
        cell.step(cell.inputs @ x + cell.bias, state)
        np.testing.assert_allclose(state[0], wanted, rtol=0, atol=tolerance)
    final = torch.cat(last if name == "lstm" else (last,))[:, 0].numpy()
    np.testing.assert_allclose(state, final, rtol=0, atol=tolerance)


def test_the_sigmoid_does_not_overflow() -> None:
    values = np.array([-1e4, 0, 1e4], np.float32)
    sigmoid(values)
    assert values.tolist() == [0, 0.5, 1]
