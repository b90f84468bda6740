"""Voice separation: assign the chords of a part to voices in which nothing overlaps.

Each chord goes to the free voice that is nearest in pitch and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final, NamedTuple

import numpy as np

from musicgen.music.arrays import IntArray, unique_sorted
from musicgen.music.notes import Note, NoteColumns, Notes


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
        order = np.lexsort((durations << 7 | 127 - pitches, onsets, parts))
        same = np.stack([parts, onsets, durations])[:, order]
        begins = np.append(True, (np.diff(same) != 0).any(axis=0))[: len(order)]
        firsts = np.flatnonzero(begins)
        parts, onsets, durations = same[:, firsts]
        stops = np.append(firsts, len(order))
        return cls(parts, onsets, onsets + durations, pitches[order], stops, order)

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
            rows = slice(*np.searchsorted(self.parts, [part, part + 1]))
            tops = self.pitches[self.pitch_starts[:-1][rows]]
            bottoms = self.pitches[self.pitch_starts[1:][rows] - 1]
            columns = np.stack([self.onsets[rows], self.ends[rows], tops, bottoms])
            numbers[rows] = _assign_part_voices(list(map(_ChordSpan._make, columns.T.tolist())))
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


class _ChordSpan(NamedTuple):
    """When a chord sounds, and its highest and lowest pitch."""

    onset: int  # steps
    end: int  # steps
    top: int  # MIDI note number
    bottom: int  # MIDI note number

    def cost_after(self, previous: _ChordSpan) -> int:
        """Return the distance in semitones from the voice's previous chord, plus a rest's cost."""
        distance = abs(previous.top - self.top) + abs(previous.bottom - self.bottom)
        return distance + (_REST_COST if previous.end < self.onset else 0)


def _assign_part_voices(chords: Sequence[_ChordSpan]) -> list[int]:
    """Return the voice number of each chord of a part, in order of onset."""
    numbers = [0] * len(chords)
    last_chords: list[_ChordSpan] = []  # of each voice
    for onset, group in groupby(range(len(chords)), key=lambda index: chords[index].onset):
        indexes = list(group)
        free = [voice for voice, chord in enumerate(last_chords) if chord.end <= onset]
        voices: Sequence[int | None] = free
        if not len(indexes) == len(free) == 1:
            indexes.sort(key=lambda index: (-chords[index].top, chords[index].end))
            voices = _pair_nearest([chords[i] for i in indexes], free, last_chords)
        for index, voice in zip(indexes, voices, strict=True):
            if voice is None:
                numbers[index] = len(last_chords)
                last_chords.append(chords[index])
            else:
                numbers[index] = voice
                last_chords[voice] = chords[index]
    return numbers


def _pair_nearest(
    chords: Sequence[_ChordSpan], free: Sequence[int], last_chords: Sequence[_ChordSpan]
) -> list[int | None]:
    """Pair chords with free voices, nearest first, then the higher chord and the earlier voice."""
    costs = sorted(
        (chord.cost_after(last_chords[voice]), position, voice)
        for position, chord in enumerate(chords)
        for voice in free
    )
    voice_by_position: dict[int, int] = {}
    for _, position, voice in costs:
        if position not in voice_by_position and voice not in voice_by_position.values():
            voice_by_position[position] = voice
    return list(map(voice_by_position.get, range(len(chords))))
