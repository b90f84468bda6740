"""`--best K`: which of many tunes to keep, and why.

Each tune is measured by a few figures that real tunes have too. What counts against one is how far
it lies outside the middle nine tenths of the real tunes, in widths of that range; inside of it the
likelier tune comes first. The best is taken first; each further one is also to be unlike those that
were taken: what it shares with the most alike of them counts against it (maximal marginal
relevance, Carbonell and Goldstein 1998).

====================  =====================================================
figure                what it is
====================  =====================================================
bits                  of the whole tune under the model, over its notes
longest               notes of the longest run shared with a training tune
copied                share of the 8-note runs that stand in training tunes
returning             share of the 4-note runs that the tune has more than once
leap                  mean interval in semitones, up or down
pace                  mean of the binary logarithm of durations in quarters
====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from musicgen.music.melodic_runs import RunColumns
from musicgen.music.score import STEPS_PER_QUARTER, Score
from musicgen.similarity.note_index import Known

NOTES: Final = 4  # of the runs by which tunes are alike
MIDDLE: Final = (0.05, 0.95)
ALIKE_COSTS: Final = 2.0  # what a tune costs that has all of its runs in one that was taken
RARE_COSTS: Final = 0.25  # what the least likely tune costs that is still as likely as real ones
Ranges = Mapping[str, tuple[float, float]]
Pieces = frozenset[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One tune's figures, by their names, and the short runs that it has."""

    figures: Mapping[str, float]
    pieces: Pieces


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tune that is kept: its place among all, and what speaks against it."""

    place: int
    cost: float  # of its figures
    alike: float  # share of its short runs that stand in the most alike of those before it
    outside: tuple[str, ...]  # the figures that lie outside the range of real tunes


def measured(score: Score, figures: Mapping[str, float]) -> Measured:
    """Measure a tune; figures: those that others have measured."""
    columns = RunColumns.of(score)
    own, pieces = _figures(columns.durations, columns.intervals, columns.starts)
    return Measured({**figures, **own}, frozenset(pieces))


def real_ranges(known: Known, bits: tuple[float, float] | None = None) -> dict[str, Any]:
    """Return within which values the middle nine tenths of real tunes lie, figure by figure.

    bits: of held-out tunes under the model, where they were measured.
    """
    rows = [figures for figures in map(dict, _each(known)) if figures]
    found: dict[str, Any] = {name: _middle([row[name] for row in rows]) for name in rows[0]}
    if len(known.longest):
        found["longest"] = (0.0, _middle(known.longest)[1])
        found["copied"] = (0.0, _middle(known.shares)[1])
    return found | ({"bits": bits} if bits else {})


def choose(tunes: Sequence[Measured], count: int, ranges: Ranges) -> Iterator[Chosen]:
    """Yield the best tunes, the best first, as many as asked for or as there are."""
    costs = {place: cost(tune, ranges) for place, tune in enumerate(tunes)}
    taken: list[Pieces] = []
    while costs and len(taken) < count:
        alike = {place: _alike(tunes[place].pieces, taken) for place in costs}
        best = min(costs, key=lambda place: (costs[place] + ALIKE_COSTS * alike[place], place))
        yield Chosen(best, costs.pop(best), alike[best], tuple(_outside(tunes[best], ranges)))
        taken.append(tunes[best].pieces)


def cost(tune: Measured, ranges: Ranges) -> float:
    """Return how far a tune lies outside of real tunes, all figures added, and how rare it is."""
    known = [name for name in ranges if name in tune.figures]
    outside = sum(_distance(tune.figures[name], ranges[name]) for name in known)
    return outside + (RARE_COSTS * _rarity(tune.figures, ranges) if "bits" in known else 0.0)


def _rarity(figures: Mapping[str, float], ranges: Ranges) -> float:
    """Return how unlikely a tune is, from 0 to 1 within the range of real ones."""
    low, high = ranges["bits"]
    return min(1.0, max(0.0, (figures["bits"] - low) / max(high - low, 1e-9)))


def _distance(value: float, span: tuple[float, float]) -> float:
    """Return how far a value lies outside a range, in widths of it."""
    low, high = span
    return max(0.0, low - value, value - high) / max(high - low, 1e-9)


def _outside(tune: Measured, ranges: Ranges) -> Iterator[str]:
    for name, (low, high) in ranges.items():
        value = tune.figures.get(name, low)
        if not low <= value <= high:
            yield f"{name} {value:.2f}, of real tunes {low:.2f} to {high:.2f}"


def _alike(pieces: Pieces, taken: Iterable[Pieces]) -> float:
    return max((len(pieces & other) / max(1, len(pieces)) for other in taken), default=0.0)


def _middle(values: Any) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=float), MIDDLE)
    return float(low), float(high)


def _each(known: Known) -> Iterator[dict[str, float]]:
    """Yield the figures of each training tune."""
    durations = known.table[known.codes].astype(np.int64)
    starts = np.zeros(len(durations), dtype=bool)
    starts[np.cumsum(known.lengths)[:-1]] = True
    starts[:1] = True
    runs = np.append(0, np.cumsum(known.lengths, dtype=np.int64))
    edges = runs[np.append(0, np.cumsum(known.runs, dtype=np.int64))].tolist()
    for first, stop in pairwise(edges):
        here = slice(first, stop)
        yield _figures(durations[here], known.intervals[here], starts[here])[0]


def _figures(
    durations: Any, intervals: Any, starts: Any
) -> tuple[dict[str, float], list[tuple[int, ...]]]:
    """Return the figures of a tune's runs, and its short runs; none for a tune without notes."""
    if not len(durations):
        return {}, []
    inside = ~np.asarray(starts)
    pieces = _pieces(durations.tolist(), intervals.tolist(), inside.tolist())
    leaps = np.abs(np.asarray(intervals, dtype=np.int64)[inside])
    figures = {
        "returning": 1 - len(set(pieces)) / max(1, len(pieces)),
        "leap": float(leaps.mean()) if len(leaps) else 0.0,
        "pace": float(np.log2(durations / STEPS_PER_QUARTER).mean()),
    }
    return figures, pieces


def _pieces(
    durations: Sequence[int], intervals: Sequence[int], inside: Sequence[bool]
) -> list[tuple[int, ...]]:
    """Return all runs of NOTES notes, free of key."""
    found = []
    for at in range(len(durations) - NOTES + 1):
        if all(inside[at + 1 : at + NOTES]):
            moves = (*intervals[at + 1 : at + NOTES], *durations[at : at + NOTES])
            found.append(moves)
    return found
