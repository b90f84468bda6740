from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from musicgen.compare import baselines
from musicgen.compare.baselines import ComparedNetwork, CurvePoint
from musicgen.compare.comparison import Comparison, ComparisonOptions, ModelResult
from musicgen.compare.diagnostics import GradientDecay, HalfLives
from musicgen.compare.report import (
    ReportText,
    compute_paired_difference,
    describe_decay,
    format_bits,
    render_html_report,
    summarise_half_lives,
)
from musicgen.errors import InvalidValue
from musicgen.training.heldout_loss import HeldOutScore
from tests.loop_corpus import corpus

TOY = ComparisonOptions(tokens=640, cells=("rnn", "lstm"), parameters=10_000)
NAMES = ["window-4", "bag", "window-64", "n-gram", "rnn", "lstm", "rnn unclipped", "lstm unclipped"]


def run(options: ComparisonOptions = TOY) -> tuple[Comparison, list[str]]:
    comparison = Comparison(corpus(24, 8, 6), options)
    return comparison, [f"{told.model_name}: {told.activity}" for told in comparison.run()]


@pytest.fixture(scope="module")
def finished() -> tuple[Comparison, list[str]]:
    return run()


@pytest.fixture
def done(finished: tuple[Comparison, list[str]]) -> Comparison:
    """Return a finished comparison whose results a test may change."""
    return replace(finished[0], results=list(finished[0].results))


def timeless(comparison: Comparison) -> str:
    """Return what a comparison found, without what a clock says."""
    text = json.dumps(comparison.to_json())
    return re.sub(r'"(seconds|tokens_a_second)": [0-9.]+', "", text)


def test_every_rung_learns_in_the_ladders_order(done: Comparison) -> None:
    assert [result.name for result in done.results] == NAMES
    for result in done.results:
        assert result.test is not None
        assert result.seconds > 0
        assert result.tokens >= (640 if result.name != "n-gram" else 1)


def test_the_test_tunes_are_read_once_at_the_end(finished: tuple[Comparison, list[str]]) -> None:
    told = finished[1]
    reading = [line for line in told if line.endswith("scoring the test tunes")]
    assert told[-len(NAMES) :] == reading
    assert [line.split(":")[0] for line in reading] == NAMES


def test_cells_are_looked_into_before_and_after(done: Comparison) -> None:
    for result in done.results:
        assert (result.decay_after_training is not None) == (result.cell is not None)
        assert (result.decay_before_training is not None) == (result.name in ("rnn", "lstm"))
        assert (result.half_lives is not None) == (result.cell == "lstm")


def test_equal_tokens_give_equal_figures(done: Comparison) -> None:
    assert timeless(run()[0]) == timeless(done)


def test_another_seed_gives_other_figures(done: Comparison) -> None:
    assert timeless(run(replace(TOY, seed=2, cells=()))[0]) != timeless(
        replace(done, results=done.results[:4])
    )


def test_the_numbers_of_json(done: Comparison) -> None:
    found = json.loads(json.dumps(done.to_json()))
    assert [rung["rung"] for rung in found["rungs"]] == NAMES
    lstm = found["rungs"][5]
    assert lstm["valid"]["bits_per_note"] == round(done.results[5].valid.bits_per_note, 4)
    assert lstm["clip"] == 1.0
    assert found["rungs"][7]["clip"] is None
    assert found["tunes"] == {"train": 24, "valid": 8, "test": 6}


def test_minutes_are_shared_out_by_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def speed(self: ComparedNetwork, seconds: float) -> float:
        asked.append(self.name)
        return 4000.0 if self.name == "bag" else 2000.0

    monkeypatch.setattr(ComparedNetwork, "measure_tokens_per_second", speed)
    comparison = Comparison(corpus(24, 8), replace(TOY, tokens=None, minutes=7.0))
    list(comparison.allocate_budgets())
    assert asked == ["window-4", "bag", "window-64", "rnn", "lstm"]  # once each
    assert comparison.budgets["bag"] == 2 * comparison.budgets["window-4"] == 240_000
    assert comparison.budgets["rnn unclipped"] == comparison.budgets["rnn"]


def test_a_corpus_too_small_to_hold_any_out_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"made <up>: 3 tunes are too few to hold any out"):
        Comparison(corpus(3, 0, 0), TOY)


def test_a_corpus_without_a_test_part_is_compared_by_what_is_held_out() -> None:
    comparison = Comparison(corpus(8, 3, 0), replace(TOY, tokens=64, cells=()))
    list(comparison.run())
    assert [result.test for result in comparison.results] == [None] * 4
    assert "<td>none</td>" in render_html_report(comparison)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cells": ("lstm", "transformer")}, "cell 'transformer' is unknown: choose of lstm"),
        ({"minutes": 0.0}, "minutes is 0.0: it must be above 0"),
    ],
)
def test_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        ComparisonOptions(**options)  # type: ignore[arg-type]


class Page(HTMLParser):
    """What stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "style") and "url(" not in (
                value or ""
            ):
                self.links += [value or ""] if name != "style" else []


def test_the_page_stands_alone(done: Comparison) -> None:
    text = render_html_report(done)
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 6
    assert all(f">{name}</td>" in text for name in NAMES)


def test_names_in_the_corpus_are_text_on_the_page(done: Comparison) -> None:
    text = render_html_report(done, command="musicgen compare '<b>'")
    assert "made &lt;up&gt;" in text
    assert "<up>" not in text
    assert "<b>" not in text


def test_equal_results_are_equal_pages(done: Comparison) -> None:
    assert render_html_report(done) == render_html_report(done)


def test_a_page_without_cells_has_no_pictures_of_them() -> None:
    comparison, _ = run(replace(TOY, cells=()))
    page = Page(render_html_report(comparison))
    assert page.tags.count("svg") == 3


def held(*nats: float) -> HeldOutScore:
    count = len(nats)
    return HeldOutScore(np.array(nats), np.full(count, 10), np.full(count, 5))


def test_a_gap_is_measured_on_the_same_tunes() -> None:
    luck = np.random.default_rng(1).normal(40, 15, 50)  # tunes differ far more than the rungs do
    found = compute_paired_difference(held(*luck + 0.5), held(*luck))
    assert found.low == pytest.approx(found.high) == pytest.approx(0.1 / np.log(2))
    assert found.is_significant
    assert not compute_paired_difference(held(1, 2, 3, 4), held(4, 3, 2, 1)).is_significant
    assert compute_paired_difference(held(*luck), held(*luck + 0.5)).high < 0


def with_scores(done: Comparison, **scores: HeldOutScore) -> ReportText:
    done.results = [
        replace(result, test=scores[result.name]) if result.name in scores else result
        for result in done.results
    ]
    return ReportText(done)


def test_words_follow_the_scores(done: Comparison) -> None:
    assert "lstm needs 0.289 bits a note fewer than rnn" in with_scores(
        done, rnn=held(5, 6, 7), lstm=held(4, 5, 6)
    ).compare_pair("lstm", "rnn")
    assert "lstm needs 0.289 bits a note more than rnn" in with_scores(
        done, rnn=held(4, 5, 6), lstm=held(5, 6, 7)
    ).compare_pair("lstm", "rnn")
    assert with_scores(done, rnn=held(1, 2, 3, 4), lstm=held(4, 3, 2, 1)).compare_pair(
        "lstm", "rnn"
    ) == ("lstm and rnn cannot be told apart on these tunes.")


def test_a_reason_is_given_up_where_it_did_not_pay(done: Comparison) -> None:
    names = [result.name for result in done.results if result.name not in ("rnn", "lstm")]
    others = {name: held(9, 9, 9) for name in names}
    paid = " ".join(
        with_scores(done, **others, rnn=held(5, 6, 7), lstm=held(4, 5, 6)).describe_ranking()
    )
    assert "Its gates decide what is kept." in paid
    unpaid = " ".join(with_scores(done, rnn=held(4, 5, 6), lstm=held(5, 6, 7)).describe_ranking())
    assert "what is kept, which has not paid within this budget." in unpaid


def test_words_of_what_is_missing_are_none(done: Comparison) -> None:
    alone = replace(done, results=[r for r in done.results if not r.name.startswith("rnn")])
    assert "rnn" not in " ".join(ReportText(alone).describe_ranking())
    assert ReportText(done).compare_pair("lstm", "gru") == ""
    assert ReportText(done).compare_decay("gru", "rnn") == ""


def with_fades(done: Comparison, **shares: float) -> ReportText:
    distances = np.arange(101)
    done.results = [
        replace(
            result,
            decay_after_training=fade(result.name, np.geomspace(1, shares[result.name], 101)),
        )
        if result.name in shares
        else result
        for result in done.results
    ]
    assert len(distances) == 101
    return ReportText(done)


def fade(cell: str, mean: np.ndarray) -> GradientDecay:
    return GradientDecay(cell, np.arange(len(mean)), mean[None], mean[None], mean[None])


def test_words_say_whose_curve_is_flatter(done: Comparison) -> None:
    flat = with_fades(done, lstm=0.01, rnn=1e-12).compare_decay("lstm", "rnn")
    assert flat == (
        "100 ids back, lstm has 1 % of it left and rnn has 1e-12 of it:"
        " the curve of lstm is the flatter one, as the lecture says."
    )
    steep = with_fades(done, lstm=1e-12, rnn=0.01).compare_decay("lstm", "rnn")
    assert steep.endswith("here the curve of lstm is not the flatter one.")


@pytest.mark.parametrize(
    ("mean", "words"),
    [
        (np.geomspace(1, 1e-4, 101), "has a tenth left 26 ids back"),
        (np.linspace(1, 0.5, 101), "has 50 % of it left 100 ids back"),
        (np.linspace(1, 8, 101), "has 8 times of it left 100 ids back, after growing to 8 times"),
    ],
)
def test_words_say_how_far_a_gradient_reaches(mean: np.ndarray, words: str) -> None:
    assert describe_decay(fade("rnn", mean)) == words


def test_words_say_what_broke_down(done: Comparison) -> None:
    done.results = [
        replace(result, fault="no number") if result.name == "rnn unclipped" else result
        for result in done.results
    ]
    told = " ".join(ReportText(done).describe_clipping())
    assert re.search(r"rnn: \d+ % of the updates were clipped; .* broke down after \d+ ids", told)
    assert np.isinf(done.pair_gradient_norms()["rnn"].unclipped[-1])


def test_words_say_how_long_units_remember() -> None:
    memory = HalfLives("lstm", (np.array([5.0, 10.0, 200.0]),), 10.0)
    assert summarise_half_lives(memory) == (
        "half of the units forget half within 1 bars; the longest takes 20 bars;"
        " 33 % take more than 8"
    )
    assert "within 10 ids" in summarise_half_lives(replace(memory, ids_per_bar=None))


def test_the_level_of_the_ngram_is_its_best(done: Comparison) -> None:
    grams = next(result for result in done.results if result.name == "n-gram")
    losses = [one.loss for _, one in grams.scored_points]
    assert all(a > b for a, b in pairwise(losses[: grams.width]))
    assert f"the one of {grams.width} ids did best" in ReportText(done).describe_ngram_orders()


def test_absurd_bits_are_written_short() -> None:
    assert [format_bits(4.35678), format_bits(4.35678, 2), format_bits(123456.0)] == [
        "4.357",
        "4.36",
        "1e+05",
    ]


def test_curves_name_the_quick_and_the_thrifty(done: Comparison) -> None:
    def curve(result: ModelResult, loss: float, seconds: float) -> ModelResult:
        score = HeldOutScore(np.array([10 * loss]), np.array([10]), np.array([5]))
        points = [
            CurvePoint(100, seconds / 2, held_out_score=score),
            CurvePoint(200, seconds, held_out_score=score),
        ]
        return replace(result, points=tuple(points))

    done.results = [
        curve(result, 1.0 if result.name == "lstm" else 2.0, 10.0)
        if result.name != baselines.NGRAM
        else result
        for result in done.results
    ]
    told = next(ReportText(done).describe_learning_curves())
    assert told.startswith("After 200 ids, the most that every network has read, lstm has")
    assert told.endswith("after 10 seconds, lstm.")


@pytest.mark.parametrize("nats", [math.inf, math.nan])
def test_a_rung_that_blew_up_is_no_number_and_comes_last(done: Comparison, nats: float) -> None:
    count = len(done.dataset.test)
    blown = HeldOutScore(
        np.array([5.0, nats] + [5.0] * (count - 2)), np.full(count, 9), np.full(count, 5)
    )
    words = with_scores(done, rnn=blown)
    assert words.compare_pair("lstm", "rnn") == (
        "rnn has blown up: on some tune its bits are no number."
    )
    assert next(words.describe_ranking()).endswith(", rnn.")
    assert done.to_json()["rungs"][4]["test"] is None
    json.dumps(done.to_json(), allow_nan=False)
    assert "rnn" in render_html_report(done)
