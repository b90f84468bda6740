"""A tune during generation: its ids, the state of the grammar, and the state of the model.

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

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the id that comes next; None where it says nothing."""

    def lookahead_notes(self, generation: GenerationState) -> Sequence[MelodyNote]:
        """Return the notes that it gives right after the bar under way."""

    def is_over(self, generation: GenerationState) -> bool:
        """Return whether it forces no further ids."""

    def copy(self) -> ForcedTokenSource:
        """Return one that goes on from here alone."""


@dataclass(frozen=True, slots=True)
class HeaderCache:
    """Engine outputs by header ids, shared by tunes with the same options."""

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
    kind_counts: Mapping[str, int]  # number of events of a kind in the training data
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
        """Return an independent copy; an engine never changes its states in place."""
        duplicate = copy(self)
        duplicate.walk, duplicate.ids = self.walk.copy(), list(self.ids)
        duplicate.forced_sources = [source.copy() for source in self.forced_sources]
        duplicate.copy_filter = self.copy_filter and self.copy_filter.copy()
        return duplicate

    def step(self) -> None:
        """Append one id: a forced one, else one that is sampled.

        Raises:
            InvalidValue: a forced id is not legal under the options.
        """
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
                " and the options exclude it; leave an option out, or keep fewer bars"
            )
        elif len(legal) > 1:
            logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(legal)])
            self.log_likelihood += float(logs[legal.index(chosen)])
        self.append_id(chosen)

    def _run_engine(self) -> tuple[np.ndarray, State]:
        """Feed the last id; in the header, outputs come from the cache where it has them."""
        if self.walk.header_events_read >= len(HEADER_KINDS):  # line-ups seldom recur
            return self.engine.step(self.ids[-1:], self.state)
        ids = tuple(self.ids)
        if ids not in self.header_cache.engine_outputs:
            self.header_cache.engine_outputs[ids] = self.engine.step(ids[-1:], self.state)
        return self.header_cache.engine_outputs[ids]

    @property
    def is_unconstrained(self) -> bool:
        """Whether all ids after the header are sampled, from all legal ids."""
        if self.copy_filter is not None or self.walk.in_header:
            return False
        return all(source.is_over(self) for source in self.forced_sources)

    def filter_copies(self, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return the legal ids that do not extend a copied run beyond the limit."""
        if self.copy_filter is None:
            return legal
        ahead = next(
            filter(None, (source.lookahead_notes(self) for source in self.forced_sources)), ()
        )
        return self.copy_filter.filter_legal(self.walk, legal, ahead)

    def weigh_header_logits(self, logits: np.ndarray, legal: tuple[int, ...]) -> np.ndarray:
        """Weight header events by the likelihood of the requested later ones after each.

        A requested reel thus gets a reel's meter, although the meter is sampled first.

        Args:
            logits: (vocabulary,) float32 logits of the next id.
            legal: the ids to weight.

        Returns:
            (vocabulary,) float64 logits, or those given where nothing is requested.
        """
        position = self.walk.header_events_read + 1
        if (
            position > len(HEADER_KINDS)
            or len(legal) == 1
            or not self._is_restricted_from(position)
        ):
            return logits
        ids = tuple(self.ids)
        if ids not in self.header_cache.weighed_logits:
            weighed = np.array(logits, dtype=np.float64)
            for id_ in legal:
                weighed[id_] += self._log_prob_of_request(id_, self.state, position)
            self.header_cache.weighed_logits[ids] = weighed
        return self.header_cache.weighed_logits[ids]

    def _log_prob_of_request(self, id_: int, state: State, header_position: int) -> float:
        """Return the log-probability, in nats, of the requested header after an event."""
        if not self._is_restricted_from(header_position):
            return 0.0
        logits, state = self.engine.step([id_], state)
        logs = log_softmax(np.asarray(logits, dtype=np.float64))
        allowed = self._list_header_ids(HEADER_KINDS[header_position])
        ways = [logs[i] + self._log_prob_of_request(i, state, header_position + 1) for i in allowed]
        return float(np.logaddexp.reduce(ways))

    def _is_restricted_from(self, header_position: int) -> bool:
        """Return whether the options restrict the header from a position on."""
        # No option sets the number of parts, so it is weighted one event ahead only: looking ahead
        # from the first event would cost more steps of the model than the tune.
        kinds = HEADER_KINDS[header_position:-1] or HEADER_KINDS[header_position:]
        return any(len(self._list_header_ids(kind)) < self.kind_counts[kind] for kind in kinds)

    def _list_header_ids(self, kind: str) -> tuple[int, ...]:
        """Return the allowed ids at the place of a header kind; `parts` stands for `lineup` too."""
        rules = self.walk.rules
        return rules.part_count_ids if kind == "parts" else rules.ids_of_kind(kind)

    def next_forced_id(self) -> int | None:
        """Return the id of the first source that forces one."""
        for source in self.forced_sources:
            if (id_ := source.next_forced_id(self)) is not None:
                return id_
        return None

    def append_id(self, id_: int) -> None:
        """Append an id, and advance the grammar."""
        if self.copy_filter:
            self.copy_filter.follow(self.walk, id_)
        self.walk.take(id_)
        self.ids.append(id_)
        if MEASURES.events[id_].kind in BAR_OPENERS:
            self.bar_start = len(self.ids)
            self.walk.landing_ids = None

    @property
    def is_at_bar_boundary(self) -> bool:
        """Whether an event between two bars may come next."""
        walk = self.walk
        return not walk.in_bar or walk.is_bar_complete
