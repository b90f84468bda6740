from __future__ import annotations

import torch
from torch import Tensor, nn

from musicgen.model.through_time import lstm_window, project

WINDOW, LANES, HIDDEN, INPUTS = 7, 3, 5, 4


def stepped(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor) -> Tensor:
    """Run torch's own layer one step at a time, with the state zeroed where a tune starts."""
    outputs = []
    for t in range(len(x)):
        stay = (~starts[t]).to(x.dtype).unsqueeze(1)
        output, (hs, cs) = layer(x[t : t + 1], ((h * stay)[None], (c * stay)[None]))
        h, c = hs[0], cs[0]
        outputs.append(output[0])
    return torch.stack([*outputs, h, c])


def own(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor) -> Tensor:
    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    projected = project(x.transpose(1, 2).contiguous(), weight_ih, bias_ih + bias_hh)
    outputs, (last_h, last_c) = lstm_window(projected, weight_hh, (h.t(), c.t()), starts)
    return torch.cat([outputs, last_h[None], last_c[None]]).transpose(1, 2)


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.arange(result.numel(), dtype=result.dtype).sin().view_as(result)
    return torch.autograd.grad((result * weights).sum(), inputs)


def compare(starts: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    x, h, c = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((WINDOW, LANES, INPUTS), (LANES, HIDDEN), (LANES, HIDDEN))
    )
    leaves = [x, h, c, *layer.parameters()]
    ours, theirs = own(layer, x, h, c, starts), stepped(layer, x, h, c, starts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for mine, reference in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-10)


def test_equals_torch_forward_and_backward() -> None:
    compare(torch.zeros(WINDOW, LANES, dtype=torch.bool))


def test_equals_torch_where_tunes_start_inside_the_window() -> None:
    starts = torch.zeros(WINDOW, LANES, dtype=torch.bool)
    starts[0, 0] = starts[3, 0] = starts[3, 2] = starts[6, 1] = True
    compare(starts)


def test_one_lane_and_one_step() -> None:
    starts = torch.tensor([[True]])
    layer = nn.LSTM(2, 3, dtype=torch.float64)
    x = torch.ones(1, 1, 2, dtype=torch.float64)
    state = torch.full((1, 3), 9.0, dtype=torch.float64)
    zero = torch.zeros_like(state)
    fresh = own(layer, x, zero, zero, torch.tensor([[False]]))
    torch.testing.assert_close(own(layer, x, state, state, starts), fresh)
