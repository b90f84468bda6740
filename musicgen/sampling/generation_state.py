"""A tune under way: the ids so far, where the grammar stands, and the model's state.

A step feeds the last id to the model and adds the next: one that is given, or one that is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.sampling.engine import Engine, State
from musicgen.sampling.noise import Filter, Noise, draw, log_softmax
from musicgen.similarity.copy_filter import CopyVeto, Note
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

    def is_over(self, draft: Draft) -> bool:
        """Tell whether it has nothing more to say."""

    def copy(self) -> Script:
        """Return one that goes on from here alone."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an engine says at the headers of some wishes' tunes, which many of them share."""

    said: dict[tuple[int, ...], tuple[np.ndarray, State]] = field(default_factory=dict)
    led: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)


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
    opened: int = 1 + len(HEADER)  # ids up to the opening of the bar under way, and with it
    known: Known = field(default_factory=Known)

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
        logits, self.state = self._said()
        chosen = self.given()  # which may say what holds from here
        legal = self.walk.legal()
        self.was_given = chosen is not None
        if chosen is None:
            offered = self.offered(legal)
            chosen = draw(self.led(logits, offered), offered, self.filters, self.noise, context)
        elif chosen not in legal:
            raise InvalidValue(
                f"bar {self.walk.form.written}: {MEASURES.events[chosen]} is kept there, and what"
                " is asked for leaves it out; ask for less, or keep fewer bars"
            )
        elif len(legal) > 1:
            logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(legal)])
            self.likelihood += float(logs[legal.index(chosen)])
        self.take(chosen)

    def _said(self) -> tuple[np.ndarray, State]:
        """Feed the last id; in a header only where that was never done."""
        context = self.walk.context
        if self.walk.header == len(HEADER):
            return self.engine.step(self.ids[-1:], context, self.state)
        ids = tuple(self.ids)
        if ids not in self.known.said:
            self.known.said[ids] = self.engine.step(ids[-1:], context, self.state)
        return self.known.said[ids]

    @property
    def is_free(self) -> bool:
        """Whether all that follows the header is drawn, and nothing that is legal left out."""
        if self.veto is not None or self.walk.header < len(HEADER):
            return False
        return all(script.is_over(self) for script in self.scripts)

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
        ids = tuple(self.ids)
        if ids not in self.known.led:
            weighed = np.array(logits, dtype=np.float64)
            for id_ in legal:
                weighed[id_] += self._promise(id_, self.state, place)
            self.known.led[ids] = weighed
        return self.known.led[ids]

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
        # The number of parts, which nobody asks for, is weighed one event ahead and no more: looked
        # at from the first event on, it would cost more steps of the model than the tune.
        kinds = HEADER[place:-1] or HEADER[place:]
        return any(len(rules.ids(kind)) < self.met[kind] for kind in kinds)

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
        if MEASURES.events[id_].kind in OPENERS:
            self.opened = len(self.ids)
            self.walk.landing = None

    @property
    def at_border(self) -> bool:
        """Whether what stands between two bars may come next."""
        walk = self.walk
        return not walk.in_bar or (walk.duration is None and walk.is_full)
