"""Melodic runs: consecutive notes in a form that is independent of key.

A run is a sequence of notes of one voice of the written score, ties joined, without rests between
them. Each move of a run is the interval from one note to the next and the duration of the latter.
Duplicates, overlap with the training data and repetition are found by comparing moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.bars import find_bars, number_bars
from musicgen.music.score import Score
from musicgen.music.voices import Chords, separate_voices

Move = tuple[int, int]  # interval from the previous note in semitones, duration in steps


@dataclass(frozen=True, slots=True)
class MelodicRun:
    """Consecutive notes of one voice: the duration of the first note, then the moves."""

    onset: int  # step of the first note
    first_duration: int  # steps
    moves: tuple[Move, ...]

    def __len__(self) -> int:
        return len(self.moves) + 1


@dataclass(frozen=True, eq=False)
class RunColumns:
    """The notes of a tune's runs as columns, run after run; the highest note stands for a chord."""

    onsets: IntArray  # (note,) steps
    durations: IntArray  # (note,) steps
    pitches: IntArray  # (note,) MIDI note numbers
    starts: BoolArray  # (note,) whether the note is the first of a run

    @classmethod
    def of(cls, score: Score) -> RunColumns:
        """Find the runs of a score, voice by voice; leave out drums."""
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
    def intervals(self) -> IntArray:
        """(note,) int64 semitones from the previous note; 0 where a run starts."""
        return np.diff(self.pitches, prepend=0) * ~self.starts


def bar_numbers(score: Score, steps: IntArray) -> IntArray:
    """Look up the numbers of the written bars that contain steps, as `number_bars` counts.

    Args:
        score: the written score.
        steps: (n,) int64 steps from the start of the tune.

    Returns:
        (n,) int64 bar numbers.
    """
    bars = find_bars(score)
    edges = np.array([bar.start for bar in bars], dtype=np.int64)
    numbers = np.array(number_bars(bars) or [1], dtype=np.int64)
    return numbers[np.maximum(np.searchsorted(edges, steps, side="right") - 1, 0)]


def find_runs(score: Score) -> tuple[MelodicRun, ...]:
    """Find the runs of a score, voice by voice; the highest note stands for a chord."""
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
    """Return the moves of all voices in sequence, across rests."""
    notes = [
        (chord.pitches[0], chord.duration)
        for index, part in enumerate(score.parts)
        if not part.is_drums
        for voice in separate_voices(note for note in score.notes if note.part == index)
        for chord in voice
    ]
    return [(after[0] - before[0], after[1]) for before, after in pairwise(notes)]


def list_drum_moves(score: Score) -> list[Move]:
    """Return the hits of all drums in sequence: percussion key, and steps since the hit before.

    They tell tunes of drums alone apart, which have no melodic moves.
    """
    is_drums = np.array([part.is_drums for part in score.parts], dtype=np.bool_)
    onsets, keys = score.columns[:2, is_drums[score.columns[4]]]
    order = np.lexsort((keys, onsets))
    steps = np.diff(onsets[order], prepend=onsets[order][:1])
    return list(zip(keys[order].tolist(), steps.tolist(), strict=True))
