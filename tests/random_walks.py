"""Pieces that a grammar allows, drawn at random: kinds first, so that rare ones are met often."""

from __future__ import annotations

import random

from musicgen.tokens.codec import AnyCodec


def wander(codec: AnyCodec, luck: random.Random, length: int = 60) -> list[int]:
    """Follow the strict grammar to its end, once the length is reached by the shortest way."""
    walk = codec.create_grammar()
    walk.most = length  # type: ignore[attr-defined]
    vocabulary = codec.vocabulary
    ids: list[int] = []
    while not walk.is_done:
        legal = walk.legal_ids()
        assert legal, f"a dead end after {[vocabulary.names[i] for i in ids[-12:]]}"
        assert len(set(legal)) == len(legal)
        kind = luck.choice(sorted({vocabulary.events[i].kind for i in legal}))
        ids.append(luck.choice([i for i in legal if vocabulary.events[i].kind == kind]))
        walk.take(ids[-1])
    assert walk.legal_ids() == ()
    return ids
