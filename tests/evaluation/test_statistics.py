"""Figures of notes and bars: equal to counts made by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.statistics import (
    FEATURES,
    STATISTICS_FIGURES,
    compare_distances,
    compare_features,
    count_intervals,
    measure_distances,
    measure_features,
)
from musicgen.music.score import Score
from musicgen.music.theory import Key
from musicgen.music.tune_content import TuneContent
from tests.related_tunes import line
from tests.toy_tunes import make_dances, read_abc


def measure(score: Score) -> dict[str, float]:
    """Return the figures of one tune by key."""
    table = FigureTable.of([TuneContent.of(score)], STATISTICS_FIGURES)
    return dict(zip((d.key for d in table.definitions), table.values.tolist(), strict=True))


NOTES = st.lists(st.tuples(st.integers(55, 80), st.sampled_from((24, 48))), min_size=2, max_size=20)


@given(NOTES)
def test_figures_of_notes_equal_counts_by_hand(notes: list[tuple[int, int]]) -> None:
    pitches = [pitch for pitch, _ in notes]
    moves = [abs(b - a) for a, b in pairwise(pitches)]
    shares = [count / len(notes) for count in Counter(p % 12 for p in pitches).values()]
    figures = measure(line(notes))
    assert figures["pitch"] == pytest.approx(sum(pitches) / len(pitches))
    assert figures["interval"] == pytest.approx(sum(moves) / len(moves))
    assert figures["leaps"] == pytest.approx(sum(move >= 5 for move in moves) / len(moves))
    assert figures["duration"] == pytest.approx(sum(d for _, d in notes) / 48 / len(notes))
    assert figures["range"] == max(pitches) - min(pitches)
    assert figures["pitch_class_entropy"] == pytest.approx(-sum(p * math.log2(p) for p in shares))
    in_key = sum(pitch % 12 in Key("C").scale for pitch in pitches)
    assert figures["notes_in_key"] == pytest.approx(in_key / len(pitches))


@given(NOTES)
def test_scale_consistency_is_the_best_of_24_scales(notes: list[tuple[int, int]]) -> None:
    scales = [{(tonic + step) % 12 for step in steps} for tonic in range(12)
              for steps in ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11))]  # fmt: skip
    best = max(sum(pitch % 12 in scale for pitch, _ in notes) for scale in scales)
    assert measure(line(notes))["scale_consistency"] == pytest.approx(best / len(notes))


def test_rhythm_figures_of_a_known_tune() -> None:
    figures = measure(read_abc("C2C2 C2C2|C2C2 C2C2|CCC2 C4|z2C6|", meter="4/4"))
    assert figures["bar_rhythms"] == 3 / 4
    assert figures["onsets_on_beat"] == 12 / 13  # all but the second eighth of bar 3
    # onsets in 16ths: 0 4 8 12; the same; 0 2 4 8; 4: differences 0, 2, 3 of 16
    assert figures["groove_consistency"] == pytest.approx((1 + 14 / 16 + 13 / 16) / 3)


def test_histogram_of_intervals_counts_each_step() -> None:
    shares = count_intervals(TuneContent.of(read_abc("CDEC C8|")))
    assert {int(n) - 12: float(shares[n]) for n in np.flatnonzero(shares)} == {
        2: 0.5, -4: 0.25, 0: 0.25,
    }  # fmt: skip


def test_distances_are_those_between_vectors() -> None:
    contents = [TuneContent.of(score) for score in make_dances(4)]
    for feature in FEATURES:
        vectors = [feature.measure(content) for content in contents]
        expected = [[math.dist(a, b) for b in vectors] for a in vectors]
        distances = measure_distances(np.array(vectors))
        assert distances == pytest.approx(np.array(expected), abs=1e-6)


def test_equal_distances_overlap_wholly() -> None:
    distances = np.random.default_rng(1).gamma(2.0, size=300)
    overlap, divergence = compare_distances(distances, distances)
    assert overlap == pytest.approx(1)
    assert divergence == pytest.approx(0, abs=1e-9)


def test_distant_sets_do_not_overlap() -> None:
    near = np.random.default_rng(1).normal(1, 0.1, 300)
    overlap, divergence = compare_distances(near, near + 9)
    assert overlap < 0.01
    assert divergence > 10
    assert all(map(math.isnan, compare_distances(near[:1], near)))


def test_overlap_equals_an_integral_of_kernels() -> None:
    """The same densities, as sums of Gaussians on a fine grid."""
    generator = np.random.default_rng(2)
    first, second = generator.gamma(3.0, size=200), generator.gamma(4.0, size=200)
    grid = np.linspace(0, 1.1 * max(first.max(), second.max()), 4000)

    def density(values: np.ndarray) -> np.ndarray:
        width = values.std() * len(values) ** -0.2
        kernels = np.exp(-0.5 * ((grid[:, None] - values[None]) / width) ** 2).sum(axis=1)
        return np.asarray(kernels / kernels.sum())

    expected = np.minimum(density(first), density(second)).sum()
    assert compare_distances(first, second)[0] == pytest.approx(expected, abs=0.01)


def test_features_of_one_source_are_inside_more_often_than_not() -> None:
    dances = [TuneContent.of(score) for score in make_dances(40)]
    real = measure_features(dances[20:])
    figures = compare_features(dances[:20], real, np.random.default_rng(3))
    assert len(figures) == 2 * len(FEATURES)
    assert sum(figure.is_inside for figure in figures) >= len(figures) // 2


def test_histograms_of_a_known_tune() -> None:
    content = TuneContent.of(read_abc("CCD2 E4|z2C6|", meter="4/4", key="D"))
    shares = {feature.key: feature.measure(content) for feature in FEATURES}

    def list_shares(key: str, first: int = 0) -> dict[int, float]:
        return {int(n) + first: float(shares[key][n]) for n in np.flatnonzero(shares[key])}

    # in D: C# C# D E, rest, C#
    assert list_shares("pitch", -12) == pytest.approx({11: 0.6, 12: 0.2, 14: 0.2})
    assert list_shares("interval", -12) == {0: 0.25, 1: 0.25, 2: 0.25, -3: 0.25}
    assert list_shares("duration") == pytest.approx({2: 0.4, 4: 0.2, 8: 0.2, 12: 0.2})
    assert list_shares("onset") == pytest.approx({0: 0.2, 2: 0.2, 4: 0.4, 8: 0.2})
    assert list_shares("bar_rhythm") == {1: 0.5, 4: 0.5}
