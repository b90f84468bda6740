"""When each note sounds, in seconds: repeats and endings unfolded, tempo marks applied.

`with_program` and `at_tempo` return the same tune with another instrument or tempo, and
`count_in_steps` places the clicks of a count-in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from musicgen.music.accompaniment import is_accompaniment
from musicgen.music.arrays import FloatArray, IntArray
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
from musicgen.music.theory import Meter, spell_chord

_SECONDS_PER_STEP_AT_1_QPM: Final = 60 / STEPS_PER_QUARTER


def with_program(score: Score, program: int) -> Score:
    """Return a score with one General MIDI program (0..127) for all parts.

    Drums and an accompaniment keep theirs.
    """
    parts = [
        part if part.is_drums or is_accompaniment(part) else replace(part, program=program)
        for part in score.parts
    ]
    return replace(score, parts=tuple(parts))


def at_tempo(score: Score, qpm: float) -> Score:
    """Return a score that starts at `qpm` quarter notes per minute; scale later tempos."""
    ratio = qpm / score.qpm
    marks = [
        replace(mark, value=mark.value * ratio) if mark.kind == "tempo" else mark
        for mark in score.marks
    ]
    if not any(mark.kind == "tempo" and mark.onset == 0 for mark in marks):
        marks.append(Mark(0, "tempo", qpm))
    return replace(score, marks=tuple(marks))


def count_in_steps(meter: Meter, *, pickup_steps: int = 0) -> range:
    """Return the steps at which a count-in clicks; the music starts at the range's `stop`.

    One bar of clicks on the beat, or two bars in a meter of one or two beats, since two clicks
    alone do not establish a tempo. A pickup adds the beats that complete its bar.

    Args:
        meter: the meter of the first bar.
        pickup_steps: length of the pickup that follows; 0 without one.
    """
    bars = 2 if meter.steps <= 2 * meter.beat_steps else 1
    missing_steps = meter.steps - pickup_steps if pickup_steps else 0
    return range(0, bars * meter.steps + missing_steps, meter.beat_steps)


@dataclass(frozen=True, slots=True)
class SoundingNote:
    """One note as it is heard; a note inside a repeat is heard once per pass."""

    start: float  # seconds from the start of the tune
    length: float  # seconds
    pitch: int  # MIDI note number
    velocity: int  # 1..127
    part: int  # index into Score.parts
    note: int  # index into Score.notes
    bar: int  # index into find_bars(score): the bar in which the note starts


def timeline(score: Score) -> tuple[SoundingNote, ...]:
    """Return the notes of `score.unfolded()` with their times, ordered by start, then by pitch.

    A note held across a jump (a repeat or an ending) is split there, as `unfolded` splits it.
    """
    return tuple(_Playback(score).iter_notes())


def bar_timeline(score: Score) -> tuple[tuple[float, float, int], ...]:
    """Return (start, end, bar) of each bar heard, in order.

    Start and end are in seconds; bar is an index into `find_bars(score)`.
    """
    return tuple(_Playback(score).iter_bars())


def chord_timeline(score: Score) -> tuple[tuple[float, str], ...]:
    """Return the chord symbols as heard, (start in seconds, symbol in the key in force) each."""
    return tuple(_Playback(score).iter_chords())


def duration(score: Score) -> float:
    """Return how many seconds the tune lasts, to its last bar line."""
    playback = _Playback(score)
    return float(playback.to_seconds(np.array(playback.end)))


@dataclass(frozen=True)
class _Playback:
    """A score and the order in which its passages are played."""

    score: Score

    @cached_property
    def passages(self) -> tuple[tuple[int, int, int], ...]:
        """(written start, written stop, heard start) of each passage, in steps."""
        passages, heard_start = [], 0
        for start, stop in iter_passages(self.score):
            passages.append((start, stop, heard_start))
            heard_start += stop - start
        return tuple(passages)

    @property
    def end(self) -> int:
        """Length of the music as heard, in steps."""
        return sum(stop - start for start, stop, _ in self.passages)

    @cached_property
    def written_bars(self) -> tuple[Bar, ...]:
        """The bars as written."""
        return find_bars(self.score)

    @cached_property
    def _tempo_map(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Heard step of each tempo change, seconds per step from there, seconds elapsed there.

        Three arrays of shape (tempo,).
        """
        qpm_at = {0: DEFAULT_QPM}
        tempos = MarkSlices(self.score.of("tempo"))
        for start, stop, heard_start in self.passages:
            for mark in tempos.iter_between(start, stop, heard_start - start):
                qpm_at[mark.onset] = mark.value
        steps = np.array(sorted(qpm_at))
        rates = np.array([_SECONDS_PER_STEP_AT_1_QPM / qpm_at[step] for step in steps.tolist()])
        elapsed = np.concatenate([[0.0], np.cumsum(np.diff(steps) * rates[:-1])])
        return steps, rates, elapsed

    def to_seconds(self, steps: IntArray | FloatArray) -> FloatArray:
        """Convert steps of the music as heard to seconds from its start.

        Args:
            steps: (n,) or () int64 or float64.

        Returns:
            float64 seconds, of the shape of `steps`.
        """
        starts, rates, elapsed = self._tempo_map
        index = np.searchsorted(starts, steps, side="right") - 1
        seconds: FloatArray = elapsed[index] + (steps - starts[index]) * rates[index]
        return seconds

    def swing_steps(self, steps: IntArray) -> IntArray | FloatArray:
        """Apply the swing of the score to (n,) int64 steps; return (n,) int64 or float64 steps."""
        if self.score.swing is None:
            return steps
        return self.score.swing.to_played(steps, self.score.swing_phase)

    def iter_notes(self) -> Iterator[SoundingNote]:
        """Yield the notes as heard, in order."""
        columns = self.score.columns
        numbered = np.vstack([columns, np.arange(columns.shape[1])])
        written = sort_by_onset(split_notes_at(numbered, find_jumps(self.score)))
        bar_starts = np.array([bar.start for bar in self.written_bars], dtype=np.int64)
        heard = [np.empty((7, 0), dtype=np.int64)]
        for start, stop, heard_start in self.passages:
            notes = slice_by_onset(written, start, stop, heard_start - start)
            bars = np.searchsorted(bar_starts, notes[0] - heard_start + start, side="right") - 1
            heard.append(np.vstack([notes, bars]))
        onsets, pitches, lengths, velocities, parts, notes, bars = np.hstack(heard)
        order = np.lexsort((notes, parts, velocities, lengths, pitches, onsets))
        start_seconds = self.to_seconds(self.swing_steps(onsets))
        length_seconds = self.to_seconds(self.swing_steps(onsets + lengths)) - start_seconds
        fields = start_seconds, length_seconds, pitches, velocities, parts, notes, bars
        yield from map(SoundingNote, *(field[order].tolist() for field in fields))

    def iter_chords(self) -> Iterator[tuple[float, str]]:
        """Yield the chord symbols as heard, in order."""
        marks = [mark for mark in self.score.marks if mark.kind in ("key", "chord")]
        for start, stop, heard_start in self.passages:
            key = self.score.key
            for mark in marks:
                if mark.kind == "key" and mark.onset < stop:
                    key = mark.value
                elif mark.kind == "chord" and start <= mark.onset < stop:
                    step = np.array([mark.onset - start + heard_start])
                    yield (
                        float(self.to_seconds(self.swing_steps(step))[0]),
                        spell_chord(mark.value, key),
                    )

    def iter_bars(self) -> Iterator[tuple[float, float, int]]:
        """Yield the bars as heard, in order."""
        starts = [bar.start for bar in self.written_bars]
        for start, stop, heard_start in self.passages:
            for index in range(bisect_left(starts, start), bisect_left(starts, stop)):
                bar, shift = self.written_bars[index], heard_start - start
                edges = self.to_seconds(np.array([bar.start + shift, bar.end + shift]))
                yield float(edges[0]), float(edges[1]), index
