"""The GRU over one window, with its backward pass through time written out, as the LSTM's is.

    r, u = sigmoid(P + U h)     n = tanh(P + r (U h + b'))     h <- (1 - u) n + u h

P is the input's part, all biases but b' included; U and b' are the recurrent ones. Lanes stand
last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def gru_window(
    projected: Tensor,  # (window, 3 hidden, lane): the input's part, in torch's order r u n
    weight: Tensor,  # (3 hidden, hidden): the recurrent weights
    bias: Tensor,  # (hidden,): b', which stands inside the reset gate
    before: Tensor,  # h before the window, (hidden, lane)
    starts: Tensor,  # (window, lane), bool: h is zero before these ids
) -> tuple[Tensor, Tensor]:
    """Return h at each step (window, hidden, lane), and after the window.

    The memory of `projected` is used up: nothing else may read it afterwards.
    """
    found: tuple[Tensor, Tensor] = _Window.apply(projected, weight, bias, before, starts)  # type: ignore[no-untyped-call]
    return found


class _Window(torch.autograd.Function):
    """Forward and backward of one window; a second backward pass is refused by torch."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, before: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        entering = gates.new_empty(len(gates), *before.shape)  # h before each step, zero at starts
        leaving, own = torch.empty_like(entering), torch.empty_like(entering)
        kept = kept_at(starts, gates.dtype)
        h = before
        for t, (step, inside) in enumerate(zip(gates.unbind(0), own.unbind(0), strict=True)):
            entering[t] = h * kept[t] if t in kept else h
            h = _step(step, inside, weight, bias, entering[t], leaving[t])
        ctx.kept = kept
        ctx.save_for_backward(gates, weight, entering, own)
        return leaving, leaving[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        gates, weight, entering, own = ctx.saved_tensors
        transposed = weight.t().contiguous()
        dh = grads[1].clone()
        for t in range(len(gates) - 1, -1, -1):
            dh.add_(grads[0][t])
            dh = _step_back(dh, gates[t], own[t], entering[t], transposed)
            if t in ctx.kept:
                dh.mul_(ctx.kept[t])
        size = own.shape[1]
        recurrent = torch.cat([gates[:, : 2 * size], own], 1)  # what U h receives
        folded = recurrent.transpose(0, 1).reshape(3 * size, -1)
        states = entering.transpose(0, 1).reshape(size, -1).to(weight.dtype)
        return gates, folded.to(weight.dtype) @ states.t(), own.sum((0, 2)), dh, None


def kept_at(starts: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
    """Return, for each step at which a tune starts, 0 in the lanes where it does, else 1."""
    steps = starts.any(1).nonzero().flatten().tolist()
    return {step: (~starts[step]).to(dtype) for step in steps}  # (lane,)


def _step(
    gates: Tensor, own: Tensor, weight: Tensor, bias: Tensor, h: Tensor, out: Tensor
) -> Tensor:
    """Replace the input's part by the gates, fill in U h + b' and the next h; return it."""
    size = len(h)
    sums = torch.mm(weight, h.to(weight.dtype)).to(h.dtype)
    torch.add(sums[2 * size :], bias.unsqueeze(1), out=own)
    both, n = gates[: 2 * size], gates[2 * size :]
    both.add_(sums[: 2 * size]).sigmoid_()
    n.addcmul_(both[:size], own).tanh_()
    return torch.lerp(n, h, both[size:], out=out)


def _step_back(dh: Tensor, gates: Tensor, own: Tensor, h: Tensor, transposed: Tensor) -> Tensor:
    """Replace the gates, and what stands inside the reset gate, by their gradients."""
    r, u, n = gates.chunk(3, 0)
    d_u = dh * (h - n)
    d_n = dh - dh * u
    before = dh * u
    tanh_backward(d_n, n, grad_input=n)
    d_r = n * own
    torch.mul(n, r, out=own)
    sigmoid_backward(d_r, r, grad_input=r)
    sigmoid_backward(d_u, u, grad_input=u)
    size = 2 * len(r)
    for part, rows in ((transposed[:, :size], gates[:size]), (transposed[:, size:], own)):
        before.add_(torch.mm(part, rows.to(transposed.dtype)))
    return before
