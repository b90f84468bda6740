"""The LSTM over one window, with its backward pass through time written out.

`torch.nn.LSTM` is the reference (a test holds the two equal) and the faster one on a GPU. On a CPU
this one wins: the state is reset wherever a tune starts, so that no id of a batch is padding; the
gates' gradients replace the gates in their own memory; and the gradient of each matrix is one
product for the whole window. Lanes stand last: each gate is one block of memory, and weights times
a block of lanes is the product that one core does best.

    z_t = projected_t + U h_{t-1}                  i, f, o = sigmoid(z), g = tanh(z)
    c_t = f c_{t-1} + i g                          h_t = o tanh(c_t)

Products are taken in the type of the weights, which may be bf16; gates and states keep their own.

The loops over the steps are torch's own programs (TorchScript): a step is eight small operations
forward and fourteen backward, and threads that share a batch would wait for Python's lock at each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Loop = TypeVar("Loop", bound=Callable[..., None])


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
        kept, cut = (~starts).to(gates.dtype), starts.any(1).tolist()
        _forward(gates, weight, states, kept, cut)
        ctx.cut = cut
        ctx.save_for_backward(gates, weight, states, kept)
        return states[0, 1:], states[0, -1].clone(), states[1, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        gates, weight, states, kept = ctx.saved_tensors
        upstream, dh, dc = grads[0].contiguous(), grads[1].clone(), grads[2].clone()
        _backward(gates, weight.t().contiguous(), states, kept, ctx.cut, upstream, dh, dc)
        entering = states[0, :-1]
        if any(ctx.cut):
            entering = entering * kept.unsqueeze(1)
        return gates, _outer(_folded(gates), _folded(entering), weight.dtype), dh, dc, None


def _folded(values: Tensor) -> Tensor:
    """Lay the steps beside each other: (window, rows, lane) to (rows, window x lane)."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)


def _outer(rows: Tensor, columns: Tensor, kind: torch.dtype) -> Tensor:
    """Return the gradient of a matrix: one product for all steps."""
    return rows.to(kind) @ columns.to(kind).t()


def _program(function: Loop) -> Loop:
    """Return a loop as a program of torch's, which runs without Python."""
    with warnings.catch_warnings():  # torch would rather compile, which takes a C++ compiler
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)  # type: ignore[no-any-return]


@_program
def _forward(
    gates: Tensor,  # (window, 4 hidden, lane)
    weight: Tensor,
    states: Tensor,  # (3, window + 1, hidden, lane): h, c, tanh c
    kept: Tensor,  # (window, lane): 0 where a tune starts, else 1
    cut: list[bool],  # whether a tune starts at a step, in any lane
) -> None:
    """Fill in the gates and the states, step by step, in place."""
    half = states.size(2)
    same = weight.dtype == gates.dtype
    both = gates[:, : 2 * half].unbind(0)
    i, f, g, o = [part.unbind(0) for part in gates.chunk(4, 1)]
    hs, cs, tanhs = [part.unbind(0) for part in states.unbind(0)]
    for t, step in enumerate(gates.unbind(0)):
        h = hs[t]
        if cut[t]:
            h = h * kept[t]
            cs[t].mul_(kept[t])
        if same:
            step.addmm_(weight, h)
        else:
            step.add_(torch.mm(weight, h.to(weight.dtype)))
        both[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        torch.mul(f[t], cs[t], out=cs[t + 1])
        cs[t + 1].addcmul_(i[t], g[t])
        torch.tanh(cs[t + 1], out=tanhs[t])
        torch.mul(o[t], tanhs[t], out=hs[t + 1])


@_program
def _backward(
    gates: Tensor,
    transposed: Tensor,  # (hidden, 4 hidden): the recurrent weights
    states: Tensor,
    kept: Tensor,
    cut: list[bool],
    upstream: Tensor,  # (window, hidden, lane): the gradient of the hidden states
    dh: Tensor,  # of the state after the window; becomes that of the state before it
    dc: Tensor,
) -> None:
    """Replace the gates by their gradients, and the state's gradient by that before the window."""
    half = states.size(2)
    same = transposed.dtype == gates.dtype
    both = gates[:, : 2 * half].unbind(0)
    steps = gates.unbind(0)
    i, f, g, o = [part.unbind(0) for part in gates.chunk(4, 1)]
    cs, tanhs = states[1].unbind(0), states[2].unbind(0)
    scratch, room = torch.empty_like(dc), torch.empty_like(steps[0])
    d_both = room[: 2 * half]
    d_i, d_f, d_g, d_o = room.chunk(4, 0)
    for back in range(len(steps)):
        t = len(steps) - 1 - back
        dh.add_(upstream[t])
        torch.mul(dh, o[t], out=scratch)
        torch.ops.aten.tanh_backward(scratch, tanhs[t], grad_input=scratch)
        dc.add_(scratch)
        torch.mul(dc, g[t], out=d_i)
        torch.mul(dc, cs[t], out=d_f)
        torch.mul(dc, i[t], out=d_g)
        torch.mul(dh, tanhs[t], out=d_o)
        dc.mul_(f[t])
        torch.ops.aten.sigmoid_backward(d_both, both[t], grad_input=both[t])
        torch.ops.aten.tanh_backward(d_g, g[t], grad_input=g[t])
        torch.ops.aten.sigmoid_backward(d_o, o[t], grad_input=o[t])
        if same:
            torch.mm(transposed, steps[t], out=dh)
        else:
            dh.copy_(torch.mm(transposed, steps[t].to(transposed.dtype)))
        if cut[t]:
            dh.mul_(kept[t])
            dc.mul_(kept[t])
