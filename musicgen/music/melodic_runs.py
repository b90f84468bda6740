"""Melodic runs: consecutive notes in a form that is independent of key.

A run is a sequence of notes of one voice of the written score, ties joined, without rests between
them. Each move of a run is the interval from one note to the next and the duration of the latter.
Duplicates, overlap with the training data and repetition are found by comparing moves.

A performance has no written durations, and no two have the same times. Its runs are the highest
notes of its strikes (onsets within 40 ms), across its voices; a pause ends a run. In the place of
the duration stands the rounded ratio of the times from strike to strike: about a quarter, half, the
same, twice or four times as long as the time before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.bars import find_bars, number_bars
from musicgen.music.milliseconds import STRIKE_MILLISECONDS, is_performance
from musicgen.music.score import Score
from musicgen.music.voices import Chords, separate_voices

PAUSE_MILLISECONDS: Final = 2_000  # from strike to strike; a longer time ends a run
MAX_RATIO_OCTAVES: Final = 2  # ratios above 4 and below 1/4 are counted as those
NO_RATIO: Final = 2 * MAX_RATIO_OCTAVES + 2  # the rhythm of a note that ends or begins a run

Move = tuple[int, int]  # interval from the previous note in semitones, duration in steps


@dataclass(frozen=True, slots=True)
class MelodicRun:
    """Consecutive notes of one voice: the duration of the first note, then the moves."""

    onset: int  # step of the first note
    first_duration: int  # steps; in a performance, a rounded ratio
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
    rhythms: IntArray  # (note,) what is compared: durations, or ratios from 1 in a performance

    @classmethod
    def of(cls, score: Score) -> RunColumns:
        """Find the runs of a score, voice by voice; leave out drums."""
        if is_performance(score):
            return cls._of_strikes(score)
        chords = Chords.of(score.columns)
        numbers = chords.assign_voices()
        drums = [number for number, part in enumerate(score.parts) if part.is_drums]
        order = np.lexsort((numbers, chords.parts))
        order = order[~np.isin(chords.parts[order], drums)] if drums else order
        onsets, ends = chords.onsets[order], chords.ends[order]
        voice = chords.parts[order] << 32 | numbers[order]
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (voice[1:] != voice[:-1]) | (onsets[1:] != ends[:-1])
        durations = ends - onsets
        pitches = chords.pitches[chords.pitch_starts[:-1]][order]
        return cls(onsets, durations, pitches, starts, durations)

    @classmethod
    def _of_strikes(cls, score: Score) -> RunColumns:
        """Find the runs of a performance."""
        onsets, pitches = _find_strikes(score)
        times = np.diff(onsets)
        starts = np.append(True, times > PAUSE_MILLISECONDS)[: len(onsets)]
        durations = np.append(times, STRIKE_MILLISECONDS)[: len(onsets)]
        return cls(onsets, durations, pitches, starts, _round_ratios(durations, starts))

    @property
    def intervals(self) -> IntArray:
        """(note,) int64 semitones from the previous note; 0 where a run starts."""
        return np.diff(self.pitches, prepend=0) * ~self.starts


def to_compared_form(score: Score) -> Score:
    """Return the form of a score whose runs are compared: canonical; a performance as it is."""
    return score if is_performance(score) else score.canonical()


def _find_strikes(score: Score) -> tuple[IntArray, IntArray]:
    """Return the onset and the highest pitch of each strike of a performance, (strike,) int64."""
    drums = [number for number, part in enumerate(score.parts) if part.is_drums]
    onsets, pitches = score.columns[:2, ~np.isin(score.columns[4], drums)]
    strikes: list[int] = []  # onsets
    highest: list[int] = []  # pitches
    for onset, pitch in sorted(zip(onsets.tolist(), pitches.tolist(), strict=True)):
        if strikes and onset < strikes[-1] + STRIKE_MILLISECONDS:
            highest[-1] = max(highest[-1], pitch)
        else:
            strikes.append(onset)
            highest.append(pitch)
    return np.array(strikes, np.int64), np.array(highest, np.int64)


def _round_ratios(durations: IntArray, starts: BoolArray) -> IntArray:
    """Return the rounded ratio of each duration to the one before, (note,) int64.

    Args:
        durations: (note,) milliseconds to the next note.
        starts: (note,) whether the note is the first of a run.
    """
    ratios = np.full(len(durations), NO_RATIO, np.int64)
    if len(durations):
        octaves = np.rint(np.diff(np.log2(durations)))
        ratios[1:] = np.clip(octaves, -MAX_RATIO_OCTAVES, MAX_RATIO_OCTAVES) + MAX_RATIO_OCTAVES + 1
        ratios[starts | np.append(starts[1:], True)] = NO_RATIO
    return ratios


def place_numbers(score: Score, onsets: IntArray) -> IntArray:
    """Return where notes are for a person: numbers of written bars; of a performance, seconds.

    Args:
        score: the written score.
        onsets: (n,) int64 steps from the start of the tune.

    Returns:
        (n,) int64.
    """
    return onsets // 1_000 if is_performance(score) else bar_numbers(score, onsets)


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
    durations = columns.rhythms.tolist()
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
