"""Values, bands and verdicts of figures; intervals that cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from musicgen.evaluation.figures import (
    PERCENT,
    Definition,
    Figure,
    FigureTable,
    Ratio,
    compare_tables,
    nest_figures,
)
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.statistics import STATISTICS_FIGURES
from musicgen.music.tune_content import TuneContent
from tests.toy_tunes import make_dances


def make_table(parts: np.ndarray, wholes: np.ndarray | None = None) -> FigureTable:
    """Make a table of one figure."""
    definition = Definition("share", "a share", PERCENT)
    empty = FigureTable((), np.empty((len(parts), 0)), np.empty((len(parts), 0)))
    counts = np.ones(len(parts)) if wholes is None else wholes
    return empty.add(definition, [Ratio(*pair) for pair in zip(parts, counts, strict=True)])


def test_value_of_a_set_is_a_ratio_of_sums() -> None:
    table = make_table(np.array([1.0, 3.0, 0.0]), np.array([2.0, 4.0, 0.0]))
    assert table.values.tolist() == [4 / 6]
    assert table.tune_values.ravel().tolist() == pytest.approx([0.5, 0.75, np.nan], nan_ok=True)


def test_identical_sets_are_inside_at_the_real_value() -> None:
    contents = [TuneContent.of(score) for score in make_dances(12)]
    table = FigureTable.of(contents, (*FORM_FIGURES, *STATISTICS_FIGURES))
    for figure in compare_tables(table, table, np.random.default_rng(0)):
        assert figure.verdict in ("inside", "not known"), figure
        assert figure.value == pytest.approx(figure.real, nan_ok=True)


def test_verdict_says_by_how_much_a_value_is_outside() -> None:
    figure = Figure("share", "a share", PERCENT, 0.25, 0.976, 0.95, 0.99)
    assert (figure.is_inside, figure.verdict) == (False, "below by 70.0 %")
    assert Figure("range", "range", "semitones", 30, 19, 17, 21).verdict == "above by 9"
    assert Figure("x", "x", "", np.nan, 1, 0, 2).verdict == "not known"


def test_values_are_formatted_to_be_read() -> None:
    figure = Figure("bits_per_tune", "bits per tune", "", 2378.4, np.nan, 2290.2, 2480.1)
    assert figure.format_model_row() == ("bits per tune", "2,378", "2,290 to 2,480")
    assert figure.format(0.2468) == "0.247"
    assert Figure("share", "a share", PERCENT, 0, 0, 0, 1).format(0.12345) == "12.3 %"


def test_model_measure_is_judged_by_its_own_interval() -> None:
    auc = Figure("judge_auc", "judge", "", 0.93, 0.5, 0.9, 0.96, is_model_measure=True)
    assert auc.verdict == "above by 0.4"
    assert Figure("a", "a", "", 0.52, 0.5, 0.45, 0.6, is_model_measure=True).verdict == "inside"


def test_json_nests_figures_by_lag_and_has_null_for_the_unknown() -> None:
    figures = [Figure("bar_likeness.4", "", PERCENT, 0.1, 0.3, 0.2, 0.4),
               Figure("endings", "", PERCENT, np.nan, 0.5, 0.4, 0.6)]  # fmt: skip
    nested = nest_figures(figures)
    assert nested["bar_likeness"]["4"] == {
        "value": 0.1, "real": 0.3, "low": 0.2, "high": 0.4, "verdict": "below by 10.0 %",
    }  # fmt: skip
    assert nested["endings"]["value"] is None


def count_inside(trials: int, size: int, seed: int) -> tuple[float, float]:
    """Return how often a band holds a set of the same source, and an interval the truth."""
    generator = np.random.default_rng(seed)
    inside = covered = 0
    for _ in range(trials):
        wholes = generator.integers(1, 4, size=(2, size)).astype(float)
        parts = generator.binomial(wholes.astype(int), 0.6).astype(float)
        sampled, real = (make_table(*pair) for pair in zip(parts, wholes, strict=True))
        (figure,) = compare_tables(sampled, real, generator)
        assert figure.interval is not None
        inside += figure.is_inside
        covered += figure.interval[0] <= 0.6 <= figure.interval[1]
    return inside / trials, covered / trials


def test_bands_and_intervals_hold() -> None:
    inside, covered = count_inside(40, 60, seed=1)
    assert inside >= 0.85
    assert covered >= 0.85


@pytest.mark.promises
def test_bands_and_intervals_hold_in_500_simulations() -> None:
    inside, covered = count_inside(500, 140, seed=2)
    assert 0.93 <= inside <= 0.97
    assert covered >= 0.93
