"""The LSTM over one window, with its backward pass through time written out.

`torch.nn.LSTM` is the reference (a test holds the two equal) and the faster one on a GPU. On a CPU
this one wins: the state is reset wherever a tune starts, so that no id of a batch is padding; the
gates' gradients replace the gates in their own memory; and the gradient of each matrix is one
product for the whole window. Lanes stand last: each gate is one block of memory, and weights times
a block of lanes is the product that one core does best.

    z_t = projected_t + U h_{t-1}                  i, f, o = sigmoid(z), g = tanh(z)
    c_t = f c_{t-1} + i g                          h_t = o tanh(c_t)

Products are taken in the type of the weights, which may be bf16; gates and states keep their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def project(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W x + b, (window, rows, lane), of inputs (window, features, lane)."""
    return _Project.apply(inputs, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def lstm_window(
    projected: Tensor,  # (window, 4 hidden, lane): the input's part of the gates, biases included
    weight: Tensor,  # (4 hidden, hidden): the recurrent weights, in torch's order i f g o
    state: tuple[Tensor, Tensor],  # h and c before the window, (hidden, lane)
    starts: Tensor,  # (window, lane), bool: the state is zero before these ids
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the hidden states (window, hidden, lane) and the state after the window.

    The memory of `projected` is used up: nothing else may read it afterwards.
    """
    hidden, last_h, last_c = _Window.apply(projected, weight, *state, starts)  # type: ignore[no-untyped-call]
    return hidden, (last_h, last_c)


class _Project(torch.autograd.Function):
    """A matrix product for every step; the matrix's gradient is one product for all steps."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        many = weight.expand(len(inputs), -1, -1)
        if weight.dtype == inputs.dtype:
            return torch.baddbmm(bias.view(1, -1, 1), many, inputs)
        return torch.bmm(many, inputs.to(weight.dtype)) + bias.view(1, -1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        many = weight.t().contiguous().expand(len(inputs), -1, -1)
        back = torch.bmm(many, grads[0].to(weight.dtype)).to(inputs.dtype)
        folded = _folded(grads[0])
        return back, _outer(folded, _folded(inputs), weight.dtype), folded.sum(1)


class _Window(torch.autograd.Function):
    """Forward and backward of one window; a second backward pass is refused by torch."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, h: Tensor, c: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        states = gates.new_empty(3, len(gates) + 1, *h.shape)  # h, c, tanh c
        states[0, 0], states[1, 0] = h, c
        ctx.resets = _resets(starts, gates.dtype)
        _forward(gates, weight, states, ctx.resets)
        ctx.save_for_backward(gates, weight, states, starts)
        return states[0, 1:], states[0, -1].clone(), states[1, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        gates, weight, states, starts = ctx.saved_tensors
        dh, dc = _backward(gates, weight.t().contiguous(), states, ctx.resets, grads)
        entering = states[0, :-1]
        if ctx.resets:
            entering = entering.masked_fill(starts.unsqueeze(1), 0)
        return gates, _outer(_folded(gates), _folded(entering), weight.dtype), dh, dc, None


def _folded(values: Tensor) -> Tensor:
    """Lay the steps beside each other: (window, rows, lane) to (rows, window x lane)."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)


def _outer(rows: Tensor, columns: Tensor, kind: torch.dtype) -> Tensor:
    """Return the gradient of a matrix: one product for all steps."""
    return rows.to(kind) @ columns.to(kind).t()


def _resets(starts: Tensor, dtype: torch.dtype) -> dict[int, Tensor]:
    """Return, for each step at which a tune starts, 0 in the lanes where it does, else 1."""
    steps = starts.any(1).nonzero().flatten().tolist()
    return {step: (~starts[step]).to(dtype) for step in steps}  # (lane,)


def _forward(gates: Tensor, weight: Tensor, states: Tensor, resets: dict[int, Tensor]) -> None:
    """Fill in the gates and the states, step by step, in place."""
    half = states.shape[2]
    both = gates[:, : 2 * half].unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.chunk(4, 1))
    hs, cs, tanhs = (part.unbind(0) for part in states)
    same = weight.dtype == gates.dtype
    for t, step in enumerate(gates.unbind(0)):
        h = hs[t]
        if t in resets:
            h = h * resets[t]
            cs[t].mul_(resets[t])
        if same:
            step.addmm_(weight, h)
        else:
            step.add_(torch.mm(weight, h.to(weight.dtype)))
        both[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        c = torch.mul(f[t], cs[t], out=cs[t + 1])
        c.addcmul_(i[t], g[t])
        torch.tanh(c, out=tanhs[t])
        torch.mul(o[t], tanhs[t], out=hs[t + 1])


def _backward(
    gates: Tensor,
    transposed: Tensor,  # (hidden, 4 hidden): the recurrent weights
    states: Tensor,
    resets: dict[int, Tensor],
    grads: tuple[Tensor, ...],  # of the hidden states, of the last h, of the last c
) -> tuple[Tensor, Tensor]:
    """Replace the gates by their gradients; return the gradients of the state before the window."""
    half = states.shape[2]
    steps = gates.unbind(0)
    both = gates[:, : 2 * half].unbind(0)
    i, f, g, o = (part.unbind(0) for part in gates.chunk(4, 1))
    cs, tanhs = states[1].unbind(0), states[2].unbind(0)
    upstream = grads[0].unbind(0)
    same = transposed.dtype == gates.dtype
    dh, dc = grads[1].clone(), grads[2].clone()
    scratch, room = torch.empty_like(dc), torch.empty_like(steps[0])
    d_both = room[: 2 * half]
    d_i, d_f, d_g, d_o = room.chunk(4, 0)
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
        if same:
            torch.mm(transposed, steps[t], out=dh)
        else:
            dh.copy_(torch.mm(transposed, steps[t].to(transposed.dtype)))
        if t in resets:
            dh.mul_(resets[t])
            dc.mul_(resets[t])
    return dh, dc
