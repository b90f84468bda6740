"""How near a variant is, how well what is redrawn fits in, and whether tunes are what was asked.

    python benchmarks/variants.py smooth          one knob moved a little: how many bars stay
    python benchmarks/variants.py keep            bits a note where bars are redrawn, and without
    python benchmarks/variants.py controls DATA   scale and dance, against the tunes of a data set
    python benchmarks/variants.py --toy           one tune of each, seconds

smooth: each tune is drawn at the knob's usual value and at one moved by 1, 2, 5, 10 and 20 %; what
is counted is the share of its bars whose notes are the same (of the tune with more bars). Beside it
the same with ordinary sampling, where the luck of a draw belongs to the number of draws before it.
keep: half of the bars of a tune, chosen at random, stay; bits are those of the whole tune under the
model, without the grammar's mask, header and end included.
controls: the share of the time in which notes of the scale sound, and the dance that a classifier
(nearest mean of standardised traits, learnt from real training tunes) hears; real held-out tunes
are the measure.
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

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
KNOBS = {"temperature": (0.8,), "top_p": (0.9,), "min_p": (0.05,)}


@dataclass(slots=True)
class Counted:
    """Luck that belongs to the number of draws so far, as in ordinary sampling."""

    seed: int
    tune: int = 0
    draws: int = 0

    def gumbel(self, context: DecisionContext, ids: Sequence[int]) -> Any:
        """Return the noise of the next draw."""
        del context
        self.draws += 1
        place = DecisionContext(0, self.draws, 0, 0, 0, None, decision="draw")
        return Noise(self.seed, self.tune).gumbel(place, ids)


def bars_of(score: Score) -> list[tuple[tuple[int, ...], ...]]:
    """Return the notes that begin in each written bar, from its start."""
    found = []
    notes = [(n.onset, n.pitch, n.duration) for n in score.notes]
    for bar in find_bars(score):
        inside = [n for n in notes if bar.start <= n[0] < bar.end]
        found.append(tuple((onset - bar.start, *rest) for onset, *rest in inside))
    return found


def same_share(one: Score, other: Score) -> float:
    """Return the share of bars that two tunes have in common, place by place."""
    a, b = bars_of(one), bars_of(other)
    return sum(x == y for x, y in zip(a, b, strict=False)) / max(len(a), len(b))


def moved(name: str, value: float, step: float) -> dict[str, float]:
    """Return a knob moved by a share of its value; towards 1 where it may not pass it."""
    return {name: value * (1 - step if name == "top_p" else 1 + step)}


def smooth(model: Model, count: int, knobs: Sequence[str]) -> None:
    """Print how many bars stay when one knob is moved."""
    sampler = model.sampler
    assert isinstance(sampler, Sampler)
    kinds: dict[str, Callable[[int], Any]] = {"by place": Noise, "by draws": Counted}
    print(f"share of bars unchanged, {count} tunes of 16 bars, form free")
    print("knob          luck      " + "".join(f"{step:>8.0%}" for step in STEPS))
    for name in knobs:
        for value in KNOBS[name]:
            for kind, luck in kinds.items():
                rows = [shares(sampler, name, value, luck, seed) for seed in range(count)]
                means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
                told = "".join(f"{mean:8.3f}" for mean in means)
                print(f"{name} {value:<5g} {kind:9}{told}", flush=True)


def shares(
    sampler: Sampler, name: str, value: float, luck: Callable[[int], Any], seed: int
) -> list[float]:
    """Return the share of bars that stay, for each step."""
    base = drawn(sampler, SamplingOptions.read(bars=16, **{name: value}), luck(seed))
    others = (SamplingOptions.read(bars=16, **moved(name, value, step)) for step in STEPS)
    return [same_share(base, drawn(sampler, other, luck(seed))) for other in others]


def drawn(sampler: Sampler, wishes: SamplingOptions, luck: Any) -> Score:
    """Draw a tune id by id, whatever kind of luck it has."""
    draft = sampler.begun(wishes, luck)
    while not draft.walk.done:
        draft.step()
    encoded = sampler.finished(draft, wishes)
    return MeasuresCodec().decode(encoded.ids, encoded.setting).score


def keep(model: Model, count: int, candidates: Sequence[int] = (1, 8, 24)) -> None:
    """Print the bits a note of free tunes, and of tunes half of whose bars are redrawn."""
    free = [model.sample(seed=seed, bars=16, form="through") for seed in range(count)]
    print(f"{count} tunes of 16 bars; bits a note: free {bits(model, [t.score for t in free]):.3f}")
    for number in candidates:
        chosen = [random.Random(seed).sample(range(1, 17), 8) for seed in range(count)]
        redrawn = [
            tune.tweak(keep=",".join(map(str, sorted(places))), candidates=number)
            for tune, places in zip(free, chosen, strict=True)
        ]
        print(f"  8 of 16 bars redrawn, {number} candidates:"
              f" {bits(model, [t.score for t in redrawn]):.3f}", flush=True)  # fmt: skip


def bits(model: Model, scores: Sequence[Score]) -> float:
    """Return all bits over all notes."""
    found = [model.surprise(score) for score in scores]
    return sum(one.bits for one in found) / sum(len(score.notes) for score in scores)


def controls(model: Model, data: Path | None, count: int) -> None:
    """Print how well key and dance are obeyed, beside real tunes."""
    if data is None:
        sys.exit("controls needs a data set: python benchmarks/variants.py controls DATA")
    dataset = store.load(data)
    print("share of sounding time in the scale that is asked for: sampled, real (valid part)")
    for mode in ("major", "minor", "dorian", "mixolydian"):
        drawn = [in_scale(model.sample(seed=n, key=f"D {mode}").score) for n in range(count)]
        real = [in_scale(s) for s in scores(dataset.valid) if s.key.mode == mode]
        print(f"  {mode:11} {statistics.fmean(drawn):.3f}, {statistics.fmean(real):.3f}"
              f" (real tunes: 5th centile {np.quantile(real, 0.05):.3f})")  # fmt: skip
    dances = ("jig", "reel", "hornpipe", "slip jig", "march", "polka", "waltz", "strathspey")
    known = [(s, s.rhythm) for s in scores(dataset.train) if s.rhythm in dances]
    held = [s.rhythm for s in scores(dataset.valid)]
    learnt = [name for _, name in known]
    rhythms = [name for name in dances if learnt.count(name) >= 20 and held.count(name) >= 10]
    classifier = Nearest([pair for pair in known if pair[1] in rhythms])
    print("share heard as the dance that was asked for: sampled, real (valid part)")
    for name in rhythms:
        drawn = [classifier.heard(model.sample(seed=n, rhythm=name).score) == name
                 for n in range(count)]  # fmt: skip
        real = [classifier.heard(s) == name for s in scores(dataset.valid) if s.rhythm == name]
        print(f"  {name:11} {statistics.fmean(drawn):.2f}, {statistics.fmean(real):.2f}"
              f" of {len(real)}", flush=True)  # fmt: skip


def scores(tunes: Sequence[EncodedTune]) -> Iterator[Score]:
    """Decode tunes."""
    for tune in tunes:
        yield MeasuresCodec().decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score


def in_scale(score: Score) -> float:
    """Return the share of the sounding time that lies in the key's scale."""
    weights = score.pitch_weights()
    return sum(weights[pitch] for pitch in score.key.scale) / max(1, sum(weights))


def traits(score: Score) -> list[float]:
    """Return what a tune is like, its title and its R: field left out."""
    durations = np.array([n.duration for n in score.notes], dtype=float)
    intervals = np.abs(np.diff([n.pitch for n in score.notes]))
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


class Nearest:
    """A classifier: the nearest mean of traits, in units of their spread."""

    def __init__(self, known: Sequence[tuple[Score, str]]) -> None:
        rows = np.array([traits(score) for score, _ in known])
        self.mean, self.spread = rows.mean(0), rows.std(0) + 1e-9
        names = np.array([name for _, name in known])
        scaled = (rows - self.mean) / self.spread
        self.means = {str(name): scaled[names == name].mean(0) for name in np.unique(names)}

    def heard(self, score: Score) -> str:
        """Return the dance that a tune is most like."""
        row = (np.array(traits(score)) - self.mean) / self.spread
        return min(self.means, key=lambda name: float(np.sum((row - self.means[name]) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", nargs="?", choices=("smooth", "keep", "controls"))
    parser.add_argument("data", nargs="?", type=Path, help="for controls: a data set")
    parser.add_argument("--count", type=int, default=300, help="tunes of each kind")
    parser.add_argument("--knobs", nargs="*", default=list(KNOBS), choices=KNOBS)
    parser.add_argument("--model", default="folk")
    parser.add_argument("--toy", action="store_true", help="seconds, for continuous integration")
    arguments = parser.parse_args()
    model, count = load(arguments.model), 1 if arguments.toy else arguments.count
    if arguments.toy or arguments.study == "smooth":
        smooth(model, count, ["temperature"] if arguments.toy else arguments.knobs)
    if arguments.toy or arguments.study == "keep":
        keep(model, count, (1,) if arguments.toy else (1, 8, 24))
    if arguments.study == "controls":
        controls(model, arguments.data, count)


if __name__ == "__main__":
    main()
