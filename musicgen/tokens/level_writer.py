"""Dynamics as events: where the notes of a voice leave the level of the notes before them.

A voice starts at the default level of its part and keeps its level over bar lines. Of the notes of
a chord, which are written from the highest to the lowest, each may have a level of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from musicgen.music.arrays import IntArray, is_new_value
from musicgen.music.dynamics import find_levels
from musicgen.music.notes import NoteColumns
from musicgen.music.voices import Chords
from musicgen.tokens.lineup import measure_header, read_lineup
from musicgen.tokens.vocabulary import MEASURES

_FIRST_LEVEL_ID: Final = MEASURES.id("level", 0)


def find_level_changes(
    columns: NoteColumns, chords: Chords, voices: IntArray, velocities: Sequence[int]
) -> IntArray:
    """Find the notes before which the level of their voice changes.

    Args:
        columns: (5, note) int64.
        chords: of the same notes.
        voices: (chord,) int64, from `Chords.assign_voices`.
        velocities: MIDI velocity of each part at its default level.

    Returns:
        (note,) int64 ids of levels, 0 where the level stays, in the order of `Chords.pitches`.
    """
    sizes = np.diff(chords.pitch_starts)
    parts = np.repeat(chords.parts, sizes)
    defaults = find_levels(np.array(velocities, dtype=np.int64))[parts]
    levels = find_levels(columns[3])[chords.note_indexes]
    changes = np.zeros(len(levels), dtype=np.int64)
    if (levels == defaults).all():
        return changes
    keys = parts * (int(voices.max()) + 1) + np.repeat(voices, sizes)
    small_keys = keys.astype(np.min_scalar_type(int(keys.max())))  # up to 16 bits: a radix sort
    order = np.argsort(small_keys, kind="stable")  # voice by voice
    keys, sorted_levels = keys[order], levels[order]
    previous = np.roll(sorted_levels, 1)
    previous[is_new_value(keys)] = defaults[order][is_new_value(keys)]
    changes[order] = np.where(sorted_levels != previous, _FIRST_LEVEL_ID + sorted_levels, 0)
    return changes


def has_level_changes(ids: Sequence[int]) -> bool:
    """Return whether a tune, from its header on, has an event of level after its header."""
    levels = MEASURES.ranges["level"]
    return any(id_ in levels for id_ in ids[measure_header(ids) :])


def restate_levels(ids: Sequence[int], first: int, stop: int) -> tuple[int, ...]:
    """Return the ids of whole bars, with the level of each voice stated at its first note.

    Where no level changes in the tune so far, the ids are returned as they are.

    Args:
        ids: of a tune, with or without the begin event before its header.
        first: index of the first id after the opening of a bar.
        stop: index after the last id of a bar.
    """
    start = 1 if ids[0] == _BEGIN_ID else 0
    tune = ids[start:stop]
    if not has_level_changes(tune):
        return tuple(ids[first:stop])
    return state_levels(tune, first - start)


def state_levels(tune: Sequence[int], first: int) -> tuple[int, ...]:
    """Return the ids from an index on, with the level of each voice stated at its first note.

    Args:
        tune: ids from the header on, to the end of a bar.
        first: index of the first id after the opening of a bar.
    """
    tracker = _LevelTracker([part.level for part in read_lineup(tune)])
    header_length = measure_header(tune)
    for id_ in tune[header_length:first]:
        tracker.take(id_)
    return tracker.state_levels(tune[first:])


class _LevelTracker:
    """Follows ids after a header: the voice, and the level of each voice so far."""

    def __init__(self, default_levels: Sequence[int]) -> None:
        self.default_levels = default_levels
        self.levels: dict[tuple[int, int], int] = {}  # by part and voice
        self.voice = (0, 0)

    def take(self, id_: int) -> None:
        event = MEASURES.events[id_]
        value = int(event.value) if isinstance(event.value, int) else 0
        if event.kind in ("bar", "partial"):
            self.voice = (0, 0)
        elif event.kind == "part":
            self.voice = (value, 0)
        elif event.kind == "voice":
            self.voice = (self.voice[0], value)
        elif event.kind == "level":
            self.levels[self.voice] = value

    def state_levels(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return ids with the level of each voice before its first note, where it is not there."""
        stated: set[tuple[int, int]] = set()
        result: list[int] = []
        for id_, following in pairwise((*ids, -1)):
            self.take(id_)
            kind = MEASURES.events[id_].kind
            if kind == "level":
                stated.add(self.voice)
            is_note = kind == "duration" and MEASURES.event(following).kind in ("pitch", "drum")
            if is_note and self.voice not in stated:
                stated.add(self.voice)
                result.append(_FIRST_LEVEL_ID + self._get_level())
            result.append(id_)
        return tuple(result)

    def _get_level(self) -> int:
        return self.levels.get(self.voice, self.default_levels[self.voice[0]])


_BEGIN_ID: Final = MEASURES.id("begin")
