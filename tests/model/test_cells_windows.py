"""Differential tests of the custom GRU and RNN loops against the layers of torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from musicgen.checkpoint import LAYER_WEIGHTS
from musicgen.model.gru_through_time import gru_window
from musicgen.model.rnn_through_time import rnn_window

WINDOW, LANES, HIDDEN, INPUTS = 7, 3, 5, 4


def draw(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def run_torch(
    layer: nn.RNNBase, inputs: Tensor, state: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a layer of torch step by step, with a zero state where a tune starts."""
    h, outputs = state, []
    for step, begins in zip(inputs.unbind(0), starts.unbind(0), strict=True):
        h = h * (~begins).unsqueeze(1)
        output, last = layer(step.unsqueeze(0), h.unsqueeze(0))
        h = last[0]
        outputs.append(output[0])
    return torch.stack(outputs), h


def run_custom(
    layer: nn.RNNBase, inputs: Tensor, state: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    weight_in, weight, bias_in, bias_hidden = (layer.get_parameter(name) for name in LAYER_WEIGHTS)
    if isinstance(layer, nn.RNN):
        projected = (inputs @ weight_in.t() + bias_in + bias_hidden).transpose(1, 2)
        outputs, last = rnn_window(
            projected, weight, state.t(), starts, layer.nonlinearity == "relu"
        )
        return outputs.transpose(1, 2), last.t()
    gate_rows = 2 * HIDDEN
    bias = bias_in + torch.cat([bias_hidden[:gate_rows], torch.zeros_like(bias_hidden[gate_rows:])])
    projected = (inputs @ weight_in.t() + bias).transpose(1, 2).contiguous()
    outputs, last = gru_window(projected, weight, bias_hidden[gate_rows:], state.t(), starts)
    return outputs.transpose(1, 2), last.t()


CELLS = {
    "gru": nn.GRU(INPUTS, HIDDEN),
    "rnn": nn.RNN(INPUTS, HIDDEN),
    "irnn": nn.RNN(INPUTS, HIDDEN, nonlinearity="relu"),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("starting", [[], [(0, 0)], [(0, 1), (3, 1), (3, 2), (6, 0)]])
def test_outputs_and_gradients_equal_torch(cell: str, starting: list[tuple[int, int]]) -> None:
    layer = CELLS[cell].double()
    starts = torch.zeros(WINDOW, LANES, dtype=torch.bool)
    for step, lane in starting:
        starts[step, lane] = True
    upstream, at_last = draw(WINDOW, LANES, HIDDEN, seed=4), draw(LANES, HIDDEN, seed=5)
    results = []
    for run in (run_torch, run_custom):
        inputs = draw(WINDOW, LANES, INPUTS).requires_grad_()
        state = draw(LANES, HIDDEN, seed=2).requires_grad_()
        outputs, last = run(layer, inputs, state, starts)
        loss = (outputs * upstream).sum() + (last * at_last).sum()
        grads = torch.autograd.grad(loss, [*layer.parameters(), inputs, state])
        results.append([outputs.detach(), last.detach(), *grads])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
