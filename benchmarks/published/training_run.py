"""Train a network on a published benchmark, save its weights, and score parts with them."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.published.recipes import Recipe
from musicgen.checkpoint import Manifest, Weights, load, round_to_float16, save
from musicgen.config import ModelSettings
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.devices import choose_precision
from musicgen.model.network import LanguageModel
from musicgen.music.arrays import TokenIds
from musicgen.training.batches import ContextCache, ContextSource
from musicgen.training.heldout_loss import evaluate
from musicgen.training.trainer import Progress, Trainer

Parts = Mapping[str, Sequence[TokenIds]]  # by name: train, valid, test
REPORTED: Final = 600  # seconds between two lines of progress, at most


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark, ready for training.

    Attributes:
        parts: the ids of its pieces.
        units: what the nats of a piece are divided by, from its ids: frames, or tokens.
        make_model: from settings and generator.
        vocabulary: the names of all events.
        codec: the name of the codec in a checkpoint.
        pitch_ranges: ids to transpose.
        context_source: of the fields that the model reads; None: that of its codec.
    """

    parts: Parts
    units: Callable[[TokenIds], int]
    make_model: Callable[[ModelSettings, torch.Generator | None], LanguageModel]
    vocabulary: tuple[str, ...]
    codec: str
    pitch_ranges: Sequence[range] = ()
    context_source: ContextSource | None = None

    def score(self, model: LanguageModel, part: str) -> HeldOutScore:
        """Score a part: whole pieces, without dropout, in fp32."""
        pieces = self.parts[part]
        source = self.context_source
        contexts = None if source is None else ContextCache(pieces, source)
        units = [self.units(ids) for ids in pieces]
        return evaluate(model, pieces, units, contexts=contexts)


@dataclass(frozen=True)
class TrainingRun:
    """The result of a training run."""

    weights: Weights  # those of the best evaluation, rounded to float16
    recipe: Recipe
    minutes: float
    epochs: float


def train(benchmark: Benchmark, recipe: Recipe) -> TrainingRun:
    """Train a network, and keep the weights with the lowest loss on the validation part."""
    start = time.perf_counter()
    precision = choose_precision(recipe.training.precision, torch.device("cpu"))
    settings = replace(recipe.training, precision=precision)
    model = benchmark.make_model(recipe.model, torch.Generator().manual_seed(settings.seed))
    trainer = Trainer(
        model,
        benchmark.parts["train"],
        benchmark.parts["valid"],
        settings,
        [benchmark.units(ids) for ids in benchmark.parts["valid"]],
        pitch_ranges=benchmark.pitch_ranges,
        context_source=benchmark.context_source,
    )
    epochs = 0.0
    for progress in trainer.run():
        epochs = progress.epoch
        if progress.held_out_score is not None:
            _report(progress, time.perf_counter() - start)
    minutes = (time.perf_counter() - start) / 60
    weights = round_to_float16(trainer.best.weights)
    return TrainingRun(weights, replace(recipe, training=settings), minutes, epochs)


def _report(progress: Progress, seconds: float) -> None:
    score = progress.held_out_score
    assert score is not None
    print(
        f"{seconds / 60:5.1f} min, epoch {progress.epoch:5.1f}, {progress.tokens:,} tokens,"
        f" {progress.tokens_per_second:,.0f} tokens/s: training {progress.loss:.3f} per token,"
        f" valid {measure(score):.4f}{' *' if progress.is_best else ''}",
        file=sys.stderr,
        flush=True,
    )


def measure(score: HeldOutScore) -> float:
    """Return nats per unit: those of all pieces over their frames, or tokens."""
    return float(score.nats.sum() / score.notes.sum())


def save_run(folder: Path, benchmark: Benchmark, run: TrainingRun, command: str) -> None:
    """Write the weights of a run, with its command and figures, to a new folder.

    Raises:
        OutputExists: the folder exists and is not that of a model.
        WriteFailed: the system refused to write.
    """
    model = restore_model(benchmark, run.weights, run.recipe.model)
    figures = {
        f"{part}_nats": round(measure(benchmark.score(model, part)), 4)
        for part in ("valid", "test")
        if part in benchmark.parts
    }
    seen = np.bincount(
        np.concatenate(benchmark.parts["train"]), minlength=len(benchmark.vocabulary)
    )
    manifest = Manifest(
        folder.name,
        1,
        run.recipe.model,
        benchmark.vocabulary,
        tuple(seen.tolist()),
        benchmark.codec,
        training={
            **asdict(run.recipe.training),
            "command": command,
            "minutes": round(run.minutes, 1),
            "epochs": round(run.epochs, 1),
            "machine": describe_machine(),
            **figures,
        },
    )
    save(folder, run.weights, manifest, force=True)


def restore_model(benchmark: Benchmark, weights: Weights, settings: ModelSettings) -> LanguageModel:
    """Return the model of some weights."""
    model = benchmark.make_model(settings, None)
    model.load_weights(weights)
    return model


def load_model(benchmark: Benchmark, folder: Path) -> LanguageModel:
    """Load the model that was saved in a folder.

    Raises:
        NotFound: there is no such folder.
        DamagedCheckpoint: its bytes changed.
    """
    checkpoint = load(folder)
    return restore_model(benchmark, checkpoint.weights, checkpoint.settings)


def describe_machine() -> str:
    """Return the processor, the number of threads and the version of torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{processor}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def to_figures(scores: Mapping[str, HeldOutScore]) -> dict[str, Any]:
    """Return the figures of some parts as JSON values."""
    return {part: round(measure(score), 4) for part, score in scores.items()}
