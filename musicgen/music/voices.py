"""Separate the notes of a part into voices of chords that do not overlap.

Each note goes to the free voice that is nearest in pitch and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from musicgen.music.arrays import unique_sorted
from musicgen.music.notes import Note, NoteColumns, Notes


class Chord(NamedTuple):
    """Notes of one voice that start and end together; pitches from the highest down."""

    onset: int
    duration: int
    pitches: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first step at which it no longer sounds."""
        return self.onset + self.duration


@dataclass(frozen=True, eq=False)
class Chords:
    """The chords of a tune as columns: by part, then in order of onset, the shortest first."""

    parts: Any
    onsets: Any
    ends: Any
    pitches: Any  # of all notes, those of a chord from the highest down
    pitch_starts: Any  # where each chord's pitches start; one more, where the last chord's stop
    note_indexes: Any  # where in the columns the note of each pitch stands

    @classmethod
    def of(cls, columns: NoteColumns) -> Chords:
        """Join the notes of a part that start and end together."""
        onsets, pitches, durations, _, parts = columns
        order = np.lexsort((durations << 7 | 127 - pitches, onsets, parts))
        same = np.stack([parts, onsets, durations])[:, order]
        begins = np.append(True, (np.diff(same) != 0).any(axis=0))[: len(order)]
        firsts = np.flatnonzero(begins)
        parts, onsets, durations = same[:, firsts]
        stops = np.append(firsts, len(order))
        return cls(parts, onsets, onsets + durations, pitches[order], stops, order)

    def assign_voices(self) -> Any:
        """Return the number of each chord's voice in its part: in a voice nothing overlaps.

        There are no more voices than notes of different lengths sound at once. A chord goes to the
        free voice whose last chord is nearest in pitch, one that has just ended before one that
        rests; what finds none free opens a new voice, higher notes first.
        """
        numbers = np.zeros(len(self.parts), dtype=np.int64)
        overlaps = (np.diff(self.parts) == 0) & (self.onsets[1:] < self.ends[:-1])
        for part in unique_sorted(self.parts[1:][overlaps]).tolist():
            here = slice(*np.searchsorted(self.parts, [part, part + 1]))
            numbers[here] = _assign_part_voices(
                self.onsets[here].tolist(),
                self.ends[here].tolist(),
                self.pitches[self.pitch_starts[:-1][here]].tolist(),
                self.pitches[self.pitch_starts[1:][here] - 1].tolist(),
            )
        return numbers


def separate_voices(notes: Iterable[Note]) -> tuple[tuple[Chord, ...], ...]:
    """Share the notes of one part out to voices, see Chords.voices."""
    chords = Chords.of(Notes.of(notes).columns)
    numbers = chords.assign_voices().tolist()
    found: list[list[Chord]] = [[] for _ in range(max(numbers, default=-1) + 1)]
    pitches, firsts = chords.pitches.tolist(), chords.pitch_starts.tolist()
    durations = (chords.ends - chords.onsets).tolist()
    for number, onset, duration, (start, stop) in zip(
        numbers, chords.onsets.tolist(), durations, pairwise(firsts), strict=True
    ):
        found[number].append(Chord(onset, duration, tuple(pitches[start:stop])))
    return tuple(map(tuple, found))


_GAP_COST: Final = 5  # a voice that rests before a note is as good as one so many semitones off


class _VoiceState:
    """What a voice sounded last."""

    __slots__ = ("bottom", "end", "number", "top")

    def __init__(self, number: int) -> None:
        self.number = number
        self.end = self.top = self.bottom = 0

    def cost(self, onset: int, top: int, bottom: int) -> int:
        """Tell how ill a chord follows the last one: semitones, and a gap between them."""
        away = abs(self.top - top) + abs(self.bottom - bottom)
        return away + (2 * _GAP_COST if self.end < onset else 0)


def _assign_part_voices(
    onsets: Sequence[int], ends: Sequence[int], tops: Sequence[int], bottoms: Sequence[int]
) -> list[int]:
    """Return the number of each chord's voice; the chords are given by column."""
    numbers = [0] * len(onsets)
    found: list[_VoiceState] = []
    for onset, same in groupby(range(len(onsets)), key=onsets.__getitem__):
        together = list(same)
        free = [voice for voice in found if voice.end <= onset]
        chosen: Sequence[_VoiceState | None] = free
        if not len(together) == len(free) == 1:
            together.sort(key=lambda chord: (-tops[chord], ends[chord]))
            chosen = _pair_nearest(
                [(onset, tops[chord], bottoms[chord]) for chord in together], free
            )
        for chord, known in zip(together, chosen, strict=True):
            voice = known or _VoiceState(len(found))
            if known is None:
                found.append(voice)
            numbers[chord] = voice.number
            voice.end, voice.top, voice.bottom = ends[chord], tops[chord], bottoms[chord]
    return numbers


def _pair_nearest(
    chords: Sequence[tuple[int, int, int]], free: Sequence[_VoiceState]
) -> Sequence[_VoiceState | None]:
    """Pair chords with voices, the nearest first; of equals the higher chord, the earlier voice."""
    costs = sorted(
        (voice.cost(*chord), i, j) for i, chord in enumerate(chords) for j, voice in enumerate(free)
    )
    pairs: dict[int, _VoiceState] = {}
    taken: set[int] = set()
    for _, i, j in costs:
        if i not in pairs and j not in taken:
            pairs[i] = free[j]
            taken.add(j)
    return list(map(pairs.get, range(len(chords))))
