"""The judge: a classifier that tells real tunes from sampled ones by their figures.

A model is as good as its judge is bad: an AUC of 0.5 means that the figures of a tune do not tell
where it comes from (classifier two-sample test; Lopez-Paz and Oquab, 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np

from musicgen.evaluation.figures import MIDDLE_95, RESAMPLES, Definition, Figure, FigureTable
from musicgen.music.arrays import BoolArray, FloatArray, IntArray

FOLDS: Final = 5
FEWEST_TUNES: Final = 30  # of each kind; with fewer the classifier makes no split
MOST_TELLTALES: Final = 5
THREADS: Final = 1  # of the classifier: on so few tunes, more are slower beside other programs
INSTALL_HINT: Final = "install it with pip install 'musicgen[evaluate]'"


@dataclass(frozen=True, slots=True)
class Telltale:
    """A figure that tells sampled tunes from real ones."""

    definition: Definition
    auc: float  # of the figure alone; over 0.5 where sampled tunes have more of it

    def __str__(self) -> str:
        amount = "more" if self.auc > 0.5 else "less"
        strength = max(self.auc, 1 - self.auc)
        return f"{self.definition.label}: {amount} in sampled tunes (alone AUC {strength:.2f})"


@dataclass(frozen=True, eq=False)
class Judgement:
    """How well a classifier tells sampled tunes from real ones, and by which figures."""

    figure: Figure
    telltales: tuple[Telltale, ...] = ()
    reason: str = ""  # why there is no judgement


def judge_tunes(
    sampled: FigureTable, real: FigureTable, groups: IntArray, generator: np.random.Generator
) -> Judgement:
    """Train a classifier on the figures of tunes, and test it on tunes of other groups.

    The classifier is scikit-learn's histogram gradient boosting at its default settings, on equal
    counts. The AUC is that of pairs of a sampled and a real tune in one of FOLDS test folds; its
    interval resamples the tunes of each fold.

    Args:
        sampled: the tunes to judge.
        real: real tunes.
        groups: (sampled + real,) int64 group of near-duplicates per tune, never split over folds.
        generator: draws the tunes, folds and resamples.
    """
    size = min(len(sampled), len(real))
    if size < FEWEST_TUNES:
        return _refuse(f"there are {size} tunes of each kind; it takes {FEWEST_TUNES}")
    if find_spec("sklearn") is None:
        return _refuse(f"scikit-learn is missing: {INSTALL_HINT}")
    rows = np.concatenate([
        generator.permutation(len(sampled))[:size],
        len(sampled) + generator.permutation(len(real))[:size],
    ])  # fmt: skip
    values = np.concatenate([sampled.tune_values, real.tune_values])[rows]
    is_sampled = np.arange(2 * size) < size
    folds, scores = _cross_validate(values, is_sampled, groups[rows], generator)
    auc = compute_auc(scores, is_sampled, folds)
    interval = _resample_auc(scores, is_sampled, folds, generator)
    return Judgement(_make_figure(auc, *interval),
                     tuple(_find_telltales(values, is_sampled, sampled.definitions)))  # fmt: skip


def _make_figure(auc: float, low: float, high: float) -> Figure:
    label = "judge (AUC)"
    return Figure("judge_auc", label, "", auc, 0.5, low, high, (low, high), is_model_measure=True)


def _refuse(reason: str) -> Judgement:
    return Judgement(_make_figure(np.nan, np.nan, np.nan), reason=reason)


def _cross_validate(
    values: FloatArray, is_sampled: BoolArray, groups: IntArray, generator: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """Return the fold of each tune, and its score by a classifier of the other folds."""
    from sklearn.model_selection import StratifiedGroupKFold
    from threadpoolctl import threadpool_limits

    seed = int(generator.integers(2**31))
    folds, scores = np.zeros(len(values), dtype=np.int64), np.zeros(len(values))
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(THREADS, user_api="openmp"):
        for fold, (train, test) in enumerate(splitter.split(values, is_sampled, groups)):
            folds[test] = fold
            scores[test] = classify(values[train], is_sampled[train], values[test], seed)
    return folds, scores


def classify(train: FloatArray, is_sampled: BoolArray, test: FloatArray, seed: int) -> FloatArray:
    """Score tunes by a classifier of others.

    Args:
        train: (tune, figure) float64; NaN where a tune does not have a figure.
        is_sampled: (tune,) bool, of the tunes to learn from.
        test: (tune, figure) float64, of the tunes to score.
        seed: of the classifier.

    Returns:
        (tune,) float64 probabilities that the tunes to score are sampled.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    # scikit-learn fails at columns of one value, or none
    varied = np.nanmin(train, axis=0, initial=np.inf) < np.nanmax(train, axis=0, initial=-np.inf)
    classifier = HistGradientBoostingClassifier(random_state=seed)
    classifier.fit(train[:, varied], is_sampled)
    scores: FloatArray = classifier.predict_proba(test[:, varied])[:, 1]
    return scores


def compute_auc(scores: FloatArray, is_sampled: BoolArray, folds: IntArray) -> float:
    """Compute the share of pairs in one fold in which the sampled tune scores higher.

    Ties count half (the Mann-Whitney statistic). Source: Hanley and McNeil, 1982.

    Args:
        scores: (tune,) float64, higher for sampled tunes.
        is_sampled: (tune,) bool.
        folds: (tune,) int64; only tunes of one fold are compared.
    """
    wins = pairs = 0.0
    for fold in np.unique(folds):
        own = folds == fold
        positive, negative = scores[own & is_sampled], np.sort(scores[own & ~is_sampled])
        ranks = [np.searchsorted(negative, positive, side=side).sum() for side in ("left", "right")]
        wins += sum(ranks) / 2
        pairs += len(positive) * len(negative)
    return float(wins / pairs) if pairs else np.nan


def _resample_auc(
    scores: FloatArray, is_sampled: BoolArray, folds: IntArray, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % interval of the AUC, from tunes drawn with replacement in each fold."""
    strata = [np.flatnonzero((folds == fold) & (is_sampled == kind))
              for fold in np.unique(folds) for kind in (False, True)]  # fmt: skip
    aucs = []
    for _ in range(RESAMPLES // 2):
        rows = np.concatenate([generator.choice(stratum, len(stratum)) for stratum in strata
                               if len(stratum)])  # fmt: skip
        aucs.append(compute_auc(scores[rows], is_sampled[rows], folds[rows]))
    low, high = np.nanquantile(aucs, MIDDLE_95)
    return float(low), float(high)


def _find_telltales(
    values: FloatArray, is_sampled: BoolArray, definitions: Sequence[Definition]
) -> list[Telltale]:
    """Return the figures that alone tell the tunes apart best, the best first."""
    one_fold = np.zeros(len(values), dtype=np.int64)
    telltales = []
    for column, definition in zip(values.T, definitions, strict=True):
        known = ~np.isnan(column)
        auc = compute_auc(column[known], is_sampled[known], one_fold[known])
        if not np.isnan(auc) and not definition.is_detail:
            telltales.append(Telltale(definition, auc))
    telltales.sort(key=lambda telltale: -abs(telltale.auc - 0.5))
    return telltales[:MOST_TELLTALES]
