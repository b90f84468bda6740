"""Notes on the step grid: `Note`, and `Notes`, all notes of a tune as columns.

Readers and codecs work on the columns of a whole tune; `Note` objects are created on demand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import attrgetter
from typing import Final, TypeAlias, overload

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.arrays import IntArray, ragged_arange, sort_rows

DEFAULT_VELOCITY: Final = 80
LATEST_STEP: Final = 100_000_000  # latest end of a tune; as milliseconds, more than a day
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
            raise InvalidValue(f"{self}: values must be whole numbers")
        if self.onset < 0 or self.duration < 1:
            raise InvalidValue(
                f"{self}: a note starts at step 0 or later and lasts at least one step"
            )
        if self.end > LATEST_STEP:
            raise InvalidValue(f"{self}: a note ends at step {LATEST_STEP:,} at the latest")
        if not 0 <= self.pitch <= 127:
            raise InvalidValue(f"{self}: pitch is outside 0..127")
        if not 1 <= self.velocity <= 127:
            raise InvalidValue(f"{self}: velocity is outside 1..127")

    @property
    def end(self) -> int:
        """Step at which the note has ended."""
        return self.onset + self.duration


_FIELDS: Final = ("onset", "pitch", "duration", "velocity", "part")
_VALUES: Final = attrgetter(*_FIELDS)
_SETTERS: Final = tuple(getattr(Note, name).__set__ for name in _FIELDS)

_INFINITE_STEP: Final = 2**62

NoteColumns: TypeAlias = IntArray  # (field of Note, note)


class Notes(Sequence[Note]):
    """An immutable sequence of sorted notes, stored as columns; `Note` objects are made lazily."""

    def __init__(self, columns: NoteColumns) -> None:
        """Check and sort notes.

        Args:
            columns: (5, note) int64, one row per field of `Note`.

        Raises:
            InvalidValue: a value is outside the range that `Note` allows.
        """
        onsets, pitches, durations, velocities, parts = columns
        if onsets.size and not (
            onsets.min() >= 0
            and durations.min() >= 1
            and durations.max() <= LATEST_STEP
            and (onsets + durations).max() <= LATEST_STEP
            and 0 <= pitches.min() <= pitches.max() <= 127
            and 1 <= velocities.min() <= velocities.max() <= 127
        ):
            deque(map(Note, *columns.tolist()), maxlen=0)  # raises for the first bad note
        self.columns = columns[:, sort_rows(onsets, pitches, durations, velocities, parts)]
        self.columns.setflags(write=False)

    @classmethod
    def of(cls, notes: Iterable[Note]) -> Notes:
        """Store notes, sorted."""
        rows = np.array(list(map(_VALUES, notes)), dtype=np.int64)
        return cls(rows.reshape(-1, len(_FIELDS)).T)

    @cached_property
    def _note_objects(self) -> tuple[Note, ...]:
        """The notes as objects, made without `Note.__init__`, which takes half the time."""
        notes = tuple(map(object.__new__, repeat(Note, len(self))))
        for setter, column in zip(_SETTERS, self.columns.tolist(), strict=True):
            deque(map(setter, notes, column), maxlen=0)
        return notes

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
    """Split notes at steps; the pieces of a note follow each other.

    Args:
        columns: (5, note) int64.
        steps: ascending, from the start of the tune.

    Returns:
        (5, piece) int64.
    """
    onsets, durations = columns[0], columns[2]
    first_edges = np.searchsorted(steps, onsets, side="right")
    cuts = np.searchsorted(steps, onsets + durations, side="left") - first_edges
    if not cuts.any():
        return columns
    pieces = np.repeat(columns, cuts + 1, axis=1)
    piece_numbers = ragged_arange(cuts + 1)
    edges = np.append(steps, 0)  # the padding is indexed but never used
    next_edges = np.repeat(first_edges, cuts + 1) + piece_numbers
    ends = np.where(
        piece_numbers == np.repeat(cuts, cuts + 1), pieces[0] + pieces[2], edges[next_edges]
    )
    pieces[0] = np.where(piece_numbers > 0, edges[next_edges - 1], pieces[0])
    pieces[2] = ends - pieces[0]
    return pieces


def sort_by_onset(columns: NoteColumns) -> NoteColumns:
    """Sort (5, note) int64 columns by onset, stably."""
    return columns[:, np.argsort(columns[0], kind="stable")]


def slice_by_onset(columns: NoteColumns, start: int, stop: int, shift: int) -> NoteColumns:
    """Return the notes with onset in start..stop, cut at stop and moved by shift.

    Args:
        columns: (5, note) int64, in order of onset.
        start: first step.
        stop: step after the last.
        shift: steps to add to each onset.

    Returns:
        (5, note) int64.
    """
    sliced = columns[:, slice(*np.searchsorted(columns[0], [start, stop]))].copy()
    sliced[2] = np.minimum(sliced[2], stop - sliced[0])
    sliced[0] += shift
    return sliced


def without_overlaps(columns: NoteColumns) -> NoteColumns:
    """End each note where its part plays the pitch again; keep the longest of doubled notes.

    Args:
        columns: (5, note) int64.

    Returns:
        (5, note) int64.
    """
    onsets, pitches, durations, _, parts = columns
    shortness = durations.max(initial=0) - durations
    ordered = columns[:, sort_rows(parts, pitches, onsets, shortness)]
    gaps = _gaps(ordered)
    if not (gaps < ordered[2]).any():
        return columns
    ordered = ordered[:, np.append(True, gaps[:-1] > 0)]
    ordered[2] = np.minimum(ordered[2], _gaps(ordered))
    return ordered


def _gaps(columns: NoteColumns) -> IntArray:
    """Return the steps from each onset to the next of its part and pitch, which are sorted so."""
    gaps = np.diff(columns[0], append=0)
    is_last = np.diff(columns[4] << 7 | columns[1], append=-1) != 0
    return np.where(is_last, _INFINITE_STEP, gaps)
