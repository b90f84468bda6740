"""Ticks to steps: the grid of the notes of a file, and the step of each note.

=========  =====================================================================
grid       the notes
=========  =====================================================================
exact      are on steps already, and are taken as they are
steps      are note values, tuplets included, to the tick: each goes to the nearest step
straight   were played to sixteenths or shorter, triplet to eighths in threes or shorter,
triplet    mixed to either, beat by beat: each goes to the nearest place of that grid
mixed
none       keep to no beat: a live performance
=========  =====================================================================

The tempo map converts ticks to milliseconds, and ticks of film frames to quarter notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd, log
from typing import Any, Final

import numpy as np

from musicgen.errors import Refusal
from musicgen.formats.midi.parser import DEFAULT_TEMPO, SMPTE_TICKS_PER_QUARTER, ParsedMidi
from musicgen.music.arrays import unique_sorted
from musicgen.music.score import STEPS_PER_QUARTER


class TempoMap:
    """When each tick of a file sounds."""

    def __init__(self, survey: ParsedMidi) -> None:
        self.ticks_per_quarter = survey.ticks_per_quarter
        self.ticks_per_second = survey.ticks_per_second
        tempos = [(0, DEFAULT_TEMPO), *survey.merge_events("tempos")]
        self.starts = np.array([tick for tick, _ in tempos], dtype=np.int64)
        self.tempos = np.array([tempo for _, tempo in tempos], dtype=np.int64)
        lengths = np.diff(self.starts) * self.tempos[:-1]
        self.elapsed = np.concatenate([[0], np.cumsum(lengths)])  # microseconds * ticks a quarter

    def to_milliseconds(self, ticks: Any) -> Any:
        """Return when ticks sound, halves upward; whole numbers throughout, so exact."""
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is not None:
            rate = self.ticks_per_second
            return (2_000 * ticks * rate.denominator + rate.numerator) // (2 * rate.numerator)
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        passed = self.elapsed[index] + (ticks - self.starts[index]) * self.tempos[index]
        whole = 1_000 * self.ticks_per_quarter
        return (2 * passed + whole) // (2 * whole)

    def to_quarter_ticks(self, ticks: Sequence[int] | Any) -> Any:
        """Return ticks of film frames as SMPTE_TICKS a quarter, and other ticks as they are."""
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is None:
            return ticks
        # quarters a tick while each tempo holds: 10^6 / (tempo * ticks a second)
        rates = 1_000_000 * SMPTE_TICKS_PER_QUARTER / (self.tempos * float(self.ticks_per_second))
        passed = np.concatenate([[0.0], np.cumsum(np.diff(self.starts) * rates[:-1])])
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        exact = passed[index] + (ticks - self.starts[index]) * rates[index]
        return np.floor(np.minimum(exact, 2.0**53) + 0.5).astype(np.int64)


_QUARTER: Final = STEPS_PER_QUARTER
_QUARTER_DIVISIONS: Final = (
    16,
    12,
    10,
    7,
    9,
)  # equal parts of a quarter that note values and tuplets start at
_VALUE_TOLERANCE: Final = 0.26  # steps; a tick more or less than a note value is still one
_MIN_VALUE_SHARE: Final = (
    0.85  # of the notes that lie on note values, where a program made the file
)
_MIN_CONCENTRATION: Final = 0.5  # how far the onsets must gather at a beat's parts, 0..1
_MIN_ONSETS: Final = 16  # onsets, from which the lack of bars can be told
_MIN_LOG_ODDS: Final = 12.0  # "exact" by chance: less than once in e^12 files
_BEATS: Final = (3, 4, 6, 8, 12, 16, 24, 48)  # steps: parts of a quarter that onsets may gather at
_TRIPLET_COST: Final = 1.25  # a beat is in threes only where that is so much nearer
_MIXED_COST: Final = 1.3  # a mixed grid is taken only where it is so much nearer


@dataclass(frozen=True)
class Grid:
    """The grid that was chosen, and how far onsets lie from it, in steps."""

    name: str
    straight: int = 1  # steps between its places
    triplet: int = 1
    mean_error: float = 0.0
    max_error: float = 0.0

    def snap(self, steps: Any, is_triplet: Any | None = None) -> Any:
        """Return the nearest place for times in steps (fractions); halves go upward."""
        straight = _nearest(steps, self.straight)
        if self.name == "triplet":
            return _nearest(steps, self.triplet)
        if self.name != "mixed":
            return straight
        threes = _is_in_triplet_beat(steps, self) if is_triplet is None else is_triplet
        return np.where(threes, _nearest(steps, self.triplet), straight)


_CANDIDATES: Final = (
    Grid("straight", 12, 12), Grid("straight", 6, 6), Grid("triplet", 16, 16),
    Grid("triplet", 8, 8), Grid("mixed", 12, 16), Grid("mixed", 12, 8),
)  # fmt: skip


def choose_grid(onsets: Any, ticks_per_quarter: int) -> Grid:
    """Find the grid of a file's onsets, in ticks. Raises Refusal where there is none."""
    distinct = unique_sorted(onsets)
    if _all_on_steps(distinct, ticks_per_quarter):
        return Grid("exact")
    made = _share_on_values(distinct, ticks_per_quarter)
    by_chance = _chance_of_values(ticks_per_quarter)
    gathered = _beat_concentration(distinct, ticks_per_quarter)
    if made >= max(_MIN_VALUE_SHARE, by_chance + 0.6 * (1 - by_chance)) and (
        by_chance < 0.9 or gathered >= _MIN_CONCENTRATION or len(distinct) < _MIN_ONSETS
    ):
        return _measure_errors(Grid("steps"), distinct, ticks_per_quarter)
    if len(distinct) >= _MIN_ONSETS and gathered < _MIN_CONCENTRATION:
        raise Refusal(_no_bars(len(distinct), made, gathered), code="no-bars")
    return _measure_errors(_nearest_grid(distinct, ticks_per_quarter), distinct, ticks_per_quarter)


def _no_bars(count: int, made: float, gathered: float) -> str:
    return (
        f"its {count:,} onsets keep to no bars: {made:.0%} are note values, and they gather at the"
        f" beat by {gathered:.2f} (a score: 1.00; at least {_MIN_CONCENTRATION:.2f} is asked);"
        f" it was left out;"
        " read it with --codec performance"
    )


def _all_on_steps(ticks: Any, ticks_per_quarter: int) -> bool:
    """Tell whether all times are whole steps, and that is no accident of a coarse clock."""
    if (ticks * _QUARTER % ticks_per_quarter).any():
        return False
    ticks_per_step = ticks_per_quarter // gcd(ticks_per_quarter, _QUARTER)
    return len(ticks) * log(ticks_per_step) >= _MIN_LOG_ODDS or len(ticks) < _MIN_ONSETS


def _share_on_values(ticks: Any, ticks_per_quarter: int) -> float:
    """Return the share of times that are note values, to the tick."""
    return float(_near_values(ticks % ticks_per_quarter, ticks_per_quarter).mean())


def _near_values(ticks: Any, ticks_per_quarter: int) -> Any:
    # Two off by one tick where a tick is short; where it is long, none but the nearest tick.
    near = _VALUE_TOLERANCE * ticks_per_quarter / _QUARTER
    found = np.zeros(len(ticks), dtype=bool)
    for parts in _QUARTER_DIVISIONS:
        away = ticks * parts % ticks_per_quarter
        found |= np.minimum(away, ticks_per_quarter - away) <= max(near * parts, 0)
    return found


@lru_cache(maxsize=256)
def _chance_of_values(ticks_per_quarter: int) -> float:
    """Return the share of all ticks that are note values."""
    return float(_near_values(np.arange(ticks_per_quarter), ticks_per_quarter).mean())


def _beat_concentration(ticks: Any, ticks_per_quarter: int) -> float:
    """Return how far times gather at parts of the beat: 1 where all do, about 0 where none does.

    The length of the mean of the phases as unit vectors (Mardia and Jupp, Directional Statistics,
    2000, chapter 2), the largest over the parts that the clock can tell apart.
    """
    steps = ticks * _QUARTER / ticks_per_quarter
    fine = [beat for beat in _BEATS if beat * ticks_per_quarter >= 3 * _QUARTER] or [_QUARTER]
    return max(float(abs(np.exp(2j * np.pi * steps / beat).mean())) for beat in fine)


def _nearest_grid(ticks: Any, ticks_per_quarter: int) -> Grid:
    """Return the grid with the smallest error, in parts of what chance would make it."""
    steps = ticks * _QUARTER / ticks_per_quarter

    def unlikeness(grid: Grid) -> float:
        chance = min(grid.straight, grid.triplet) / 4
        freedom = _MIXED_COST if grid.name == "mixed" else 1.0
        return freedom * float(np.abs(steps - grid.snap(steps)).mean()) / chance

    return min(_CANDIDATES, key=unlikeness)


def _measure_errors(grid: Grid, ticks: Any, ticks_per_quarter: int) -> Grid:
    steps = ticks * _QUARTER / ticks_per_quarter
    away = np.abs(steps - grid.snap(steps))
    return Grid(grid.name, grid.straight, grid.triplet, float(away.mean()), float(away.max()))


def _nearest(steps: Any, unit: int) -> Any:
    return np.floor(steps / unit + 0.5).astype(np.int64) * unit


def _is_in_triplet_beat(steps: Any, grid: Grid) -> Any:
    """Tell for each time whether its beat is in threes: where the beat's times are nearer so."""
    beats = np.floor(steps / _QUARTER + 0.125).astype(np.int64)
    _, beat = np.unique(beats, return_inverse=True)
    straight = np.bincount(beat, np.abs(steps - _nearest(steps, grid.straight)))
    triplet = np.bincount(beat, np.abs(steps - _nearest(steps, grid.triplet)))
    return (_TRIPLET_COST * triplet < straight)[beat]


@dataclass(frozen=True)
class Quantiser:
    """Moves the notes of one tune to its grid."""

    grid: Grid
    ticks_per_quarter: int
    has_written_ends: bool  # the ends are note values too, or on steps
    all_onsets: Any  # ticks, ascending, distinct

    @classmethod
    def of(cls, onsets: Any, ends: Any, ticks_per_quarter: int) -> Quantiser:
        """Choose the grid of a tune from all of its notes. Raises Refusal."""
        grid = choose_grid(onsets, ticks_per_quarter)
        distinct = unique_sorted(ends)
        as_written = grid.name in ("exact", "steps") and (
            not (distinct * _QUARTER % ticks_per_quarter).any()
            or _share_on_values(distinct, ticks_per_quarter) >= _MIN_VALUE_SHARE
        )
        return cls(grid, ticks_per_quarter, as_written, unique_sorted(onsets))

    @cached_property
    def triplet_beats(self) -> frozenset[int]:
        """The beats, counted from 0, that a mixed grid takes in threes."""
        steps = self.all_onsets * _QUARTER / self.ticks_per_quarter
        beats = np.floor(steps / _QUARTER + 0.125).astype(np.int64)
        return frozenset(beats[_is_in_triplet_beat(steps, self.grid)].tolist())

    def to_grid_steps(self, ticks: Any) -> Any:
        """Move times to the nearest places of the grid."""
        if self.grid.name in ("exact", "steps"):
            return (2 * ticks * _QUARTER + self.ticks_per_quarter) // (2 * self.ticks_per_quarter)
        exact = ticks * _QUARTER / self.ticks_per_quarter
        return self.grid.snap(exact, self._find_triplet_times(exact))

    def _find_triplet_times(self, exact: Any) -> Any | None:
        if self.grid.name != "mixed":
            return None
        beats = np.floor(exact / _QUARTER + 0.125).astype(np.int64)
        return np.isin(beats, sorted(self.triplet_beats))

    def quantise_notes(self, onsets: Any, ends: Any) -> tuple[Any, Any, int]:
        """Return onsets and durations in steps, and how many ends moved by more than a step.

        Where ends are no note values, the notes were played shorter or longer than written: an end
        goes to the onset that follows in its part where it is near, else to the grid.
        """
        starts = self.to_grid_steps(onsets)
        if self.has_written_ends:
            return starts, np.maximum(self.to_grid_steps(ends) - starts, 1), 0
        exact = ends * _QUARTER / self.ticks_per_quarter
        coarse = Grid("straight", 12, 12) if self.grid.name in ("exact", "steps") else self.grid
        places = coarse.snap(exact, self._find_triplet_times(exact)).tolist()
        stops = np.array(
            list(_infer_written_ends(starts.tolist(), exact.tolist(), places, _shortest(coarse)))
        )
        return starts, stops - starts, int((np.abs(stops - exact) > 1).sum())


def _shortest(grid: Grid) -> int:
    return min(grid.straight, grid.triplet) if grid.name == "mixed" else grid.straight


def _infer_written_ends(
    starts: Sequence[int], exact: Sequence[float], places: Sequence[int], shortest: int
) -> Iterator[int]:
    """Yield where each note of a part ends as one would write it."""
    onsets = unique_sorted(np.array(starts))
    following = np.append(onsets, onsets[-1] + 10**9)[
        np.searchsorted(onsets, starts, side="right")
    ].tolist()
    nearest = _nearest_of(onsets, exact)
    for start, end, place, after, near in zip(
        starts, exact, places, following, nearest, strict=True
    ):
        played = max(end - start, 1.0)
        if after - start <= 2 * played and abs(after - end) <= max(2.0, played):
            yield after  # held to the next note, or nearly
        elif near > start and abs(near - end) <= max(2.0, 0.25 * played):
            yield near
        else:
            yield place if place > start else min(after, start + shortest)


def _nearest_of(onsets: Any, exact: Sequence[float]) -> list[int]:
    """Return the onset nearest to each time."""
    times = np.asarray(exact)
    right = np.minimum(np.searchsorted(onsets, times), len(onsets) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(times - onsets[left] <= onsets[right] - times, onsets[left], onsets[right])
    return list(map(int, nearest))
