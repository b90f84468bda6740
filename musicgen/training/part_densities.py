"""How densely the parts of each role play in the training tunes, for requests such as `drums=low`.

The density of a bar is the number of onsets of a part in it: a chord counts once, and a bar without
onsets does not count. The thirds of a role are two numbers of onsets: the sparsest third of its
bars has at most the first, the densest third has more than the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musicgen.corpus.store import EncodedTune, select_as_written
from musicgen.music.arrays import IntArray, TokenIds
from musicgen.tokens.lineup import measure_header, read_lineup
from musicgen.tokens.vocabulary import MEASURES


def find_density_thirds(tunes: Sequence[EncodedTune]) -> dict[str, list[int]]:
    """Find the thirds of each role: {"bass": [4, 7]}; {} for tunes without roles."""
    counts: dict[str, list[IntArray]] = {}
    for tune in select_as_written(tunes):
        for role, onsets in count_onsets(tune.ids).items():
            counts.setdefault(role, []).append(onsets)
    return {
        role: np.quantile(np.concatenate(bars), (1 / 3, 2 / 3), method="lower").astype(int).tolist()
        for role, bars in sorted(counts.items())
    }


def count_onsets(ids: TokenIds) -> dict[str, IntArray]:
    """Count the onsets of the parts of each role, bar by bar.

    Args:
        ids: (token,) int of one tune.

    Returns:
        By role, (bar,) int64 onsets of the full bars in which a part of the role has any.
    """
    header = ids[: measure_header(ids.tolist())].tolist()
    lineup = read_lineup(header)
    body = ids[len(header) :]
    bars = np.cumsum(_is_any(body, "bar", "partial"))
    is_full = np.append(False, _is_any(body[_is_any(body, "bar", "partial")], "bar"))[bars]
    is_onset = _is_any(body, "pitch", "drum") & _is_any(np.roll(body, 1), "duration") & is_full
    keys, onsets = np.unique(
        np.stack([_find_parts(body), bars])[:, is_onset], axis=1, return_counts=True
    )
    by_role: dict[str, list[IntArray]] = {}
    for number, part in enumerate(lineup):
        by_role.setdefault(part.role, []).append(onsets[keys[0] == number])
    return {
        role: counts
        for role, arrays in by_role.items()
        if role and len(counts := np.concatenate(arrays))
    }


def _find_parts(body: TokenIds) -> IntArray:
    """Return the number of the part of each id, (token,) int64; 0 after each bar line."""
    opens_bar, opens_part = _is_any(body, "bar", "partial"), _is_any(body, "part")
    last = np.maximum.accumulate(np.where(opens_bar | opens_part, np.arange(len(body)), 0))
    first = MEASURES.ranges["part"].start
    return np.where(opens_part[last], body[last].astype(np.int64) - first, 0)


def _is_any(ids: TokenIds, *kinds: str) -> np.ndarray:
    """Return whether each id is of one of some kinds, (token,) bool."""
    ranges = [MEASURES.ranges[kind] for kind in kinds]
    return np.any([(ids >= r.start) & (ids < r.stop) for r in ranges], axis=0)  # type: ignore[no-any-return]
