"""Figures of performances: how dense, loud and wide live playing is, and how long it is silent.

Each figure is measured of a minute, and the minutes weigh the same. A performance is cut into whole
minutes from its start; its last minute counts if it lasts half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.evaluation.figures import (
    MIDDLE_95,
    Definition,
    Figure,
    FigureTable,
    Ratio,
    compare_tables,
    nest_figures,
)
from musicgen.evaluation.likelihood import LikelihoodReport
from musicgen.evaluation.score_card import list_model_figures
from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.milliseconds import MILLISECONDS_PER_MINUTE, STRIKE_MILLISECONDS
from musicgen.music.notes import NoteColumns
from musicgen.music.score import Score

FEWEST_MINUTES: Final = 4
SEED: Final = 0
_SHORTEST: Final = MILLISECONDS_PER_MINUTE // 2  # milliseconds of a last minute


@dataclass(frozen=True, eq=False)
class Minute:
    """The notes that start in a minute of a performance, cut at its end."""

    notes: NoteColumns  # (5, note) int64: onset and duration in milliseconds from its start
    length: int  # milliseconds

    @cached_property
    def edges(self) -> tuple[IntArray, IntArray]:
        """The times at which notes start and end, and how many sound after each: (edge,) int64."""
        times = np.concatenate([self.notes[0], self.notes[0] + self.notes[2]])
        steps = np.repeat([1, -1], self.notes.shape[1])
        order = np.argsort(times, kind="stable")
        return times[order], np.cumsum(steps[order])


def cut_minutes(performance: Score) -> Iterator[Minute]:
    """Yield the minutes of a performance, in milliseconds from its first onset to its last end."""
    columns = performance.columns
    if not columns.shape[1]:
        return
    first = int(columns[0].min())
    end = int((columns[0] + columns[2]).max())
    for start in range(first, end, MILLISECONDS_PER_MINUTE):
        length = min(MILLISECONDS_PER_MINUTE, end - start)
        if length < _SHORTEST:
            return
        is_inside: BoolArray = (columns[0] >= start) & (columns[0] < start + length)
        notes = columns[:, is_inside].copy()
        notes[0] -= start
        notes[2] = np.minimum(notes[2], length - notes[0])
        yield Minute(notes, length)


def measure_density(minute: Minute) -> Ratio:
    """Measure the notes that start per second."""
    return Ratio(minute.notes.shape[1] / minute.length * 1_000)


def measure_strikes(minute: Minute) -> Ratio | None:
    """Measure the notes per strike: onsets less than 40 ms after the one before are one strike."""
    onsets = np.sort(minute.notes[0])
    strikes = 1 + int((np.diff(onsets) >= STRIKE_MILLISECONDS).sum())
    return Ratio(len(onsets) / strikes) if len(onsets) else None


def measure_polyphony(minute: Minute) -> Ratio | None:
    """Measure the mean number of notes that sound at once, while any does."""
    times, counts = minute.edges
    lengths = np.diff(times)
    time = lengths[counts[:-1] > 0].sum()
    return Ratio(float((lengths * counts[:-1]).sum() / time)) if time else None


def measure_velocity(minute: Minute) -> Ratio | None:
    """Measure the mean velocity, 1 to 127."""
    velocities = minute.notes[3]
    return Ratio(float(velocities.mean())) if len(velocities) else None


def measure_dynamics(minute: Minute) -> Ratio | None:
    """Measure the standard deviation of the velocity."""
    velocities = minute.notes[3]
    return Ratio(float(velocities.std())) if len(velocities) else None


def measure_lowest(minute: Minute) -> Ratio | None:
    """Return the lowest pitch, as a MIDI note number."""
    pitches = minute.notes[1]
    return Ratio(float(pitches.min())) if len(pitches) else None


def measure_highest(minute: Minute) -> Ratio | None:
    """Return the highest pitch, as a MIDI note number."""
    pitches = minute.notes[1]
    return Ratio(float(pitches.max())) if len(pitches) else None


def measure_range(minute: Minute) -> Ratio | None:
    """Measure the semitones from the lowest to the highest pitch."""
    pitches = minute.notes[1]
    return Ratio(float(np.ptp(pitches))) if len(pitches) else None


def measure_note_length(minute: Minute) -> Ratio | None:
    """Measure the median seconds that a note lasts, with the pedal."""
    durations = minute.notes[2]
    return Ratio(float(np.median(durations)) / 1_000) if len(durations) else None


def measure_longest_silence(minute: Minute) -> Ratio:
    """Measure the seconds of the longest time in which nothing sounds."""
    times, counts = minute.edges
    starts = np.append(0, times[counts == 0])
    if not len(times):
        return Ratio(minute.length / 1_000)
    following = np.searchsorted(times, starts, side="right")
    ends = np.append(times, minute.length)[following]
    starts[0], ends[0] = 0, times[0]
    return Ratio(float((ends - starts).max()) / 1_000)


LIVE_FIGURES: Final[tuple[tuple[Definition, Callable[[Minute], Ratio | None]], ...]] = (
    (Definition("notes_per_second", "notes per second", ""), measure_density),
    (Definition("notes_per_strike", "notes per strike", ""), measure_strikes),
    (Definition("polyphony", "notes at once", ""), measure_polyphony),
    (Definition("velocity", "mean velocity", ""), measure_velocity),
    (Definition("dynamics", "spread of velocity", ""), measure_dynamics),
    (Definition("lowest_pitch", "lowest pitch", "MIDI"), measure_lowest),
    (Definition("highest_pitch", "highest pitch", "MIDI"), measure_highest),
    (Definition("pitch_range", "pitch range", "semitones"), measure_range),
    (Definition("note_length", "median length of a note", "s"), measure_note_length),
    (Definition("longest_silence", "longest silence", "s"), measure_longest_silence),
)


@dataclass(frozen=True, eq=False)
class MinuteSet:
    """The minutes of some performances."""

    name: str
    minutes: tuple[Minute, ...]

    @classmethod
    def of(cls, name: str, performances: Iterable[Score]) -> MinuteSet:
        """Cut performances into minutes.

        Raises:
            InvalidValue: there are fewer than FEWEST_MINUTES.
        """
        minutes = tuple(minute for each in performances for minute in cut_minutes(each))
        if len(minutes) < FEWEST_MINUTES:
            raise InvalidValue(
                f"{name}: a score card of performances needs {FEWEST_MINUTES} minutes or more, not"
                f" {len(minutes)}; name more performances, or sample more with --count"
            )
        return cls(name, minutes)

    @cached_property
    def table(self) -> FigureTable:
        """The figures of each minute."""
        table = FigureTable((), *np.empty((2, len(self.minutes), 0)))
        for definition, measure in LIVE_FIGURES:
            ratios = [measure(minute) or Ratio(0.0, 0.0) for minute in self.minutes]
            table = table.add(definition, ratios)
        return table

    @property
    def longest_silence(self) -> float:
        """The seconds of the longest silence in any of the minutes."""
        return max(measure_longest_silence(minute).part for minute in self.minutes)


@dataclass(frozen=True, eq=False)
class LiveCard:
    """Sampled minutes beside real ones, and how well the model predicts held-out performances."""

    sampled: MinuteSet
    real: MinuteSet
    figures: tuple[Figure, ...]
    shares_inside: Mapping[str, float]  # by figure: of the minutes, those like single real ones
    model_figures: tuple[Figure, ...]
    likelihood: LikelihoodReport | None

    @classmethod
    def of(
        cls, sampled: MinuteSet, real: MinuteSet, likelihood: LikelihoodReport | None
    ) -> LiveCard:
        """Compare minutes; the likelihood is that of held-out performances, if there are some."""
        model_figures = list_model_figures(likelihood) if likelihood else ()
        figures = tuple(compare_minutes(sampled, real))
        shares = measure_shares_inside(sampled, real)
        return cls(sampled, real, figures, shares, model_figures, likelihood)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of all minutes together."""
        sampled, real = self.sampled.longest_silence, self.real.longest_silence
        return (f"longest silence of all minutes: {sampled:.1f} s, of the real ones {real:.1f} s",)

    def to_json(self) -> dict[str, Any]:
        """Return the figures by key as a JSON object."""
        return {
            **nest_figures(self.model_figures),
            "likelihood": self.likelihood and self.likelihood.to_json(),
            **nest_figures(self.figures),
            "minutes_inside": self.shares_inside,
            "minutes": len(self.sampled.minutes),
            "notes": list(self.notes),
            "real": {"name": self.real.name, "minutes": len(self.real.minutes)},
        }


def measure_shares_inside(sampled: MinuteSet, real: MinuteSet) -> dict[str, float]:
    """Measure the share of sampled minutes within the middle 95 % of real minutes, by figure."""
    low, high = np.nanquantile(real.table.tune_values, MIDDLE_95, axis=0)
    values = sampled.table.tune_values
    shares = ((low <= values) & (values <= high)).mean(axis=0)
    keys = (definition.key for definition in sampled.table.definitions)
    return dict(zip(keys, shares.tolist(), strict=True))


def compare_minutes(sampled: MinuteSet, real: MinuteSet) -> Sequence[Figure]:
    """Compare the figures of sampled minutes with those of real ones; see `compare_tables`."""
    return compare_tables(sampled.table, real.table, np.random.default_rng(SEED))
