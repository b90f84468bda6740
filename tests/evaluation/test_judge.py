"""The judge: blind to tunes of one source, sure of others, and honest about what it lacks."""

from __future__ import annotations

import numpy as np
import pytest

from musicgen.evaluation import judge
from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.judge import Judgement, compute_auc, judge_tunes
from musicgen.evaluation.overlap import TuneGrams, group_duplicates
from musicgen.music.score import Score
from musicgen.music.tune_content import TuneContent
from tests.toy_tunes import make_dances, shuffle_bars


def judge_scores(sampled: list[Score], real: list[Score], seed: int = 0) -> Judgement:
    tables = [
        FigureTable.of([TuneContent.of(score) for score in scores], FORM_FIGURES)
        for scores in (sampled, real)
    ]
    groups = group_duplicates([TuneGrams.of(score) for score in (*sampled, *real)])
    return judge_tunes(tables[0], tables[1], groups, np.random.default_rng(seed))


def test_auc_equals_the_count_of_pairs() -> None:
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 5, 40).astype(float)
    is_sampled, folds = generator.random(40) < 0.5, generator.integers(0, 3, 40)
    pairs = [(scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
             for i in range(40) for j in range(40)
             if is_sampled[i] and not is_sampled[j] and folds[i] == folds[j]]  # fmt: skip
    assert compute_auc(scores, is_sampled, folds) == pytest.approx(np.mean(pairs))


def test_judge_tells_shuffled_bars_and_says_by_what() -> None:
    pytest.importorskip("sklearn")
    dances = make_dances(80)
    judgement = judge_scores([shuffle_bars(dance, 1) for dance in dances[:40]], dances[40:])
    assert judgement.figure.value >= 0.9
    assert judgement.figure.low > 0.5
    clearest = str(judgement.telltales[0])
    assert "less in sampled tunes" in clearest


def test_judge_cannot_tell_tunes_of_one_source() -> None:
    pytest.importorskip("sklearn")
    dances = make_dances(80)
    figure = judge_scores(dances[:40], dances[40:]).figure
    assert figure.low - 0.1 <= 0.5 <= figure.high + 0.1


def test_judge_needs_enough_tunes() -> None:
    judgement = judge_scores(make_dances(10), make_dances(12, 10))
    assert "there are 10 tunes of each kind; it takes 30" in judgement.reason
    assert judgement.figure.verdict == "not known"


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None)
    judgement = judge_scores(make_dances(30), make_dances(30, 30))
    assert "pip install 'musicgen[evaluate]'" in judgement.reason
