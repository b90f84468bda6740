"""The bars of a score: full, partial (pickups and the bars that balance them) or irregular.

Bars are counted as heard: a pickup and the short bar that completes it are one bar.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, Literal

from musicgen.music.score import Mark, Score, find_jumps, iter_passages
from musicgen.music.theory import Meter

# Lengths in steps of pickups and of the short bars that complete them.
PARTIAL_BAR_STEPS: Final = range(6, 288, 6)

BarKind = Literal["full", "partial", "irregular"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A written bar.

    A partial bar is a pickup, or the short bar that completes one wherever they are heard one
    after the other. An irregular bar is neither full nor partial.
    """

    start: int  # steps
    end: int  # steps
    meter: Meter  # in force at the start
    kind: BarKind

    @property
    def steps(self) -> int:
        """Length in steps."""
        return self.end - self.start


def find_bars(score: Score) -> tuple[Bar, ...]:
    """Divide a score into bars, at its bar lines, at jumps and at the end of the tune."""
    edges = sorted({0, score.end, *find_jumps(score), *(mark.onset for mark in score.of("bar"))})
    meters = list(score.of("meter")) or [Mark(0, "meter", Meter(4, 4))]
    meter_onsets = [mark.onset for mark in meters]
    bars = []
    for start, end in pairwise(edges):
        index = bisect_right(meter_onsets, start) - 1
        meter = meters[max(0, index)].value
        kind: BarKind = "full" if end - start == meter.steps else "irregular"
        bars.append(Bar(start, end, meter, kind))
    return _mark_partial_bars(score, bars)


def _mark_partial_bars(score: Score, bars: list[Bar]) -> tuple[Bar, ...]:
    """Mark as partial the short bars that form a full bar with a neighbor each time they sound."""
    short_indexes = {
        i for i, b in enumerate(bars) if b.steps < b.meter.steps and b.steps in PARTIAL_BAR_STEPS
    }
    if not short_indexes:
        return tuple(bars)
    heard_indexes = list(_iter_heard_indexes(score, bars))
    borders = set(find_jumps(score))
    valid_openings, valid_closings = set(short_indexes), set(short_indexes)
    for before, after in zip([None, *heard_indexes], [*heard_indexes, None], strict=True):
        if after in short_indexes and not _make_full_bar_across_border(
            bars, borders, before, after
        ):
            valid_openings.discard(after)
        if before in short_indexes:
            partner = after if after is not None else _first_short_bar(heard_indexes, short_indexes)
            if after is None and not _make_full_bar(bars, before, partner):
                valid_closings.discard(before)
            if after is not None and not _make_full_bar_across_border(bars, borders, before, after):
                valid_closings.discard(before)
    balanced = valid_openings | valid_closings
    return tuple(
        Bar(b.start, b.end, b.meter, "partial") if i in balanced else b for i, b in enumerate(bars)
    )


def _first_short_bar(heard: list[int], short: set[int]) -> int | None:
    return heard[0] if heard and heard[0] in short else None


def _make_full_bar_across_border(
    bars: list[Bar], borders: set[int], before: int | None, after: int | None
) -> bool:
    """Return whether two bars heard in sequence form a full bar across a section border."""
    if after is None or before is None:
        return True  # a tune may start with a pickup
    at_border = bars[before].end in borders and bars[after].start in borders
    return at_border and _make_full_bar(bars, before, after)


def _make_full_bar(bars: list[Bar], first: int, second: int | None) -> bool:
    if second is None:
        return False
    a, b = bars[first], bars[second]
    return (
        a.meter == b.meter and a.steps + b.steps == a.meter.steps and b.steps in PARTIAL_BAR_STEPS
    )


def _iter_heard_indexes(score: Score, bars: Sequence[Bar]) -> Iterator[int]:
    """Yield the indexes of the bars in playing order."""
    starts = [bar.start for bar in bars]
    for start, stop in iter_passages(score):
        yield from range(bisect_left(starts, start), bisect_left(starts, stop))


def find_pickups(bars: Sequence[Bar]) -> list[bool]:
    """Return for each bar whether it is a pickup: short and first, or the second of two halves."""
    pickups: list[bool] = []
    for index, bar in enumerate(bars):
        previous = bars[index - 1] if index else None
        completes_bar = previous is None or (
            previous.kind == "partial"
            and not pickups[-1]
            and previous.steps + bar.steps == bar.meter.steps
        )
        is_short = bar.kind == "partial" or (previous is None and bar.steps < bar.meter.steps)
        pickups.append(is_short and completes_bar)
    return pickups


def number_bars(bars: Sequence[Bar]) -> list[int]:
    """Number bars as players count: from 1, a pickup like the bar after it, a first pickup 0."""
    pickups = find_pickups(bars)
    counts = accumulate(int(not is_pickup) for is_pickup in pickups)
    return [n + (n > 0 and is_pickup) for n, is_pickup in zip(counts, pickups, strict=True)]


def count_heard_bars(score: Score) -> int:
    """Count the bars in playing order; a pickup and the bar that completes it are one bar."""
    bars = find_bars(score)
    heard_indexes = list(_iter_heard_indexes(score, bars))
    count = 0
    steps_owed = 0  # missing from the current bar
    for position, index in enumerate(heard_indexes):
        bar = bars[index]
        if bar.kind != "partial":
            count, steps_owed = count + 1, 0
        elif position == 0 or steps_owed:
            steps_owed = 0
        else:
            count, steps_owed = count + 1, bar.meter.steps - bar.steps
    return max(count, 1) if heard_indexes else 0
