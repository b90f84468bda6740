"""What computes the score contexts of a codec: of one tune, of tunes side by side, of whole tunes.

A family of fields belongs to one codec: `score_context` to `measures`, `time_context` to
`performance`. `context_families` finds the source of a model by the names of the fields it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from musicgen.config import BEGIN_ID
from musicgen.music.arrays import IntArray, TokenIds

ContextFields: TypeAlias = npt.NDArray[np.int16]  # (token, field) of one tune
AnyContext: TypeAlias = Any  # a context of the source that made the lanes


class Context(Protocol):
    """The context of one tune before its next id: a frozen value."""

    def take(self, id_: int) -> Self:
        """Return the context after an id; the begin event changes nothing."""

    def compute_fields(self) -> tuple[int, ...]:
        """Return the value of each field, in the order of the source."""


class Lanes(Protocol):
    """The contexts of many tunes side by side."""

    def set_context(self, lane: int, context: AnyContext) -> None:
        """Set a lane to a context of the same source."""

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""

    def compute_fields(self) -> IntArray:
        """Return the value of each field of each lane, (lane, field) int64."""

    def take(self, ids: IntArray) -> None:
        """Advance each lane by its id, (lane,) int64."""


class WholeContexts(Protocol):
    """Computes the contexts of whole tunes, which training and held-out scores read."""

    def compute(self, tunes: Sequence[TokenIds]) -> list[ContextFields]:
        """Compute the context before each id of some tunes.

        Args:
            tunes: (token,) int16 or int64 each, without the begin event.

        Returns:
            (token, field) int16 each.
        """

    def transpose(self, context: ContextFields, semitones: int) -> ContextFields:
        """Return what `compute` would return for the transposed ids, (token, field) int16."""


class ContextSource(WholeContexts, Protocol):
    """A family of fields that is known while a tune is written, id by id."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the columns."""

    def start(self) -> Context:
        """Return the context before a tune."""

    def start_lanes(self, count: int) -> Lanes:
        """Return the contexts of some tunes, each before its first id."""


class OneByOneLanes:
    """Lanes that hold one frozen context each, for a source without arrays of its own."""

    def __init__(self, start: Context, count: int) -> None:
        self.contexts = [start] * count

    def set_context(self, lane: int, context: Context) -> None:
        """Set a lane to a context of the same source."""
        self.contexts[lane] = context

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        self.contexts = [self.contexts[lane] for lane in lanes.tolist()]

    def compute_fields(self) -> IntArray:
        """Return the value of each field of each lane, (lane, field) int64."""
        return np.array([context.compute_fields() for context in self.contexts], np.int64)

    def take(self, ids: IntArray) -> None:
        """Advance each lane by its id, (lane,) int64."""
        pairs = zip(self.contexts, ids.tolist(), strict=True)
        self.contexts = [context.take(id_) for context, id_ in pairs]


def compute_one_by_one(
    start: Context, tunes: Sequence[TokenIds], field_count: int
) -> list[ContextFields]:
    """Compute the context before each id of some tunes, one tune after another.

    Args:
        start: the context before a tune.
        tunes: (token,) int16 or int64 each.
        field_count: of the source.

    Returns:
        (token, field) int16 each.
    """
    results = []
    for ids in tunes:
        fields = np.empty((len(ids), field_count), np.int16)
        context = start.take(BEGIN_ID)
        for row, id_ in zip(fields, ids.tolist(), strict=True):
            row[:] = context.compute_fields()
            context = context.take(id_)
        results.append(fields)
    return results
