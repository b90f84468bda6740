"""The orders and line-ups in which a piece of several parts is stored.

A model writes the parts of a bar in their order, so one order cannot give any part from any other.

A piece is stored as it is written; with each of its main parts last, so that this part can be drawn
when the others are given; and with its bass first. The main parts are the first part of each role.
Of the main parts it is also stored for small line-ups: each alone, the melody with each other one,
and small bands, each with each of its parts last, from the first bar on in which all of them play.
So a model of large bands can write for small ones.

A lead sheet, a melody with chord symbols, is stored as melody and symbols, as symbols and melody,
and as the melody alone, where its corpus card asks for chord symbols as a part. Elsewhere they stay
events of the first voice, so that the ids of other corpora do not change.

The voices of a choir are stored so that any of them can be given: each voice, and any two or three
of four, come first in one of their orders.

If no part has the role of the melody or of the bass, these are the highest and the lowest part by
median pitch. A piece whose parts have no roles, names or instruments, such as the voices of an ABC
tune, has one order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from musicgen.music.bars import find_bars
from musicgen.music.roles import get_voice_role, has_described_parts, is_choir
from musicgen.music.score import BAND_ROLES, CHOIR_ROLES, Score
from musicgen.music.symbols_part import add_symbols_part

SMALL_BANDS: Final = (("melody", "bass", "drums"), ("melody", "bass", "chords", "drums"))
_MAIN_ROLES: Final = sum(1 for role in BAND_ROLES if role)
WHOLE_ORDERS: Final = 2 + _MAIN_ROLES  # as written, bass first, each main part last
MOST_ORDERS: Final = WHOLE_ORDERS + _MAIN_ROLES + 2 * (_MAIN_ROLES - 1) + sum(map(len, SMALL_BANDS))
VOICE_ORDERS: Final = (  # of four voices; each of their subsets opens one of the orders
    CHOIR_ROLES,
    ("soprano", "bass", "alto", "tenor"),
    ("alto", "tenor", "bass", "soprano"),
    ("tenor", "soprano", "bass", "alto"),
    ("bass", "tenor", "soprano", "alto"),
    ("alto", "bass", "soprano", "tenor"),
)


def iter_part_orders(score: Score) -> Iterator[Score]:
    """Yield a piece in each order of its parts, first as it is written, then small line-ups."""
    as_written = tuple(range(len(score.parts)))
    if not has_described_parts(score.parts):
        yield score
        return
    if is_choir(score.parts):
        yield from map(score.select_parts, find_voice_orders(score))
        return
    main_parts = _find_main_parts(score)
    orders = [as_written, *(_move_last(as_written, part) for part in main_parts.values())]
    if (bass := main_parts.get("bass")) is not None:
        orders.append((bass, *(part for part in as_written if part != bass)))
    for order in dict.fromkeys(orders):
        yield score if order == as_written else score.select_parts(order)
    for lineup in dict.fromkeys(_iter_small_lineups(main_parts)):
        if len(lineup) < len(score.parts):
            yield _skip_introduction(score.select_parts(lineup))


def iter_lead_sheet_orders(score: Score) -> Iterator[Score]:
    """Yield a melody with chord symbols in each order: symbols last, first, and left out.

    Other pieces are yielded as `iter_part_orders` does.
    """
    if len(score.parts) > 1 or score.parts[0].is_drums:
        yield from iter_part_orders(score)
        return
    sheet = add_symbols_part(score)
    if len(sheet.parts) > 1:
        yield sheet
        yield sheet.select_parts((1, 0))
    marks = tuple(mark for mark in sheet.marks if mark.kind != "chord")
    yield replace(sheet.select_parts((0,)), marks=marks)


def find_voice_orders(score: Score) -> list[tuple[int, ...]]:
    """Return the numbers of the voices of a choir in each order in which it is stored."""
    roles = list(map(get_voice_role, score.parts))
    if sorted(roles) == sorted(CHOIR_ROLES):
        return [tuple(map(roles.index, order)) for order in VOICE_ORDERS]
    numbers = sorted(
        range(len(roles)), key=lambda number: (CHOIR_ROLES.index(roles[number]), number)
    )
    return [(first, *(n for n in numbers if n != first)) for first in numbers]


def find_voice_order(given: Collection[str]) -> tuple[str, ...]:
    """Return the roles of four voices in the order in which some of them can be given."""
    count, given_roles = len(given), set(given)
    return next(order for order in VOICE_ORDERS if set(order[:count]) == given_roles)


def _find_main_parts(score: Score) -> dict[str, int]:
    """Return the first part of each role; of melody and bass, else by the median pitch."""
    main_parts = {part.role: n for n, part in reversed(list(enumerate(score.parts))) if part.role}
    for role, choose in (("melody", max), ("bass", min)):
        part = _find_part(score, role, choose)
        if part is not None and part not in main_parts.values():
            main_parts[role] = part
    return dict(sorted(main_parts.items(), key=lambda item: item[1]))


def _move_last(order: Sequence[int], part: int) -> tuple[int, ...]:
    return (*(number for number in order if number != part), part)


def _iter_small_lineups(main_parts: dict[str, int]) -> Iterator[tuple[int, ...]]:
    """Yield each main part alone, the melody with each other, and small bands."""
    yield from ((part,) for part in main_parts.values())
    melody = main_parts.get("melody")
    for part in main_parts.values():
        if melody is not None and part != melody:
            yield from ((melody, part), (part, melody))
    for roles in SMALL_BANDS:
        if set(roles) <= main_parts.keys():
            band = sorted(main_parts[role] for role in roles)
            yield from (_move_last(band, part) for part in band)


def _skip_introduction(score: Score) -> Score:
    """Return a score from the first bar on in which all its parts have notes."""
    onsets, parts = score.columns[0], score.columns[4]
    for bar in find_bars(score):
        playing = parts[(onsets >= bar.start) & (onsets < bar.end)]
        if len(np.unique(playing)) == len(score.parts):
            return score.join_passages([(bar.start, score.end)]) if bar.start else score
    return score


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
