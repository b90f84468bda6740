"""Random pieces that a grammar allows; kinds of event are drawn first, so that rare ones occur."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from musicgen.tokens.codec import AnyCodec, Grammar, LengthLimitedGrammar
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES, Event, Vocabulary

_LINEUP_KINDS: Final = ("lineup", "role", "family", "level", "given")
_EXCLUDED_KINDS: Final = (
    "begin", "irregular", "parts", "part", "voice", "drum", *_LINEUP_KINDS,
)  # fmt: skip
_THINNED_KINDS: Final = ("partial", "duration", "tuplet", "meter", "ending", "repeat_end", "pitch",
                         "key", "chord")  # fmt: skip


def _is_melodic(event: Event) -> bool:
    if event.kind == "pitch":
        return abs(int(event.value or 0)) < 56
    return event.kind not in _EXCLUDED_KINDS


MELODY_IDS: Final = frozenset(
    [id_ for id_, event in enumerate(MEASURES.events) if _is_melodic(event)]
    + [MEASURES.id("parts", 1)]
)
BAND_IDS: Final = frozenset(  # of three parts with line-ups
    [id_ for id_ in MELODY_IDS if id_ != MEASURES.id("parts", 1)]
    + [MEASURES.id(kind, value) for kind, value in (
        ("lineup", 3), ("part", 1), ("part", 2), ("voice", 1), ("role", "melody"), ("role", "bass"),
        ("role", "drums"), ("family", "reed"), ("family", "bass"), ("family", "drum kit"),
        ("level", 2), ("level", 4), ("level", 6), ("drum", 36), ("drum", 38), ("drum", 42),
    )]
)  # fmt: skip
_REQUIRED_IDS: Final = frozenset(
    [MEASURES.id("duration", 6), MEASURES.id("meter", "6/8"), MEASURES.id("pitch", 0)]
)


def thin_out(rng: random.Random) -> frozenset[int]:
    """Remove some events of each kind from MELODY_IDS, like a small corpus."""
    ids = set(MELODY_IDS)
    for kind in _THINNED_KINDS:
        kind_ids = list(MEASURES.ranges[kind])
        ids -= set(kind_ids) - set(rng.sample(kind_ids, rng.randint(1, len(kind_ids))))
    return frozenset(ids) | _REQUIRED_IDS


def choose_id(ids: Iterable[int], vocabulary: Vocabulary, rng: random.Random) -> int:
    """Draw one of the kinds evenly, then one of its ids."""
    ids_by_kind: dict[str, list[int]] = {}
    for id_ in ids:
        ids_by_kind.setdefault(vocabulary.events[id_].kind, []).append(id_)
    return rng.choice(ids_by_kind[rng.choice(sorted(ids_by_kind))])


def walk(grammar: Grammar, vocabulary: Vocabulary, rng: random.Random) -> list[int]:
    """Follow random legal ids to the end of the piece, checking that there is no dead end."""
    ids: list[int] = []
    while not grammar.is_done:
        legal = grammar.legal_ids()
        assert legal, f"a dead end after {[vocabulary.names[id_] for id_ in ids[-12:]]}"
        assert len(set(legal)) == len(legal)
        ids.append(choose_id(legal, vocabulary, rng))
        grammar.take(ids[-1])
    assert grammar.legal_ids() == ()
    return ids


def walk_rules(rules: Rules, rng: random.Random) -> list[int]:
    """Draw the ids of a tune that obeys rules."""
    return walk(MeasuresGrammar(rules), MEASURES, rng)


def walk_codec(codec: AnyCodec, rng: random.Random, max_ids: int = 60) -> list[int]:
    """Draw the ids of a piece that closes as soon as it has `max_ids` ids."""
    grammar = codec.create_grammar()
    assert isinstance(grammar, LengthLimitedGrammar)
    grammar.max_ids = max_ids
    return walk(grammar, codec.vocabulary, rng)
