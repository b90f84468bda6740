"""Tunes with something in common, and what they share, found the slow way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from musicgen.music.melodic_runs import MelodicRun, find_runs
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Meter
from musicgen.similarity.note_index import Label, NoteIndex, extract_notes
from musicgen.similarity.overlap_report import OverlapIndex

FEW_PITCHES = (60, 62, 64, 67)
FEW_DURATIONS = (24, 48)


def indexed(tunes: Iterable[Score], groups: Sequence[int] | None = None) -> OverlapIndex:
    """Index scores, each in a group of its own."""
    found = list(tunes)
    numbers = groups or range(len(found))
    labels = [
        Label(score.title, "book.abc", place + 1, numbers[place])
        for place, score in enumerate(found)
    ]
    notes = [extract_notes(score.canonical()) for score in found]
    return OverlapIndex(NoteIndex.of(zip(notes, labels, strict=True)))


def line(notes: Iterable[tuple[int, int]], title: str = "", start: int = 0) -> Score:
    """Write notes, given as pitch and duration, one after the other; a pitch of 0 is a rest."""
    found: list[Note] = []
    now = start
    for pitch, duration in notes:
        if pitch:
            found.append(Note(now, pitch, duration))
        now += duration
    edges = [Mark(step, "bar") for step in range(96, now + 96, 96)]
    return Score(tuple(found), (Mark(0, "meter", Meter(2, 4)), *edges), title=title)


@st.composite
def lines(draw: st.DrawFn, longest: int = 40) -> Score:
    """Draw a line of few pitches and durations, so that runs are shared."""
    pitches = st.sampled_from((0, *FEW_PITCHES, *FEW_PITCHES))
    notes = draw(st.lists(st.tuples(pitches, st.sampled_from(FEW_DURATIONS)), max_size=longest))
    return line(notes, draw(st.sampled_from(("", "A tune", "An Ó\x1b tune"))))


@st.composite
def duets(draw: st.DrawFn) -> Score:
    """Draw several parts, one of which may be drums."""
    found = [draw(lines(12)) for _ in range(draw(st.integers(1, 3)))]
    notes = [
        Note(note.onset, note.pitch, note.duration, part=part)
        for part, score in enumerate(found)
        for note in score.notes
    ]
    drums = draw(st.integers(0, 4))
    parts = tuple(Part(is_drums=part == drums) for part in range(len(found)))
    return Score(tuple(notes), (), parts)


def slow_longest(score: Score, others: Iterable[Score]) -> int:
    """Find the longest shared run by comparing each note with each."""
    known = [run for other in others for run in find_runs(other.canonical())]
    mine = find_runs(score.canonical())
    return max((_common(one, other) for one in mine for other in known), default=0)


def slow_copied(score: Score, others: Iterable[Score], length: int = 8) -> tuple[int, int]:
    """Count the runs of a length that are shared, and all of them."""
    known = {piece for other in others for piece in pieces(other, length)}
    mine = pieces(score, length)
    return sum(piece in known for piece in mine), len(mine)


def pieces(score: Score, length: int) -> list[tuple[int, ...]]:
    """Return the runs of a length as numbers."""
    return [
        piece
        for run in find_runs(score.canonical())
        for start in range(len(run) - length + 1)
        for piece in [_piece(run, start, length)]
    ]


def _piece(run: MelodicRun, start: int, length: int) -> tuple[int, ...]:
    lasting = (run.first_duration, *(duration for _, duration in run.moves))
    moves = run.moves[start : start + length - 1]
    return (lasting[start], *(number for move in moves for number in move))


def _common(one: MelodicRun, other: MelodicRun) -> int:
    """Return the longest common run of two: dynamic programming over all pairs of notes."""
    mine, theirs = [(0, one.first_duration), *one.moves], [(0, other.first_duration), *other.moves]
    best, before = 0, [0] * (len(theirs) + 1)
    for i, note in enumerate(mine):
        here = [0] * (len(theirs) + 1)
        for j, known in enumerate(theirs):
            if note[1] == known[1]:
                goes_on = i and j and note == known
                here[j + 1] = before[j] + 1 if goes_on else 1
        best, before = max(best, *here), here
    return best
