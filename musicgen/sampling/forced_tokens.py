"""What is given of a tune rather than drawn: its header, a primer, a letter that returns, bars.

Each script looks at the draft alone to know what comes next, so that several may share a tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from musicgen.sampling.generation_state import OPENERS, Draft
from musicgen.sampling.primer import Contents
from musicgen.similarity.copy_filter import Line, Note
from musicgen.tokens.bar_split import BETWEEN, Written, voices_of
from musicgen.tokens.form_state import LaidOut
from musicgen.tokens.grammar import HEADER
from musicgen.tokens.vocabulary import MEASURES

_HOLD: Final = MEASURES.id("hold")


@dataclass(slots=True)
class Header:
    """Holds on to header events that were drawn before."""

    ids: tuple[int | None, ...]  # None: drawn anew

    def given(self, draft: Draft) -> int | None:
        """Return the header event of this place."""
        place = draft.walk.header
        return self.ids[place] if place < len(self.ids) else None

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return nothing: a header has no notes."""
        del draft
        return ()

    def is_over(self, draft: Draft) -> bool:
        """Tell whether the header is read."""
        return draft.walk.header == len(HEADER)

    def copy(self) -> Header:
        """Return itself: it changes nothing."""
        return self


@dataclass(slots=True)
class Copies:
    """Writes again the bars of a letter that returns."""

    pickups: dict[int, int] = field(default_factory=dict)  # stretch to where its pickup's ids start
    bars: dict[int, int] = field(default_factory=dict)  # to where those of its first whole bar do
    stops: dict[int, int] = field(default_factory=dict)  # to where those of its last bar stop
    queue: tuple[int, ...] = ()

    def copy(self) -> Copies:
        """Return one that goes on from here alone."""
        return Copies(dict(self.pickups), dict(self.bars), dict(self.stops), self.queue)

    def given(self, draft: Draft) -> int | None:
        """Return the next id of the bars that are written again."""
        form = draft.walk.form
        if not self.queue and isinstance(form, LaidOut) and draft.walk.in_bar:
            self._note(draft, form)
            if MEASURES.events[draft.ids[-1]].kind in OPENERS:
                first, stop = self._again(form.place, form.opened_short, form)
                self.queue = tuple(draft.ids[first:stop])
        if not self.queue:
            return None
        first, self.queue = self.queue[0], self.queue[1:]
        return first

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return the notes that are written again right after the bar under way."""
        line = draft.veto.line if draft.veto else Line()
        return line.between(*(place - 1 for place in self._next(draft)))

    def is_over(self, draft: Draft) -> bool:
        """Tell whether no letter returns."""
        layout = draft.walk.rules.layout
        return layout is None or all(one.source is None for one in layout.stretches)

    def _next(self, draft: Draft) -> tuple[int, int]:
        """Return which ids are written again right after the bar under way; (0, 0): none."""
        form = draft.walk.form
        if not isinstance(form, LaidOut) or not form.opened:
            return 0, 0
        if form.filled == 0:  # a pickup, which may be new
            return self._again(form.place, False, form)
        if form.filled < form.stretch.bars or form.place + 1 == len(form.layout.stretches):
            return 0, 0
        with_pickup = form.first_short > 0 and form.layout.stretches[form.place + 1].picks_up
        return self._again(form.place + 1, with_pickup, form)

    def _note(self, draft: Draft, form: LaidOut) -> None:
        """Keep where the ids of the stretch under way start and stop."""
        here = len(draft.ids)
        if MEASURES.events[draft.ids[-1]].kind in OPENERS and form.filled <= 1:
            starts = self.pickups if form.opened_short else self.bars
            starts[form.place] = here
        if form.filled == form.stretch.bars:
            self.stops[form.place] = here

    def _again(self, place: int, with_pickup: bool, form: LaidOut) -> tuple[int, int]:
        """Return which ids a stretch has again, with its pickup or from its first whole bar on."""
        source = form.layout.stretches[place].source
        starts = self.pickups if with_pickup else self.bars
        if source is None or source not in starts or source not in self.stops:
            return 0, 0
        return starts[source], self.stops[source]


@dataclass(slots=True)
class Opening:
    """Gives the bars of a primer, as far as the grammar allows them."""

    bars: Contents
    stopped: int | None = None  # the id that was not allowed
    followed: int = 0  # ids of the tune when the primer was over

    def copy(self) -> Opening:
        """Return one that goes on from here alone."""
        return replace(self)

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return nothing: what is drawn comes after a primer."""
        del draft
        return ()

    def is_over(self, draft: Draft) -> bool:
        """Tell whether the primer is."""
        del draft
        return self.followed > 0

    def given(self, draft: Draft) -> int | None:
        """Return the next id of the primer, or what must stand before its next bar."""
        if self.followed or draft.walk.header < len(HEADER):
            return None
        wanted = self._next(draft)
        if wanted is None:
            self.followed = len(draft.ids)
            draft.walk.lowest = None  # no further note joins the primer's last
            return None
        legal = draft.walk.legal()
        if wanted in legal:
            return wanted
        between = [id_ for id_ in legal if id_ in BETWEEN]
        if draft.at_border and len(between) == 1 and _leads_on(between[0]):
            return between[0]  # a repeat sign, or the short bar before one
        self.stopped, self.followed = wanted, len(draft.ids)
        return None

    def _next(self, draft: Draft) -> int | None:
        """Return the id that the primer has here; None where it is over."""
        number = draft.walk.form.written
        if draft.walk.in_bar:
            content, at = self.bars[number - 1][1], len(draft.ids) - draft.opened
            if at < len(content):
                return content[at]
            if not draft.at_border:
                return None
        return self.bars[number][0] if number < len(self.bars) else None


def _leads_on(id_: int) -> bool:
    return MEASURES.events[id_].kind in (*OPENERS, "repeat_start", "repeat_end")


@dataclass(slots=True)
class Kept:
    """Gives all that stands between the bars of a tune, and the bars that are kept."""

    written: Written
    kept: frozenset[int]  # places of the bars that are, from 0
    notes: tuple[tuple[Note, ...], ...]  # of each bar

    def copy(self) -> Kept:
        """Return itself: it changes nothing."""
        return self

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return the notes of the kept bars that follow the one under way."""
        place = draft.walk.form.written
        found: list[Note] = []
        while place in self.kept:
            found += self.notes[place]
            place += 1
        return found

    def is_over(self, draft: Draft) -> bool:
        """Tell that it is not: it has its say between all bars."""
        del draft
        return False

    def given(self, draft: Draft) -> int | None:
        """Return the next id of what is kept."""
        walk = draft.walk
        if walk.header < len(HEADER):
            return self.written.header[walk.header]
        if self.is_complete(draft):
            return self._between(draft, walk.form.written)
        place, at = walk.form.written - 1, len(draft.ids) - draft.opened
        if place in self.kept:
            return self.written.bars[place].content[at]
        if at == 0:
            self._enter(draft, place)
        return None

    def is_complete(self, draft: Draft) -> bool:
        """Tell whether the bar under way has all that it is to have."""
        place, at = draft.walk.form.written - 1, len(draft.ids) - draft.opened
        whole = place not in self.kept or at >= len(self.written.bars[place].content)
        return draft.at_border and (whole or not draft.walk.in_bar)

    def _between(self, draft: Draft, place: int) -> int:
        """Return the next id of what stands before a bar, or after the last."""
        bars = self.written.bars
        wanted = bars[place].opening if place < len(bars) else self.written.closing
        taken = 0
        while draft.ids[-1 - taken] in BETWEEN and len(draft.ids) - taken > draft.opened:
            taken += 1
        return wanted[taken]

    def _enter(self, draft: Draft, place: int) -> None:
        """Say what holds in a bar that is drawn: nothing is tied into it, its end leads on."""
        walk = draft.walk
        if place - 1 in self.kept:
            walk.sounding.clear()
        following = self.written.bars[place + 1].content if place + 1 in self.kept else ()
        heads = (id_ for id_ in voices_of(following)[0, 0] if MEASURES.events[id_].kind in _HEADS)
        held = next(heads, None)
        walk.landing = self._last_pitch(place) if held == _HOLD else None

    def _last_pitch(self, place: int) -> frozenset[int]:
        """Return the pitch that sounds last in a bar as it was, or before it."""
        for number in range(place, -1, -1):
            melody = voices_of(self.written.bars[number].content)[0, 0]
            pitches = [id_ for id_ in melody if id_ in _PITCHES]
            if pitches:
                return frozenset(pitches[-1:])
        return frozenset()


_HEADS: Final = ("pitch", "drum", "rest", "hold")
_PITCHES: Final = frozenset((*MEASURES.ranges["pitch"], *MEASURES.ranges["drum"]))
