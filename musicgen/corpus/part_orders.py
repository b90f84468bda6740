"""The orders and line-ups in which a piece of several parts is stored.

A model writes the parts of a bar in their order, so one order cannot give any part from any other.

A piece is stored as it is written, with its melody last, with its bass first, and, if it has more
parts, for a small band: melody, bass and drums, with and without chords, from the first bar on in
which all of them play. So a model of large bands can write for small ones.

The voices of a choir are stored in orders such that any of them, or any two or three, come first
in one: these can be given, and the others drawn.

The melody and the bass are known by their roles; if no part has such a role, they are the highest
and the lowest part by median pitch. A piece whose parts have no roles, names or instruments, such
as the voices of an ABC tune, has one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from musicgen.music.bars import find_bars
from musicgen.music.roles import has_described_parts, is_choir
from musicgen.music.score import CHOIR_ROLES, Score

SMALL_BANDS: Final = (("melody", "bass", "drums"), ("melody", "bass", "chords", "drums"))
WHOLE_ORDERS: Final = 3  # as written, melody last, bass first
VOICE_ORDERS: Final = (  # of four voices; each of their subsets opens one of the orders
    CHOIR_ROLES,
    ("soprano", "bass", "alto", "tenor"),
    ("alto", "tenor", "bass", "soprano"),
    ("tenor", "soprano", "bass", "alto"),
    ("bass", "tenor", "soprano", "alto"),
    ("alto", "bass", "soprano", "tenor"),
)
MOST_ORDERS: Final = max(WHOLE_ORDERS + len(SMALL_BANDS), len(VOICE_ORDERS))


def iter_part_orders(score: Score) -> Iterator[Score]:
    """Yield a piece in each order of its parts, first as it is written, then for small bands."""
    as_written = tuple(range(len(score.parts)))
    if not has_described_parts(score.parts):
        yield score
        return
    if is_choir(score.parts):
        yield from map(score.select_parts, _find_voice_orders(score))
        return
    orders = [as_written, _move_melody_last(score), _move_bass_first(score)]
    for order in dict.fromkeys(orders):
        yield score if order == as_written else score.select_parts(order)
    for band in _iter_small_bands(score):
        yield _skip_introduction(score.select_parts(band))


def _find_voice_orders(score: Score) -> Sequence[tuple[int, ...]]:
    """Return the numbers of voices in each order; of other than four voices, each voice first."""
    roles = [part.role or part.name.strip().lower() for part in score.parts]
    if sorted(roles) == sorted(CHOIR_ROLES):
        return [tuple(map(roles.index, order)) for order in VOICE_ORDERS]
    numbers = range(len(roles))
    return [(first, *(n for n in numbers if n != first)) for first in numbers]


def _iter_small_bands(score: Score) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of the first part of each role of a small band, if there are all."""
    first_parts = {part.role: n for n, part in reversed(list(enumerate(score.parts)))}
    for roles in SMALL_BANDS:
        if len(roles) < len(score.parts) and set(roles) <= first_parts.keys():
            yield tuple(sorted(first_parts[role] for role in roles))


def _skip_introduction(score: Score) -> Score:
    """Return a score from the first bar on in which all its parts have notes."""
    onsets, parts = score.columns[0], score.columns[4]
    for bar in find_bars(score):
        playing = parts[(onsets >= bar.start) & (onsets < bar.end)]
        if len(np.unique(playing)) == len(score.parts):
            return score.join_passages([(bar.start, score.end)]) if bar.start else score
    return score


def _move_melody_last(score: Score) -> tuple[int, ...]:
    melody = _find_part(score, "melody", max)
    others = [number for number in range(len(score.parts)) if number != melody]
    return (*others, *([] if melody is None else [melody]))


def _move_bass_first(score: Score) -> tuple[int, ...]:
    bass = _find_part(score, "bass", min)
    others = [number for number in range(len(score.parts)) if number != bass]
    return (*([] if bass is None else [bass]), *others)


def _find_part(
    score: Score, role: str, choose: Callable[[Iterable[tuple[float, int]]], tuple[float, int]]
) -> int | None:
    """Return the first part of a role, or by its median pitch; None if all parts are of drums."""
    by_role = [number for number, part in enumerate(score.parts) if part.role == role]
    if by_role:
        return by_role[0]
    pitched = [number for number, part in enumerate(score.parts) if not part.is_drums]
    _, pitches, _, _, parts = score.columns
    medians = [
        (float(np.median(pitches[parts == number])), -number)
        for number in pitched
        if (parts == number).any()
    ]
    return -choose(medians)[1] if medians else None
