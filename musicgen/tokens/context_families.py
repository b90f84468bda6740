"""The families of context fields by name: which source computes what a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from musicgen.config import FRAME_FIELDS, MULTI_HOT_FIELDS, PARTS_FIELDS, TIME_FIELDS
from musicgen.tokens.context_source import ContextSource, WholeContexts
from musicgen.tokens.frame_context import FRAME_FIELD_SIZES, FrameContexts
from musicgen.tokens.score_context import FIELD_SIZES as SCORE_FIELD_SIZES
from musicgen.tokens.score_context import FIELDS, ContextTable
from musicgen.tokens.time_context import FIELD_SIZES as TIME_FIELD_SIZES
from musicgen.tokens.time_context import TimeContextSource

_FAMILIES: Final = (FIELDS, TIME_FIELDS, FRAME_FIELDS)
_SIZES: Final = {**SCORE_FIELD_SIZES, **TIME_FIELD_SIZES, **FRAME_FIELD_SIZES}


def make_whole_contexts(fields_read: Sequence[str]) -> WholeContexts | None:
    """Return what computes some fields of whole tunes, all of one family; None for none."""
    if fields_read and fields_read[0] in FRAME_FIELDS:
        return FrameContexts()
    return make_context_source(fields_read)


def make_context_source(fields_read: Sequence[str]) -> ContextSource | None:
    """Return what computes some fields id by id, all of one family; None for none.

    Fields of frames are computed for whole pieces only.
    """
    if not fields_read:
        return None
    if fields_read[0] in TIME_FIELDS:
        return TimeContextSource()
    return ContextTable(has_vertical=not set(PARTS_FIELDS).isdisjoint(fields_read))


def find_columns(fields_read: Sequence[str]) -> dict[str, int]:
    """Return the column of each field in the contexts of its source, by name."""
    family = next((names for names in _FAMILIES if set(fields_read) <= set(names)), ())
    return {name: family.index(name) for name in fields_read}


def count_field_values(name: str, vocabulary_size: int) -> int:
    """Return the number of values that a field can have, for a vocabulary of some events."""
    if name in MULTI_HOT_FIELDS:
        return int(2 ** MULTI_HOT_FIELDS[name])
    return _SIZES.get(name, vocabulary_size + 1)
