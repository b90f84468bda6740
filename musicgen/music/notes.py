"""Notes on the step grid: one, and all of a tune as columns.

What reads or encodes a whole tune asks for the columns; a `Note` is made when it is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, TypeAlias, overload

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.arrays import ragged_arange

DEFAULT_VELOCITY: Final = 80
LATEST_STEP: Final = 100_000_000  # where a tune ends at the latest: a day, in milliseconds
INTEGER_TYPES: Final = (int, np.integer)


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """One sounding note on the step grid; ties are joined."""

    onset: int  # steps from the start of the tune
    pitch: int  # MIDI note number; 60 is middle C
    duration: int  # steps, at least 1
    velocity: int = DEFAULT_VELOCITY  # 1..127
    part: int = 0  # index into Score.parts

    def __post_init__(self) -> None:
        if not all(isinstance(value, INTEGER_TYPES) for value in _VALUES(self)):
            raise InvalidValue(f"{self}: its values are whole numbers")
        if self.onset < 0 or self.duration < 1:
            raise InvalidValue(f"{self}: a note starts at step 0 or later and lasts a step or more")
        if self.end > LATEST_STEP:
            raise InvalidValue(f"{self}: a note ends at step {LATEST_STEP:,} at the latest")
        if not 0 <= self.pitch <= 127:
            raise InvalidValue(f"{self}: pitch is outside 0..127")
        if not 1 <= self.velocity <= 127:
            raise InvalidValue(f"{self}: velocity is outside 1..127")

    @property
    def end(self) -> int:
        """The first step at which the note no longer sounds."""
        return self.onset + self.duration


_FIELDS: Final = ("onset", "pitch", "duration", "velocity", "part")
_VALUES: Final = attrgetter(*_FIELDS)
_SETTERS: Final = tuple(getattr(Note, name).__set__ for name in _FIELDS)

_INFINITE_STEP: Final = 2**62

NoteColumns: TypeAlias = Any  # (field of Note, note), whole numbers


class Notes(Sequence[Note]):
    """Notes in order, which never change; each is made as a Note when one is asked for."""

    def __init__(self, columns: NoteColumns) -> None:
        """Check and sort columns. Raises InvalidValue."""
        onsets, pitches, durations, velocities, parts = columns
        if onsets.size and not (
            onsets.min() >= 0
            and durations.min() >= 1
            and durations.max() <= LATEST_STEP
            and (onsets + durations).max() <= LATEST_STEP
            and 0 <= pitches.min() <= pitches.max() <= 127
            and 1 <= velocities.min() <= velocities.max() <= 127
        ):
            deque(map(Note, *columns.tolist()), maxlen=0)  # which says what is wrong with which
        self.columns = columns[:, np.lexsort((parts, velocities, durations, pitches, onsets))]
        self.columns.setflags(write=False)

    @classmethod
    def of(cls, notes: Iterable[Note]) -> Notes:
        """Sort notes."""
        rows = np.array(list(map(_VALUES, notes)), dtype=np.int64)
        return cls(rows.reshape(-1, len(_FIELDS)).T)

    @cached_property
    def _note_objects(self) -> tuple[Note, ...]:
        """The notes, made past their check and past being frozen: in half the time."""
        made = tuple(map(object.__new__, repeat(Note, len(self))))
        for setter, column in zip(_SETTERS, self.columns.tolist(), strict=True):
            deque(map(setter, made, column), maxlen=0)
        return made

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    @overload
    def __getitem__(self, index: int) -> Note: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Note, ...]: ...
    def __getitem__(self, index: int | slice) -> Note | tuple[Note, ...]:
        return self._note_objects[index]

    def __iter__(self) -> Iterator[Note]:
        return iter(self._note_objects)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Notes):
            return bool(np.array_equal(self.columns, other.columns))
        return self._note_objects == other

    def __hash__(self) -> int:
        return hash(self._note_objects)

    def __repr__(self) -> str:
        return repr(self._note_objects)


def split_notes_at(columns: NoteColumns, steps: Sequence[int]) -> NoteColumns:
    """Split notes at steps, which ascend; the pieces of a note stand side by side."""
    onsets, durations = columns[0], columns[2]
    first = np.searchsorted(steps, onsets, side="right")
    cuts = np.searchsorted(steps, onsets + durations, side="left") - first
    if not cuts.any():
        return columns
    found = np.repeat(columns, cuts + 1, axis=1)
    place = ragged_arange(cuts + 1)
    edges = np.append(steps, 0)  # the last is never used
    after = np.repeat(first, cuts + 1) + place
    ends = np.where(place == np.repeat(cuts, cuts + 1), found[0] + found[2], edges[after])
    found[0] = np.where(place > 0, edges[after - 1], found[0])
    found[2] = ends - found[0]
    return found


def sort_by_onset(columns: NoteColumns) -> NoteColumns:
    """Return notes in order of their onsets."""
    return columns[:, np.argsort(columns[0], kind="stable")]


def slice_by_onset(columns: NoteColumns, start: int, stop: int, shift: int) -> NoteColumns:
    """Return what sounds of the notes, in order of onset, that begin in start..stop, moved."""
    found = columns[:, slice(*np.searchsorted(columns[0], [start, stop]))].copy()
    found[2] = np.minimum(found[2], stop - found[0])
    found[0] += shift
    return found


def without_overlaps(columns: NoteColumns) -> NoteColumns:
    """End a note where its part plays the pitch again; of doubled notes keep the longest."""
    onsets, pitches, durations, _, parts = columns
    found = columns[:, np.lexsort((-durations, onsets, parts << 7 | pitches))]
    gaps = _gaps(found)
    if not (gaps < found[2]).any():
        return columns
    found = found[:, np.append(True, gaps[:-1] > 0)]
    found[2] = np.minimum(found[2], _gaps(found))
    return found


def _gaps(columns: NoteColumns) -> Any:
    """Return how long after each note its part plays its pitch again: it is the next, or none."""
    gaps = np.diff(columns[0], append=0)
    others = np.diff(columns[4] << 7 | columns[1], append=-1) != 0
    return np.where(others, _INFINITE_STEP, gaps)


def with_one_velocity(columns: NoteColumns) -> NoteColumns:
    """Give each part its most frequent velocity; of equally frequent ones the lowest."""
    both, counts = np.unique(columns[4] << 7 | columns[3], return_counts=True)
    best = both[np.lexsort((both, -counts, both >> 7))]
    parts, first = np.unique(best >> 7, return_index=True)
    if len(parts) == len(both):
        return columns
    found = columns.copy()
    found[3] = best[first][np.searchsorted(parts, columns[4])] & 127
    return found
