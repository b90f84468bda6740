"""Sampling with fixed options: an engine, the compiled grammar, filters and noise.

Everything here defines one tune; `batch_sampler.py` draws the same tunes side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musicgen.music.theory import Key
from musicgen.sampling.engine import Engine, State, restrict_vocabulary
from musicgen.sampling.generation_state import GenerationState, HeaderCache
from musicgen.sampling.noise import (
    Filter,
    Floats,
    Ids,
    Keys,
    gumbel_noise,
    hash_combine,
    measures_hashes,
)
from musicgen.sampling.noise import position_id as spot_of
from musicgen.tokens.compiled_grammar import CompiledGrammar, GrammarPosition
from musicgen.tokens.constraints import Rules


@dataclass(frozen=True, slots=True)
class HeaderState:
    """A tune whose header is written, and where it goes on from."""

    ids: tuple[int, ...]  # from the begin event on
    state: State  # after all of them but the last
    place: GrammarPosition
    key: int  # of the tune's noise


@dataclass(frozen=True)
class CompiledSampler:
    """A sampler of all ids after the header, for fixed options."""

    engine: Engine
    rules: Rules
    filters: tuple[Filter, ...]

    @cached_property
    def rules_by_key(self) -> dict[Key, Rules]:
        """The rules in each key, where they follow from it."""
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
    def _legal_cache(self) -> dict[tuple[int, int, int], tuple[Ids, Keys]]:
        return {}

    def legal_columns(self, position: GrammarPosition) -> tuple[Ids, Keys]:
        """Return the columns that may come next, and their hashes."""
        key = position.inner, position.border, position.tones
        if key not in self._legal_cache:
            columns = self.grammar.legal_columns(position)
            self._legal_cache[key] = columns, self.hashes[columns]
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
            columns, hashes = self.legal_columns(position)
            column = int(columns[0])
            if len(columns) > 1:  # what must come is fed together with what is drawn after it
                logits, state = self.restricted_engine.step(ids[fed:], state)
                fed = len(ids)
                column = self.decide(logits, columns, hashes, header.key, position)
            position = automaton.follow(position, column)
            ids.append(int(live[column]))
        return ids

    def replay(self, header: HeaderState, ids: Sequence[int]) -> Floats:
        """Return the logits after the ids that a tune went on with."""
        logits, _ = self.restricted_engine.step((*header.ids[-1:], *ids), header.state)
        return logits

    def decide(
        self, logits: Floats, columns: Ids, hashes: Keys, key: int, position: GrammarPosition
    ) -> int:
        """Return the column of the sampled id at a position."""
        logs = logits[columns].astype(np.float64)
        for cut in self.filters:
            logs = cut(logs)
        here = hash_combine(key, position.bar, self.grammar.find_position_id(position))
        logs += gumbel_noise(np.array(here, np.uint64), hashes)
        return int(columns[logs.argmax()])
