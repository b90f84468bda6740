"""When each note sounds, in seconds: repeats and endings unfolded, tempo marks applied.

`with_program` and `at_tempo` return the same tune with another instrument or tempo.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from musicgen.music.bars import Bar, find_bars
from musicgen.music.notes import slice_by_onset, sort_by_onset, split_notes_at
from musicgen.music.score import (
    DEFAULT_QPM,
    STEPS_PER_QUARTER,
    Mark,
    MarkSlices,
    Score,
    find_jumps,
    iter_passages,
)


def with_program(score: Score, program: int) -> Score:
    """Return a score with one instrument for all parts but drums."""
    parts = [part if part.is_drums else replace(part, program=program) for part in score.parts]
    return replace(score, parts=tuple(parts))


def at_tempo(score: Score, qpm: float) -> Score:
    """Return a score that starts at a tempo; later tempos stay as much faster or slower."""
    faster = qpm / score.qpm
    marks = [
        replace(mark, value=mark.value * faster) if mark.kind == "tempo" else mark
        for mark in score.marks
    ]
    if not any(mark.kind == "tempo" and mark.onset == 0 for mark in marks):
        marks.append(Mark(0, "tempo", qpm))
    return replace(score, marks=tuple(marks))


_SECONDS_PER_STEP_AT_1_QPM: Final = (
    60 / STEPS_PER_QUARTER
)  # that a step lasts at one quarter a minute


@dataclass(frozen=True, slots=True)
class SoundingNote:
    """One note as it is heard; a note of a repeated part is heard once a pass."""

    start: float  # seconds from the start of the tune
    length: float  # seconds
    pitch: int  # MIDI note number
    velocity: int  # 1..127
    part: int  # index into Score.parts
    note: int  # index into Score.notes
    bar: int  # index into grid.bars(score), of the bar in which it begins


def timeline(score: Score) -> tuple[SoundingNote, ...]:
    """Return what sounds, by start, then by pitch: the notes of `score.unfolded()`.

    A note that is held where the playing may jump is cut there, as `unfolded` cuts it, and sounds
    as several.
    """
    return tuple(_Playback(score).iter_notes())


def bar_timeline(score: Score) -> tuple[tuple[float, float, int], ...]:
    """Return (start, end, index into grid.bars(score)) of each bar heard, in order; seconds."""
    return tuple(_Playback(score).iter_bars())


def duration(score: Score) -> float:
    """Return how many seconds the tune lasts, to its last bar line."""
    playing = _Playback(score)
    return float(playing.to_seconds(playing.end))


@dataclass(frozen=True)
class _Playback:
    """A score and the way that is taken through it."""

    score: Score

    @cached_property
    def passages(self) -> tuple[tuple[int, int, int], ...]:
        """Written start and stop of each stretch, and the step at which it begins to sound."""
        found, played = [], 0
        for start, stop in iter_passages(self.score):
            found.append((start, stop, played))
            played += stop - start
        return tuple(found)

    @property
    def end(self) -> int:
        """Steps that the playing lasts."""
        return sum(stop - start for start, stop, _ in self.passages)

    @cached_property
    def written_bars(self) -> tuple[Bar, ...]:
        """The bars as written."""
        return find_bars(self.score)

    @cached_property
    def _tempo_map(self) -> tuple[Any, Any, Any]:
        """Steps as heard at which a tempo starts, seconds a step from there, seconds until then."""
        found = {0: DEFAULT_QPM}
        tempos = MarkSlices(self.score.of("tempo"))
        for start, stop, played in self.passages:
            for mark in tempos.iter_between(start, stop, played - start):
                found[mark.onset] = mark.value
        steps = np.array(sorted(found))
        rates = np.array([_SECONDS_PER_STEP_AT_1_QPM / found[step] for step in steps.tolist()])
        passed = np.concatenate([[0.0], np.cumsum(np.diff(steps) * rates[:-1])])
        return steps, rates, passed

    def to_seconds(self, steps: Any) -> Any:
        """Return when steps as heard are reached."""
        starts, rates, passed = self._tempo_map
        index = np.searchsorted(starts, steps, side="right") - 1
        return passed[index] + (steps - starts[index]) * rates[index]

    def iter_notes(self) -> Iterator[SoundingNote]:
        """Yield the notes as heard, in order."""
        columns = self.score.columns
        numbered = np.vstack([columns, np.arange(columns.shape[1])])
        written = sort_by_onset(split_notes_at(numbered, find_jumps(self.score)))
        starts = np.array([bar.start for bar in self.written_bars], dtype=np.int64)
        heard = [np.empty((7, 0), dtype=np.int64)]
        for start, stop, played in self.passages:
            found = slice_by_onset(written, start, stop, played - start)
            places = np.searchsorted(starts, found[0] - played + start, side="right") - 1
            heard.append(np.vstack([found, places]))
        onsets, pitches, lengths, velocities, parts, notes, places = np.hstack(heard)
        order = np.lexsort((notes, parts, velocities, lengths, pitches, onsets))
        begins = self.to_seconds(onsets)
        lasts = self.to_seconds(onsets + lengths) - begins
        fields = begins, lasts, pitches, velocities, parts, notes, places
        yield from map(SoundingNote, *(field[order].tolist() for field in fields))

    def iter_bars(self) -> Iterator[tuple[float, float, int]]:
        """Yield the bars as heard, in order."""
        starts = [bar.start for bar in self.written_bars]
        for start, stop, played in self.passages:
            for place in range(bisect_left(starts, start), bisect_left(starts, stop)):
                bar, shift = self.written_bars[place], played - start
                edges = self.to_seconds(np.array([bar.start + shift, bar.end + shift]))
                yield float(edges[0]), float(edges[1]), place
