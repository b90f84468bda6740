"""Grand staves: a piano part of two hands is written on two staves, joined by a brace.

The hands are split at middle C. Notes keep their order, so that their indices stay the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.general_midi import find_family
from musicgen.music.notes import Notes
from musicgen.music.score import Part, Score

MIDDLE_C: Final = 60
_LOWEST_IN_TREBLE, _HIGHEST_IN_BASS = 53, 67  # with two or three ledger lines
_LEAST_SHARE: Final = 0.05  # of the notes that one staff cannot hold
_FEWEST_NOTES: Final = 8


def split_hands(score: Score) -> tuple[Score, tuple[int, ...]]:
    """Give each hand of the piano parts that one staff cannot hold a part of its own.

    Returns:
        The score, and the numbers of the parts of right hands in it; the left hand follows each.
    """
    columns, parts = score.columns.copy(), list[Part]()
    right_hands: list[int] = []
    for number, part in enumerate(score.parts):
        is_own = score.columns[4] == number
        columns[4, is_own] = len(parts)
        if needs_two_staves(score, number):
            right_hands.append(len(parts))
            columns[4, is_own & (score.columns[1] < MIDDLE_C)] += 1
            parts.append(part)
        parts.append(part)
    if not right_hands:
        return score, ()
    return replace(score, notes=Notes(columns), parts=tuple(parts)), tuple(right_hands)


def needs_two_staves(score: Score, number: int) -> bool:
    """Return whether a part is of a piano, has chords, and is too wide for one clef."""
    part = score.parts[number]
    if part.is_drums or find_family(part.program) != "piano":
        return False
    onsets, pitches, durations, _, parts = score.columns
    is_own = parts == number
    own = pitches[is_own]
    if len(own) < _FEWEST_NOTES or not _has_overlaps(onsets[is_own], durations[is_own]):
        return False
    is_low, is_high = own < _LOWEST_IN_TREBLE, own > _HIGHEST_IN_BASS
    return bool(min(is_low.mean(), is_high.mean()) >= _LEAST_SHARE)


def _has_overlaps(onsets: IntArray, durations: IntArray) -> bool:
    is_late: BoolArray = onsets[1:] < np.maximum.accumulate(onsets + durations)[:-1]
    return bool(is_late.any())
