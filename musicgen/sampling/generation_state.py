"""A tune during generation: its ids, the state of the grammar, and the state of the model.

A step feeds the last id to the model and adds the next: one that is given, or one that is drawn.
If nothing is given after the header, `CompiledSampler` draws the rest of the tune on the compiled
grammar; `batch_sampler.py` draws the same tunes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple, Protocol

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.score import Part
from musicgen.music.theory import Key
from musicgen.sampling.engine import Engine, State, restrict_vocabulary
from musicgen.sampling.noise import (
    Filter,
    Floats,
    Ids,
    Keys,
    Noise,
    draw,
    gumbel_noise,
    hash_combine,
    log_softmax,
    measures_hashes,
)
from musicgen.sampling.noise import position_id as spot_of
from musicgen.similarity.copy_filter import CopyFilter, MelodyNote
from musicgen.tokens.bar_split import BETWEEN_BAR_IDS
from musicgen.tokens.compiled_grammar import CompiledGrammar, GrammarPosition
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import HEADER_KINDS, MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES

BEGIN: Final = MEASURES.id("begin")
BAR_OPENERS: Final = ("bar", "partial")
_BORDERS: Final = sorted(BETWEEN_BAR_IDS)


class Restriction(Protocol):
    """What narrows the ids that may be drawn."""

    def restrict(self, generation: GenerationState, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids among the legal ones that may be drawn, and what may be drawn besides."""


class Weighing(Protocol):
    """What changes how likely the ids are that may be drawn."""

    def weigh(
        self, generation: GenerationState, logits: np.ndarray, offered: tuple[int, ...]
    ) -> np.ndarray:
        """Return the logits for a draw from the ids that are offered.

        Args:
            generation: before the draw.
            logits: (vocabulary,) float32 or float64.
            offered: the ids.

        Returns:
            (vocabulary,) float64, or the logits that were given.
        """


class ForcedTokenSource(Protocol):
    """What says which ids are given, at some places of a tune."""

    @property
    def is_checked(self) -> bool:
        """Whether its ids need not be possible under the options, since they were checked."""

    @property
    def is_weighed(self) -> bool:
        """Whether the likelihood of its ids is added up."""

    def next_forced_id(self, generation: GenerationState) -> int | None:
        """Return the id that comes next; None where it says nothing. Asking changes no answer."""

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
    restrictions: tuple[Restriction, ...] = ()
    weighing: Weighing | None = None
    fed: int = 0  # ids that the engine has read

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
        source, chosen = self._find_forced()  # which may say what holds from here
        self.was_forced = chosen is not None
        if chosen is None or source is None:
            chosen = self._draw()
        elif source.is_weighed or not source.is_checked:
            self._weigh_forced(chosen, is_checked=source.is_checked)
        self.append_id(chosen)

    def _draw(self) -> int:
        """Draw an id from those that may come next."""
        legal = self.walk.legal_ids()
        for restriction in self.restrictions:
            legal = restriction.restrict(self, legal)
        offered = self.filter_copies(legal)
        if len(offered) == 1 and not self.walk.in_header:
            return offered[0]  # fed together with what is drawn after it
        weighed = self.weigh_header_logits(self._run_engine(), offered)
        if self.weighing is not None:
            weighed = self.weighing.weigh(self, weighed, offered)
        elif self.walk.in_bar and self.walk.lineup is not None:
            weighed = self._keep_border_weight(weighed, offered)
        return draw(weighed, offered, self.filters, self.noise, self.walk.context)

    def _keep_border_weight(self, logits: np.ndarray, offered: tuple[int, ...]) -> np.ndarray:
        """Return the logits, (vocabulary,), with `border_gain` added to the borders offered."""
        legal = [id_ for id_ in offered if id_ in BETWEEN_BAR_IDS]
        if not legal or len(legal) == len(offered):
            return logits
        borders = [id_ for id_ in _BORDERS if id_ in self.walk.rules.allowed_ids]
        weighed = logits.astype(np.float64)
        weighed[legal] += border_gain(weighed[borders], weighed[legal])
        return weighed

    def _weigh_forced(self, id_: int, *, is_checked: bool) -> None:
        """Add the likelihood of a forced id among those that are possible."""
        logits, legal = self._run_engine(), self.walk.legal_ids()
        if id_ not in legal:
            if not is_checked:
                raise InvalidValue(
                    f"bar {self.walk.form.bars_written}: {MEASURES.events[id_]} is kept there,"
                    " and the options exclude it; leave an option out, or keep fewer bars"
                )
            legal += (id_,)
        if len(legal) > 1:
            logs = log_softmax(np.asarray(logits, dtype=np.float64)[list(legal)])
            self.log_likelihood += float(logs[legal.index(id_)])

    def _run_engine(self) -> np.ndarray:
        """Feed the ids that were not fed; return the logits of the next, (vocabulary,) float32.

        In the header, outputs come from the cache where it has them.
        """
        new_ids, self.fed = self.ids[self.fed :], len(self.ids)
        if self.walk.header_events_read >= len(HEADER_KINDS):  # line-ups seldom recur
            logits, self.state = self.engine.step(new_ids, self.state)
            return logits
        ids, outputs = tuple(self.ids), self.header_cache.engine_outputs
        if ids not in outputs:
            outputs[ids] = self.engine.step(new_ids, self.state)
        logits, self.state = outputs[ids]
        return logits

    @property
    def is_unconstrained(self) -> bool:
        """Whether all ids after the header are sampled, from all legal ids."""
        if self.copy_filter is not None or self.restrictions or self.walk.in_header:
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

    def _find_forced(self) -> tuple[ForcedTokenSource | None, int | None]:
        """Return the first source that forces an id, and the id."""
        for source in self.forced_sources:
            if (id_ := source.next_forced_id(self)) is not None:
                return source, id_
        return None, None

    @property
    def is_forced(self) -> bool:
        """Whether the next id is given."""
        return self._find_forced()[1] is not None

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


def border_gain(borders: Floats, legal: Floats) -> float:
    """Return what to add to the logits of the borders that may end a bar, in nats.

    The probability that the bar ends is then that of the model, for all borders together, also
    where only some of them are legal: in the last bar of a band it would otherwise open voice after
    voice, since it expects a bar line and not the end. Tunes without a line-up need none of this.

    Args:
        borders: (n,) float64 logits of all borders.
        legal: (m,) float64 logits of those that are legal.
    """
    return float(np.logaddexp.reduce(borders) - np.logaddexp.reduce(legal))


@dataclass(frozen=True, slots=True)
class HeaderState:
    """A tune whose header is written, and where it goes on from."""

    ids: tuple[int, ...]  # from the begin event on
    state: State  # after all of them but the last
    place: GrammarPosition
    key: int  # of the tune's noise


class LegalColumns(NamedTuple):
    """What may come next, as columns of the compiled grammar."""

    columns: Ids
    hashes: Keys
    leaving: Ids  # the places of those that leave the bar, where others do not


@dataclass(frozen=True)
class CompiledSampler:
    """A sampler of all ids after the header, for fixed options."""

    engine: Engine
    rules: Rules
    filters: tuple[Filter, ...]

    @cached_property
    def rules_by_case(self) -> dict[tuple[Key, tuple[Part, ...], frozenset[int]], Rules]:
        """The rules by key, parts and given pitches, where they follow from these."""
        return {}

    @cached_property
    def header_cache(self) -> HeaderCache:
        """What the engine said at the headers of tunes so far."""
        return HeaderCache()

    @cached_property
    def grammar(self) -> CompiledGrammar:
        """The compiled grammar, extended as positions occur."""
        return CompiledGrammar(self.rules, spot_of)

    @cached_property
    def restricted_engine(self) -> Engine:
        """The engine, restricted to ids that can be legal."""
        return restrict_vocabulary(self.engine, self.grammar.allowed_ids)

    @cached_property
    def hashes(self) -> Keys:
        """The hashes of those ids."""
        return measures_hashes()[self.grammar.allowed_ids]

    @cached_property
    def borders(self) -> Ids:
        """The columns of what may stand between two bars."""
        return np.flatnonzero(np.isin(self.grammar.allowed_ids, _BORDERS))

    @cached_property
    def _legal_cache(self) -> dict[tuple[int, int, int], LegalColumns]:
        return {}

    def has_lineup(self, inner: int) -> bool:
        """Return whether a tune has a line-up, by an inner state after its header."""
        return self.grammar.inner_grammars[inner].lineup is not None

    def legal_columns(self, position: GrammarPosition) -> LegalColumns:
        """Return the columns that may come next."""
        key = position.inner, position.border, position.tones
        if key not in self._legal_cache:
            columns = self.grammar.legal_columns(position)
            leaving = np.flatnonzero(np.isin(columns, self.borders))
            if len(leaving) == len(columns) or not self.has_lineup(position.inner):
                leaving = leaving[:0]
            self._legal_cache[key] = LegalColumns(columns, self.hashes[columns], leaving)
        return self._legal_cache[key]

    def capture_header(self, generation: GenerationState) -> HeaderState:
        """Return the state after the header of a generation without forced ids."""
        position = self.grammar.locate(generation.walk)
        return HeaderState(tuple(generation.ids), generation.state, position, generation.noise.key)

    def finish(self, header: HeaderState) -> list[int]:
        """Draw what is left of a tune; return its ids from the begin event on."""
        automaton, live = self.grammar, self.grammar.allowed_ids
        ids, state, position = list(header.ids), header.state, header.place
        fed = len(ids) - 1
        while not automaton.is_done(position):
            legal = self.legal_columns(position)
            column = int(legal.columns[0])
            if len(legal.columns) > 1:  # what must come is fed together with what is drawn after it
                logits, state = self.restricted_engine.step(ids[fed:], state)
                fed = len(ids)
                column = self.decide(logits, legal, header.key, position)
            position = automaton.follow(position, column)
            ids.append(int(live[column]))
        return ids

    def replay(self, header: HeaderState, ids: Sequence[int]) -> Floats:
        """Return the logits after the ids that a tune went on with."""
        logits, _ = self.restricted_engine.step((*header.ids[-1:], *ids), header.state)
        return logits

    def decide(
        self, logits: Floats, legal: LegalColumns, key: int, position: GrammarPosition
    ) -> int:
        """Return the column of the sampled id at a position."""
        columns, hashes, leaving = legal
        logs = logits[columns].astype(np.float64)
        if len(leaving):
            logs[leaving] += border_gain(logits[self.borders].astype(np.float64), logs[leaving])
        for cut in self.filters:
            logs = cut(logs)
        here = hash_combine(key, position.bar, self.grammar.find_position_id(position))
        logs += gumbel_noise(np.array(here, np.uint64), hashes)
        return int(columns[logs.argmax()])
