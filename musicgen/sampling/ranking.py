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
from musicgen.similarity.note_index import NoteIndex

SHORT_RUN_NOTES: Final = 4  # of the runs by which tunes are alike
MIDDLE_QUANTILES: Final = (0.05, 0.95)
SIMILARITY_WEIGHT: Final = 2.0  # what a tune costs that has all of its runs in one that was taken
RARITY_WEIGHT: Final = 0.25  # what the least likely tune costs that is still as likely as real ones
Ranges = Mapping[str, tuple[float, float]]
ShortRuns = frozenset[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TuneFigures:
    """One tune's figures, by their names, and the short runs that it has."""

    figures: Mapping[str, float]
    short_runs: ShortRuns


@dataclass(frozen=True, slots=True)
class RankedTune:
    """A chosen tune: its index among all, its cost and its outlying figures."""

    index: int
    cost: float  # of its figures
    similarity: float  # share of its short runs that stand in the most alike of those before it
    outliers: tuple[str, ...]  # the figures that lie outside the range of real tunes


def measure_tune(score: Score, figures: Mapping[str, float]) -> TuneFigures:
    """Measure a tune; figures: those that others have measured."""
    columns = RunColumns.of(score)
    runs, pieces = _compute_figures(columns.durations, columns.intervals, columns.starts)
    return TuneFigures({**figures, **runs}, frozenset(pieces))


def measure_real_ranges(
    index: NoteIndex, bits: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Return within which values the middle nine tenths of real tunes lie, figure by figure.

    bits: of held-out tunes under the model, where they were measured.
    """
    rows = [figures for figures in map(dict, _iterate_training_figures(index)) if figures]
    ranges: dict[str, Any] = {
        name: _compute_middle_range([row[name] for row in rows]) for name in rows[0]
    }
    if len(index.longest):
        ranges["longest"] = (0.0, _compute_middle_range(index.longest)[1])
        ranges["copied"] = (0.0, _compute_middle_range(index.shares)[1])
    return ranges | ({"bits": bits} if bits else {})


def choose(tunes: Sequence[TuneFigures], count: int, ranges: Ranges) -> Iterator[RankedTune]:
    """Yield the best tunes, the best first, at most `count`."""
    costs = {index: cost(tune, ranges) for index, tune in enumerate(tunes)}
    taken: list[ShortRuns] = []
    while costs and len(taken) < count:
        alike = {index: _compute_similarity(tunes[index].short_runs, taken) for index in costs}
        best = min(
            costs, key=lambda index: (costs[index] + SIMILARITY_WEIGHT * alike[index], index)
        )
        yield RankedTune(
            best, costs.pop(best), alike[best], tuple(_describe_outliers(tunes[best], ranges))
        )
        taken.append(tunes[best].short_runs)


def cost(tune: TuneFigures, ranges: Ranges) -> float:
    """Return how far a tune lies outside of real tunes, all figures added, and how rare it is."""
    measured = [name for name in ranges if name in tune.figures]
    outside = sum(_distance(tune.figures[name], ranges[name]) for name in measured)
    return outside + (RARITY_WEIGHT * _rarity(tune.figures, ranges) if "bits" in measured else 0.0)


def _rarity(figures: Mapping[str, float], ranges: Ranges) -> float:
    """Return how unlikely a tune is, from 0 to 1 within the range of real ones."""
    low, high = ranges["bits"]
    return min(1.0, max(0.0, (figures["bits"] - low) / max(high - low, 1e-9)))


def _distance(value: float, span: tuple[float, float]) -> float:
    """Return how far a value lies outside a range, in widths of it."""
    low, high = span
    return max(0.0, low - value, value - high) / max(high - low, 1e-9)


def _describe_outliers(tune: TuneFigures, ranges: Ranges) -> Iterator[str]:
    for name, (low, high) in ranges.items():
        value = tune.figures.get(name, low)
        if not low <= value <= high:
            yield f"{name} {value:.2f}, of real tunes {low:.2f} to {high:.2f}"


def _compute_similarity(short_runs: ShortRuns, chosen_runs: Iterable[ShortRuns]) -> float:
    return max(
        (len(short_runs & other_runs) / max(1, len(short_runs)) for other_runs in chosen_runs),
        default=0.0,
    )


def _compute_middle_range(values: Any) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=float), MIDDLE_QUANTILES)
    return float(low), float(high)


def _iterate_training_figures(index: NoteIndex) -> Iterator[dict[str, float]]:
    """Yield the figures of each training tune."""
    durations = index.table[index.codes].astype(np.int64)
    starts = np.zeros(len(durations), dtype=bool)
    starts[np.cumsum(index.lengths)[:-1]] = True
    starts[:1] = True
    runs = np.append(0, np.cumsum(index.lengths, dtype=np.int64))
    edges = runs[np.append(0, np.cumsum(index.runs, dtype=np.int64))].tolist()
    for first, stop in pairwise(edges):
        here = slice(first, stop)
        yield _compute_figures(durations[here], index.intervals[here], starts[here])[0]


def _compute_figures(
    durations: Any, intervals: Any, starts: Any
) -> tuple[dict[str, float], list[tuple[int, ...]]]:
    """Return the figures of a tune's runs, and its short runs; none for a tune without notes."""
    if not len(durations):
        return {}, []
    inside = ~np.asarray(starts)
    pieces = _find_short_runs(durations.tolist(), intervals.tolist(), inside.tolist())
    leaps = np.abs(np.asarray(intervals, dtype=np.int64)[inside])
    figures = {
        "returning": 1 - len(set(pieces)) / max(1, len(pieces)),
        "leap": float(leaps.mean()) if len(leaps) else 0.0,
        "pace": float(np.log2(durations / STEPS_PER_QUARTER).mean()),
    }
    return figures, pieces


def _find_short_runs(
    durations: Sequence[int], intervals: Sequence[int], inside: Sequence[bool]
) -> list[tuple[int, ...]]:
    """Return all runs of NOTES notes, free of key."""
    runs = []
    for at in range(len(durations) - SHORT_RUN_NOTES + 1):
        if all(inside[at + 1 : at + SHORT_RUN_NOTES]):
            moves = (
                *intervals[at + 1 : at + SHORT_RUN_NOTES],
                *durations[at : at + SHORT_RUN_NOTES],
            )
            runs.append(moves)
    return runs
