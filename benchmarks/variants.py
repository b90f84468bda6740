"""Study variants: small changes of an option, regenerated bars, and obedience to the options.

    python benchmarks/variants.py smooth          change one option a little: how many bars stay
    python benchmarks/variants.py keep            bits per note with and without regenerated bars
    python benchmarks/variants.py controls DATA   scale and dance, compared with real tunes
    python benchmarks/variants.py --toy           one tune of each; seconds

smooth: sample each tune at the usual value of an option and at values changed by 1, 2, 5, 10 and
20 %; print the share of bars whose notes are equal (relative to the tune with more bars). For
comparison, the same with ordinary sampling, where the noise is keyed by the number of draws so far.
keep: keep half of the bars of a tune, chosen at random; bits are those of the whole tune under the
model, without the grammar's mask, with header and end.
controls: the share of sounding time in the scale, and the dance that a classifier predicts (nearest
mean of standardised features, trained on real training tunes); real held-out tunes for comparison.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musicgen import Model, Score, load
from musicgen.corpus import store
from musicgen.corpus.store import EncodedTune
from musicgen.music.bars import find_bars
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.codec import Setting
from musicgen.tokens.grammar import DecisionContext
from musicgen.tokens.measures import MeasuresCodec

RELATIVE_CHANGES = (0.01, 0.02, 0.05, 0.1, 0.2)
OPTION_VALUES = {"temperature": (0.8,), "top_p": (0.9,), "min_p": (0.05,)}


@dataclass(slots=True)
class CountedNoise:
    """Noise keyed by the number of draws so far, as in ordinary sampling."""

    seed: int
    tune_number: int = 0
    draw_count: int = 0

    def gumbel(self, context: DecisionContext, ids: Sequence[int]) -> Any:
        """Return the Gumbel noise of the next draw."""
        del context
        self.draw_count += 1
        context_of_draw = DecisionContext(0, self.draw_count, 0, 0, 0, None, decision="draw")
        return Noise(self.seed, self.tune_number).gumbel(context_of_draw, ids)


def list_bars(score: Score) -> list[tuple[tuple[int, ...], ...]]:
    """Return the notes that begin in each written bar, relative to its start."""
    bars = []
    notes = [(note.onset, note.pitch, note.duration) for note in score.notes]
    for bar in find_bars(score):
        inside = [note for note in notes if bar.start <= note[0] < bar.end]
        bars.append(tuple((onset - bar.start, *rest) for onset, *rest in inside))
    return bars


def compute_share_of_equal_bars(first: Score, second: Score) -> float:
    """Return the share of equal bars of two tunes, compared by bar number."""
    bars_a, bars_b = list_bars(first), list_bars(second)
    return sum(x == y for x, y in zip(bars_a, bars_b, strict=False)) / max(len(bars_a), len(bars_b))


def change_option(name: str, value: float, change: float) -> dict[str, float]:
    """Return an option changed by a share of its value; top_p is lowered, as it is at most 1."""
    return {name: value * (1 - change if name == "top_p" else 1 + change)}


def study_small_changes(model: Model, count: int, names: Sequence[str]) -> None:
    """Print how many bars stay when one option is changed."""
    sampler = model.sampler
    assert isinstance(sampler, Sampler)
    noise_kinds: dict[str, Callable[[int], Any]] = {"position": Noise, "draws": CountedNoise}
    print(f"share of bars unchanged, {count} tunes of 16 bars, form free")
    print("option        noise by  " + "".join(f"{change:>8.0%}" for change in RELATIVE_CHANGES))
    for name in names:
        for value in OPTION_VALUES[name]:
            for kind, make_noise in noise_kinds.items():
                rows = [
                    measure_shares(sampler, name, value, make_noise, seed) for seed in range(count)
                ]
                means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
                text = "".join(f"{mean:8.3f}" for mean in means)
                print(f"{name} {value:<5g} {kind:9}{text}", flush=True)


def measure_shares(
    sampler: Sampler, name: str, value: float, make_noise: Callable[[int], Any], seed: int
) -> list[float]:
    """Return the share of equal bars for each relative change."""
    original = sample_score(
        sampler, SamplingOptions.parse(bars=16, **{name: value}), make_noise(seed)
    )
    changed_options = (
        SamplingOptions.parse(bars=16, **change_option(name, value, change))
        for change in RELATIVE_CHANGES
    )
    return [
        compute_share_of_equal_bars(original, sample_score(sampler, changed, make_noise(seed)))
        for changed in changed_options
    ]


def sample_score(sampler: Sampler, options: SamplingOptions, noise: Any) -> Score:
    """Sample a tune id by id, with any kind of noise."""
    state = sampler.start_tune(options, noise)
    while not state.walk.is_done:
        state.step()
    encoded = sampler.finish_tune(state, options)
    return MeasuresCodec().decode(encoded.ids, encoded.setting).score


def study_kept_bars(model: Model, count: int, candidates: Sequence[int] = (1, 8, 24)) -> None:
    """Print the bits per note of free tunes, and of tunes with half of their bars regenerated."""
    free = [model.sample(seed=seed, bars=16, form="through") for seed in range(count)]
    free_bits = compute_bits_per_note(model, [tune.score for tune in free])
    print(f"{count} tunes of 16 bars; bits per note: free {free_bits:.3f}")
    for number in candidates:
        kept_bars = [random.Random(seed).sample(range(1, 17), 8) for seed in range(count)]
        redrawn = [
            tune.tweak(keep=",".join(map(str, sorted(bar_numbers))), candidates=number)
            for tune, bar_numbers in zip(free, kept_bars, strict=True)
        ]
        bits = compute_bits_per_note(model, [tune.score for tune in redrawn])
        print(f"  8 of 16 bars regenerated, {number} candidates: {bits:.3f}", flush=True)


def compute_bits_per_note(model: Model, scores: Sequence[Score]) -> float:
    """Return all bits over all notes."""
    surprises = [model.measure_surprise(score) for score in scores]
    return sum(surprise.bits for surprise in surprises) / sum(len(score.notes) for score in scores)


def study_options(model: Model, data: Path | None, count: int) -> None:
    """Print how well sampled tunes follow key and rhythm, with real tunes for comparison."""
    if data is None:
        sys.exit("controls needs a data set: python benchmarks/variants.py controls DATA")
    dataset = store.load(data)
    print("share of sounding time in the requested scale: sampled, real (validation part)")
    for mode in ("major", "minor", "dorian", "mixolydian"):
        sampled = [
            measure_in_scale(model.sample(seed=seed, key=f"D {mode}").score)
            for seed in range(count)
        ]
        real = [
            measure_in_scale(score)
            for score in decode_scores(dataset.valid)
            if score.key.mode == mode
        ]
        print(f"  {mode:11} {statistics.fmean(sampled):.3f}, {statistics.fmean(real):.3f}"
              f" (real tunes: 5th percentile {np.quantile(real, 0.05):.3f})")  # fmt: skip
    dances = ("jig", "reel", "hornpipe", "slip jig", "march", "polka", "waltz", "strathspey")
    labelled = [
        (score, score.rhythm) for score in decode_scores(dataset.train) if score.rhythm in dances
    ]
    held_out_rhythms = [score.rhythm for score in decode_scores(dataset.valid)]
    training_rhythms = [name for _, name in labelled]
    rhythms = [
        name
        for name in dances
        if training_rhythms.count(name) >= 20 and held_out_rhythms.count(name) >= 10
    ]
    classifier = NearestMeanClassifier([pair for pair in labelled if pair[1] in rhythms])
    print("share classified as the requested dance: sampled, real (validation part)")
    for name in rhythms:
        sampled = [classifier.classify(model.sample(seed=seed, rhythm=name).score) == name
                 for seed in range(count)]  # fmt: skip
        real = [
            classifier.classify(score) == name
            for score in decode_scores(dataset.valid)
            if score.rhythm == name
        ]
        print(f"  {name:11} {statistics.fmean(sampled):.2f}, {statistics.fmean(real):.2f}"
              f" of {len(real)}", flush=True)  # fmt: skip


def decode_scores(tunes: Sequence[EncodedTune]) -> Iterator[Score]:
    """Decode tunes."""
    for tune in tunes:
        yield MeasuresCodec().decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score


def measure_in_scale(score: Score) -> float:
    """Return the share of the sounding time that lies in the key's scale."""
    weights = score.pitch_class_durations()
    return sum(weights[pitch] for pitch in score.key.scale) / max(1, sum(weights))


def compute_features(score: Score) -> list[float]:
    """Return features of the music, without title and R: field."""
    durations = np.array([note.duration for note in score.notes], dtype=float)
    intervals = np.abs(np.diff([note.pitch for note in score.notes]))
    meter = score.meter
    return [
        meter.steps,
        meter.beat_steps,
        float(meter.beats % 3 == 0),
        len(durations) / max(1, score.end) * 48,
        *(float(np.mean(durations == value)) for value in (12, 16, 24, 36, 48, 72)),
        float(np.mean(intervals)) if len(intervals) else 0.0,
        float(np.mean((durations[:-1] == 36) & (durations[1:] == 12))),
        float(np.mean((durations[:-1] == 12) & (durations[1:] == 36))),
    ]


class NearestMeanClassifier:
    """Classify by the nearest mean of standardised features."""

    def __init__(self, labelled: Sequence[tuple[Score, str]]) -> None:
        rows = np.array([compute_features(score) for score, _ in labelled])
        self.mean, self.spread = rows.mean(0), rows.std(0) + 1e-9
        names = np.array([name for _, name in labelled])
        scaled = (rows - self.mean) / self.spread
        self.means = {str(name): scaled[names == name].mean(0) for name in np.unique(names)}

    def classify(self, score: Score) -> str:
        """Return the dance with the nearest mean."""
        row = (np.array(compute_features(score)) - self.mean) / self.spread
        return min(self.means, key=lambda name: float(np.sum((row - self.means[name]) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", nargs="?", choices=("smooth", "keep", "controls"))
    parser.add_argument("data", nargs="?", type=Path, help="for controls: a data set")
    parser.add_argument("--count", type=int, default=300, help="number of tunes of each kind")
    parser.add_argument("--knobs", nargs="*", default=list(OPTION_VALUES), choices=OPTION_VALUES)
    parser.add_argument("--model", default="folk")
    parser.add_argument("--toy", action="store_true", help="one tune of each; seconds")
    arguments = parser.parse_args()
    model, count = load(arguments.model), 1 if arguments.toy else arguments.count
    if arguments.toy or arguments.study == "smooth":
        study_small_changes(model, count, ["temperature"] if arguments.toy else arguments.knobs)
    if arguments.toy or arguments.study == "keep":
        study_kept_bars(model, count, (1,) if arguments.toy else (1, 8, 24))
    if arguments.study == "controls":
        study_options(model, arguments.data, count)


if __name__ == "__main__":
    main()
