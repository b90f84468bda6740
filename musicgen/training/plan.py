"""Training plans: derive from the corpus every setting that the user leaves open.

    dataset = adjust_split(dataset)    # hold out less of a small corpus
    plan = make_plan(dataset, TrainingOptions(minutes=5))
    trainer = make_trainer(dataset, plan)

A corpus of fewer than MIN_GROUPS_FOR_TEST groups of tunes has no test split: a score on so few
tunes is not informative, and training needs every tune. With fewer than MIN_GROUPS_TO_HOLD_OUT
groups, all tunes are training tunes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from musicgen.checkpoint import Checkpoint, weight_shapes
from musicgen.config import CONTEXTS, MOST_EPOCHS, MOST_MINUTES, ModelSettings, TrainingSettings
from musicgen.corpus.split import split_position
from musicgen.corpus.store import (
    Dataset,
    EncodedTune,
    count_tokens,
    get_id_arrays,
    select_as_written,
)
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

WARM_UP_UPDATES: Final = 6  # are slower than the rest of a run
MOST_TRANSPOSED_TOKENS: Final = 1_000_000  # of training, for codecs that are transposed at random
PROBE_UPDATES: Final = 12  # after those, which measure the speed of training
PROBE_IDS: Final = 2048  # of each tune, so that few score contexts are computed
MIN_GROUPS_TO_HOLD_OUT: Final = 8  # with fewer groups, nothing is held out
MIN_GROUPS_FOR_TEST: Final = 50  # with fewer groups, there is no test split
LARGE_CORPUS_TUNES: Final = 2000  # from here on, the split is left as it was built
SMALL_HELD_OUT_SHARE: Final = 0.15  # share of the groups of a small corpus that is held out
MIN_VALID_GROUPS: Final = 4  # validation groups of a corpus with a test split
SMALL_RUN_EVALUATIONS: Final = 6  # at most: in a small run, evaluations take a large share
SMALL_RUN_PATIENCE: Final = 3  # evaluations without improvement before a small run stops
FEW_LANES: Final = 8
MIN_UPDATES_FEW_LANES: Final = 4  # updates per epoch, with up to FEW_LANES lanes
MIN_UPDATES_MANY_LANES: Final = 20  # updates per epoch, with more lanes
WIDE_HIDDEN: Final = 400  # units; the rate of wider models falls as 1 / width (Yang et al., 2022)
VOICE_EVENT: Final = re.compile("(part|voice)=")  # events after which another voice is written
MIN_SHARE_OF_SEVERAL_VOICES: Final = 0.05  # of the tunes, for a model to read the vertical context
MAX_LEARNING_RATES: Final = {"rnn": 1e-3, "irnn": 2e-4}  # cells without gates diverge above these


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Training options of the user; None is derived from the corpus."""

    cell: str | None = None
    layers: int | None = None
    hidden: int | None = None
    dropout: float | None = None
    bptt: int | None = None  # window length, in ids
    batch: int | None = None  # lanes
    epochs: float | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    seed: int = 1
    device: str = "auto"
    precision: str = "auto"
    context: str | None = None  # one of CONTEXTS

    def __post_init__(self) -> None:
        for name, most in (("epochs", MOST_EPOCHS), ("minutes", MOST_MINUTES)):
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise InvalidValue(f"{name} {value}: choose a number above 0, up to {most:,.0f}")


@dataclass(frozen=True, slots=True)
class SizePreset:
    """Default settings for corpora up to a size."""

    max_tokens: float  # largest corpus, in training tokens
    layers: int = 2
    hidden: int = 256
    embedding: int | None = None  # None: as wide as the layers
    dropout: float = 0.3
    embedding_dropout: float = 0.1
    weight_dropout: float = 0.0
    context_dropout: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    lanes: int = 32  # at most
    bptt: int = 48  # window length, in ids
    first_bptt: int = 0  # length of the first windows, in ids; 0: bptt
    epochs: float = 10
    min_tokens: int = 800_000  # training tokens of a run, even if that is more epochs


# A model that looks back repeats more than real tunes do at the temperature of other models, 0.8.
CONTEXT_SAMPLING: Final = {"temperature": 1.0, "min_p": 0.04}
# Several parts that all look back hold each other in a loop where rare events are left out.
PARTS_SAMPLING: Final = {"temperature": 1.0, "min_p": 0.0}
# Without rare events notes are let go too soon; with all of them, some are held to the end.
LIVE_SAMPLING: Final = {"temperature": 1.0, "min_p": 0.03}
FRESH_PRESETS: Final = (
    SizePreset(8_000, 1, dropout=0.5, embedding_dropout=0.2, epochs=60, min_tokens=60_000),
    SizePreset(50_000, 1, dropout=0.5, embedding_dropout=0.2, epochs=30, min_tokens=200_000),
    SizePreset(250_000, dropout=0.4, epochs=20),
    SizePreset(
        float("inf"),
        hidden=400,
        embedding=192,
        dropout=0.5,
        embedding_dropout=0.12,
        weight_dropout=0.2,
        context_dropout=0.1,
        weight_decay=0.1,
        lanes=64,
        epochs=9,
    ),
)
FINE_TUNE_PRESETS: Final = (
    SizePreset(
        50_000, dropout=0.5, embedding_dropout=0.2, learning_rate=5e-4, epochs=60, min_tokens=25_000
    ),
    SizePreset(
        float("inf"),
        dropout=0.5,
        embedding_dropout=0.12,
        learning_rate=1e-3,
        weight_decay=0.1,
        min_tokens=25_000,
    ),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The model, the training settings and the device of a run."""

    model: ModelSettings
    training: TrainingSettings
    device: str
    origin: str = ""  # name and version of the base model, when fine-tuning
    guarded: bool = False  # whether memorisation stops the run
    lines: tuple[str, ...] = ()  # explanations of the decisions, for the user


def adjust_split(dataset: Dataset) -> Dataset:
    """Return the data set with as many tunes held out as its size allows.

    The groups held out are the last ones in the order of `split_position`, which is not random: one
    more tune rarely moves another one to a different split. A large data set is returned as is.
    """
    if len(dataset) >= LARGE_CORPUS_TUNES:
        return dataset
    group_names = sorted(
        {tune.group for _, tune in dataset}, key=lambda name: (split_position(name), name)
    )
    test_groups = (
        {tune.group for tune in dataset.test} if len(group_names) >= MIN_GROUPS_FOR_TEST else set()
    )
    candidates = [name for name in group_names if name not in test_groups]
    valid_groups = set(
        candidates[len(candidates) - _count_held_out_groups(len(group_names), dataset) :]
    )
    if test_groups and valid_groups == {tune.group for tune in dataset.valid}:
        return dataset
    tunes = [tune for _, tune in dataset]
    return replace(
        dataset,
        train=[tune for tune in tunes if tune.group not in valid_groups | test_groups],
        valid=[tune for tune in select_as_written(tunes) if tune.group in valid_groups],
        test=[tune for tune in select_as_written(tunes) if tune.group in test_groups],
    )


def _count_held_out_groups(groups: int, dataset: Dataset) -> int:
    """Return the number of validation groups."""
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
    """Make the plan of a run: options of the user, and defaults for the size of the corpus.

    A time budget (`minutes`) is converted to a number of tokens here, by the measured speed. All
    processes of a run make the same plan: the lanes can be shared evenly, and rank 0 measures.

    Raises Mismatch where the options ask for another shape than that of the model to start from.
    """
    tokens = count_tokens(dataset.train)
    preset = next(
        preset
        for preset in (FINE_TUNE_PRESETS if base else FRESH_PRESETS)
        if tokens < preset.max_tokens
    )
    device = choose_device(options.device)
    lanes, bptt = _choose_window(tokens, preset, options, ranks)
    epochs = options.epochs or preset.epochs
    min_tokens = 1 if options.epochs else preset.min_tokens
    model = (
        _make_adapted_settings(base, preset, dataset, options)
        if base
        else _make_fresh_settings(preset, dataset, options)
    )
    is_small = not dataset.test or base is not None
    plan = Plan(
        model,
        TrainingSettings(
            tokens=max(int(epochs * tokens), min_tokens),
            lanes=lanes,
            bptt=bptt,
            first_bptt=min(preset.first_bptt, bptt),
            weight_decay=preset.weight_decay,
            learning_rate=options.learning_rate or _choose_learning_rate(preset, model),
            seed=options.seed,
            precision=choose_precision(options.precision, device),
            transposed=_is_transposed(dataset.codec, tokens),
        ),
        str(device),
        f"{base.manifest.name} {base.manifest.version}" if base else "",
        guarded=is_small
        and len(dataset.train) < LARGE_CORPUS_TUNES
        and find_codec(dataset.codec).unit == "note",
    )
    if options.minutes is not None:
        plan = _fit_to_minutes(dataset, plan, options.minutes, base, ranks, at_most=is_small)
    if is_small:
        plan = _limit_evaluations(plan, tokens)
    return replace(plan, lines=tuple(_explain_plan(dataset, plan)))


def _is_transposed(codec_name: str, tokens: int) -> bool:
    """Return whether to transpose tunes at random: few performances, each in its own key.

    Of chorales in absolute pitches, a model learnt more in their own keys (docs/decisions.md).
    """
    is_performance = isinstance(CODECS.get(codec_name), PerformanceCodec)
    return is_performance and tokens < MOST_TRANSPOSED_TOKENS


def _choose_window(
    tokens: int, preset: SizePreset, options: TrainingOptions, ranks: Ranks
) -> tuple[int, int]:
    """Return lanes and window length; a small corpus gets fewer lanes, so more updates."""
    bptt = options.bptt or preset.bptt
    max_rows = tokens // bptt
    lanes = max(
        1,
        min(FEW_LANES, max_rows // MIN_UPDATES_FEW_LANES),
        min(preset.lanes, max_rows // MIN_UPDATES_MANY_LANES),
    )
    return options.batch or -(-lanes // ranks.world_size) * ranks.world_size, bptt


def _choose_learning_rate(preset: SizePreset, model: ModelSettings) -> float:
    """Return the learning rate of the preset, reduced for wide models and cells without gates."""
    width_factor = min(1.0, WIDE_HIDDEN / model.hidden)
    return min(preset.learning_rate * width_factor, MAX_LEARNING_RATES.get(model.cell, math.inf))


def _make_fresh_settings(
    preset: SizePreset, dataset: Dataset, options: TrainingOptions
) -> ModelSettings:
    hidden = options.hidden or preset.hidden
    offered = find_codec(dataset.codec).contexts
    if options.context not in (None, *offered):
        raise InvalidValue(
            f"--context {options.context}: codec {dataset.codec} has no such context; choose one of"
            f" {', '.join(offered)}, or leave --context out"
        )
    return ModelSettings(
        vocabulary_size=dataset.vocabulary_size,
        cell=options.cell or "lstm",
        layers=options.layers or preset.layers,
        hidden=hidden,
        embedding=min(preset.embedding or hidden, hidden),
        context=CONTEXTS[options.context or _choose_context(dataset)],
        dropout=preset.dropout if options.dropout is None else options.dropout,
        embedding_dropout=preset.embedding_dropout,
        weight_dropout=preset.weight_dropout,
        context_dropout=preset.context_dropout,
    )


def _choose_context(dataset: Dataset) -> str:
    """Return the name of the score context that suits a data set."""
    codec = find_codec(dataset.codec)
    if codec.has_bars and has_several_voices(dataset):
        return "all+vertical"
    return codec.contexts[0]


def has_several_voices(dataset: Dataset) -> bool:
    """Return whether enough training tunes have more than one part or voice."""
    voice_ids = [id_ for id_, name in enumerate(dataset.vocabulary) if VOICE_EVENT.match(name)]
    tunes = get_id_arrays(dataset.train)
    count = sum(bool(np.isin(ids, voice_ids).any()) for ids in tunes)
    return count > MIN_SHARE_OF_SEVERAL_VOICES * len(tunes)


def _make_adapted_settings(
    base: Checkpoint, preset: SizePreset, dataset: Dataset, options: TrainingOptions
) -> ModelSettings:
    requested = {name: getattr(options, name) for name in ("cell", "layers", "hidden", "context")}
    return replace(
        fine_tune.adapt_model_settings(base, dataset.vocabulary_size, requested),
        dropout=preset.dropout if options.dropout is None else options.dropout,
        embedding_dropout=preset.embedding_dropout,
        weight_dropout=preset.weight_dropout,
        context_dropout=preset.context_dropout,
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
    """Return the plan for a time budget; with at_most, it may use less time than that."""
    settings = plan.training
    rate = measure_tokens_per_second(dataset, plan, base, ranks)
    tokens = max(settings.lanes * settings.bptt, int(rate * 60 * minutes))
    return replace_tokens(plan, min(tokens, settings.tokens) if at_most else tokens)


def _limit_evaluations(plan: Plan, tokens: int) -> Plan:
    evaluate_every = max(tokens, plan.training.tokens // SMALL_RUN_EVALUATIONS)
    return replace(
        plan,
        training=replace(plan.training, evaluate_every=evaluate_every, patience=SMALL_RUN_PATIENCE),
    )


def _explain_plan(dataset: Dataset, plan: Plan) -> list[str]:
    """Explain the decisions that follow from the size of the corpus, one per line."""
    count, model = sum(1 for _ in select_as_written(tune for _, tune in dataset)), plan.model
    lines = []
    if not dataset.valid:
        lines.append(
            f"{count} {'tune is' if count == 1 else 'tunes are'} too few to hold any out: training"
            " on all of them, for a fixed number of updates with strong dropout"
        )
    elif not dataset.test:
        lines.append(
            f"{count} tunes: {len(dataset.valid)} are held out for early stopping; there is no"
            f" test split, because a score on fewer than {MIN_GROUPS_FOR_TEST} different tunes"
            " would not be informative"
        )
    if count < LARGE_CORPUS_TUNES and not plan.origin:
        lines.append(_describe_size(dataset, model))
    if plan.origin:
        lines.append(
            f"fine-tunes {plan.origin}: its shape and weights, with dropout {model.dropout:g} and a"
            f" learning rate of {plan.training.learning_rate:g}"
        )
    if plan.guarded:
        lines.append(
            "stops when sampled tunes copy "
            + ("this tune" if count == 1 else "more of these tunes than the tunes share")
        )
    return lines


def _describe_size(dataset: Dataset, model: ModelSettings) -> str:
    """Compare the number of notes with the number of weights that learn from them."""
    notes = sum(tune.notes for tune in select_as_written(dataset.train))
    weights = sum(math.prod(shape) for shape in weight_shapes(model).values())
    unit = find_codec(dataset.codec).unit
    return (
        f"{notes:,} {unit}s train {weights:,} weights, {notes / weights:.2g} per weight: expect"
        " the model to remember passages, and compare its score with that of the 5-gram"
    )


def replace_tokens(plan: Plan, tokens: int) -> Plan:
    """Return the plan with another number of training tokens."""
    return replace(plan, training=replace(plan.training, tokens=tokens))


def measure_tokens_per_second(
    dataset: Dataset, plan: Plan, base: Checkpoint | None = None, ranks: Ranks = SINGLE_PROCESS
) -> float:
    """Measure the speed of training, in tokens per second, on a temporary model."""
    settings = equalize_window_lengths(plan.training)
    tunes = [replace(tune, ids=tune.ids[:PROBE_IDS]) for tune in dataset.train[: settings.lanes]]
    excerpt = replace(dataset, train=tunes, valid=[], test=[])
    trainer = make_trainer(excerpt, replace(plan, training=settings), base, ranks)
    rates = [
        trainer.train_on_window(trainer.next_window()).tokens_per_second
        for _ in range(WARM_UP_UPDATES + PROBE_UPDATES)
    ]
    return ranks.broadcast_first(float(np.median(rates[WARM_UP_UPDATES:])))


def make_trainer(
    dataset: Dataset, plan: Plan, base: Checkpoint | None = None, ranks: Ranks = SINGLE_PROCESS
) -> Trainer:
    """Make the trainer of a plan, before its first update; `base` provides initial weights."""
    generator = torch.Generator().manual_seed(plan.training.seed)
    model = LanguageModel(plan.model, generator).to(plan.device)
    if base is not None:
        model.load_weights(
            fine_tune.extend_embeddings(base, dataset.vocabulary_size, plan.training.seed)
        )
    valid_tunes, notes = get_id_arrays(dataset.valid), get_note_counts(dataset.valid)
    train_tunes, pitch_ranges = get_id_arrays(dataset.train), find_pitch_ranges(dataset.codec)
    trainer = Trainer(model, train_tunes, valid_tunes, plan.training, notes, ranks, pitch_ranges)
    if base is not None:  # keep the base weights unless fine-tuning improves them
        loss = evaluate(model, valid_tunes).loss if valid_tunes else 0.0
        trainer.best.keep_if_better(loss, 0, model)
    return trainer


def find_pitch_ranges(codec_name: str) -> tuple[range, ...]:
    """Return the pitch ranges of a codec that does not normalise keys; () for the others."""
    codec = CODECS.get(codec_name)
    if not isinstance(codec, PerformanceCodec | FramesCodec):
        return ()
    ranges = codec.vocabulary.ranges
    return tuple(ranges[kind] for kind in ("on", "off", "pitch") if kind in ranges)


def get_note_counts(tunes: Sequence[EncodedTune]) -> list[int]:
    """Count the notes of each tune."""
    return [tune.notes for tune in tunes]
