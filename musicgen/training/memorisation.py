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
from musicgen.errors import to_one_line
from musicgen.model.network import SequenceModel
from musicgen.music.melodic_runs import MelodicRun, find_runs
from musicgen.music.score import Score
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import GenericSampler, Sampler
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec, Setting
from musicgen.tokens.registry import restore_codec
from musicgen.training.trainer import Progress, Trainer

NGRAM_NOTES: Final = 8
SAMPLED_TUNES: Final = 4  # that a model writes to be judged by
SAMPLED_BARS: Final = 8  # of each: so many notes say enough, and cost a small share of the training
MAX_SAMPLED_IDS: Final = 200  # of each, where it has no bars

MessageCallback = Callable[[str], None]
MelodicNgram = tuple[
    int, ...
]  # the first duration, then an interval and a duration for each other note
TuneNgrams = tuple[MelodicNgram, ...]  # of one tune


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """How many stretches of some tunes are known, tune by tune."""

    copied_counts: tuple[int, ...]
    total_counts: tuple[int, ...]

    @property
    def share(self) -> float:
        """The share of all stretches that are known."""
        return sum(self.copied_counts) / max(1, sum(self.total_counts))

    @property
    def standard_error(self) -> float:
        """The standard error of the rate, by what differs between tunes."""
        if len(self.total_counts) < 2:
            return 0.0
        excess = np.array(self.copied_counts) - self.share * np.array(self.total_counts)
        spread = float(np.std(excess, ddof=1))
        return spread * math.sqrt(len(excess)) / max(1, sum(self.total_counts))

    def clearly_exceeds(self, other: CopyCounts) -> bool:
        """Tell whether more is known here than there, by two standard errors."""
        return self.share - other.share > 2 * math.hypot(self.standard_error, other.standard_error)


def extract_ngrams(score: Score, notes: int = NGRAM_NOTES) -> TuneNgrams:
    """Return all stretches of a score."""
    return tuple(stretch for run in find_runs(score) for stretch in _iter_run_ngrams(run, notes))


def _iter_run_ngrams(run: MelodicRun, notes: int) -> Iterator[MelodicNgram]:
    durations = (run.first_duration, *(duration for _, duration in run.moves))
    for start in range(len(run) - notes + 1):
        moves = run.moves[start : start + notes - 1]
        yield (durations[start], *(number for move in moves for number in move))


def merge_ngrams(tunes: Iterable[TuneNgrams]) -> frozenset[MelodicNgram]:
    """Put the stretches of all tunes together."""
    return frozenset().union(*tunes)


def count_copied(tunes: Iterable[TuneNgrams], known_ngrams: frozenset[MelodicNgram]) -> CopyCounts:
    """Count what of each tune is known."""
    pairs = [(sum(stretch in known_ngrams for stretch in tune), len(tune)) for tune in tunes]
    return CopyCounts(tuple(found for found, _ in pairs), tuple(of for _, of in pairs))


def count_shared(tunes: Sequence[TuneNgrams], groups: Sequence[str]) -> CopyCounts:
    """Count what of each tune stands in a tune of another group: what people share."""
    by_group: dict[str, set[MelodicNgram]] = {}
    for tune, group in zip(tunes, groups, strict=True):
        by_group.setdefault(group, set()).update(tune)
    often = Counter(stretch for found in by_group.values() for stretch in found)
    return count_copied(tunes, frozenset(stretch for stretch, count in often.items() if count > 1))


def extract_encoded_ngrams(tune: EncodedTune, codec: AnyCodec) -> TuneNgrams:
    """Return the stretches of an encoded tune. A text has none."""
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    return extract_ngrams(piece) if isinstance(piece, Score) else ()


@dataclass(frozen=True)
class MemorisationCheck:
    """Measures how much of what a model writes stands in the tunes that it learns from."""

    codec: AnyCodec
    training_ngrams: frozenset[MelodicNgram]
    human_counts: CopyCounts  # what those who wrote the tunes share
    allowed_ids: frozenset[int]  # ids that the model may write

    @classmethod
    def of(cls, dataset: Dataset, event_counts: Sequence[int]) -> MemorisationCheck:
        """Make the judge of a data set, whose events were met so many times."""
        codec = restore_codec(dataset.codec, dataset.vocabulary, "the data set")
        tunes = [*dataset.train, *dataset.valid]
        written = [extract_encoded_ngrams(tune, codec) for tune in tunes]
        return cls(
            codec,
            merge_ngrams(written[: len(dataset.train)]),
            count_shared(written, [tune.group for tune in tunes]),
            frozenset(id_ for id_, count in enumerate(event_counts) if count),
        )

    def measure(self, model: SequenceModel) -> CopyCounts:
        """Let a model write some tunes, always from the same noise, and compare them."""
        settings = model.settings
        if not isinstance(settings, ModelSettings):
            return CopyCounts((), ())
        engine = NumpyEngine(settings, model.copy_weights())
        return count_copied(
            (self._sample_ngrams(engine, number) for number in range(SAMPLED_TUNES)),
            self.training_ngrams,
        )

    def _sample_ngrams(self, engine: NumpyEngine, number: int) -> TuneNgrams:
        noise = Noise(0, number)
        if self.codec.has_bars:
            return extract_ngrams(
                Sampler(engine, self.allowed_ids).sample(SamplingOptions(bars=SAMPLED_BARS), noise)
            )
        sampler = GenericSampler(engine, self.codec, self.allowed_ids)
        piece = self.codec.decode(
            sampler.draw_ids(SamplingOptions(), noise, MAX_SAMPLED_IDS), PLAIN_SETTING
        ).piece
        return extract_ngrams(piece)


def stop_on_memorisation(
    trainer: Trainer, check: MemorisationCheck, notify: MessageCallback
) -> Iterator[Progress]:
    """Train; stop before weights are kept that copy clearly more than people do.

    Where no tune can be drawn that is told once, and the training goes on without a judge.
    """
    kept = copy.copy(trainer.best)
    can_judge = True
    for progress in trainer.run():
        found = progress
        written = _try_measure(check, trainer, notify) if progress.is_best and can_judge else None
        if progress.is_best and written is None:
            can_judge = False
        elif written is not None:
            found = replace(progress, copied_share=written.share)
            if kept.weights and written.clearly_exceeds(check.human_counts):
                trainer.best = kept
                found = replace(found, is_best=False, is_last=True)
            kept = copy.copy(trainer.best)
        yield found
        if found.is_last:
            return


def _try_measure(
    check: MemorisationCheck, trainer: Trainer, notify: MessageCallback
) -> CopyCounts | None:
    """Return what a judge found; None, which is told, where it failed."""
    try:
        return check.measure(trainer.model)
    except Exception as fault:  # noqa: BLE001 - no example may end hours of training
        notify(f"copies: no tune could be drawn ({to_one_line(fault)}); not judged from here on")
        return None
