"""Quantisation: choose the grid of each beat, and move each note to a step.

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

In the last four the timing of the file is taken out first, see `timing`. Then each beat, a quarter
note, gets the grid of the shortest description (Rissanen, "Modeling by shortest data description",
1978): for d divisions of the beat and the onsets t of the beat, in bits,

    -log2 P(d) + sum over t of (log2 d + min((t - grid(t))^2 / (2 s^2 ln 2), OUTLIER_BITS))

where s is the standard deviation of the file's onsets from sixteenths and triplets, and P(d) the
share of the file's beats that have d divisions, estimated from a first choice with DIVISIONS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd, log, sqrt
from typing import Final

import numpy as np

from musicgen.errors import Refusal
from musicgen.formats.midi.note_ends import cut_repeated_pitches, infer_ends, infer_hit_ends
from musicgen.formats.midi.timing import (
    MeterHint,
    PartTimes,
    Timing,
    align_bars,
    find_timing,
    to_exact_steps,
)
from musicgen.music.arrays import BoolArray, FloatArray, IntArray, find_median, unique_sorted
from musicgen.music.score import STEPS_PER_QUARTER

_QUARTER: Final = STEPS_PER_QUARTER
_QUARTER_DIVISIONS: Final = (16, 12, 10, 7, 9)  # equal parts at which note values and tuplets start
_VALUE_TOLERANCE: Final = 0.26  # steps; a tick off a note value still counts as on it
_MIN_ONSET_SHARE: Final = 0.97  # of onsets on note values in a file written by a program
_MIN_END_SHARE: Final = 0.85  # and of ends
_MAX_WRITTEN_OFFSET: Final = 0.75  # steps; notes later than that are not written, but played
_MIN_CONCENTRATION: Final = 0.35  # of onsets at divisions of the beat, 0..1, in a large file
_MIN_SMALL_CONCENTRATION: Final = 0.5  # and in a small one, where chance concentrates more
_CHANCE_CONCENTRATION: Final = 6.0  # notes * concentration^2 that chance seldom reaches
_MIN_ONSETS: Final = 16  # fewest onsets from which a lack of bars is inferred
_MIN_LOG_ODDS: Final = 12.0  # "exact" by chance occurs less than once in e^12 files
_BEATS: Final = (3, 4, 6, 8, 12, 16, 24, 48)  # steps; divisions at which onsets may concentrate
_BEAT_START: Final = 6  # steps by which a note before a beat still belongs to it

# Divisions of the beat, and the share of beats that has each of them before the file is known.
DIVISIONS: Final = ((2, 0.45), (4, 0.33), (3, 0.12), (8, 0.04), (6, 0.04), (12, 0.02))
OUTLIER_BITS: Final = 10.0  # most that the error of one onset costs
_COUNTS, _SHARES = (np.array(column) for column in zip(*DIVISIONS, strict=True))
_UNITS: Final = _QUARTER // _COUNTS  # steps between grid points
_FINEST: Final = len(DIVISIONS) - 1
_PRIOR_BEATS: Final = 16.0  # beats that the shares count as when those of a file are estimated
_LEAST_DEVIATION, _MOST_DEVIATION = 1.0, 3.0  # steps
_END_UNIT, _TRIPLET_END_UNIT = 12, 16  # steps; the grid of ends that are not at an onset
_SHORT_NOTE, _HALF_NOTE = 40, 150  # steps; a longer note ends on an eighth, on a quarter
_TRIPLETS: Final = frozenset({3, 6, 12})  # divisions into triplets


@dataclass(frozen=True)
class Grid:
    """The grid of a file as a whole, and the distances of its onsets from it."""

    name: str
    straight: int = 1  # steps between grid points in most straight beats
    triplet: int = 1  # and in most triplet beats
    mean_error: float = 0.0  # steps
    max_error: float = 0.0  # steps


@dataclass(frozen=True)
class BeatGrids:
    """The grid of each beat of a file that was played."""

    choices: IntArray  # (beat,) rows of DIVISIONS

    @classmethod
    def choose(cls, onsets: FloatArray) -> BeatGrids:
        """Choose the grid of the shortest description for each beat.

        Args:
            onsets: (onset,) float64 steps, with the timing taken out.
        """
        beats = _find_beats(onsets)
        deviation = _estimate_deviation(onsets)
        units = _UNITS[:, None]
        errors = onsets - np.floor(onsets / units + 0.5) * units
        bits = np.minimum(errors**2 / (2 * deviation**2 * log(2)), OUTLIER_BITS)
        bits += np.log2(_COUNTS)[:, None]
        costs = np.array([np.bincount(beats, row) for row in bits])
        has_onsets = np.bincount(beats) > 0
        first = (costs - np.log2(_SHARES)[:, None]).argmin(axis=0)
        counts = np.bincount(first[has_onsets], minlength=len(_SHARES))
        shares = (counts + _PRIOR_BEATS * _SHARES) / (counts.sum() + _PRIOR_BEATS)
        return cls((costs - np.log2(shares)[:, None]).argmin(axis=0))

    def find_units(self, steps: FloatArray) -> IntArray:
        """Return the steps between grid points at (n,) float64 times, as (n,) int64."""
        beats = np.minimum(_find_beats(steps), len(self.choices) - 1)
        units: IntArray = _UNITS[self.choices[beats]]
        return units

    def snap(self, steps: FloatArray) -> IntArray:
        """Move (n,) float64 times to the nearest grid points, (n,) int64 steps; halves up."""
        units = self.find_units(steps)
        return np.floor(steps / units + 0.5).astype(np.int64) * units

    def refine(self, steps: FloatArray) -> BeatGrids:
        """Return the grids with the finest one at the beats of (n,) float64 times."""
        choices = self.choices.copy()
        choices[_find_beats(steps)] = _FINEST
        return BeatGrids(choices)

    def summarise(self, onsets: FloatArray) -> Grid:
        """Describe the grids of a file, and the errors of (onset,) float64 steps."""
        used = self.choices[unique_sorted(_find_beats(onsets))]
        is_triplet = np.isin(_COUNTS[used], sorted(_TRIPLETS))
        names = {(True, False): "straight", (False, True): "triplet"}
        name = names.get((not is_triplet.all(), bool(is_triplet.any())), "mixed")
        errors = np.abs(onsets - self.snap(onsets))
        return Grid(
            name,
            _most_frequent(_UNITS[used[~is_triplet]], 12),
            _most_frequent(_UNITS[used[is_triplet]], 16),
            float(errors.mean()),
            float(errors.max()),
        )


def _most_frequent(units: IntArray, default: int) -> int:
    return int(np.bincount(units).argmax()) if len(units) else default


def _find_beats(steps: FloatArray) -> IntArray:
    """Return the beat that each time belongs to."""
    beats: IntArray = np.maximum(np.floor((steps + _BEAT_START) / _QUARTER), 0).astype(np.int64)
    return beats


def _estimate_deviation(onsets: FloatArray) -> float:
    """Return the standard deviation of onsets from sixteenths and triplets, in steps."""
    errors = [np.abs(onsets - np.floor(onsets / unit + 0.5) * unit) for unit in (12, 16)]
    # 1.4826 medians of absolute errors are one standard deviation of a normal distribution
    deviation = 1.4826 * find_median(np.minimum(*errors))
    return min(max(deviation, _LEAST_DEVIATION), _MOST_DEVIATION)


def is_written(onsets: IntArray, ticks_per_quarter: int) -> bool:
    """Return whether onsets are on note values and tuplets, to the tick, as a program writes them.

    Args:
        onsets: (onset,) int64 ticks, distinct.
        ticks_per_quarter: resolution of the ticks.
    """
    value_share = _share_on_values(onsets, ticks_per_quarter)
    chance_share = _chance_of_values(ticks_per_quarter)
    return value_share >= max(_MIN_ONSET_SHARE, chance_share + 0.6 * (1 - chance_share)) and (
        chance_share < 0.9
        or len(onsets) < _MIN_ONSETS
        or _beat_concentration(onsets * _QUARTER / ticks_per_quarter, ticks_per_quarter)
        >= _MIN_SMALL_CONCENTRATION
    )


def check_beats(onsets: FloatArray, ticks: IntArray, ticks_per_quarter: int) -> None:
    """Check that onsets follow a beat.

    Args:
        onsets: (onset,) float64 steps, with the timing taken out.
        ticks: (onset,) int64 ticks of the same onsets, as in the file.
        ticks_per_quarter: resolution of the ticks.

    Raises:
        Refusal: the onsets do not follow any beat.
    """
    count = len(onsets)
    concentration = _beat_concentration(onsets, ticks_per_quarter)
    chance = min(sqrt(_CHANCE_CONCENTRATION / count), _MIN_SMALL_CONCENTRATION)
    required = max(_MIN_CONCENTRATION, chance)
    if count >= _MIN_ONSETS and concentration < required:
        share = _share_on_values(ticks, ticks_per_quarter)
        raise Refusal(
            f"its {count:,} onsets keep to no bars: {share:.0%} are on note values, and their"
            f" concentration at the beat is {concentration:.2f} (1.00 in a score; at least"
            f" {required:.2f} is required); it was left out; read it with --codec performance",
            code="no-bars",
        )


def is_on_steps(onsets: IntArray, ticks_per_quarter: int) -> bool:
    """Return whether all times are whole steps, and not only because the resolution is coarse.

    Args:
        onsets: (onset,) int64 ticks, distinct.
        ticks_per_quarter: resolution of the ticks.
    """
    if (onsets * _QUARTER % ticks_per_quarter).any():
        return False
    ticks_per_step = ticks_per_quarter // gcd(ticks_per_quarter, _QUARTER)
    return len(onsets) * log(ticks_per_step) >= _MIN_LOG_ODDS or len(onsets) < _MIN_ONSETS


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


def _beat_concentration(steps: FloatArray, ticks_per_quarter: int) -> float:
    """Return the concentration of times at divisions of the beat, from about 0 to 1.

    This is the mean resultant length of the phases (Mardia and Jupp, Directional Statistics, 2000,
    chapter 2), the largest over the divisions that the resolution can represent.
    """
    fine = [beat for beat in _BEATS if beat * ticks_per_quarter >= 3 * _QUARTER] or [_QUARTER]
    phases = np.exp(2j * np.pi * steps / _QUARTER)
    return max(float(abs((phases ** (_QUARTER // beat)).mean())) for beat in fine)


@dataclass(frozen=True)
class QuantisedPart:
    """The notes of one part on steps; see `PartTimes` for their order."""

    part: int  # index into Score.parts
    onsets: IntArray  # (note,) steps
    durations: IntArray  # (note,) steps
    moved_ends: int  # ends that moved over a step
    far_onsets: int  # onsets that moved over FAR_STEPS, with the timing taken out
    hits: int = 0  # drum notes whose ends were inferred


FAR_STEPS: Final = 2.0  # a 24th of a beat


@dataclass(frozen=True)
class Quantiser:
    """Moves the notes of one tune to steps."""

    grid: Grid
    ticks_per_quarter: int
    timing: Timing = field(default_factory=Timing)
    beat_grids: BeatGrids | None = None  # None for the grids "exact" and "steps"
    has_written_ends: bool = False  # the ends of notes are on note values or steps too
    has_written_hits: bool = False  # and those of drums

    @classmethod
    def of(
        cls,
        parts: Sequence[PartTimes],
        ticks_per_quarter: int,
        meter: MeterHint = MeterHint(),  # noqa: B008 - frozen
    ) -> Quantiser:
        """Choose the grid of a tune from all of its notes.

        Args:
            parts: the notes of each part, in ticks; at least one note.
            ticks_per_quarter: resolution of the ticks.
            meter: what the file says about its bars.

        Raises:
            Refusal: the onsets do not follow any beat.
        """
        ticks = unique_sorted(np.concatenate([times.onsets for times in parts]))
        if is_on_steps(ticks, ticks_per_quarter):
            return _keep_steps(Grid("exact"), parts, ticks_per_quarter, MeterHint())
        timing = find_timing(parts, ticks_per_quarter, meter)
        if _is_on_sixteenth(timing.offset) and is_written(ticks, ticks_per_quarter):
            grid = _measure_step_errors(ticks, ticks_per_quarter)
            return _keep_steps(grid, parts, ticks_per_quarter, meter)
        return _fit_beats(parts, ticks_per_quarter, timing, meter)

    def to_grid_steps(self, ticks: IntArray, exact_steps: FloatArray) -> IntArray:
        """Convert (n,) int64 ticks, as (n,) float64 straight steps too, to steps on the grid."""
        if self.beat_grids is None:
            quarter = self.ticks_per_quarter
            steps: IntArray = np.floor_divide(2 * ticks * _QUARTER + quarter, 2 * quarter)
            return steps + self.timing.added_steps
        return np.maximum(self.beat_grids.snap(exact_steps), 0)

    def to_straight_steps(self, ticks: IntArray, part: int) -> FloatArray:
        """Convert (n,) int64 ticks of a part to (n,) float64 steps without its timing."""
        return self.timing.straighten(to_exact_steps(ticks, self.ticks_per_quarter), part)

    def quantise_part(self, times: PartTimes) -> QuantisedPart:
        """Quantise the notes of one part; infer their ends where those were played."""
        exact_starts = self.to_straight_steps(times.onsets, times.part)
        starts = self.to_grid_steps(times.onsets, exact_starts)
        far_onsets = int((np.abs(exact_starts - starts) > FAR_STEPS).sum())
        exact_ends = self.to_straight_steps(times.ends, times.part)
        if self.has_written_hits if times.is_drums else self.has_written_ends:
            durations = np.maximum(self.to_grid_steps(times.ends, exact_ends) - starts, 1)
            return QuantisedPart(times.part, starts, durations, 0, far_onsets)
        if times.is_drums:
            durations = infer_hit_ends(starts) - starts
            return QuantisedPart(times.part, starts, durations, 0, far_onsets, len(starts))
        ends = self._infer_ends(starts, exact_ends)
        ends = cut_repeated_pitches(starts, times.pitches, ends)
        moved_ends = int((np.abs(ends - exact_ends) > 1).sum())
        return QuantisedPart(times.part, starts, ends - starts, moved_ends, far_onsets)

    def _infer_ends(self, starts: IntArray, exact_ends: FloatArray) -> IntArray:
        played = exact_ends - starts
        is_triplet = np.zeros(len(starts), dtype=np.bool_)
        if self.beat_grids is not None:
            is_triplet = self.beat_grids.find_units(exact_ends) == _TRIPLET_END_UNIT
        units = np.select(
            [played >= _HALF_NOTE, is_triplet & (played >= _SHORT_NOTE), is_triplet,
             played >= _SHORT_NOTE],
            [_QUARTER, _QUARTER, _TRIPLET_END_UNIT, 2 * _END_UNIT],
            _END_UNIT,
        )  # fmt: skip
        grid_ends = np.floor(exact_ends / units + 0.5).astype(np.int64) * units
        return infer_ends(starts, exact_ends, grid_ends, units)


def _keep_steps(
    grid: Grid, parts: Sequence[PartTimes], ticks_per_quarter: int, meter: MeterHint
) -> Quantiser:
    """Return the quantiser of onsets that are written; decide the same about the ends."""
    timing = Timing()
    if not meter.is_given:
        timing = align_bars(parts, timing, ticks_per_quarter, meter)
    everything = _has_written_ends(parts, ticks_per_quarter)
    pitched = [times for times in parts if not times.is_drums]
    drums = [times for times in parts if times.is_drums]
    return Quantiser(
        grid,
        ticks_per_quarter,
        timing,
        has_written_ends=everything or _has_written_ends(pitched, ticks_per_quarter),
        has_written_hits=everything or _has_written_ends(drums, ticks_per_quarter),
    )


def _has_written_ends(parts: Sequence[PartTimes], ticks_per_quarter: int) -> bool:
    """Return whether the ends of parts are on steps or on note values."""
    if not parts:
        return False
    ends = unique_sorted(np.concatenate([times.ends for times in parts]))
    return (
        not (ends * _QUARTER % ticks_per_quarter).any()
        or _share_on_values(ends, ticks_per_quarter) >= _MIN_END_SHARE
    )


def _fit_beats(
    parts: Sequence[PartTimes], ticks_per_quarter: int, timing: Timing, meter: MeterHint
) -> Quantiser:
    """Return the quantiser of notes that were played. Raises Refusal if they follow no beat."""
    timing = align_bars(parts, timing, ticks_per_quarter, meter)
    exact = [
        timing.straighten(to_exact_steps(times.onsets, ticks_per_quarter), times.part)
        for times in parts
    ]
    ticks = np.concatenate([times.onsets for times in parts])
    order = np.unique(ticks, return_index=True)[1]
    onsets = np.concatenate(exact)[order]
    check_beats(onsets, ticks[order], ticks_per_quarter)
    grids = BeatGrids.choose(onsets)
    merged = _find_merged(parts, exact, grids)
    if len(merged):
        grids = grids.refine(merged)
    return Quantiser(grids.summarise(onsets), ticks_per_quarter, timing, grids)


def _find_merged(
    parts: Sequence[PartTimes], exact: Sequence[FloatArray], grids: BeatGrids
) -> FloatArray:
    """Return the onsets, in steps, that fall on one step with another note of pitch and part."""
    onsets = np.concatenate(exact)
    pitches = np.concatenate([times.pitches + 128 * times.part for times in parts])
    snapped = grids.snap(onsets)
    order = np.lexsort((onsets, snapped, pitches))
    is_merged = (np.diff(pitches[order]) == 0) & (np.diff(snapped[order]) == 0)
    is_apart = np.diff(onsets[order]) > FAR_STEPS
    merged: FloatArray = onsets[order][1:][is_merged & is_apart]
    return merged


def _is_on_sixteenth(offset: float) -> bool:
    return abs((offset + 6) % 12 - 6) <= _MAX_WRITTEN_OFFSET


def _measure_step_errors(ticks: IntArray, ticks_per_quarter: int) -> Grid:
    """Return the grid "steps" with the distances of ticks from the nearest steps."""
    steps = ticks * _QUARTER / ticks_per_quarter
    errors = np.abs(steps - np.floor(steps + 0.5))
    return Grid("steps", 1, 1, float(errors.mean()), float(errors.max()))
