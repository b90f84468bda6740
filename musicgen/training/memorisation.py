"""How much of some tunes stands in others, note for note, in any key.

What is compared are stretches of NOTES notes of the written form, as durations and the intervals
between them (`musicgen.music.melodic_runs`). People share such stretches too: what they do is the
measure of what a model may.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from musicgen.config import ModelSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import one_line
from musicgen.model.network import SequenceModel
from musicgen.music.melodic_runs import Run, runs
from musicgen.music.score import Score
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import Wishes
from musicgen.sampling.sampler import PlainSampler, Sampler
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec, Setting
from musicgen.tokens.registry import DEFAULT, restored
from musicgen.training.trainer import Progress, Trainer

NOTES: Final = 8
TUNES: Final = 4  # that a model writes to be judged by
BARS: Final = 8  # of each: so many notes say enough, and cost a small share of the training
MOST_IDS: Final = 200  # of each, where it has no bars

Tell = Callable[[str], None]
Stretch = tuple[int, ...]  # the first duration, then an interval and a duration for each other note
Stretches = tuple[Stretch, ...]  # of one tune


@dataclass(frozen=True, slots=True)
class Copied:
    """How many stretches of some tunes are known, tune by tune."""

    found: tuple[int, ...]
    of: tuple[int, ...]

    @property
    def rate(self) -> float:
        """The share of all stretches that are known."""
        return sum(self.found) / max(1, sum(self.of))

    @property
    def error(self) -> float:
        """The standard error of the rate, by what differs between tunes."""
        if len(self.of) < 2:
            return 0.0
        excess = np.array(self.found) - self.rate * np.array(self.of)
        spread = float(np.std(excess, ddof=1))
        return spread * math.sqrt(len(excess)) / max(1, sum(self.of))

    def clearly_exceeds(self, other: Copied) -> bool:
        """Tell whether more is known here than there, by two standard errors."""
        return self.rate - other.rate > 2 * math.hypot(self.error, other.error)


def stretches(score: Score, notes: int = NOTES) -> Stretches:
    """Return all stretches of a score."""
    return tuple(stretch for run in runs(score) for stretch in _stretches(run, notes))


def _stretches(run: Run, notes: int) -> Iterator[Stretch]:
    durations = (run.first, *(duration for _, duration in run.moves))
    for start in range(len(run) - notes + 1):
        moves = run.moves[start : start + notes - 1]
        yield (durations[start], *(number for move in moves for number in move))


def known_of(tunes: Iterable[Stretches]) -> frozenset[Stretch]:
    """Put the stretches of all tunes together."""
    return frozenset().union(*tunes)


def copied(tunes: Iterable[Stretches], known: frozenset[Stretch]) -> Copied:
    """Count what of each tune is known."""
    pairs = [(sum(stretch in known for stretch in tune), len(tune)) for tune in tunes]
    return Copied(tuple(found for found, _ in pairs), tuple(of for _, of in pairs))


def shared(tunes: Sequence[Stretches], groups: Sequence[str]) -> Copied:
    """Count what of each tune stands in a tune of another group: what people share."""
    by_group: dict[str, set[Stretch]] = {}
    for tune, group in zip(tunes, groups, strict=True):
        by_group.setdefault(group, set()).update(tune)
    often = Counter(stretch for found in by_group.values() for stretch in found)
    return copied(tunes, frozenset(stretch for stretch, count in often.items() if count > 1))


def stretches_of(tune: EncodedTune, codec: AnyCodec) -> Stretches:
    """Return the stretches of an encoded tune. A text has none."""
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    return stretches(piece) if isinstance(piece, Score) else ()


@dataclass(frozen=True)
class Judge:
    """Measures how much of what a model writes stands in the tunes that it learns from."""

    codec: AnyCodec
    known: frozenset[Stretch]
    human: Copied  # what those who wrote the tunes share
    drawable: frozenset[int]  # ids that the model may write

    @classmethod
    def of(cls, dataset: Dataset, seen: Sequence[int]) -> Judge:
        """Make the judge of a data set, whose events were met so many times."""
        codec = restored(dataset.codec, dataset.vocabulary, "the data set")
        tunes = [*dataset.train, *dataset.valid]
        written = [stretches_of(tune, codec) for tune in tunes]
        return cls(
            codec,
            known_of(written[: len(dataset.train)]),
            shared(written, [tune.group for tune in tunes]),
            frozenset(id_ for id_, count in enumerate(seen) if count),
        )

    def judged(self, model: SequenceModel) -> Copied:
        """Let a model write some tunes, always from the same noise, and compare them."""
        settings = model.settings
        if not isinstance(settings, ModelSettings):
            return Copied((), ())
        engine = NumpyEngine(settings, model.arrays())
        return copied((self._written(engine, number) for number in range(TUNES)), self.known)

    def _written(self, engine: NumpyEngine, number: int) -> Stretches:
        noise = Noise(0, number)
        if self.codec.name == DEFAULT:
            return stretches(Sampler(engine, self.drawable).sample(Wishes(bars=BARS), noise))
        sampler = PlainSampler(engine, self.codec, self.drawable)
        piece = self.codec.decode(sampler.draw_ids(Wishes(), noise, MOST_IDS), PLAIN_SETTING).piece
        return stretches(piece)


def guarded(trainer: Trainer, judge: Judge, tell: Tell) -> Iterator[Progress]:
    """Train; stop before weights are kept that copy clearly more than people do.

    Where no tune can be drawn that is told once, and the training goes on without a judge.
    """
    kept = copy.copy(trainer.best)
    can_judge = True
    for progress in trainer.run():
        found = progress
        written = _judged(judge, trainer, tell) if progress.is_best and can_judge else None
        if progress.is_best and written is None:
            can_judge = False
        elif written is not None:
            found = replace(progress, copied=written.rate)
            if kept.weights and written.clearly_exceeds(judge.human):
                trainer.best = kept
                found = replace(found, is_best=False, is_last=True)
            kept = copy.copy(trainer.best)
        yield found
        if found.is_last:
            return


def _judged(judge: Judge, trainer: Trainer, tell: Tell) -> Copied | None:
    """Return what a judge found; None, which is told, where it failed."""
    try:
        return judge.judged(trainer.model)
    except Exception as fault:  # noqa: BLE001 - no example may end hours of training
        tell(f"copies: no tune could be drawn ({one_line(fault)}); not judged from here on")
        return None
