"""Dynamics as events: where the notes of a voice leave the level of the notes before them.

A voice starts at the default level of its part and keeps its level over bar lines. Of the notes of
a chord, which are written from the highest to the lowest, each may have a level of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.dynamics import find_levels
from musicgen.music.notes import NoteColumns
from musicgen.music.voices import Chords
from musicgen.tokens.lineup import measure_header, read_lineup
from musicgen.tokens.vocabulary import MEASURES

_FIRST_LEVEL_ID: Final = MEASURES.id("level", 0)


@dataclass
class LevelWriter:
    """The level of each voice so far, while a tune is written bar by bar."""

    note_levels: IntArray  # (note,) in the order of Chords.pitches
    pitch_starts: IntArray  # (chord + 1,) index of the first note of each chord
    default_levels: IntArray  # (part,)
    has_changes: BoolArray  # (part,) whether some note is not at the default level
    current: dict[tuple[int, int], int] = field(default_factory=dict)  # by part and voice
    voice: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, columns: NoteColumns, chords: Chords, velocities: Sequence[int]) -> LevelWriter:
        """Compute the levels of the notes of a tune.

        Args:
            columns: (5, note) int64.
            chords: of the same notes.
            velocities: MIDI velocity of each part at its default level.
        """
        defaults = find_levels(np.array(velocities, dtype=np.int64))
        levels, parts = find_levels(columns[3]), columns[4]
        has_changes = np.zeros(len(velocities), dtype=np.bool_)
        has_changes[parts[levels != defaults[parts]]] = True
        return cls(levels[chords.note_indexes], chords.pitch_starts, defaults, has_changes)

    def open_voice(self, part: int, voice: int) -> None:
        """Continue with a voice of a part."""
        self.voice = part, voice
        self.current.setdefault(self.voice, int(self.default_levels[part]))

    def find_changes(self, chord: int) -> list[tuple[int, ...]]:
        """Return for each note of a chord the id of its level, or () where it stays the same."""
        start, stop = self.pitch_starts[chord : chord + 2].tolist()
        levels = [self.current[self.voice], *self.note_levels[start:stop].tolist()]
        self.current[self.voice] = levels[-1]
        return [
            (_FIRST_LEVEL_ID + level,) if level != before else ()
            for before, level in pairwise(levels)
        ]


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
    tracker = _LevelTracker([part.level for part in read_lineup(tune)])
    header_length = measure_header(tune)
    for id_ in tune[header_length : first - start]:
        tracker.take(id_)
    return tracker.state_levels(tune[first - start :])


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
