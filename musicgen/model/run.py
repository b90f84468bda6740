"""A whole training run: plan, train, and a checkpoint each time the held-out score is better.

run = Run(dataset, plan(dataset, Options()), name="mine", folder=Path("checkpoints/mine"))
for progress in run.train():
    ...
run.score_test()
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.checkpoint import Manifest, save, stored
from musicgen.corpus.store import Dataset, EncodedTune, flat_ids
from musicgen.errors import MusicgenError
from musicgen.model.card import Scores, model_card
from musicgen.model.evaluation import Held, evaluate
from musicgen.model.network import LanguageModel
from musicgen.model.ngram import KneserNey
from musicgen.model.plan import Plan, new_trainer, notes_of
from musicgen.model.training import Progress, Trainer
from musicgen.music.theory import Key
from musicgen.tokens.codec import Setting
from musicgen.tokens.codecs import DEFAULT as DEFAULT_CODEC


@dataclass
class Run:
    """A run under way, and the checkpoint folder that it fills."""

    dataset: Dataset
    plan: Plan
    name: str
    folder: Path
    version: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)  # what the card says of the sources
    trainer: Trainer = field(init=False)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scores: Scores = field(default_factory=Scores)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.trainer = new_trainer(self.dataset, self.plan)

    def train(self) -> Iterator[Progress]:
        """Train; save whenever the held-out score is better, so that a killed run keeps it."""
        saved = self.folder.exists()  # whoever asks for an existing folder wants it replaced
        for progress in self.trainer.run():
            self.note(progress)
            if progress.is_best:
                if progress.held is not None:
                    self.scores = self.scores.with_valid(self._measured(self.dataset.valid))
                self.save(force=saved)
                saved = True
            yield progress
        self.save(force=saved)

    def note(self, progress: Progress) -> None:
        """Keep a line of metrics for each evaluation, and for every tenth update."""
        if progress.step % 10 and progress.held is None:
            return
        line = {
            "step": progress.step,
            "tokens": progress.tokens,
            "epoch": round(progress.epoch, 4),
            "seconds": round(time.monotonic() - self.started, 2),
            "loss": round(progress.loss, 5),
            "norm": round(progress.norm, 5),
            "learning_rate": round(progress.learning_rate, 7),
            "tokens_a_second": round(progress.rate, 1),
        }
        if progress.held is not None:
            line |= {
                "held_loss": round(progress.held.loss, 5),
                "held_bits_per_note": round(progress.held.bits_per_note, 5),
            }
        self.metrics.append(line)

    def score_test(self) -> None:
        """Score the test part once, beside a 5-gram of the same tunes, and save that."""
        if not self.dataset.test:
            raise MusicgenError("the corpus is too small for a test part; nothing to score")
        grams = KneserNey(flat_ids(self.dataset.train), self.dataset.vocabulary_size, order=5)
        test = self.dataset.test
        self.scores = self.scores.with_test(
            self._measured(test), grams.score(flat_ids(test), notes_of(test))
        )
        self.save(force=True)

    def _measured(self, tunes: Sequence[EncodedTune]) -> Held:
        """Score the best weights as they are stored, in float16."""
        model = LanguageModel(self.plan.model).to(self.plan.device)
        model.put(stored(self.trainer.best.weights))
        return evaluate(model, flat_ids(tunes), notes_of(tunes))

    def save(self, *, force: bool) -> None:
        """Write the checkpoint of the best weights so far."""
        manifest = self.manifest()
        lines = "".join(json.dumps(line) + "\n" for line in self.metrics)
        extra = {"metrics.jsonl": lines.encode()}
        weights = self.trainer.best.weights
        card = model_card(manifest, self.scores, weights)
        save(self.folder, weights, manifest, extra | {"MODEL_CARD.md": card.encode()}, force=force)

    @cached_property
    def tonics(self) -> dict[str, dict[str, int]]:
        """How often each mode's tonics occur: read once, for all checkpoints."""
        return tonics(self.dataset.train) if self.dataset.codec == DEFAULT_CODEC else {}

    def manifest(self) -> Manifest:
        """Say what the checkpoint is."""
        counts = np.zeros(self.dataset.vocabulary_size, dtype=np.int64)
        for ids in flat_ids(self.dataset.train):
            counts += np.bincount(ids, minlength=len(counts))
        corpus = self.corpus | {
            "sources": list(self.dataset.sources),
            "fingerprint": self.dataset.fingerprint,
            "tunes": {
                part: len(getattr(self.dataset, part)) for part in ("train", "valid", "test")
            },
            "tonics": self.tonics,
        }
        return Manifest(
            name=self.name,
            version=self.version,
            settings=self.plan.model,
            vocabulary=self.dataset.vocabulary,
            seen=tuple(int(count) for count in counts),
            codec=self.dataset.codec,
            corpus=corpus,
            scores=self.scores.as_table(),
            training=asdict(self.plan.training)
            | {"device": self.plan.device, "best_at_tokens": self.trainer.best.tokens},
        )


def tonics(tunes: Sequence[EncodedTune]) -> dict[str, dict[str, int]]:
    """Count the tonics of each mode: what a sampled tune's key is drawn from."""
    counts: dict[str, Counter[str]] = {}
    for tune in tunes:
        tonic = Setting.from_json(tune.setting).tonic
        mode = tune.key.split(" ")[1]
        counts.setdefault(mode, Counter())[Key(tonic, mode).tonic] += 1
    return {mode: dict(sorted(counter.items())) for mode, counter in sorted(counts.items())}
