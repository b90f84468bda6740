"""The written ends of notes that were played shorter or longer than written.

A note that ends a little before or after the next onset of its part lasts until there: that is
articulation, not rhythm. Otherwise it ends at another onset nearby, or on the grid. A drum hit has
no length of its own: it lasts until the next hit of the part, at most to the end of its beat.

==========================  =====================================================
time to the next onset      the note lasts until there if it sounds for
==========================  =====================================================
up to an eighth             any time
up to a quarter note        half of it
more                        three quarters of it, or up to an eighth less than it
==========================  =====================================================
"""

from __future__ import annotations

from typing import Final

import numpy as np

from musicgen.music.arrays import FloatArray, IntArray, sort_rows, unique_sorted
from musicgen.music.score import STEPS_PER_QUARTER

_EIGHTH: Final = STEPS_PER_QUARTER // 2
_MIN_SHARE_TO_QUARTER: Final = 0.5
_MIN_SHARE_OF_LONG: Final = 0.75
_LEAST_OVERLAP, _MOST_OVERLAP = 2.0, 12.0  # steps by which a note may sound into the next one
_OVERLAP_SHARE: Final = 0.25  # of its duration, within these bounds
_NEVER: Final = 10**9  # steps; later than any onset


def infer_ends(
    starts: IntArray, played_ends: FloatArray, grid_ends: IntArray, units: IntArray
) -> IntArray:
    """Return the steps at which the written notes of a part end.

    Args:
        starts: (note,) int64 quantised onsets.
        played_ends: (note,) float64 steps.
        grid_ends: (note,) int64 played ends, moved to the grid.
        units: (note,) int64 steps between the grid points at each note.

    Returns:
        (note,) int64 steps, each after the start of its note.
    """
    onsets = unique_sorted(starts)
    next_onsets = find_next_onsets(onsets, starts)
    played = np.maximum(played_ends - starts, 1.0)
    time_to_next = next_onsets - starts
    tolerance = np.clip(_OVERLAP_SHARE * played, _LEAST_OVERLAP, _MOST_OVERLAP)
    required = np.where(
        time_to_next <= STEPS_PER_QUARTER,
        _MIN_SHARE_TO_QUARTER * time_to_next,
        np.minimum(_MIN_SHARE_OF_LONG * time_to_next, time_to_next - _EIGHTH),
    )
    is_long_enough = (time_to_next <= _EIGHTH) | (played >= required)
    lasts_to_next = is_long_enough & (played_ends <= next_onsets + tolerance)
    nearest = _find_nearest(onsets, played_ends)
    is_at_onset = (nearest > starts) & (np.abs(nearest - played_ends) <= tolerance)
    shortest = np.minimum(next_onsets, starts + units)
    on_grid = np.where(grid_ends > starts, grid_ends, shortest)
    ends: IntArray = np.where(lasts_to_next, next_onsets, np.where(is_at_onset, nearest, on_grid))
    return ends


def infer_hit_ends(starts: IntArray) -> IntArray:
    """Return the steps at which the hits of a drum part end: at the next hit, or with their beat.

    Args:
        starts: (note,) int64 quantised onsets.

    Returns:
        (note,) int64 steps.
    """
    beat_ends = (starts // STEPS_PER_QUARTER + 1) * STEPS_PER_QUARTER
    ends: IntArray = np.minimum(find_next_onsets(unique_sorted(starts), starts), beat_ends)
    return ends


def cut_repeated_pitches(starts: IntArray, pitches: IntArray, ends: IntArray) -> IntArray:
    """End each note where its pitch starts again.

    Args:
        starts: (note,) int64 steps.
        pitches: (note,) int64 MIDI note numbers.
        ends: (note,) int64 steps.

    Returns:
        (note,) int64 steps.
    """
    order = sort_rows(pitches, starts)
    sorted_starts, sorted_pitches = starts[order], pitches[order]
    limits = np.full(len(starts), _NEVER)
    continues = (sorted_pitches[1:] == sorted_pitches[:-1]) & (
        sorted_starts[1:] > sorted_starts[:-1]
    )
    limits[order[:-1][continues]] = sorted_starts[1:][continues]
    cut_ends: IntArray = np.minimum(ends, limits)
    return cut_ends


def find_next_onsets(onsets: IntArray, starts: IntArray) -> IntArray:
    """Return the next onset after each start; a step far away after the last.

    Args:
        onsets: (onset,) int64 steps, ascending, distinct.
        starts: (note,) int64 steps.

    Returns:
        (note,) int64 steps.
    """
    following: IntArray = np.append(onsets, _NEVER)
    return following[np.searchsorted(onsets, starts, side="right")]


def _find_nearest(onsets: IntArray, times: FloatArray) -> IntArray:
    """Return the onset nearest to each time, the earlier one in case of a tie."""
    right = np.minimum(np.searchsorted(onsets, times), len(onsets) - 1)
    left = np.maximum(right - 1, 0)
    is_left = times - onsets[left] <= onsets[right] - times
    nearest: IntArray = np.where(is_left, onsets[left], onsets[right])
    return nearest
