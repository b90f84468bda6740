"""The plain cell over one window, with its backward pass through time written out.

h <- tanh(P + U h), or relu: P is the input's part, all biases included. Lanes stand last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from musicgen.model.gru_through_time import kept_at

tanh_backward = torch.ops.aten.tanh_backward.grad_input


def rnn_window(
    projected: Tensor,  # (window, hidden, lane): the input's part
    weight: Tensor,  # (hidden, hidden): the recurrent weights
    before: Tensor,  # h before the window, (hidden, lane)
    starts: Tensor,  # (window, lane), bool: h is zero before these ids
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return h at each step (window, hidden, lane), and after the window."""
    found: tuple[Tensor, Tensor] = _Window.apply(projected, weight, before, starts, relu)  # type: ignore[no-untyped-call]
    return found


class _Window(torch.autograd.Function):
    """Forward and backward of one window; a second backward pass is refused by torch."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight: Tensor, before: Tensor, starts: Tensor, relu: bool
    ) -> tuple[Tensor, Tensor]:
        entering = torch.empty_like(projected)  # h before each step, zero at starts
        leaving = torch.empty_like(projected)
        kept = kept_at(starts, projected.dtype)
        h = before
        for t, (step, out) in enumerate(zip(projected.unbind(0), leaving.unbind(0), strict=True)):
            entering[t] = h * kept[t] if t in kept else h
            product = torch.mm(weight, entering[t].to(weight.dtype))
            torch.add(step, product, out=out)
            h = out.relu_() if relu else out.tanh_()
        ctx.kept, ctx.relu = kept, relu
        ctx.save_for_backward(weight, entering, leaving)
        return leaving, h.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        weight, entering, leaving = ctx.saved_tensors
        transposed = weight.t().contiguous()
        found = torch.empty_like(leaving)  # gradients of what is inside tanh or relu
        dh = grads[1]
        for t in range(len(leaving) - 1, -1, -1):
            dh = dh + grads[0][t]
            if ctx.relu:
                torch.mul(dh, leaving[t] > 0, out=found[t])
            else:
                tanh_backward(dh, leaving[t], grad_input=found[t])
            dh = torch.mm(transposed, found[t].to(weight.dtype)).to(found.dtype)
            if t in ctx.kept:
                dh = dh * ctx.kept[t]
        size = leaving.shape[1]
        rows, columns = (
            part.transpose(0, 1).reshape(size, -1).to(weight.dtype) for part in (found, entering)
        )
        return found, rows @ columns.t(), dh, None, None
