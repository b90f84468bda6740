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
from musicgen.compare.baselines import WITH_CONTEXT, ComparedNetwork, CurvePoint
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
from musicgen.evaluation.heldout_score import HeldOutScore
from tests.loop_corpus import make_corpus

TOY = ComparisonOptions(tokens=640, cells=("rnn", "lstm"), parameters=10_000)
CELLS = ["rnn", "lstm"]
NAMES = [
    *("window-4", "bag", "window-64", "n-gram", *CELLS, *WITH_CONTEXT),
    *(f"{cell} unclipped" for cell in CELLS),
]

COMMAND = "musicgen compare '<b>'"


def run_comparison(options: ComparisonOptions = TOY) -> tuple[Comparison, list[str]]:
    comparison = Comparison(make_corpus(24, 8, 6), options)
    return comparison, [
        f"{progress.model_name}: {progress.activity}" for progress in comparison.run()
    ]


@pytest.fixture(scope="module")
def finished() -> tuple[Comparison, list[str]]:
    return run_comparison()


@pytest.fixture
def comparison(finished: tuple[Comparison, list[str]]) -> Comparison:
    """Return a copy of a finished comparison, whose results a test may change."""
    return replace(finished[0], results=list(finished[0].results))


def without_times(comparison: Comparison) -> str:
    """Return the results of a comparison as JSON text, without times."""
    text = json.dumps(comparison.to_json())
    return re.sub(r'"(seconds|tokens_a_second)": [0-9.]+', "", text)


def test_all_models_are_trained_in_order(comparison: Comparison) -> None:
    assert [result.name for result in comparison.results] == NAMES
    for result in comparison.results:
        assert result.test is not None
        assert result.seconds > 0
        assert result.tokens >= (640 if result.name != "n-gram" else 1)


def test_test_tunes_are_scored_once_at_the_end(finished: tuple[Comparison, list[str]]) -> None:
    messages = finished[1]
    reading = [line for line in messages if line.endswith("scoring the test tunes")]
    assert messages[-len(NAMES) :] == reading
    assert [line.split(":")[0] for line in reading] == NAMES


def test_cells_are_diagnosed_before_and_after_training(comparison: Comparison) -> None:
    for result in comparison.results:
        assert (result.decay_after_training is not None) == (result.cell is not None)
        assert (result.decay_before_training is not None) == (result.name in ("rnn", "lstm"))
        assert (result.half_lives is not None) == (result.cell == "lstm")


def test_equal_tokens_give_equal_results(comparison: Comparison) -> None:
    assert without_times(run_comparison()[0]) == without_times(comparison)


def test_other_seed_gives_other_results(comparison: Comparison) -> None:
    assert without_times(run_comparison(replace(TOY, seed=2, cells=()))[0]) != without_times(
        replace(comparison, results=comparison.results[:4])
    )


def test_json_contains_the_results(comparison: Comparison) -> None:
    values = json.loads(json.dumps(comparison.to_json()))
    assert [model["rung"] for model in values["rungs"]] == NAMES
    lstm = values["rungs"][5]
    assert lstm["valid"]["bits_per_note"] == round(comparison.results[5].valid.bits_per_note, 4)
    assert lstm["clip"] == 1.0
    assert values["rungs"][9]["clip"] is None
    assert values["tunes"] == {"train": 24, "valid": 8, "test": 6}


def test_minutes_are_converted_by_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def fake_speed(self: ComparedNetwork, seconds: float) -> float:
        measured.append(self.name)
        return 4000.0 if self.name == "bag" else 2000.0

    monkeypatch.setattr(ComparedNetwork, "measure_tokens_per_second", fake_speed)
    comparison = Comparison(make_corpus(24, 8), replace(TOY, tokens=None, minutes=9.0))
    list(comparison.allocate_budgets())
    assert measured == ["window-4", "bag", "window-64", "rnn", "lstm", *WITH_CONTEXT]  # once
    assert comparison.budgets["bag"] == 2 * comparison.budgets["window-4"] == 240_000
    assert comparison.budgets["rnn unclipped"] == comparison.budgets["rnn"]


def test_corpus_without_held_out_tunes_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"made <up>: 3 tunes are too few to hold any out"):
        Comparison(make_corpus(3, 0, 0), TOY)


def test_corpus_without_a_test_split_is_compared_on_validation_tunes() -> None:
    comparison = Comparison(make_corpus(8, 3, 0), replace(TOY, tokens=64, cells=()))
    list(comparison.run())
    assert [result.test for result in comparison.results] == [None] * 4
    assert "<td>none</td>" in render_html_report(comparison)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": ("lstm", "transformer")}, "cell 'transformer' is unknown: choose of lstm"),
        ({"minutes": 0.0}, "minutes is 0.0: it must be above 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        ComparisonOptions(**options)  # type: ignore[arg-type]


class PageParser(HTMLParser):
    """Collects the tags, ids and links of a page."""

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


@pytest.fixture(scope="module")
def text(finished: tuple[Comparison, list[str]]) -> str:
    """Return the page of the finished comparison: drawing its figures takes seconds."""
    return render_html_report(finished[0], command=COMMAND)


def test_page_is_self_contained(text: str) -> None:
    page = PageParser(text)
    assert not {"script", "link", "iframe", "img", "object", "form"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in text
    assert "url(http" not in text
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 6
    assert all(f">{name}</td>" in text for name in NAMES)


def test_names_are_escaped_in_the_page(text: str) -> None:
    assert "made &lt;up&gt;" in text
    assert "<up>" not in text
    assert "<b>" not in text


def test_page_is_deterministic(finished: tuple[Comparison, list[str]], text: str) -> None:
    assert render_html_report(finished[0], command=COMMAND) == text


def test_page_without_cells_has_no_figures_of_them() -> None:
    comparison, _ = run_comparison(replace(TOY, cells=()))
    page = PageParser(render_html_report(comparison))
    assert page.tags.count("svg") == 3


def make_score(*nats: float) -> HeldOutScore:
    count = len(nats)
    return HeldOutScore(np.array(nats), np.full(count, 10), np.full(count, 5))


def test_differences_are_paired_by_tune() -> None:
    nats = np.random.default_rng(1).normal(40, 15, 50)  # tunes differ far more than models
    difference = compute_paired_difference(make_score(*nats + 0.5), make_score(*nats))
    assert difference.low == pytest.approx(difference.high) == pytest.approx(0.1 / np.log(2))
    assert difference.is_significant
    assert not compute_paired_difference(
        make_score(1, 2, 3, 4), make_score(4, 3, 2, 1)
    ).is_significant
    assert compute_paired_difference(make_score(*nats), make_score(*nats + 0.5)).high < 0


def with_scores(comparison: Comparison, **scores: HeldOutScore) -> ReportText:
    comparison.results = [
        replace(result, test=scores[result.name]) if result.name in scores else result
        for result in comparison.results
    ]
    return ReportText(comparison)


def test_sentences_agree_with_the_scores(comparison: Comparison) -> None:
    assert "lstm needs 0.289 bits per note fewer than rnn" in with_scores(
        comparison, rnn=make_score(5, 6, 7), lstm=make_score(4, 5, 6)
    ).compare_pair("lstm", "rnn")
    assert "lstm needs 0.289 bits per note more than rnn" in with_scores(
        comparison, rnn=make_score(4, 5, 6), lstm=make_score(5, 6, 7)
    ).compare_pair("lstm", "rnn")
    assert with_scores(
        comparison, rnn=make_score(1, 2, 3, 4), lstm=make_score(4, 3, 2, 1)
    ).compare_pair("lstm", "rnn") == ("lstm and rnn do not differ significantly on these tunes.")


def test_reasons_mention_a_missing_gain(comparison: Comparison) -> None:
    names = [result.name for result in comparison.results if result.name not in ("rnn", "lstm")]
    other_scores = {name: make_score(9, 9, 9) for name in names}
    text = " ".join(
        with_scores(
            comparison, **other_scores, rnn=make_score(5, 6, 7), lstm=make_score(4, 5, 6)
        ).describe_ranking()
    )
    assert "Its gates control what is kept." in text
    text_without_gain = " ".join(
        with_scores(
            comparison, rnn=make_score(4, 5, 6), lstm=make_score(5, 6, 7)
        ).describe_ranking()
    )
    assert "what is kept, which did not help within this budget." in text_without_gain


def test_missing_models_are_not_mentioned(comparison: Comparison) -> None:
    without_rnn = replace(
        comparison, results=[r for r in comparison.results if not r.name.startswith("rnn")]
    )
    assert "rnn" not in " ".join(ReportText(without_rnn).describe_ranking())
    assert ReportText(comparison).compare_pair("lstm", "gru") == ""
    assert ReportText(comparison).compare_decay("gru", "rnn") == ""


def with_decays(comparison: Comparison, **shares: float) -> ReportText:
    comparison.results = [
        replace(
            result,
            decay_after_training=make_decay(result.name, np.geomspace(1, shares[result.name], 101)),
        )
        if result.name in shares
        else result
        for result in comparison.results
    ]
    return ReportText(comparison)


def make_decay(cell: str, mean: np.ndarray) -> GradientDecay:
    return GradientDecay(cell, np.arange(len(mean)), mean[None], mean[None], mean[None])


def test_sentence_names_the_flatter_curve(comparison: Comparison) -> None:
    flatter = with_decays(comparison, lstm=0.01, rnn=1e-12).compare_decay("lstm", "rnn")
    assert flatter == (
        "100 ids back, lstm has 1 % of it left and rnn has 1e-12 of it:"
        " the curve of lstm is the flatter one, as expected."
    )
    steeper = with_decays(comparison, lstm=1e-12, rnn=0.01).compare_decay("lstm", "rnn")
    assert steeper.endswith("here the curve of lstm is not the flatter one.")


@pytest.mark.parametrize(
    ("mean", "sentence"),
    [
        (np.geomspace(1, 1e-4, 101), "has a tenth left 26 ids back"),
        (np.linspace(1, 0.5, 101), "has 50 % of it left 100 ids back"),
        (np.linspace(1, 8, 101), "has 8 times of it left 100 ids back, after growing to 8 times"),
    ],
)
def test_sentence_describes_the_gradient_decay(mean: np.ndarray, sentence: str) -> None:
    assert describe_decay(make_decay("rnn", mean)) == sentence


def test_sentence_reports_divergence(comparison: Comparison) -> None:
    comparison.results = [
        replace(result, fault="no number") if result.name == "rnn unclipped" else result
        for result in comparison.results
    ]
    text = " ".join(ReportText(comparison).describe_clipping())
    assert re.search(r"rnn: \d+ % of the updates were clipped; .* diverged after \d+ tokens", text)
    assert np.isinf(comparison.pair_gradient_norms()["rnn"].unclipped[-1])


def test_sentence_summarises_half_lives() -> None:
    half_lives = HalfLives("lstm", (np.array([5.0, 10.0, 200.0]),), 10.0)
    assert summarise_half_lives(half_lives) == (
        "the median half-life is 1 bars; the longest is 20 bars; 33 % are above 8"
    )
    assert "half-life is 10 ids" in summarise_half_lives(replace(half_lives, ids_per_bar=None))


def test_best_order_of_the_ngram_is_reported(comparison: Comparison) -> None:
    ngram = next(result for result in comparison.results if result.name == "n-gram")
    losses = [score.loss for _, score in ngram.scored_points]
    assert all(a > b for a, b in pairwise(losses[: ngram.width]))
    assert f"order {ngram.width} scored best" in ReportText(comparison).describe_ngram_orders()


def test_huge_bits_are_in_scientific_notation() -> None:
    assert [format_bits(4.35678), format_bits(4.35678, 2), format_bits(123456.0)] == [
        "4.357",
        "4.36",
        "1e+05",
    ]


def test_sentence_names_the_best_models_by_tokens_and_time(comparison: Comparison) -> None:
    def curve(result: ModelResult, loss: float, seconds: float) -> ModelResult:
        score = HeldOutScore(np.array([10 * loss]), np.array([10]), np.array([5]))
        points = [
            CurvePoint(100, seconds / 2, held_out_score=score),
            CurvePoint(200, seconds, held_out_score=score),
        ]
        return replace(result, points=tuple(points))

    comparison.results = [
        curve(result, 1.0 if result.name == "lstm" else 2.0, 10.0)
        if result.name != baselines.NGRAM
        else result
        for result in comparison.results
    ]
    sentence = next(ReportText(comparison).describe_learning_curves())
    assert sentence.startswith("After 200 tokens, the most that every network has read, lstm has")
    assert sentence.endswith("after 10 seconds, lstm.")


@pytest.mark.parametrize("nats", [math.inf, math.nan])
def test_diverged_model_is_ranked_last(comparison: Comparison, nats: float) -> None:
    count = len(comparison.dataset.test)
    diverged = HeldOutScore(
        np.array([5.0, nats] + [5.0] * (count - 2)), np.full(count, 9), np.full(count, 5)
    )
    text = with_scores(comparison, rnn=diverged)
    assert text.compare_pair("lstm", "rnn") == (
        "rnn diverged: its score on some tune is not finite."
    )
    assert next(text.describe_ranking()).endswith(", rnn.")
    assert comparison.to_json()["rungs"][4]["test"] is None
    json.dumps(comparison.to_json(), allow_nan=False)
    assert "rnn" in render_html_report(comparison)
