"""Held-out loss: how well a model predicts tunes that it was not trained on.

Every tune is scored whole, from its first id to its end event, from a zero state, without dropout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from musicgen.config import ModelSettings
from musicgen.evaluation.heldout_score import HeldOutScore, make_held_out_score
from musicgen.model.devices import autocast
from musicgen.model.network import SequenceModel
from musicgen.music.arrays import FloatArray, IntArray, TokenIds
from musicgen.tokens.context_families import make_whole_contexts
from musicgen.tokens.context_source import WholeContexts
from musicgen.training.batches import (
    IGNORE_INDEX,
    ContextCache,
    batch_whole_tunes,
    pad_contexts,
)
from musicgen.training.distributed import SINGLE_PROCESS, Ranks

BATCH_TUNES: Final = 64
WINDOW: Final = 128  # ids per forward pass


def make_context_cache(
    model: SequenceModel, tunes: Sequence[TokenIds], source: WholeContexts | None = None
) -> ContextCache | None:
    """Return a cache of the score contexts of tunes; None for a model that reads none.

    Args:
        model: says which fields it reads.
        tunes: (token,) int16 or int64 each.
        source: of the fields that the model reads; None: that of its codec.
    """
    settings = model.settings
    if not isinstance(settings, ModelSettings):
        return None
    source = source or make_whole_contexts(settings.context_fields)
    return None if source is None else ContextCache(tunes, source)


def evaluate(
    model: SequenceModel,
    tunes: Sequence[TokenIds],
    notes: Sequence[int] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    precision: str = "fp32",
    contexts: ContextCache | None = None,
) -> HeldOutScore:
    """Score a network on whole tunes, shared among the processes.

    Args:
        model: on any device.
        tunes: (token,) int16 or int64 each.
        notes: notes of each tune; None counts each id as a note.
        ranks: the processes; all of them must call this.
        precision: of the matrix products, fp32 or bf16.
        contexts: of the same tunes, for a model that reads the score context; None computes them.
    """
    nats = np.zeros(len(tunes))
    contexts = contexts or make_context_cache(model, tunes)
    batches = batch_whole_tunes(tunes, BATCH_TUNES)
    for chosen, inputs, targets in itertools.islice(batches, ranks.rank, None, ranks.world_size):
        padded = None
        if contexts is not None:
            upcoming = chosen[::-1]
            padded = pad_contexts(
                [contexts.get(index, upcoming) for index in chosen], inputs.shape[1]
            )
        with autocast(model.device, precision):
            nats[chosen] = compute_batch_nats(model, inputs, targets, WINDOW, padded)
    return make_held_out_score(ranks.sum_array(nats), tunes, notes)


@torch.no_grad()
def compute_batch_nats(
    model: SequenceModel,
    inputs: IntArray,
    targets: IntArray,
    window_length: int,
    contexts: IntArray | None = None,
) -> FloatArray:
    """Return the nats of each tune of a padded batch.

    Args:
        model: on any device.
        inputs: (tune, length) int64.
        targets: (tune, length) int64, IGNORE_INDEX at padding.
        window_length: ids per forward pass, which bounds the memory.
        contexts: (tune, length, field) int64, for a model that reads the score context.

    Returns:
        (tune,) float64.
    """
    device = model.device
    total = np.zeros(len(inputs))
    state = model.start(len(inputs))
    for first in range(0, inputs.shape[1], window_length):
        window = slice(first, first + window_length)
        context = None if contexts is None else torch.from_numpy(contexts[:, window])
        logits, state = model(torch.from_numpy(inputs[:, window]), state, context=context)
        window_targets = torch.from_numpy(targets[:, window]).to(device)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            window_targets.flatten(),
            reduction="none",
            ignore_index=IGNORE_INDEX,
        )
        total += losses.view_as(window_targets).double().sum(1).cpu().numpy()
    return total
