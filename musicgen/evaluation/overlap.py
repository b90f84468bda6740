"""Figures of overlap: with the training tunes, and between the tunes of a set.

Runs of notes are those of `music.melodic_runs`: equal in any key, exact in rhythm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from musicgen.corpus.split import PAIR_DTYPE, find_group_roots, hash_grams
from musicgen.evaluation.figures import PERCENT, Definition, FigureTable, Ratio
from musicgen.music.arrays import IntArray
from musicgen.music.melodic_runs import list_moves
from musicgen.music.score import Score
from musicgen.similarity.overlap_report import LONG_RUN_NOTES, RUN_NOTES, OverlapIndex

COPIED_8 = Definition("copied_8", "8-note runs copied", PERCENT)
COPIED_16 = Definition("copied_16", "16-note runs copied", PERCENT)
LONGEST: Final = Definition("longest_run", "longest copied run", "notes")
VERBATIM: Final = Definition("verbatim", "copies of training tunes", PERCENT)
NEIGHBOR: Final = Definition("nearest_neighbor", "runs of the nearest tune", PERCENT)


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
        receipt = index.make_receipt(score)
        copied, count = index.count_copied_runs(score, LONG_RUN_NOTES)
        columns[COPIED_8].append(Ratio(receipt.copied_runs, receipt.run_count))
        columns[COPIED_16].append(Ratio(copied, count))
        columns[LONGEST].append(Ratio(receipt.longest.notes if receipt.longest else 0))
        columns[VERBATIM].append(Ratio(copied == count > 0, count > 0))
    for definition, ratios in columns.items():
        table = table.add(definition, ratios)
    return table


def measure_neighbors(scores: Sequence[Score]) -> list[Ratio]:
    """Measure the share of each tune's 8-note runs that its nearest neighbor in the set has.

    Formula: for a tune with the set R of its distinct runs, the maximum over the other tunes, with
    runs S, of |R and S| / |R|.
    """
    grams = [hash_grams(list_moves(score), RUN_NOTES - 1) for score in scores]
    owners = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
    pooled = np.concatenate([np.zeros(0, np.uint64), *grams])
    order = np.argsort(pooled, kind="stable")
    pooled, owners = pooled[order], owners[order]
    return [
        Ratio(_count_shared(pooled, owners, own, number) / len(own))
        for number, own in enumerate(grams)
    ]


def _count_shared(pooled: np.ndarray, owners: IntArray, own: np.ndarray, number: int) -> int:
    """Return how many grams of a tune its nearest neighbor has; `pooled` is sorted."""
    firsts = np.searchsorted(pooled, own, side="left")
    stops = np.searchsorted(pooled, own, side="right")
    holders = np.concatenate([owners[a:b] for a, b in zip(firsts, stops, strict=True)])
    others = holders[holders != number]
    return int(np.bincount(others).max()) if len(others) else 0


def group_duplicates(scores: Sequence[Score]) -> IntArray:
    """Group near-duplicates, as `corpus.split` does, so that no fold separates them.

    Returns:
        (score,) int64 index of the tune that stands for each tune's group.
    """
    return find_group_roots(len(scores), _iter_grams(scores))


def _iter_grams(scores: Sequence[Score]) -> Iterator[np.ndarray]:
    """Yield the grams of all scores with their owners, as one structured array."""
    grams = [hash_grams(list_moves(score)) for score in scores]
    pairs = np.empty(sum(map(len, grams)), dtype=PAIR_DTYPE)
    pairs["gram"] = np.concatenate([np.zeros(0, np.uint64), *grams])
    pairs["tune"] = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
    yield pairs
