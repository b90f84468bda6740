"""The bars of a score: full, partial (pickups and the bars that balance them) or irregular.

Bars are counted as heard: a pickup and its partner are one bar.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, Literal

from musicgen.music.score import Score, find_jumps, iter_passages
from musicgen.music.theory import Meter

PARTIAL_BAR_STEPS: Final = range(
    6, 288, 6
)  # lengths of pickups and of the short bars that balance them

BarKind = Literal["full", "partial", "irregular"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A written bar: where it lies, the meter that holds, and how it fills it.

    partial: a pickup, or the short bar that balances one where the playing joins them.
    irregular: neither full nor balanced.
    """

    start: int
    end: int
    meter: Meter
    kind: BarKind

    @property
    def steps(self) -> int:
        """Length in steps."""
        return self.end - self.start


def find_bars(score: Score) -> tuple[Bar, ...]:
    """Cut a score into its bars. Bar lines, jumps and the tune's end all end a bar."""
    edges = sorted({0, score.end, *find_jumps(score), *(mark.onset for mark in score.of("bar"))})
    meters = [(mark.onset, mark.value) for mark in score.of("meter")] or [(0, Meter(4, 4))]
    onsets = [onset for onset, _ in meters]
    found = []
    for start, end in pairwise(edges):
        meter = meters[max(0, bisect_right(onsets, start) - 1)][1]
        kind: BarKind = "full" if end - start == meter.steps else "irregular"
        found.append(Bar(start, end, meter, kind))
    return _mark_partial_bars(score, found)


def _mark_partial_bars(score: Score, bars: list[Bar]) -> tuple[Bar, ...]:
    """Call partial what is balanced wherever it is heard: before it, or after it."""
    short = {
        i for i, b in enumerate(bars) if b.steps < b.meter.steps and b.steps in PARTIAL_BAR_STEPS
    }
    if not short:
        return tuple(bars)
    heard = list(_iter_heard_indexes(score, bars))
    borders = set(find_jumps(score))
    opening, closing = set(short), set(short)
    for before, after in zip([None, *heard], [*heard, None], strict=True):
        if after in short and not _make_full_bar_across_border(bars, borders, before, after):
            opening.discard(after)
        if before in short:
            other = after if after is not None else _first_short_bar(heard, short)
            if after is None and not _make_full_bar(bars, before, other):
                closing.discard(before)
            if after is not None and not _make_full_bar_across_border(bars, borders, before, after):
                closing.discard(before)
    balanced = opening | closing
    return tuple(
        Bar(b.start, b.end, b.meter, "partial") if i in balanced else b for i, b in enumerate(bars)
    )


def _first_short_bar(heard: list[int], short: set[int]) -> int | None:
    return heard[0] if heard and heard[0] in short else None


def _make_full_bar_across_border(
    bars: list[Bar], borders: set[int], before: int | None, after: int | None
) -> bool:
    """Tell whether two bars heard one after the other make one full bar across a border."""
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
    """Yield the indexes of the bars in the order in which they sound."""
    starts = [bar.start for bar in bars]
    for start, stop in iter_passages(score):
        yield from range(bisect_left(starts, start), bisect_left(starts, stop))


def find_pickups(bars: Sequence[Bar]) -> list[bool]:
    """Tell of each bar whether it ends a full one: the first, or the second of two halves."""
    pickups: list[bool] = []
    for index, bar in enumerate(bars):
        before = bars[index - 1] if index else None
        ends = before is None or (
            before.kind == "partial"
            and not pickups[-1]
            and before.steps + bar.steps == bar.meter.steps
        )
        is_short = bar.kind == "partial" or (before is None and bar.steps < bar.meter.steps)
        pickups.append(is_short and ends)
    return pickups


def number_bars(bars: Sequence[Bar]) -> list[int]:
    """Number bars as players count, from 1: a pickup goes with the bar after it, the first is 0."""
    pickups = find_pickups(bars)
    counts = accumulate(int(not is_pickup) for is_pickup in pickups)
    return [n + (n > 0 and is_pickup) for n, is_pickup in zip(counts, pickups, strict=True)]


def count_heard_bars(score: Score) -> int:
    """Count the bars as heard; a pickup and its partner are one bar."""
    found = find_bars(score)
    order = list(_iter_heard_indexes(score, found))
    count = 0
    owed = 0  # steps that the bar under way still lacks
    for place, index in enumerate(order):
        bar = found[index]
        if bar.kind != "partial":
            count, owed = count + 1, 0
        elif place == 0 or owed:
            owed = 0
        else:
            count, owed = count + 1, bar.meter.steps - bar.steps
    return max(count, 1) if order else 0
