"""Figures of single notes and bars: pitch, intervals, durations, rhythm, scale.

The scalar figures are means over tunes. The distributions of two sets are compared by the distances
between their tunes, after Yang and Lerch, "On the evaluation of generative models in music", 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np

from musicgen.evaluation.figures import MIDDLE_95, PERCENT, Definition, Figure, Ratio
from musicgen.music.arrays import BoolArray, FloatArray, IntArray
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.tune_content import REST, MelodyBar, TuneContent

LEAP: Final = 5  # semitones from which on an interval is a leap
ONSET_STEPS: Final = 12  # of the grid of onsets: a 16th note
MOST_COMPARED: Final = 500  # tunes per set whose distances are measured
FLOOR_SPLITS: Final = 200  # of the real tunes into two halves
_GRID: Final = 128  # points at which densities are evaluated
_SCALES: Final = np.array(
    [[(pitch_class - tonic) % 12 in steps for pitch_class in range(12)]
     for steps in ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11)) for tonic in range(12)]
)  # fmt: skip
Histogram: TypeAlias = Callable[[TuneContent], FloatArray]


def _mean_of(values: IntArray | FloatArray | BoolArray) -> Ratio | None:
    return Ratio(float(values.mean())) if len(values) else None


def measure_pitch(content: TuneContent) -> Ratio | None:
    """Measure the mean MIDI note number of a tune."""
    return _mean_of(content.pitches)


def measure_intervals(content: TuneContent) -> Ratio | None:
    """Measure the mean interval between consecutive notes, in semitones up or down."""
    return _mean_of(np.abs(np.diff(content.pitches)))


def measure_leaps(content: TuneContent) -> Ratio | None:
    """Measure the share of intervals of LEAP semitones or more."""
    return _mean_of(np.abs(np.diff(content.pitches)) >= LEAP)


def measure_durations(content: TuneContent) -> Ratio | None:
    """Measure the mean duration of notes, in quarter notes."""
    return _mean_of(content.durations / STEPS_PER_QUARTER)


def measure_onsets(content: TuneContent) -> Ratio | None:
    """Measure the share of notes that start on a beat of the meter."""
    on_beat = [
        place % bar.bar.meter.beat_steps == 0
        for bar in content.bars
        for place in find_bar_onsets(bar)
    ]
    return _mean_of(np.array(on_beat))


def find_bar_onsets(bar: MelodyBar) -> list[int]:
    """Return the steps from the bar line at which events sound; short bars end at the bar line."""
    place = bar.bar.meter.steps - bar.bar.steps if bar.bar.kind == "partial" else 0
    onsets = []
    for duration, pitch in bar.events:
        if pitch != REST:
            onsets.append(place)
        place += duration
    return onsets


def measure_bar_rhythms(content: TuneContent) -> Ratio | None:
    """Measure the variety of rhythm: distinct rhythms of full bars, over full bars.

    The rhythm of a bar is the durations of its events, and which of them are rests.
    """
    rhythms = [
        tuple((duration, pitch == REST) for duration, pitch in content.bars[index].events)
        for index in content.full_bars
    ]
    return Ratio(len(set(rhythms)) / len(rhythms)) if rhythms else None


def measure_range(content: TuneContent) -> Ratio | None:
    """Measure the semitones from the lowest to the highest note of a tune."""
    return Ratio(float(np.ptp(content.pitches))) if len(content.pitches) else None


def measure_entropy(content: TuneContent) -> Ratio | None:
    """Measure the entropy of the pitch classes of a tune, in bits: -sum p log2 p.

    Source: Wu and Yang, "The Jazz Transformer on the Front Line", 2020 (there over 1 or 4 bars).
    """
    counts = np.bincount(content.pitches % 12)
    shares = counts[counts > 0] / max(1, counts.sum())
    return Ratio(float(-(shares * np.log2(shares)).sum())) if len(shares) else None


def measure_scale(content: TuneContent) -> Ratio | None:
    """Measure the greatest share of notes that lie in one of the major and harmonic minor scales.

    Source: Mogren, "C-RNN-GAN", 2016; scales as in MusPy (Dong et al., 2020).
    """
    if not len(content.pitches):
        return None
    counts = np.bincount(content.pitches % 12, minlength=12)
    return Ratio(float((_SCALES @ counts).max() / counts.sum()))


def measure_key(content: TuneContent) -> Ratio | None:
    """Measure the share of notes that lie in the scale of the tune's first key."""
    return _mean_of(np.isin(content.pitches % 12, sorted(content.key.scale)))


def measure_groove(content: TuneContent) -> Ratio | None:
    """Measure how like the onsets of neighboring full bars of one meter are.

    Formula: mean over the pairs of 1 - (onsets that only one of the bars has) / (16th notes per
    bar). Source: Wu and Yang, "The Jazz Transformer on the Front Line", 2020.
    """
    bars = [content.bars[index] for index in content.full_bars]
    shares = [
        1 - len(set(find_bar_onsets(first)) ^ set(find_bar_onsets(second)))
        / max(1, first.bar.meter.steps // ONSET_STEPS)
        for first, second in pairwise(bars)
        if first.bar.meter == second.bar.meter
    ]  # fmt: skip
    return _mean_of(np.array(shares))


STATISTICS_FIGURES: Final = (
    Definition("pitch", "mean pitch", "", measure_pitch),
    Definition("interval", "mean interval", "semitones", measure_intervals),
    Definition("leaps", "leaps of a fourth or more", PERCENT, measure_leaps),
    Definition("duration", "mean duration", "quarters", measure_durations),
    Definition("onsets_on_beat", "notes on a beat", PERCENT, measure_onsets),
    Definition("bar_rhythms", "distinct rhythms of bars", PERCENT, measure_bar_rhythms),
    Definition("range", "range", "semitones", measure_range),
    Definition("pitch_class_entropy", "pitch-class entropy", "bits", measure_entropy),
    Definition("scale_consistency", "notes in the best scale", PERCENT, measure_scale),
    Definition("notes_in_key", "notes in the written key", PERCENT, measure_key),
    Definition("groove_consistency", "groove consistency", PERCENT, measure_groove),
)


def _count(values: IntArray, low: int, high: int) -> FloatArray:
    """Return the share of each value from low to high; values outside count as the nearest."""
    counts = np.bincount(np.clip(values, low, high) - low, minlength=high - low + 1)
    shares: FloatArray = counts / max(1, counts.sum())
    return shares


def count_pitches(content: TuneContent) -> FloatArray:
    """Count semitones above the tonic below middle C, -12 to 36; (49,) float64 shares."""
    return _count(content.pitches - 48 - content.key.pitch_class, -12, 36)


def count_intervals(content: TuneContent) -> FloatArray:
    """Count intervals in semitones, -12 to 12; (25,) float64 shares."""
    return _count(np.diff(content.pitches), -12, 12)


def count_durations(content: TuneContent) -> FloatArray:
    """Count durations in 16th notes, 0 to 16, rounded; (17,) float64 shares."""
    return _count(np.rint(content.durations / ONSET_STEPS).astype(np.int64), 0, 16)


def count_onsets(content: TuneContent) -> FloatArray:
    """Count onsets by their place in the bar in 16th notes, 0 to 23; (24,) float64 shares."""
    places = [place // ONSET_STEPS for bar in content.bars for place in find_bar_onsets(bar)]
    return _count(np.array(places, dtype=np.int64), 0, 23)


def count_bar_rhythms(content: TuneContent) -> FloatArray:
    """Count the onsets per full bar, 0 to 24; (25,) float64 shares."""
    bars = (content.bars[index] for index in content.full_bars)
    return _count(np.array([len(find_bar_onsets(bar)) for bar in bars], dtype=np.int64), 0, 24)


def _wrap(measure: Callable[[TuneContent], Ratio | None], content: TuneContent) -> FloatArray:
    ratio = measure(content)
    return np.array([np.nan if ratio is None else ratio.part])


@dataclass(frozen=True, slots=True)
class Feature:
    """A property of a tune, as a vector, by whose distances sets of tunes are compared."""

    key: str
    label: str
    measure: Histogram


FEATURES: Final = (
    Feature("pitch", "pitches", count_pitches),
    Feature("interval", "intervals", count_intervals),
    Feature("duration", "durations", count_durations),
    Feature("onset", "onsets in the bar", count_onsets),
    Feature("bar_rhythm", "notes per bar", count_bar_rhythms),
    Feature("range", "range", partial(_wrap, measure_range)),
    Feature("pitch_class_entropy", "pitch-class entropy", partial(_wrap, measure_entropy)),
    Feature("scale_consistency", "scale consistency", partial(_wrap, measure_scale)),
    Feature("groove_consistency", "groove consistency", partial(_wrap, measure_groove)),
)


def measure_features(contents: Sequence[TuneContent]) -> tuple[FloatArray, ...]:
    """Measure the features of tunes.

    Returns:
        For each of FEATURES, (tune, width) float64; NaN for tunes without the feature.
    """
    rows = [[_measure_feature(feature, content) for feature in FEATURES] for content in contents]
    return tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))


def _measure_feature(feature: Feature, content: TuneContent) -> FloatArray:
    vector = feature.measure(content)
    return vector if content.has_melody else np.full_like(vector, np.nan)


def measure_distances(vectors: FloatArray) -> FloatArray:
    """Measure the Euclidean distances between the vectors of tunes.

    Args:
        vectors: (tune, width) float64.

    Returns:
        (tune, tune) float64; NaN for tunes without the feature.
    """
    squares = (vectors**2).sum(axis=1)
    products = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    distances: FloatArray = np.sqrt(np.maximum(products, 0))
    return distances


def compare_distances(within: FloatArray, between: FloatArray) -> tuple[float, float]:
    """Compare the distances within a set of real tunes with those between it and another set.

    Both densities are Gaussian kernel estimates with Scott's bandwidth. The overlap is the area
    under both, 1 for equal densities; the divergence is that of Kullback and Leibler of the
    distances between from those within, in bits. Source: Yang and Lerch, 2018, section 3.

    Args:
        within: (n,) float64 distances between pairs of real tunes.
        between: (m,) float64 distances from tunes of the other set to real tunes.

    Returns:
        Overlap and divergence; NaN where there are no distances.
    """
    within, between = within[~np.isnan(within)], between[~np.isnan(between)]
    if len(within) < 2 or len(between) < 2:
        return np.nan, np.nan
    top = 1.1 * max(within.max(), between.max(), 1e-9)
    first, second = _estimate_density(within, top), _estimate_density(between, top)
    overlap = np.minimum(first, second).sum()
    floor = 1e-9  # keeps the divergence finite where only one density is 0
    divergence = (second * np.log2((second + floor) / (first + floor))).sum()
    return float(overlap), float(max(0.0, divergence))


def _estimate_density(values: FloatArray, top: float) -> FloatArray:
    """Return a kernel density from 0 to top, as (_GRID,) float64 shares that add up to 1."""
    counts, edges = np.histogram(values, bins=_GRID, range=(0, top))
    bandwidth = max(float(values.std()) * len(values) ** -0.2, top / _GRID)
    centers = (edges[:-1] + edges[1:]) / 2
    kernel = np.exp(-0.5 * ((centers[:, None] - centers[None]) / bandwidth) ** 2)
    weights = kernel @ counts
    density: FloatArray = weights / weights.sum()
    return density


def compare_features(
    sampled: Sequence[TuneContent], real: Sequence[FloatArray], generator: np.random.Generator
) -> list[Figure]:
    """Compare the features of sampled tunes with those of real ones, beside real with real.

    The floor is what one half of the real tunes scores against the other, over FLOOR_SPLITS random
    splits: `real` is its mean, the band its middle 95 %. The sampled tunes are compared with half
    of the real ones, as many on both sides.

    Args:
        sampled: the tunes to judge; only those that are compared are measured.
        real: the features of the tunes to judge by, at least 4: `measure_features` of them, (tune,
            width) float64 each.
        generator: draws the tunes and the halves.
    """
    real_count = len(real[0])
    size = min(len(sampled), real_count // 2, MOST_COMPARED // 2)
    chosen = measure_features([sampled[row] for row in generator.permutation(len(sampled))[:size]])
    reference = generator.permutation(real_count)[: 2 * MOST_COMPARED]
    splits = [generator.permutation(len(reference))[: 2 * size] for _ in range(FLOOR_SPLITS)]
    figures = []
    for feature, real_vectors, vectors in zip(FEATURES, real, chosen, strict=True):
        distances = measure_distances(np.concatenate([real_vectors[reference], vectors]))
        own = slice(len(reference), None)
        value = _compare_sets(distances, np.arange(size), np.arange(len(distances))[own])
        floor = [_compare_sets(distances, split[:size], split[size:]) for split in splits]
        figures += _make_figures(feature, value, np.array(floor))
    return figures


def _compare_sets(distances: FloatArray, real: IntArray, other: IntArray) -> tuple[float, float]:
    """Return overlap and divergence of two sets of tunes, given by index."""
    within = distances[np.ix_(real, real)][np.triu_indices(len(real), 1)]
    return compare_distances(within, distances[np.ix_(real, other)].ravel())


def _make_figures(feature: Feature, value: tuple[float, float], floor: FloatArray) -> list[Figure]:
    lows, highs = np.quantile(floor, MIDDLE_95, axis=0)
    names = (("overlap", "overlap of", PERCENT), ("divergence", "divergence of", "bits"))
    return [
        Figure(f"{name}.{feature.key}", f"{text} {feature.label}", unit, value[column],
               float(floor[:, column].mean()), float(lows[column]), float(highs[column]),
               is_detail=name == "divergence")
        for column, (name, text, unit) in enumerate(names)
    ]  # fmt: skip
