"""The score card: sets of tunes compared with real tunes, figure by figure.

card = make_score_card({"free": sampled}, real, index)
card.columns[0].get_figure("sections_8").verdict
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.evaluation.drum_figures import DRUM_FIGURES
from musicgen.evaluation.figures import PERCENT, Figure, FigureTable, compare_tables, nest_figures
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.judge import Judgement, judge_tunes
from musicgen.evaluation.likelihood import BaselineScore, Estimate, LikelihoodReport
from musicgen.evaluation.overlap import (
    NEIGHBOR,
    TuneGrams,
    add_overlap,
    group_duplicates,
    measure_neighbors,
)
from musicgen.evaluation.part_figures import PART_FIGURES
from musicgen.evaluation.statistics import (
    STATISTICS_FIGURES,
    compare_features,
    measure_features,
)
from musicgen.evaluation.voice_leading import VOICE_LEADING_FIGURES
from musicgen.music.arrays import FloatArray
from musicgen.music.score import Score
from musicgen.music.tune_content import TuneContent
from musicgen.similarity.overlap_report import OverlapIndex

FEWEST_TUNES: Final = 4  # of each set: two halves of two tunes
SEED: Final = 0
_MEMORY_LABELS: Final = {
    "bar_occurrence": "bars that return, occurrence {}",
    "phrase_occurrence": "phrases that return, occurrence {}",
}
_LAST_OCCURRENCE: Final = 2  # in tables


@dataclass(frozen=True, eq=False)
class TuneSet:
    """Tunes of one source; what several figures or columns need of them is computed once."""

    name: str
    scores: tuple[Score, ...]
    can_repeat: tuple[bool, ...] = ()  # by tune: whether its format has repeat signs; () for all
    _neighbors: dict[int, FigureTable] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.scores) < FEWEST_TUNES:
            raise InvalidValue(
                f"{self.name}: a score card needs {FEWEST_TUNES} tunes or more, not"
                f" {len(self.scores)}; name more files"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @cached_property
    def contents(self) -> tuple[TuneContent, ...]:
        """What the figures read of each tune."""
        flags = self.can_repeat or (True,) * len(self)
        return tuple(
            TuneContent.of(score, can_repeat=flag)
            for score, flag in zip(self.scores, flags, strict=True)
        )

    @cached_property
    def table(self) -> FigureTable:
        """The figures of form and statistics of each tune."""
        return FigureTable.of(self.contents, (*FORM_FIGURES, *STATISTICS_FIGURES))

    @cached_property
    def part_table(self) -> FigureTable:
        """The figures of parts, voice leading, chord symbols and drums of each tune."""
        definitions = (*PART_FIGURES, *VOICE_LEADING_FIGURES, *DRUM_FIGURES)
        return FigureTable.of(self.contents, definitions)

    @property
    def has_melody(self) -> bool:
        """Whether any tune has notes that are not drums."""
        return any(content.has_melody for content in self.contents)

    @cached_property
    def features(self) -> tuple[FloatArray, ...]:
        """What `compare_features` compares of each tune, (tune, width) float64 per feature."""
        return measure_features(self.contents)

    @cached_property
    def grams(self) -> tuple[TuneGrams, ...]:
        """The stretches of notes of each tune, by which the tunes are compared."""
        return tuple(map(TuneGrams.of, self.scores))

    def get_neighbors(self, size: int) -> FigureTable:
        """Return the table of how alike the first `size` tunes are."""
        if size not in self._neighbors:
            empty = FigureTable((), np.empty((size, 0)), np.empty((size, 0)))
            ratios = measure_neighbors(self.grams[:size])
            self._neighbors[size] = empty.add(NEIGHBOR, ratios)
        return self._neighbors[size]

    @property
    def has_repeats(self) -> bool:
        """Whether any tune has repeat signs, without which sections are not known."""
        return any(content.has_repeats for content in self.contents)


@dataclass(frozen=True, eq=False)
class Column:
    """One set of tunes, compared with the real ones."""

    tunes: TuneSet
    figures: tuple[Figure, ...]
    judgement: Judgement
    distances: tuple[float, ...]  # by tune, from the typical real tune
    has_melody: bool = True  # whether the real tunes have one

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be known of these tunes, and why."""
        lines = []
        if not self.has_melody:
            lines.append("the real tunes are drums alone: figures of melodies are left out")
        elif not self.tunes.has_repeats:
            lines.append("sections are not known: no tune has repeat signs")
        if self.judgement.reason:
            lines.append(f"judge: {self.judgement.reason}")
        return tuple(lines)

    def get_figure(self, key: str) -> Figure:
        """Return a figure by its key."""
        return next(figure for figure in self.figures if figure.key == key)

    def to_json(self) -> dict[str, Any]:
        """Return the column as a JSON object: figures by key, and what is said of them."""
        return {
            **nest_figures(self.figures),
            "tunes": len(self.tunes),
            "telltales": [str(telltale) for telltale in self.judgement.telltales],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class ScoreCard:
    """Sets of tunes beside the same real tunes."""

    real: TuneSet
    columns: tuple[Column, ...]
    model_figures: tuple[Figure, ...] = ()  # of the model itself, such as its bits per note
    likelihood: LikelihoodReport | None = None  # the model figures in full

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the first column by key, and all columns by name."""
        return {
            **nest_figures(self.model_figures),
            "likelihood": self.likelihood and self.likelihood.to_json(),
            **self.columns[0].to_json(),
            "real": {"name": self.real.name, "tunes": len(self.real)},
            "columns": {column.tunes.name: column.to_json() for column in self.columns},
        }


def make_score_card(
    sets: Sequence[TuneSet],
    real: TuneSet,
    index: OverlapIndex | None = None,
    likelihood: LikelihoodReport | None = None,
    text_baselines: Sequence[BaselineScore] = (),
) -> ScoreCard:
    """Compare sets of tunes with real tunes.

    Args:
        sets: the tunes to judge.
        real: the tunes to judge by.
        index: the training tunes; None: overlap with them is left out.
        likelihood: of the real tunes under the model that wrote the tunes.
        text_baselines: of the same real tunes as text.
    """
    real_tables = _make_tables(real, real, index)
    columns = tuple(
        _compare_set(tunes, _make_tables(tunes, real, index), real, real_tables) for tunes in sets
    )
    figures = list_model_figures(likelihood, text_baselines) if likelihood else ()
    return ScoreCard(real, columns, figures, likelihood)


def _join_tables(tunes: TuneSet, real: TuneSet) -> FigureTable:
    """Return the figures of tunes that real tunes have: of melodies, of parts and of drums.

    A figure of parts or drums is left out unless FEWEST_TUNES real tunes have it.
    """
    is_known = real.part_table.count_tunes() >= FEWEST_TUNES
    parts = tunes.part_table.select(is_known)
    return tunes.table.join(parts) if real.has_melody else parts


def _make_tables(
    tunes: TuneSet, real: TuneSet, index: OverlapIndex | None
) -> tuple[FigureTable, FigureTable]:
    """Return the figures of tunes by themselves, and with their overlap with the training tunes."""
    table = _join_tables(tunes, real)
    if index is None or not real.has_melody:
        return table, table
    return table, add_overlap(table, tunes.scores, index)


def _compare_set(
    tunes: TuneSet,
    tables: tuple[FigureTable, FigureTable],
    real: TuneSet,
    real_tables: tuple[FigureTable, FigureTable],
) -> Column:
    (table, full_table), (real_table, full_real_table) = tables, real_tables
    generator = np.random.default_rng(SEED)
    figures = compare_tables(full_table, full_real_table, generator)
    if real.has_melody:
        figures += _compare_melodies(tunes, real, generator)
    groups = group_duplicates((*tunes.grams, *real.grams))
    # sampled tunes that are like no real one may be split: their likeness is a fault to be found
    has_real = np.isin(groups, groups[len(tunes) :])
    groups = np.where(has_real, groups, np.arange(len(groups)))
    judgement = judge_tunes(table, real_table, groups, generator)
    figures.append(judgement.figure)
    distances = measure_distance(table, real_table)
    return Column(tunes, tuple(figures), judgement, distances, real.has_melody)


def _compare_melodies(
    tunes: TuneSet, real: TuneSet, generator: np.random.Generator
) -> list[Figure]:
    """Compare how alike the melodies of each set are, and the distributions of their notes."""
    size = min(len(tunes), len(real))  # a tune has nearer neighbors in a larger set
    figures = compare_tables(tunes.get_neighbors(size), real.get_neighbors(size), generator)
    return figures + compare_features(tunes.contents, real.features, generator)


def measure_distance(table: FigureTable, real: FigureTable) -> tuple[float, ...]:
    """Measure how far each tune is from a typical real tune.

    Formula: mean over the figures of |value - m| / s, cut at 5, with mean m and standard deviation
    s of the figure over real tunes; 1 in place of a figure that the tune does not have.

    Returns:
        One distance per tune of `table`.
    """
    values = real.tune_values
    known = ~np.isnan(values).all(axis=0)
    means, deviations = np.nanmean(values[:, known], axis=0), np.nanstd(values[:, known], axis=0)
    scores = np.abs(table.tune_values[:, known] - means) / np.maximum(deviations, 1e-6)
    filled = np.where(np.isnan(scores), 1.0, np.minimum(scores, 5.0))
    return tuple(filled.mean(axis=1).tolist())


def list_model_figures(
    report: LikelihoodReport, text_baselines: Sequence[BaselineScore] = ()
) -> tuple[Figure, ...]:
    """Return the figures of a model: bits, accuracy, calibration, baselines, memory.

    Args:
        report: the likelihood of held-out tunes.
        text_baselines: the baselines on the same tunes as text.
    """
    return (
        *_list_own_figures(report),
        *_list_baselines("baseline", "", report.baselines),
        *_list_baselines("text_baseline", ", as text", text_baselines),
        *_list_memory(report),
    )


def _list_own_figures(report: LikelihoodReport) -> Iterator[Figure]:
    unit, bits = report.units.unit, report.unmasked
    yield _make_figure("bits_per_note", f"bits per {unit}", bits.bits_per_note)
    masked = report.masked.bits_per_note
    yield _make_figure("bits_per_note_masked", f"bits per {unit}, legal events only", masked)
    if bits.bits_per_bar is not None:
        yield _make_figure("bits_per_bar", "bits per bar", bits.bits_per_bar)
    yield _make_figure("bits_per_tune", "bits per tune", bits.bits_per_tune)
    label = "most likely event is right"
    yield _make_figure("top_1_accuracy", label, report.top_1_accuracy, PERCENT)
    error = Estimate(report.calibration.error, math.nan, math.nan)
    yield _make_figure("calibration_error", "calibration error", error, PERCENT)


def _list_baselines(key: str, suffix: str, baselines: Iterable[BaselineScore]) -> Iterator[Figure]:
    for baseline in baselines:
        name, label = f"{key}.{baseline.name}", f"{baseline.title}{suffix}"
        yield _make_figure(name, label, baseline.bits_per_note, is_detail=not baseline.is_chosen)


def _list_memory(report: LikelihoodReport) -> Iterator[Figure]:
    """Yield the bits of notes that return, by occurrence."""
    for row in report.places:
        if row.place.kind in _MEMORY_LABELS:
            number = row.place.number
            bits = Estimate(row.bits_per_note, math.nan, math.nan)
            label = _MEMORY_LABELS[row.place.kind].format(number)
            name = f"{row.place.kind}.{number}"
            yield _make_figure(name, label, bits, is_detail=number > _LAST_OCCURRENCE)


def _make_figure(
    key: str, label: str, estimate: Estimate, unit: str = "", *, is_detail: bool = False
) -> Figure:
    value, low, high = estimate.value, estimate.low, estimate.high
    return Figure(
        key, label, unit, value, math.nan, low, high, is_model_measure=True, is_detail=is_detail
    )
