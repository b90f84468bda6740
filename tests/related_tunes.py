"""Tunes with common runs, and brute-force searches for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from hypothesis import strategies as st

from musicgen.music.melodic_runs import MelodicRun, find_runs
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.similarity.note_index import Label, NoteIndex, extract_notes
from musicgen.similarity.overlap_report import OverlapIndex

FEW_PITCHES = (60, 62, 64, 67)
FEW_DURATIONS = (24, 48)


def indexed(tunes: Iterable[Score], groups: Sequence[int] | None = None) -> OverlapIndex:
    """Index scores, by default each in its own group."""
    return OverlapIndex(
        NoteIndex.of(
            (
                extract_notes(score.canonical()),
                Label(score.title, "book.abc", index + 1, groups[index] if groups else index),
            )
            for index, score in enumerate(tunes)
        )
    )


def line(notes: Iterable[tuple[int, int]], title: str = "", start: int = 0) -> Score:
    """Make a melody of (pitch, duration) pairs; pitch 0 is a rest."""
    melody: list[Note] = []
    now = start
    for pitch, duration in notes:
        if pitch:
            melody.append(Note(now, pitch, duration))
        now += duration
    bar_lines = [Mark(step, "bar") for step in range(96, now + 96, 96)]
    return Score(tuple(melody), (Mark(0, "meter", Meter(2, 4)), *bar_lines), title=title)


@st.composite
def lines(draw: st.DrawFn, longest: int = 40) -> Score:
    """Draw a melody of few pitches and durations, so that runs are shared."""
    pitches = st.sampled_from((0, *FEW_PITCHES, *FEW_PITCHES))
    notes = draw(st.lists(st.tuples(pitches, st.sampled_from(FEW_DURATIONS)), max_size=longest))
    return line(notes, draw(st.sampled_from(("", "A tune", "An Ó\x1b tune"))))


@st.composite
def duets(draw: st.DrawFn) -> Score:
    """Draw several parts, one of which may be drums."""
    melodies = [draw(lines(12)) for _ in range(draw(st.integers(1, 3)))]
    notes = [
        Note(note.onset, note.pitch, note.duration, part=part)
        for part, score in enumerate(melodies)
        for note in score.notes
    ]
    drums = draw(st.integers(0, 4))
    parts = tuple(Part(is_drums=part == drums) for part in range(len(melodies)))
    return Score(tuple(notes), (), parts)


def find_longest_run(score: Score, training: Iterable[Score]) -> int:
    """Return the notes of the longest shared run, by comparing all pairs of notes."""
    training_runs = [run for other in training for run in find_runs(other.canonical())]
    runs = find_runs(score.canonical())
    lengths = (_common_length(run, other) for run in runs for other in training_runs)
    return max(lengths, default=0)


def count_copied_runs(score: Score, training: Iterable[Score], length: int = 8) -> tuple[int, int]:
    """Count the shared runs of a length, and all runs of that length."""
    training_runs = {run for other in training for run in slice_runs(other, length)}
    runs = slice_runs(score, length)
    return sum(run in training_runs for run in runs), len(runs)


def slice_runs(score: Score, length: int) -> list[tuple[int, ...]]:
    """Return all runs of `length` notes: first duration, then interval and duration per note."""
    return [
        _slice_run(run, start, length)
        for run in find_runs(score.canonical())
        for start in range(len(run) - length + 1)
    ]


def _slice_run(run: MelodicRun, start: int, length: int) -> tuple[int, ...]:
    durations = (run.first_duration, *(duration for _, duration in run.moves))
    return (durations[start], *chain.from_iterable(run.moves[start : start + length - 1]))


def _common_length(first: MelodicRun, second: MelodicRun) -> int:
    """Return the notes of the longest common run, by dynamic programming."""
    first_notes = [(0, first.first_duration), *first.moves]
    second_notes = [(0, second.first_duration), *second.moves]
    longest, previous_row = 0, [0] * (len(second_notes) + 1)
    for i, first_note in enumerate(first_notes):
        row = [0] * (len(second_notes) + 1)
        for j, second_note in enumerate(second_notes):
            if first_note[1] == second_note[1]:
                continues = i and j and first_note == second_note
                row[j + 1] = previous_row[j] + 1 if continues else 1
        longest, previous_row = max(longest, *row), row
    return longest
