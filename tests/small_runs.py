"""Small runs for the tests: texts of a few letters, and models that learn them in no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.config import ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.tokens.text import TextCodec
from musicgen.training.plan import Plan
from musicgen.training.run import SaveSchedule, TrainingRun

LETTERS = "abcdefgh"


def texts(count: int, seed: int) -> list[str]:
    """Draw words over and over from a few letters: there is something to learn."""
    luck = np.random.default_rng(seed)
    words = ["abc", "fade", "head", "cab", "beg"]
    return ["".join(luck.choice(words, 6).tolist()) for _ in range(count)]


def small_dataset(seed: int = 0, tunes: int = 12) -> Dataset:
    """Return a data set of texts: most to learn from, four to stop by, three for the test."""
    codec = TextCodec("text", LETTERS, is_word_level=False)
    parts = {"train": texts(tunes, seed), "valid": texts(4, seed + 1), "test": texts(3, seed + 2)}
    return Dataset(
        **{part: [encoded(codec, text) for text in found] for part, found in parts.items()},
        codec=codec.name,
        vocabulary=codec.vocabulary.names,
        refusals={},
        sources=("letters",),
    )


def encoded(codec: Any, text: str) -> EncodedTune:
    ids = np.array(codec.encode(text).ids, np.int16)
    return EncodedTune(ids, len(text), text, "letters", text, "", "", "", "{}")


def small_plan(dataset: Dataset, updates: int = 40, **more: Any) -> Plan:
    """Return a plan of so many updates, with an evaluation every eight of them."""
    shape = {"layers": 1, "hidden": 12, "embedding": 12} | more.pop("shape", {})
    settings = {"lanes": 3, "bptt": 7, "evaluate_every": 8 * 21, "patience": 99} | more
    training = TrainingSettings(tokens=updates * 21, **settings)
    return Plan(ModelSettings(dataset.vocabulary_size, **shape), training, "cpu")


def small_run(
    folder: Path, *, every: float | None = 0.0, seed: int = 0, **more: Any
) -> TrainingRun:
    """Return a run that saves after each update."""
    dataset = small_dataset(seed)
    plan = small_plan(dataset, **more.pop("plan", {}))
    return TrainingRun(
        dataset, plan, folder.name, folder, save_schedule=SaveSchedule(every), **more
    )


def weights_of(run: TrainingRun) -> dict[str, bytes]:
    """Return everything that a run's end depends on, as bytes."""
    arrays = run.trainer.copy_state().arrays
    return {name: array.tobytes() for name, array in arrays.items()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def steps(run: TrainingRun) -> Iterator[int]:
    """Train, and say the number of each update."""
    return (progress.step for progress in run.train())
