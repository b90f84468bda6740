"""Figures: what is measured of a tune, the values of many tunes, and the bands of real ones.

Nearly every figure of a set of tunes is a ratio of two sums over its tunes: bars that are alike
over pairs of bars, sections of 8 bars over sections. A `FigureTable` keeps both terms for each
tune, so that the value of any resampled set is two matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from musicgen.music.arrays import BoolArray, FloatArray, IntArray
from musicgen.music.tune_content import TuneContent

RESAMPLES: Final = 1000
MIDDLE_95: Final = (0.025, 0.975)
PERCENT: Final = "%"
_ROUNDING: Final = 1e-9  # of sums of floats


class Ratio(NamedTuple):
    """One tune's share in a figure: the value of a set is the sum of parts over that of wholes."""

    part: float
    whole: float = 1.0


Measure: TypeAlias = Callable[[TuneContent], Ratio | None]


@dataclass(frozen=True, slots=True)
class Definition:
    """A figure's name in JSON, its label in tables, its unit, and how a tune is measured."""

    key: str  # "bar_likeness.4" is the entry "4" of "bar_likeness" in JSON
    label: str
    unit: str  # PERCENT: values are shares, 0 to 1
    measure: Measure | None = None  # None: measured by other means than the content of a tune
    is_detail: bool = False  # shown in JSON and plots, not in tables
    is_of_melody: bool = True  # unknown of tunes of drums alone

    def measure_tune(self, content: TuneContent) -> Ratio:
        """Measure a tune; a whole of 0 where it does not have the figure."""
        if self.measure is None or (self.is_of_melody and not content.has_melody):
            return Ratio(0.0, 0.0)
        return self.measure(content) or Ratio(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """The value of a figure, that of real tunes, and the range that the value is judged by.

    `low` and `high` bound the middle 95 % of what as many real tunes score. For measures of a model
    (`judge_auc`, bits) they are the 95 % interval of the value.
    """

    key: str
    label: str
    unit: str
    value: float
    real: float
    low: float
    high: float
    interval: tuple[float, float] | None = None  # 95 % interval of the value
    is_model_measure: bool = False
    is_detail: bool = False

    @property
    def distance(self) -> float:
        """How far the value is outside the range; for measures of a model, the real value."""
        judged = self.real if self.is_model_measure else self.value
        return max(self.low - judged, judged - self.high)

    @property
    def is_inside(self) -> bool:
        """Whether the value is as those of real tunes."""
        return self.distance <= _ROUNDING

    @property
    def verdict(self) -> str:
        """Say whether the value is inside the range, or by how much it is outside."""
        if np.isnan(self.distance):
            return "not known"
        if self.is_inside:
            return "inside"
        side = "below" if self.value < self.real else "above"
        return f"{side} by {self.format(self.distance)}"

    def format(self, value: float) -> str:
        """Format a value, a share in percent; "-" where it is not known."""
        if np.isnan(value):
            return "-"
        if self.unit == PERCENT:
            return f"{100 * value:.1f} %"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    @property
    def heading(self) -> str:
        """The label, with the unit where values do not show it."""
        return self.label if self.unit in ("", PERCENT) else f"{self.label} ({self.unit})"

    def format_row(self) -> tuple[str, str, str, str, str]:
        """Return heading, value, real value, range and verdict as text."""
        low, high = self.format(self.low), self.format(self.high)
        span = "-" if low == "-" else f"{low.removesuffix(' %')} to {high}"
        return self.heading, self.format(self.value), self.format(self.real), span, self.verdict

    def format_model_row(self) -> tuple[str, str, str]:
        """Return heading, value and 95 % interval of a measure of a model as text."""
        heading, value, _, span, _ = self.format_row()
        return heading, value, span

    def to_json(self) -> dict[str, Any]:
        """Return the figure as a JSON object; what is not known is null."""
        numbers = {name: getattr(self, name) for name in ("value", "real", "low", "high")}
        row: dict[str, Any] = {name: _to_json_number(value) for name, value in numbers.items()}
        if self.interval is not None:
            row["interval"] = list(map(_to_json_number, self.interval))
        return {**row, "verdict": self.verdict}


def _to_json_number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


@dataclass(frozen=True, eq=False)
class FigureTable:
    """The figures of many tunes, tune by tune."""

    definitions: tuple[Definition, ...]
    parts: FloatArray  # (tune, figure)
    wholes: FloatArray  # (tune, figure); 0 where a tune does not have the figure

    @classmethod
    def of(cls, contents: Sequence[TuneContent], definitions: Sequence[Definition]) -> FigureTable:
        """Measure tunes."""
        ratios = [[d.measure_tune(content) for d in definitions] for content in contents]
        cells = np.array(ratios, dtype=np.float64).reshape(len(contents), len(definitions), 2)
        return cls(tuple(definitions), cells[..., 0], cells[..., 1])

    def __len__(self) -> int:
        return len(self.parts)

    def add(self, definition: Definition, ratios: Sequence[Ratio]) -> FigureTable:
        """Return the table with one more figure, given by tune."""
        column = np.array(ratios, dtype=np.float64).reshape(len(self), 2)
        return FigureTable(
            (*self.definitions, definition),
            np.column_stack([self.parts, column[:, 0]]),
            np.column_stack([self.wholes, column[:, 1]]),
        )

    def join(self, other: FigureTable) -> FigureTable:
        """Return the table of the figures of two tables of the same tunes."""
        return FigureTable(
            (*self.definitions, *other.definitions),
            np.column_stack([self.parts, other.parts]),
            np.column_stack([self.wholes, other.wholes]),
        )

    def select(self, is_selected: BoolArray) -> FigureTable:
        """Return the table of some figures, given by (figure,) bool."""
        definitions = tuple(compress(self.definitions, is_selected))
        return FigureTable(definitions, self.parts[:, is_selected], self.wholes[:, is_selected])

    def count_tunes(self) -> IntArray:
        """Count the tunes that have each figure; (figure,) int64."""
        counts: IntArray = (self.wholes > 0).sum(axis=0)
        return counts

    def take(self, tunes: IntArray) -> FigureTable:
        """Return the table of some tunes, given by (n,) int64 indexes."""
        return FigureTable(self.definitions, self.parts[tunes], self.wholes[tunes])

    @property
    def values(self) -> FloatArray:
        """The figures of the set, (figure,) float64; NaN where no tune has one."""
        return _divide(self.parts.sum(axis=0), self.wholes.sum(axis=0))

    @property
    def tune_values(self) -> FloatArray:
        """The figures of each tune, (tune, figure) float64; NaN where it has none."""
        return _divide(self.parts, self.wholes)

    def resample(self, size: int, generator: np.random.Generator) -> FloatArray:
        """Compute the figures of sets of tunes drawn with replacement (bootstrap).

        Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.

        Args:
            size: tunes per set.
            generator: draws the tunes.

        Returns:
            (RESAMPLES, figure) float64.
        """
        shares = np.full(len(self), 1 / len(self))
        counts = generator.multinomial(size, shares, size=RESAMPLES).astype(np.float64)
        return _divide(counts @ self.parts, counts @ self.wholes)


def _divide(parts: FloatArray, wholes: FloatArray) -> FloatArray:
    missing = np.full(parts.shape, np.nan)
    ratios: FloatArray = np.divide(parts, wholes, out=missing, where=wholes > 0)
    return ratios


def compare_tables(
    sampled: FigureTable, real: FigureTable, generator: np.random.Generator
) -> list[Figure]:
    """Compare the figures of sampled tunes with those of real ones.

    The band is that of a set of as many real tunes as were sampled: the value of the real tunes,
    plus the middle 95 % of the difference between two sets resampled from them, one of each size.

    Args:
        sampled: the tunes to judge.
        real: the tunes to judge by.
        generator: draws the resampled sets.
    """
    differences = real.resample(len(sampled), generator) - real.resample(len(real), generator)
    lows, highs = real.values + _find_middle(differences)
    interval_lows, interval_highs = _find_middle(sampled.resample(len(sampled), generator))
    columns = (sampled.values, real.values, lows, highs, interval_lows, interval_highs)
    rows = zip(sampled.definitions, *(column.tolist() for column in columns), strict=True)
    return [_make_figure(*row) for row in rows]


def _make_figure(
    definition: Definition, value: float, real: float, low: float, high: float, *interval: float
) -> Figure:
    """Make a figure; shares of more than all, or less than none, are no part of its range."""
    d = definition
    if d.unit == PERCENT and not np.isnan(low):
        low, high = max(low, 0.0), min(high, 1.0)
    span = (interval[0], interval[1])
    return Figure(d.key, d.label, d.unit, value, real, low, high, span, is_detail=d.is_detail)


def _find_middle(samples: FloatArray) -> FloatArray:
    """Return the quantiles MIDDLE_95 of (sample, figure) values, (2, figure); NaN without any."""
    is_missing = np.isnan(samples).all(axis=0)
    quantiles = np.nanquantile(np.where(is_missing, 0.0, samples), MIDDLE_95, axis=0)
    bounds: FloatArray = np.where(is_missing, np.nan, quantiles)
    return bounds


def nest_figures(figures: Sequence[Figure]) -> dict[str, Any]:
    """Return figures as JSON objects by key; "bar_likeness.4" is the entry "4" of one object."""
    nested: dict[str, Any] = {}
    for figure in figures:
        name, _, entry = figure.key.partition(".")
        if entry:
            nested.setdefault(name, {})[entry] = figure.to_json()
        else:
            nested[name] = figure.to_json()
    return nested
