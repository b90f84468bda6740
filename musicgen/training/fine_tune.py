"""Fine-tuning: extend the vocabulary and the embeddings of a trained model to a new data set.

base = load("folk").checkpoint
dataset = remap_dataset(dataset, base)    # the ids of the base model; new events after them
model.load_weights(extend_embeddings(base, dataset.vocabulary_size))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from musicgen.checkpoint import Checkpoint, Weights
from musicgen.config import LOOKED_UP_FIELDS, ModelSettings, name_context
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import Mismatch
from musicgen.music.arrays import IntArray
from musicgen.tokens.registry import find_codec

Float32Array: TypeAlias = NDArray[np.float32]

MAX_VOCABULARY_SIZE: Final = 2**15 - 1  # ids of a data set are stored as int16
MIN_RELIABLE_COUNT: Final = 20  # occurrences in training, for the row of an event to be typical
NEW_ROW_SPREAD: Final = 0.1  # share of the standard deviation of known rows
EVENT_ROW_WEIGHTS: Final = (  # one row per event; a field has one more, for no event
    "embedding.weight", "head.weight", "head.bias",
    *(f"context.{name}.weight" for name in LOOKED_UP_FIELDS),
)  # fmt: skip


def remap_dataset(dataset: Dataset, base: Checkpoint) -> Dataset:
    """Return the data set with the ids of the base model; new events follow the known ones.

    Raises:
        Mismatch: the codec differs, a codec of notes has a vocabulary of which neither is the
            beginning of the other, or the merged vocabulary is too large.
    """
    name, codec = base.manifest.name, base.manifest.codec
    if dataset.codec != codec:
        raise Mismatch(
            f"--from {name}: its codec is {codec}, the tunes were encoded with {dataset.codec};"
            f" encode them with --codec {codec}, or train without --from"
        )
    if dataset.vocabulary == base.vocabulary:
        return dataset
    shared = min(len(base.vocabulary), dataset.vocabulary_size)
    is_same = base.vocabulary[:shared] == dataset.vocabulary[:shared]
    if find_codec(codec).unit == "note" and is_same:  # one is of an older version
        return replace(dataset, vocabulary=max(base.vocabulary, dataset.vocabulary, key=len))
    if find_codec(codec).unit == "note":
        raise Mismatch(
            f"--from {name}: it has {len(base.vocabulary)} events, the tunes were encoded with"
            f" {dataset.vocabulary_size}, another version's; build the data set again"
        )
    vocabulary = merge_vocabularies(base.vocabulary, dataset.vocabulary)
    if len(vocabulary) > MAX_VOCABULARY_SIZE:
        raise Mismatch(
            f"--from {name}: with the new tunes there would be {len(vocabulary):,} events, over"
            f" {MAX_VOCABULARY_SIZE:,}; train without --from"
        )
    ids_by_event = {event: id_ for id_, event in enumerate(vocabulary)}
    new_ids = np.array([ids_by_event[event] for event in dataset.vocabulary], np.int16)
    return replace(
        dataset,
        vocabulary=vocabulary,
        train=_remap_ids(dataset.train, new_ids),
        valid=_remap_ids(dataset.valid, new_ids),
        test=_remap_ids(dataset.test, new_ids),
    )


def merge_vocabularies(base: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Return the events of the base model in their order, then the new events."""
    return tuple(dict.fromkeys((*base, *new)))


def _remap_ids(tunes: Sequence[EncodedTune], new_ids: NDArray[np.int16]) -> list[EncodedTune]:
    return [replace(tune, ids=new_ids[tune.ids]) for tune in tunes]


def adapt_model_settings(
    base: Checkpoint, size: int, requested: Mapping[str, Any]
) -> ModelSettings:
    """Return the settings of the base model for a vocabulary of `size` events.

    Args:
        base: the model to fine-tune.
        size: events of the new vocabulary.
        requested: settings requested by the user; None where there is no request.

    Raises:
        Mismatch: a requested setting differs from that of the base model.
    """
    for name, value in requested.items():
        base_value = getattr(base.settings, name)
        base_value = name_context(base_value) if name == "context" else base_value
        if value not in (None, base_value):
            raise Mismatch(
                f"--{name} {value}: {base.manifest.name} has {base_value}, and fine-tuning keeps"
                f" the shape of the model; leave --{name} out, or train without --from"
            )
    return replace(base.settings, vocabulary_size=size)


def extend_embeddings(base: Checkpoint, size: int, seed: int = 0) -> Weights:
    """Extend the weights of a model to `size` events.

    Rows of new events are drawn near the mean of the known rows.
    """
    rng = np.random.default_rng(seed)
    reliable_ids = np.flatnonzero(np.array(base.manifest.seen) >= MIN_RELIABLE_COUNT)
    known_rows = reliable_ids if len(reliable_ids) else np.arange(base.settings.vocabulary_size)
    added = size - base.settings.vocabulary_size
    return {
        name: _append_rows(array, known_rows, added, rng) if name in EVENT_ROW_WEIGHTS else array
        for name, array in base.weights.items()
    }


def _append_rows(
    array: Float32Array, known_rows: IntArray, rows: int, rng: np.random.Generator
) -> Float32Array:
    """Append rows near the mean of the known rows; new biases are the lowest known bias."""
    if array.ndim == 1:
        return np.concatenate([array, np.full(rows, array[known_rows].min(), array.dtype)])
    mean, spread = array[known_rows].mean(0), array[known_rows].std(0)
    new_rows = mean + NEW_ROW_SPREAD * spread * rng.standard_normal((rows, array.shape[1]))
    return np.concatenate([array, new_rows.astype(array.dtype)])


def describe_base(base: Checkpoint) -> dict[str, Any]:
    """Return the manifest entry that describes the base model."""
    manifest = base.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.corpus.get("fingerprint", ""),
        "cards": list(manifest.corpus.get("cards", ())),
    }


def merge_event_counts(base: Checkpoint, counts: Sequence[int]) -> tuple[int, ...]:
    """Add the event counts of the new tunes to those of the base model."""
    base_counts = (*base.manifest.seen, *(0 for _ in counts[len(base.manifest.seen) :]))
    return tuple(int(old) + int(new) for old, new in zip(base_counts, counts, strict=True))


def merge_dance_counts(
    base: Checkpoint, new_counts: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Add counts of meters per dance to those of the base model; {} if the base has none."""
    base_counts = base.manifest.corpus.get("dances")
    if not base_counts:
        return {}
    return {
        name: dict(
            sorted((Counter(base_counts.get(name, {})) + Counter(new_counts.get(name, {}))).items())
        )
        for name in sorted({*base_counts, *new_counts})
    }


def merge_tonic_counts(
    base: Checkpoint, new_counts: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the new counts of tonics per mode; the base model's for modes that do not occur."""
    base_counts = base.manifest.corpus.get("tonics", {})
    return {mode: dict(table) for mode, table in sorted({**base_counts, **new_counts}.items())}
