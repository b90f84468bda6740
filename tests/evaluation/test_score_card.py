"""The card as a whole: columns, notes, JSON, the page, and real tunes against real ones."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest

from musicgen.errors import InvalidValue
from musicgen.evaluation.card_page import render_card
from musicgen.evaluation.figures import Definition, FigureTable, compare_tables
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.judge import judge_tunes
from musicgen.evaluation.score_card import (
    ScoreCard,
    TuneSet,
    make_score_card,
    measure_distance,
)
from musicgen.evaluation.statistics import (
    STATISTICS_FIGURES,
    compare_features,
    measure_features,
)
from musicgen.music.arrays import FloatArray
from musicgen.music.tune_content import TuneContent
from tests.related_tunes import indexed
from tests.toy_tunes import make_dances, shuffle_bars


@pytest.fixture(scope="module")
def card() -> ScoreCard:
    real = TuneSet("valid <part>", tuple(make_dances(8)))
    sets = [TuneSet("form free", tuple(shuffle_bars(dance, 3) for dance in make_dances(6, 50))),
            TuneSet("form AABB", tuple(make_dances(6, 90)))]  # fmt: skip
    return make_score_card(sets, real, indexed(make_dances(5, 200)))


def test_json_has_the_keys_that_others_rely_on(card: ScoreCard) -> None:
    data = card.to_json()
    for key in ("sections_multiple_of_4", "sections_8", "judge_auc", "ends_on_tonic", "copied_8"):
        assert data[key].keys() >= {"value", "real", "low", "high"}
    assert list(data["bar_likeness"]) == [str(lag) for lag in range(1, 17)]
    assert list(data["columns"]) == ["form free", "form AABB"]
    assert data["columns"]["form free"]["sections_8"] == data["sections_8"]
    assert data["real"] == {"name": "valid <part>", "tunes": 8}


def test_page_is_complete_and_loads_nothing(card: ScoreCard) -> None:
    page = render_card(card, command="musicgen evaluate <toy>")
    assert page.count("<table>") == 2
    assert page.count("<figure>") == 5
    assert page.count("the most typical tune") == page.count("the least typical tune") == 2
    assert "valid &lt;part&gt;" in page
    assert "musicgen evaluate &lt;toy&gt;" in page
    assert re.findall(r"<script|<link|<image|https?://(?!www\.w3\.org)|src=", page) == []


def test_sets_of_too_few_tunes_are_refused() -> None:
    with pytest.raises(InvalidValue, match="mine: a score card needs 4 tunes or more, not 0"):
        TuneSet("mine", ())
    with pytest.raises(InvalidValue, match="4 tunes or more, not 1"):
        TuneSet("mine", tuple(make_dances(1)))


def test_tunes_of_a_format_without_repeats_have_unknown_sections() -> None:
    played = tuple(score.unfolded() for score in make_dances(5))
    tunes = TuneSet("midi", played, (False,) * 5)
    column = make_score_card([tunes], TuneSet("real", tuple(make_dances(8)))).columns[0]
    for key in ("sections_8", "sections_multiple_of_4", "repeats", "endings"):
        assert math.isnan(column.get_figure(key).value)
        assert column.get_figure(key).verdict == "not known"
    assert "sections are not known: no tune has repeat signs" in column.notes


def test_order_of_tunes_changes_no_value() -> None:
    dances, real = make_dances(8, 40), TuneSet("real", tuple(make_dances(8)))
    shuffled = random.Random(1).sample(dances, len(dances))
    sets = [TuneSet(name, tuple(scores)) for name, scores in (("a", dances), ("b", shuffled))]
    first, second = make_score_card(sets, real).columns
    for figure, other in zip(first.figures, second.figures, strict=True):
        if not figure.key.startswith(("overlap", "divergence", "judge")):  # they draw tunes
            assert figure.value == pytest.approx(other.value, nan_ok=True)


def test_distance_is_the_mean_of_standard_deviations_cut_at_5() -> None:
    definitions = (Definition("a", "a", ""), Definition("b", "b", ""))
    real = FigureTable(definitions, np.array([[1.0, 2], [3, 4]]), np.ones((2, 2)))
    tunes = FigureTable(definitions, np.array([[4.0, 0], [9, 3]]), np.array([[1.0, 0], [1, 1]]))
    # means 2 and 3, deviations 1 and 1; the first tune does not have b, which counts as 1
    assert measure_distance(tunes, real) == pytest.approx(((2 + 1) / 2, (5 + 0) / 2))


def measure_halves(trials: int, contents: list[TuneContent], seed: int) -> dict[str, float]:
    """Return for each figure how often one half is inside the band of the other."""
    generator = np.random.default_rng(seed)
    table = FigureTable.of(contents, (*FORM_FIGURES, *STATISTICS_FIGURES))
    inside: dict[str, list[bool]] = {}
    for _ in range(trials):
        order = generator.permutation(len(contents))
        half, other = order[: len(order) // 2], order[len(order) // 2 :]
        figures = compare_tables(table.take(half), table.take(other), generator)
        for figure in figures:
            if figure.verdict != "not known" and figure.low < figure.high:
                inside.setdefault(figure.key, []).append(figure.is_inside)
    return {key: float(np.mean(verdicts)) for key, verdicts in inside.items()}


def test_halves_of_one_source_are_inside() -> None:
    shares = measure_halves(20, [TuneContent.of(dance) for dance in make_dances(60)], seed=1)
    assert 0.88 <= np.mean(list(shares.values())) <= 1


@pytest.mark.promises
def test_halves_of_one_source_are_inside_in_500_splits() -> None:
    """Figures that are nearly constant are left out: their bands are a handful of values."""
    shares = measure_halves(500, [TuneContent.of(dance) for dance in make_dances(280)], seed=2)
    assert min(shares.values()) >= 0.9
    assert 0.94 <= np.mean(list(shares.values())) <= 0.96


@pytest.mark.promises
def test_features_of_halves_are_inside() -> None:
    generator = np.random.default_rng(3)
    contents = [TuneContent.of(dance) for dance in make_dances(160)]
    verdicts = []
    for _ in range(40):
        order = generator.permutation(len(contents)).tolist()
        halves = [[contents[index] for index in part] for part in (order[:80], order[80:])]
        figures = compare_features(halves[0], measure_features(halves[1]), generator)
        verdicts += [figure.is_inside for figure in figures]
    assert np.mean(verdicts) >= 0.9


@pytest.mark.promises
def test_judge_of_halves_is_at_chance() -> None:
    """The mean over 40 splits; 0.5 lies in most intervals."""
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(4)
    table = FigureTable.of([TuneContent.of(dance) for dance in make_dances(200)], FORM_FIGURES)
    figures = []
    for _ in range(40):
        order = generator.permutation(200)
        halves = table.take(order[:100]), table.take(order[100:])
        figures.append(judge_tunes(*halves, np.arange(200), generator).figure)
    values: FloatArray = np.array([figure.value for figure in figures])
    assert values.mean() == pytest.approx(0.5, abs=0.03)
    assert np.mean([figure.is_inside for figure in figures]) >= 0.8
