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
from musicgen.similarity.copy_filter import CopyFilter, MelodyNote
from musicgen.tokens.grammar import HEADER_KINDS, MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

BEGIN: Final = MEASURES.id("begin")
BAR_OPENERS: Final = ("bar", "partial")


class ForcedTokenSource(Protocol):
    """What says which ids are given, at some places of a tune."""

    def next_forced_id(self, draft: GenerationState) -> int | None:
        """Return the id that comes next; None where it says nothing."""

    def lookahead_notes(self, draft: GenerationState) -> Sequence[MelodyNote]:
        """Return the notes that it gives right after the bar under way."""

    def is_over(self, draft: GenerationState) -> bool:
        """Tell whether it has nothing more to say."""

    def copy(self) -> ForcedTokenSource:
        """Return one that goes on from here alone."""


@dataclass(frozen=True, slots=True)
class HeaderCache:
    """What an engine says at the headers of some wishes' tunes, which many of them share."""

    engine_outputs: dict[tuple[int, ...], tuple[np.ndarray, State]] = field(default_factory=dict)
    weighed_logits: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)


@dataclass(slots=True)
class GenerationState:
    """One tune as far as it is written."""

    engine: Engine
    walk: MeasuresGrammar
    state: State
    noise: Noise
    filters: Sequence[Filter]
    kind_counts: Mapping[str, int]  # how many events of a kind the model has met
    forced_sources: list[ForcedTokenSource] = field(default_factory=list)
    copy_filter: CopyFilter | None = None
    ids: list[int] = field(default_factory=lambda: [BEGIN])
    log_likelihood: float = 0.0  # nats of what was given, under what the grammar allows
    was_forced: bool = False  # whether the last id was
    bar_start: int = 1 + len(
        HEADER_KINDS
    )  # ids up to the opening of the bar under way, and with it
    header_cache: HeaderCache = field(default_factory=HeaderCache)

    def copy(self) -> GenerationState:
        """Return a draft that goes on from here alone; an engine's state is never changed."""
        other = copy(self)
        other.walk, other.ids = self.walk.copy(), list(self.ids)
        other.forced_sources = [script.copy() for script in self.forced_sources]
        other.copy_filter = self.copy_filter and self.copy_filter.copy()
        return other

    def step(self) -> None:
        """Add one id."""
        context = self.walk.context
        logits, self.state = self._run_engine()
        chosen = self.next_forced_id()  # which may say what holds from here
        legal = self.walk.legal_ids()
        self.was_forced = chosen is not None
        if chosen is None:
            offered = self.filter_copies(legal)
            chosen = draw(
                self.weigh_header_logits(logits, offered),
                offered,
                self.filters,
                self.noise,
                context,
            )
        elif chosen not in legal:
            raise InvalidValue(
                f"bar {self.walk.form.bars_written}: {MEASURES.events[chosen]} is kept there,"
                f" and what"
                " is asked for leaves it out; ask for less, or keep fewer bars"
            )
        elif len(legal) > 1:
            logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(legal)])
            self.log_likelihood += float(logs[legal.index(chosen)])
        self.append_id(chosen)

    def _run_engine(self) -> tuple[np.ndarray, State]:
        """Feed the last id; in a header only where that was never done."""
        context = self.walk.context
        if self.walk.header_events_read == len(HEADER_KINDS):
            return self.engine.step(self.ids[-1:], context, self.state)
        ids = tuple(self.ids)
        if ids not in self.header_cache.engine_outputs:
            self.header_cache.engine_outputs[ids] = self.engine.step(ids[-1:], context, self.state)
        return self.header_cache.engine_outputs[ids]

    @property
    def is_unconstrained(self) -> bool:
        """Whether all that follows the header is drawn, and nothing that is legal left out."""
        if self.copy_filter is not None or self.walk.header_events_read < len(HEADER_KINDS):
            return False
        return all(script.is_over(self) for script in self.forced_sources)

    def filter_copies(self, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Leave of the legal ids those that copy no more than is allowed."""
        if self.copy_filter is None:
            return legal
        ahead = next(
            filter(None, (script.lookahead_notes(self) for script in self.forced_sources)), ()
        )
        return self.copy_filter.filter_legal(self.walk, legal, ahead)

    def weigh_header_logits(self, logits: np.ndarray, legal: tuple[int, ...]) -> np.ndarray:
        """Weigh header events by how likely what is asked of the later ones is after each.

        So a reel that is asked for gets the meter of a reel, although the meter is drawn first.
        """
        place = self.walk.header_events_read + 1
        if place > len(HEADER_KINDS) or len(legal) == 1 or not self._is_restricted_from(place):
            return logits
        ids = tuple(self.ids)
        if ids not in self.header_cache.weighed_logits:
            weighed = np.array(logits, dtype=np.float64)
            for id_ in legal:
                weighed[id_] += self._log_prob_of_request(id_, self.state, place)
            self.header_cache.weighed_logits[ids] = weighed
        return self.header_cache.weighed_logits[ids]

    def _log_prob_of_request(self, id_: int, state: State, header_position: int) -> float:
        """Return the log-probability that the header goes on as asked after an event."""
        if not self._is_restricted_from(header_position):
            return 0.0
        logits, state = self.engine.step([id_], self.walk.context, state)
        logs = log_softmax(np.asarray(logits, dtype=np.float64))
        allowed = self.walk.rules.ids_of_kind(HEADER_KINDS[header_position])
        ways = [logs[i] + self._log_prob_of_request(i, state, header_position + 1) for i in allowed]
        return float(np.logaddexp.reduce(ways))

    def _is_restricted_from(self, header_position: int) -> bool:
        """Tell whether, from a place of the header on, less is allowed than the model has met."""
        rules = self.walk.rules
        # The number of parts, which nobody asks for, is weighed one event ahead and no more: looked
        # at from the first event on, it would cost more steps of the model than the tune.
        kinds = HEADER_KINDS[header_position:-1] or HEADER_KINDS[header_position:]
        return any(len(rules.ids_of_kind(kind)) < self.kind_counts[kind] for kind in kinds)

    def next_forced_id(self) -> int | None:
        """Return the id that the first script with a say gives."""
        for script in self.forced_sources:
            if (id_ := script.next_forced_id(self)) is not None:
                return id_
        return None

    def append_id(self, id_: int) -> None:
        """Write an id down."""
        if self.copy_filter:
            self.copy_filter.follow(self.walk, id_)
        self.walk.take(id_)
        self.ids.append(id_)
        if MEASURES.events[id_].kind in BAR_OPENERS:
            self.bar_start = len(self.ids)
            self.walk.landing_ids = None

    @property
    def is_at_bar_boundary(self) -> bool:
        """Whether what stands between two bars may come next."""
        walk = self.walk
        return not walk.in_bar or (walk.duration is None and walk.is_full)
