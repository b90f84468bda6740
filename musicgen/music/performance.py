"""A score as it sounds, in milliseconds: what the performance codec reads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

from musicgen.music.score import DEFAULT_QPM, STEPS_PER_QUARTER, Mark, Note, Score

PERFORMANCE_QPM: Final = 1_250.0  # at which one step is one millisecond
MILLISECONDS_PER_MINUTE: Final = 60_000


def is_performance(score: Score) -> bool:
    """Tell whether a score is in milliseconds: at 1,250 quarters a minute, without bars."""
    has_bars = any(mark.kind in ("bar", "meter") for mark in score.marks)
    return score.qpm == PERFORMANCE_QPM and not has_bars


class ExactTempoMap:
    """A tempo map: from units of written time to milliseconds, exact and rounded once."""

    def __init__(self, tempos: Iterable[tuple[int, float]], units_per_quarter: int) -> None:
        self.starts: list[int] = []
        self.milliseconds_per_unit: list[Fraction] = []  # milliseconds a unit
        self.elapsed_milliseconds: list[Fraction] = []  # milliseconds at each start
        for start, qpm in [(0, DEFAULT_QPM), *sorted(tempos, key=lambda tempo: tempo[0])]:
            # the digits as written: 66.6 is 333/5, whatever a float holds
            rate = Fraction(MILLISECONDS_PER_MINUTE, units_per_quarter) / Fraction(repr(qpm))
            now = Fraction(0)
            if self.starts:
                now = (
                    self.elapsed_milliseconds[-1]
                    + (start - self.starts[-1]) * self.milliseconds_per_unit[-1]
                )
            self.starts.append(start)
            self.milliseconds_per_unit.append(rate)
            self.elapsed_milliseconds.append(now)

    def to_milliseconds(self, time: int) -> int:
        """Return when a place sounds, halves upward."""
        index = bisect_right(self.starts, time) - 1
        exact = (
            self.elapsed_milliseconds[index]
            + (time - self.starts[index]) * self.milliseconds_per_unit[index]
        )
        return (2 * exact.numerator + exact.denominator) // (2 * exact.denominator)


def to_performance(score: Score) -> Score:
    """Play a score: repeats unfolded, tempo applied, at 1,250 quarters a minute.

    One step of what comes back is one millisecond; it has no marks but its tempo.
    """
    played = score.unfolded()
    tempos = [(mark.onset, float(mark.value)) for mark in played.of("tempo") if mark.value > 0]
    return retime_notes(played, played.notes, ExactTempoMap(tempos, STEPS_PER_QUARTER))


def retime_notes(score: Score, notes: Sequence[Note], tempo_map: ExactTempoMap) -> Score:
    """Return the notes at the times of a clock, with the parts and the names of a score."""
    return replace(
        score,
        notes=tuple(_retime_note(note, tempo_map) for note in notes),
        marks=(Mark(0, "tempo", PERFORMANCE_QPM),),
    )


def _retime_note(note: Note, tempo_map: ExactTempoMap) -> Note:
    onset = tempo_map.to_milliseconds(note.onset)
    return replace(note, onset=onset, duration=max(1, tempo_map.to_milliseconds(note.end) - onset))
