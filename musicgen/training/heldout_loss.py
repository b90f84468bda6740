"""How well a model predicts held-out tunes.

Every tune counts whole, from its first id to its end event, from a zero state and without dropout.

- **nats a token**: the tunes' nats over the tunes' ids.
- **bits per note**: the tunes' bits over the tunes' notes. Header, bars and end are paid for too,
  so that encodings of one corpus can be compared.

Both are micro averages. The interval is the 95 % percentile bootstrap over tunes (Efron, 1979).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from musicgen.model.crew import Crew
from musicgen.model.network import SequenceModel
from musicgen.training.batches import IGNORE_INDEX, batch_whole_tunes
from musicgen.training.distributed import SINGLE_PROCESS, Ranks

SurprisalFunction = Callable[[np.ndarray], np.ndarray]  # the ids of a tune -> nats of each of them
GPU_LANES, GPU_WINDOW = 64, 128  # of a batch, on a GPU
CPU_LANES, CPU_WINDOW = 32, 64  # what a window needs stays in a core's cache


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """The score of a model on held-out tunes."""

    nats: np.ndarray  # (tune,) all of a tune's nats
    tokens: np.ndarray  # (tune,)
    notes: np.ndarray  # (tune,)

    @property
    def loss(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_note(self) -> float:
        """All bits over all notes."""
        return float(self.nats.sum() / math.log(2) / max(1, self.notes.sum()))

    def bootstrap_interval(
        self, generator: np.random.Generator, draws: int = 2000, share: float = 0.95
    ) -> tuple[float, float]:
        """Return the bootstrap interval of bits per note, over tunes."""
        chosen = generator.integers(0, len(self.nats), (draws, len(self.nats)))
        notes = np.maximum(1, self.notes[chosen].sum(1))
        bits = self.nats[chosen].sum(1) / math.log(2) / notes
        low, high = np.quantile(bits, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)


def evaluate(
    model: SequenceModel,
    tunes: Sequence[np.ndarray],
    notes: Sequence[int] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    crew: Crew | None = None,
) -> HeldOutScore:
    """Score a network on whole tunes; several processes, and a crew's threads, share them out."""
    nats = np.zeros(len(tunes))
    on_cpu = model.device.type == "cpu"
    lanes, window = (CPU_LANES, CPU_WINDOW) if on_cpu else (GPU_LANES, GPU_WINDOW)
    workers = crew.workers if crew else 1

    def score(worker: int) -> None:
        first, step = ranks.rank + ranks.world_size * worker, ranks.world_size * workers
        for chosen, inputs, targets in itertools.islice(
            batch_whole_tunes(tunes, lanes), first, None, step
        ):
            nats[chosen] = compute_batch_nats(model, inputs, targets, window)

    if crew:
        crew.each(score)
    else:
        score(0)
    return make_held_out_score(ranks.sum_array(nats), tunes, notes)


def evaluate_surprisal(
    surprisal: SurprisalFunction, tunes: Sequence[np.ndarray], notes: Sequence[int] | None = None
) -> HeldOutScore:
    """Score anything that tells the nats of each id of a tune."""
    nats = np.array([float(np.sum(surprisal(ids))) for ids in tunes])
    return make_held_out_score(nats, tunes, notes)


def make_held_out_score(
    nats: np.ndarray, tunes: Sequence[np.ndarray], notes: Sequence[int] | None
) -> HeldOutScore:
    """Put the counts beside the nats; without counts of notes, each id stands for one."""
    tokens = np.array([len(ids) for ids in tunes])
    return HeldOutScore(nats, tokens, tokens if notes is None else np.asarray(notes))


@torch.no_grad()
def compute_batch_nats(
    model: SequenceModel, inputs: np.ndarray, targets: np.ndarray, window_length: int
) -> np.ndarray:
    """Return the nats of each row, in windows of a length that bounds the memory."""
    device = model.device
    total = np.zeros(len(inputs))
    state = model.start(len(inputs))
    for start in range(0, inputs.shape[1], window_length):
        window = slice(start, start + window_length)
        logits, state = model(torch.from_numpy(inputs[:, window]), state)
        wanted = torch.from_numpy(targets[:, window]).to(device)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            wanted.flatten(),
            reduction="none",
            ignore_index=IGNORE_INDEX,
        )
        total += losses.view_as(wanted).double().sum(1).cpu().numpy()
    return total
