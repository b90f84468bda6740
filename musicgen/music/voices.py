"""Voices: assign the chords of a part to voices without overlap, and cut voices at bars and chords.

Each chord goes to the free voice that is nearest in pitch and time.

A tune is cut where its chords start and end: bar by bar and, inside a bar, voice by voice. A line
is one voice in one bar. The first voice of part 0 has a line in every bar, other voices only where
they sound. A line is cut into segments, which fill its bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Final, NamedTuple

import numpy as np

from musicgen.music.arrays import IntArray, is_new_value, ragged_arange, sort_rows, unique_sorted
from musicgen.music.bars import Bar
from musicgen.music.notes import LATEST_STEP, Note, NoteColumns, Notes

HOLD: Final = -1
REST: Final = -2


class Chord(NamedTuple):
    """Notes of one voice that start and end together."""

    onset: int  # steps
    duration: int  # steps
    pitches: tuple[int, ...]  # MIDI note numbers, descending

    @property
    def end(self) -> int:
        """Step at which the chord has ended."""
        return self.onset + self.duration


@dataclass(frozen=True, eq=False)
class Chords:
    """The chords of a tune as columns, sorted by part, onset and duration.

    The pitches of chord i are pitches[pitch_starts[i]:pitch_starts[i + 1]].
    """

    parts: IntArray  # (chord,) indexes into Score.parts
    onsets: IntArray  # (chord,) steps
    ends: IntArray  # (chord,) steps
    pitches: IntArray  # (note,) MIDI note numbers, descending within a chord
    pitch_starts: IntArray  # (chord + 1,)
    note_indexes: IntArray  # (note,) index of each pitch's note in the columns

    @classmethod
    def of(cls, columns: NoteColumns) -> Chords:
        """Join the notes of a part that start and end together, from (5, note) int64 columns."""
        onsets, pitches, durations, _, parts = columns
        order = sort_rows(parts, onsets, durations, 127 - pitches)
        starts = parts * (LATEST_STEP + 1) + onsets
        firsts = np.flatnonzero(is_new_value(starts[order]) | is_new_value(durations[order]))
        first_notes = order[firsts]
        parts, onsets = parts[first_notes], onsets[first_notes]
        ends = onsets + durations[first_notes]
        return cls(parts, onsets, ends, pitches[order], np.append(firsts, len(order)), order)

    def assign_voices(self) -> IntArray:
        """Number the voice of each chord within its part, so that no voice overlaps itself.

        A part has as many voices as chords sound at once. A chord goes to the free voice whose last
        chord is nearest in pitch, with a penalty for a rest between them. Where no voice is free,
        it opens a new one, higher chords first.

        Returns:
            (chord,) int64 voice numbers from 0.
        """
        numbers = np.zeros(len(self.parts), dtype=np.int64)
        overlaps = (np.diff(self.parts) == 0) & (self.onsets[1:] < self.ends[:-1])
        for part in unique_sorted(self.parts[1:][overlaps]).tolist():
            first, stop = np.searchsorted(self.parts, [part, part + 1]).tolist()
            onsets, ends = self.onsets[first:stop], self.ends[first:stop]
            tops = self.pitches[self.pitch_starts[first:stop]]
            bottoms = self.pitches[self.pitch_starts[first + 1 : stop + 1] - 1]
            order = sort_rows(onsets, 127 - tops, ends)
            columns = (column[order].tolist() for column in (onsets, ends, tops, bottoms))
            groups = np.append(np.flatnonzero(is_new_value(onsets)), len(onsets))
            numbers[first + order] = _assign_part_voices(
                list(zip(*columns, strict=True)), np.diff(groups).tolist()
            )
        return numbers


def separate_voices(notes: Iterable[Note]) -> tuple[tuple[Chord, ...], ...]:
    """Separate the notes of one part into voices, as `Chords.assign_voices` does."""
    chords = Chords.of(Notes.of(notes).columns)
    numbers = chords.assign_voices().tolist()
    voices: list[list[Chord]] = [[] for _ in range(max(numbers, default=-1) + 1)]
    pitches, pitch_starts = chords.pitches.tolist(), chords.pitch_starts.tolist()
    durations = (chords.ends - chords.onsets).tolist()
    for number, onset, duration, (start, stop) in zip(
        numbers, chords.onsets.tolist(), durations, pairwise(pitch_starts), strict=True
    ):
        voices[number].append(Chord(onset, duration, tuple(pitches[start:stop])))
    return tuple(map(tuple, voices))


_REST_COST: Final = 10  # semitones of distance that a rest before a chord counts as
_INFINITE_COST: Final = 1_000


# Onset and end in steps, highest and lowest pitch; a tuple, as this is the innermost loop.
_ChordSpan = tuple[int, int, int, int]


def _assign_part_voices(chords: Sequence[_ChordSpan], sizes: Iterable[int]) -> list[int]:
    """Return the voice number of each chord of a part.

    Args:
        chords: in order of onset; of those that start together, higher ones first.
        sizes: numbers of chords that start together.
    """
    numbers: list[int] = []
    last_chords: list[_ChordSpan] = []  # of each voice
    first = 0
    for size in sizes:
        if size == 1:
            voice = _find_nearest_voice(chords[first], last_chords)
            numbers.append(voice)
            last_chords[voice : voice + 1] = (chords[first],)  # replaces one, or appends it
        else:
            together = chords[first : first + size]
            voices = _pair_nearest(together, last_chords)
            numbers += voices
            for voice, chord in sorted(zip(voices, together, strict=True)):
                last_chords[voice : voice + 1] = (chord,)
        first += size
    return numbers


def _find_nearest_voice(chord: _ChordSpan, last_chords: Sequence[_ChordSpan]) -> int:
    """Return the free voice nearest to a chord, as `_pair_nearest` does for several chords."""
    onset, _, top, bottom = chord
    nearest, least_cost = len(last_chords), _INFINITE_COST
    for voice, (_, end, last_top, last_bottom) in enumerate(last_chords):
        if end <= onset:
            cost = abs(last_top - top) + abs(last_bottom - bottom)
            if end < onset:
                cost += _REST_COST
            if cost < least_cost:
                nearest, least_cost = voice, cost
    return nearest


def _pair_nearest(chords: Sequence[_ChordSpan], last_chords: Sequence[_ChordSpan]) -> list[int]:
    """Pair chords with free voices, nearest first, then the higher chord and the earlier voice.

    The distance is in semitones, of the highest and of the lowest pitches, plus the cost of a rest.

    Args:
        chords: that start together.
        last_chords: of each voice.

    Returns:
        The voice of each chord; where none is left, a new one.
    """
    onset = chords[0][0]
    free = [
        (voice, _REST_COST if end < onset else 0, top, bottom)
        for voice, (_, end, top, bottom) in enumerate(last_chords)
        if end <= onset
    ]
    costs = [
        (abs(last_top - top) + abs(last_bottom - bottom) + rest, index, voice)
        for index, (_, _, top, bottom) in enumerate(chords)
        for voice, rest, last_top, last_bottom in free
    ]
    costs.sort()
    voices = [-1] * len(chords)
    for _, index, voice in costs:
        if voices[index] < 0 and voice not in voices:
            voices[index] = voice
    new_voices = count(len(last_chords))
    return [next(new_voices) if voice < 0 else voice for voice in voices]


@dataclass(frozen=True, eq=False)
class BarVoices:
    """Lines as columns, bar by bar."""

    bars: IntArray  # (line,) index of the bar
    parts: IntArray  # (line,) number of the part
    voices: IntArray  # (line,) number of the voice in its part
    firsts: IntArray  # (line,) its first segment
    stops: IntArray  # (line,) the segment after its last

    def rows(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield bar, part, voice, first segment and stop of each line."""
        columns = self.bars, self.parts, self.voices, self.firsts, self.stops
        return zip(*(column.tolist() for column in columns), strict=True)


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments as columns, voice by voice."""

    starts: IntArray  # (segment,) steps; each voice starts at the end of the voice before
    offsets: IntArray  # (segment,) steps from the start of the bar
    lengths: IntArray  # (segment,) steps
    bar_steps: IntArray  # (segment,) steps of the bar
    sounds: IntArray  # (segment,) the chord that starts, or HOLD, or REST


def cut_into_segments(
    chords: Chords, numbers: IntArray, bars: Sequence[Bar], changes: Sequence[int]
) -> tuple[BarVoices, Segments]:
    """Cut chords into lines and segments.

    Args:
        chords: of all parts.
        numbers: (chord,) int64 voice of each chord, from `Chords.assign_voices`.
        bars: of the tune.
        changes: steps at which the first voice is cut too.
    """
    starts, ends = np.array([(bar.start, bar.end) for bar in bars], dtype=np.int64).T
    voice_limit = numbers.max(initial=0) + 1  # voices in a part
    # part and number of each voice as one key; the first voice of part 0 always exists
    keys = chords.parts * voice_limit + numbers
    is_key = np.bincount(keys, minlength=1) > 0
    is_key[0] = True
    voice_keys, voice = np.flatnonzero(is_key), (np.cumsum(is_key) - 1)[keys]
    line_voice, line_bar = np.divmod(_number_lines(chords, voice, ends), len(bars))
    # Each voice starts where the voice before it ends, so one number states voice and step.
    tune_steps = ends[-1]
    line_starts = line_voice * tune_steps + starts[line_bar]
    line_ends = line_voice * tune_steps + ends[line_bar]
    onsets, chord_ends = voice * tune_steps + chords.onsets, voice * tune_steps + chords.ends
    cuts = unique_sorted(
        np.concatenate([line_starts, onsets, chord_ends, changes]).astype(np.int64)
    )
    line = np.searchsorted(line_starts, cuts, side="right") - 1
    is_inside = cuts < line_ends[line]
    cuts, line = cuts[is_inside], line[is_inside]
    segments = Segments(
        cuts,
        cuts - line_starts[line],
        np.minimum(np.append(cuts[1:], line_ends[-1]), line_ends[line]) - cuts,
        (ends - starts)[line_bar[line]],
        _find_sounds(onsets, chord_ends, cuts),
    )
    firsts = np.searchsorted(cuts, line_starts)
    parts, voices = np.divmod(voice_keys[line_voice], voice_limit)
    order = sort_rows(line_bar, line_voice)
    columns = line_bar, parts, voices, firsts, np.append(firsts[1:], len(cuts))
    return BarVoices(*(column[order] for column in columns)), segments


def _number_lines(chords: Chords, voices: IntArray, bar_ends: IntArray) -> IntArray:
    """Return voice * bars + bar of each line, ascending: all of the first voice, and sounding ones.

    Args:
        chords: of all parts.
        voices: (chord,) int64 voice of each chord.
        bar_ends: (bar,) int64 steps.
    """
    first = np.searchsorted(bar_ends, chords.onsets, side="right")
    count = np.searchsorted(bar_ends, chords.ends) - first + 1
    sounding = np.repeat(voices * len(bar_ends) + first, count) + ragged_arange(count)
    return unique_sorted(np.append(np.arange(len(bar_ends)), sounding))


def _find_sounds(onsets: IntArray, ends: IntArray, steps: IntArray) -> IntArray:
    """Return the chord that starts at each step, else HOLD if one sounds, else REST."""
    if not len(onsets):
        return np.full(len(steps), REST)
    order = np.argsort(onsets)
    onsets, ends = onsets[order], ends[order]
    last = np.searchsorted(onsets, steps, side="right") - 1  # -1: before the first onset
    held_or_rest = np.where((last >= 0) & (steps < ends[last]), HOLD, REST)
    return np.where(onsets[last] == steps, order[last], held_or_rest)
