"""Split the ids of a tune at its bars, and number the bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from musicgen.tokens.form_state import RANKS
from musicgen.tokens.level_writer import has_level_changes, restate_levels, state_levels
from musicgen.tokens.lineup import measure_header
from musicgen.tokens.vocabulary import MEASURES

BETWEEN_BAR_IDS: Final = frozenset(id_ for kind in RANKS for id_ in MEASURES.ranges[kind])


@dataclass(frozen=True, slots=True)
class BarIds:
    """The ids of one bar."""

    opening: tuple[int, ...]  # from the end of the previous bar to `bar` or `partial`, inclusive
    content: tuple[int, ...]
    number: int  # from 1; a pickup has the number of the bar after it


@dataclass(frozen=True, slots=True)
class BarSplit:
    """The ids of a tune, bar by bar."""

    header: tuple[int, ...]
    bars: tuple[BarIds, ...]
    closing: tuple[int, ...]  # ids after the last bar

    @classmethod
    def of(cls, ids: Sequence[int]) -> BarSplit:
        """Split ids that a strict grammar allows."""
        header_length = measure_header(ids)
        header, rest = ids[:header_length], ids[header_length:]
        bars: list[BarIds] = []
        opening: list[int] = []
        content: list[int] = []
        numbers = _BarNumbering()
        for id_ in rest:
            if id_ not in BETWEEN_BAR_IDS:
                content.append(id_)
                continue
            if opening and _opens_bar(opening[-1]):
                bars.append(BarIds(tuple(opening), tuple(content), numbers.number_bar(opening[-1])))
                opening, content = [], []
            opening.append(id_)
        if opening and _opens_bar(opening[-1]):
            bars.append(BarIds(tuple(opening), tuple(content), numbers.number_bar(opening[-1])))
            opening = []
        return cls(tuple(header), tuple(bars), tuple(opening))

    def with_stated_levels(self, *, always: bool = False) -> BarSplit:
        """Return the tune with the level of each voice stated in each bar.

        So the notes of a bar have the same dynamics whatever stands before it.

        Args:
            always: state the levels even if none changes in the tune.
        """
        ids = [*self.header]
        bars: list[BarIds] = []
        for bar in self.bars:
            first = len(ids) + len(bar.opening)
            ids += (*bar.opening, *bar.content)
            content = state_levels(ids, first) if always else restate_levels(ids, first, len(ids))
            bars.append(replace(bar, content=content))
        return replace(self, bars=tuple(bars)) if always or has_level_changes(ids) else self

    @property
    def bar_count(self) -> int:
        """The number of the last bar."""
        return max((bar.number for bar in self.bars), default=0)


def split_by_voice(content: Sequence[int]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Split the ids of a bar by voice: maps part and number of each voice to its ids."""
    voice, ids = (0, 0), list[int]()
    ids_by_voice = {voice: ids}
    for id_ in content:
        event = MEASURES.events[id_]
        if event.kind in ("part", "voice"):
            number = int(event.value or 0)
            voice = (number, 0) if event.kind == "part" else (voice[0], number)
            ids = ids_by_voice.setdefault(voice, [])
        else:
            ids.append(id_)
    return {voice: tuple(ids) for voice, ids in ids_by_voice.items()}


def _opens_bar(id_: int) -> bool:
    return MEASURES.events[id_].kind in ("bar", "partial")


class _BarNumbering:
    """Numbers bars in order.

    A short bar that opens the tune, or that completes a short bar before it, is a pickup and has
    the number of the bar after it. Any other short bar closes a section.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_pickup_possible = True  # whether a short bar would be a pickup

    def number_bar(self, id_: int) -> int:
        """Return the number of the bar that an id opens."""
        is_short = MEASURES.events[id_].kind == "partial"
        if is_short and self.is_pickup_possible:
            self.is_pickup_possible = False
            return self.count + 1
        self.count += 1
        self.is_pickup_possible = is_short
        return self.count
