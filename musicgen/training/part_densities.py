"""How densely the parts of each role play in the training tunes, for requests such as `drums=low`.

The density of a bar is the number of places at which notes of a part start in it: a chord counts
once, and a bar in which none start does not count. The thirds of a role are two such numbers: the
sparsest third of its bars has at most the first, the densest third has more than the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np

from musicgen.corpus.store import EncodedTune, select_as_written
from musicgen.music.arrays import IntArray
from musicgen.music.bars import find_bars
from musicgen.music.score import Score
from musicgen.tokens.codec import Setting
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.measures import MeasuresCodec

MOST_TUNES: Final = 1000  # of several parts, in which the onsets are counted


def find_density_thirds(tunes: Sequence[EncodedTune]) -> dict[str, list[int]]:
    """Find the thirds of each role: {"bass": [4, 7]}; {} for tunes without roles."""
    counts: dict[str, list[IntArray]] = {}
    with_roles = (tune for tune in select_as_written(tunes) if read_lineup(tune.ids[:99].tolist()))
    for tune in islice(with_roles, MOST_TUNES):
        setting = Setting.from_json(tune.setting)
        score = MeasuresCodec().decode(tune.ids.tolist(), setting).score
        for role, onsets in count_onsets(score).items():
            counts.setdefault(role, []).append(onsets)
    return {
        role: np.quantile(np.concatenate(bars), (1 / 3, 2 / 3), method="lower").astype(int).tolist()
        for role, bars in sorted(counts.items())
    }


def count_onsets(score: Score) -> dict[str, IntArray]:
    """Count the places at which notes start, bar by bar.

    Returns:
        By role, (bar,) int64 counts of the full bars in which notes of a part start.
    """
    bars = find_bars(score)
    starts = np.array([bar.start for bar in bars])
    is_full = np.array([bar.kind == "full" for bar in bars])
    by_role: dict[str, list[IntArray]] = {}
    for number, part in enumerate(score.parts):
        onsets = np.unique(score.columns[0][score.columns[4] == number])
        numbers = np.searchsorted(starts, onsets, side="right") - 1
        counts = np.bincount(numbers[is_full[numbers]])
        if part.role and counts.any():
            by_role.setdefault(part.role, []).append(counts[counts > 0])
    return {role: np.concatenate(arrays) for role, arrays in by_role.items()}
