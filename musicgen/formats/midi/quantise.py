"""Quantisation: choose the grid of a file's notes, and move each note to a step.

=========  =====================================================================
grid       notes
=========  =====================================================================
exact      on steps already; unchanged
steps      note values and tuplets, to the tick; moved to the nearest step
straight   played in eighths or sixteenths; moved to that grid
triplet    played in triplet eighths or sixteenths; moved to that grid
mixed      either, beat by beat
none       no beat, as in a live performance; refused
=========  =====================================================================

The tempo map converts ticks to milliseconds, and ticks of SMPTE frames to quarter notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd, log
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musicgen.errors import Refusal
from musicgen.formats.midi.parser import DEFAULT_TEMPO, SMPTE_TICKS_PER_QUARTER, ParsedMidi
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, unique_sorted
from musicgen.music.score import STEPS_PER_QUARTER


class TempoMap:
    """Converts the ticks of a file to milliseconds and to ticks per quarter note."""

    def __init__(self, file: ParsedMidi) -> None:
        self.ticks_per_quarter = file.ticks_per_quarter
        self.ticks_per_second = file.ticks_per_second
        tempos = [(0, DEFAULT_TEMPO), *file.merge_events("tempos")]
        self.starts = np.array([tick for tick, _ in tempos], dtype=np.int64)
        self.tempos = np.array([tempo for _, tempo in tempos], dtype=np.int64)
        lengths = np.diff(self.starts) * self.tempos[:-1]
        self.elapsed = np.concatenate([[0], np.cumsum(lengths)])  # microseconds * ticks per quarter

    def to_milliseconds(self, ticks: IntArray) -> IntArray:
        """Convert ticks to milliseconds in exact integer arithmetic; round halves up.

        Args:
            ticks: (n,) int64.

        Returns:
            (n,) int64 milliseconds from the start of the file.
        """
        if self.ticks_per_second is not None:
            rate = self.ticks_per_second
            return (2_000 * ticks * rate.denominator + rate.numerator) // (2 * rate.numerator)
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        elapsed = self.elapsed[index] + (ticks - self.starts[index]) * self.tempos[index]
        divisor = 1_000 * self.ticks_per_quarter
        milliseconds: IntArray = (2 * elapsed + divisor) // (2 * divisor)
        return milliseconds

    def to_quarter_ticks(self, ticks: ArrayLike) -> IntArray:
        """Convert ticks of SMPTE frames to SMPTE_TICKS_PER_QUARTER; return other ticks unchanged.

        Args:
            ticks: (n,) int64.

        Returns:
            (n,) int64.
        """
        ticks = np.asarray(ticks, dtype=np.int64)
        if self.ticks_per_second is None:
            return ticks
        # quarter notes per tick at each tempo: 10^6 / (tempo * ticks per second)
        rates = 1_000_000 * SMPTE_TICKS_PER_QUARTER / (self.tempos * float(self.ticks_per_second))
        elapsed = np.concatenate([[0.0], np.cumsum(np.diff(self.starts) * rates[:-1])])
        index = np.searchsorted(self.starts, ticks, side="right") - 1
        exact = elapsed[index] + (ticks - self.starts[index]) * rates[index]
        return np.floor(np.minimum(exact, 2.0**53) + 0.5).astype(np.int64)


_QUARTER: Final = STEPS_PER_QUARTER
_QUARTER_DIVISIONS: Final = (16, 12, 10, 7, 9)  # equal parts at which note values and tuplets start
_VALUE_TOLERANCE: Final = 0.26  # steps; a tick off a note value still counts as on it
_MIN_VALUE_SHARE: Final = 0.85  # of times on note values in a file written by a program
_MIN_CONCENTRATION: Final = 0.5  # of onsets at divisions of the beat, 0..1
_MIN_ONSETS: Final = 16  # fewest onsets from which a lack of bars is inferred
_MIN_LOG_ODDS: Final = 12.0  # "exact" by chance occurs less than once in e^12 files
_BEATS: Final = (3, 4, 6, 8, 12, 16, 24, 48)  # steps; divisions at which onsets may concentrate
_TRIPLET_COST: Final = 1.25  # factor by which triplets must fit a beat better
_MIXED_COST: Final = 1.3  # factor by which a mixed grid must fit better


@dataclass(frozen=True)
class Grid:
    """A quantisation grid, and the distances of a file's onsets from it."""

    name: str
    straight: int = 1  # steps between grid points in straight beats
    triplet: int = 1  # and in triplet beats
    mean_error: float = 0.0  # steps
    max_error: float = 0.0  # steps

    def snap(self, steps: FloatArray, is_triplet: BoolArray | None = None) -> IntArray:
        """Move times to the nearest grid points; round halves up.

        Args:
            steps: (n,) float64 times in steps.
            is_triplet: (n,) bool, whether a time is in a triplet beat of a mixed grid; inferred
                from the times by default.

        Returns:
            (n,) int64 steps.
        """
        straight = _nearest(steps, self.straight)
        if self.name == "triplet":
            return _nearest(steps, self.triplet)
        if self.name != "mixed":
            return straight
        in_triplets = _is_in_triplet_beat(steps, self) if is_triplet is None else is_triplet
        return np.where(in_triplets, _nearest(steps, self.triplet), straight)


_CANDIDATES: Final = (
    Grid("straight", 12, 12), Grid("straight", 6, 6), Grid("triplet", 16, 16),
    Grid("triplet", 8, 8), Grid("mixed", 12, 16), Grid("mixed", 12, 8),
)  # fmt: skip


def choose_grid(onsets: IntArray, ticks_per_quarter: int) -> Grid:
    """Choose the grid that fits a file's onsets.

    Args:
        onsets: (note,) int64 ticks.
        ticks_per_quarter: resolution of the file.

    Raises:
        Refusal: the onsets do not follow any beat.
    """
    distinct = unique_sorted(onsets)
    if _all_on_steps(distinct, ticks_per_quarter):
        return Grid("exact")
    value_share = _share_on_values(distinct, ticks_per_quarter)
    chance_share = _chance_of_values(ticks_per_quarter)
    concentration = _beat_concentration(distinct, ticks_per_quarter)
    if value_share >= max(_MIN_VALUE_SHARE, chance_share + 0.6 * (1 - chance_share)) and (
        chance_share < 0.9 or concentration >= _MIN_CONCENTRATION or len(distinct) < _MIN_ONSETS
    ):
        return _measure_errors(Grid("steps"), distinct, ticks_per_quarter)
    if len(distinct) >= _MIN_ONSETS and concentration < _MIN_CONCENTRATION:
        raise Refusal(_no_bars(len(distinct), value_share, concentration), code="no-bars")
    return _measure_errors(_nearest_grid(distinct, ticks_per_quarter), distinct, ticks_per_quarter)


def _no_bars(count: int, value_share: float, concentration: float) -> str:
    return (
        f"its {count:,} onsets keep to no bars: {value_share:.0%} are on note values, and their"
        f" concentration at the beat is {concentration:.2f} (1.00 in a score; at least"
        f" {_MIN_CONCENTRATION:.2f} is required); it was left out; read it with --codec performance"
    )


def _all_on_steps(ticks: IntArray, ticks_per_quarter: int) -> bool:
    """Return whether all times are whole steps, and not only because the resolution is coarse."""
    if (ticks * _QUARTER % ticks_per_quarter).any():
        return False
    ticks_per_step = ticks_per_quarter // gcd(ticks_per_quarter, _QUARTER)
    return len(ticks) * log(ticks_per_step) >= _MIN_LOG_ODDS or len(ticks) < _MIN_ONSETS


def _share_on_values(ticks: IntArray, ticks_per_quarter: int) -> float:
    """Return the share of times on note values, to the tick."""
    return float(_near_values(ticks % ticks_per_quarter, ticks_per_quarter).mean())


def _near_values(ticks: IntArray, ticks_per_quarter: int) -> BoolArray:
    """Return which ticks are on note values, with a tolerance of one short tick."""
    tolerance = _VALUE_TOLERANCE * ticks_per_quarter / _QUARTER
    is_near = np.zeros(len(ticks), dtype=bool)
    for divisions in _QUARTER_DIVISIONS:
        remainders = ticks * divisions % ticks_per_quarter
        is_near |= np.minimum(remainders, ticks_per_quarter - remainders) <= max(
            tolerance * divisions, 0
        )
    return is_near


@lru_cache(maxsize=256)
def _chance_of_values(ticks_per_quarter: int) -> float:
    """Return the share of all ticks that are on note values."""
    return float(_near_values(np.arange(ticks_per_quarter), ticks_per_quarter).mean())


def _beat_concentration(ticks: IntArray, ticks_per_quarter: int) -> float:
    """Return the concentration of times at divisions of the beat, from about 0 to 1.

    This is the mean resultant length of the phases (Mardia and Jupp, Directional Statistics, 2000,
    chapter 2), the largest over the divisions that the resolution can represent.
    """
    steps = ticks * _QUARTER / ticks_per_quarter
    fine = [beat for beat in _BEATS if beat * ticks_per_quarter >= 3 * _QUARTER] or [_QUARTER]
    return max(float(abs(np.exp(2j * np.pi * steps / beat).mean())) for beat in fine)


def _nearest_grid(ticks: IntArray, ticks_per_quarter: int) -> Grid:
    """Return the grid with the smallest error relative to that of random times."""
    steps = ticks * _QUARTER / ticks_per_quarter

    def relative_error(grid: Grid) -> float:
        random_error = min(grid.straight, grid.triplet) / 4
        cost = _MIXED_COST if grid.name == "mixed" else 1.0
        return cost * float(np.abs(steps - grid.snap(steps)).mean()) / random_error

    return min(_CANDIDATES, key=relative_error)


def _measure_errors(grid: Grid, ticks: IntArray, ticks_per_quarter: int) -> Grid:
    steps = ticks * _QUARTER / ticks_per_quarter
    errors = np.abs(steps - grid.snap(steps))
    return Grid(grid.name, grid.straight, grid.triplet, float(errors.mean()), float(errors.max()))


def _nearest(steps: FloatArray, unit: int) -> IntArray:
    return np.floor(steps / unit + 0.5).astype(np.int64) * unit


def _is_in_triplet_beat(steps: FloatArray, grid: Grid) -> BoolArray:
    """Return for each time whether triplets fit the times of its beat better."""
    beats = np.floor(steps / _QUARTER + 0.125).astype(np.int64)
    _, beat = np.unique(beats, return_inverse=True)
    straight = np.bincount(beat, np.abs(steps - _nearest(steps, grid.straight)))
    triplet = np.bincount(beat, np.abs(steps - _nearest(steps, grid.triplet)))
    is_triplet: BoolArray = (_TRIPLET_COST * triplet < straight)[beat]
    return is_triplet


@dataclass(frozen=True)
class Quantiser:
    """Moves the notes of one tune to its grid."""

    grid: Grid
    ticks_per_quarter: int
    has_written_ends: bool  # the ends are on note values or steps too
    all_onsets: IntArray  # (n,) ticks, ascending, distinct

    @classmethod
    def of(cls, onsets: IntArray, ends: IntArray, ticks_per_quarter: int) -> Quantiser:
        """Choose the grid of a tune from all of its notes.

        Args:
            onsets: (note,) int64 ticks.
            ends: (note,) int64 ticks.
            ticks_per_quarter: resolution of the ticks.
        """
        grid = choose_grid(onsets, ticks_per_quarter)
        distinct = unique_sorted(ends)
        as_written = grid.name in ("exact", "steps") and (
            not (distinct * _QUARTER % ticks_per_quarter).any()
            or _share_on_values(distinct, ticks_per_quarter) >= _MIN_VALUE_SHARE
        )
        return cls(grid, ticks_per_quarter, as_written, unique_sorted(onsets))

    @cached_property
    def triplet_beats(self) -> frozenset[int]:
        """The numbers, from 0, of the beats of a mixed grid that are triplets."""
        steps = self.all_onsets * _QUARTER / self.ticks_per_quarter
        beats = np.floor(steps / _QUARTER + 0.125).astype(np.int64)
        return frozenset(beats[_is_in_triplet_beat(steps, self.grid)].tolist())

    def to_grid_steps(self, ticks: IntArray) -> IntArray:
        """Convert (n,) int64 ticks to (n,) int64 steps on the grid."""
        if self.grid.name in ("exact", "steps"):
            quarter = self.ticks_per_quarter
            return np.floor_divide(2 * ticks * _QUARTER + quarter, 2 * quarter)
        exact = ticks * _QUARTER / self.ticks_per_quarter
        return self.grid.snap(exact, self._find_triplet_times(exact))

    def _find_triplet_times(self, exact: FloatArray) -> NDArray[np.bool_] | None:
        if self.grid.name != "mixed":
            return None
        beats = np.floor(exact / _QUARTER + 0.125).astype(np.int64)
        return np.isin(beats, sorted(self.triplet_beats))

    def quantise_notes(self, onsets: IntArray, ends: IntArray) -> tuple[IntArray, IntArray, int]:
        """Quantise the notes of one part.

        Where ends are not on note values, the notes were played shorter or longer than written: an
        end moves to a nearby onset of the part, else to the grid.

        Args:
            onsets: (note,) int64 ticks.
            ends: (note,) int64 ticks.

        Returns:
            (note,) int64 onsets and durations in steps, and how many ends moved over a step.
        """
        starts = self.to_grid_steps(onsets)
        if self.has_written_ends:
            return starts, np.maximum(self.to_grid_steps(ends) - starts, 1), 0
        exact_ends = ends * _QUARTER / self.ticks_per_quarter
        coarse = Grid("straight", 12, 12) if self.grid.name in ("exact", "steps") else self.grid
        grid_ends = coarse.snap(exact_ends, self._find_triplet_times(exact_ends)).tolist()
        inferred_ends = np.array(
            list(
                _infer_written_ends(
                    starts.tolist(), exact_ends.tolist(), grid_ends, _shortest(coarse)
                )
            )
        )
        return starts, inferred_ends - starts, int((np.abs(inferred_ends - exact_ends) > 1).sum())


def _shortest(grid: Grid) -> int:
    return min(grid.straight, grid.triplet) if grid.name == "mixed" else grid.straight


def _infer_written_ends(
    starts: Sequence[int], exact_ends: Sequence[float], grid_ends: Sequence[int], shortest: int
) -> Iterator[int]:
    """Yield the step at which the written form of each note of a part ends."""
    onsets = unique_sorted(np.array(starts))
    next_onsets = np.append(onsets, onsets[-1] + 10**9)[
        np.searchsorted(onsets, starts, side="right")
    ].tolist()
    nearest_onsets = _nearest_of(onsets, exact_ends)
    for start, exact_end, grid_end, next_onset, nearest_onset in zip(
        starts, exact_ends, grid_ends, next_onsets, nearest_onsets, strict=True
    ):
        played = max(exact_end - start, 1.0)
        if next_onset - start <= 2 * played and abs(next_onset - exact_end) <= max(2.0, played):
            yield next_onset  # held until about the next note
        elif nearest_onset > start and abs(nearest_onset - exact_end) <= max(2.0, 0.25 * played):
            yield nearest_onset
        else:
            yield grid_end if grid_end > start else min(next_onset, start + shortest)


def _nearest_of(onsets: IntArray, exact: Sequence[float]) -> list[int]:
    """Return the onset nearest to each time."""
    times = np.asarray(exact)
    right = np.minimum(np.searchsorted(onsets, times), len(onsets) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(times - onsets[left] <= onsets[right] - times, onsets[left], onsets[right])
    return list(map(int, nearest))
