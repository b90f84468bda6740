"""The grammar as arrays: a number for each place that a tune can stand at, and what may follow it.

A `Walk` stays the one definition of the grammar. What it offers at a place, and where an event
leads, is asked of it once and then looked up, for one tune or for many at once. Four tables:

=======  ===========================================================================================
inner    places inside of a bar (and in the header), whichever bar of whichever form it is
outer    forms so far: what stands between bars, and the number of bars
border   an inner place at which the bar may be left, in a form
tones    what a chord may still have, by the last of its notes, besides what its place offers
=======  ===========================================================================================

So a bar's places are compiled once for all bars, and only its borders know of the form.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.tokens.constraints import Rules
from musicgen.tokens.form_state import Form
from musicgen.tokens.grammar import Context, Walk
from musicgen.tokens.vocabulary import MEASURES

_UNKNOWN: Final = -1
_CROSSES: Final = -2
_FIRST_ROWS: Final = 256
_WIDE: Final = 32  # bits of a number in a pair of them


class Rows:
    """An array that grows by rows."""

    def __init__(self, width: int, dtype: Any, fill: Any) -> None:
        self.fill = fill
        self.count = 0
        self.array = np.full((_FIRST_ROWS, width), fill, dtype)

    def add(self, row: Any) -> None:
        """Append a row, or its one value."""
        if self.count == len(self.array):
            self.array = np.concatenate([self.array, np.full_like(self.array, self.fill)])
        self.array[self.count] = row
        self.count += 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tune stands; all of it but the bars it has written is shared with other tunes."""

    inner: int
    outer: int
    border: int  # 0 where the bar may not be left
    tones: int  # 0 but after a note
    bar: int  # written so far


class Automaton:
    """The places that were met so far, under some rules and all that are narrower."""

    def __init__(self, rules: Rules, spot: Callable[[Context], int]) -> None:
        self.rules = rules
        self.spot = spot  # the number of a place, for its noise
        self.live: npt.NDArray[np.int64] = np.array(sorted(rules.allowed))
        self.column = np.full(len(MEASURES), _UNKNOWN)
        self.column[self.live] = np.arange(len(self.live))
        self.masks = Rows(len(self.live), bool, False)  # of inner places
        self.spots = Rows(1, np.uint64, 0)
        self.next = Rows(len(self.live), np.int32, _UNKNOWN)  # inner places, or _CROSSES
        self.flags = Rows(3, bool, False)  # at a border, between bars, done
        self.rules_of = Rows(1, np.int64, 0)  # the number of the rules of each inner place
        self.tones = Rows(len(self.live), bool, False)
        self.tones.add(False)  # number 0
        self.tones_after = Rows(len(self.live), np.int64, 0)  # by the rules' number and an event
        self.border_masks = Rows(len(self.live), bool, False)
        self.border_spots = Rows(1, np.uint64, 0)
        self.walks: list[Walk] = []  # one that stands at each inner place
        self.leaving: list[int] = []  # for each inner place the one after its bar was left
        self.forms: list[Form] = []
        self.border_walks: list[Walk] = []
        self._inner: dict[object, int] = {}
        self._outer: dict[object, int] = {}
        self._borders: dict[int, int] = {}
        self._crossings: dict[int, tuple[int, int, int]] = {}
        self._rules: dict[object, tuple[int, Rules]] = {}
        self._add_border(Walk(rules), np.zeros(len(self.live), bool))  # number 0: no border

    @cached_property
    def start(self) -> Place:
        """The place before the header."""
        return self.place(Walk(self.rules))

    def place(self, walk: Walk) -> Place:
        """Return where a walk stands. Its rules may be narrower, and only those of sampling."""
        inner, outer = self._inner_of(walk), self._outer_of(walk.form)
        tones = 0 if walk.lowest is None else self.tones_at(inner, int(self.column[walk.lowest]))
        return Place(inner, outer, self.border(inner, outer), tones, walk.form.written)

    def tones_at(self, inner: int, column: int) -> int:
        """Return the number of the tones that may follow an event at a place."""
        return int(self.tones_after.array[self.rules_of.array[inner, 0], column])

    def border(self, inner: int, outer: int) -> int:
        """Return the number of a border, 0 where the bar may not be left."""
        if not self.flags.array[inner, 0]:
            return 0
        key = self.leaving[inner] << _WIDE | outer
        if key not in self._borders:
            walk = self.walks[self.leaving[inner]].joined(self.forms[outer])
            self._borders[key] = self._add_border(walk, self._mask(walk))
        return self._borders[key]

    def follow(self, place: Place, column: int) -> Place:
        """Return where an event leads."""
        inner, outer, bars = self.step(place.inner, place.outer, place.border, column)
        tones = self.tones_at(place.inner, column)
        return Place(inner, outer, self.border(inner, outer), tones, place.bar + bars)

    def is_done(self, place: Place) -> bool:
        """Tell whether the tune is whole."""
        return bool(self.flags.array[place.inner, 2])

    def spot_at(self, place: Place) -> int:
        """Return the number of a place, for its noise."""
        if self.flags.array[place.inner, 1]:
            return int(self.border_spots.array[place.border, 0])
        return int(self.spots.array[place.inner, 0])

    def step(self, inner: int, outer: int, border: int, column: int) -> tuple[int, int, int]:
        """Return the inner and outer place after an event, and how many bars it opens."""
        after = int(self.next.array[inner, column])
        if after == _UNKNOWN:
            after = self._learn(inner, column)
        return self._cross(inner, border, column) if after == _CROSSES else (after, outer, 0)

    def _learn(self, inner: int, column: int) -> int:
        """Find where an event leads inside of a bar."""
        walk, id_ = self.walks[inner], int(self.live[column])
        after = _CROSSES
        if not walk.crosses(id_):
            walk = walk.copy()
            walk.take(id_)
            after = self._inner_of(walk)
        self.next.array[inner, column] = after
        return after

    def _cross(self, inner: int, border: int, column: int) -> tuple[int, int, int]:
        """Return what `step` does, for an event that changes the form."""
        key = (border or -inner) << _WIDE | column  # in a header there is no border
        if key not in self._crossings:
            walk = (self.border_walks[border] if border else self.walks[inner]).copy()
            before = walk.form.written
            walk.take(int(self.live[column]))
            bars = walk.form.written - before
            self._crossings[key] = self._inner_of(walk), self._outer_of(walk.form), bars
        return self._crossings[key]

    def legal(self, place: Place) -> npt.NDArray[np.int64]:
        """Return the columns of `live` that may come next, ascending."""
        mask = self.masks.array[place.inner]
        if place.border:
            mask = mask | self.border_masks.array[place.border]
        if place.tones:
            mask = mask | self.tones.array[place.tones]
        return np.flatnonzero(mask)

    def context(self, place: Place) -> Context:
        """Return what is known at a place."""
        walk = self.walks[place.inner]
        between = bool(self.flags.array[place.inner, 1])
        walk = self.border_walks[place.border] if between else walk.joined(self.forms[place.outer])
        return replace(walk.context, bar=place.bar)

    # Numbers for what is met

    def _inner_of(self, walk: Walk) -> int:
        number, rules = self._known(walk.rules)
        walk.rules = walk.form.rules = rules
        key = walk.key()
        if key not in self._inner:
            here = self._inner[key] = len(self._inner)
            self._add_inner(walk.copy(), number)
            left = here if not walk.in_bar or not walk.at_border else self._inner_of(walk.left())
            self.leaving[here] = left
        return self._inner[key]

    def _known(self, rules: Rules) -> tuple[int, Rules]:
        """Return the first rules that said the same, and their number."""
        if rules.key not in self._rules:
            self._rules[rules.key] = len(self._rules), rules
            self.tones_after.add(self._tones_under(rules))
        return self._rules[rules.key]

    def _tones_under(self, rules: Rules) -> npt.NDArray[np.int64]:
        """Return the number of the tones after each event, under some rules."""
        numbers = np.zeros(len(self.live), np.int64)
        walk = Walk(rules)
        for id_ in (*rules.ids("pitch"), *rules.ids("drum")):
            walk.lowest = id_
            mask = np.zeros(len(self.live), bool)
            mask[self.column[list(walk.tones())]] = True
            numbers[self.column[id_]] = self.tones.count
            self.tones.add(mask)
        return numbers

    def _add_inner(self, walk: Walk, rules: int) -> None:
        walk.lowest = None
        mask = self._mask(walk)
        is_between = walk.at_border and not walk.in_bar
        if walk.at_border:  # what the form offers is the border's
            mask &= ~self._mask(walk.left())
        self.walks.append(walk)
        self.leaving.append(len(self.leaving))
        self.rules_of.add(rules)
        self.masks.add(mask)
        self.next.add(_UNKNOWN)
        self.spots.add(0 if is_between else self.spot(walk.context))
        self.flags.add((walk.at_border, is_between, walk.done))

    def _add_border(self, walk: Walk, mask: npt.NDArray[np.bool_]) -> int:
        self.border_walks.append(walk)
        self.border_masks.add(mask)
        self.border_spots.add(self.spot(walk.context))
        return len(self.border_walks) - 1

    def _outer_of(self, form: Form) -> int:
        number = self._outer.setdefault(form.key(), len(self._outer))
        if number == len(self.forms):
            self.forms.append(copy(form))
        return number

    def _mask(self, walk: Walk) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.live), bool)
        mask[self.column[list(walk.legal())]] = True
        return mask
