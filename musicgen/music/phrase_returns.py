"""Phrases of four bars, and the earlier phrase that each one returns, found by comparing notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from musicgen.music.tune_content import REST, Event, TuneContent

PHRASE_BARS: Final = 4
VARIED_LIKENESS: Final = 0.5  # from which on a phrase is a variant of an earlier one
Relation: TypeAlias = Literal["exact", "transposed", "varied"]
RELATIONS: Final[tuple[Relation, ...]] = (
    "exact",
    "transposed",
    "varied",
)  # closest first


@dataclass(frozen=True, slots=True)
class Phrase:
    """Four bars of a section, counted from its first bar after the pickup."""

    bars: tuple[int, ...]  # indexes
    beat_steps: int
    events: tuple[Event, ...]  # of all bars in sequence

    @classmethod
    def of(cls, content: TuneContent, bars: tuple[int, ...]) -> Phrase:
        """Join the events of bars, given by index."""
        events = tuple(event for bar in bars for event in content.bars[bar].events)
        return cls(bars, content.bars[bars[0]].bar.meter.beat_steps, events)

    @property
    def has_notes(self) -> bool:
        """Whether the phrase is more than rests."""
        return any(pitch != REST for _, pitch in self.events)


@dataclass(frozen=True, slots=True)
class PhraseReturn:
    """How a phrase returns an earlier one.

    Exact: all events are equal. Transposed: all durations and rests are equal, and all pitches
    differ by the same interval. Varied: the likeness is VARIED_LIKENESS or more.
    """

    source: int  # index of the earlier phrase
    relation: Relation
    likeness: float  # mean of `compare_bars` over the bars at equal places, 0 to 1
    semitones: int  # from the earlier phrase up to this one; 0 if it is varied


def find_phrases(content: TuneContent) -> list[Phrase]:
    """Divide each section into phrases of PHRASE_BARS bars; leave out what remains."""
    return [
        Phrase.of(content, bars[start : start + PHRASE_BARS])
        for bars in (section.counted_bars for section in content.sections)
        for start in range(0, len(bars) - PHRASE_BARS + 1, PHRASE_BARS)
    ]


def find_return(content: TuneContent, phrases: Sequence[Phrase], index: int) -> PhraseReturn | None:
    """Find the earlier phrase that a phrase returns; None if it is new.

    The closest relation decides, then the likeness; of several equal phrases it is the first.

    Args:
        content: the tune.
        phrases: its phrases in order.
        index: which phrase to find the earlier one of.
    """
    candidates = [
        candidate
        for source in range(index)
        if (candidate := _compare_phrases(content, phrases, index, source))
    ]
    return min(candidates, key=_rank_return, default=None)


def _rank_return(candidate: PhraseReturn) -> tuple[int, float]:
    return RELATIONS.index(candidate.relation), -candidate.likeness


def _compare_phrases(
    content: TuneContent, phrases: Sequence[Phrase], index: int, source: int
) -> PhraseReturn | None:
    """Return how phrase `index` returns phrase `source`, or None."""
    phrase, earlier = phrases[index], phrases[source]
    likeness = content.compare_passages(phrase.bars, earlier.bars)
    if phrase.events == earlier.events:
        return PhraseReturn(source, "exact", likeness, 0)
    semitones = _find_transposition(phrase.events, earlier.events)
    if semitones is not None:
        return PhraseReturn(source, "transposed", likeness, semitones)
    return PhraseReturn(source, "varied", likeness, 0) if likeness >= VARIED_LIKENESS else None


def _find_transposition(own: Sequence[Event], other: Sequence[Event]) -> int | None:
    """Return the interval between pitches, where durations and rests are equal; else None."""
    if [(d, p == REST) for d, p in own] != [(d, p == REST) for d, p in other]:
        return None
    pitches = [(a, b) for (_, a), (_, b) in zip(own, other, strict=True) if a != REST]
    intervals = {a - b for a, b in pitches}
    return intervals.pop() if len(intervals) == 1 else None
