from __future__ import annotations

import torch
from torch import Tensor, nn

from musicgen.model.through_time import lstm_window, project

WINDOW, LANES, HIDDEN, INPUTS = 7, 3, 5, 4


def run_torch(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor) -> Tensor:
    """Run a layer of torch step by step, with a zero state where a tune starts."""
    outputs = []
    for t in range(len(x)):
        keep = (~starts[t]).to(x.dtype).unsqueeze(1)
        output, (hs, cs) = layer(x[t : t + 1], ((h * keep)[None], (c * keep)[None]))
        h, c = hs[0], cs[0]
        outputs.append(output[0])
    return torch.stack([*outputs, h, c])


def run_custom(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, starts: Tensor) -> Tensor:
    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    projected = project(x.transpose(1, 2).contiguous(), weight_ih, bias_ih + bias_hh)
    outputs, (last_h, last_c) = lstm_window(projected, weight_hh, (h.t(), c.t()), starts)
    return torch.cat([outputs, last_h[None], last_c[None]]).transpose(1, 2)


def compute_gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.arange(result.numel(), dtype=result.dtype).sin().view_as(result)
    return torch.autograd.grad((result * weights).sum(), inputs)


def check_equal_to_torch(starts: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    x, h, c = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((WINDOW, LANES, INPUTS), (LANES, HIDDEN), (LANES, HIDDEN))
    )
    leaves = [x, h, c, *layer.parameters()]
    outputs, expected = run_custom(layer, x, h, c, starts), run_torch(layer, x, h, c, starts)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    for gradient, expected_gradient in zip(
        compute_gradients(outputs, leaves), compute_gradients(expected, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_outputs_and_gradients_equal_torch() -> None:
    check_equal_to_torch(torch.zeros(WINDOW, LANES, dtype=torch.bool))


def test_equal_to_torch_with_tune_starts_inside_the_window() -> None:
    starts = torch.zeros(WINDOW, LANES, dtype=torch.bool)
    starts[0, 0] = starts[3, 0] = starts[3, 2] = starts[6, 1] = True
    check_equal_to_torch(starts)


def test_state_is_reset_with_one_lane_and_one_step() -> None:
    starts = torch.tensor([[True]])
    layer = nn.LSTM(2, 3, dtype=torch.float64)
    x = torch.ones(1, 1, 2, dtype=torch.float64)
    state = torch.full((1, 3), 9.0, dtype=torch.float64)
    zero = torch.zeros_like(state)
    expected = run_custom(layer, x, zero, zero, torch.tensor([[False]]))
    torch.testing.assert_close(run_custom(layer, x, state, state, starts), expected)
