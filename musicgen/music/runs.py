"""Runs of notes free of transposition, on which duplicates, copies and repetition are found.

A run is a line of consecutive notes of the written form, ties joined, broken by rests: what is
compared of it is each step from one note to the next, as an interval in semitones with the
duration of the note that it leads to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from musicgen.music.grid import Chord, voices
from musicgen.music.score import Score

Move = tuple[int, int]  # semitones from the note before, duration in steps


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive notes of one voice: the first one's duration, then a move for each other."""

    onset: int  # step of the first note
    first: int  # its duration in steps
    moves: tuple[Move, ...]

    def __len__(self) -> int:
        return len(self.moves) + 1


def runs(score: Score) -> tuple[Run, ...]:
    """Find the runs of a score, voice by voice; of a chord the highest note counts."""
    found: list[Run] = []
    for index, part in enumerate(score.parts):
        if part.is_drums:
            continue
        for voice in voices(note for note in score.notes if note.part == index):
            found += _runs_of(voice)
    return tuple(found)


def _runs_of(voice: Iterable[Chord]) -> Iterator[Run]:
    line: list[Chord] = []
    for chord in voice:
        if line and line[-1].end != chord.onset:
            yield _run(line)
            line = []
        line.append(chord)
    if line:
        yield _run(line)


def _run(line: list[Chord]) -> Run:
    moves = [
        (after.pitches[0] - before.pitches[0], after.duration) for before, after in pairwise(line)
    ]
    return Run(line[0].onset, line[0].duration, tuple(moves))


def elements(score: Score) -> list[Move]:
    """Return the moves of all runs one after another, rests left out: the tune as one line."""
    line = [
        (chord.pitches[0], chord.duration)
        for index, part in enumerate(score.parts)
        if not part.is_drums
        for voice in voices(note for note in score.notes if note.part == index)
        for chord in voice
    ]
    return [(after[0] - before[0], after[1]) for before, after in pairwise(line)]
