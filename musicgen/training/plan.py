"""What is to be trained, and how: what a user leaves open is derived from the corpus.

    dataset = divided(dataset)      # a small corpus holds out what it can
    found = plan(dataset, Options(minutes=5))
    trainer = new_trainer(dataset, found)

A corpus of fewer than SMALL groups of tunes has no test part: a score on so few would say nothing,
and each tune that is held out is missed. With fewer than FEWEST_HELD all are learnt from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from musicgen.checkpoint import Checkpoint
from musicgen.config import MOST_EPOCHS, MOST_MINUTES, ModelSettings, TrainingSettings
from musicgen.corpus.split import place
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, flat_ids
from musicgen.errors import InvalidValue
from musicgen.model.devices import choose_device, choose_precision
from musicgen.model.network import LanguageModel
from musicgen.tokens.frames import FramesCodec
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.registry import CODECS
from musicgen.training import fine_tune
from musicgen.training.distributed import ALONE, Ranks
from musicgen.training.heldout_loss import evaluate
from musicgen.training.trainer import Trainer, levelled

PROBE_UPDATES: Final = 6
FEWEST_HELD: Final = 8  # groups, of which some may be held out
SMALL: Final = 50  # groups, with which there is a test part
LARGE: Final = 2000  # tunes whose parts are never looked at again
HELD: Final = 0.15  # of a small corpus' groups are held out
LEAST_VALID: Final = 4  # groups to stop by, of a corpus with a test part
EVALUATIONS: Final = 6  # of a small run: what each costs shows
PATIENCE: Final = 3  # of them, without a better one
LANES: Final = 8  # at the most, where an epoch has few updates
UPDATES: Final = 20  # an epoch, at the least, with more lanes
WIDE: Final = 256  # units, above which the rate falls as the width grows (Yang and others, 2022)
MOST_RATE: Final = {"rnn": 1e-3, "irnn": 2e-4}  # without gates a larger one is soon too large
FEW_UPDATES: Final = 4  # an epoch, at the least


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; None is derived from the corpus."""

    cell: str | None = None
    layers: int | None = None
    hidden: int | None = None
    dropout: float | None = None
    bptt: int | None = None
    batch: int | None = None  # lanes
    epochs: float | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    seed: int = 1
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, most in (("epochs", MOST_EPOCHS), ("minutes", MOST_MINUTES)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise InvalidValue(f"{name} {value}: choose a number above 0, up to {most:,.0f}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What suits a corpus of a size."""

    below: float  # tokens to learn from
    layers: int = 2
    hidden: int = 256
    dropout: float = 0.3
    embedding_dropout: float = 0.1
    learning_rate: float = 3e-3
    lanes: int = 32  # at the most
    bptt: int = 64
    first_bptt: int = 0
    epochs: float = 10
    least: int = 800_000  # tokens, however few there are to learn from


FRESH: Final = (
    Recipe(8_000, 1, 256, 0.5, 0.2, epochs=60, least=60_000),
    Recipe(50_000, 1, 256, 0.5, 0.2, epochs=30, least=200_000),
    Recipe(250_000, 2, 256, 0.4, 0.1, epochs=20),
    Recipe(float("inf"), 2, 256, 0.2, 0.05, 7e-3, lanes=64, bptt=32, first_bptt=8),
)
ADAPTED: Final = (
    Recipe(50_000, dropout=0.5, embedding_dropout=0.2, learning_rate=5e-4, epochs=60, least=25_000),
    Recipe(float("inf"), learning_rate=1e-3, least=25_000),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained, and how."""

    model: ModelSettings
    training: TrainingSettings
    device: str
    origin: str = ""  # the model that it goes on from
    guarded: bool = False  # whether it stops when it copies more than people do
    lines: tuple[str, ...] = ()  # what was decided, for people


def divided(dataset: Dataset) -> Dataset:
    """Return the data set with as much held out as its size allows; a large one as it is.

    Held out are the groups that stand last in the order that decides parts: no new chance is
    drawn, and a tune more seldom changes it.
    """
    if len(dataset) >= LARGE:
        return dataset
    groups = sorted({tune.group for _, tune in dataset}, key=lambda name: (place(name), name))
    tested = {tune.group for tune in dataset.test} if len(groups) >= SMALL else set()
    judged = [name for name in groups if name not in tested]
    held = set(judged[len(judged) - _held(len(groups), dataset) :])
    if tested and held == {tune.group for tune in dataset.valid}:
        return dataset
    tunes = [tune for _, tune in dataset]
    return replace(
        dataset,
        train=[tune for tune in tunes if tune.group not in held | tested],
        valid=[tune for tune in tunes if tune.group in held],
        test=[tune for tune in tunes if tune.group in tested],
    )


def _held(groups: int, dataset: Dataset) -> int:
    """Return how many groups stop the run."""
    if groups < FEWEST_HELD:
        return 0
    if groups < SMALL:
        return max(2, round(HELD * groups))
    return max(LEAST_VALID, len({tune.group for tune in dataset.valid}))


def plan(
    dataset: Dataset, options: Options, start: Checkpoint | None = None, ranks: Ranks = ALONE
) -> Plan:
    """Derive sizes from the corpus. `--minutes` becomes a number of tokens here, once.

    Several processes plan the same: their lanes can be shared evenly, the first one's clock counts.

    Raises Mismatch where the options ask for another shape than that of the model to start from.
    """
    tokens = count_tokens(dataset.train)
    recipe = next(one for one in (ADAPTED if start else FRESH) if tokens < one.below)
    device = choose_device(options.device)
    lanes, bptt = _window(tokens, recipe, options, ranks)
    epochs = options.epochs or recipe.epochs
    least = 1 if options.epochs else recipe.least
    shape = _adapted(start, recipe, dataset, options) if start else _fresh(recipe, dataset, options)
    is_small = not dataset.test or start is not None
    found = Plan(
        shape,
        TrainingSettings(
            tokens=max(int(epochs * tokens), least),
            lanes=lanes,
            bptt=bptt,
            first_bptt=min(recipe.first_bptt, bptt),
            learning_rate=options.learning_rate or _rate(recipe, shape),
            seed=options.seed,
            precision=choose_precision(options.precision, device),
        ),
        str(device),
        f"{start.manifest.name} {start.manifest.version}" if start else "",
        guarded=is_small and len(dataset.train) < LARGE and not dataset.codec.startswith("text"),
    )
    if options.minutes is not None:
        found = _in_time(dataset, found, options.minutes, start, ranks, at_most=is_small)
    if is_small:
        found = _seldom_judged(found, tokens)
    return replace(found, lines=tuple(_reasons(dataset, found)))


def _window(tokens: int, recipe: Recipe, options: Options, ranks: Ranks) -> tuple[int, int]:
    """Return lanes and bptt: fewer lanes for a small corpus, so that an epoch has updates."""
    bptt = options.bptt or recipe.bptt
    most = tokens // bptt
    lanes = max(1, min(LANES, most // FEW_UPDATES), min(recipe.lanes, most // UPDATES))
    return options.batch or -(-lanes // ranks.world) * ranks.world, bptt


def _rate(recipe: Recipe, shape: ModelSettings) -> float:
    """Return the recipe's rate, less for wide models, and what a plain cell can take."""
    wide = min(1.0, WIDE / shape.hidden)
    return min(recipe.learning_rate * wide, MOST_RATE.get(shape.cell, math.inf))


def _fresh(recipe: Recipe, dataset: Dataset, options: Options) -> ModelSettings:
    hidden = options.hidden or recipe.hidden
    return ModelSettings(
        vocabulary_size=dataset.vocabulary_size,
        cell=options.cell or "lstm",
        layers=options.layers or recipe.layers,
        hidden=hidden,
        embedding=hidden,
        dropout=recipe.dropout if options.dropout is None else options.dropout,
        embedding_dropout=recipe.embedding_dropout,
    )


def _adapted(
    start: Checkpoint, recipe: Recipe, dataset: Dataset, options: Options
) -> ModelSettings:
    wished = {name: getattr(options, name) for name in ("cell", "layers", "hidden")}
    return replace(
        fine_tune.shape_of(start, dataset.vocabulary_size, wished),
        dropout=recipe.dropout if options.dropout is None else options.dropout,
        embedding_dropout=recipe.embedding_dropout,
    )


def _in_time(
    dataset: Dataset,
    found: Plan,
    minutes: float,
    start: Checkpoint | None,
    ranks: Ranks,
    *,
    at_most: bool,
) -> Plan:
    """Return the plan for so many minutes; a small corpus may be learnt in fewer."""
    settings = found.training
    rate = tokens_a_second(dataset, found, start, ranks)
    tokens = max(settings.lanes * settings.bptt, int(rate * 60 * minutes))
    return replace_tokens(found, min(tokens, settings.tokens) if at_most else tokens)


def _seldom_judged(found: Plan, tokens: int) -> Plan:
    every = max(tokens, found.training.tokens // EVALUATIONS)
    return replace(found, training=replace(found.training, evaluate_every=every, patience=PATIENCE))


def _reasons(dataset: Dataset, found: Plan) -> list[str]:
    """Say what was decided for a corpus of this size, and why."""
    count, shape = len(dataset), found.model
    lines = []
    if not dataset.valid:
        lines.append(
            f"{count} {'tune is' if count == 1 else 'tunes are'} too few to hold any out: all are"
            " learnt from, for a fixed number of updates under strong dropout"
        )
    elif not dataset.test:
        lines.append(
            f"{count} tunes: {len(dataset.valid)} are held out to stop by; there is no test part,"
            f" for with fewer than {SMALL} different tunes its score would say nothing"
        )
    if found.origin:
        lines.append(
            f"goes on from {found.origin}: its shape and weights; new are dropout"
            f" {shape.dropout:g} and a learning rate of {found.training.learning_rate:g}"
        )
    if found.guarded:
        few = "this tune" if count == 1 else "these tunes than they share"
        lines.append(f"stops when what it writes copies {'' if count == 1 else 'more of '}{few}")
    return lines


def replace_tokens(found: Plan, tokens: int) -> Plan:
    """Return the plan with another number of tokens."""
    return replace(found, training=replace(found.training, tokens=tokens))


def tokens_a_second(
    dataset: Dataset, found: Plan, start: Checkpoint | None = None, ranks: Ranks = ALONE
) -> float:
    """Measure the speed of training on a model that is thrown away."""
    found = replace(found, training=levelled(found.training))
    trainer = new_trainer(dataset, found, start, ranks)
    rates = [trainer.update(trainer.next()).rate for _ in range(PROBE_UPDATES)]
    return ranks.first(float(np.median(rates[1:])))


def new_trainer(
    dataset: Dataset, found: Plan, start: Checkpoint | None = None, ranks: Ranks = ALONE
) -> Trainer:
    """Make the trainer of a plan, at its first step; the weights may be those of a model."""
    generator = torch.Generator().manual_seed(found.training.seed)
    model = LanguageModel(found.model, generator).to(found.device)
    if start is not None:
        model.put(fine_tune.grown(start, dataset.vocabulary_size, found.training.seed))
    valid, notes = flat_ids(dataset.valid), notes_of(dataset.valid)
    train, pitches = flat_ids(dataset.train), pitches_of(dataset.codec)
    trainer = Trainer(model, train, valid, found.training, notes, ranks, pitches)
    if start is not None:  # what it adds must be better than nothing
        loss = evaluate(model, valid, crew=trainer.crew).loss if valid else 0.0
        trainer.best.offer(loss, 0, model)
    return trainer


def pitches_of(codec: str) -> tuple[range, ...]:
    """Return the ids of pitches in a codec that leaves tunes in their keys; none for others."""
    found = CODECS.get(codec)
    if not isinstance(found, PerformanceCodec | FramesCodec):
        return ()
    ranges = found.vocabulary.ranges
    return tuple(ranges[kind] for kind in ("on", "off", "pitch") if kind in ranges)


def notes_of(tunes: Sequence[EncodedTune]) -> list[int]:
    """Count the notes of each tune."""
    return [tune.notes for tune in tunes]
