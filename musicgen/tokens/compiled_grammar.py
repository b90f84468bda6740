"""The grammar compiled to tables: states are numbered, and the legal ids of a state are a mask.

`MeasuresGrammar` stays the only definition of the grammar. Its answers are computed once per state
and then looked up, for one tune or for many at once. There are four tables:

=======  ===========================================================================================
inner    states inside a bar (and in the header), independent of the bar and of the form
outer    states of the form: what may stand between bars, and the number of bars
borders  an inner state at which the bar may be left, together with an outer state
tones    the further notes that a chord may have, by its last note, beyond what its state allows
=======  ===========================================================================================

So the states of a bar are compiled once for all bars, and only its borders depend on the form.
Ids are addressed by their column: their index in the ascending array of allowed ids.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from musicgen.music.arrays import BoolArray, IntArray
from musicgen.tokens.constraints import Rules
from musicgen.tokens.form_state import FormState
from musicgen.tokens.grammar import LEVEL_RANK, DecisionContext, MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

_UNKNOWN: Final = -1  # a next state that is not compiled yet
_CHANGES_FORM: Final = -2  # a next state that depends on the form
_INITIAL_ROWS: Final = 256
_KEY_BITS: Final = 32  # of the second number in a key made of two


class GrowingTable:
    """A table of named columns that grows by rows."""

    def __init__(self, *columns: tuple[str, npt.DTypeLike, tuple[int, ...]]) -> None:
        """Make an empty table.

        Args:
            columns: name, dtype, and shape of one entry, () for a scalar.
        """
        self.count = 0
        self._rows = np.zeros(_INITIAL_ROWS, np.dtype(list(columns), align=True))

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self._rows[column]

    def add(self, *values: object) -> int:
        """Append a row, one value per column in order; return its number."""
        if self.count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        for column, value in zip(self._rows.dtype.names or (), values, strict=True):
            self._rows[column][self.count] = value
        self.count += 1
        return self.count - 1


@dataclass(frozen=True, slots=True)
class GrammarPosition:
    """The state of a tune as row numbers; other tunes share all but the number of bars."""

    inner: int
    outer: int
    border: int  # 0: the bar may not be left
    tones: int  # 0: not after a note
    bar: int  # bars written so far


class CompiledGrammar:
    """The states met so far under some rules and all rules that are narrower."""

    def __init__(self, rules: Rules, position_id: Callable[[DecisionContext], int]) -> None:
        """Start with empty tables.

        Args:
            rules: the widest rules.
            position_id: computes the number of a position that keys its sampling noise.
        """
        self.rules = rules
        self.position_id = position_id
        self.allowed_ids: IntArray = np.array(sorted(rules.allowed_ids))
        self.column_by_id = np.full(len(MEASURES), _UNKNOWN)
        self.column_by_id[self.allowed_ids] = np.arange(len(self.allowed_ids))
        row = (len(self.allowed_ids),)
        self.inner = GrowingTable(
            ("mask", bool, row),  # legal ids inside the bar
            ("next", np.int32, row),  # inner state after each id, _UNKNOWN or _CHANGES_FORM
            ("position_id", np.uint64, ()),
            ("rules", np.int64, ()),  # number of its rules
            ("can_leave_bar", bool, ()),
            ("is_between_bars", bool, ()),
            ("is_done", bool, ()),
        )
        self.borders = GrowingTable(("mask", bool, row), ("position_id", np.uint64, ()))
        self.is_level = np.isin(self.allowed_ids, MEASURES.ranges["level"])  # by column
        self.tones = GrowingTable(
            ("mask", bool, row),
            ("after_level", np.int64, ()),  # row after a level of dynamics
        )
        self.tones_after = GrowingTable(("tones", np.int64, row))  # by rules, after each id
        self.inner_grammars: list[MeasuresGrammar] = []  # by inner state
        self.outer_forms: list[FormState] = []  # by outer state
        self.border_grammars: list[MeasuresGrammar] = []  # by border
        self._state_after_bar: list[
            int
        ] = []  # by inner state: the inner state once its bar is left
        self._inner_by_key: dict[object, int] = {}
        self._outer_by_key: dict[object, int] = {}
        self._border_by_key: dict[int, int] = {}
        self._form_changes: dict[int, tuple[int, int, int]] = {}
        self._rules_by_key: dict[object, tuple[int, Rules]] = {}
        no_ids = np.zeros(len(self.allowed_ids), bool)
        self.tones.add(no_ids, 0)  # number 0: not after a note
        self._add_border(MeasuresGrammar(rules), no_ids)  # number 0: no border

    @cached_property
    def start(self) -> GrammarPosition:
        """The position before the header."""
        return self.locate(MeasuresGrammar(self.rules))

    def locate(self, grammar: MeasuresGrammar) -> GrammarPosition:
        """Return the position of a grammar whose rules are these or narrower, and strict."""
        inner, outer = self._intern_inner(grammar), self._intern_outer(grammar.form)
        tones = self._locate_tones(grammar, inner)
        border = self.find_border(inner, outer)
        return GrammarPosition(inner, outer, border, tones, grammar.form.bars_written)

    def _locate_tones(self, grammar: MeasuresGrammar, inner: int) -> int:
        if grammar.lowest_tone_id is None:
            return 0
        tones = self.find_tones(inner, int(self.column_by_id[grammar.lowest_tone_id]), 0)
        is_after_level = grammar.change_rank == LEVEL_RANK
        return int(self.tones["after_level"][tones]) if is_after_level else tones

    def find_tones(self, inner: int, column: int, tones: int) -> int:
        """Return the row in `tones` after an id at an inner state; `tones` is that before it."""
        if self.is_level[column]:
            return int(self.tones["after_level"][tones])
        return int(self.tones_after["tones"][self.inner["rules"][inner], column])

    def find_border(self, inner: int, outer: int) -> int:
        """Return the row in `borders` of an inner and an outer state; 0 if no bar may be left."""
        if not self.inner["can_leave_bar"][inner]:
            return 0
        after_bar = self._state_after_bar[inner]
        key = after_bar << _KEY_BITS | outer
        if key not in self._border_by_key:
            grammar = self.inner_grammars[after_bar].copy_with_form(self.outer_forms[outer])
            self._border_by_key[key] = self._add_border(grammar, self._legal_mask(grammar))
        return self._border_by_key[key]

    def follow(self, position: GrammarPosition, column: int) -> GrammarPosition:
        """Return the position after an id."""
        inner, outer, bars = self.step(position.inner, position.outer, position.border, column)
        tones = self.find_tones(position.inner, column, position.tones)
        border = self.find_border(inner, outer)
        return GrammarPosition(inner, outer, border, tones, position.bar + bars)

    def is_done(self, position: GrammarPosition) -> bool:
        """Tell whether the tune is complete."""
        return bool(self.inner["is_done"][position.inner])

    def find_position_id(self, position: GrammarPosition) -> int:
        """Return the number that keys the sampling noise of a position."""
        if self.inner["is_between_bars"][position.inner]:
            return int(self.borders["position_id"][position.border])
        return int(self.inner["position_id"][position.inner])

    def step(self, inner: int, outer: int, border: int, column: int) -> tuple[int, int, int]:
        """Return the inner and outer state after an id, and the number of bars that it opens."""
        next_inner = int(self.inner["next"][inner, column])
        if next_inner == _UNKNOWN:
            next_inner = self._compile_step(inner, column)
        if next_inner == _CHANGES_FORM:
            return self._step_changing_form(inner, border, column)
        return next_inner, outer, 0

    def _compile_step(self, inner: int, column: int) -> int:
        """Compute an entry of the column `next`."""
        grammar, id_ = self.inner_grammars[inner], int(self.allowed_ids[column])
        next_inner = _CHANGES_FORM
        if not grammar.changes_form(id_):
            grammar = grammar.copy()
            grammar.take(id_)
            next_inner = self._intern_inner(grammar)
        self.inner["next"][inner, column] = next_inner
        return next_inner

    def _step_changing_form(self, inner: int, border: int, column: int) -> tuple[int, int, int]:
        """Return what `step` does, for an id that changes the form."""
        key = (border or -inner) << _KEY_BITS | column  # the header has no border
        if key not in self._form_changes:
            grammar = self.border_grammars[border] if border else self.inner_grammars[inner]
            grammar = grammar.copy()
            bars_before = grammar.form.bars_written
            grammar.take(int(self.allowed_ids[column]))
            self._form_changes[key] = (
                self._intern_inner(grammar),
                self._intern_outer(grammar.form),
                grammar.form.bars_written - bars_before,
            )
        return self._form_changes[key]

    def legal_columns(self, position: GrammarPosition) -> IntArray:
        """Return the columns of the legal ids, ascending; (n,) int64."""
        mask = self.inner["mask"][position.inner]
        if position.border:
            mask = mask | self.borders["mask"][position.border]
        if position.tones:
            mask = mask | self.tones["mask"][position.tones]
        return np.flatnonzero(mask)

    def context(self, position: GrammarPosition) -> DecisionContext:
        """Return the decision context of a position."""
        if self.inner["is_between_bars"][position.inner]:
            grammar = self.border_grammars[position.border]
        else:
            grammar = self.inner_grammars[position.inner]
            grammar = grammar.copy_with_form(self.outer_forms[position.outer])
        return replace(grammar.context, bar=position.bar)

    # Numbering states

    def _intern_inner(self, grammar: MeasuresGrammar) -> int:
        rules_number, rules = self._intern_rules(grammar)
        grammar.rules = grammar.form.rules = rules
        key = grammar.state_key()
        if key not in self._inner_by_key:
            inner = self._inner_by_key[key] = self._add_inner(grammar.copy(), rules_number)
            if grammar.in_bar and grammar.can_leave_bar:
                self._state_after_bar[inner] = self._intern_inner(grammar.copy_after_bar())
        return self._inner_by_key[key]

    def _intern_rules(self, grammar: MeasuresGrammar) -> tuple[int, Rules]:
        """Return the number of a grammar's rules for the tones of chords, and equal rules.

        The tones depend on whether there is a line-up, on a part whose pitches are restricted, and
        on a pitch that is barred.
        """
        has_levels = grammar.lineup is not None and bool(grammar.rules.ids_of_kind("level"))
        part = grammar.voice[0] if grammar.rules.part_pitch_ids else 0
        barred_id = grammar.barred_pitch_id
        key = grammar.rules.cache_key, has_levels, part, barred_id
        if key not in self._rules_by_key:
            self._rules_by_key[key] = len(self._rules_by_key), grammar.rules
            self.tones_after.add(
                self._compile_tones(grammar.rules, part, barred_id, has_levels=has_levels)
            )
        return self._rules_by_key[key]

    def _compile_tones(
        self, rules: Rules, part: int, barred_id: int | None, *, has_levels: bool
    ) -> IntArray:
        """Add the tones after each note of a part; return their rows by column."""
        tones_by_column = np.zeros(len(self.allowed_ids), np.int64)
        grammar = MeasuresGrammar(rules)
        grammar.voice = part, 0
        for id_ in (*rules.ids_of_kind("pitch"), *rules.ids_of_kind("drum")):
            grammar.lowest_tone_id = id_
            tone_ids = tuple(tone for tone in grammar.chord_tone_ids() if tone != barred_id)
            row = self.tones.add(self._mask_of(tone_ids), 0)
            if has_levels and tone_ids:
                row = self.tones.add(self._mask_of(tone_ids) | self.is_level, row)
            tones_by_column[self.column_by_id[id_]] = row
        return tones_by_column

    def _add_inner(self, grammar: MeasuresGrammar, rules_number: int) -> int:
        """Compile an inner state."""
        grammar.lowest_tone_id = None
        mask = self._legal_mask(grammar)
        is_between_bars = grammar.can_leave_bar and not grammar.in_bar
        if grammar.can_leave_bar:  # the border adds the ids that the form allows
            mask &= ~self._legal_mask(grammar.copy_after_bar())
        inner = self.inner.add(
            mask,
            _UNKNOWN,
            0 if is_between_bars else self.position_id(grammar.context),
            rules_number,
            grammar.can_leave_bar,
            is_between_bars,
            grammar.is_done,
        )
        self.inner_grammars.append(grammar)
        self._state_after_bar.append(inner)
        return inner

    def _add_border(self, grammar: MeasuresGrammar, mask: BoolArray) -> int:
        self.border_grammars.append(grammar)
        return self.borders.add(mask, self.position_id(grammar.context))

    def _intern_outer(self, form: FormState) -> int:
        outer = self._outer_by_key.setdefault(form.state_key(), len(self._outer_by_key))
        if outer == len(self.outer_forms):
            self.outer_forms.append(copy(form))
        return outer

    def _legal_mask(self, grammar: MeasuresGrammar) -> BoolArray:
        return self._mask_of(grammar.legal_ids())

    def _mask_of(self, ids: tuple[int, ...]) -> BoolArray:
        mask = np.zeros(len(self.allowed_ids), bool)
        mask[self.column_by_id[list(ids)]] = True
        return mask
