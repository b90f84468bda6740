"""Models for the tests: engines with known logits, and untrained checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musicgen.checkpoint import Manifest, save, weight_shapes
from musicgen.config import ModelSettings
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES, Event

RARE = ("begin", "irregular", "part", "voice", "drum", "chord", "bass", "no_chord", "key",
        "lineup", "role", "family", "level", "given", "fermata")  # fmt: skip


def may_be_seen(event: Event) -> bool:
    """Tell what a corpus of single lines would hold: all meters, tuplets, endings, pickups.

    Of other codecs: everything but long silences.
    """
    if event.kind == "shift":
        return int(event.value or 0) <= 10
    if event.kind == "parts":
        return event.value == 1
    if event.kind == "pitch":
        return -24 <= int(event.value or 0) <= 36
    if event.kind == "repeat_end":
        return event.value == 2
    if event.kind == "ending":
        return event.value in ("1", "2")
    return event.kind not in RARE


BAND_EVENTS = {
    "lineup": (2, 3, 4), "role": ("melody", "bass", "drums"),
    "family": ("reed", "bass", "drum kit"), "level": (2, 4, 6), "part": (1, 2, 3), "voice": (1,),
    "drum": (36, 38, 42),
}  # fmt: skip


def may_be_seen_in_bands(event: Event) -> bool:
    """Tell what a corpus of bands would hold: two to four parts, all with a line-up."""
    if event.kind in BAND_EVENTS:
        return event.value in BAND_EVENTS[event.kind]
    return event.kind != "parts" and may_be_seen(event)


SEEN = tuple(int(may_be_seen(event)) for event in MEASURES.events)
SEEN_IDS = frozenset(id_ for id_, seen in enumerate(SEEN) if seen)
BAND_SEEN_IDS = frozenset(
    id_ for id_, event in enumerate(MEASURES.events) if may_be_seen_in_bands(event)
)


class FixedEngine:
    """An engine that always says the same."""

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits
        self.fed: list[int] = []

    def start(self) -> None:
        self.fed = []

    def step(self, ids: Sequence[int], state: None) -> tuple[np.ndarray, None]:
        self.fed += ids
        return self.logits, state


class RandomEngine:
    """An engine that says something else each time."""

    def __init__(self, seed: int, spread: float = 2.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.spread = spread

    def start(self) -> None:
        return None

    def step(self, ids: Sequence[int], state: None) -> tuple[np.ndarray, None]:
        return self.rng.normal(size=len(MEASURES)) * self.spread, state


def untrained(
    folder: Path,
    seed: int = 0,
    hidden: int = 16,
    codec: str = "measures",
    events: int | None = None,
    is_seen: Callable[[Event], bool] = may_be_seen,
    corpus: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint with random weights, of the first events only, and return its folder."""
    vocabulary = find_codec(codec).vocabulary
    names = vocabulary.names[:events]
    settings = ModelSettings(vocabulary_size=len(names), hidden=hidden, embedding=hidden)
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in weight_shapes(settings).items()
    }
    manifest = Manifest(
        name=folder.name, version=1, settings=settings, vocabulary=names, codec=codec,
        seen=tuple(int(is_seen(event)) for event in vocabulary.events[:events]),
        corpus=corpus or {},
    )  # fmt: skip
    save(folder, weights, manifest)
    return folder


LEAD_EVENTS = {
    "lineup": (1, 2), "role": ("melody", "symbols"), "family": ("piano",), "part": (1,),
    "chord": tuple(f"{root} {quality}" for root in (0, 2, 5, 7) for quality in ("", "m", "7")),
    "bass": (4, 7), "no_chord": (None,), "parts": (),
}  # fmt: skip


def may_be_seen_in_lead_sheets(event: Event) -> bool:
    """Tell what a corpus of lead sheets would hold: a melody with chord symbols, or alone."""
    if event.kind in LEAD_EVENTS:
        return event.value in LEAD_EVENTS[event.kind]
    return may_be_seen(event)


LEAD_SEEN_IDS = frozenset(
    id_ for id_, event in enumerate(MEASURES.events) if may_be_seen_in_lead_sheets(event)
)
