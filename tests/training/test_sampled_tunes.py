"""Sampled tunes during training: copied n-grams, runs that stop before they copy, and form."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from musicgen.checkpoint import Manifest, Weights, load
from musicgen.config import ModelSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.evaluation.form import TRAINING_FIGURES
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.network import LanguageModel
from musicgen.music.score import Note, Score
from musicgen.tokens.registry import find_codec
from musicgen.training import sampled_tunes
from musicgen.training.sampled_tunes import (
    NGRAM_NOTES,
    CopyCounts,
    FormCheck,
    MemorisationCheck,
    count_copied,
    count_shared,
    extract_ngrams,
    merge_ngrams,
    stop_on_memorisation,
)
from musicgen.training.trainer import BestWeights, Progress, Trainer

FOLK = load(Path("checkpoints/folk").resolve())
SCORE = HeldOutScore(np.ones(1), np.ones(1, np.int64), np.ones(1, np.int64))


def draw_score(seed: int, count: int = 30) -> Score:
    rng = random.Random(seed)
    return Score(tuple(Note(24 * i, rng.randint(60, 80), 24) for i in range(count)))


def double_durations(score: Score) -> Score:
    return Score(tuple(Note(2 * n.onset, n.pitch, 2 * n.duration) for n in score.notes))


def test_tune_of_n_notes_has_n_minus_7_ngrams() -> None:
    assert NGRAM_NOTES == 8
    assert [len(extract_ngrams(draw_score(1, count))) for count in (7, 8, 9, 30)] == [0, 1, 2, 23]


def test_rest_ends_an_ngram() -> None:
    notes = draw_score(1, 16).notes
    split = Score((*notes[:8], *(Note(n.onset + 24, n.pitch, n.duration) for n in notes[8:])))
    assert len(extract_ngrams(split)) == 2


def test_copies_are_found_in_any_key_but_not_in_other_durations() -> None:
    known_ngrams = merge_ngrams([extract_ngrams(draw_score(1)), extract_ngrams(draw_score(2))])
    higher = draw_score(1).transpose(5)
    assert count_copied([extract_ngrams(higher)], known_ngrams).share == 1
    assert (
        count_copied(
            [extract_ngrams(double_durations(higher)), extract_ngrams(draw_score(3))], known_ngrams
        ).share
        == 0
    )


def test_first_duration_counts() -> None:
    first, *rest = draw_score(1, 8).notes
    longer = Score((Note(first.onset - 24 + 24, first.pitch, first.duration), *rest))
    assert extract_ngrams(longer) == extract_ngrams(draw_score(1, 8))
    changed = Score((Note(0, first.pitch, 48), *(Note(n.onset + 24, n.pitch, 24) for n in rest)))
    assert extract_ngrams(changed) != extract_ngrams(draw_score(1, 8))


def test_one_copied_tune_of_two_is_half_the_share() -> None:
    counts = count_copied(
        [extract_ngrams(draw_score(1)), extract_ngrams(draw_score(2))],
        merge_ngrams([extract_ngrams(draw_score(1))]),
    )
    assert (counts.copied_counts, counts.total_counts, counts.share) == ((23, 0), (23, 23), 0.5)


def test_shared_ngrams_are_those_of_other_groups() -> None:
    tunes = [extract_ngrams(draw_score(number)) for number in (1, 1, 2)]
    assert count_shared(tunes, ["a", "b", "c"]).copied_counts == (23, 23, 0)
    assert count_shared(tunes, ["a", "a", "c"]).share == 0
    assert count_shared(tunes[:1], ["a"]).share == 0


def test_clearly_exceeds_needs_two_standard_errors() -> None:
    human = CopyCounts((0, 3, 1, 0, 2, 0), (40,) * 6)
    assert CopyCounts((20, 24, 18, 30, 22, 25), (40,) * 6).clearly_exceeds(human)
    assert not CopyCounts((0, 12, 0, 0, 0, 0), (40,) * 6).clearly_exceeds(human)
    assert not human.clearly_exceeds(human)
    assert not CopyCounts((), ()).clearly_exceeds(human)
    assert CopyCounts((2, 3), (40, 40)).standard_error == pytest.approx(1 / 80)


class FakeTrainer:
    """A trainer that keeps each of its weights, and copies a tenth more at each evaluation."""

    def __init__(self) -> None:
        self.best = BestWeights()
        self.model = SimpleNamespace(number=0)

    def run(self) -> Iterator[Progress]:
        for number in range(1, 8):
            self.model.number = number
            model: Any = SimpleNamespace(
                copy_weights=lambda number=number: {"w": np.array([number])}
            )
            self.best.keep_if_better(-float(number), number, model)
            yield Progress(
                number, number, 7, 1.0, 1.0, 1.0, 0.0, 0.1, 1.0, 0,
                is_best=number % 2 == 0, is_last=number == 7,
            )  # fmt: skip


class FakeCheck(MemorisationCheck):
    def measure(self, model: Any) -> CopyCounts:
        return CopyCounts((model.number * 2,) * 6, (20,) * 6)


def make_copy_check(human: float) -> MemorisationCheck:
    counts = CopyCounts((round(20 * human),) * 6, (20,) * 6)
    return FakeCheck(find_codec("measures"), frozenset(), counts, frozenset())


class FailingCheck(MemorisationCheck):
    def measure(self, model: Any) -> CopyCounts:
        raise IndexError("no velocity\nof part 2")


def fail_on_message(line: str) -> None:
    pytest.fail(line)


def test_failing_check_is_reported_once() -> None:
    trainer, messages = FakeTrainer(), list[str]()
    check = FailingCheck(find_codec("measures"), frozenset(), CopyCounts((), ()), frozenset())
    steps = list(stop_on_memorisation(cast(Trainer, trainer), check, messages.append))
    assert [step.copied_share for step in steps] == [None] * 7
    assert steps[-1].is_last
    assert trainer.best.weights["w"].tolist() == [7]
    assert messages == [
        "copies: no tune could be sampled (no velocity of part 2); no longer checked"
    ]


def test_run_stops_on_memorisation_and_keeps_the_previous_best() -> None:
    trainer = FakeTrainer()
    steps = list(
        stop_on_memorisation(cast(Trainer, trainer), make_copy_check(0.45), fail_on_message)
    )
    assert [step.copied_share for step in steps] == [None, 0.2, None, 0.4, None, 0.6]
    assert (steps[-1].is_best, steps[-1].is_last) == (False, True)
    assert trainer.best.weights["w"].tolist() == [4]


def test_run_continues_below_the_human_share() -> None:
    trainer = FakeTrainer()
    steps = list(
        stop_on_memorisation(cast(Trainer, trainer), make_copy_check(0.7), fail_on_message)
    )
    assert len(steps) == 7
    assert trainer.best.weights["w"].tolist() == [7]


def encode_tune(score: Score, group: str) -> EncodedTune:
    encoded = find_codec("measures").encode(score)
    ids = np.array(encoded.ids, np.int16)
    return EncodedTune(
        ids, len(score.notes), "", "", group, "C major", "4/4", "", encoded.setting.to_json()
    )


def test_check_samples_tunes_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_TUNES", 2)
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_BARS", 1)
    codec = find_codec("measures")
    tunes = [encode_tune(draw_score(number), str(number)) for number in (1, 1, 2)]
    held = encode_tune(draw_score(2), "held")
    dataset = Dataset(tunes, [held], [], "measures", codec.vocabulary.names, {})
    event_counts = [1] * dataset.vocabulary_size
    check = MemorisationCheck.of(dataset, event_counts)
    assert check.human_counts.share == pytest.approx(0.5)  # the third and the one held out
    settings = ModelSettings(dataset.vocabulary_size, layers=1, hidden=8, embedding=8)
    model = LanguageModel(settings)
    counts = check.measure(model)
    assert len(counts.total_counts) == 2
    assert counts == check.measure(model)


def list_progress(count: int) -> Iterator[Progress]:
    """Yield evaluations, each of them a minute after the one before."""
    for step in range(count):
        yield Progress(step, step, count, 0.0, 1.0, 1.0, 0.0, 1e-3, 1e3, 0, SCORE)


def make_form_check(
    messages: list[str], seconds: float, weights: Weights | None = None
) -> FormCheck:
    def make_manifest() -> Manifest:
        return FOLK.manifest

    def get_weights() -> Weights:
        return FOLK.weights if weights is None else weights

    times = itertools.count(0.0, seconds)
    return FormCheck(make_manifest, get_weights, messages.append, clock=lambda: next(times))


def test_figures_of_sampled_tunes_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_tunes, "FORM_TUNES", 4)
    check = make_form_check([], 400.0)  # the second look at the clock is 400 s later
    (progress,) = check.add_figures(list_progress(1))
    assert progress.form_figures is not None
    assert set(progress.form_figures) == set(TRAINING_FIGURES)
    assert 0 <= progress.form_figures["bar_likeness.4"] <= 1


def test_measurements_keep_within_one_percent_of_the_time() -> None:
    check = make_form_check([], 1.0)  # an evaluation per second
    assert all(step.form_figures is None for step in check.add_figures(list_progress(100)))
    check.last_seconds, check.spent_seconds = 1.0, 3.0
    assert check.is_affordable(400.0)
    assert not check.is_affordable(399.0)


def test_failure_is_one_line_and_ends_the_measurements() -> None:
    messages: list[str] = []
    check = make_form_check(messages, 500.0, weights={})
    steps = list(check.add_figures(list_progress(3)))
    assert all(step.form_figures is None for step in steps)
    assert len(messages) == 1
    assert messages[0].startswith("form: no tune could be sampled")
