"""What draws the tunes of some wishes: an engine, the compiled grammar, and what cuts and decides.

Everything here is about one tune, and defines it; `many.py` draws the same tunes side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musicgen.music.theory import Key
from musicgen.sampling.engine import Engine, State, over
from musicgen.sampling.generation_state import Draft, Known
from musicgen.sampling.noise import Filter, Floats, Ids, Keys, chain, gumbels, measures_hashes
from musicgen.sampling.noise import spot as spot_of
from musicgen.tokens.compiled_grammar import Automaton, Place
from musicgen.tokens.constraints import Rules


@dataclass(frozen=True, slots=True)
class Begun:
    """A tune whose header is written, and where it goes on from."""

    ids: tuple[int, ...]  # from the begin event on
    state: State  # after all of them but the last
    place: Place
    key: int  # of the tune's noise


@dataclass(frozen=True)
class Course:
    """How the tunes of some wishes go on, once their headers are written."""

    engine: Engine
    rules: Rules
    filters: tuple[Filter, ...]

    @cached_property
    def narrowed(self) -> dict[Key, Rules]:
        """The rules in each key, where they follow from it."""
        return {}

    @cached_property
    def known(self) -> Known:
        """What the engine said at the headers of tunes so far."""
        return Known()

    @cached_property
    def automaton(self) -> Automaton:
        """The grammar, as far as it was met."""
        return Automaton(self.rules, spot_of)

    @cached_property
    def answers(self) -> Engine:
        """The engine, asked only for ids that can ever be legal."""
        return over(self.engine, self.automaton.live)

    @cached_property
    def hashes(self) -> Keys:
        """The hashes of those ids."""
        return measures_hashes()[self.automaton.live]

    @cached_property
    def _legal(self) -> dict[tuple[int, int, int], tuple[Ids, Keys]]:
        return {}

    def legal(self, place: Place) -> tuple[Ids, Keys]:
        """Return the columns that may come next, and their hashes."""
        key = place.inner, place.border, place.tones
        if key not in self._legal:
            columns = self.automaton.legal(place)
            self._legal[key] = columns, self.hashes[columns]
        return self._legal[key]

    def begun(self, draft: Draft) -> Begun:
        """Return where a draft goes on from; nothing of it may be given."""
        place = self.automaton.place(draft.walk)
        return Begun(tuple(draft.ids), draft.state, place, draft.noise.key)

    def finish(self, begun: Begun) -> list[int]:
        """Draw what is left of a tune; return its ids from the begin event on."""
        automaton, live = self.automaton, self.automaton.live
        ids, state, place = list(begun.ids), begun.state, begun.place
        fed = len(ids) - 1
        while not automaton.is_done(place):
            columns, hashes = self.legal(place)
            column = int(columns[0])
            if len(columns) > 1:  # what must come is fed together with what is drawn after it
                logits, state = self.answers.step(ids[fed:], None, state)
                fed = len(ids)
                column = self.decide(logits, columns, hashes, begun.key, place)
            place = automaton.follow(place, column)
            ids.append(int(live[column]))
        return ids

    def replay(self, begun: Begun, ids: Sequence[int]) -> Floats:
        """Return the logits after the ids that a tune went on with."""
        logits, _ = self.answers.step((*begun.ids[-1:], *ids), None, begun.state)
        return logits

    def decide(self, logits: Floats, columns: Ids, hashes: Keys, key: int, place: Place) -> int:
        """Return the column that is drawn at a place of a tune."""
        logs = logits[columns].astype(np.float64)
        for cut in self.filters:
            logs = cut(logs)
        here = chain(key, place.bar, self.automaton.spot_at(place))
        logs += gumbels(np.array(here, np.uint64), hashes)
        return int(columns[logs.argmax()])
