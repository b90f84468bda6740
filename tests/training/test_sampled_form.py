from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from musicgen.checkpoint import Manifest, Weights, load
from musicgen.evaluation.form import TRAINING_FIGURES
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.training import sampled_form
from musicgen.training.sampled_form import FormCheck
from musicgen.training.trainer import Progress

FOLK = load(Path("checkpoints/folk").resolve())
SCORE = HeldOutScore(np.ones(1), np.ones(1, np.int64), np.ones(1, np.int64))


def list_progress(count: int) -> Iterator[Progress]:
    """Yield evaluations, each of them a minute after the one before."""
    for step in range(count):
        yield Progress(step, step, count, 0.0, 1.0, 1.0, 0.0, 1e-3, 1e3, 0, SCORE)


def make_check(messages: list[str], seconds: float, weights: Weights | None = None) -> FormCheck:
    def make_manifest() -> Manifest:
        return FOLK.manifest

    def get_weights() -> Weights:
        return FOLK.weights if weights is None else weights

    times = itertools.count(0.0, seconds)
    return FormCheck(make_manifest, get_weights, messages.append, clock=lambda: next(times))


def test_figures_of_sampled_tunes_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_form, "SAMPLED_TUNES", 4)
    check = make_check([], 200.0)  # the second look at the clock is 200 s later
    (progress,) = check.add_figures(list_progress(1))
    assert progress.form_figures is not None
    assert set(progress.form_figures) == set(TRAINING_FIGURES)
    assert 0 <= progress.form_figures["bar_likeness.4"] <= 1


def test_measurements_keep_within_two_percent_of_the_time() -> None:
    check = make_check([], 1.0)  # an evaluation per second
    assert all(step.form_figures is None for step in check.add_figures(list_progress(100)))
    check.last_seconds, check.spent_seconds = 1.0, 3.0
    assert check.is_affordable(200.0)
    assert not check.is_affordable(199.0)


def test_failure_is_one_line_and_ends_the_measurements() -> None:
    messages: list[str] = []
    check = make_check(messages, 500.0, weights={})
    steps = list(check.add_figures(list_progress(3)))
    assert all(step.form_figures is None for step in steps)
    assert len(messages) == 1
    assert messages[0].startswith("form: no tune could be sampled")
