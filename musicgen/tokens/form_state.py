"""What may stand between two bars: repeats, endings, pickups, and the number of bars.

Bars are counted as heard: a repeated bar as often as it is played, a pickup and its partner once.
A short bar that *closes* counts as one; the pickup that completes it, or opens the tune, as none.

A bar is counted when it opens, so that a `Form` always answers for what follows the bar under way.
Whether an event is legal is asked of a copy that has followed it: can the tune still be finished
with a number of bars that was asked for?
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Final, Self

from musicgen.music.score import MAX_PLAYS
from musicgen.tokens.constraints import Rules
from musicgen.tokens.song_form import FormLayout, FormSection
from musicgen.tokens.vocabulary import MEASURES

# Ranks of the events between two bars; each may only follow lower ones.
CLOSING, SECTION, ENDING, KEY, METER, IRREGULAR, BAR = range(7)
RANKS: Final = {
    "repeat_end": CLOSING, "ending_end": CLOSING, "repeat_start": SECTION, "ending": ENDING,
    "key": KEY, "meter": METER, "irregular": IRREGULAR, "bar": BAR, "partial": BAR, "end": BAR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RepeatedSection:
    """A repeated section under way; bars are counted once, as written."""

    pickup_steps: int | None = (
        None  # steps of its pickup, 0 without one; None: not started, irregular
    )
    has_started: bool = False
    body_bars: int = 0  # bars before the first ending
    ending_bars: int = 0  # bars of the ending under way
    finished_pass_bars: int = 0  # bars heard in the passes that are over
    last_pass: int = 0  # the highest pass that has an ending; 0: no ending yet
    plays: int = 1  # passes that the ending under way is played in
    steps_owed_at_fork: int | None = 0  # what the bar before the first ending owes
    is_between_endings: bool = False  # a pass is over; the next ending opens

    def fits(self, steps_owed: int | None) -> bool:
        """Tell whether the section's first bar completes what the last one owes."""
        return steps_owed is None or self.pickup_steps is None or steps_owed == self.pickup_steps


@dataclass(slots=True)
class FormState:
    """The form of a tune so far, seen from the end of the bar under way."""

    rules: Rules
    meter_steps: int
    rank: int = CLOSING  # of the last event since the bar
    has_started: bool = False
    bars_written: int = 0  # bars
    bars_in_phrase: int = 0  # bars since the last border
    bars_heard: int = 0  # bars outside of the section under way
    steps_owed: int | None = 0  # steps that the last bar lacks; None: unknown, it was irregular
    is_after_border: bool = True  # a section or an ending has opened or closed since the last bar
    is_after_pickup: bool = False  # the last bar is a pickup
    first_pickup_steps: int = 0  # steps of the pickup that opens the tune
    section: RepeatedSection | None = field(default=None)

    @property
    def is_first_of_section(self) -> bool:
        """Whether nothing may be held into the bar under way, the first of a part."""
        return False

    @property
    def is_last_bar(self) -> bool:
        """Whether the bar under way is the last, or will be written again as the last."""
        return not self.can_add_bar()

    def state_key(self) -> tuple[object, ...]:
        """Return what tells this form so far from others: all of it, but how many bars it took."""
        names = (one for one in self.__dataclass_fields__ if one not in ("rules", "bars_written"))
        return tuple([getattr(self, name) for name in names])

    def __copy__(self) -> Self:
        """Return a form that goes on from here alone; copy's own way takes ten times as long."""
        other = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            setattr(other, name, getattr(self, name))
        return other

    def legal_ids(self) -> list[int]:
        """Return the ids that may come next between two bars."""
        found = [*self._closings(), *self._openings(), *self._bars()]
        return [i for i in found if i in self.rules.allowed_ids]

    def take(self, kind: str, value: int | str | None) -> None:
        """Follow an event between two bars; of a bar, its opening."""
        if kind in ("bar", "partial"):
            self._open_bar(value if isinstance(value, int) else None)
        elif kind in ("repeat_start", "repeat_end", "ending", "ending_end"):
            getattr(self, "_take_" + kind)(value)
            self.is_after_border, self.bars_in_phrase = True, 0
        self.rank = RANKS[kind] if kind not in ("bar", "partial") else CLOSING

    # What closes

    def _closings(self) -> Iterator[int]:
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
        following = section.last_pass + 1
        known = following <= MAX_PLAYS and self.rules.allows("ending", str(following))
        return known and section.fits(self.steps_owed)

    # What opens

    def _openings(self) -> Iterator[int]:
        rules, section = self.rules, self.section
        free = section is None or (section.is_between_endings and not rules.strict)
        if self.rank < SECTION and free and rules.can_repeat and not self._has_open_pickup():
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
        """Tell whether the last bar is a pickup that what follows must complete."""
        return self.rules.strict and self.is_after_pickup

    def _bar_may_follow(self) -> bool:
        return any(MEASURES.events[id_].kind != "end" for id_ in self._bars())

    def _must_open_ending(self) -> bool:
        return self.rules.strict and self.section is not None and self.section.is_between_endings

    def _may_open_ending(self, section: RepeatedSection) -> bool:
        if section.is_between_endings or not self.rules.strict:
            return section.is_between_endings or section.last_pass == 0
        first = (
            section.last_pass == 0 and section.body_bars > 0 and self.rules.allows("ending", "2")
        )
        return first and not self.steps_owed and not self.is_after_pickup

    def _ending_ids(self, section: RepeatedSection) -> list[int]:
        if self.rules.strict:
            return [MEASURES.id("ending", str(section.last_pass + 1))]
        ids = MEASURES.ranges["ending"]
        return [i for i in ids if int(str(MEASURES.events[i].value)[0]) > section.last_pass]

    # Bars

    def _bars(self) -> Iterator[int]:
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
            "partial", [MEASURES.id("partial", n) for n in self._short_bar_lengths()]
        )
        if self._may_end() and rules.min_bars <= self.bars_heard <= rules.max_bars:
            yield MEASURES.id("end")

    def _short_bar_lengths(self) -> tuple[int, ...]:
        """Return the lengths of a short bar that may come next."""
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
        opening = self.first_pickup_steps if section is None else section.pickup_steps
        started = section is None or section.has_started
        return (self.meter_steps - opening,) if opening and started else ()

    def _may_end(self) -> bool:
        whole = not self.steps_owed or self.steps_owed == self.first_pickup_steps
        return self.section is None and self.bars_heard > 0 and not self.is_after_pickup and whole

    def can_add_bar(self) -> bool:
        """Tell whether another bar may follow."""
        return any(map(self.can_add_bar_after, self.legal_ids()))

    def can_add_bar_after(self, id_: int) -> bool:
        """Tell whether another bar may follow a legal event, or opens with it."""
        event = MEASURES.events[id_]
        if event.kind in ("bar", "partial"):
            return True
        if event.kind in ("end", "key"):  # a key changes only where a bar may follow
            return event.kind == "key"
        after = copy(self)
        after.take(event.kind, event.value)
        return after.can_add_bar()

    # Following

    def _open_bar(self, short_steps: int | None) -> None:
        irregular = self.rank == IRREGULAR
        opens = short_steps is not None and (not self.has_started or (self.steps_owed or 0) > 0)
        if short_steps is not None and not self.has_started:
            self.first_pickup_steps = short_steps
        if self.section is not None and not self.section.has_started:
            opening = None if irregular else short_steps if opens else 0
            self.section = replace(self.section, pickup_steps=opening, has_started=True)
        closes = short_steps is not None and not opens
        self.steps_owed = (
            None if irregular else self.meter_steps - (short_steps or 0) if closes else 0
        )
        self.is_after_pickup, self.has_started, self.is_after_border = opens, True, False
        self.bars_written += 1
        self.bars_in_phrase += 1
        self._count(0 if opens else 1)

    def _count(self, bars: int) -> None:
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
        heard = section.finished_pass_bars + section.plays * (
            section.body_bars + section.ending_bars
        )
        self.section = replace(
            section, finished_pass_bars=heard, ending_bars=0, is_between_endings=True
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
            self.bars_heard += section.finished_pass_bars + section.plays * (
                section.body_bars + section.ending_bars
            )
            self.section = None

    # Looking ahead

    def _feasible(self, kind: str, ids: range | list[int]) -> Iterator[int]:
        """Yield the ids after which a number of bars that was asked for can be reached."""
        for id_ in ids:
            if id_ in self.rules.allowed_ids:
                after = copy(self)
                after.take(kind, MEASURES.events[id_].value)
                if after.can_finish():
                    yield id_

    def can_finish(self) -> bool:
        """Tell whether the tune can still end with fewest..most bars.

        From nearly every place all numbers from the least one on can be reached, a full bar at a
        time. After a closing bar outside of a section the tune ends, or a section opens.
        """
        rules = self.rules
        if not rules.strict:
            return True
        if self.section is None and self.steps_owed and not self.is_after_border:
            now = self._may_end() and rules.min_bars <= self.bars_heard <= rules.max_bars
            return now or (rules.can_repeat and self.bars_heard + 4 <= rules.max_bars)
        return self.min_total_bars() <= rules.max_bars

    def min_total_bars(self) -> int:
        """Return the fewest bars, as heard, with which the tune can end from here."""
        section = self.section
        if section is None:
            open_ = self.is_after_pickup or not self.bars_heard
            return self.bars_heard + (1 if open_ else self._extra(self.steps_owed))
        heard, body = self.bars_heard + section.finished_pass_bars, section.body_bars
        if section.is_between_endings:
            return heard + body + 1
        settled = not self.is_after_pickup and section.fits(self.steps_owed)
        if section.last_pass == 0:
            coming = self.steps_owed if self.has_started else self.rules.pickup
            opening = section.pickup_steps if section.has_started else coming
            if opening and (self.is_after_pickup or not section.has_started):
                body += 2  # after its pickup a full bar, and the one that closes
            else:
                body += not (body and settled and section.has_started)
            return heard + 2 * body + (self._extra(opening) if self.has_started else 0)
        if section.last_pass == 1:
            ending = section.ending_bars + (not (section.ending_bars and settled))
            return heard + body + ending + body + 1
        done = section.ending_bars > 0 and not self.is_after_pickup
        return heard + body + section.ending_bars + (self._extra(self.steps_owed) if done else 1)

    def _extra(self, steps_owed: int | None) -> int:
        """Return how many more bars a tune needs that ends a section owing some steps."""
        return 0 if not steps_owed or steps_owed == self.first_pickup_steps else 1


@dataclass(slots=True)
class FixedFormState(FormState):
    """The form of a tune whose parts are laid out: at most its pickup is free."""

    section_index: int = 0  # of the stretch under way
    bars_filled: int = 0  # its bars so far
    has_opened: bool = False  # whether it has begun

    @property
    def form_section(self) -> FormSection:
        """The stretch under way."""
        return self.layout.sections[self.section_index]

    @property
    def layout(self) -> FormLayout:
        """What the rules ask for."""
        assert self.rules.layout is not None
        return self.rules.layout

    @property
    def is_first_of_section(self) -> bool:
        """Whether the bar under way is the first of its stretch, or the pickup before it."""
        return self.bars_filled <= 1

    @property
    def is_last_bar(self) -> bool:
        """Whether the bar under way is the last, or will be written again as the last."""
        last = len(self.layout.sections) - 1
        ends = (last, self.layout.sections[last].source)
        return self.section_index in ends and self.bars_filled == self.form_section.bars

    @property
    def next_section(self) -> FormSection | None:
        """The stretch that opens next; None inside of one, and after the last."""
        if self.section is not None or (
            self.has_opened and self.bars_filled < self.form_section.bars
        ):
            return None
        place = self.section_index + self.has_opened
        return self.layout.sections[place] if place < len(self.layout.sections) else None

    def _closings(self) -> Iterator[int]:
        is_full = self.section is not None and self.bars_filled == self.form_section.bars
        if self.rank == CLOSING and is_full:
            yield MEASURES.id("repeat_end", self.form_section.plays)

    def _openings(self) -> Iterator[int]:
        if self.rank < SECTION and self.next_section is not None and self.next_section.plays > 1:
            yield MEASURES.id("repeat_start")

    def _bars(self) -> Iterator[int]:
        coming = self.next_section
        if coming is not None and coming.plays == 1:
            yield from self._next_bar(coming, 0)
        elif self.has_opened and self.bars_filled < self.form_section.bars:
            yield from self._next_bar(self.form_section, self.bars_filled)
        elif coming is None and self.section is None:
            yield MEASURES.id("end")

    def _next_bar(self, form_section: FormSection, bars_filled: int) -> Iterator[int]:
        """Yield the kinds of bar that a stretch may go on with."""
        ends_short = (
            bars_filled == form_section.bars - 1
            and form_section.has_short_end
            and self.first_pickup_steps > 0
        )
        if self.steps_owed:
            yield MEASURES.id("partial", self.steps_owed)
        elif not self.has_started:
            yield from (
                MEASURES.id("partial", n) for n in self.rules.pickup_lengths(self.meter_steps)
            )
            if not self.rules.pickup:
                yield MEASURES.id("bar")
        elif ends_short:
            yield MEASURES.id("partial", self.meter_steps - self.first_pickup_steps)
        else:
            yield MEASURES.id("bar")

    def _advance(self) -> None:
        """Go on to the next stretch where the one under way is full."""
        if self.has_opened and self.bars_filled == self.form_section.bars:
            self.section_index, self.bars_filled = self.section_index + 1, 0
        self.has_opened = True

    def _open_bar(self, short_steps: int | None) -> None:
        if self.section is None:
            self._advance()
        FormState._open_bar(self, short_steps)

    def _count(self, bars: int) -> None:
        FormState._count(self, bars)
        self.bars_filled += bars

    def _take_repeat_start(self, _: None) -> None:
        self._advance()
        FormState._take_repeat_start(self, None)

    def _take_repeat_end(self, plays: int) -> None:
        FormState._take_repeat_end(self, plays)
        self.section_index, self.bars_filled, self.has_opened = self.section_index + 1, 0, False


def create_form_state(rules: Rules, meter_steps: int) -> FormState:
    """Start the form of a tune."""
    return (
        FormState(rules, meter_steps)
        if rules.layout is None
        else FixedFormState(rules, meter_steps)
    )
