"""The score context: what a written page shows of a tune, computed from its ids so far.

A recurrent network that reads ids alone does not know which bar of the section it is in, or what
stood four bars ago. The score context tells it, before each id, and is a function of the ids before
it and of nothing else:

=========  =========================================================================================
field      value
=========  =========================================================================================
position   steps from the start of the bar; a pickup stands at the end of its bar
left       steps that are left in the bar; UNKNOWN_LEFT in the first voice of an irregular bar
bar        number of the bar in its section; a second ending takes the numbers of the first
section    number of the section
lag n      the id + 1 that stood at the same place n bars ago; 0 if none did
match n    for how long the ids have been those of n bars ago: in events, then in whole bars
=========  =========================================================================================

Two groups of fields follow for tunes of several parts or voices, computed only where a model reads
them: the vertical context, what the parts and voices written earlier in the bar do at the position
(`tokens/vertical_context.py`), and the echo (`tokens/echo.py`).

A place is a voice, a position, a kind of decision, and how many ids the tune has there already.
Bars are counted as `FormState` counts them: an irregular bar counts, a pickup does not.

`ScoreContext` is the context of one tune, a frozen value; `ContextLanes` computes the same for many
tunes side by side. Both follow a `ContextTable`: the positions of a permissive `MeasuresGrammar`,
numbered as they occur, so that an id that was met before costs one lookup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from musicgen.config import BEGIN_ID, ECHO_FIELDS, VERTICAL_FIELDS
from musicgen.music.arrays import IntArray, TokenIds
from musicgen.tokens.compiled_grammar import GrowingTable
from musicgen.tokens.constraints import Rules
from musicgen.tokens.context_source import ContextFields
from musicgen.tokens.echo import ECHO_FIELD_SIZES, EchoContext, EchoLanes, Step, Steps
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vertical_context import (
    CURSOR_COLUMNS,
    VERTICAL_FIELD_SIZES,
    Cursor,
    VerticalContext,
    VerticalLanes,
    find_cursor,
)
from musicgen.tokens.vocabulary import MAX_VOICES, MEASURES

LAGS: Final = (1, 2, 4, 8)  # bars
PAGE_FIELDS: Final = (
    "position", "left", "bar", "section",
    *(f"lag{lag}" for lag in LAGS), *(f"match{lag}" for lag in LAGS),
)  # fmt: skip
FIELDS: Final = (*PAGE_FIELDS, *VERTICAL_FIELDS, *ECHO_FIELDS)
FIRST_LAG: Final = 4  # index of the field "lag1"
FIRST_MATCH: Final = FIRST_LAG + len(LAGS)
FIRST_VERTICAL: Final = len(PAGE_FIELDS)
FIRST_ECHO: Final = FIRST_VERTICAL + len(VERTICAL_FIELDS)

MOST_STEPS: Final = 384  # positions beyond are counted as this one: two bars of 4/4
UNKNOWN_LEFT: Final = MOST_STEPS + 1
_COUNTED_BARS: Final = 16  # bars of a section with a number of their own; later ones share sixteen
_MOST_SECTIONS: Final = 15
_MOST_EVENT_LEVELS: Final = 7  # runs of 1, 2, 4, 8, 16, 32, 64 events
_MOST_WHOLE_BARS: Final = 16
_MOST_REPEATS: Final = 15  # ids at one position and decision that are told apart
KEPT_BARS: Final = 16  # bars that are remembered

FIELD_SIZES: Final = {
    "position": MOST_STEPS + 1,
    "left": UNKNOWN_LEFT + 1,
    "bar": 2 * _COUNTED_BARS + 1,
    "section": _MOST_SECTIONS + 1,
    **{f"match{lag}": _MOST_EVENT_LEVELS + _MOST_WHOLE_BARS + 1 for lag in LAGS},
    **VERTICAL_FIELD_SIZES,
    **ECHO_FIELD_SIZES,
}

# What an id does to the numbers of bars and sections
_NONE, _BAR, _PICKUP, _SECTION, _FORK, _RETURN = range(6)
_UNKNOWN: Final = -1
_EVENT_LEVELS: Final = np.array([n.bit_length() for n in range(2**_MOST_EVENT_LEVELS)])

_KINDS_WITH_VALUES: Final = ("meter", "partial", "part", "voice", "tuplet", "duration", "lineup")
_CLASS_NAMES: Final = [
    event if event.kind in _KINDS_WITH_VALUES else event.kind for event in MEASURES.events
]
_CLASS_NUMBERS: Final = {name: number for number, name in enumerate(dict.fromkeys(_CLASS_NAMES))}
_CLASSES: Final = [_CLASS_NUMBERS[name] for name in _CLASS_NAMES]  # by id: what follows is the same
_CLASS_ARRAY: Final = np.array(_CLASSES)
_CLASS_COUNT: Final = len(_CLASS_NUMBERS)

Place: TypeAlias = tuple[int, int, str, int]  # voice, position, decision, ids there already


class ContextTable:
    """The positions of a tune in its bar, numbered as they occur, and what each id leads to.

    Args:
        has_vertical: whether contexts that follow the table have the fields of the vertical
            context and of the echo.
    """

    def __init__(self, *, has_vertical: bool = False) -> None:
        self.has_vertical = has_vertical
        self.fields = FIELDS if has_vertical else PAGE_FIELDS
        self.field_count = len(self.fields)
        self.cursors: list[Cursor] = []  # by state
        self.place: list[int] = []  # by state: the number of its place
        self.position: list[int] = []  # by state: the value of the field
        self.left: list[int] = []  # by state: the value of the field
        self.steps: dict[
            int, tuple[int, int]
        ] = {}  # state and class of the id: state after, effect
        self.rows = GrowingTable(  # the same by state, as arrays
            ("place", np.int64, ()),
            ("position", np.int64, ()),
            ("left", np.int64, ()),
            ("next", np.int32, (_CLASS_COUNT,)),  # state after an id of each class, or _UNKNOWN
            ("effect", np.int8, (_CLASS_COUNT,)),
            *CURSOR_COLUMNS,
        )
        self._grammars: list[MeasuresGrammar] = []  # by state
        self._places: list[Place] = []  # by state
        self._states: dict[object, int] = {}  # by key
        self._place_numbers: dict[Place, int] = {}
        self._intern(MeasuresGrammar(Rules.permissive()), None)  # state 0, before the header

    def start(self) -> ScoreContext:
        """Return the context before a tune."""
        return ScoreContext(self)

    def start_lanes(self, count: int) -> ContextLanes:
        """Return the contexts of some tunes, each before its first id."""
        return ContextLanes(self, count)

    def compute(self, tunes: Sequence[TokenIds]) -> list[ContextFields]:
        """Compute the context before each id of some tunes, as `compute_contexts` does."""
        return compute_contexts(tunes, self)

    def transpose(self, context: ContextFields, semitones: int) -> ContextFields:
        """Return the fields as they are: pitches are counted from the tonic."""
        del semitones
        return context

    @property
    def place_count(self) -> int:
        """The number of places so far."""
        return len(self._place_numbers)

    def step(self, state: int, id_: int) -> tuple[int, int]:
        """Return the state after an id, and what the id does to the numbers of bars."""
        key = state * _CLASS_COUNT + _CLASSES[id_]
        if key not in self.steps:
            after, effect = self.steps[key] = self._compile_step(state, id_)
            self.rows["next"][state, _CLASSES[id_]] = after
            self.rows["effect"][state, _CLASSES[id_]] = effect
        return self.steps[key]

    def _compile_step(self, state: int, id_: int) -> tuple[int, int]:
        before = self._grammars[state]
        if not _can_take(before, id_):
            return state, _NONE
        grammar = before.copy()
        grammar.take(id_)
        return self._intern(grammar, self._places[state]), _find_effect(before, grammar, id_)

    def _intern(self, grammar: MeasuresGrammar, before: Place | None) -> int:
        """Return the number of a state; `before` is the place that the tune comes from."""
        place = _find_place(grammar, before)
        key = _get_state_key(grammar), place
        if key not in self._states:
            number = self._place_numbers.setdefault(place, self.place_count)
            position, left = min(max(place[1], 0), MOST_STEPS), _count_steps_left(grammar)
            cursor = find_cursor(grammar)
            self._states[key] = self.rows.add(number, position, left, _UNKNOWN, _NONE, *cursor)
            self.cursors.append(cursor)
            self.place.append(number)
            self.position.append(position)
            self.left.append(left)
            self._grammars.append(grammar)
            self._places.append(place)
        return self._states[key]


def _can_take(grammar: MeasuresGrammar, id_: int) -> bool:
    """Tell whether an id means something here; the begin event, for example, does not."""
    kind = MEASURES.events[id_].kind
    if kind == "begin" or grammar.is_done:
        return False
    return grammar.in_header or kind not in _HEADER_ONLY_KINDS


_HEADER_ONLY_KINDS: Final = ("mode", "rhythm", "parts", "lineup", "role", "family", "given")


def _get_state_key(grammar: MeasuresGrammar) -> tuple[object, ...]:
    """Return what the positions to come depend on."""
    form, section = grammar.form, grammar.form.section
    return (
        grammar.in_header and (grammar.header_events_read, grammar.lineup),
        grammar.is_done, grammar.in_bar, grammar.bar_length, grammar.cursor,
        grammar.voice, grammar.change_rank, grammar.tuplet, grammar.duration, form.rank,
        form.has_started, form.meter_steps, form.steps_owed, form.is_after_pickup,
        section and (section.steps_owed_at_fork, section.is_between_endings, section.last_pass > 0),
    )  # fmt: skip


def _find_place(grammar: MeasuresGrammar, before: Place | None) -> Place:
    voice = grammar.voice[0] * MAX_VOICES + grammar.voice[1]
    here = voice, _find_position(grammar), grammar.decision
    count = before[3] + 1 if before is not None and before[:3] == here else 0
    return *here, min(count, _MOST_REPEATS)


def _find_position(grammar: MeasuresGrammar) -> int:
    """Return the steps from the start of the bar; between bars, those at which the last ended."""
    form = grammar.form
    if not grammar.in_bar:
        return form.meter_steps - (form.steps_owed or 0) if form.has_started else 0
    is_pickup = form.is_after_pickup and grammar.bar_length is not None
    return grammar.cursor + (form.meter_steps - (grammar.bar_length or 0) if is_pickup else 0)


def _count_steps_left(grammar: MeasuresGrammar) -> int:
    if not grammar.in_bar:
        return 0
    if grammar.bar_length is None:
        return UNKNOWN_LEFT
    return min(max(grammar.bar_length - grammar.cursor, 0), MOST_STEPS)


def _find_effect(before: MeasuresGrammar, after: MeasuresGrammar, id_: int) -> int:
    """Return what an id does to the numbers of bars and sections."""
    kind, section = MEASURES.events[id_].kind, before.form.section
    if kind in ("bar", "partial"):
        return _PICKUP if after.form.is_after_pickup else _BAR
    if kind in ("repeat_start", "ending_end"):
        return _SECTION
    if kind == "repeat_end":
        return _NONE if section is not None and section.last_pass > 0 else _SECTION
    if kind == "ending":
        return _RETURN if section is not None and section.is_between_endings else _FORK
    return _NONE


BarIds: TypeAlias = dict[int, int]  # by place: the id + 1; never changed
_EMPTY: Final = BarIds()
_ZEROS: Final = (0,) * len(LAGS)


class ScoreContext(NamedTuple):
    """The score context of one tune, before its next id: a frozen value."""

    table: ContextTable
    state: int = 0
    bar: int = 0  # number of the current bar
    section: int = 0
    section_start: int = 0  # number of the last bar before the section
    fork: int = 0  # number of the last bar before the first ending
    bar_events: int = 0  # ids since the last bar opened
    run_events: tuple[int, ...] = _ZEROS  # for each lag, for how many ids it has matched
    run_bars: tuple[int, ...] = _ZEROS  # and for how many whole bars
    seen: tuple[int, ...] = _ZEROS  # for each lag, the id + 1 that stood here; 0: none
    ids: BarIds = _EMPTY  # of the current bar
    earlier: tuple[BarIds, ...] = (_EMPTY,) * len(LAGS)  # of the bar that each lag looks up
    bars: tuple[tuple[int, BarIds], ...] = (
        (_UNKNOWN, _EMPTY),
    ) * KEPT_BARS  # once left; n at n % 16
    vertical: VerticalContext = VerticalContext()
    echo: EchoContext = EchoContext()

    def compute_fields(self) -> tuple[int, ...]:
        """Return the value of each field, in the order of FIELDS, without those never followed."""
        table, state = self.table, self.state
        return (
            table.position[state],
            table.left[state],
            number_bar(self.bar - self.section_start),
            min(self.section, _MOST_SECTIONS),
            *self.seen,
            *[
                _MOST_EVENT_LEVELS + min(bars, _MOST_WHOLE_BARS)
                if bars
                else min(events.bit_length(), _MOST_EVENT_LEVELS)
                for events, bars in zip(self.run_events, self.run_bars, strict=True)
            ],
            *((*self.vertical.fields, *self.echo.compute_fields()) if table.has_vertical else ()),
        )

    def take(self, id_: int) -> ScoreContext:
        """Return the context after an id; the begin event changes nothing."""
        if id_ == BEGIN_ID:
            return self
        table, stored = self.table, id_ + 1
        state, effect = table.step(self.state, id_)
        run_events, run_bars = _ZEROS, _ZEROS
        if stored in self.seen:
            is_same = [seen == stored for seen in self.seen]
            run_events = tuple(
                [(run + 1) * same for run, same in zip(self.run_events, is_same, strict=True)]
            )
            run_bars = tuple([run * same for run, same in zip(self.run_bars, is_same, strict=True)])
        place, was_place = table.place[state], table.place[self.state]
        vertical, echo = self.vertical, self.echo
        if table.has_vertical:
            before, now = table.cursors[self.state], table.cursors[state]
            vertical = vertical.take(id_, before, now)
            echo = echo.take(Step(id_, before.step, was_place, now.voice, place))
        after = ScoreContext(
            table, state, self.bar, self.section, self.section_start, self.fork,
            self.bar_events + 1, run_events, run_bars,
            tuple([ids.get(place, 0) for ids in self.earlier]),
            {**self.ids, was_place: stored}, self.earlier, self.bars, vertical, echo,
        )  # fmt: skip
        return after if effect == _NONE else after._take_effect(effect)

    def _take_effect(self, effect: int) -> ScoreContext:
        """Return the context after an id that the numbers of bars and sections depend on."""
        if effect == _FORK:
            return self._replace(fork=self.bar)
        if effect == _SECTION and self.bar > self.section_start:
            return self._replace(section=self.section + 1, section_start=self.bar)
        if effect == _RETURN and self.fork != self.bar:
            return self._move(self.fork, self._get_bar(self.fork))
        if effect != _BAR:
            return self
        run_bars = tuple(
            bars + (events >= self.bar_events)
            for events, bars in zip(self.run_events, self.run_bars, strict=True)
        )
        return self._move(self.bar + 1, _EMPTY)._replace(bar_events=0, run_bars=run_bars)

    def _move(self, bar: int, ids: BarIds) -> ScoreContext:
        """Return the context in another bar, with what stands there so far."""
        row = self.bar % KEPT_BARS
        left = self._replace(
            bar=bar, ids=ids, bars=(*self.bars[:row], (self.bar, self.ids), *self.bars[row + 1 :])
        )
        earlier, place = (
            tuple(left._get_bar(bar - lag) for lag in LAGS),
            self.table.place[self.state],
        )
        return left._replace(earlier=earlier, seen=tuple(ids.get(place, 0) for ids in earlier))

    def _get_bar(self, number: int) -> BarIds:
        kept, ids = self.bars[number % KEPT_BARS]
        return ids if kept == number else _EMPTY


def number_bar(number: int) -> int:
    """Return the value of the field "bar": beyond 16 bars, one of sixteen numbers that recur."""
    if number <= _COUNTED_BARS:
        return number
    return _COUNTED_BARS + 1 + (number - 1) % _COUNTED_BARS


class ContextLanes:
    """The score contexts of many tunes side by side: those of `ScoreContext`, as arrays.

    Args:
        table: may be shared with others.
        lanes: the number of tunes, each before its first id.
    """

    def __init__(self, table: ContextTable, lanes: int) -> None:
        self.table = table
        self.numbers: IntArray = np.zeros((lanes, 6), np.int64)  # of `ScoreContext`, state first
        self.run_events: IntArray = np.zeros((lanes, len(LAGS)), np.int64)
        self.run_bars: IntArray = np.zeros((lanes, len(LAGS)), np.int64)
        self.seen: IntArray = np.zeros((lanes, len(LAGS)), np.int64)
        self.bars: IntArray = np.full((lanes, KEPT_BARS), _UNKNOWN)  # the bar at n % KEPT_BARS
        self.bars[:, 0] = 0
        self.ids: npt.NDArray[np.int16] = np.zeros((lanes, KEPT_BARS, 256), np.int16)
        self.vertical = VerticalLanes(lanes) if table.has_vertical else None
        self.echo = EchoLanes(lanes) if table.has_vertical else None

    def set_context(self, lane: int, context: ScoreContext) -> None:
        """Set a lane to a context of the same table."""
        self._make_room()
        self.numbers[lane] = context[1:7]  # state to bar_events
        self.run_events[lane], self.run_bars[lane] = context.run_events, context.run_bars
        self.seen[lane] = context.seen
        self.ids[lane] = 0
        rows = [*context.bars]
        rows[context.bar % KEPT_BARS] = context.bar, context.ids
        for row, (bar, ids) in enumerate(rows):
            self.bars[lane, row] = bar
            self.ids[lane, row, [*ids]] = [*ids.values()]
        if self.vertical is not None and self.echo is not None:
            self.vertical.set_context(lane, context.vertical)
            self.echo.set_context(lane, context.echo)

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        for name in ("numbers", "run_events", "run_bars", "seen", "bars", "ids"):
            setattr(self, name, getattr(self, name)[lanes])
        if self.vertical is not None and self.echo is not None:
            self.vertical.select_lanes(lanes)
            self.echo.select_lanes(lanes)

    def compute_fields(self) -> IntArray:
        """Return the value of each field of each lane, (lane, field) int64."""
        rows, state = self.table.rows, self.numbers[:, 0]
        bar, section, section_start = self.numbers[:, 1:4].T
        fields = np.empty((len(state), self.table.field_count), np.int64)
        fields[:, 0], fields[:, 1] = rows["position"][state], rows["left"][state]
        number = bar - section_start
        later = _COUNTED_BARS + 1 + (number - 1) % _COUNTED_BARS
        fields[:, 2] = np.where(number <= _COUNTED_BARS, number, later)
        fields[:, 3] = np.minimum(section, _MOST_SECTIONS)
        fields[:, FIRST_LAG:FIRST_MATCH] = self.seen
        fields[:, FIRST_MATCH:FIRST_VERTICAL] = np.where(
            self.run_bars > 0,
            _MOST_EVENT_LEVELS + np.minimum(self.run_bars, _MOST_WHOLE_BARS),
            _EVENT_LEVELS[np.minimum(self.run_events, len(_EVENT_LEVELS) - 1)],
        )
        if self.vertical is not None and self.echo is not None:
            fields[:, FIRST_VERTICAL:FIRST_ECHO] = self.vertical.fields
            fields[:, FIRST_ECHO:] = self.echo.compute_fields()
        return fields

    def take(self, ids: IntArray) -> None:
        """Advance each lane by its id, (lane,) int64; the begin event changes nothing.

        Raises:
            ValueError: some of the ids are begin events and some are not.
        """
        if not ids.all():
            if ids.any():
                raise ValueError("the lanes start their tunes at different times")
            return
        self._make_room()
        state, bar = self.numbers[:, 0].copy(), self.numbers[:, 1]
        self.ids[np.arange(len(ids)), bar % KEPT_BARS, self.table.rows["place"][state]] = ids + 1
        is_same = self.seen == (ids + 1)[:, None]
        self.run_events = (self.run_events + 1) * is_same
        self.run_bars *= is_same
        self.numbers[:, 5] += 1
        self.numbers[:, 0], effects = self._step(state, ids)
        if self.vertical is not None and self.echo is not None:
            rows, after = self.table.rows, self.numbers[:, 0]
            self.vertical.take(ids, rows, state, after)
            places, next_places = rows["place"][state], rows["place"][after]
            self.echo.take(
                Steps(ids, rows["step"][state], places, rows["voice"][after], next_places)
            )
        changed = np.flatnonzero(effects)
        if len(changed):
            self._take_effects(changed, effects[changed])
        self._look_back()

    def _step(self, state: IntArray, ids: IntArray) -> tuple[IntArray, npt.NDArray[np.int8]]:
        """Return the states after ids, and their effects; see `ContextTable.step`."""
        classes = _CLASS_ARRAY[ids]
        for lane in np.flatnonzero(self.table.rows["next"][state, classes] == _UNKNOWN).tolist():
            self.table.step(int(state[lane]), int(ids[lane]))
        return self.table.rows["next"][state, classes], self.table.rows["effect"][state, classes]

    def _look_back(self) -> None:
        bar, places = self.numbers[:, 1], self.table.rows["place"][self.numbers[:, 0]]
        lanes, wanted = np.arange(len(bar))[:, None], bar[:, None] - np.array(LAGS)
        rows = wanted % KEPT_BARS
        self._make_room()
        seen = self.ids[lanes, rows, places[:, None]]
        self.seen = np.where(self.bars[lanes, rows] == wanted, seen, 0).astype(np.int64)

    def _make_room(self) -> None:
        while self.table.place_count > self.ids.shape[2]:
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)], axis=2)

    def _take_effects(self, lanes: IntArray, effects: npt.NDArray[np.int8]) -> None:
        """Change the numbers of bars and sections of some lanes, by index: (lane,) both."""
        _, bar, section, section_start, fork, bar_events = self.numbers[lanes].T
        self.numbers[lanes, 4] = np.where(effects == _FORK, bar, fork)
        is_new = (effects == _SECTION) & (bar > section_start)
        self.numbers[lanes, 2] = section + is_new
        self.numbers[lanes, 3] = np.where(is_new, bar, section_start)
        is_opened = effects == _BAR
        self.numbers[lanes, 1] = np.where(effects == _RETURN, fork, bar + is_opened)
        self.numbers[lanes, 5] = np.where(is_opened, 0, bar_events)
        is_whole = is_opened[:, None] & (self.run_events[lanes] >= bar_events[:, None])
        self.run_bars[lanes] += is_whole
        self._open_rows(lanes[is_opened | (effects == _RETURN)])

    def _open_rows(self, lanes: IntArray) -> None:
        """Forget the bars whose rows the current bars of some lanes need, (lane,) int64."""
        bar = self.numbers[lanes, 1]
        is_other = self.bars[lanes, bar % KEPT_BARS] != bar
        # bar n opens again after a second ending: what stood there before is forgotten too
        is_other |= self.numbers[lanes, 5] == 0
        lanes, bar = lanes[is_other], bar[is_other]
        self.bars[lanes, bar % KEPT_BARS] = bar
        self.ids[lanes, bar % KEPT_BARS] = 0


ENCODED_LANES: Final = 256


def compute_contexts(tunes: Sequence[TokenIds], table: ContextTable) -> list[ContextFields]:
    """Compute the score context before each id of some tunes.

    Args:
        tunes: (token,) int16 or int64 each, from the first id of the header on.
        table: is extended.

    Returns:
        (token, field) int16 each, in the order of FIELDS.
    """
    contexts: list[ContextFields] = [np.empty((0, table.field_count), np.int16)] * len(tunes)
    by_length = sorted(range(len(tunes)), key=lambda index: -len(tunes[index]))
    for first in range(0, len(tunes), ENCODED_LANES):
        chosen = by_length[first : first + ENCODED_LANES]
        fields = _compute_padded_contexts([tunes[index] for index in chosen], table)
        for row, index in enumerate(chosen):
            contexts[index] = fields[row, : len(tunes[index])].copy()
    return contexts


def _compute_padded_contexts(tunes: Sequence[TokenIds], table: ContextTable) -> ContextFields:
    """Compute the contexts of tunes, the longest first: (tune, token, field) int16."""
    lengths = np.array([len(ids) for ids in tunes])
    padded = np.zeros((len(tunes), lengths[0]), np.int64)
    for row, ids in zip(padded, tunes, strict=True):
        row[: len(ids)] = ids
    contexts = np.zeros((*padded.shape, table.field_count), np.int16)
    lanes = ContextLanes(table, len(tunes))
    for step in range(lengths[0]):
        running = int(np.count_nonzero(lengths > step))
        if running < len(lanes.seen):
            lanes.select_lanes(np.arange(running))
        contexts[:running, step] = lanes.compute_fields()
        lanes.take(padded[:running, step])
    return contexts
