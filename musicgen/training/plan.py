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
from musicgen.corpus.split import split_position
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, get_id_arrays
from musicgen.errors import InvalidValue
from musicgen.model.devices import choose_device, choose_precision
from musicgen.model.network import LanguageModel
from musicgen.tokens.frames import FramesCodec
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.registry import CODECS, find_codec
from musicgen.training import fine_tune
from musicgen.training.distributed import SINGLE_PROCESS, Ranks
from musicgen.training.heldout_loss import evaluate
from musicgen.training.trainer import Trainer, equalize_window_lengths

PROBE_UPDATES: Final = 6
MIN_GROUPS_TO_HOLD_OUT: Final = 8  # groups, of which some may be held out
MIN_GROUPS_FOR_TEST: Final = 50  # groups, with which there is a test part
LARGE_CORPUS_TUNES: Final = 2000  # tunes whose parts are never looked at again
SMALL_HELD_OUT_SHARE: Final = 0.15  # of a small corpus' groups are held out
MIN_VALID_GROUPS: Final = 4  # groups to stop by, of a corpus with a test part
SMALL_RUN_EVALUATIONS: Final = 6  # of a small run: what each costs shows
SMALL_RUN_PATIENCE: Final = 3  # of them, without a better one
FEW_LANES: Final = 8  # at the most, where an epoch has few updates
MIN_UPDATES_MANY_LANES: Final = 20  # an epoch, at the least, with more lanes
WIDE_HIDDEN: Final = (
    256  # units, above which the rate falls as the width grows (Yang and others, 2022)
)
MAX_LEARNING_RATES: Final = {
    "rnn": 1e-3,
    "irnn": 2e-4,
}  # without gates a larger one is soon too large
MIN_UPDATES_FEW_LANES: Final = 4  # an epoch, at the least


@dataclass(frozen=True, slots=True)
class TrainingOptions:
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
class SizePreset:
    """What suits a corpus of a size."""

    max_tokens: float  # tokens to learn from
    layers: int = 2
    hidden: int = 256
    dropout: float = 0.3
    embedding_dropout: float = 0.1
    learning_rate: float = 3e-3
    lanes: int = 32  # at the most
    bptt: int = 64
    first_bptt: int = 0
    epochs: float = 10
    min_tokens: int = 800_000  # tokens, however few there are to learn from


FRESH_PRESETS: Final = (
    SizePreset(8_000, 1, 256, 0.5, 0.2, epochs=60, min_tokens=60_000),
    SizePreset(50_000, 1, 256, 0.5, 0.2, epochs=30, min_tokens=200_000),
    SizePreset(250_000, 2, 256, 0.4, 0.1, epochs=20),
    SizePreset(float("inf"), 2, 256, 0.2, 0.05, 7e-3, lanes=64, bptt=32, first_bptt=8),
)
FINE_TUNE_PRESETS: Final = (
    SizePreset(
        50_000, dropout=0.5, embedding_dropout=0.2, learning_rate=5e-4, epochs=60, min_tokens=25_000
    ),
    SizePreset(float("inf"), learning_rate=1e-3, min_tokens=25_000),
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


def adjust_split(dataset: Dataset) -> Dataset:
    """Return the data set with as much held out as its size allows; a large one as it is.

    Held out are the groups that stand last in the order that decides parts: no new chance is
    drawn, and a tune more seldom changes it.
    """
    if len(dataset) >= LARGE_CORPUS_TUNES:
        return dataset
    groups = sorted(
        {tune.group for _, tune in dataset}, key=lambda name: (split_position(name), name)
    )
    tested = {tune.group for tune in dataset.test} if len(groups) >= MIN_GROUPS_FOR_TEST else set()
    judged = [name for name in groups if name not in tested]
    held = set(judged[len(judged) - _count_held_out_groups(len(groups), dataset) :])
    if tested and held == {tune.group for tune in dataset.valid}:
        return dataset
    tunes = [tune for _, tune in dataset]
    return replace(
        dataset,
        train=[tune for tune in tunes if tune.group not in held | tested],
        valid=[tune for tune in tunes if tune.group in held],
        test=[tune for tune in tunes if tune.group in tested],
    )


def _count_held_out_groups(groups: int, dataset: Dataset) -> int:
    """Return how many groups stop the run."""
    if groups < MIN_GROUPS_TO_HOLD_OUT:
        return 0
    if groups < MIN_GROUPS_FOR_TEST:
        return max(2, round(SMALL_HELD_OUT_SHARE * groups))
    return max(MIN_VALID_GROUPS, len({tune.group for tune in dataset.valid}))


def make_plan(
    dataset: Dataset,
    options: TrainingOptions,
    base: Checkpoint | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> Plan:
    """Derive sizes from the corpus. `--minutes` becomes a number of tokens here, once.

    Several processes plan the same: their lanes can be shared evenly, the first one's clock counts.

    Raises Mismatch where the options ask for another shape than that of the model to start from.
    """
    tokens = count_tokens(dataset.train)
    recipe = next(
        one for one in (FINE_TUNE_PRESETS if base else FRESH_PRESETS) if tokens < one.max_tokens
    )
    device = choose_device(options.device)
    lanes, bptt = _choose_window(tokens, recipe, options, ranks)
    epochs = options.epochs or recipe.epochs
    least = 1 if options.epochs else recipe.min_tokens
    shape = (
        _make_adapted_settings(base, recipe, dataset, options)
        if base
        else _make_fresh_settings(recipe, dataset, options)
    )
    is_small = not dataset.test or base is not None
    found = Plan(
        shape,
        TrainingSettings(
            tokens=max(int(epochs * tokens), least),
            lanes=lanes,
            bptt=bptt,
            first_bptt=min(recipe.first_bptt, bptt),
            learning_rate=options.learning_rate or _choose_learning_rate(recipe, shape),
            seed=options.seed,
            precision=choose_precision(options.precision, device),
        ),
        str(device),
        f"{base.manifest.name} {base.manifest.version}" if base else "",
        guarded=is_small
        and len(dataset.train) < LARGE_CORPUS_TUNES
        and find_codec(dataset.codec).unit == "note",
    )
    if options.minutes is not None:
        found = _fit_to_minutes(dataset, found, options.minutes, base, ranks, at_most=is_small)
    if is_small:
        found = _limit_evaluations(found, tokens)
    return replace(found, lines=tuple(_explain_plan(dataset, found)))


def _choose_window(
    tokens: int, preset: SizePreset, options: TrainingOptions, ranks: Ranks
) -> tuple[int, int]:
    """Return lanes and bptt: fewer lanes for a small corpus, so that an epoch has updates."""
    bptt = options.bptt or preset.bptt
    most = tokens // bptt
    lanes = max(
        1,
        min(FEW_LANES, most // MIN_UPDATES_FEW_LANES),
        min(preset.lanes, most // MIN_UPDATES_MANY_LANES),
    )
    return options.batch or -(-lanes // ranks.world_size) * ranks.world_size, bptt


def _choose_learning_rate(preset: SizePreset, shape: ModelSettings) -> float:
    """Return the recipe's rate, less for wide models, and what a plain cell can take."""
    wide = min(1.0, WIDE_HIDDEN / shape.hidden)
    return min(preset.learning_rate * wide, MAX_LEARNING_RATES.get(shape.cell, math.inf))


def _make_fresh_settings(
    preset: SizePreset, dataset: Dataset, options: TrainingOptions
) -> ModelSettings:
    hidden = options.hidden or preset.hidden
    return ModelSettings(
        vocabulary_size=dataset.vocabulary_size,
        cell=options.cell or "lstm",
        layers=options.layers or preset.layers,
        hidden=hidden,
        embedding=hidden,
        dropout=preset.dropout if options.dropout is None else options.dropout,
        embedding_dropout=preset.embedding_dropout,
    )


def _make_adapted_settings(
    base: Checkpoint, preset: SizePreset, dataset: Dataset, options: TrainingOptions
) -> ModelSettings:
    wished = {name: getattr(options, name) for name in ("cell", "layers", "hidden")}
    return replace(
        fine_tune.adapt_model_settings(base, dataset.vocabulary_size, wished),
        dropout=preset.dropout if options.dropout is None else options.dropout,
        embedding_dropout=preset.embedding_dropout,
    )


def _fit_to_minutes(
    dataset: Dataset,
    plan: Plan,
    minutes: float,
    base: Checkpoint | None,
    ranks: Ranks,
    *,
    at_most: bool,
) -> Plan:
    """Return the plan for so many minutes; a small corpus may be learnt in fewer."""
    settings = plan.training
    rate = measure_tokens_per_second(dataset, plan, base, ranks)
    tokens = max(settings.lanes * settings.bptt, int(rate * 60 * minutes))
    return replace_tokens(plan, min(tokens, settings.tokens) if at_most else tokens)


def _limit_evaluations(plan: Plan, tokens: int) -> Plan:
    every = max(tokens, plan.training.tokens // SMALL_RUN_EVALUATIONS)
    return replace(
        plan, training=replace(plan.training, evaluate_every=every, patience=SMALL_RUN_PATIENCE)
    )


def _explain_plan(dataset: Dataset, plan: Plan) -> list[str]:
    """Say what was decided for a corpus of this size, and why."""
    count, shape = len(dataset), plan.model
    lines = []
    if not dataset.valid:
        lines.append(
            f"{count} {'tune is' if count == 1 else 'tunes are'} too few to hold any out: all are"
            " learnt from, for a fixed number of updates under strong dropout"
        )
    elif not dataset.test:
        lines.append(
            f"{count} tunes: {len(dataset.valid)} are held out to stop by; there is no test part,"
            f" for with fewer than {MIN_GROUPS_FOR_TEST} different tunes its score would say"
            f" nothing"
        )
    if plan.origin:
        lines.append(
            f"goes on from {plan.origin}: its shape and weights; new are dropout"
            f" {shape.dropout:g} and a learning rate of {plan.training.learning_rate:g}"
        )
    if plan.guarded:
        few = "this tune" if count == 1 else "these tunes than they share"
        lines.append(f"stops when what it writes copies {'' if count == 1 else 'more of '}{few}")
    return lines


def replace_tokens(plan: Plan, tokens: int) -> Plan:
    """Return the plan with another number of tokens."""
    return replace(plan, training=replace(plan.training, tokens=tokens))


def measure_tokens_per_second(
    dataset: Dataset, plan: Plan, base: Checkpoint | None = None, ranks: Ranks = SINGLE_PROCESS
) -> float:
    """Measure the speed of training on a model that is thrown away."""
    plan = replace(plan, training=equalize_window_lengths(plan.training))
    trainer = make_trainer(dataset, plan, base, ranks)
    rates = [
        trainer.train_on_window(trainer.next_window()).tokens_per_second
        for _ in range(PROBE_UPDATES)
    ]
    return ranks.broadcast_first(float(np.median(rates[1:])))


def make_trainer(
    dataset: Dataset, plan: Plan, base: Checkpoint | None = None, ranks: Ranks = SINGLE_PROCESS
) -> Trainer:
    """Make the trainer of a plan, at its first step; the weights may be those of a model."""
    generator = torch.Generator().manual_seed(plan.training.seed)
    model = LanguageModel(plan.model, generator).to(plan.device)
    if base is not None:
        model.load_weights(
            fine_tune.extend_embeddings(base, dataset.vocabulary_size, plan.training.seed)
        )
    valid, notes = get_id_arrays(dataset.valid), get_note_counts(dataset.valid)
    train, pitches = get_id_arrays(dataset.train), find_pitch_ranges(dataset.codec)
    trainer = Trainer(model, train, valid, plan.training, notes, ranks, pitches)
    if base is not None:  # what it adds must be better than nothing
        loss = evaluate(model, valid, crew=trainer.crew).loss if valid else 0.0
        trainer.best.keep_if_better(loss, 0, model)
    return trainer


def find_pitch_ranges(codec: str) -> tuple[range, ...]:
    """Return the ids of pitches in a codec that leaves tunes in their keys; none for others."""
    found = CODECS.get(codec)
    if not isinstance(found, PerformanceCodec | FramesCodec):
        return ()
    ranges = found.vocabulary.ranges
    return tuple(ranges[kind] for kind in ("on", "off", "pitch") if kind in ranges)


def get_note_counts(tunes: Sequence[EncodedTune]) -> list[int]:
    """Count the notes of each tune."""
    return [tune.notes for tune in tunes]
