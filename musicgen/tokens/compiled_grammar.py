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
from musicgen.tokens.form_state import FormState
from musicgen.tokens.grammar import DecisionContext, MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

_UNKNOWN: Final = -1
_CROSSES: Final = -2
_FIRST_ROWS: Final = 256
_WIDE: Final = 32  # bits of a number in a pair of them


class GrowingArray:
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
class GrammarPosition:
    """Where a tune stands; all of it but the bars it has written is shared with other tunes."""

    inner: int
    outer: int
    border: int  # 0 where the bar may not be left
    tones: int  # 0 but after a note
    bar: int  # written so far


class CompiledGrammar:
    """The places that were met so far, under some rules and all that are narrower."""

    def __init__(self, rules: Rules, position_id: Callable[[DecisionContext], int]) -> None:
        self.rules = rules
        self.position_id = position_id  # the number of a place, for its noise
        self.allowed_ids: npt.NDArray[np.int64] = np.array(sorted(rules.allowed_ids))
        self.column_by_id = np.full(len(MEASURES), _UNKNOWN)
        self.column_by_id[self.allowed_ids] = np.arange(len(self.allowed_ids))
        self.masks = GrowingArray(len(self.allowed_ids), bool, False)  # of inner places
        self.position_ids = GrowingArray(1, np.uint64, 0)
        self.next = GrowingArray(
            len(self.allowed_ids), np.int32, _UNKNOWN
        )  # inner places, or _CROSSES
        self.flags = GrowingArray(3, bool, False)  # at a border, between bars, done
        self.rules_of = GrowingArray(1, np.int64, 0)  # the number of the rules of each inner place
        self.tones = GrowingArray(len(self.allowed_ids), bool, False)
        self.tones.add(False)  # number 0
        self.tones_after = GrowingArray(
            len(self.allowed_ids), np.int64, 0
        )  # by the rules' number and an event
        self.border_masks = GrowingArray(len(self.allowed_ids), bool, False)
        self.border_position_ids = GrowingArray(1, np.uint64, 0)
        self.inner_grammars: list[MeasuresGrammar] = []  # one that stands at each inner place
        self.after_leaving_bar: list[
            int
        ] = []  # for each inner place the one after its bar was left
        self.forms: list[FormState] = []
        self.border_grammars: list[MeasuresGrammar] = []
        self._inner: dict[object, int] = {}
        self._outer: dict[object, int] = {}
        self._borders: dict[int, int] = {}
        self._crossings: dict[int, tuple[int, int, int]] = {}
        self._rules: dict[object, tuple[int, Rules]] = {}
        self._add_border(
            MeasuresGrammar(rules), np.zeros(len(self.allowed_ids), bool)
        )  # number 0: no border

    @cached_property
    def start(self) -> GrammarPosition:
        """The place before the header."""
        return self.locate(MeasuresGrammar(self.rules))

    def locate(self, grammar: MeasuresGrammar) -> GrammarPosition:
        """Return where a walk stands. Its rules may be narrower, and only those of sampling."""
        inner, outer = self._intern_inner(grammar), self._intern_outer(grammar.form)
        tones = (
            0
            if grammar.lowest_tone_id is None
            else self.find_tones(inner, int(self.column_by_id[grammar.lowest_tone_id]))
        )
        return GrammarPosition(
            inner, outer, self.find_border(inner, outer), tones, grammar.form.bars_written
        )

    def find_tones(self, inner: int, column: int) -> int:
        """Return the number of the tones that may follow an event at a place."""
        return int(self.tones_after.array[self.rules_of.array[inner, 0], column])

    def find_border(self, inner: int, outer: int) -> int:
        """Return the number of a border, 0 where the bar may not be left."""
        if not self.flags.array[inner, 0]:
            return 0
        key = self.after_leaving_bar[inner] << _WIDE | outer
        if key not in self._borders:
            walk = self.inner_grammars[self.after_leaving_bar[inner]].copy_with_form(
                self.forms[outer]
            )
            self._borders[key] = self._add_border(walk, self._mask(walk))
        return self._borders[key]

    def follow(self, place: GrammarPosition, column: int) -> GrammarPosition:
        """Return where an event leads."""
        inner, outer, bars = self.step(place.inner, place.outer, place.border, column)
        tones = self.find_tones(place.inner, column)
        return GrammarPosition(
            inner, outer, self.find_border(inner, outer), tones, place.bar + bars
        )

    def is_done(self, place: GrammarPosition) -> bool:
        """Tell whether the tune is whole."""
        return bool(self.flags.array[place.inner, 2])

    def find_position_id(self, place: GrammarPosition) -> int:
        """Return the number of a place, for its noise."""
        if self.flags.array[place.inner, 1]:
            return int(self.border_position_ids.array[place.border, 0])
        return int(self.position_ids.array[place.inner, 0])

    def step(self, inner: int, outer: int, border: int, column: int) -> tuple[int, int, int]:
        """Return the inner and outer place after an event, and how many bars it opens."""
        after = int(self.next.array[inner, column])
        if after == _UNKNOWN:
            after = self._compile_step(inner, column)
        return (
            self._step_changing_form(inner, border, column)
            if after == _CROSSES
            else (after, outer, 0)
        )

    def _compile_step(self, inner: int, column: int) -> int:
        """Find where an event leads inside of a bar."""
        walk, id_ = self.inner_grammars[inner], int(self.allowed_ids[column])
        after = _CROSSES
        if not walk.changes_form(id_):
            walk = walk.copy()
            walk.take(id_)
            after = self._intern_inner(walk)
        self.next.array[inner, column] = after
        return after

    def _step_changing_form(self, inner: int, border: int, column: int) -> tuple[int, int, int]:
        """Return what `step` does, for an event that changes the form."""
        key = (border or -inner) << _WIDE | column  # in a header there is no border
        if key not in self._crossings:
            walk = (self.border_grammars[border] if border else self.inner_grammars[inner]).copy()
            before = walk.form.bars_written
            walk.take(int(self.allowed_ids[column]))
            bars = walk.form.bars_written - before
            self._crossings[key] = self._intern_inner(walk), self._intern_outer(walk.form), bars
        return self._crossings[key]

    def legal_columns(self, place: GrammarPosition) -> npt.NDArray[np.int64]:
        """Return the columns of `live` that may come next, ascending."""
        mask = self.masks.array[place.inner]
        if place.border:
            mask = mask | self.border_masks.array[place.border]
        if place.tones:
            mask = mask | self.tones.array[place.tones]
        return np.flatnonzero(mask)

    def context(self, place: GrammarPosition) -> DecisionContext:
        """Return what is known at a place."""
        walk = self.inner_grammars[place.inner]
        between = bool(self.flags.array[place.inner, 1])
        walk = (
            self.border_grammars[place.border]
            if between
            else walk.copy_with_form(self.forms[place.outer])
        )
        return replace(walk.context, bar=place.bar)

    # Numbers for what is met

    def _intern_inner(self, grammar: MeasuresGrammar) -> int:
        number, rules = self._intern_rules(grammar.rules)
        grammar.rules = grammar.form.rules = rules
        key = grammar.state_key()
        if key not in self._inner:
            here = self._inner[key] = len(self._inner)
            self._add_inner(grammar.copy(), number)
            left = (
                here
                if not grammar.in_bar or not grammar.can_leave_bar
                else self._intern_inner(grammar.copy_after_bar())
            )
            self.after_leaving_bar[here] = left
        return self._inner[key]

    def _intern_rules(self, rules: Rules) -> tuple[int, Rules]:
        """Return the first rules that said the same, and their number."""
        if rules.cache_key not in self._rules:
            self._rules[rules.cache_key] = len(self._rules), rules
            self.tones_after.add(self._compile_tones(rules))
        return self._rules[rules.cache_key]

    def _compile_tones(self, rules: Rules) -> npt.NDArray[np.int64]:
        """Return the number of the tones after each event, under some rules."""
        numbers = np.zeros(len(self.allowed_ids), np.int64)
        walk = MeasuresGrammar(rules)
        for id_ in (*rules.ids_of_kind("pitch"), *rules.ids_of_kind("drum")):
            walk.lowest_tone_id = id_
            mask = np.zeros(len(self.allowed_ids), bool)
            mask[self.column_by_id[list(walk.chord_tone_ids())]] = True
            numbers[self.column_by_id[id_]] = self.tones.count
            self.tones.add(mask)
        return numbers

    def _add_inner(self, grammar: MeasuresGrammar, rules_number: int) -> None:
        grammar.lowest_tone_id = None
        mask = self._mask(grammar)
        is_between = grammar.can_leave_bar and not grammar.in_bar
        if grammar.can_leave_bar:  # what the form offers is the border's
            mask &= ~self._mask(grammar.copy_after_bar())
        self.inner_grammars.append(grammar)
        self.after_leaving_bar.append(len(self.after_leaving_bar))
        self.rules_of.add(rules_number)
        self.masks.add(mask)
        self.next.add(_UNKNOWN)
        self.position_ids.add(0 if is_between else self.position_id(grammar.context))
        self.flags.add((grammar.can_leave_bar, is_between, grammar.is_done))

    def _add_border(self, grammar: MeasuresGrammar, mask: npt.NDArray[np.bool_]) -> int:
        self.border_grammars.append(grammar)
        self.border_masks.add(mask)
        self.border_position_ids.add(self.position_id(grammar.context))
        return len(self.border_grammars) - 1

    def _intern_outer(self, form: FormState) -> int:
        number = self._outer.setdefault(form.state_key(), len(self._outer))
        if number == len(self.forms):
            self.forms.append(copy(form))
        return number

    def _mask(self, grammar: MeasuresGrammar) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.allowed_ids), bool)
        mask[self.column_by_id[list(grammar.legal_ids())]] = True
        return mask
