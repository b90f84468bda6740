"""The windows of GRU and plain cells, written out, against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from musicgen.model.gru_through_time import gru_window
from musicgen.model.rnn_through_time import rnn_window

NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
WINDOW, LANES, HIDDEN, INPUTS = 7, 3, 5, 4


def drawn(*shape: int, seed: int = 1) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=chance)


def by_torch(
    layer: nn.RNNBase, inputs: Tensor, before: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """Step torch's layer, its state put to zero where a tune starts."""
    h, found = before, []
    for step, begins in zip(inputs.unbind(0), starts.unbind(0), strict=True):
        h = h * (~begins).unsqueeze(1)
        output, last = layer(step.unsqueeze(0), h.unsqueeze(0))
        h = last[0]
        found.append(output[0])
    return torch.stack(found), h


def by_hand(
    layer: nn.RNNBase, inputs: Tensor, before: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    weight_in, weight, bias_in, own = (layer.get_parameter(name) for name in NAMES)
    if isinstance(layer, nn.RNN):
        projected = (inputs @ weight_in.t() + bias_in + own).transpose(1, 2)
        outputs, last = rnn_window(
            projected, weight, before.t(), starts, layer.nonlinearity == "relu"
        )
        return outputs.transpose(1, 2), last.t()
    inside = 2 * HIDDEN
    bias = bias_in + torch.cat([own[:inside], torch.zeros_like(own[inside:])])
    projected = (inputs @ weight_in.t() + bias).transpose(1, 2).contiguous()
    outputs, last = gru_window(projected, weight, own[inside:], before.t(), starts)
    return outputs.transpose(1, 2), last.t()


CELLS = {
    "gru": nn.GRU(INPUTS, HIDDEN),
    "rnn": nn.RNN(INPUTS, HIDDEN),
    "irnn": nn.RNN(INPUTS, HIDDEN, nonlinearity="relu"),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("starting", [[], [(0, 0)], [(0, 1), (3, 1), (3, 2), (6, 0)]])
def test_outputs_and_gradients_are_torchs(cell: str, starting: list[tuple[int, int]]) -> None:
    layer = CELLS[cell].double()
    starts = torch.zeros(WINDOW, LANES, dtype=torch.bool)
    for step, lane in starting:
        starts[step, lane] = True
    upstream, at_last = drawn(WINDOW, LANES, HIDDEN, seed=4), drawn(LANES, HIDDEN, seed=5)
    found = []
    for run in (by_torch, by_hand):
        inputs = drawn(WINDOW, LANES, INPUTS).requires_grad_()
        before = drawn(LANES, HIDDEN, seed=2).requires_grad_()
        outputs, last = run(layer, inputs, before, starts)
        loss = (outputs * upstream).sum() + (last * at_last).sum()
        grads = torch.autograd.grad(loss, [*layer.parameters(), inputs, before])
        found.append([outputs.detach(), last.detach(), *grads])
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
