"""Training with and without the vertical context, on tunes whose second part copies the first."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch.nn import functional

from musicgen.config import BEGIN_ID, CONTEXTS, ModelSettings, TrainingSettings
from musicgen.model.network import LanguageModel
from musicgen.tokens.score_context import ContextTable, compute_contexts
from musicgen.tokens.vocabulary import MEASURES
from musicgen.training.trainer import Trainer

HEADER: Final = [
    *(MEASURES.id("meter", "2/4"), MEASURES.id("mode", "major"), MEASURES.id("rhythm", "")),
    MEASURES.id("lineup", 2),
    *(MEASURES.id("role", "melody"), MEASURES.id("family", "reed")) * 2,
]
DURATIONS: Final = (12, 24, 36, 48)
UPDATES: Final = 400


def draw_copied_tune(seed: int, bars: int = 6) -> list[int]:
    """Draw a tune of random notes, in which part 1 plays in each bar what part 0 does."""
    rng = np.random.default_rng(seed)
    ids = list(HEADER)
    for _ in range(bars):
        notes: list[int] = []
        left = 96
        while left:
            steps = int(rng.choice([steps for steps in DURATIONS if steps <= left]))
            pitch = MEASURES.id("pitch", int(rng.integers(-5, 12)))
            notes += [MEASURES.id("duration", steps), pitch]
            left -= steps
        ids += [MEASURES.id("bar"), *notes, MEASURES.id("part", 1), *notes]
    return [*ids, MEASURES.id("end")]


def train_copyist(context: str) -> LanguageModel:
    """Train a small model on tunes with a copied part, for UPDATES updates."""
    shape = ModelSettings(
        len(MEASURES), layers=1, hidden=64, embedding=32, dropout=0, embedding_dropout=0,
        context=CONTEXTS[context],
    )  # fmt: skip
    settings = TrainingSettings(
        tokens=UPDATES * 8 * 32, lanes=8, bptt=32, learning_rate=0.01, evaluate_every=10**9
    )
    tunes = [np.array(draw_copied_tune(seed), np.int16) for seed in range(400)]
    model = LanguageModel(shape, torch.Generator().manual_seed(2))
    for _ in Trainer(model, tunes, [], settings).run():
        pass
    return model


def measure_copied_part(model: LanguageModel) -> float:
    """Return the mean loss, in nats, of the ids of part 1 in tunes that were not trained on."""
    losses: list[float] = []
    table = ContextTable(has_vertical=model.settings.reads_vertical)
    for seed in range(1000, 1010):
        ids = np.array(draw_copied_tune(seed))
        (fields,) = compute_contexts([ids], table)
        inputs = torch.from_numpy(np.r_[BEGIN_ID, ids[:-1]])[None]
        with torch.no_grad():
            logits, _ = model(inputs, context=torch.from_numpy(fields.astype(np.int64))[None])
        nats = functional.cross_entropy(logits[0], torch.from_numpy(ids), reduction="none")
        is_copy = False
        for id_, loss in zip(ids.tolist(), nats.tolist(), strict=True):
            is_copy = is_copy and MEASURES.events[id_].kind in ("duration", "pitch")
            losses += [loss] if is_copy else []
            is_copy = is_copy or MEASURES.events[id_].kind == "part"
    return float(np.mean(losses))


def test_other_part_is_copied_with_the_vertical_context() -> None:
    without, with_vertical = (
        measure_copied_part(train_copyist(context)) for context in ("all", "all+vertical")
    )
    assert with_vertical < 0.25
    assert without > 3 * with_vertical
