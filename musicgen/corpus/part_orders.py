"""The orders in which a piece of several parts is stored, so that any part can follow any other.

A model writes the parts of a bar in the order of the line-up. A piece is stored as it is written,
with its melody last and with its bass first. The melody and the bass are known by their roles;
if no part has such a role, they are the highest and the lowest part by median pitch. A piece whose
parts have no roles, names or instruments, such as the voices of an ABC tune, has one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np

from musicgen.music.roles import has_described_parts
from musicgen.music.score import Score

MOST_ORDERS: Final = 3  # of a piece: as written, melody last, bass first


def iter_part_orders(score: Score) -> Iterator[Score]:
    """Yield a piece in each order of its parts, first as it is written, without repeats."""
    as_written = tuple(range(len(score.parts)))
    if not has_described_parts(score.parts):
        yield score
        return
    orders = [as_written, _move_melody_last(score), _move_bass_first(score)]
    for order in dict.fromkeys(orders[:MOST_ORDERS]):
        yield score if order == as_written else score.reorder_parts(order)


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
