"""Train a network on a published benchmark, save its weights, and score parts with them."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch

from benchmarks.published.recipes import Recipe
from musicgen.checkpoint import Manifest, Weights, load, round_to_float16, save
from musicgen.config import ModelSettings
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.devices import choose_precision
from musicgen.model.network import LanguageModel, SequenceModel
from musicgen.music.arrays import TokenIds
from musicgen.tokens.context_source import WholeContexts
from musicgen.tokens.frame_context import MOST_TRANSPOSITION
from musicgen.training.batches import ContextCache
from musicgen.training.heldout_loss import evaluate
from musicgen.training.trainer import Progress, Trainer
from musicgen.typed_data import check_schema

Parts = Mapping[str, Sequence[TokenIds]]  # by name: train, valid, test
_Semitones = Annotated[int, msgspec.Meta(ge=-MOST_TRANSPOSITION, le=MOST_TRANSPOSITION)]


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark, ready for training.

    Attributes:
        parts: the ids of its pieces.
        units: what the nats of a piece are divided by, from its ids: frames, or tokens.
        make_model: from settings and generator.
        make_mixture: the mean of a model's transpositions, from settings, weights and semitones.
        vocabulary: the names of all events.
        codec: the name of the codec in a checkpoint.
        pitch_ranges: ids to transpose.
        context_source: of the fields that the model reads; None: that of its codec.
    """

    parts: Parts
    units: Callable[[TokenIds], int]
    make_model: Callable[[ModelSettings, torch.Generator | None], LanguageModel]
    make_mixture: Callable[[ModelSettings, Weights, Sequence[int]], SequenceModel] | None
    vocabulary: tuple[str, ...]
    codec: str
    pitch_ranges: Sequence[range] = ()
    context_source: WholeContexts | None = None

    def restore(
        self, weights: Weights, settings: ModelSettings, transpositions: Sequence[int] = (0,)
    ) -> SequenceModel:
        """Return the model of some weights, or the mean of its transpositions in semitones."""
        if self.make_mixture is not None and tuple(transpositions) != (0,):
            return self.make_mixture(settings, weights, transpositions)
        model = self.make_model(settings, None)
        model.load_weights(weights)
        return model

    def score(self, model: SequenceModel, part: str) -> HeldOutScore:
        """Score a part: whole pieces, without dropout, in fp32."""
        pieces = self.parts[part]
        source = self.context_source
        contexts = None if source is None else ContextCache(pieces, source)
        units = [self.units(ids) for ids in pieces]
        return evaluate(model, pieces, units, contexts=contexts)

    def score_held_out(self, model: SequenceModel) -> dict[str, HeldOutScore]:
        """Score each held-out part that the file has."""
        return {name: self.score(model, name) for name in self.parts if name != "train"}


@dataclass(frozen=True)
class TrainingRun:
    """The result of a training run."""

    weights: Weights  # those of the best evaluation, rounded to float16
    recipe: Recipe
    minutes: float
    cpu_minutes: float
    epochs: float

    def format_time(self) -> str:
        """Return how long the run took, in one line."""
        return (
            f"trained for {self.minutes:.1f} minutes, {self.cpu_minutes:.1f} of the processor's,"
            f" {self.epochs:.1f} epochs; {describe_machine()}"
        )


def train(benchmark: Benchmark, recipe: Recipe) -> TrainingRun:
    """Train a network, and keep the weights with the lowest loss on the validation part."""
    start, cpu_start = time.perf_counter(), time.process_time()
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
    cpu_minutes = (time.process_time() - cpu_start) / 60
    weights = round_to_float16(trainer.best.weights)
    changed = replace(recipe, training=settings)
    return TrainingRun(weights, changed, minutes, cpu_minutes, epochs)


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
    """Return nats per unit, to four digits: those of all pieces over their frames, or tokens."""
    return round(float(score.nats.sum() / score.notes.sum()), 4)


def save_run(
    folder: Path, benchmark: Benchmark, run: TrainingRun, figures: Mapping[str, float], command: str
) -> None:
    """Write the weights of a run, with its command and figures, to a new folder.

    Args:
        folder: to create.
        benchmark: that the network was trained on.
        run: of `train`.
        figures: nats per unit, by part.
        command: that trained it.

    Raises:
        OutputExists: the folder exists and is not that of a model.
        WriteFailed: the system refused to write.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
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
            "transpositions": list(run.recipe.transpositions),
            "command": command,
            "minutes": round(run.minutes, 1),
            "cpu_minutes": round(run.cpu_minutes, 1),
            "epochs": round(run.epochs, 1),
            "machine": describe_machine(),
            "nats": dict(figures),
        },
    )
    save(folder, run.weights, manifest, force=True)


def load_model(
    benchmark: Benchmark, folder: Path, transpositions: Sequence[int] | None = None
) -> SequenceModel:
    """Load the model that was saved in a folder.

    Args:
        benchmark: that it was trained on.
        folder: of `save_run`.
        transpositions: in semitones, to average over; None: those of the recipe.

    Raises:
        NotFound: there is no such folder.
        DamagedCheckpoint: its bytes changed.
    """
    checkpoint = load(folder)
    chosen = check_schema(
        transpositions or checkpoint.manifest.training.get("transpositions", [0]),
        list[_Semitones],
        str(folder),
    )
    return benchmark.restore(checkpoint.weights, checkpoint.settings, chosen)


def describe_machine() -> str:
    """Return the processor, the number of threads and the version of torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{processor}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"
