"""Figures of overlap: with the training tunes, and between the tunes of a set.

Runs of notes are those of `music.melodic_runs`: equal in any key, exact in rhythm. What is compared
of a tune is read once, as `TuneGrams`, whatever the number of figures and sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from musicgen.corpus.split import PAIR_DTYPE, Grams, find_group_roots, hash_grams
from musicgen.evaluation.figures import PERCENT, Definition, FigureTable, Ratio
from musicgen.music.arrays import IntArray
from musicgen.music.melodic_runs import list_drum_moves, list_moves
from musicgen.music.score import Score
from musicgen.similarity.overlap_report import RUN_NOTES, OverlapIndex

COPIED_8: Final = Definition("copied_8", "8-note runs copied", PERCENT)
COPIED_16: Final = Definition("copied_16", "16-note runs copied", PERCENT)
LONGEST: Final = Definition("longest_run", "longest copied run", "notes")
VERBATIM: Final = Definition("verbatim", "copies of training tunes", PERCENT)
NEIGHBOR: Final = Definition("nearest_neighbor", "runs of the nearest tune", PERCENT)


@dataclass(frozen=True, slots=True)
class TuneGrams:
    """The stretches of a tune's moves as hashes, (n,) uint64 each, sorted and unique."""

    runs: Grams  # of RUN_NOTES notes, which the nearest neighbor shares
    stretches: Grams  # of SHARED_MOVES moves, which near-duplicates share

    @classmethod
    def of(cls, score: Score) -> Self:
        """Hash the moves of a score; a score of drums alone has no runs."""
        moves = list_moves(score)
        if not moves and (hits := list_drum_moves(score)):
            return cls(np.zeros(0, np.uint64), hash_grams(hits))
        return cls(hash_grams(moves, RUN_NOTES - 1), hash_grams(moves))


def add_overlap(table: FigureTable, scores: Sequence[Score], index: OverlapIndex) -> FigureTable:
    """Add the overlap of tunes with the training tunes to the table of their figures.

    Formulas: copied 8- and 16-note runs over all runs of that length, all tunes together; mean
    longest shared run; tunes whose every 16-note run is a training tune's, over tunes that have
    one.
    """
    columns: dict[Definition, list[Ratio]] = {
        definition: [] for definition in (COPIED_8, COPIED_16, LONGEST, VERBATIM)
    }
    for score in scores:
        counts = index.count_overlap(score)
        copied, count = counts.copied_long_runs, counts.long_run_count
        columns[COPIED_8].append(Ratio(counts.copied_runs, counts.run_count))
        columns[COPIED_16].append(Ratio(copied, count))
        columns[LONGEST].append(Ratio(counts.longest_run))
        columns[VERBATIM].append(Ratio(copied == count > 0, count > 0))
    for definition, ratios in columns.items():
        table = table.add(definition, ratios)
    return table


def measure_neighbors(tunes: Sequence[TuneGrams]) -> list[Ratio]:
    """Measure the share of each tune's 8-note runs that its nearest neighbor in the set has.

    Formula: for a tune with the set R of its distinct runs, the maximum over the other tunes, with
    runs S, of |R and S| / |R|. Tunes of drums alone have no such share.
    """
    grams = [tune.runs for tune in tunes]
    owners = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
    pooled = np.concatenate([np.zeros(0, np.uint64), *grams])
    order = np.argsort(pooled, kind="stable")
    pooled, owners = pooled[order], owners[order]
    return [
        Ratio(_count_shared(pooled, owners, own, number) / len(own)) if len(own) else Ratio(0, 0)
        for number, own in enumerate(grams)
    ]


def _count_shared(pooled: np.ndarray, owners: IntArray, own: np.ndarray, number: int) -> int:
    """Return how many grams of a tune its nearest neighbor has; `pooled` is sorted."""
    firsts = np.searchsorted(pooled, own, side="left")
    stops = np.searchsorted(pooled, own, side="right")
    holders = np.concatenate([owners[a:b] for a, b in zip(firsts, stops, strict=True)])
    others = holders[holders != number]
    return int(np.bincount(others).max()) if len(others) else 0


def group_duplicates(tunes: Sequence[TuneGrams]) -> IntArray:
    """Group near-duplicates, as `corpus.split` does, so that no fold separates them.

    Returns:
        (tune,) int64 index of the tune that stands for each tune's group.
    """
    grams = [tune.stretches for tune in tunes]
    pairs = np.empty(sum(map(len, grams)), dtype=PAIR_DTYPE)
    pairs["gram"] = np.concatenate([np.zeros(0, np.uint64), *grams])
    pairs["tune"] = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
    return find_group_roots(len(grams), [pairs])
