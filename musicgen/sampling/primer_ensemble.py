"""A primer of several parts: all of them, where the model can write such a line-up.

The bars are kept as they are, in the key and the meter of the file; `sampling/primer.py` fits one
line where this is not possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.roles import assign_roles, has_described_parts
from musicgen.music.score import Score
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_requests import copy_lineup
from musicgen.sampling.primer import (
    Primer,
    PrimerBars,
    check_primer_size,
    select_first_pass,
    strip_trailing_bars,
)
from musicgen.sampling.primer_choice import PrimerChoice, take_bars
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.bar_split import BarSplit
from musicgen.tokens.constraints import Rules
from musicgen.tokens.measures import MeasuresCodec, normalise_rhythm
from musicgen.tokens.vocabulary import MEASURES

_OPENERS: Final = (MEASURES.id("bar"),)


def fit_ensemble(
    score: Score, sampler: Sampler, options: SamplingOptions, name: str, choice: PrimerChoice
) -> tuple[SamplingOptions, Primer] | None:
    """Keep all parts of a score as a primer.

    Args:
        score: of the user's file.
        sampler: of the model.
        options: of the tune.
        name: of the primer, for messages.
        choice: the part and the bars to take.

    Returns:
        The options with the line-up of the file, and the primer; None if one part is asked for, or
        the model cannot write these parts, or the bars as they are.

    Raises:
        InvalidValue: the score is too long, or has no such bars.
    """
    score = assign_roles(score)
    if choice.part or len(score.parts) < 2 or not has_described_parts(score.parts):
        return None
    if options.requested_parts is not None or options.range or options.max_copy is not None:
        return None
    lined_up = replace(options, parts_from=copy_lineup(score))
    try:
        rules = sampler.build_rules(replace(lined_up, key=None, rhythm=None))
    except InvalidValue:
        return None
    changes: list[str] = []
    score = select_first_pass(score, changes)
    if choice.bars is not None:
        score = take_bars(score, score, choice.bars, name)
    check_primer_size(score, name)
    bars = _encode_bars(score, rules)
    if not bars or not _may_write(score, options, rules):
        return None
    key = options.key or score.key
    if key != score.key:
        changes.append(f"it is moved from {score.key} to {key}")
    changes.append(f"all {len(score.parts)} parts are kept")
    primer = Primer(
        score.meter, key, normalise_rhythm(score.rhythm), score.qpm, bars, score.end, "",
        choice.bars_text, tuple(changes),
    )  # fmt: skip
    return lined_up, primer


def _may_write(score: Score, options: SamplingOptions, rules: Rules) -> bool:
    """Return whether the model knows the meter and the mode, and the options do not differ."""
    meters = {str(MEASURES.events[id_].value) for id_ in rules.meter_ids}
    modes = {str(MEASURES.events[id_].value) for id_ in rules.ids_of_kind("mode")}
    mode = (options.key or score.key).mode
    is_same_meter = options.meter in (None, score.meter)
    return is_same_meter and str(score.meter) in meters and mode in modes and mode == score.key.mode


def _encode_bars(score: Score, rules: Rules) -> PrimerBars:
    """Return the bars of a score; () if the model may not write them as they are."""
    try:
        ids = MeasuresCodec().encode(score.canonical()).ids
    except Refusal:
        return ()
    bars = BarSplit.of(ids).bars
    if any(_has_change(bar.opening) for bar in bars[1:]):
        return ()
    encoded = strip_trailing_bars(tuple((bar.opening[-1], bar.content) for bar in bars))
    is_allowed = all(id_ in rules.allowed_ids for _, content in encoded for id_ in content)
    return encoded if is_allowed else ()


def _has_change(opening: Sequence[int]) -> bool:
    """Return whether more than a bar line stands between two bars, such as another meter."""
    return tuple(opening) != _OPENERS
