"""Measure what each regularisation method and each optimizer setting contributes.

    python benchmarks/ablation.py DATA           hours; DATA from musicgen corpus build
    python benchmarks/ablation.py --toy          seconds, for continuous integration

Each variant changes one setting of the default and trains on the same tunes in the same order, for
the same number of tokens and with the same seeds. The score is the lowest held-out loss of the run,
on the validation part. The interval is the 95 % bootstrap interval, over tunes, of the paired
difference from the default. With --out, each finished run is appended to a file of JSON lines, and
runs that are already in the file are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training import draw_tunes
from musicgen.config import CONTEXTS, ModelSettings, TrainingSettings
from musicgen.corpus.store import load
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.network import LanguageModel
from musicgen.training.batches import Window
from musicgen.training.heldout_loss import evaluate
from musicgen.training.plan import TrainingOptions, find_pitch_ranges, make_plan
from musicgen.training.trainer import Trainer


class NormalisedModel(LanguageModel):
    """Layer normalisation of the last layer's output (Ba, Kiros and Hinton, 2016)."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings, generator)
        self.norm = nn.LayerNorm(settings.hidden)

    def compute_logits(self, outputs: Tensor) -> Tensor:
        """Normalise the outputs, then apply the head."""
        return super().compute_logits(self.norm(outputs))


class UngatedModel(LanguageModel):
    """Reads what the lags look up, but adds nothing to its logit."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings, generator)
        self.gates = None


class AveragedTrainer(Trainer):
    """Evaluate an exponential moving average of the weights, over about the last epoch."""

    averaged: list[Tensor] | None = None
    decay = 0.995

    def update_weights(self, window: Window) -> Tensor:
        """Update the weights, then the average."""
        measured = super().update_weights(window)
        with torch.no_grad():
            if self.averaged is None:
                self.averaged = [weight.clone() for weight in self.parameters]
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - self.decay)
        return measured

    def evaluate_progress(self, progress: Any) -> Any:
        """Evaluate the average."""
        self.swap_weights()
        result = super().evaluate_progress(progress)
        self.swap_weights()
        return result

    @torch.no_grad()
    def swap_weights(self) -> None:
        """Swap the weights and their average."""
        for weight, average in zip(self.parameters, self.averaged or (), strict=True):
            current = weight.clone()
            weight.copy_(average)
            average.copy_(current)


class ScheduleFreeTrainer(Trainer):
    """Schedule-free AdamW (Defazio and others, 2024).

    Gradients are taken at y = (1 - beta) z + beta x; z moves by Adam's step at y; x averages z.
    """

    beta = 0.9
    z: list[Tensor] | None = None
    x: list[Tensor] | None = None

    @torch.no_grad()
    def update_weights(self, window: Window) -> Tensor:
        """Take one step from y; afterwards the weights hold the new y."""
        if self.z is None or self.x is None:
            self.z = [weight.clone() for weight in self.parameters]
            self.x = [weight.clone() for weight in self.parameters]
        before = [weight.clone() for weight in self.parameters]
        with torch.enable_grad():
            measured = super().update_weights(window)
        moved = torch._foreach_sub(self.parameters, before)
        torch._foreach_add_(self.z, moved)
        torch._foreach_lerp_(self.x, self.z, 1 / self.step)
        for weight, z, x in zip(self.parameters, self.z, self.x, strict=True):
            weight.copy_(torch.lerp(z, x, self.beta))
        return measured

    @torch.no_grad()
    def evaluate_progress(self, progress: Any) -> Any:
        """Evaluate x."""
        current = [weight.clone() for weight in self.parameters]
        for weight, x in zip(self.parameters, self.x or (), strict=True):
            weight.copy_(x)
        result = super().evaluate_progress(progress)
        for weight, y in zip(self.parameters, current, strict=True):
            weight.copy_(y)
        return result


@dataclass(frozen=True)
class Variant:
    """The default with one setting changed."""

    name: str
    model_settings: dict[str, Any] = field(default_factory=dict)
    training_settings: dict[str, Any] = field(default_factory=dict)
    model: Callable[..., LanguageModel] = LanguageModel
    trainer: type[Trainer] = Trainer
    every: int = 1  # trains on every n-th tune: the learning curve


FEW_LAGS: Final = "position left bar section lag4 lag8 match4 match8"
VARIANTS: Final = (
    Variant("default"),
    Variant("no context", {"context": CONTEXTS["none"]}),
    Variant("position only", {"context": CONTEXTS["position"]}),
    Variant("look-back only", {"context": CONTEXTS["look-back"]}),
    Variant("with vertical context", {"context": CONTEXTS["all+vertical"]}),
    Variant("lags of 4 and 8 bars only", {"context": FEW_LAGS}),
    Variant("without gates", model=UngatedModel),
    Variant("256 units", {"hidden": 256}),
    Variant("320 units", {"hidden": 320}),
    Variant("512 units", {"hidden": 512}),
    Variant("640 units", {"hidden": 640}),
    Variant("no dropout between layers", {"dropout": 0.0}),
    Variant("dropout 0.3 between layers", {"dropout": 0.3}),
    Variant("no event dropout", {"embedding_dropout": 0.0}),
    Variant("no weight dropout", {"weight_dropout": 0.0}),
    Variant("weight dropout 0.4", {"weight_dropout": 0.4}),
    Variant("no context dropout", {"context_dropout": 0.0}),
    Variant("context dropout 0.3", {"context_dropout": 0.3}),
    Variant("head and embedding untied", {"tied": False}),
    Variant("layer normalisation before the head", model=NormalisedModel),
    Variant("no weight decay", training_settings={"weight_decay": 0.0}),
    Variant("averaged weights", trainer=AveragedTrainer),
    Variant("constant learning rate", training_settings={"final_rate": 1.0}),
    Variant("schedule-free", training_settings={"final_rate": 1.0}, trainer=ScheduleFreeTrainer),
    Variant("clip at 0.25", training_settings={"clip": 0.25}),
    Variant("no clipping", training_settings={"clip": 1e9}),
    Variant("half the learning rate", training_settings={"learning_rate": 1.5e-3}),
    Variant("twice the learning rate", training_settings={"learning_rate": 6e-3}),
    Variant("32 lanes", training_settings={"lanes": 32}),
    Variant("windows of 24 ids", training_settings={"bptt": 24}),
    Variant("windows of 96 ids", training_settings={"bptt": 96}),
    Variant("every second tune", every=2),
    Variant("every fourth tune", every=4),
    Variant("every eighth tune", every=8),
    Variant(  # for performances and piano rolls
        "transposed to every key", training_settings={"transposed": True}
    ),
)


@dataclass(frozen=True)
class TuneData:
    """Training and validation tunes."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    notes: list[int] | None
    vocabulary: int
    pitches: tuple[range, ...] = ()  # ids to transpose, in codecs of absolute pitches


def train_variant(
    variant: Variant, data: TuneData, shape: ModelSettings, plan: TrainingSettings
) -> dict[str, Any]:
    """Train one variant; return its score per tune."""
    start_time = time.perf_counter()
    model = variant.model(
        replace(shape, **variant.model_settings), torch.Generator().manual_seed(plan.seed)
    )
    settings = replace(plan, **variant.training_settings)
    tunes = data.train[:: variant.every]
    trainer = variant.trainer(
        model, tunes, data.valid, settings, data.notes, pitch_ranges=data.pitches
    )
    last_progress = [progress for progress in trainer.run() if progress.held_out_score][-1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(trainer.best.weights[name]))
    held_out = evaluate(model, data.valid, data.notes)
    return {
        "variant": variant.name,
        "seed": plan.seed,
        "bits": (held_out.nats / math.log(2)).round(4).tolist(),
        "notes": held_out.notes.tolist(),
        "bits_per_note": round(held_out.bits_per_note, 5),
        "best_at": trainer.best.tokens,
        "tokens": last_progress.tokens,
        "seconds": round(time.perf_counter() - start_time, 1),
    }


def compute_difference(
    rows: list[dict[str, Any]], base: list[dict[str, Any]]
) -> tuple[float, float, float]:
    """Return the difference in bits per note from the default, and its interval, over seeds."""
    variant_bits = sum(np.array(row["bits"]) for row in rows) / len(rows)
    base_bits = sum(np.array(row["bits"]) for row in base) / len(base)
    held_out = HeldOutScore(
        (variant_bits - base_bits) * math.log(2),
        np.ones(len(variant_bits)),
        np.array(base[0]["notes"]),
    )
    return held_out.bits_per_note, *held_out.bootstrap_interval(np.random.default_rng(0))


def format_report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Format the results as a Markdown table, best first."""
    rows_by_variant: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        rows_by_variant.setdefault(row["variant"], []).append(row)
    base = rows_by_variant["default"]
    yield "| variant | bits per note | difference | 95 % interval | best after | seconds |"
    yield "|---|---|---|---|---|---|"
    for name, runs in sorted(
        rows_by_variant.items(), key=lambda item: compute_mean(item[1], "bits_per_note")
    ):
        change, low, high = compute_difference(runs, base)
        yield (
            f"| {name} | {compute_mean(runs, 'bits_per_note'):.3f} | {change:+.3f}"
            f" | {low:+.3f} to {high:+.3f} | {compute_mean(runs, 'best_at') / 1e6:.2f} M"
            f" | {compute_mean(runs, 'seconds'):.0f} |"
        )


def compute_mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="?", type=Path, help="a folder of musicgen corpus build")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: seconds instead of hours")
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--threads", type=int, default=0, help="of torch; default: its own choice")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--variants", nargs="*", help="names of variants; default: all")
    parser.add_argument("--out", type=Path, help="file of JSON lines to continue")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, shape, plan = read_data(arguments)
    rows = []
    if arguments.out and arguments.out.exists():
        rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    for seed in arguments.seeds:
        for variant in select_variants(arguments):
            if (variant.name, seed) in {(row["variant"], row["seed"]) for row in rows}:
                continue
            rows.append(train_variant(variant, data, shape, replace(plan, seed=seed)))
            print(variant.name, seed, rows[-1]["bits_per_note"], rows[-1]["seconds"], flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    size = f"2 x {shape.hidden}, {plan.tokens:,} tokens, {len(data.train)} tunes"
    print(f"torch {torch.__version__}, {plan.precision}; {size}")
    print("\n".join(format_report(rows)))


def select_variants(arguments: argparse.Namespace) -> list[Variant]:
    if arguments.toy:
        return [
            variant
            for variant in VARIANTS
            if not (variant.model_settings or variant.training_settings)
        ]
    variant_names = arguments.variants
    return [
        variant
        for variant in VARIANTS
        if not variant_names or variant.name in variant_names or variant.name == "default"
    ]


def read_data(
    arguments: argparse.Namespace,
) -> tuple[TuneData, ModelSettings, TrainingSettings]:
    """Return the tunes, and the shape and settings of the default."""
    if arguments.toy or arguments.data is None:
        tunes = draw_tunes(40, 1)
        shape = ModelSettings(844, hidden=16, embedding=16)
        return TuneData(tunes[8:], tunes[:8], None, 844), shape, TrainingSettings(6_000)
    dataset = load(arguments.data)
    plan = make_plan(dataset, TrainingOptions())
    data = TuneData(
        [tune.ids for tune in dataset.train],
        [tune.ids for tune in dataset.valid],
        [tune.notes for tune in dataset.valid],
        dataset.vocabulary_size,
        find_pitch_ranges(dataset.codec),
    )
    settings = replace(plan.training, tokens=arguments.tokens, patience=10**6)
    return data, plan.model, settings


if __name__ == "__main__":
    main()
