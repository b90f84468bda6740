"""Runs of notes free of transposition, on which duplicates, copies and repetition are found.

A run is a line of consecutive notes of the written form, ties joined, broken by rests: what is
compared of it is each step from one note to the next, as an interval in semitones with the
duration of the note that it leads to.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from musicgen.music.bars import find_bars, number_bars
from musicgen.music.score import Score
from musicgen.music.voices import Chords, separate_voices

Move = tuple[int, int]  # semitones from the note before, duration in steps


@dataclass(frozen=True, slots=True)
class MelodicRun:
    """Consecutive notes of one voice: the first one's duration, then a move for each other."""

    onset: int  # step of the first note
    first_duration: int  # its duration in steps
    moves: tuple[Move, ...]

    def __len__(self) -> int:
        return len(self.moves) + 1


@dataclass(frozen=True, eq=False)
class RunColumns:
    """The notes of a tune's runs as columns, run after run; of a chord the highest counts."""

    onsets: Any
    durations: Any
    pitches: Any
    starts: Any  # whether a run starts with the note

    @classmethod
    def of(cls, score: Score) -> RunColumns:
        """Find the runs of a score, voice by voice; drums have none."""
        chords = Chords.of(score.columns)
        numbers = chords.assign_voices()
        drums = [number for number, part in enumerate(score.parts) if part.is_drums]
        order = np.lexsort((numbers, chords.parts))
        order = order[~np.isin(chords.parts[order], drums)] if drums else order
        onsets, ends = chords.onsets[order], chords.ends[order]
        voice = chords.parts[order] << 32 | numbers[order]
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (voice[1:] != voice[:-1]) | (onsets[1:] != ends[:-1])
        return cls(onsets, ends - onsets, chords.pitches[chords.pitch_starts[:-1]][order], starts)

    @property
    def intervals(self) -> Any:
        """Semitones from the note before; 0 where a run starts."""
        return np.diff(self.pitches, prepend=0) * ~self.starts


def bar_numbers(score: Score, steps: Any) -> Any:
    """Return the numbers of the written bars in which steps lie, as `grid.numbers` has them."""
    found = find_bars(score)
    edges = np.array([bar.start for bar in found], dtype=np.int64)
    named = np.array(number_bars(found) or [1], dtype=np.int64)
    return named[np.maximum(np.searchsorted(edges, steps, side="right") - 1, 0)]


def find_runs(score: Score) -> tuple[MelodicRun, ...]:
    """Find the runs of a score, voice by voice; of a chord the highest note counts."""
    columns = RunColumns.of(score)
    durations = columns.durations.tolist()
    moves = list(zip(columns.intervals.tolist(), durations, strict=True))
    edges = [*np.flatnonzero(columns.starts).tolist(), len(durations)]
    onsets = columns.onsets.tolist()
    return tuple(
        MelodicRun(onsets[start], durations[start], tuple(moves[start + 1 : stop]))
        for start, stop in pairwise(edges)
    )


def list_moves(score: Score) -> list[Move]:
    """Return the moves of all runs one after another, rests left out: the tune as one line."""
    line = [
        (chord.pitches[0], chord.duration)
        for index, part in enumerate(score.parts)
        if not part.is_drums
        for voice in separate_voices(note for note in score.notes if note.part == index)
        for chord in voice
    ]
    return [(after[0] - before[0], after[1]) for before, after in pairwise(line)]
