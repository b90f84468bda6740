"""Go on from a trained model: its shape, its weights, its events and those that are new.

start = load("folk").checkpoint
dataset = fitted(dataset, start)      # the same codec; of a text also what the model never met
model.put(grown(start, dataset))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from musicgen.checkpoint import Checkpoint, Weights
from musicgen.config import ModelSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import Mismatch
from musicgen.tokens.registry import find_codec

MAX_VOCABULARY_SIZE: Final = 2**15 - 1  # that a data set's ids can tell apart
MIN_RELIABLE_COUNT: Final = (
    20  # times that an event was met, for its weights to say what events are like
)
NEW_ROW_SPREAD: Final = 0.1  # of the spread of known events, for one that is new
EVENT_ROW_WEIGHTS: Final = (
    "embedding.weight",
    "head.weight",
    "head.bias",
)  # what has a row an event


def remap_dataset(dataset: Dataset, base: Checkpoint) -> Dataset:
    """Return the data set in the model's events, new ones after them.

    Raises Mismatch for another codec, and for a codec of notes with another table of events.
    """
    name, codec = base.manifest.name, base.manifest.codec
    if dataset.codec != codec:
        raise Mismatch(
            f"--from {name}: its codec is {codec}, the tunes were encoded with {dataset.codec};"
            f" encode them with --codec {codec}, or train without --from"
        )
    if dataset.vocabulary == base.vocabulary:
        return dataset
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
    places = {event: id_ for id_, event in enumerate(vocabulary)}
    table = np.array([places[event] for event in dataset.vocabulary], np.int16)
    return replace(
        dataset,
        vocabulary=vocabulary,
        train=_remap_ids(dataset.train, table),
        valid=_remap_ids(dataset.valid, table),
        test=_remap_ids(dataset.test, table),
    )


def merge_vocabularies(base: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Return the known events, each at its place, and then those that are new."""
    return tuple(dict.fromkeys((*base, *new)))


def _remap_ids(tunes: Sequence[EncodedTune], table: NDArray[np.int16]) -> list[EncodedTune]:
    return [replace(tune, ids=table[tune.ids]) for tune in tunes]


def adapt_model_settings(
    base: Checkpoint, size: int, requested: Mapping[str, Any]
) -> ModelSettings:
    """Return the model's shape for so many events; raise Mismatch where another is wished for."""
    for name, value in requested.items():
        known = getattr(base.settings, name)
        if value not in (None, known):
            raise Mismatch(
                f"--{name} {value}: {base.manifest.name} has {known}, and a model that is adapted"
                f" keeps its shape; leave --{name} out, or train without --from"
            )
    return replace(base.settings, vocabulary_size=size)


def extend_embeddings(base: Checkpoint, size: int, seed: int = 0) -> Weights:
    """Return the model's weights for so many events; a new one is drawn near the mean of all."""
    luck = np.random.default_rng(seed)
    often = np.flatnonzero(np.array(base.manifest.seen) >= MIN_RELIABLE_COUNT)
    known = often if len(often) else np.arange(base.settings.vocabulary_size)
    return {
        name: _append_rows(array, known, size, luck) if name in EVENT_ROW_WEIGHTS else array
        for name, array in base.weights.items()
    }


def _append_rows(
    array: np.ndarray, known_rows: NDArray[np.int64], size: int, rng: np.random.Generator
) -> np.ndarray:
    """Add rows near the mean of the known ones; a bias is that of the rarest of them."""
    rows = size - len(array)
    if array.ndim == 1:
        return np.concatenate([array, np.full(rows, array[known_rows].min(), array.dtype)])
    mean, spread = array[known_rows].mean(0), array[known_rows].std(0)
    fresh = mean + NEW_ROW_SPREAD * spread * rng.standard_normal((rows, array.shape[1]))
    return np.concatenate([array, fresh.astype(array.dtype)])


def describe_base(base: Checkpoint) -> dict[str, Any]:
    """Return what the card of an adapted model says of the one that it comes from."""
    manifest = base.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.corpus.get("fingerprint", ""),
        "cards": list(manifest.corpus.get("cards", ())),
    }


def merge_event_counts(base: Checkpoint, counts: Sequence[int]) -> tuple[int, ...]:
    """Return how often each event was met: by the model, and in the tunes that it goes on with."""
    before = (*base.manifest.seen, *(0 for _ in counts[len(base.manifest.seen) :]))
    return tuple(int(old) + int(new) for old, new in zip(before, counts, strict=True))


def merge_dance_counts(
    base: Checkpoint, new_counts: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Add the meters of each dance to those of a model; {} where it does not say its own."""
    known = base.manifest.corpus.get("dances")
    if not known:
        return {}
    return {
        name: dict(
            sorted((Counter(known.get(name, {})) + Counter(new_counts.get(name, {}))).items())
        )
        for name in sorted({*known, *new_counts})
    }


def merge_tonic_counts(
    base: Checkpoint, new_counts: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the tonics of each mode, as counted; the model's own where it was not met again."""
    known = base.manifest.corpus.get("tonics", {})
    return {mode: dict(table) for mode, table in sorted({**known, **new_counts}.items())}
