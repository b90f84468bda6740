"""Dynamics: the velocities of notes in eight levels, from ppp to fff.

A part has a default level, that of most of its notes, and a velocity at that level, which need not
be the level's own: a part whose notes are all equally loud keeps its velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from musicgen.music.arrays import IntArray
from musicgen.music.notes import DEFAULT_VELOCITY, NoteColumns

LEVEL_NAMES: Final = ("ppp", "pp", "p", "mp", "mf", "f", "ff", "fff")
# MIDI velocity of each level, the usual ones of notation programs; mf is DEFAULT_VELOCITY
LEVEL_VELOCITIES: Final[IntArray] = np.array([16, 33, 49, 64, 80, 96, 112, 127])
_LEVELS: Final[IntArray] = np.abs(np.arange(128)[:, None] - LEVEL_VELOCITIES).argmin(axis=1)


def find_levels(velocities: IntArray) -> IntArray:
    """Return the nearest level, 0..7, of MIDI velocities; (note,) int64 both."""
    levels: IntArray = _LEVELS[velocities]
    return levels


def find_level(velocity: int) -> int:
    """Return the nearest level, 0..7, of a MIDI velocity."""
    return int(_LEVELS[velocity])


DEFAULT_LEVEL: Final = find_level(DEFAULT_VELOCITY)


def find_default_velocities(columns: NoteColumns, part_count: int) -> IntArray:
    """Return the velocity of each part: the most frequent one at its most frequent level.

    Args:
        columns: (5, note) int64.
        part_count: number of parts; those without notes have DEFAULT_VELOCITY.

    Returns:
        (part,) int64 MIDI velocities.
    """
    parts, velocities = columns[4], columns[3]
    levels = find_levels(velocities)
    default_levels = _find_most_frequent(parts, levels, part_count, DEFAULT_LEVEL)
    is_default = levels == default_levels[parts]
    return _find_most_frequent(
        parts[is_default], velocities[is_default], part_count, DEFAULT_VELOCITY
    )


def _find_most_frequent(
    parts: IntArray, values: IntArray, part_count: int, default: int
) -> IntArray:
    """Return the most frequent value, 0..127, of each part, the lowest in case of a tie."""
    counts = np.bincount(parts << 7 | values, minlength=part_count << 7).reshape(-1, 128)
    most_frequent: IntArray = np.where(counts.any(1), counts.argmax(1), default)
    return most_frequent


def has_dynamics(columns: NoteColumns) -> bool:
    """Return whether the notes of some part, (5, note) int64, differ in velocity."""
    velocities, parts = columns[3], columns[4]
    last_velocities = np.zeros(int(parts.max(initial=0)) + 1, np.int64)
    last_velocities[parts] = velocities
    return bool((last_velocities[parts] != velocities).any())


def with_one_velocity(columns: NoteColumns) -> NoteColumns:
    """Give every note the velocity of its part, as `find_default_velocities` does.

    Args:
        columns: (5, note) int64.

    Returns:
        (5, note) int64.
    """
    if not has_dynamics(columns):
        return columns
    leveled = columns.copy()
    leveled[3] = _find_default_of_notes(columns)
    return leveled


def _find_default_of_notes(columns: NoteColumns) -> IntArray:
    """Return for each note the velocity of its part at its default level, (note,) int64."""
    parts = columns[4]
    defaults: IntArray = find_default_velocities(columns, int(parts.max()) + 1)[parts]
    return defaults


def with_levels(columns: NoteColumns, velocities: Sequence[int] | None = None) -> NoteColumns:
    """Give every note the velocity of its level, or of its part where that is its level.

    Args:
        columns: (5, note) int64.
        velocities: MIDI velocity of each part; None: as `find_default_velocities` finds them.

    Returns:
        (5, note) int64.
    """
    if velocities is None and not has_dynamics(columns):
        return columns
    leveled = columns.copy()
    defaults = (
        _find_default_of_notes(columns)
        if velocities is None
        else np.array(velocities, dtype=np.int64)[columns[4]]
    )
    levels = find_levels(columns[3])
    leveled[3] = np.where(levels == find_levels(defaults), defaults, LEVEL_VELOCITIES[levels])
    return leveled
