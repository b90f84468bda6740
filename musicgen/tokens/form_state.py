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
from musicgen.tokens.song_form import Layout, Stretch
from musicgen.tokens.vocabulary import MEASURES

# Ranks of the events between two bars; each may only follow lower ones.
CLOSING, SECTION, ENDING, KEY, METER, IRREGULAR, BAR = range(7)
RANKS: Final = {
    "repeat_end": CLOSING, "ending_end": CLOSING, "repeat_start": SECTION, "ending": ENDING,
    "key": KEY, "meter": METER, "irregular": IRREGULAR, "bar": BAR, "partial": BAR, "end": BAR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Section:
    """A repeated section under way; bars are counted once, as written."""

    opening: int | None = None  # steps of its pickup, 0 without one; None: not started, irregular
    started: bool = False
    body: int = 0  # bars before the first ending
    ending: int = 0  # bars of the ending under way
    passes: int = 0  # bars heard in the passes that are over
    last_pass: int = 0  # the highest pass that has an ending; 0: no ending yet
    plays: int = 1  # passes that the ending under way is played in
    fork: int | None = 0  # what the bar before the first ending owes
    between: bool = False  # a pass is over; the next ending opens

    def fits(self, owed: int | None) -> bool:
        """Tell whether the section's first bar completes what the last one owes."""
        return owed is None or self.opening is None or owed == self.opening


@dataclass(slots=True)
class Form:
    """The form of a tune so far, seen from the end of the bar under way."""

    rules: Rules
    meter_steps: int
    rank: int = CLOSING  # of the last event since the bar
    started: bool = False
    written: int = 0  # bars
    phrase: int = 0  # bars since the last border
    heard: int = 0  # bars outside of the section under way
    owed: int | None = 0  # steps that the last bar lacks; None: unknown, it was irregular
    border: bool = True  # a section or an ending has opened or closed since the last bar
    opened_short: bool = False  # the last bar is a pickup
    first_short: int = 0  # steps of the pickup that opens the tune
    section: Section | None = field(default=None)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing may be held into the bar under way, the first of a part."""
        return False

    @property
    def is_last(self) -> bool:
        """Whether the bar under way is the last, or will be written again as the last."""
        return not self.goes_on()

    def key(self) -> tuple[object, ...]:
        """Return what tells this form so far from others: all of it, but how many bars it took."""
        names = (one for one in self.__dataclass_fields__ if one not in ("rules", "written"))
        return tuple([getattr(self, name) for name in names])

    def __copy__(self) -> Self:
        """Return a form that goes on from here alone; copy's own way takes ten times as long."""
        other = object.__new__(type(self))
        for name in self.__dataclass_fields__:
            setattr(other, name, getattr(self, name))
        return other

    def legal(self) -> list[int]:
        """Return the ids that may come next between two bars."""
        found = [*self._closings(), *self._openings(), *self._bars()]
        return [i for i in found if i in self.rules.allowed]

    def take(self, kind: str, value: int | str | None) -> None:
        """Follow an event between two bars; of a bar, its opening."""
        if kind in ("bar", "partial"):
            self._open_bar(value if isinstance(value, int) else None)
        elif kind in ("repeat_start", "repeat_end", "ending", "ending_end"):
            getattr(self, "_take_" + kind)(value)
            self.border, self.phrase = True, 0
        self.rank = RANKS[kind] if kind not in ("bar", "partial") else CLOSING

    # What closes

    def _closings(self) -> Iterator[int]:
        section = self.section
        if self.rank != CLOSING or section is None or section.between:
            return
        if not self.rules.strict:
            yield from (*MEASURES.ranges["repeat_end"], MEASURES.id("ending_end"))
        elif self.opened_short:
            return
        elif section.last_pass == 0:
            if section.body and section.fits(self.owed):
                yield from self._feasible("repeat_end", MEASURES.ranges["repeat_end"])
        elif section.ending:
            if self._another_pass(section):
                yield from self._feasible("repeat_end", [MEASURES.id("repeat_end", 2)])
            if section.last_pass > 1:
                yield from self._feasible("ending_end", [MEASURES.id("ending_end")])

    def _another_pass(self, section: Section) -> bool:
        following = section.last_pass + 1
        known = following <= MAX_PLAYS and self.rules.has("ending", str(following))
        return known and section.fits(self.owed)

    # What opens

    def _openings(self) -> Iterator[int]:
        rules, section = self.rules, self.section
        free = section is None or (section.between and not rules.strict)
        if self.rank < SECTION and free and rules.can_repeat and not self._hangs():
            yield from self._feasible("repeat_start", MEASURES.ranges["repeat_start"])
        if self.rank < ENDING and section is not None and self._may_fork(section):
            yield from self._feasible("ending", self._ending_ids(section))
        if self.rank < KEY and self.started and self._bar_may_follow():
            yield from rules.ids("key")
        if not rules.strict and self.rank < METER and self.started:
            yield from MEASURES.ranges["meter"]
        if not rules.strict and self.rank < IRREGULAR:
            yield MEASURES.id("irregular")

    def _hangs(self) -> bool:
        """Tell whether the last bar is a pickup that what follows must complete."""
        return self.rules.strict and self.opened_short

    def _bar_may_follow(self) -> bool:
        return any(MEASURES.events[id_].kind != "end" for id_ in self._bars())

    def _must_open_ending(self) -> bool:
        return self.rules.strict and self.section is not None and self.section.between

    def _may_fork(self, section: Section) -> bool:
        if section.between or not self.rules.strict:
            return section.between or section.last_pass == 0
        first = section.last_pass == 0 and section.body > 0 and self.rules.has("ending", "2")
        return first and not self.owed and not self.opened_short

    def _ending_ids(self, section: Section) -> list[int]:
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
        if not self.owed and (self.started or not rules.pickup):
            yield from self._feasible("bar", [MEASURES.id("bar")])
        yield from self._feasible("partial", [MEASURES.id("partial", n) for n in self._shorts()])
        if self._may_end() and rules.fewest <= self.heard <= rules.most:
            yield MEASURES.id("end")

    def _shorts(self) -> tuple[int, ...]:
        """Return the lengths of a short bar that may come next."""
        pickups = self.rules.pickups(self.meter_steps)
        if not self.started:
            return pickups
        if self.owed:
            return (self.owed,) if self.border else ()
        if self.opened_short:
            return ()  # a full bar stands between a pickup and the bar that closes
        section = self.section
        if section is not None and section.last_pass > 1:
            return pickups
        opening = self.first_short if section is None else section.opening
        started = section is None or section.started
        return (self.meter_steps - opening,) if opening and started else ()

    def _may_end(self) -> bool:
        whole = not self.owed or self.owed == self.first_short
        return self.section is None and self.heard > 0 and not self.opened_short and whole

    def goes_on(self) -> bool:
        """Tell whether another bar may follow."""
        return any(map(self.leads_on, self.legal()))

    def leads_on(self, id_: int) -> bool:
        """Tell whether another bar may follow a legal event, or opens with it."""
        event = MEASURES.events[id_]
        if event.kind in ("bar", "partial"):
            return True
        if event.kind in ("end", "key"):  # a key changes only where a bar may follow
            return event.kind == "key"
        after = copy(self)
        after.take(event.kind, event.value)
        return after.goes_on()

    # Following

    def _open_bar(self, short: int | None) -> None:
        irregular = self.rank == IRREGULAR
        opens = short is not None and (not self.started or (self.owed or 0) > 0)
        if short is not None and not self.started:
            self.first_short = short
        if self.section is not None and not self.section.started:
            opening = None if irregular else short if opens else 0
            self.section = replace(self.section, opening=opening, started=True)
        closes = short is not None and not opens
        self.owed = None if irregular else self.meter_steps - (short or 0) if closes else 0
        self.opened_short, self.started, self.border = opens, True, False
        self.written += 1
        self.phrase += 1
        self._count(0 if opens else 1)

    def _count(self, bars: int) -> None:
        section = self.section
        if section is None:
            self.heard += bars
        elif section.last_pass == 0:
            self.section = replace(section, body=section.body + bars)
        else:
            self.section = replace(section, ending=section.ending + bars)

    def _take_repeat_start(self, _: None) -> None:
        if self.section is not None:
            self.heard += self.section.passes
        self.section = Section()

    def _take_repeat_end(self, plays: int) -> None:
        section = self.section
        if section is None:
            return
        if section.last_pass == 0:
            self.heard += plays * section.body
            self.section = None
            return
        heard = section.passes + section.plays * (section.body + section.ending)
        self.section = replace(section, passes=heard, ending=0, between=True)

    def _take_ending(self, value: str) -> None:
        section = self.section or Section(opening=0, started=True)
        if section.between:
            self.owed = section.fork
        self.section = replace(
            section, fork=self.owed, last_pass=int(value[-1]), plays=len(value), between=False
        )

    def _take_ending_end(self, _: None) -> None:
        section = self.section
        if section is not None:
            self.heard += section.passes + section.plays * (section.body + section.ending)
            self.section = None

    # Looking ahead

    def _feasible(self, kind: str, ids: range | list[int]) -> Iterator[int]:
        """Yield the ids after which a number of bars that was asked for can be reached."""
        for id_ in ids:
            if id_ in self.rules.allowed:
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
        if self.section is None and self.owed and not self.border:
            now = self._may_end() and rules.fewest <= self.heard <= rules.most
            return now or (rules.can_repeat and self.heard + 4 <= rules.most)
        return self.least() <= rules.most

    def least(self) -> int:
        """Return the fewest bars, as heard, with which the tune can end from here."""
        section = self.section
        if section is None:
            open_ = self.opened_short or not self.heard
            return self.heard + (1 if open_ else self._extra(self.owed))
        heard, body = self.heard + section.passes, section.body
        if section.between:
            return heard + body + 1
        settled = not self.opened_short and section.fits(self.owed)
        if section.last_pass == 0:
            coming = self.owed if self.started else self.rules.pickup
            opening = section.opening if section.started else coming
            if opening and (self.opened_short or not section.started):
                body += 2  # after its pickup a full bar, and the one that closes
            else:
                body += not (body and settled and section.started)
            return heard + 2 * body + (self._extra(opening) if self.started else 0)
        if section.last_pass == 1:
            ending = section.ending + (not (section.ending and settled))
            return heard + body + ending + body + 1
        done = section.ending > 0 and not self.opened_short
        return heard + body + section.ending + (self._extra(self.owed) if done else 1)

    def _extra(self, owed: int | None) -> int:
        """Return how many more bars a tune needs that ends a section owing some steps."""
        return 0 if not owed or owed == self.first_short else 1


@dataclass(slots=True)
class LaidOut(Form):
    """The form of a tune whose parts are laid out: at most its pickup is free."""

    place: int = 0  # of the stretch under way
    filled: int = 0  # its bars so far
    opened: bool = False  # whether it has begun

    @property
    def stretch(self) -> Stretch:
        """The stretch under way."""
        return self.layout.stretches[self.place]

    @property
    def layout(self) -> Layout:
        """What the rules ask for."""
        assert self.rules.layout is not None
        return self.rules.layout

    @property
    def is_fresh(self) -> bool:
        """Whether the bar under way is the first of its stretch, or the pickup before it."""
        return self.filled <= 1

    @property
    def is_last(self) -> bool:
        """Whether the bar under way is the last, or will be written again as the last."""
        last = len(self.layout.stretches) - 1
        ends = (last, self.layout.stretches[last].source)
        return self.place in ends and self.filled == self.stretch.bars

    @property
    def coming(self) -> Stretch | None:
        """The stretch that opens next; None inside of one, and after the last."""
        if self.section is not None or (self.opened and self.filled < self.stretch.bars):
            return None
        place = self.place + self.opened
        return self.layout.stretches[place] if place < len(self.layout.stretches) else None

    def _closings(self) -> Iterator[int]:
        is_full = self.section is not None and self.filled == self.stretch.bars
        if self.rank == CLOSING and is_full:
            yield MEASURES.id("repeat_end", self.stretch.plays)

    def _openings(self) -> Iterator[int]:
        if self.rank < SECTION and self.coming is not None and self.coming.plays > 1:
            yield MEASURES.id("repeat_start")

    def _bars(self) -> Iterator[int]:
        coming = self.coming
        if coming is not None and coming.plays == 1:
            yield from self._next_bar(coming, 0)
        elif self.opened and self.filled < self.stretch.bars:
            yield from self._next_bar(self.stretch, self.filled)
        elif coming is None and self.section is None:
            yield MEASURES.id("end")

    def _next_bar(self, stretch: Stretch, filled: int) -> Iterator[int]:
        """Yield the kinds of bar that a stretch may go on with."""
        ends_short = filled == stretch.bars - 1 and stretch.ends_short and self.first_short > 0
        if self.owed:
            yield MEASURES.id("partial", self.owed)
        elif not self.started:
            yield from (MEASURES.id("partial", n) for n in self.rules.pickups(self.meter_steps))
            if not self.rules.pickup:
                yield MEASURES.id("bar")
        elif ends_short:
            yield MEASURES.id("partial", self.meter_steps - self.first_short)
        else:
            yield MEASURES.id("bar")

    def _advance(self) -> None:
        """Go on to the next stretch where the one under way is full."""
        if self.opened and self.filled == self.stretch.bars:
            self.place, self.filled = self.place + 1, 0
        self.opened = True

    def _open_bar(self, short: int | None) -> None:
        if self.section is None:
            self._advance()
        Form._open_bar(self, short)

    def _count(self, bars: int) -> None:
        Form._count(self, bars)
        self.filled += bars

    def _take_repeat_start(self, _: None) -> None:
        self._advance()
        Form._take_repeat_start(self, None)

    def _take_repeat_end(self, plays: int) -> None:
        Form._take_repeat_end(self, plays)
        self.place, self.filled, self.opened = self.place + 1, 0, False


def form_of(rules: Rules, meter_steps: int) -> Form:
    """Start the form of a tune."""
    return Form(rules, meter_steps) if rules.layout is None else LaidOut(rules, meter_steps)
