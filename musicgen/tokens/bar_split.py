"""Ids of a tune cut at its bars: what opens each, what it holds, and how it is numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from musicgen.tokens.form_state import RANKS
from musicgen.tokens.grammar import HEADER_KINDS
from musicgen.tokens.vocabulary import MEASURES

BETWEEN_BAR_IDS: Final = frozenset(id_ for kind in RANKS for id_ in MEASURES.ranges[kind])


@dataclass(frozen=True, slots=True)
class BarIds:
    """A bar of a strict tune: the ids up to its opening, its own, and the number that it has."""

    opening: tuple[int, ...]  # what stands between it and the bar before; bar or partial is last
    content: tuple[int, ...]
    number: int  # from 1; a pickup has that of the bar after it


@dataclass(frozen=True, slots=True)
class BarSplit:
    """A tune of a strict walk, bar by bar."""

    header: tuple[int, ...]
    bars: tuple[BarIds, ...]
    closing: tuple[int, ...]  # what follows the last bar

    @classmethod
    def of(cls, ids: Sequence[int]) -> BarSplit:
        """Cut ids that a strict walk allows."""
        head, rest = ids[: len(HEADER_KINDS)], ids[len(HEADER_KINDS) :]
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
        return cls(tuple(head), tuple(bars), tuple(opening))

    @property
    def bar_count(self) -> int:
        """The number of the last bar."""
        return max((bar.number for bar in self.bars), default=0)


def split_by_voice(content: Sequence[int]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Cut what a bar holds at its voices: part and number of a voice to its ids."""
    voice, ids = (0, 0), list[int]()
    found = {voice: ids}
    for id_ in content:
        event = MEASURES.events[id_]
        if event.kind in ("part", "voice"):
            number = int(event.value or 0)
            voice = (number, 0) if event.kind == "part" else (voice[0], number)
            ids = found.setdefault(voice, [])
        else:
            ids.append(id_)
    return {voice: tuple(ids) for voice, ids in found.items()}


def _opens_bar(id_: int) -> bool:
    return MEASURES.events[id_].kind in ("bar", "partial")


class _BarNumbering:
    """Counts bars: a short one opens the tune, or completes one that closed short; else it closes.

    It is a pickup in the first two cases, and has the number of the bar after it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.is_pickup_possible = True  # a short bar now would be a pickup

    def number_bar(self, id_: int) -> int:
        """Return the number of the bar that opens with an id."""
        short = MEASURES.events[id_].kind == "partial"
        if short and self.is_pickup_possible:
            self.is_pickup_possible = False
            return self.count + 1
        self.count += 1
        self.is_pickup_possible = short
        return self.count
