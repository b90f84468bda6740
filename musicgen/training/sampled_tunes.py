"""What is measured of sampled tunes during training: how much of them is copied, and their form.

**Memorisation**: how many melodic n-grams of the model's tunes occur in its training tunes. A
melodic n-gram is NGRAM_NOTES consecutive notes of the written form, as durations and the intervals
between them, in any key (`musicgen.music.melodic_runs`). Human composers share n-grams too: the
rate at which the training tunes share them is the limit for the model.

**Form**: figures of a few sampled tunes per evaluation (`musicgen.evaluation.form`).
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from musicgen.checkpoint import Checkpoint, Manifest, Weights
from musicgen.config import ModelSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import to_one_line
from musicgen.evaluation.form import form_figures
from musicgen.model.network import SequenceModel
from musicgen.music.melodic_runs import MelodicRun, find_runs
from musicgen.music.score import Score
from musicgen.sampling.batch_sampler import generate_tunes
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.sampling.sampler import GenericSampler, Sampler, make_sampler
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec, Setting
from musicgen.tokens.registry import restore_codec
from musicgen.training.trainer import Progress, Trainer

NGRAM_NOTES: Final = 8
COPY_TUNES: Final = 4  # tunes sampled per check
COPY_BARS: Final = 8  # bars per tune: enough notes, at a small share of the training time
MAX_COPY_IDS: Final = 200  # ids per tune, for codecs without bars
FORM_TUNES: Final = 16  # tunes sampled per evaluation
MAX_TIME_SHARE: Final = 0.01  # of the run so far
FIRST_SECONDS: Final = 3.0  # assumed for the first measurement

MessageCallback: TypeAlias = Callable[[str], None]
MelodicNgram: TypeAlias = tuple[int, ...]  # first duration; then interval, duration per other note
TuneNgrams: TypeAlias = tuple[MelodicNgram, ...]  # all n-grams of one tune


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """Counts of copied n-grams, per tune."""

    copied_counts: tuple[int, ...]  # n-grams of each tune that occur elsewhere
    total_counts: tuple[int, ...]  # all n-grams of each tune

    @property
    def share(self) -> float:
        """The share of all n-grams that are copied, 0 to 1."""
        return sum(self.copied_counts) / max(1, sum(self.total_counts))

    @property
    def standard_error(self) -> float:
        """The standard error of the share, from its variation between tunes."""
        if len(self.total_counts) < 2:
            return 0.0
        excess = np.array(self.copied_counts) - self.share * np.array(self.total_counts)
        spread = float(np.std(excess, ddof=1))
        return spread * math.sqrt(len(excess)) / max(1, sum(self.total_counts))

    def clearly_exceeds(self, reference: CopyCounts) -> bool:
        """Tell whether the share exceeds that of `reference` by two standard errors."""
        return self.share - reference.share > 2 * math.hypot(
            self.standard_error, reference.standard_error
        )


def extract_ngrams(score: Score, notes: int = NGRAM_NOTES) -> TuneNgrams:
    """Return all n-grams of a score."""
    return tuple(ngram for run in find_runs(score) for ngram in _iter_run_ngrams(run, notes))


def _iter_run_ngrams(run: MelodicRun, notes: int) -> Iterator[MelodicNgram]:
    durations = (run.first_duration, *(duration for _, duration in run.moves))
    for start in range(len(run) - notes + 1):
        moves = run.moves[start : start + notes - 1]
        yield (durations[start], *(number for move in moves for number in move))


def merge_ngrams(tunes: Iterable[TuneNgrams]) -> frozenset[MelodicNgram]:
    """Return the set of the n-grams of all tunes."""
    return frozenset().union(*tunes)


def count_copied(tunes: Iterable[TuneNgrams], known_ngrams: frozenset[MelodicNgram]) -> CopyCounts:
    """Count the n-grams of each tune that are in `known_ngrams`."""
    pairs = [(sum(ngram in known_ngrams for ngram in tune), len(tune)) for tune in tunes]
    return CopyCounts(tuple(copied for copied, _ in pairs), tuple(total for _, total in pairs))


def count_shared(tunes: Sequence[TuneNgrams], groups: Sequence[str]) -> CopyCounts:
    """Count the n-grams of each tune that a tune of another group shares."""
    by_group: dict[str, set[MelodicNgram]] = {}
    for tune, group in zip(tunes, groups, strict=True):
        by_group.setdefault(group, set()).update(tune)
    group_counts = Counter(ngram for group_ngrams in by_group.values() for ngram in group_ngrams)
    return count_copied(
        tunes, frozenset(ngram for ngram, count in group_counts.items() if count > 1)
    )


def extract_encoded_ngrams(tune: EncodedTune, codec: AnyCodec) -> TuneNgrams:
    """Return the n-grams of an encoded tune; () for a text."""
    piece = codec.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).piece
    return extract_ngrams(piece) if isinstance(piece, Score) else ()


@dataclass(frozen=True)
class MemorisationCheck:
    """Measures the share of n-grams that a model copies from its training tunes."""

    codec: AnyCodec
    training_ngrams: frozenset[MelodicNgram]
    human_counts: CopyCounts  # n-grams that tunes of different groups share
    allowed_ids: frozenset[int]  # ids that the model may sample

    @classmethod
    def of(cls, dataset: Dataset, event_counts: Sequence[int]) -> MemorisationCheck:
        """Build the check of a data set from its event counts, by id."""
        codec = restore_codec(dataset.codec, dataset.vocabulary, "the data set")
        tunes = [*dataset.train, *dataset.valid]
        ngrams = [extract_encoded_ngrams(tune, codec) for tune in tunes]
        return cls(
            codec,
            merge_ngrams(ngrams[: len(dataset.train)]),
            count_shared(ngrams, [tune.group for tune in tunes]),
            frozenset(id_ for id_, count in enumerate(event_counts) if count),
        )

    def measure(self, model: SequenceModel) -> CopyCounts:
        """Sample some tunes, always from the same noise, and count their copied n-grams."""
        settings = model.settings
        if not isinstance(settings, ModelSettings):
            return CopyCounts((), ())
        engine = NumpyEngine(settings, model.copy_weights())
        return count_copied(
            (self._sample_ngrams(engine, number) for number in range(COPY_TUNES)),
            self.training_ngrams,
        )

    def _sample_ngrams(self, engine: NumpyEngine, number: int) -> TuneNgrams:
        noise = Noise(0, number)
        if self.codec.has_bars:
            return extract_ngrams(
                Sampler(engine, self.allowed_ids).sample(SamplingOptions(bars=COPY_BARS), noise)
            )
        sampler = GenericSampler(engine, self.codec, self.allowed_ids)
        piece = self.codec.decode(
            sampler.draw_ids(SamplingOptions(), noise, MAX_COPY_IDS), PLAIN_SETTING
        ).piece
        return extract_ngrams(piece)


def stop_on_memorisation(
    trainer: Trainer, check: MemorisationCheck, notify: MessageCallback
) -> Iterator[Progress]:
    """Train, and stop before weights become the best ones that copy clearly more than humans do.

    If no tune can be sampled, report that once and continue without the check.
    """
    previous_best = copy.copy(trainer.best)
    can_sample = True
    for progress in trainer.run():
        if progress.is_best and can_sample:
            counts = _try_measure(check, trainer, notify)
            can_sample = counts is not None
            if counts is not None:
                progress = replace(progress, copied_share=counts.share)
                if previous_best.weights and counts.clearly_exceeds(check.human_counts):
                    trainer.best = previous_best
                    progress = replace(progress, is_best=False, is_last=True)
                previous_best = copy.copy(trainer.best)
        yield progress
        if progress.is_last:
            return


def _try_measure(
    check: MemorisationCheck, trainer: Trainer, notify: MessageCallback
) -> CopyCounts | None:
    """Measure the copied n-grams; on any error, report it and return None."""
    try:
        return check.measure(trainer.model)
    except Exception as error:  # noqa: BLE001 - sampling must not abort training
        notify(f"copies: no tune could be sampled ({to_one_line(error)}); no longer checked")
        return None


@dataclass
class FormCheck:
    """Measures the form of sampled tunes while that takes little of the run's time."""

    make_manifest: Callable[[], Manifest]
    get_weights: Callable[[], Weights]  # the current ones
    notify: MessageCallback
    clock: Callable[[], float] = time.monotonic
    spent_seconds: float = 0.0
    last_seconds: float = FIRST_SECONDS
    has_failed: bool = False

    def add_figures(self, steps: Iterable[Progress]) -> Iterator[Progress]:
        """Yield the progress of a run, with the figures of sampled tunes after evaluations."""
        start = self.clock()
        for progress in steps:
            if progress.held_out_score is not None and self.is_affordable(self.clock() - start):
                progress = replace(progress, form_figures=self.try_measure())
            yield progress

    def is_affordable(self, elapsed_seconds: float) -> bool:
        """Tell whether another measurement keeps within the share of the elapsed time."""
        seconds = self.spent_seconds + self.last_seconds
        return not self.has_failed and seconds <= MAX_TIME_SHARE * elapsed_seconds

    def try_measure(self) -> dict[str, float] | None:
        """Measure the form of sampled tunes; on any error, report it and return None."""
        start = self.clock()
        try:
            return self.measure()
        except Exception as error:  # noqa: BLE001 - sampling must not abort training
            self.notify(f"form: no tune could be sampled ({to_one_line(error)})")
            self.has_failed = True
            return None
        finally:
            self.last_seconds = self.clock() - start
            self.spent_seconds += self.last_seconds

    def measure(self) -> dict[str, float]:
        """Sample tunes of a free form, always from the same noise, and measure their form."""
        manifest = self.make_manifest()
        codec = restore_codec(manifest.codec, manifest.vocabulary, manifest.name)
        checkpoint = Checkpoint(manifest, self.get_weights(), Path(manifest.name))
        sampler = make_sampler(checkpoint, codec)
        assert isinstance(sampler, Sampler)
        request = GenerationRequest(SamplingOptions(), seed=1)
        tunes = generate_tunes(sampler, request, range(FORM_TUNES))
        return form_figures(tune.score for _, tune in tunes)
