"""What may stand between two bars: repeats, endings, pickups, and the number of bars.

Bars are counted as heard: a repeated bar as often as it is played, a pickup and its partner once.
A short bar that *closes* a section counts as one bar; the pickup that completes it, or that opens
the tune, does not count.

A bar is counted when it opens, so that a `FormState` always describes what may follow the current
bar. An event is legal if a copy that has taken it can still end within the required number of bars.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, Self

from musicgen.music.score import MAX_PLAYS
from musicgen.tokens.constraints import Rules
from musicgen.tokens.song_form import FormLayout, FormSection
from musicgen.tokens.vocabulary import MEASURES

# Ranks of the events between two bars; each event may only follow lower ranks.
CLOSING, SECTION, ENDING, KEY, METER, IRREGULAR, BAR = range(7)
RANKS: Final = {
    "repeat_end": CLOSING, "ending_end": CLOSING, "repeat_start": SECTION, "ending": ENDING,
    "key": KEY, "meter": METER, "irregular": IRREGULAR, "bar": BAR, "partial": BAR, "end": BAR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RepeatedSection:
    """The open repeated section; its bars are counted once, as written."""

    pickup_steps: int | None = None  # 0: no pickup; None: not started, or irregular
    has_started: bool = False
    body_bars: int = 0  # bars before the first ending
    ending_bars: int = 0  # bars of the open ending
    finished_pass_bars: int = 0  # bars heard in the passes that have ended
    last_pass: int = 0  # the highest pass that has an ending; 0: no ending yet
    plays: int = 1  # number of passes of the open ending
    steps_owed_at_fork: int | None = 0  # steps that the bar before the first ending lacks
    is_between_endings: bool = False  # a pass has ended, and the next ending must open

    @property
    def bars_heard(self) -> int:
        """Bars heard in all passes, including those of the open ending."""
        return self.finished_pass_bars + self.plays * (self.body_bars + self.ending_bars)

    def fits(self, steps_owed: int | None) -> bool:
        """Tell whether the section's first bar completes a bar that lacks `steps_owed`."""
        return steps_owed is None or self.pickup_steps is None or steps_owed == self.pickup_steps


@dataclass(slots=True)
class FormState:
    """The form of a tune so far, at the end of the current bar."""

    rules: Rules
    meter_steps: int  # steps of a full bar
    rank: int = CLOSING  # of the last event after the current bar
    has_started: bool = False
    bars_written: int = 0
    bars_in_phrase: int = 0  # bars written since a section or an ending opened or closed
    bars_heard: int = 0  # without those of the open section
    steps_owed: int | None = 0  # steps that the current bar lacks; None: it is irregular
    is_after_border: bool = True  # a section or an ending has opened or closed since the bar
    is_after_pickup: bool = False  # the current bar is a pickup
    first_pickup_steps: int = 0  # steps of the pickup that opens the tune
    section: RepeatedSection | None = None

    @property
    def is_first_of_section(self) -> bool:
        """Whether the current bar is the first of a section of the layout, so nothing is held."""
        return False

    @property
    def is_last_bar(self) -> bool:
        """Whether the current bar is the last, or its section is repeated as the last."""
        return not self.can_add_bar()

    def state_key(self) -> tuple[object, ...]:
        """Return a key that is equal for equivalent forms: all fields but the bars written."""
        ignored = ("rules", "bars_written")
        return tuple(
            [getattr(self, name) for name in self.__dataclass_fields__ if name not in ignored]
        )

    def __copy__(self) -> Self:
        """Return an independent copy, ten times as fast as the default."""
        other = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            setattr(other, name, getattr(self, name))
        return other

    def legal_ids(self) -> list[int]:
        """Return the ids that may come next between two bars."""
        ids = (*self._closing_ids(), *self._opening_ids(), *self._bar_ids())
        return [id_ for id_ in ids if id_ in self.rules.allowed_ids]

    def take(self, kind: str, value: int | str | None) -> None:
        """Advance by an event between two bars, or by the opening of a bar."""
        if kind in ("bar", "partial"):
            self._open_bar(value if isinstance(value, int) else None)
        elif kind in ("repeat_start", "repeat_end", "ending", "ending_end"):
            getattr(self, "_take_" + kind)(value)
            self.is_after_border, self.bars_in_phrase = True, 0
        self.rank = RANKS[kind] if kind not in ("bar", "partial") else CLOSING

    # Closing a section or an ending

    def _closing_ids(self) -> Iterator[int]:
        section = self.section
        if self.rank != CLOSING or section is None or section.is_between_endings:
            return
        if not self.rules.strict:
            yield from (*MEASURES.ranges["repeat_end"], MEASURES.id("ending_end"))
        elif self.is_after_pickup:
            return
        elif section.last_pass == 0:
            if section.body_bars and section.fits(self.steps_owed):
                yield from self._feasible("repeat_end", MEASURES.ranges["repeat_end"])
        elif section.ending_bars:
            if self._can_open_another_pass(section):
                yield from self._feasible("repeat_end", [MEASURES.id("repeat_end", 2)])
            if section.last_pass > 1:
                yield from self._feasible("ending_end", [MEASURES.id("ending_end")])

    def _can_open_another_pass(self, section: RepeatedSection) -> bool:
        next_pass = section.last_pass + 1
        has_event = next_pass <= MAX_PLAYS and self.rules.allows("ending", str(next_pass))
        return has_event and section.fits(self.steps_owed)

    # Opening a section or an ending

    def _opening_ids(self) -> Iterator[int]:
        rules, section = self.rules, self.section
        may_open = section is None or (section.is_between_endings and not rules.strict)
        if self.rank < SECTION and may_open and rules.can_repeat and not self._has_open_pickup():
            yield from self._feasible("repeat_start", MEASURES.ranges["repeat_start"])
        if self.rank < ENDING and section is not None and self._may_open_ending(section):
            yield from self._feasible("ending", self._ending_ids(section))
        if self.rank < KEY and self.has_started and self._bar_may_follow():
            yield from rules.ids_of_kind("key")
        if not rules.strict and self.rank < METER and self.has_started:
            yield from MEASURES.ranges["meter"]
        if not rules.strict and self.rank < IRREGULAR:
            yield MEASURES.id("irregular")

    def _has_open_pickup(self) -> bool:
        """Tell whether a full bar must follow the current bar, a pickup."""
        return self.rules.strict and self.is_after_pickup

    def _bar_may_follow(self) -> bool:
        return any(MEASURES.events[id_].kind != "end" for id_ in self._bar_ids())

    def _must_open_ending(self) -> bool:
        return self.rules.strict and self.section is not None and self.section.is_between_endings

    def _may_open_ending(self, section: RepeatedSection) -> bool:
        if section.is_between_endings or not self.rules.strict:
            return section.is_between_endings or section.last_pass == 0
        may_fork = (
            section.last_pass == 0 and section.body_bars > 0 and self.rules.allows("ending", "2")
        )
        return may_fork and not self.steps_owed and not self.is_after_pickup

    def _ending_ids(self, section: RepeatedSection) -> list[int]:
        if self.rules.strict:
            return [MEASURES.id("ending", str(section.last_pass + 1))]
        return [
            id_
            for id_ in MEASURES.ranges["ending"]
            if int(str(MEASURES.events[id_].value)[0]) > section.last_pass
        ]

    # Bars

    def _bar_ids(self) -> Iterator[int]:
        rules = self.rules
        if not rules.strict:
            yield MEASURES.id("bar")
            yield from MEASURES.ranges["partial"]
            yield MEASURES.id("end")
            return
        if self._must_open_ending():
            return
        if not self.steps_owed and (self.has_started or not rules.pickup):
            yield from self._feasible("bar", [MEASURES.id("bar")])
        yield from self._feasible(
            "partial", [MEASURES.id("partial", steps) for steps in self._short_bar_lengths()]
        )
        if self._may_end_now():
            yield MEASURES.id("end")

    def _short_bar_lengths(self) -> tuple[int, ...]:
        """Return the lengths in steps that a short bar may have next."""
        pickups = self.rules.pickup_lengths(self.meter_steps)
        if not self.has_started:
            return pickups
        if self.steps_owed:
            return (self.steps_owed,) if self.is_after_border else ()
        if self.is_after_pickup:
            return ()  # a full bar stands between a pickup and the bar that closes
        section = self.section
        if section is not None and section.last_pass > 1:
            return pickups
        pickup_steps = self.first_pickup_steps if section is None else section.pickup_steps
        has_started = section is None or section.has_started
        return (self.meter_steps - pickup_steps,) if pickup_steps and has_started else ()

    def _may_end(self) -> bool:
        is_complete = not self.steps_owed or self.steps_owed == self.first_pickup_steps
        return (
            self.section is None
            and self.bars_heard > 0
            and not self.is_after_pickup
            and is_complete
        )

    def _may_end_now(self) -> bool:
        """Tell whether the tune may end here with an allowed number of bars."""
        return self._may_end() and self.rules.min_bars <= self.bars_heard <= self.rules.max_bars

    def can_add_bar(self) -> bool:
        """Tell whether another bar may follow."""
        return any(map(self.can_add_bar_after, self.legal_ids()))

    def can_add_bar_after(self, id_: int) -> bool:
        """Tell whether a legal event opens a bar, or may be followed by one."""
        event = MEASURES.events[id_]
        if event.kind in ("bar", "partial"):
            return True
        if event.kind in ("end", "key"):  # a key changes only where a bar may follow
            return event.kind == "key"
        after = copy(self)
        after.take(event.kind, event.value)
        return after.can_add_bar()

    # Taking events

    def _open_bar(self, short_steps: int | None) -> None:
        """Open a full bar, or a short one of some steps."""
        is_irregular = self.rank == IRREGULAR
        is_pickup = short_steps is not None and (not self.has_started or (self.steps_owed or 0) > 0)
        if short_steps is not None and not self.has_started:
            self.first_pickup_steps = short_steps
        if self.section is not None and not self.section.has_started:
            pickup_steps = None if is_irregular else short_steps if is_pickup else 0
            self.section = replace(self.section, pickup_steps=pickup_steps, has_started=True)
        if is_irregular:
            self.steps_owed = None
        else:
            closes = short_steps is not None and not is_pickup
            self.steps_owed = self.meter_steps - (short_steps or 0) if closes else 0
        self.is_after_pickup, self.has_started, self.is_after_border = is_pickup, True, False
        self.bars_written += 1
        self.bars_in_phrase += 1
        self._count_bars(0 if is_pickup else 1)

    def _count_bars(self, bars: int) -> None:
        section = self.section
        if section is None:
            self.bars_heard += bars
        elif section.last_pass == 0:
            self.section = replace(section, body_bars=section.body_bars + bars)
        else:
            self.section = replace(section, ending_bars=section.ending_bars + bars)

    def _take_repeat_start(self, _: None) -> None:
        if self.section is not None:
            self.bars_heard += self.section.finished_pass_bars
        self.section = RepeatedSection()

    def _take_repeat_end(self, plays: int) -> None:
        section = self.section
        if section is None:
            return
        if section.last_pass == 0:
            self.bars_heard += plays * section.body_bars
            self.section = None
            return
        self.section = replace(
            section,
            finished_pass_bars=section.bars_heard,
            ending_bars=0,
            is_between_endings=True,
        )

    def _take_ending(self, value: str) -> None:
        section = self.section or RepeatedSection(pickup_steps=0, has_started=True)
        if section.is_between_endings:
            self.steps_owed = section.steps_owed_at_fork
        self.section = replace(
            section,
            steps_owed_at_fork=self.steps_owed,
            last_pass=int(value[-1]),
            plays=len(value),
            is_between_endings=False,
        )

    def _take_ending_end(self, _: None) -> None:
        section = self.section
        if section is not None:
            self.bars_heard += section.bars_heard
            self.section = None

    # Look-ahead

    def _feasible(self, kind: str, ids: range | list[int]) -> Iterator[int]:
        """Yield the ids after which the tune can still end with an allowed number of bars."""
        for id_ in ids:
            if id_ in self.rules.allowed_ids:
                after = copy(self)
                after.take(kind, MEASURES.events[id_].value)
                if after.can_finish():
                    yield id_

    def can_finish(self) -> bool:
        """Tell whether the tune can still end with an allowed number of bars.

        From nearly every state, all numbers from the least one on can be reached by adding full
        bars. After a closing bar outside of a section, the tune ends or a section opens.
        """
        rules = self.rules
        if not rules.strict:
            return True
        if self.section is None and self.steps_owed and not self.is_after_border:
            return self._may_end_now() or (
                rules.can_repeat and self.bars_heard + 4 <= rules.max_bars
            )
        return self.min_total_bars() <= rules.max_bars

    def min_total_bars(self) -> int:
        """Return the least number of bars heard with which the tune can end."""
        section = self.section
        if section is None:
            needs_bar = self.is_after_pickup or not self.bars_heard
            return self.bars_heard + (1 if needs_bar else self._extra_bars(self.steps_owed))
        heard, body = self.bars_heard + section.finished_pass_bars, section.body_bars
        if section.is_between_endings:
            return heard + body + 1
        may_close = not self.is_after_pickup and section.fits(self.steps_owed)
        if section.last_pass == 0:
            next_pickup = self.steps_owed if self.has_started else self.rules.pickup
            pickup_steps = section.pickup_steps if section.has_started else next_pickup
            if pickup_steps and (self.is_after_pickup or not section.has_started):
                body += 2  # after the pickup a full bar, then the bar that closes
            else:
                body += not (body and may_close and section.has_started)
            return heard + 2 * body + (self._extra_bars(pickup_steps) if self.has_started else 0)
        if section.last_pass == 1:
            ending = section.ending_bars + (not (section.ending_bars and may_close))
            return heard + body + ending + body + 1
        has_ending = section.ending_bars > 0 and not self.is_after_pickup
        extra_bars = self._extra_bars(self.steps_owed) if has_ending else 1
        return heard + body + section.ending_bars + extra_bars

    def _extra_bars(self, steps_owed: int | None) -> int:
        """Return the bars that a tune needs after a section whose last bar lacks some steps."""
        return 0 if not steps_owed or steps_owed == self.first_pickup_steps else 1


@dataclass(slots=True)
class FixedFormState(FormState):
    """The form of a tune with a layout: at most its pickup is free."""

    section_index: int = 0  # of the current section
    bars_filled: int = 0  # bars of the current section so far
    has_opened: bool = False  # whether the current section has begun

    @property
    def form_section(self) -> FormSection:
        """The current section."""
        return self.layout.sections[self.section_index]

    @property
    def layout(self) -> FormLayout:
        """The layout that the rules require."""
        assert self.rules.layout is not None
        return self.rules.layout

    @property
    def is_first_of_section(self) -> bool:
        """Whether the current bar is the first of its section, or the pickup before it."""
        return self.bars_filled <= 1

    @property
    def is_last_bar(self) -> bool:
        """Whether the current bar is the last, or its section is repeated as the last."""
        last = len(self.layout.sections) - 1
        final_sections = (last, self.layout.sections[last].source)
        return self.section_index in final_sections and self.bars_filled == self.form_section.bars

    @property
    def next_section(self) -> FormSection | None:
        """The section that opens next; None inside a section, and after the last one."""
        if self.section is not None or (
            self.has_opened and self.bars_filled < self.form_section.bars
        ):
            return None
        index = self.section_index + self.has_opened
        return self.layout.sections[index] if index < len(self.layout.sections) else None

    def _closing_ids(self) -> Iterator[int]:
        is_full = self.section is not None and self.bars_filled == self.form_section.bars
        if self.rank == CLOSING and is_full:
            yield MEASURES.id("repeat_end", self.form_section.plays)

    def _opening_ids(self) -> Iterator[int]:
        if self.rank < SECTION and self.next_section is not None and self.next_section.plays > 1:
            yield MEASURES.id("repeat_start")

    def _bar_ids(self) -> Iterator[int]:
        next_section = self.next_section
        if next_section is not None and next_section.plays == 1:
            yield from self._next_bar_ids(next_section, 0)
        elif self.has_opened and self.bars_filled < self.form_section.bars:
            yield from self._next_bar_ids(self.form_section, self.bars_filled)
        elif next_section is None and self.section is None:
            yield MEASURES.id("end")

    def _next_bar_ids(self, form_section: FormSection, bars_filled: int) -> Iterator[int]:
        """Yield the ids of the bars with which a section may continue."""
        ends_short = (
            bars_filled == form_section.bars - 1
            and form_section.has_short_end
            and self.first_pickup_steps > 0
        )
        if self.steps_owed:
            yield MEASURES.id("partial", self.steps_owed)
        elif not self.has_started:
            for steps in self.rules.pickup_lengths(self.meter_steps):
                yield MEASURES.id("partial", steps)
            if not self.rules.pickup:
                yield MEASURES.id("bar")
        elif ends_short:
            yield MEASURES.id("partial", self.meter_steps - self.first_pickup_steps)
        else:
            yield MEASURES.id("bar")

    def _advance(self) -> None:
        """Open the next section if the current one is full."""
        if self.has_opened and self.bars_filled == self.form_section.bars:
            self.section_index, self.bars_filled = self.section_index + 1, 0
        self.has_opened = True

    def _open_bar(self, short_steps: int | None) -> None:
        if self.section is None:
            self._advance()
        FormState._open_bar(self, short_steps)

    def _count_bars(self, bars: int) -> None:
        FormState._count_bars(self, bars)
        self.bars_filled += bars

    def _take_repeat_start(self, _: None) -> None:
        self._advance()
        FormState._take_repeat_start(self, None)

    def _take_repeat_end(self, plays: int) -> None:
        FormState._take_repeat_end(self, plays)
        self.section_index, self.bars_filled, self.has_opened = self.section_index + 1, 0, False


def create_form_state(rules: Rules, meter_steps: int) -> FormState:
    """Create the form state of a new tune."""
    form_class = FormState if rules.layout is None else FixedFormState
    return form_class(rules, meter_steps)
