"""Held-out loss: how well a model predicts tunes that it was not trained on.

Every tune is scored whole, from its first id to its end event, from a zero state, without dropout.

- **nats per token**: the nats of all tunes over their ids.
- **bits per note**: the bits of all tunes over their notes. Header, bars and end are included, so
  that different encodings of one corpus can be compared.

Both are micro averages. The interval is the 95 % percentile bootstrap over tunes (Efron, 1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from musicgen.model.network import SequenceModel
from musicgen.music.arrays import FloatArray, IntArray
from musicgen.training.batches import IGNORE_INDEX, TokenIds, batch_whole_tunes
from musicgen.training.distributed import SINGLE_PROCESS, Ranks

SurprisalFunction: TypeAlias = Callable[[TokenIds], FloatArray]  # ids of a tune -> nats of each
BATCH_TUNES: Final = 64
WINDOW: Final = 128  # ids per forward pass


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """The score of a model on held-out tunes."""

    nats: FloatArray  # (tune,) float64, the sum over the ids of each tune
    tokens: IntArray  # (tune,) int64
    notes: IntArray  # (tune,) int64

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_note(self) -> float:
        """Bits per note: the bits of all tunes over their notes."""
        return float(self.nats.sum() / math.log(2) / max(1, self.notes.sum()))

    def bootstrap_interval(
        self, generator: np.random.Generator, samples: int = 2000, share: float = 0.95
    ) -> tuple[float, float]:
        """Return the bootstrap interval of bits per note, resampling tunes.

        Args:
            generator: draws the samples.
            samples: number of bootstrap samples.
            share: coverage of the interval, 0 to 1.
        """
        chosen = generator.integers(0, len(self.nats), (samples, len(self.nats)))
        notes = np.maximum(1, self.notes[chosen].sum(1))
        bits = self.nats[chosen].sum(1) / math.log(2) / notes
        low, high = np.quantile(bits, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)


def evaluate(
    model: SequenceModel,
    tunes: Sequence[TokenIds],
    notes: Sequence[int] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> HeldOutScore:
    """Score a network on whole tunes, shared among the processes.

    Args:
        model: on any device.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
        ranks: the processes; all of them must call this.
    """
    nats = np.zeros(len(tunes))
    batches = batch_whole_tunes(tunes, BATCH_TUNES)
    for chosen, inputs, targets in itertools.islice(batches, ranks.rank, None, ranks.world_size):
        nats[chosen] = compute_batch_nats(model, inputs, targets, WINDOW)
    return make_held_out_score(ranks.sum_array(nats), tunes, notes)


def evaluate_surprisal(
    surprisal: SurprisalFunction, tunes: Sequence[TokenIds], notes: Sequence[int] | None = None
) -> HeldOutScore:
    """Score a model given by a function from a tune to the nats of each of its ids.

    Args:
        surprisal: from (token,) ids to (token,) float64 nats.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
    """
    nats = np.array([float(np.sum(surprisal(ids))) for ids in tunes])
    return make_held_out_score(nats, tunes, notes)


def make_held_out_score(
    nats: FloatArray, tunes: Sequence[TokenIds], notes: Sequence[int] | None
) -> HeldOutScore:
    """Combine nats per tune with the counts of ids and notes.

    Args:
        nats: (tune,) float64.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
    """
    tokens = np.array([len(ids) for ids in tunes])
    return HeldOutScore(nats, tokens, tokens if notes is None else np.asarray(notes))


@torch.no_grad()
def compute_batch_nats(
    model: SequenceModel, inputs: IntArray, targets: IntArray, window_length: int
) -> FloatArray:
    """Return the nats of each tune of a padded batch.

    Args:
        model: on any device.
        inputs: (tune, length) int64.
        targets: (tune, length) int64, IGNORE_INDEX at padding.
        window_length: ids per forward pass, which bounds the memory.

    Returns:
        (tune,) float64.
    """
    device = model.device
    total = np.zeros(len(inputs))
    state = model.start(len(inputs))
    for first in range(0, inputs.shape[1], window_length):
        window = slice(first, first + window_length)
        logits, state = model(torch.from_numpy(inputs[:, window]), state)
        window_targets = torch.from_numpy(targets[:, window]).to(device)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            window_targets.flatten(),
            reduction="none",
            ignore_index=IGNORE_INDEX,
        )
        total += losses.view_as(window_targets).double().sum(1).cpu().numpy()
    return total
