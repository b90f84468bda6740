"""The part of chord symbols: it has no notes, and stands where a model writes the chord symbols.

Chord symbols are marks of a score. Where one of its parts has the role "symbols", a model writes
them in the place of this part: before the melody, so that they can be given, or after it, so that
they can be drawn. A person sees the marks alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from musicgen.music.score import SYMBOLS_ROLE, Part, Score

SYMBOLS_PART: Final = Part("chord symbols", role=SYMBOLS_ROLE)
MELODY_ROLE: Final = "melody"
LEAD_SHEET_ROLES: Final = (MELODY_ROLE, SYMBOLS_ROLE)


def is_symbols(part: Part) -> bool:
    """Return whether a part is that of the chord symbols."""
    return part.role == SYMBOLS_ROLE and not part.is_drums


def find_symbols_part(parts: Sequence[Part]) -> int | None:
    """Return the number of the first part of chord symbols, if there is one."""
    return next((number for number, part in enumerate(parts) if is_symbols(part)), None)


def has_symbols_part(score: Score) -> bool:
    """Return whether a score has a part of chord symbols."""
    return find_symbols_part(score.parts) is not None


def add_symbols_part(score: Score) -> Score:
    """Return a lead sheet with a part of its chord symbols after the melody, if it has some.

    The only part of the score becomes the melody.
    """
    parts = score.parts
    if len(parts) == 1 and not parts[0].is_drums:
        parts = (replace(parts[0], role=parts[0].role or MELODY_ROLE),)
    if any(score.of("chord")) and not has_symbols_part(score):
        parts = (*parts, SYMBOLS_PART)
    return replace(score, parts=parts)


def without_symbols_part(score: Score) -> Score:
    """Return a score without the part of chord symbols; the symbols stay as marks.

    A score that has no other part stays as it is.
    """
    numbers = [n for n, part in enumerate(score.parts) if not is_symbols(part)]
    if not numbers or len(numbers) == len(score.parts):
        return score
    return score.select_parts(numbers)
