"""Performances: scores in milliseconds, with repeats and tempo applied."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import attrgetter, itemgetter
from typing import Final

import numpy as np

from musicgen.music.score import DEFAULT_QPM, STEPS_PER_QUARTER, Mark, Note, Score

PERFORMANCE_QPM: Final = 1_250.0  # quarter notes per minute at which a step is a millisecond
MILLISECONDS_PER_MINUTE: Final = 60_000
STRIKE_MILLISECONDS: Final = 40  # onsets less than this after the first of a strike belong to it


def is_performance(score: Score) -> bool:
    """Return whether a score is in milliseconds: 1,250 quarter notes per minute and no bars."""
    has_bars = any(mark.kind in ("bar", "meter") for mark in score.marks)
    return score.qpm == PERFORMANCE_QPM and not has_bars


@dataclass(frozen=True, slots=True)
class _TempoSpan:
    """A stretch of constant tempo."""

    start: int  # steps
    start_milliseconds: Fraction
    milliseconds_per_step: Fraction

    def to_milliseconds(self, step: int | Fraction) -> Fraction:
        return self.start_milliseconds + (step - self.start) * self.milliseconds_per_step


class ExactTempoMap:
    """Converts steps to milliseconds with exact fractions, rounded once."""

    def __init__(self, tempos: Iterable[tuple[int, float]]) -> None:
        """Take tempo changes as (step, quarter notes per minute)."""
        self._spans: list[_TempoSpan] = []
        for start, qpm in [(0, DEFAULT_QPM), *sorted(tempos, key=itemgetter(0))]:
            # repr gives the digits as written: 66.6 is 333/5, not the nearest float
            rate = Fraction(MILLISECONDS_PER_MINUTE, STEPS_PER_QUARTER) / Fraction(repr(qpm))
            elapsed = self._spans[-1].to_milliseconds(start) if self._spans else Fraction(0)
            self._spans.append(_TempoSpan(start, elapsed, rate))

    def to_milliseconds(self, step: int | Fraction) -> int:
        """Return the time at which a step sounds, in milliseconds; round halves up."""
        index = bisect_right(self._spans, step, key=attrgetter("start")) - 1
        exact = self._spans[index].to_milliseconds(step)
        return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def to_performance(score: Score) -> Score:
    """Convert a score to a performance: repeats unfolded, swing and tempo applied, steps of 1 ms.

    The performance has a tempo of 1,250 quarter notes per minute and no other marks.
    """
    played = score.unfolded()
    tempos = ((mark.onset, float(mark.value)) for mark in played.of("tempo"))
    tempo_map = ExactTempoMap(tempos)
    played_steps = _swing_steps(played)
    notes = tuple(_retime_note(note, tempo_map, played_steps) for note in played.notes)
    marks = (Mark(0, "tempo", PERFORMANCE_QPM),)
    return replace(played, notes=notes, marks=marks, swing=None)


def _swing_steps(score: Score) -> Mapping[int, Fraction]:
    """Return when each step of a swung score is played, to a tenth of a step, as in MIDI files."""
    if score.swing is None:
        return {}
    steps = sorted({step for note in score.notes for step in (note.onset, note.end)})
    played = score.swing.to_played(np.array(steps, dtype=np.int64), score.swing_phase)
    tenths = np.floor(10 * played + 0.5).astype(np.int64).tolist()
    return {step: Fraction(tenth, 10) for step, tenth in zip(steps, tenths, strict=True)}


def _retime_note(
    note: Note, tempo_map: ExactTempoMap, played_steps: Mapping[int, Fraction]
) -> Note:
    onset = tempo_map.to_milliseconds(played_steps.get(note.onset, note.onset))
    end = tempo_map.to_milliseconds(played_steps.get(note.end, note.end))
    return replace(note, onset=onset, duration=max(1, end - onset))
