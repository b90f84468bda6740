"""A tune under way: the ids so far, where the grammar stands, and the model's state.

A step feeds the last id to the model and adds the next: one that is given, or one that is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from musicgen.sampling.draw import Filter, Noise, draw, log_softmax
from musicgen.sampling.engine import Engine, State
from musicgen.sampling.veto import CopyVeto, Line, Note
from musicgen.tokens.form import LaidOut
from musicgen.tokens.grammar import HEADER, Walk
from musicgen.tokens.vocabulary import MEASURES

BEGIN: Final = MEASURES.id("begin")
OPENERS: Final = ("bar", "partial")


class Script(Protocol):
    """What says which ids are given, at some places of a tune."""

    def given(self, draft: Draft) -> int | None:
        """Return the id that comes next; None where it says nothing."""

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return the notes that it gives right after the bar under way."""

    def copy(self) -> Script:
        """Return one that goes on from here alone."""


@dataclass(slots=True)
class Draft:
    """One tune as far as it is written."""

    engine: Engine
    walk: Walk
    state: State
    noise: Noise
    filters: Sequence[Filter]
    met: Mapping[str, int]  # how many events of a kind the model has met
    scripts: list[Script] = field(default_factory=list)
    veto: CopyVeto | None = None
    ids: list[int] = field(default_factory=lambda: [BEGIN])
    likelihood: float = 0.0  # nats of what was given, under what the grammar allows
    was_given: bool = False  # whether the last id was

    def copy(self) -> Draft:
        """Return a draft that goes on from here alone; an engine's state is never changed."""
        other = copy(self)
        other.walk, other.ids = self.walk.copy(), list(self.ids)
        other.scripts = [script.copy() for script in self.scripts]
        other.veto = self.veto and self.veto.copy()
        return other

    def step(self) -> None:
        """Add one id."""
        context = self.walk.context
        logits, self.state = self.engine.step(self.ids[-1:], context, self.state)
        legal = self.walk.legal()
        chosen = self.given()
        self.was_given = chosen is not None
        if chosen is None:
            offered = self.offered(legal)
            chosen = draw(self.led(logits, offered), offered, self.filters, self.noise, context)
        elif len(legal) > 1:
            logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(legal)])
            self.likelihood += float(logs[legal.index(chosen)])
        self.take(chosen)

    def offered(self, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Leave of the legal ids those that copy no more than is allowed."""
        if self.veto is None:
            return legal
        ahead = next(filter(None, (script.ahead(self) for script in self.scripts)), ())
        return self.veto.offered(self.walk, legal, ahead)

    def led(self, logits: np.ndarray, legal: tuple[int, ...]) -> np.ndarray:
        """Weigh header events by how likely what is asked of the later ones is after each.

        So a reel that is asked for gets the meter of a reel, although the meter is drawn first.
        """
        place = self.walk.header + 1
        if place > len(HEADER) or len(legal) == 1 or not self._narrows(place):
            return logits
        weighed = np.array(logits, dtype=np.float64)
        for id_ in legal:
            weighed[id_] += self._promise(id_, self.state, place)
        return weighed

    def _promise(self, id_: int, state: State, place: int) -> float:
        """Return the log-probability that the header goes on as asked after an event."""
        if not self._narrows(place):
            return 0.0
        logits, state = self.engine.step([id_], self.walk.context, state)
        logs = log_softmax(np.asarray(logits, dtype=np.float64))
        allowed = self.walk.rules.ids(HEADER[place])
        ways = [logs[i] + self._promise(i, state, place + 1) for i in allowed]
        return float(np.logaddexp.reduce(ways))

    def _narrows(self, place: int) -> bool:
        """Tell whether, from a place of the header on, less is allowed than the model has met."""
        rules = self.walk.rules
        return any(len(rules.ids(kind)) < self.met[kind] for kind in HEADER[place:])

    def given(self) -> int | None:
        """Return the id that the first script with a say gives."""
        for script in self.scripts:
            if (id_ := script.given(self)) is not None:
                return id_
        return None

    def take(self, id_: int) -> None:
        """Write an id down."""
        if self.veto:
            self.veto.follow(self.walk, id_)
        self.walk.take(id_)
        self.ids.append(id_)


@dataclass(slots=True)
class Header:
    """Holds on to header events that were drawn before."""

    ids: tuple[int, ...]

    def given(self, draft: Draft) -> int | None:
        """Return the header event of this place."""
        place = draft.walk.header
        return self.ids[place] if place < len(self.ids) else None

    def ahead(self, draft: Draft) -> Sequence[Note]:
        """Return nothing: a header has no notes."""
        del draft
        return ()

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
