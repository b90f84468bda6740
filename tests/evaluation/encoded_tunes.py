"""Small encoded tunes for the tests of the score card."""

from __future__ import annotations

import numpy as np

from musicgen.corpus.store import EncodedTune
from musicgen.formats import abc
from musicgen.music.score import Score
from musicgen.tokens.codec import AnyCodec, Encoded
from musicgen.tokens.registry import find_codec

PLAIN = "X:1\nT:Plain\nM:2/4\nL:1/8\nK:G\n|:GABc|dedB|GABc|d2G2:|\n|:Bcde|dedB|GABc|d2G2:|\n"
PICKUP = "X:1\nT:Pickup\nR:jig\nM:6/8\nL:1/8\nK:D\n|:D|F2A d2f|c(3ABA G-G2|F2A d2f|e3 d2:|\n"


def parse_tune(text: str) -> Score:
    (score,), refusals = abc.parse(text)
    assert not refusals
    return score


def store_tune(encoded: Encoded, notes: int) -> EncodedTune:
    return EncodedTune(
        np.array(encoded.ids, np.int16), notes, "T", "made.abc", "T", "C major", "2/4", "",
        encoded.setting.to_json(),
    )  # fmt: skip


def encode_tune(text: str, codec: AnyCodec | None = None) -> EncodedTune:
    """Encode a tune in ABC, by default with `measures`."""
    score = parse_tune(text)
    return store_tune((codec or find_codec("measures")).encode(score), len(score.canonical().notes))


def make_tunes(count: int, seed: int = 1) -> list[EncodedTune]:
    """Make tunes of two random bars, each played twice."""
    generator = np.random.default_rng(seed)
    bars = ["".join(generator.choice(list("CDEFGABcde"), 4)) for _ in range(2 * count)]
    return [
        encode_tune(f"X:1\nM:2/4\nL:1/8\nK:C\n|{'|'.join(bars[2 * n : 2 * n + 2] * 3)}|\n")
        for n in range(count)
    ]
