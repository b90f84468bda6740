"""Choose the temperature and the min-p that a model is sampled with when a user gives none.

    python benchmarks/sampling_defaults.py MODEL DATA                  measures a grid
    python benchmarks/sampling_defaults.py MODEL DATA --write 1.0 0.05 stores two values in MODEL

MODEL is a folder, DATA a data set of `musicgen corpus build`. Tunes of a free form are compared
with the validation part; the distance is the mean over the figures of form, in half-widths of the
band of as many real tunes, so that a figure inside its band counts at most 1. The test part is
never read.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from musicgen.checkpoint import load as load_checkpoint
from musicgen.checkpoint import save
from musicgen.corpus.store import load as load_dataset
from musicgen.evaluation.figures import Figure, compare_tables
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.score_card import TuneSet
from musicgen.music.score import Score
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.tokens.codec import Setting
from musicgen.tokens.measures import MeasuresCodec
from musicgen.trained_model import Model, load, sample_many

SHOWN = (
    *("sections_multiple_of_4", "sections_8", "bar_likeness.1", "bar_likeness.2"),
    *("bar_likeness.4", "bar_likeness.8", "ends_on_tonic", "repeats", "pickups", "loops"),
)
EXTRA_FILES = ("receipt.bin", "MODEL_CARD.md", "metrics.jsonl")


def sample_scores(model: Model, temperature: float, min_p: float, count: int) -> tuple[Score, ...]:
    """Sample tunes of a free form, the same seeds for all settings."""
    options = SamplingOptions.parse(form="free", temperature=temperature, min_p=min_p or None)
    request = GenerationRequest(options, seed=1)
    return tuple(tune.score for tune in sample_many(model, request, count=count))


def read_valid(folder: Path) -> TuneSet:
    """Decode the validation tunes of a data set."""
    codec = MeasuresCodec()
    tunes = load_dataset(folder).valid
    settings = (Setting.from_json(tune.setting) for tune in tunes)
    pairs = zip(tunes, settings, strict=True)
    scores = tuple(codec.decode(tune.ids.tolist(), setting).score for tune, setting in pairs)
    return TuneSet("real", scores)


def average_distance(figures: Iterable[Figure]) -> float:
    """Return the mean distance from the middle of the band, in half-bands, each counted up to 5."""
    distances = [
        min(
            abs(figure.value - (figure.low + figure.high) / 2) / (figure.high - figure.low) * 2, 5.0
        )
        for figure in figures
        if figure.high > figure.low
    ]
    return sum(distances) / len(distances)


def measure(model: Model, real: TuneSet, count: int, grid: Iterable[tuple[float, float]]) -> None:
    """Print one row per temperature and min-p."""
    print("temperature min_p  distance  inside", *SHOWN)
    for temperature, min_p in grid:
        tunes = TuneSet("sampled", sample_scores(model, temperature, min_p, count))
        generator = np.random.default_rng(0)
        figures = [
            figure
            for figure in compare_tables(tunes.table, real.table, generator)
            if not figure.is_detail
            and figure.key in {definition.key for definition in FORM_FIGURES}
        ]
        by_key = {figure.key: figure for figure in figures}
        inside = sum(figure.is_inside for figure in figures)
        shown = [f"{by_key[key].value:.3f}" for key in SHOWN if key in by_key]
        print(f"{temperature:11g} {min_p:5g} {average_distance(figures):9.2f}"
              f" {inside:4d}/{len(figures)}", *shown, flush=True)  # fmt: skip


def write_defaults(folder: Path, temperature: float, min_p: float) -> None:
    """Store the defaults in a checkpoint; its fingerprint stays."""
    checkpoint = load_checkpoint(folder)
    sampling = {"temperature": temperature} | ({"min_p": min_p} if min_p else {})
    extra = {name: checkpoint.read_extra_file(name)
             for name in EXTRA_FILES if (folder / name).is_file()}  # fmt: skip
    manifest = replace(checkpoint.manifest, sampling=sampling)
    save(folder, checkpoint.weights, manifest, extra, force=True)


def main() -> None:
    """Measure the grid, or store the defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=Path("folk"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--toy", action="store_true", help="seconds; folk against its own tunes")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.8, 0.9, 1.0])
    parser.add_argument("--min-p", type=float, nargs="+", default=[0.0, 0.03, 0.08])
    parser.add_argument("--write", type=float, nargs=2, metavar=("TEMPERATURE", "MIN_P"))
    arguments = parser.parse_args()
    if arguments.write:
        write_defaults(arguments.model, *arguments.write)
        return
    if arguments.toy:
        folk = load("folk")
        real = TuneSet("real", sample_scores(folk, 0.9, 0.0, 8))
        measure(folk, real, 8, [(1.0, 0.05)])
        return
    if arguments.data is None:
        parser.error("name the data set that holds the validation tunes")
    grid = itertools.product(arguments.temperatures, arguments.min_p)
    measure(load(arguments.model), read_valid(arguments.data), arguments.count, grid)


if __name__ == "__main__":
    main()
