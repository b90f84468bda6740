"""Small training runs for the tests: texts of a few letters, and models that learn them fast."""

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
TEXT_LENGTH = 20  # with the end event, three windows of seven ids without padding


def draw_texts(count: int, seed: int) -> list[str]:
    """Draw texts from a few words of a few letters."""
    rng = np.random.default_rng(seed)
    vocabulary = ["abc", "fade", "head", "cab", "beg"]
    return ["".join(rng.choice(vocabulary, 7).tolist())[:TEXT_LENGTH] for _ in range(count)]


def small_dataset(seed: int = 0, tunes: int = 12) -> Dataset:
    """Return a data set of texts, with four validation and three test texts."""
    codec = TextCodec("text", LETTERS, is_word_level=False)
    parts = {
        "train": draw_texts(tunes, seed),
        "valid": draw_texts(4, seed + 1),
        "test": draw_texts(3, seed + 2),
    }
    return Dataset(
        **{
            part: [encode_text(codec, text) for text in part_texts]
            for part, part_texts in parts.items()
        },
        codec=codec.name,
        vocabulary=codec.vocabulary.names,
        refusals={},
        sources=("letters",),
    )


def encode_text(codec: Any, text: str) -> EncodedTune:
    ids = np.array(codec.encode(text).ids, np.int16)
    return EncodedTune(ids, len(text), text, "letters", text, "", "", "", "{}")


def small_plan(dataset: Dataset, updates: int = 40, **options: Any) -> Plan:
    """Return a plan of a number of updates, with an evaluation after every eighth."""
    shape = {"layers": 1, "hidden": 12, "embedding": 12} | options.pop("shape", {})
    settings = {"lanes": 3, "bptt": 7, "evaluate_every": 8 * 21, "patience": 99} | options
    training = TrainingSettings(tokens=updates * 21, **settings)
    return Plan(ModelSettings(dataset.vocabulary_size, **shape), training, "cpu")


def small_run(
    folder: Path, *, every: float | None = 0.0, seed: int = 0, **options: Any
) -> TrainingRun:
    """Return a run that saves after each update, or every `every` seconds."""
    dataset = small_dataset(seed)
    plan = small_plan(dataset, **options.pop("plan", {}))
    return TrainingRun(
        dataset, plan, folder.name, folder, save_schedule=SaveSchedule(every), **options
    )


def weights_of(run: TrainingRun) -> dict[str, bytes]:
    """Return all arrays of the state of a run, as bytes."""
    arrays = run.trainer.copy_state().arrays
    return {name: array.tobytes() for name, array in arrays.items()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def steps(run: TrainingRun) -> Iterator[int]:
    """Train, and yield the number of each update."""
    return (progress.step for progress in run.train())
