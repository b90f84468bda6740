"""What is to be trained, and how: what a user leaves open is derived from the corpus.

found = plan(dataset, Options(minutes=5))
trainer = new_trainer(dataset, found)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch

from musicgen.config import ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, flat_ids
from musicgen.model.devices import choose_device, choose_precision
from musicgen.model.network import LanguageModel
from musicgen.model.training import Trainer

DEFAULT_EPOCHS: Final = 10
FEWEST_UPDATES: Final = 400  # of a run over a small corpus
UPDATES_AN_EPOCH: Final = 20  # at the least: a small corpus gets fewer lanes
PROBE_UPDATES: Final = 6


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; None is derived from the corpus."""

    cell: str = "lstm"
    layers: int = 2
    hidden: int = 256
    dropout: float | None = None
    bptt: int | None = None
    batch: int | None = None  # lanes
    epochs: float | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    seed: int = 1
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how."""

    model: ModelSettings
    training: TrainingSettings
    device: str


def plan(dataset: Dataset, options: Options) -> Plan:
    """Derive sizes from the corpus. `--minutes` becomes a number of tokens here, once."""
    tokens = count_tokens(dataset.train)
    defaults = TrainingSettings(tokens=1)
    device = choose_device(options.device)
    bptt = options.bptt or defaults.bptt
    lanes = options.batch or max(1, min(defaults.lanes, tokens // (bptt * UPDATES_AN_EPOCH)))
    shape = _shape(dataset, options)
    epochs = options.epochs or DEFAULT_EPOCHS
    planned = max(int(epochs * tokens), 1 if options.epochs else FEWEST_UPDATES * lanes * bptt)
    found = Plan(
        shape,
        TrainingSettings(
            tokens=planned,
            lanes=lanes,
            bptt=bptt,
            learning_rate=options.learning_rate or defaults.learning_rate,
            seed=options.seed,
            precision=choose_precision(options.precision, device),
        ),
        str(device),
    )
    if options.minutes is None:
        return found
    rate = tokens_a_second(dataset, found)
    return replace_tokens(found, max(lanes * bptt, int(rate * 60 * options.minutes)))


def _shape(dataset: Dataset, options: Options) -> ModelSettings:
    extra = {} if options.dropout is None else {"dropout": options.dropout}
    return ModelSettings(
        vocabulary_size=dataset.vocabulary_size,
        cell=options.cell,
        layers=options.layers,
        hidden=options.hidden,
        embedding=options.hidden,
        **extra,  # type: ignore[arg-type]
    )


def replace_tokens(found: Plan, tokens: int) -> Plan:
    """Return the plan with another number of tokens."""
    settings = asdict(found.training) | {"tokens": tokens}
    return Plan(found.model, TrainingSettings(**settings), found.device)


def tokens_a_second(dataset: Dataset, found: Plan) -> float:
    """Measure the speed of training on a model that is thrown away."""
    trainer = new_trainer(dataset, found)
    rates = [trainer.update(trainer.lanes.next()).rate for _ in range(PROBE_UPDATES)]
    return float(np.median(rates[1:]))


def new_trainer(dataset: Dataset, found: Plan) -> Trainer:
    """Make the trainer of a plan, at its first step."""
    generator = torch.Generator().manual_seed(found.training.seed)
    model = LanguageModel(found.model, generator).to(found.device)
    valid = dataset.valid
    return Trainer(model, flat_ids(dataset.train), flat_ids(valid), found.training, notes_of(valid))


def notes_of(tunes: Sequence[EncodedTune]) -> list[int]:
    """Count the notes of each tune."""
    return [tune.notes for tune in tunes]
