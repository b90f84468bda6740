"""The form that is asked for where a user names none: AABB, as most dance tunes have it.

The wishes that come out of here are complete, and a recipe records them as they are. So a recipe
without a form, which an earlier version wrote, still means a form that the model draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from musicgen.checkpoint import Manifest
from musicgen.sampling.options import MIN_BARS, SamplingOptions
from musicgen.tokens.registry import find_codec
from musicgen.tokens.song_form import FREE, THROUGH
from musicgen.tokens.vocabulary import MEASURES

DEFAULT_FORM: Final = "AABB"  # 32 bars, as every form has 8 bars a letter
_FORM_OPTIONS: Final = ("form", "bars", "min_bars")  # any of them leaves the default form out


def complete_options(
    requested: Mapping[str, Any], manifest: Manifest, *, has_primer: bool = False
) -> SamplingOptions:
    """Make wishes from what a user named, with the default form where none is named.

    A model that never met a repeated part, and a primer, which may be longer than the form, get a
    free form of at least MIN_BARS bars; so does a form without repeats whose bars are not named.

    Args:
        requested: wishes by their names, as values or as a person writes them; None names nothing.
        manifest: of the model that is asked.
        has_primer: whether the tune starts from given notes.

    Raises:
        InvalidValue: a wish is unknown, or has no such value.
    """
    named = {
        name: value
        for name, value in SamplingOptions.parse_changes(**requested).items()
        if value is not None
    }
    wishes = SamplingOptions(**named)
    if not find_codec(manifest.codec).has_bars:
        return wishes
    if named.keys().isdisjoint(_FORM_OPTIONS):
        form = FREE if has_primer else choose_default_form(manifest.seen)
        return replace(wishes, form=form, min_bars=MIN_BARS if form == FREE else None)
    if wishes.form == THROUGH and wishes.bars is None and wishes.min_bars is None:
        return replace(wishes, min_bars=MIN_BARS)
    return wishes


def choose_default_form(event_counts: Sequence[int]) -> str:
    """Return the default form of a model of bars: free unless it met a part that is repeated.

    Args:
        event_counts: how often each event occurs in the training part, by id.
    """
    signs = MEASURES.id("repeat_start"), MEASURES.id("repeat_end", 2)
    has_repeats = all(id_ < len(event_counts) and event_counts[id_] > 0 for id_ in signs)
    return DEFAULT_FORM if has_repeats else FREE
