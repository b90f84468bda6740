"""Progress of a simulated run, and a clock that a test sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.training.trainer import Progress

TOKENS, STEPS, EPOCH = 2_000, 100, 20_000  # tokens per update, updates, tokens per epoch


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def make_score(bits: float) -> HeldOutScore:
    """Return a score in bits per note, on one tune of one note."""
    return HeldOutScore(np.array([bits * np.log(2)]), np.array([1]), np.array([1]))


def make_progress(step: int, bits: float | None = None, **changes: Any) -> Progress:
    """Return the progress of an update: half a second for 2,000 tokens."""
    progress = Progress(
        step=step,
        tokens=TOKENS * step,
        planned_tokens=TOKENS * STEPS,
        epoch=TOKENS * step / EPOCH,
        loss=1.5,
        gradient_norm=0.25,
        clipped_share=0.125,
        learning_rate=0.003,
        tokens_per_second=2 * TOKENS,
        memory_bytes=640 * 2**20,
        held_out_score=None if bits is None else make_score(bits),
    )
    return replace(progress, **changes)
