"""A synthetic corpus for the tests of the comparison: short loops, in a vocabulary with bars."""

from __future__ import annotations

import numpy as np

from musicgen.corpus.store import Dataset, EncodedTune

NAMES = ("begin", "end", "bar", "pitch=0", "pitch=2", "pitch=4", "pitch=5", "pitch=7")


def make_tune(generator: np.random.Generator, title: str) -> EncodedTune:
    """Make a tune that repeats one random bar."""
    bar = [2, *generator.integers(3, 7, 4)]
    ids = np.array([*(bar * int(generator.integers(4, 9))), 1], np.int16)
    return EncodedTune(ids, len(ids) - 1, title, "made.abc", title, "C major", "4/4", "reel", "{}")


def make_corpus(train: int = 60, held: int = 12, test: int = 12) -> Dataset:
    """Make a corpus with a fixed seed."""
    generator = np.random.default_rng(5)
    tunes = [make_tune(generator, f"Tune {number}") for number in range(train + held + test)]
    return Dataset(
        train=tunes[:train],
        valid=tunes[train : train + held],
        test=tunes[train + held :],
        codec="measures",
        vocabulary=NAMES,
        refusals={},
        sources=("made <up>",),
    )
