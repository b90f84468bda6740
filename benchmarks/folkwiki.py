"""Train and score a network on the tunes of folkwiki as tokens of ABC, in nats per token.

    python benchmarks/folkwiki.py train.txt [more.txt]      train; hold out a random part of train
    python benchmarks/folkwiki.py train.txt more.txt --score FOLDER     score with saved weights
    python benchmarks/folkwiki.py --toy                     seconds, for continuous integration

A file holds tunes as white-space-separated tokens, with a blank line between two tunes. Of
train.txt, two random parts of HELD_OUT tunes are held out: the best weights are selected on valid,
test is scored once. The tunes of more.txt are scored too. Each token of a tune and its end event
are predicted; a token that the training part does not have is scored as `unknown`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.published.command_line import make_parser, read_changes, run_command
from benchmarks.published.recipes import FOLKWIKI
from benchmarks.published.training_run import (
    Benchmark,
    describe_machine,
    load_model,
    measure,
    save_run,
    train,
)
from benchmarks.published.tune_words import TuneContexts, read_tunes
from musicgen.errors import Refusal
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.network import LanguageModel
from musicgen.tokens.text import ByteCodec

HELD_OUT: Final = 192  # tunes of each held-out part
SPLIT_SEED: Final = 2024


def make_benchmark(tunes: list[str], more: list[str]) -> Benchmark:
    """Split tunes at random, and encode them with the vocabulary of the training part.

    Raises:
        Refusal: there are too few tunes.
    """
    if len(tunes) < 4:
        raise Refusal(f"{len(tunes)} tunes are too few to hold some out: name a larger file")
    held_out = min(HELD_OUT, len(tunes) // 4)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(tunes)).tolist()
    texts = {
        "valid": [tunes[index] for index in order[:held_out]],
        "test": [tunes[index] for index in order[held_out : 2 * held_out]],
        "train": [tunes[index] for index in order[2 * held_out :]],
        **({"more": more} if more else {}),
    }
    codec = ByteCodec("text-words", is_word_level=True).fit(texts["train"])
    parts = {
        name: [np.array(codec.encode(text).ids, np.int16) for text in part]
        for name, part in texts.items()
    }
    return Benchmark(
        parts, len, LanguageModel, None, codec.vocabulary.names, codec.name,
        context_source=TuneContexts(codec),
    )  # fmt: skip


def draw_toy_tunes() -> list[str]:
    """Draw tunes of four bars, each played twice."""
    generator = np.random.default_rng(1)
    tunes = []
    for _ in range(16):
        bars = [" ".join(generator.choice(list("ABcd"), 4)) for _ in range(4)]
        tunes.append(f"[L:1/8] [M:2/4] [K:DMaj] |: {' | '.join(bars)} :| {' | '.join(bars)} :|")
    return tunes


def main() -> None:
    parser = make_parser(__doc__, "the training tunes")
    parser.add_argument("more", nargs="?", type=Path, help="further tunes to score")
    arguments, scores = run_command(parser, run)
    if arguments.json:
        print(json.dumps({part: to_figures(score) for part, score in scores.items()}))
        return
    for part, score in scores.items():
        figures = to_figures(score)
        print(
            f"{part}, {len(score.nats)} tunes: {figures['per_token']:.4f} nats per token,"
            f" {figures['per_tune']:.1f} per tune"
        )
    print(describe_machine())


def run(arguments: argparse.Namespace) -> dict[str, HeldOutScore]:
    """Train or load a model; return its scores by part."""
    tunes = draw_toy_tunes() if arguments.toy else read_tunes(arguments.file)
    benchmark = make_benchmark(tunes, read_tunes(arguments.more) if arguments.more else [])
    if arguments.score:
        return benchmark.score_held_out(load_model(benchmark, arguments.score))
    size = str(len(benchmark.vocabulary))
    recipe = FOLKWIKI.change({**read_changes(arguments), "vocabulary_size": size})
    result = train(benchmark, recipe)
    print(result.format_time(), file=sys.stderr)
    scores = benchmark.score_held_out(benchmark.restore(result.weights, recipe.model))
    if arguments.out:
        figures = {part: measure(score) for part, score in scores.items()}
        save_run(arguments.out, benchmark, result, figures, " ".join(["python", *sys.argv]))
    return scores


def to_figures(score: HeldOutScore) -> dict[str, float]:
    """Return nats per token, and per tune, of a part."""
    nats = float(score.nats.sum())
    return {
        "per_token": round(nats / int(score.tokens.sum()), 4),
        "per_tune": round(nats / len(score.nats), 2),
    }


if __name__ == "__main__":
    main()
