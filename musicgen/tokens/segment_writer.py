"""Segments as ids, those of a whole tune at once.

The ids of a segment are five pieces, most of which are empty or a single id: changes of key, meter
or chord symbol; the level of its first note; a tuplet and a duration; its notes, or a rest or hold;
further durations that are tied to the first. A piece is a range of one pool of ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Final, TypeAlias

import numpy as np

from musicgen.music.arrays import IntArray, ragged_ranges
from musicgen.music.durations import (
    PLAIN_DURATIONS,
    SHORTEST_WRITABLE,
    WrittenDuration,
    notate_segments,
)
from musicgen.music.voices import REST, BarVoices, Chords, Segments
from musicgen.tokens.vocabulary import MEASURES

Ids: TypeAlias = tuple[int, ...]

_REST_ID: Final = MEASURES.id("rest")
_HOLD_ID: Final = MEASURES.id("hold")
_LONGEST: Final = PLAIN_DURATIONS[-1]
# By length in steps: the id of the plain duration; 0 if it needs ties or tuplets, or is longer
_PLAIN_DURATION_IDS: Final = np.array(
    [
        MEASURES.id("duration", steps)
        if steps in PLAIN_DURATIONS and steps % SHORTEST_WRITABLE == 0
        else 0
        for steps in range(_LONGEST + 2)
    ]
)
_PIECES: Final = 5
_CHANGES, _LEVEL, _DURATION, _HEAD, _TIES = range(_PIECES)


@dataclass(eq=False)
class SegmentWriter:
    """The pieces of the segments of a tune."""

    segments: Segments
    pool: list[IntArray]  # in parts; (id,) each
    pool_size: int
    starts: IntArray  # (piece, segment) index of its first id in the pool
    sizes: IntArray  # (piece, segment) number of its ids

    @classmethod
    def of(
        cls, segments: Segments, chords: Chords, first_ids: IntArray, levels: IntArray
    ) -> SegmentWriter:
        """Write each segment as a single duration, and 0 where one is not enough.

        Args:
            segments: of the tune.
            chords: of the tune.
            first_ids: (part,) int64 id of MIDI note number 0.
            levels: (note,) int64, from `find_level_changes`.
        """
        shape = _PIECES, len(segments.starts)
        writer = cls(segments, [], 0, np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        lengths = np.minimum(segments.lengths, _LONGEST + 1)
        writer.starts[_DURATION] = writer.add_to_pool(_PLAIN_DURATION_IDS) + lengths
        writer.sizes[_DURATION] = 1
        heads, firsts = _list_heads(chords, first_ids, levels)
        # The entries of a hold and a rest follow those of the chords; HOLD is -1 and REST is -2.
        writer.starts[_HEAD] = writer.add_to_pool(heads) + firsts[:-1][segments.sounds]
        writer.sizes[_HEAD] = np.diff(firsts)[segments.sounds]
        if levels.any():
            chord_levels = np.append(levels[chords.pitch_starts[:-1]], [0, 0])
            writer.starts[_LEVEL] = writer.add_to_pool(chord_levels) + segments.sounds
            writer.sizes[_LEVEL] = chord_levels[segments.sounds] > 0
        return writer

    def add_to_pool(self, ids: IntArray) -> int:
        """Append (n,) int64 ids to the pool; return the index of the first."""
        self.pool.append(ids)
        self.pool_size += len(ids)
        return self.pool_size - len(ids)

    def insert_before(self, segment: int, ids: list[int]) -> None:
        """Insert ids, of changes, before all others of a segment."""
        self.starts[_CHANGES, segment] = self.add_to_pool(np.array(ids, dtype=np.int64))
        self.sizes[_CHANGES, segment] = len(ids)

    def notate_lines(self, lines: BarVoices) -> None:
        """Write the lines that need ties or tuplets."""
        duration_ids = _PLAIN_DURATION_IDS[np.minimum(self.segments.lengths, _LONGEST + 1)]
        irregular_counts = np.append(0, np.cumsum(duration_ids == 0))
        is_irregular = irregular_counts[lines.stops] > irregular_counts[lines.firsts]
        if not is_irregular.any():
            return
        firsts, stops = lines.firsts[is_irregular], lines.stops[is_irregular]
        offsets, bar_steps = self.segments.offsets.tolist(), self.segments.bar_steps[firsts]
        notations = [
            _notate((*offsets[first:stop], steps))
            for first, stop, steps in zip(
                firsts.tolist(), stops.tolist(), bar_steps.tolist(), strict=True
            )
        ]
        self._set_durations(ragged_ranges(firsts, stops - firsts), notations)

    def _set_durations(self, rows: IntArray, notations: list[_Notation]) -> None:
        """Set the durations and ties of segments, by index, to those of whole lines."""
        bases = [self.add_to_pool(notation.ids) for notation in notations]
        starts, durations, ties = np.concatenate([n.spans for n in notations], axis=1)
        starts = starts + np.repeat(bases, [n.spans.shape[1] for n in notations])
        self.starts[_DURATION, rows] = starts
        self.sizes[_DURATION, rows] = durations
        is_rest = self.segments.sounds[rows] == REST
        self.starts[_TIES, rows] = starts + durations + np.where(is_rest, ties, 0)
        self.sizes[_TIES, rows] = ties

    def join(self) -> tuple[list[int], list[int]]:
        """Return the ids of all segments; the index of each one's first id, and their number."""
        is_used = self.sizes.any(axis=1)
        starts, sizes = self.starts[is_used].T.ravel(), self.sizes[is_used].T.ravel()
        ids = np.concatenate(self.pool)[ragged_ranges(starts, sizes)]
        return ids.tolist(), [0, *np.cumsum(self.sizes.sum(axis=0)).tolist()]


def _list_heads(chords: Chords, first_ids: IntArray, levels: IntArray) -> tuple[IntArray, IntArray]:
    """Return the ids of the notes of each chord, then of a rest and a hold.

    A level stands before its note, except before the first of a chord.

    Returns:
        (id,) int64 ids; (chord + 3,) int64 index of the first id of each, and the number of ids.
    """
    pitch_ids = chords.pitches + np.repeat(first_ids[chords.parts], np.diff(chords.pitch_starts))
    is_inner = levels > 0
    is_inner[chords.pitch_starts[:-1]] = False
    inner_counts = np.append(0, np.cumsum(is_inner))
    firsts = chords.pitch_starts + inner_counts[chords.pitch_starts]
    rows = np.arange(len(levels)) + inner_counts[1:]
    ids = np.empty(len(levels) + inner_counts[-1], dtype=np.int64)
    ids[rows] = pitch_ids
    ids[rows[is_inner] - 1] = levels[is_inner]
    return np.append(ids, [_REST_ID, _HOLD_ID]), np.append(firsts, len(ids) + np.array([1, 2]))


@dataclass(frozen=True, eq=False)
class _Notation:
    """The durations of one line.

    For each segment, the ids are a tuplet and a duration, the ties of a note, the ties of a rest.
    """

    ids: IntArray  # (id,)
    spans: IntArray  # (3, segment) index of its first id, number of ids before the ties, of a tie


@lru_cache(maxsize=16384)
def _notate(offsets: Ids) -> _Notation:
    """Notate the segments between offsets, in steps from the start of the bar."""
    ids: list[int] = []
    spans: list[Ids] = []
    for _, values in groupby(notate_segments(offsets), key=attrgetter("segment")):
        first, *tied = map(_list_duration_ids, values)
        spans.append((len(ids), len(first), sum(len(value) + 1 for value in tied)))
        ids += first
        for head in (_HOLD_ID, _REST_ID):
            ids += [id_ for value in tied for id_ in (*value, head)]
    return _Notation(np.array(ids), np.array(spans).T)


def _list_duration_ids(value: WrittenDuration) -> list[int]:
    ids = [MEASURES.id("duration", value.nominal)]
    if tuplet := value.opened_tuplet:
        ids.insert(0, MEASURES.id("tuplet", f"{tuplet.p} {tuplet.q} {tuplet.unit}"))
    return ids
