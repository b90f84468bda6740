"""Figures of drums: groove, hits per bar, parts of the kit. Tunes without drums have none.

Drums are counted by groups of the General MIDI kit (`music.general_midi.KIT_GROUPS`), and in time
by the 16ths of a bar. Each tune weighs the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Final

import numpy as np

from musicgen.evaluation.figures import PERCENT, Definition, Ratio
from musicgen.evaluation.part_figures import KIT_GROUP_TABLE, count_bars
from musicgen.evaluation.statistics import ONSET_STEPS
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, unique_sorted
from musicgen.music.bars import Bar
from musicgen.music.general_midi import KIT_GROUPS
from musicgen.music.tune_content import TuneContent

TOMS: Final = KIT_GROUPS.index("toms")
FEWEST_TOM_HITS: Final = 2  # of a bar with toms
_GROUPS: Final = len(KIT_GROUPS)
_KEYS: Final = 128  # percussion keys


@dataclass(frozen=True, eq=False)
class DrumBars:
    """The drums of a tune, bar by bar, and how each bar differs from the next."""

    hits: IntArray  # (hit,) indexes of KIT_GROUPS
    group_counts: IntArray  # (bar, group) 16ths of the bar at which the group is hit
    groove: FloatArray  # (bar - 1, group) similarity with the next bar; NaN where not compared
    is_repeated: FloatArray  # (bar - 1,) 1 where the next bar has the same hits; NaN as above


@lru_cache(maxsize=1)  # all figures of a tune are measured before those of the next
def read_drums(content: TuneContent) -> DrumBars | None:
    """Read the drums of a tune; None if it has none."""
    is_drums = np.array([part.is_drums for part in content.score.parts])
    if not is_drums.any() or not content.bars:
        return None
    columns = content.score.columns[:, is_drums[content.score.columns[4]]]
    if not columns.shape[1]:
        return None
    bars = [bar.bar for bar in content.bars]
    starts = np.array([bar.start for bar in bars])
    numbers = np.searchsorted(starts, columns[0], side="right") - 1
    places, groups = columns[0] - starts[numbers], KIT_GROUP_TABLE[columns[1]]
    counts, shared = _count_shared(numbers * _GROUPS + groups, places // ONSET_STEPS,
                                   len(bars) * _GROUPS, _GROUPS)  # fmt: skip
    groove = _compare_grooves(counts.reshape(-1, _GROUPS), shared.reshape(-1, _GROUPS), bars)
    hit_counts, same = _count_shared(numbers, places * _KEYS + columns[1], len(bars), 1)
    is_equal = (hit_counts[:-1] == same[:-1]) & (hit_counts[1:] == same[:-1])
    is_repeated = np.where(np.isnan(groove).all(axis=1), np.nan, is_equal)
    return DrumBars(groups, counts.reshape(-1, _GROUPS), groove, is_repeated)


def _count_shared(
    rows: IntArray, values: IntArray, row_count: int, shift: int
) -> tuple[IntArray, IntArray]:
    """Count the distinct values of each row, and those that the row `shift` rows later has too.

    Args:
        rows: (n,) row of each value.
        values: (n,) whole numbers from 0.
        row_count: number of rows.
        shift: rows from a row to the one that it is compared with.

    Returns:
        (row,) int64 both.
    """
    width = int(values.max()) + 1
    keys = unique_sorted(rows * width + values)
    is_shared = np.isin(keys + shift * width, keys)
    counts, shared = (
        np.bincount(chosen // width, minlength=row_count) for chosen in (keys, keys[is_shared])
    )
    return counts, shared


def _compare_grooves(counts: IntArray, shared: IntArray, bars: list[Bar]) -> FloatArray:
    """Compare each full bar with the next, group by group.

    Formula: 1 - (16ths at which only one of the bars has a hit of the group) / (16ths per bar).
    Source: grooving pattern similarity of Wu and Yang, "The Jazz Transformer on the Front Line",
    2020, there of all notes together.

    Args:
        counts: (bar, group) 16ths with a hit.
        shared: (bar, group) 16ths at which the next bar has a hit too.
        bars: all bars.

    Returns:
        (bar - 1, group) float64; NaN where neither bar has the group, and between bars that are not
        full or of different meters.
    """
    sizes = np.array([max(1, bar.meter.steps // ONSET_STEPS) for bar in bars])
    totals = counts[:-1] + counts[1:]
    similarity = 1 - (totals - 2 * shared[:-1]) / sizes[:-1, None]
    is_comparable = _find_comparable(bars)[:, None] & (totals > 0)
    groove: FloatArray = np.where(is_comparable, similarity, np.nan)
    return groove


def _find_comparable(bars: list[Bar]) -> BoolArray:
    """Return which bars are full and followed by a full bar of the same meter, (bar - 1,) bool."""
    return np.array(
        [
            bar.kind == after.kind == "full" and bar.meter == after.meter
            for bar, after in pairwise(bars)
        ],
        dtype=np.bool_,
    )


def _mean_known(values: FloatArray) -> Ratio | None:
    known = values[~np.isnan(values)]
    return Ratio(float(known.mean())) if len(known) else None


def measure_groove(content: TuneContent, *, group: int | None = None) -> Ratio | None:
    """Measure how like neighboring bars of drums are: the mean of `_compare_grooves`.

    Args:
        content: the tune.
        group: index of KIT_GROUPS; None for the mean over all groups.
    """
    drums = read_drums(content)
    if drums is None:
        return None
    return _mean_known(drums.groove if group is None else drums.groove[:, group])


def measure_hits(content: TuneContent) -> Ratio | None:
    """Measure the drum hits per bar."""
    drums, bars = read_drums(content), count_bars(content)
    return Ratio(len(drums.hits) / bars) if drums and bars else None


def measure_kit_share(content: TuneContent, *, group: int) -> Ratio | None:
    """Measure the share of drum hits that are of one group of the kit."""
    drums = read_drums(content)
    return Ratio(float((drums.hits == group).mean())) if drums else None


def measure_repeated_bars(content: TuneContent) -> Ratio | None:
    """Measure the share of bars of drums that have the same hits as the bar before.

    Counted are full bars after a full bar of the same meter, unless both are silent. Hits are equal
    if key and step in the bar are.
    """
    drums = read_drums(content)
    return _mean_known(drums.is_repeated) if drums else None


def measure_tom_bars(content: TuneContent) -> Ratio | None:
    """Measure the share of bars with toms at FEWEST_TOM_HITS or more 16ths, as most fills have.

    Counted are the bars with drums.
    """
    drums = read_drums(content)
    if drums is None:
        return None
    has_hits = drums.group_counts.any(axis=1)
    return Ratio(float((drums.group_counts[has_hits, TOMS] >= FEWEST_TOM_HITS).mean()))


def _define_by_group() -> tuple[Definition, ...]:
    """Define the figures of each group of the kit."""
    keys = [name.replace(" ", "_") for name in KIT_GROUPS]
    return (
        *(Definition(f"kit_share.{key}", f"drum hits: {name}", PERCENT,
                     partial(measure_kit_share, group=group), is_of_melody=False)
          for group, (key, name) in enumerate(zip(keys, KIT_GROUPS, strict=True))),
        *(Definition(f"drum_groove_by_kit.{key}", f"groove consistency, {name}", PERCENT,
                     partial(measure_groove, group=group), is_detail=True, is_of_melody=False)
          for group, (key, name) in enumerate(zip(keys, KIT_GROUPS, strict=True))),
    )  # fmt: skip


DRUM_FIGURES: Final = (
    Definition("drum_groove", "groove consistency, drums", PERCENT, measure_groove,
               is_of_melody=False),
    Definition("repeated_drum_bars", "drum bars like the last one", PERCENT,
               measure_repeated_bars, is_of_melody=False),
    Definition("hits_per_bar", "drum hits per bar", "", measure_hits, is_of_melody=False),
    Definition("tom_bars", "drum bars with toms", PERCENT, measure_tom_bars, is_of_melody=False),
    *_define_by_group(),
)  # fmt: skip
