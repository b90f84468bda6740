"""Batched sampling with torch, on the CPU or on CUDA: the counterpart of the NumPy batch engine.

The weights are packed once: the input of the first layer is a row of a table, and each other layer
multiplies its input and its own state in one product. Products are in bfloat16 if the hardware has
it, sums and states in float32. Masks and draws stay in `sampling/batch_sampler.py`, which receives
the logits of the events that can be drawn, a few kilobytes per step.

Its rounding differs from that of the NumPy engine, so near ties may be drawn differently. On one
machine, the same seed gives the same tunes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from musicgen.model.devices import has_bf16
from musicgen.sampling.batch_sampler import add_gates
from musicgen.sampling.engine import GRU, LSTM, RNN, Cell, EngineState, NumpyEngine
from musicgen.sampling.noise import Ids

FloatArray: TypeAlias = NDArray[np.floating[Any]]
StepFunction: TypeAlias = Callable[[Tensor, Tensor, Tensor], None]  # gates, h, c; updates h and c


class TorchBatchEngine:
    """Runs the model of a one-tune engine, with its restricted vocabulary, on several lanes."""

    def __init__(
        self,
        engine: NumpyEngine,
        lanes: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = dtype or (torch.bfloat16 if has_bf16(self.device) else torch.float32)
        self.cells = engine.cells
        self.hidden = engine.settings.hidden
        layers = len(engine.cells)
        self.hidden_states = self._make_zeros(lanes, layers * self.hidden)  # each layer's h
        self.cell_states = self._make_zeros(layers, lanes, self.hidden)  # each layer's c
        self.engine = engine
        self.table = self._to_float_tensor(engine.event_rows.whole)
        source = engine.context_source
        self.contexts = None if source is None else source.start_lanes(lanes)
        self.context_tables = [
            (index, self._to_float_tensor(rows.whole)) for index, rows in engine.context_rows
        ]
        self.multi_hot_rows = engine.multi_hot_rows
        if self.multi_hot_rows is not None:
            self.bit_table = self._to_float_tensor(self.multi_hot_rows.whole)
        self.biases = [
            self._to_float_tensor(_make_sum_bias(cell, first=not n))
            for n, cell in enumerate(self.cells)
        ]
        self.weights = [
            self._pack_weight(_stack_weights(cell, first=not n))
            for n, cell in enumerate(self.cells)
        ]
        self.steps: list[StepFunction] = [self._make_step(cell) for cell in self.cells]
        self.narrow = None if engine.narrow is None else self._pack_weight(engine.narrow)
        self.head = self._pack_weight(engine.head)
        self.head_bias = self._to_float_tensor(engine.head_bias)

    def _make_zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)

    def _to_float_tensor(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(np.array(array, np.float32)).to(self.device)

    def _pack_weight(self, weight: FloatArray) -> Tensor:
        """Transpose a matrix (rows, inputs) to (inputs, rows), in the dtype of products."""
        return self._to_float_tensor(weight.T).to(self.dtype)

    def set_state(self, lane: int, state: EngineState) -> None:
        """Set a lane to a state of the one-tune engine."""
        if self.contexts is not None and state.context is not None:
            self.contexts.set_context(lane, state.context)
        tensor = self._to_float_tensor(state.layers)
        self.hidden_states[lane] = tensor[:, 0].flatten()
        if tensor.shape[1] > 1:
            self.cell_states[:, lane] = tensor[:, 1]

    def select_lanes(self, lane_indices: Ids) -> None:
        """Keep some of the lanes; lane_indices is (lane,) int64."""
        if self.contexts is not None:
            self.contexts.select_lanes(lane_indices)
        index = torch.from_numpy(lane_indices).to(self.device)
        self.hidden_states, self.cell_states = self.hidden_states[index], self.cell_states[:, index]

    @torch.inference_mode()
    def step(self, ids: Ids) -> NDArray[np.float32]:
        """Feed one id to each lane, (lane,) int64; return the logits, (lane, live) float32."""
        size, fields = self.hidden, None
        if self.contexts is not None:
            self.contexts.take(ids)
            fields = self.contexts.compute_fields()
        rows = self._sum_rows(ids, fields)
        for number, step in enumerate(self.steps):
            hidden = self.hidden_states[:, number * size : (number + 1) * size]
            step(self._sum_gates(number, rows), hidden, self.cell_states[number])
        logits: NDArray[np.float32] = self.compute_logits(hidden).cpu().numpy()
        if fields is not None and self.engine.gates is not None:
            add_gates(logits, self.engine, hidden.cpu().numpy(), fields)
        return logits

    def _sum_rows(self, ids: Ids, fields: Ids | None) -> Tensor:
        """Return the inputs of the first layer's gates, (lane, rows): of the ids and contexts."""
        rows = functional.embedding(torch.from_numpy(ids).to(self.device), self.table)
        if fields is not None:
            values = torch.from_numpy(fields).to(self.device)
            for index, table in self.context_tables:
                rows += functional.embedding(values[:, index], table)
            if self.multi_hot_rows is not None:
                rows += self._to_float_tensor(self.multi_hot_rows.unpack(fields)) @ self.bit_table
        return rows

    def compute_logits(self, output: Tensor) -> Tensor:
        """Return the logits (lane, live) of the last layer's outputs (lane, hidden), float32."""
        if self.narrow is not None:
            output = output.to(self.dtype) @ self.narrow
        return (output.to(self.dtype) @ self.head).float() + self.head_bias

    def _sum_gates(self, number: int, rows: Tensor) -> Tensor:
        """Return the gate inputs of a layer, (lane, rows), without those that a GRU resets."""
        hidden, weight = self.hidden, self.weights[number]
        is_gru = isinstance(self.cells[number], GRU)
        if number == 0:
            return (
                rows if is_gru else self._multiply_add(rows, self.hidden_states[:, :hidden], weight)
            )
        first, last = (number - 1) * hidden, (number + (not is_gru)) * hidden
        return self._multiply_add(self.biases[number], self.hidden_states[:, first:last], weight)

    def _multiply_add(self, addend: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        """Return values @ weight + addend in float32."""
        if self.dtype == torch.float32:
            return torch.addmm(addend, values, weight)
        return (values.to(self.dtype) @ weight).float() + addend

    def _make_step(self, cell: Cell) -> StepFunction:
        if isinstance(cell, LSTM):
            return _lstm_step
        if isinstance(cell, GRU):
            weight = self._pack_weight(cell.recurrent)
            bias = self._to_float_tensor(cell.recurrent_bias)
            return lambda z, h, _: _gru_step(z, self._multiply_add(bias, h, weight), h)
        assert isinstance(cell, RNN)
        return partial(_rnn_step, torch.relu if cell.relu else torch.tanh)


def _lstm_step(z: Tensor, h: Tensor, c: Tensor) -> None:
    i, f, g, o = z.chunk(4, 1)
    z[:, : 2 * h.shape[1]].sigmoid_()
    g.tanh_()
    o.sigmoid_()
    c.mul_(f).addcmul_(i, g)
    torch.mul(o, c.tanh(), out=h)


def _rnn_step(activation: Callable[[Tensor], Tensor], z: Tensor, h: Tensor, _: Tensor) -> None:
    h.copy_(activation(z))


def _gru_step(z: Tensor, recurrent: Tensor, h: Tensor) -> None:
    size = h.shape[1]
    gates = (z[:, : 2 * size] + recurrent[:, : 2 * size]).sigmoid_()
    candidate = (z[:, 2 * size :] + gates[:, :size] * recurrent[:, 2 * size :]).tanh_()
    h.sub_(candidate).mul_(gates[:, size:]).add_(candidate)


def _stack_weights(cell: Any, *, first: bool) -> FloatArray:
    """Return the matrix of a layer's step, (rows, inputs): W, U, or both side by side."""
    if isinstance(cell, GRU):
        return cell.inputs
    parts = [cell.recurrent] if first else [cell.inputs, cell.recurrent]
    return np.concatenate(parts, axis=1)


def _make_sum_bias(cell: Cell, *, first: bool) -> FloatArray:
    """Return the bias of a layer's step; that of the first layer is in its table."""
    return np.zeros_like(cell.bias) if first else cell.bias
