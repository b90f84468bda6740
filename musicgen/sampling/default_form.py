"""The default form where the user gives none: AABB, the most common form of dance tunes.

A recipe records the completed options. A recipe without a form, from an earlier version, therefore
still means that the model chooses the form.
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
    """Make options from those that a user gave, with the default form where none is given.

    A model without repeats in its training data, or a primer, which may be longer than the form,
    gets a free form of at least MIN_BARS bars; so does the form `through` without a number of bars.

    Args:
        requested: options by name, as values or text; None is an option that is not given.
        manifest: of the model.
        has_primer: whether the tune starts from given notes.

    Raises:
        InvalidValue: an option is unknown or not valid.
    """
    named = {
        name: value
        for name, value in SamplingOptions.parse_changes(**requested).items()
        if value is not None
    }
    options = SamplingOptions(**named)
    if not find_codec(manifest.codec).has_bars:
        return options
    if named.keys().isdisjoint(_FORM_OPTIONS):
        form = FREE if has_primer else choose_default_form(manifest.seen)
        return replace(options, form=form, min_bars=MIN_BARS if form == FREE else None)
    if options.form == THROUGH and options.bars is None and options.min_bars is None:
        return replace(options, min_bars=MIN_BARS)
    return options


def choose_default_form(event_counts: Sequence[int]) -> str:
    """Return the default form of a model with bars: free without repeats in its training data.

    Args:
        event_counts: how often each event occurs in the training part, by id.
    """
    signs = MEASURES.id("repeat_start"), MEASURES.id("repeat_end", 2)
    has_repeats = all(id_ < len(event_counts) and event_counts[id_] > 0 for id_ in signs)
    return DEFAULT_FORM if has_repeats else FREE
