"""The LSTM over one window, with its backward pass through time written out.

`torch.nn.LSTM` is the reference (a test holds the two equal) and the faster one on a GPU. On a CPU
this one wins: the state is reset wherever a tune starts, so that no id of a batch is padding; the
gates' gradients replace the gates in their own memory; and the gradient of the recurrent weights is
one matrix product for the whole window.

    z_t = projected_t + h_{t-1} W'                 i, f, o = sigmoid(z), g = tanh(z)
    c_t = f c_{t-1} + i g                          h_t = o tanh(c_t)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def lstm_window(
    projected: Tensor,  # (window, lane, 4 hidden): the input's part of the gates, biases included
    weight: Tensor,  # (4 hidden, hidden): the recurrent weights, in torch's order i f g o
    state: tuple[Tensor, Tensor],  # h and c before the window, (lane, hidden)
    starts: Tensor,  # (window, lane), bool: the state is zero before these ids
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the hidden states (window, lane, hidden) and the state after the window.

    The memory of `projected` is used up: nothing else may read it afterwards.
    """
    hidden, last_h, last_c = _Window.apply(projected, weight, *state, starts)  # type: ignore[no-untyped-call]
    return hidden, (last_h, last_c)


class _Window(torch.autograd.Function):
    """Forward and backward of one window; a second backward pass is refused by torch."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        window, lanes, _ = gates.shape
        states = gates.new_empty(3, window + 1, lanes, h.shape[1])  # h, c, tanh c
        states[0, 0], states[1, 0] = h, c
        ctx.resets = _resets(starts, gates.dtype)
        _forward(gates, weight.t().contiguous(), states, ctx.resets)
        ctx.save_for_backward(gates, weight, states, starts)
        return states[0, 1:], states[0, -1].clone(), states[1, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        gates, weight, states, starts = ctx.saved_tensors
        upstream, last_h, last_c = grads
        dh, dc = _backward(gates, weight, states, ctx.resets, (upstream, last_h, last_c))
        entering = states[0, :-1]
        if ctx.resets:
            entering = entering.masked_fill(starts.unsqueeze(-1), 0)
        weight_grad = gates.flatten(0, 1).t() @ entering.flatten(0, 1)
        return gates, weight_grad, dh, dc, None


def _resets(starts: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
    """Return, for each step at which a tune starts, 0 in the lanes where it does, else 1."""
    steps = starts.any(1).nonzero().flatten().tolist()
    return {step: (~starts[step]).to(dtype).unsqueeze(1) for step in steps}  # (lane, 1)


def _forward(gates: Tensor, weight: Tensor, states: Tensor, resets: dict[int, Tensor]) -> None:
    """Fill in the gates and the states, step by step, in place."""
    half = states.shape[3]
    steps = gates.unbind(0)
    both = gates[:, :, : 2 * half].unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.chunk(4, 2))
    hs, cs, tanhs = (part.unbind(0) for part in states)
    for t, step in enumerate(steps):
        h = hs[t]
        if t in resets:
            h = h * resets[t]
            cs[t].mul_(resets[t])
        step.addmm_(h, weight)
        both[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        c = torch.mul(f[t], cs[t], out=cs[t + 1])
        c.addcmul_(i[t], g[t])
        torch.tanh(c, out=tanhs[t])
        torch.mul(o[t], tanhs[t], out=hs[t + 1])


def _backward(
    gates: Tensor,
    weight: Tensor,
    states: Tensor,
    resets: dict[int, Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Replace the gates by their gradients; return the gradients of the state before the window."""
    half = states.shape[3]
    steps = gates.unbind(0)
    both = gates[:, :, : 2 * half].unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.chunk(4, 2))
    cs, tanhs = states[1].unbind(0), states[2].unbind(0)
    upstream = grads[0].unbind(0)
    dh, dc = grads[1].clone(), grads[2].clone()
    scratch, room = torch.empty_like(dc), torch.empty_like(steps[0])
    d_both = room[:, : 2 * half]
    d_i, d_f, d_g, d_o = room.chunk(4, 1)
    for t in range(len(steps) - 1, -1, -1):
        dh.add_(upstream[t])
        torch.mul(dh, o[t], out=scratch)
        dc.add_(tanh_backward(scratch, tanhs[t], grad_input=scratch))
        torch.mul(dc, g[t], out=d_i)
        torch.mul(dc, cs[t], out=d_f)
        torch.mul(dc, i[t], out=d_g)
        torch.mul(dh, tanhs[t], out=d_o)
        dc.mul_(f[t])
        sigmoid_backward(d_both, both[t], grad_input=both[t])
        tanh_backward(d_g, g[t], grad_input=g[t])
        sigmoid_backward(d_o, o[t], grad_input=o[t])
        torch.mm(steps[t], weight, out=dh)
        if t in resets:
            dh.mul_(resets[t])
            dc.mul_(resets[t])
    return dh, dc
