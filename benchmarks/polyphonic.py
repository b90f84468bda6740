"""Train and score a network on a published benchmark of piano rolls, in nats per frame.

    python benchmarks/polyphonic.py FILE                    train with the recipe of the file's name
    python benchmarks/polyphonic.py FILE --score FOLDER     score with saved weights, in seconds
    python benchmarks/polyphonic.py --toy                   seconds, for continuous integration

FILE is one of the MATLAB files of Boulanger-Lewandowski and others (2012), or the JSON file of
chorales at 16th notes. Trained on its part train, selected on valid; every held-out part that the
file has is scored. A frame's nats are those of all ids that write it, from high to low and with the
end of the frame; all frames count, the first too (micro average). The likelihood is exact.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

import numpy as np

from benchmarks.published.command_line import make_parser, read_changes, run_command
from benchmarks.published.frame_model import FrameModel, TransposedMixture
from benchmarks.published.recipes import RECIPES, Recipe
from benchmarks.published.rolls import PITCHES, Parts, count_frames, read_parts
from benchmarks.published.training_run import (
    Benchmark,
    describe_machine,
    load_model,
    measure,
    save_run,
    train,
)
from musicgen.model.network import SequenceModel
from musicgen.music.arrays import TokenIds
from musicgen.tokens.frames import FRAMES, encode_frames


def make_benchmark(parts: Parts) -> Benchmark:
    """Make the benchmark of the parts of a file."""
    return Benchmark(
        parts, count_frames, FrameModel, TransposedMixture, FRAMES.names, "frames", (PITCHES,)
    )


def draw_toy_parts(seed: int = 1) -> Parts:
    """Draw pieces of two voices that repeat."""
    generator = np.random.default_rng(seed)
    pieces = [
        [{60 + int(note), 48 + int(note)} for note in generator.integers(0, 12, 4)] * 4
        for _ in range(12)
    ]
    ids: list[TokenIds] = [np.array(encode_frames(piece)[:-1], np.int16) for piece in pieces]
    return {"train": ids[:8], "valid": ids[8:10], "test": ids[10:]}


def main() -> None:
    parser = make_parser(__doc__, ".mat or .json")
    parser.add_argument(
        "--without", nargs="*", default=[], help="fields of the context to leave out"
    )
    parser.add_argument(
        "--transpositions", nargs="*", type=int, help="semitones to score in; default: the recipe's"
    )
    arguments, figures = run_command(parser, run)
    if arguments.json:
        print(json.dumps(figures))
        return
    print("nats per frame: " + ", ".join(f"{part} {value:.4f}" for part, value in figures.items()))
    print(describe_machine())


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Train or load a model; return its figures by part."""
    benchmark = make_benchmark(draw_toy_parts() if arguments.toy else read_parts(arguments.file))
    if arguments.score:
        return measure_parts(
            benchmark, load_model(benchmark, arguments.score, arguments.transpositions)
        )
    result = train(benchmark, choose_recipe(arguments))
    print(result.format_time(), file=sys.stderr)
    recipe = result.recipe
    model = benchmark.restore(result.weights, recipe.model, recipe.transpositions)
    figures = measure_parts(benchmark, model)
    if arguments.out:
        save_run(arguments.out, benchmark, result, figures, " ".join(["python", *sys.argv]))
    return figures


def measure_parts(benchmark: Benchmark, model: SequenceModel) -> dict[str, float]:
    """Return the nats per frame of each held-out part."""
    scores = benchmark.score_held_out(model)
    return {part: measure(score) for part, score in scores.items()}


def choose_recipe(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of the file's name, with the changes of --set."""
    stem = "JSB_Chorales" if arguments.toy else arguments.file.stem
    recipe = RECIPES.get(stem, RECIPES["JSB_Chorales"])
    recipe = recipe.change(read_changes(arguments))
    if arguments.transpositions:
        recipe = replace(recipe, transpositions=tuple(arguments.transpositions))
    return recipe.drop_fields(arguments.without)


if __name__ == "__main__":
    main()
