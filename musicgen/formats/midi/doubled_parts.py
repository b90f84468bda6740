"""Parts of a file that only repeat another part: the same notes, by the same instrument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from musicgen.music.arrays import IntArray, unique_sorted
from musicgen.music.notes import NoteColumns
from musicgen.music.score import Part

_MIN_NOTES: Final = 16  # fewest notes that are not the same by chance
_MIN_SHARE: Final = 0.5  # of the notes of a part that a part of only some of them has


def find_doubled_parts(
    columns: Mapping[int, NoteColumns], parts: Sequence[Part]
) -> tuple[dict[int, int], dict[int, int]]:
    """Find the parts whose notes another part plays too, at the same steps.

    Args:
        columns: by part, (5, note) int64 columns of `Note`.
        parts: the parts of the score.

    Returns:
        Two dictionaries from a part to the part that plays its notes: by the same instrument, so
        that the part adds nothing, and by another one.
    """
    keys = {part: unique_sorted(notes[0] * 128 + notes[1]) for part, notes in columns.items()}
    same: dict[int, int] = {}
    other: dict[int, int] = {}
    by_size = sorted(keys, key=lambda part: (-len(keys[part]), part))
    for position, part in enumerate(by_size):
        for larger in by_size[:position]:
            if larger in same or parts[larger].is_drums != parts[part].is_drums:
                continue
            if _contains(keys[larger], keys[part]):
                is_same = parts[larger].program == parts[part].program
                (same if is_same else other)[part] = larger
                break
    return same, other


def _contains(notes: IntArray, others: IntArray) -> bool:
    """Return whether all of others are in notes, and make up much of them."""
    if len(others) < max(_MIN_NOTES, _MIN_SHARE * len(notes)):
        return False
    return bool(np.isin(others, notes, assume_unique=True).all())
