"""The content of a tune as figures compare it: its melody bar by bar, sections, returning phrases.

The melody is the top line of the first part whose role is melody or soprano, or else of the first
part that is not drums: from each onset its highest note, until the next onset at the latest. Rests
fill the gaps, and notes are cut at bar lines. A phrase has four bars, and may return an earlier
one, which is found by comparing notes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, TypeAlias

import numpy as np

from musicgen.music.arrays import FloatArray, IntArray
from musicgen.music.bars import Bar, find_bars
from musicgen.music.score import Score, find_sections
from musicgen.music.score import Section as RepeatedSection
from musicgen.music.theory import Key

_LEAD_ROLES: Final = ("melody", "soprano")
REST: Final = -1  # in place of a pitch
LATER_ENDING: Final = -1  # in place of the index of a section
Event: TypeAlias = tuple[int, int]  # duration in steps; MIDI note number, or REST
LikenessKind: TypeAlias = Literal["bar", "rhythm", "pitch", "contour"]
LIKENESS_KINDS: Final[tuple[LikenessKind, ...]] = ("bar", "rhythm", "pitch", "contour")
_CODES_PER_DURATION: Final = 256  # pitches and REST, as one number with the duration
PHRASE_BARS: Final = 4
VARIED_LIKENESS: Final = 0.5  # from which on a phrase is a variant of an earlier one
Relation: TypeAlias = Literal["exact", "transposed", "varied"]
RELATIONS: Final[tuple[Relation, ...]] = (
    "exact",
    "transposed",
    "varied",
)  # closest first


@dataclass(frozen=True, slots=True)
class MelodyBar:
    """The melody of a written bar."""

    index: int  # among the bars of the tune
    bar: Bar
    section: int  # number of its section, or LATER_ENDING
    events: tuple[Event, ...]

    @property
    def is_short(self) -> bool:
        """Whether the bar is shorter than its meter."""
        return self.bar.steps < self.bar.meter.steps


@dataclass(frozen=True, slots=True)
class TuneSection:
    """The bars between two repeat signs, or from or to an end of the tune; no later endings.

    A pickup that stands alone between them is no section.
    """

    bars: tuple[MelodyBar, ...]
    is_repeated: bool
    endings: int

    @property
    def length(self) -> int:
        """Length in bars, rounded; short bars add up, so a pickup and its partner are one bar."""
        return math.floor(sum(b.bar.steps / b.bar.meter.steps for b in self.bars) + 0.5)

    @property
    def has_pickup(self) -> bool:
        """Whether the first bar is short."""
        return self.bars[0].is_short

    @property
    def counted_bars(self) -> tuple[int, ...]:
        """The indexes of the bars without the pickup."""
        return tuple(bar.index for bar in self.bars[self.has_pickup :])


@dataclass(frozen=True, eq=False)
class TuneContent:
    """The melody of a tune, as notes and bar by bar, and its sections."""

    score: Score
    key: Key
    onsets: IntArray  # (note,) steps
    durations: IntArray  # (note,) steps
    pitches: IntArray  # (note,) MIDI note numbers
    bars: tuple[MelodyBar, ...]
    sections: tuple[TuneSection, ...]
    can_repeat: bool = True  # False: read from a format without repeat signs, such as MIDI
    _likeness: dict[LikenessKind, FloatArray] = field(default_factory=dict, repr=False)
    _full_likeness: dict[LikenessKind, FloatArray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, score: Score, *, can_repeat: bool = True) -> TuneContent:
        """Read the melody, bars and sections of a score."""
        melody = _find_top_line(score)
        repeated = find_sections(score)
        edges = sorted({0, score.end} | {step for s in repeated for step in (s.start, s.stop)})
        bars = find_bars(score)
        melody_bars = tuple(
            MelodyBar(index, bar, _find_section(bar, edges, repeated), events)
            for index, (bar, events) in enumerate(
                zip(bars, _iter_bar_events(bars, *melody), strict=True)
            )
        )
        sections = tuple(_iter_sections(melody_bars, repeated))
        return cls(score, score.key, *melody, melody_bars, sections, can_repeat)

    @cached_property
    def full_bars(self) -> tuple[int, ...]:
        """The indexes of the bars that hold their meter."""
        return tuple(i for i, bar in enumerate(self.bars) if bar.bar.kind == "full")

    @property
    def has_melody(self) -> bool:
        """Whether the tune has notes that are not drums."""
        return len(self.pitches) > 0

    @property
    def has_repeats(self) -> bool:
        """Whether the tune has repeat signs, which show where its sections end."""
        return any(section.is_repeated for section in self.sections)

    def get_likeness(self, kind: LikenessKind) -> FloatArray:
        """Return `compare_bars` between all bars, (bar, bar) float64."""
        if kind not in self._likeness:
            events = [bar.events for bar in self.bars]
            self._likeness[kind] = compare_bars(events, events, kind)
        return self._likeness[kind]

    def get_full_likeness(self, kind: LikenessKind) -> FloatArray:
        """Return `compare_bars` between the full bars, (full bar, full bar) float64."""
        if kind not in self._full_likeness:
            rows = np.array(self.full_bars, dtype=np.int64)
            self._full_likeness[kind] = self.get_likeness(kind)[rows][:, rows]
        return self._full_likeness[kind]

    def compare_passages(self, first: Sequence[int], second: Sequence[int]) -> float:
        """Return the mean of `compare_bars` over the bars at equal places of two passages."""
        pairs = list(zip(first, second, strict=False))
        return float(self.get_likeness("bar")[tuple(np.transpose(pairs))].mean())


def compare_bars(
    first: Sequence[tuple[Event, ...]], second: Sequence[tuple[Event, ...]], kind: LikenessKind
) -> FloatArray:
    """Compare bars: the share of places whose events are equal, over the longer bar.

    Place i of a bar is its event number i. What must be equal depends on the kind: bar, duration
    and pitch (or rest); rhythm, duration and whether it is a rest; pitch, the pitch or rest;
    contour, whether it is a rest, or the pitch rises, falls or stays from the event before, where
    rests are lower than all pitches.

    Args:
        first: the events of each bar.
        second: the events of each bar to compare with.
        kind: what of an event is compared.

    Returns:
        (len(first), len(second)) float64 shares, 0 to 1.
    """
    lengths = [np.array([len(events) for events in bars], dtype=np.int64)
               for bars in (first, second)]  # fmt: skip
    width = max(int(values.max(initial=1)) for values in lengths)
    rows, columns = (_encode_bars(bars, kind, width) for bars in (first, second))
    equal_counts = np.zeros((len(first), len(second)), dtype=np.int64)
    for row, column in zip(rows.T, columns.T, strict=True):  # place by place, to save memory
        equal_counts += (row[:, None] == column) & (row[:, None] >= 0)
    longer = np.maximum(lengths[0][:, None], lengths[1][None])
    shares: FloatArray = equal_counts / np.maximum(longer, 1)
    return shares


def _encode_bars(bars: Sequence[tuple[Event, ...]], kind: LikenessKind, width: int) -> IntArray:
    """Return a number per event that stands for what is compared, (bar, width); -1 as padding."""
    padded = [bar + ((-2, -2),) * (width - len(bar)) for bar in bars]
    events = np.array(padded, dtype=np.int64).reshape(len(bars), width, 2)
    durations, pitches = events[..., 0], events[..., 1]
    if kind == "contour":
        moves = np.sign(np.diff(pitches, axis=1, prepend=pitches[:, :1])) + 1
        codes = np.where(pitches == REST, 3, moves)
    elif kind == "pitch":
        codes = pitches + 1
    else:
        values = pitches + 1 if kind == "bar" else (pitches == REST).astype(np.int64)
        codes = durations * _CODES_PER_DURATION + values
    return np.where(durations < 0, -1, codes)


def _find_top_line(score: Score) -> tuple[IntArray, IntArray, IntArray]:
    """Return onsets, durations and pitches of the melody, (note,) int64 each."""
    onsets, pitches, durations, _, parts = score.columns
    pitched = [n for n in np.unique(parts).tolist() if not score.parts[n].is_drums]
    leads = [n for n in pitched if score.parts[n].role in _LEAD_ROLES] or pitched
    is_lead = parts == (leads[0] if leads else -1)
    onsets, pitches, durations = onsets[is_lead], pitches[is_lead], durations[is_lead]
    order = np.lexsort((-durations, -pitches, onsets))
    rows = order[np.diff(onsets[order], prepend=-1) > 0]
    onsets, pitches, durations = onsets[rows], pitches[rows], durations[rows]
    durations[:-1] = np.minimum(durations[:-1], np.diff(onsets))
    return onsets, durations, pitches


def _iter_bar_events(
    bars: Sequence[Bar], onsets: IntArray, durations: IntArray, pitches: IntArray
) -> Iterator[tuple[Event, ...]]:
    """Yield the events of each bar; what is left of a note from an earlier bar is an event too."""
    ends = onsets + durations
    for bar in bars:
        rows = slice(np.searchsorted(ends, bar.start, side="right"),
                     np.searchsorted(onsets, bar.end))  # fmt: skip
        starts = np.maximum(onsets[rows], bar.start).tolist()
        stops = np.minimum(ends[rows], bar.end).tolist()
        notes = [*zip(starts, stops, pitches[rows].tolist(), strict=True), (bar.end, bar.end, REST)]
        yield tuple(_fill_with_rests(bar.start, notes))


def _fill_with_rests(now: int, notes: Sequence[tuple[int, int, int]]) -> Iterator[Event]:
    """Yield notes, (start, stop, pitch) in steps, as events with rests where nothing sounds."""
    for start, stop, pitch in notes:
        if start > now:
            yield start - now, REST
        if stop > start:
            yield stop - start, pitch
        now = stop


def _find_section(bar: Bar, edges: list[int], repeated: Sequence[RepeatedSection]) -> int:
    """Return the number of a bar's section, or LATER_ENDING."""
    for section in repeated:
        if any(mark.onset <= bar.start < mark.value.end for mark in section.endings[1:]):
            return LATER_ENDING
    return int(np.searchsorted(edges, bar.start, side="right")) - 1


def _iter_sections(
    bars: Sequence[MelodyBar], repeated: Sequence[RepeatedSection]
) -> Iterator[TuneSection]:
    repeated_by_start = {section.start: section for section in repeated}
    for index in sorted({bar.section for bar in bars} - {LATER_ENDING}):
        members = tuple(bar for bar in bars if bar.section == index)
        own = repeated_by_start.get(members[0].bar.start)
        section = TuneSection(members, own is not None, len(own.endings) if own else 0)
        if section.length:
            yield section


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
