"""What each means against overfitting, and each choice of the optimiser, is worth.

    python benchmarks/ablation.py DATA           DATA from musicgen corpus build; an hour or two
    python benchmarks/ablation.py --toy          seconds, for continuous integration

Every variant changes one thing of the default and learns from the same tunes for the same number
of tokens, in the same order, with the seeds that are asked for; the lowest held-out loss of its run
counts, on the validation part. The interval is the 95 % bootstrap over tunes of the difference to
the default, tune by tune. A line a run goes to --out as it ends, and what stands there already is
not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training import draw_tunes
from musicgen.config import ModelSettings, TrainingSettings
from musicgen.corpus.store import load
from musicgen.model.network import LanguageModel
from musicgen.training.batches import Window
from musicgen.training.heldout_loss import HeldOutScore, evaluate
from musicgen.training.plan import FRESH_PRESETS, find_pitch_ranges
from musicgen.training.trainer import Trainer


class Normed(LanguageModel):
    """Layer normalisation of what the last layer says (Ba, Kiros and Hinton, 2016)."""

    def __init__(self, settings: ModelSettings, generator: torch.Generator | None = None) -> None:
        super().__init__(settings, generator)
        self.norm = nn.LayerNorm(settings.hidden)

    def compute_logits(self, outputs: Tensor) -> Tensor:
        """Normalise, then take the head."""
        return super().logits(self.norm(outputs))


class Averaged(Trainer):
    """An exponential average of the weights over the last epoch or so; it is what is judged."""

    averaged: list[Tensor] | None = None
    decay = 0.995

    def learn(self, window: Window) -> Tensor:
        """Learn, and move the average a little."""
        measured = super().learn(window)
        with torch.no_grad():
            if self.averaged is None:
                self.averaged = [weight.clone() for weight in self.parameters]
            torch._foreach_lerp_(self.averaged, self.parameters, 1 - self.decay)
        return measured

    def judged(self, progress: Any) -> Any:
        """Judge the average."""
        self.swap()
        told = super().judged(progress)
        self.swap()
        return told

    @torch.no_grad()
    def swap(self) -> None:
        """Let the weights and their average change places."""
        for weight, average in zip(self.parameters, self.averaged or (), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


class ScheduleFree(Trainer):
    """Schedule-free AdamW (Defazio and others, 2024): steps at z, an average x, gradients between.

    y = (1 - beta) z + beta x; z moves by Adam's step at y; x averages z.
    """

    beta = 0.9
    z: list[Tensor] | None = None
    x: list[Tensor] | None = None

    @torch.no_grad()
    def learn(self, window: Window) -> Tensor:
        """Learn at y; the weights are y again afterwards."""
        if self.z is None or self.x is None:
            self.z = [weight.clone() for weight in self.parameters]
            self.x = [weight.clone() for weight in self.parameters]
        before = [weight.clone() for weight in self.parameters]
        with torch.enable_grad():
            measured = super().learn(window)
        moved = torch._foreach_sub(self.parameters, before)
        torch._foreach_add_(self.z, moved)
        torch._foreach_lerp_(self.x, self.z, 1 / self.step)
        for weight, z, x in zip(self.parameters, self.z, self.x, strict=True):
            weight.copy_(torch.lerp(z, x, self.beta))
        return measured

    @torch.no_grad()
    def judged(self, progress: Any) -> Any:
        """Judge x."""
        kept = [weight.clone() for weight in self.parameters]
        for weight, x in zip(self.parameters, self.x or (), strict=True):
            weight.copy_(x)
        told = super().judged(progress)
        for weight, y in zip(self.parameters, kept, strict=True):
            weight.copy_(y)
        return told


@dataclass(frozen=True)
class Variant:
    """The default with one thing changed."""

    name: str
    shape: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    model: Callable[..., LanguageModel] = LanguageModel
    trainer: type[Trainer] = Trainer


VARIANTS = (
    Variant("default"),
    Variant("no dropout at all", {"dropout": 0.0, "embedding_dropout": 0.0}),
    Variant("dropout 0.1", {"dropout": 0.1}),
    Variant("dropout 0.3", {"dropout": 0.3}),
    Variant("no dropout of events", {"embedding_dropout": 0.0}),
    Variant("dropout of events 0.1", {"embedding_dropout": 0.1}),
    Variant("head and embedding not tied", {"tied": False}),
    Variant("layer normalisation before the head", model=Normed),
    Variant("no weight decay", training={"weight_decay": 0.0}),
    Variant("weight decay 0.1", training={"weight_decay": 0.1}),
    Variant("no warm-up", training={"warmup": 0.0}),
    Variant("constant rate", training={"final_rate": 1.0}),
    Variant("schedule-free", training={"final_rate": 1.0}, trainer=ScheduleFree),
    Variant("average of weights", trainer=Averaged),
    Variant("constant rate, average", training={"final_rate": 1.0}, trainer=Averaged),
    Variant("clip at 0.25", training={"clip": 0.25}),
    Variant("no clipping", training={"clip": 1e9}),
    Variant("half the rate", training={"learning_rate": 3.5e-3}),
    Variant("twice the rate", training={"learning_rate": 1.4e-2}),
    Variant("32 lanes", training={"lanes": 32}),
    Variant("windows of 32 ids throughout", training={"first_bptt": 0}),
    Variant("windows of 16 ids throughout", training={"first_bptt": 0, "bptt": 16}),
    Variant("windows from 8 to 64 ids", training={"bptt": 64}),
    Variant("in every key", training={"transposed": True}),  # for performances and rolls
)


@dataclass(frozen=True)
class Data:
    """Tunes to learn from and tunes to judge by."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    notes: list[int] | None
    vocabulary: int
    pitches: tuple[range, ...] = ()  # ids that are moved, where keys are left as they are


def run(
    variant: Variant, data: Data, shape: ModelSettings, plan: TrainingSettings
) -> dict[str, Any]:
    """Train one variant; return its score tune by tune."""
    began = time.perf_counter()
    model = variant.model(replace(shape, **variant.shape), torch.Generator().manual_seed(plan.seed))
    settings = replace(plan, **variant.training)
    trainer = variant.trainer(
        model, data.train, data.valid, settings, data.notes, pitches=data.pitches
    )
    last = [progress for progress in trainer.run() if progress.held][-1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(trainer.best.weights[name]))
    held = evaluate(model, data.valid, data.notes)
    return {
        "variant": variant.name,
        "seed": plan.seed,
        "bits": (held.nats / math.log(2)).round(4).tolist(),
        "notes": held.notes.tolist(),
        "bits_per_note": round(held.bits_per_note, 5),
        "best_at": trainer.best.tokens,
        "tokens": last.tokens,
        "seconds": round(time.perf_counter() - began, 1),
    }


def difference(
    rows: list[dict[str, Any]], base: list[dict[str, Any]]
) -> tuple[float, float, float]:
    """Return how many bits a note a variant adds, and the interval over tunes; seeds are pooled."""
    more = sum(np.array(row["bits"]) for row in rows) / len(rows)
    less = sum(np.array(row["bits"]) for row in base) / len(base)
    held = HeldOutScore((more - less) * math.log(2), np.ones(len(more)), np.array(base[0]["notes"]))
    return held.bits_per_note, *held.interval(np.random.default_rng(0))


def report(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Tell of each variant, the best first."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["variant"], []).append(row)
    base = by_name["default"]
    yield "| variant | bits a note | more than the default | 95 % interval | best after | seconds |"
    yield "|---|---|---|---|---|---|"
    for name, runs in sorted(by_name.items(), key=lambda item: mean(item[1], "bits_per_note")):
        more, low, high = difference(runs, base)
        yield (
            f"| {name} | {mean(runs, 'bits_per_note'):.3f} | {more:+.3f} | {low:+.3f} to"
            f" {high:+.3f} | {mean(runs, 'best_at') / 1e6:.2f} M | {mean(runs, 'seconds'):.0f} |"
        )


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="?", type=Path, help="a folder of musicgen corpus build")
    parser.add_argument("--toy", action="store_true", help="seconds instead of hours")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tunes", type=int, default=1200, help="tunes to learn from, at the most")
    parser.add_argument("--tokens", type=int, default=2_500_000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("--variants", nargs="*", help="names; all where none is given")
    parser.add_argument("--out", type=Path, help="a file of JSON lines, gone on with")
    arguments = parser.parse_args()
    data, hidden, tokens = read(arguments)
    known = []
    if arguments.out and arguments.out.exists():
        known = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    for seed in arguments.seeds:
        for variant in chosen(arguments):
            if (variant.name, seed) in {(row["variant"], row["seed"]) for row in known}:
                continue
            shape = ModelSettings(data.vocabulary, hidden=hidden, embedding=hidden)
            plan = TrainingSettings(
                tokens=tokens,
                seed=seed,
                first_bptt=FRESH_PRESETS[-1].first_bptt,
                patience=10**6,
            )
            known.append(run(variant, data, shape, plan))
            print(variant.name, seed, known[-1]["bits_per_note"], known[-1]["seconds"], flush=True)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(known[-1]) + "\n")
    print(f"torch {torch.__version__}; 2 x {hidden}, {tokens:,} tokens, {len(data.train)} tunes")
    print("\n".join(report(known)))


def chosen(arguments: argparse.Namespace) -> list[Variant]:
    if arguments.toy:
        return [v for v in VARIANTS if not (v.shape or v.training)]
    wanted = arguments.variants
    return [v for v in VARIANTS if not wanted or v.name in wanted or v.name == "default"]


def read(arguments: argparse.Namespace) -> tuple[Data, int, int]:
    """Return the tunes, the width of the model and the tokens of a run."""
    if arguments.toy or arguments.data is None:
        drawn = draw_tunes(40, 1)
        return Data(drawn[8:], drawn[:8], None, 844), 16, 6_000
    dataset = load(arguments.data)
    train = list(dataset.train)[: arguments.tunes]
    valid = list(dataset.valid)
    data = Data(
        [tune.ids for tune in train],
        [tune.ids for tune in valid],
        [tune.notes for tune in valid],
        dataset.vocabulary_size,
        find_pitch_ranges(dataset.codec),
    )
    return data, arguments.hidden, arguments.tokens


if __name__ == "__main__":
    main()
