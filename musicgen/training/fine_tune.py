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

MOST_EVENTS: Final = 2**15 - 1  # that a data set's ids can tell apart
OFTEN: Final = 20  # times that an event was met, for its weights to say what events are like
NEARNESS: Final = 0.1  # of the spread of known events, for one that is new
ROWS: Final = ("embedding.weight", "head.weight", "head.bias")  # what has a row an event


def fitted(dataset: Dataset, start: Checkpoint) -> Dataset:
    """Return the data set in the model's events, new ones after them.

    Raises Mismatch for another codec, and for a codec of notes with another table of events.
    """
    name, codec = start.manifest.name, start.manifest.codec
    if dataset.codec != codec:
        raise Mismatch(
            f"--from {name}: its codec is {codec}, the tunes were encoded with {dataset.codec};"
            f" encode them with --codec {codec}, or train without --from"
        )
    if dataset.vocabulary == start.vocabulary:
        return dataset
    if not codec.startswith("text"):
        raise Mismatch(
            f"--from {name}: it has {len(start.vocabulary)} events, the tunes were encoded with"
            f" {dataset.vocabulary_size}, another version's; build the data set again"
        )
    vocabulary = joined(start.vocabulary, dataset.vocabulary)
    if len(vocabulary) > MOST_EVENTS:
        raise Mismatch(
            f"--from {name}: with the new tunes there would be {len(vocabulary):,} events, over"
            f" {MOST_EVENTS:,}; train without --from"
        )
    places = {event: id_ for id_, event in enumerate(vocabulary)}
    table = np.array([places[event] for event in dataset.vocabulary], np.int16)
    return replace(
        dataset,
        vocabulary=vocabulary,
        train=_translated(dataset.train, table),
        valid=_translated(dataset.valid, table),
        test=_translated(dataset.test, table),
    )


def joined(known: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Return the known events, each at its place, and then those that are new."""
    return tuple(dict.fromkeys((*known, *new)))


def _translated(tunes: Sequence[EncodedTune], table: NDArray[np.int16]) -> list[EncodedTune]:
    return [replace(tune, ids=table[tune.ids]) for tune in tunes]


def shape_of(start: Checkpoint, size: int, wished: Mapping[str, Any]) -> ModelSettings:
    """Return the model's shape for so many events; raise Mismatch where another is wished for."""
    for name, value in wished.items():
        known = getattr(start.settings, name)
        if value not in (None, known):
            raise Mismatch(
                f"--{name} {value}: {start.manifest.name} has {known}, and a model that is adapted"
                f" keeps its shape; leave --{name} out, or train without --from"
            )
    return replace(start.settings, vocabulary_size=size)


def grown(start: Checkpoint, size: int, seed: int = 0) -> Weights:
    """Return the model's weights for so many events; a new one is drawn near the mean of all."""
    luck = np.random.default_rng(seed)
    often = np.flatnonzero(np.array(start.manifest.seen) >= OFTEN)
    known = often if len(often) else np.arange(start.settings.vocabulary_size)
    return {
        name: _more_rows(array, known, size, luck) if name in ROWS else array
        for name, array in start.weights.items()
    }


def _more_rows(
    array: np.ndarray, known: NDArray[np.int64], size: int, luck: np.random.Generator
) -> np.ndarray:
    """Add rows near the mean of the known ones; a bias is that of the rarest of them."""
    rows = size - len(array)
    if array.ndim == 1:
        return np.concatenate([array, np.full(rows, array[known].min(), array.dtype)])
    mean, spread = array[known].mean(0), array[known].std(0)
    fresh = mean + NEARNESS * spread * luck.standard_normal((rows, array.shape[1]))
    return np.concatenate([array, fresh.astype(array.dtype)])


def origin(start: Checkpoint) -> dict[str, Any]:
    """Return what the card of an adapted model says of the one that it comes from."""
    manifest = start.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.corpus.get("fingerprint", ""),
        "cards": list(manifest.corpus.get("cards", ())),
    }


def met(start: Checkpoint, counts: Sequence[int]) -> tuple[int, ...]:
    """Return how often each event was met: by the model, and in the tunes that it goes on with."""
    before = (*start.manifest.seen, *(0 for _ in counts[len(start.manifest.seen) :]))
    return tuple(int(old) + int(new) for old, new in zip(before, counts, strict=True))


def add_dances(
    start: Checkpoint, counted: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Add the meters of each dance to those of a model; {} where it does not say its own."""
    known = start.manifest.corpus.get("dances")
    if not known:
        return {}
    return {
        name: dict(sorted((Counter(known.get(name, {})) + Counter(counted.get(name, {}))).items()))
        for name in sorted({*known, *counted})
    }


def tonics(
    start: Checkpoint, counted: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Return the tonics of each mode, as counted; the model's own where it was not met again."""
    known = start.manifest.corpus.get("tonics", {})
    return {mode: dict(table) for mode, table in sorted({**known, **counted}.items())}
