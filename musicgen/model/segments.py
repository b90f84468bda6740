"""Where tunes start inside a window, laid out for torch's own recurrent layers.

Each lane is cut where a tune starts. The pieces are packed, the longest first, so that one call
runs them all and none feels what stood before it in its lane. Everything is worked out on the CPU,
where the ids come from: a GPU is given finished indices and never waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from musicgen.config import BEGIN_ID
from musicgen.model.devices import send


@dataclass(frozen=True, slots=True)
class Segments:
    """The pieces of the lanes of one window, in packed order."""

    rows: Tensor  # (lane x window,): the packed rows, as places of the window laid lane by lane
    places: Tensor  # (lane x window,): where each place stands in the packed rows
    sizes: Tensor  # (longest,), on the CPU: how many pieces reach each step
    lanes: Tensor  # (piece,): the lane of each piece
    carried: Tensor  # (piece, 1): 1 for a piece that goes on from the window before, else 0
    last: Tensor  # (lane,): the piece that ends each lane

    def to(self, device: torch.device) -> Segments:
        """Return them on a device; the sizes stay."""
        moved = (send(part, device) for part in (self.lanes, self.carried, self.last))
        return Segments(send(self.rows, device), send(self.places, device), self.sizes, *moved)


def cut(ids: Tensor) -> Segments:
    """Cut a window of ids (lane, window), on the CPU, where its tunes start."""
    starts = ids == BEGIN_ID
    cuts = starts.clone()
    cuts[:, 0] = True
    lane, begin = cuts.nonzero().unbind(1)
    flat = lane * ids.shape[1] + begin
    lengths, order = torch.diff(flat, append=flat.new_tensor([ids.numel()])).sort(
        descending=True, stable=True
    )
    steps = torch.arange(int(lengths[0])).unsqueeze(1)
    real = steps < lengths  # (step, piece)
    rows = (flat[order] + steps)[real]
    ends = torch.cat([lane[1:] != lane[:-1], lane.new_ones(1, dtype=torch.bool)])
    carried = (begin == 0) & ~starts[lane, 0]
    return Segments(
        rows,
        rows.argsort(),
        real.sum(1),
        lane[order],
        carried[order].unsqueeze(1).float(),
        order.argsort()[ends],
    )


def run_segments(
    layer: nn.Module, inputs: Tensor, state: tuple[Tensor, ...], segments: Segments
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one of torch's layers over a window (window, lane, features), cut where tunes start."""
    window, lanes = inputs.shape[:2]
    rows = inputs.transpose(0, 1).flatten(0, 1)[segments.rows]
    carried = segments.carried.to(inputs.dtype)
    before = tuple((part[segments.lanes] * carried).unsqueeze(0).to(rows.dtype) for part in state)
    packed = PackedSequence(rows, segments.sizes)
    output, after = layer(packed, before if len(before) > 1 else before[0])
    outputs = output.data[segments.places].view(lanes, window, -1).transpose(0, 1)
    parts = after if len(before) > 1 else (after,)
    return outputs, tuple(part[0, segments.last] for part in parts)
