from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from musicgen import checkpoint
from musicgen.corpus.store import EncodedTune
from musicgen.errors import InvalidValue, Mismatch
from musicgen.evaluation.heldout_score import bootstrap_ratio, evaluate_surprisal
from musicgen.evaluation.likelihood import (
    ScoreFunction,
    count_units,
    encode_as_text,
    measure_calibration,
    measure_learning_curve,
    read_scores,
    score_baselines,
    score_baselines_as_text,
    score_likelihood,
)
from musicgen.evaluation.token_scores import score_tokens
from musicgen.sampling.engine import NumpyEngine
from musicgen.sampling.surprisal import measure_bits
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES
from tests.evaluation.encoded_tunes import PICKUP, PLAIN, encode_tune, make_tunes, store_tune
from tests.fake_models import FixedEngine, untrained

CODEC = find_codec("measures")
TUNES = [encode_tune(PLAIN), encode_tune(PICKUP), *make_tunes(4)]
TRAINING, VALIDATION = make_tunes(12, seed=2), make_tunes(4, seed=3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NumpyEngine:
    return NumpyEngine.of(checkpoint.load(untrained(tmp_path_factory.mktemp("models") / "random")))


def test_uniform_model_needs_the_same_bits_for_each_id() -> None:
    uniform = FixedEngine(np.zeros(len(MEASURES)))
    report = score_likelihood(uniform, CODEC, TUNES, TRAINING, VALIDATION)
    bits = math.log2(len(MEASURES)) * report.tokens
    notes = sum(tune.notes for tune in TUNES)
    assert report.unmasked.nats_per_token == pytest.approx(math.log(len(MEASURES)))
    assert report.unmasked.bits_per_note.value == pytest.approx(bits / notes)
    assert report.unmasked.bits_per_tune.value == pytest.approx(bits / len(TUNES))
    assert report.unmasked.bits_per_bar is not None
    assert report.unmasked.bits_per_bar.value == pytest.approx(bits / (8 + 4 + 4 * 6))
    assert report.masked.bits_per_note.value < report.unmasked.bits_per_note.value


def test_the_mask_helps_with_every_id_and_lanes_change_nothing(engine: NumpyEngine) -> None:
    tunes = [tune.ids for tune in [*TUNES, *make_tunes(70, seed=5)]]  # more than a batch
    scores = score_tokens(engine, tunes, [CODEC.create_grammar(strict=False) for _ in tunes])
    assert (scores.masked_nats <= scores.nats + 1e-9).all()
    expected = np.concatenate([measure_bits(engine, ids.tolist()) for ids in tunes])
    np.testing.assert_allclose(scores.nats / math.log(2), expected, atol=1e-3)
    assert (scores.is_top <= (scores.confidence > np.exp(-scores.nats) - 1e-9)).all()


def test_order_of_tunes_changes_nothing(engine: NumpyEngine) -> None:
    report = score_likelihood(engine, CODEC, TUNES, TRAINING, VALIDATION)
    again = score_likelihood(engine, CODEC, TUNES[::-1], TRAINING[::-1], VALIDATION)
    assert again.to_json() == report.to_json()
    shuffled = score_baselines(CODEC, TUNES, TRAINING, VALIDATION[::-1])
    assert [row.bits_per_note.value for row in shuffled] == pytest.approx(
        [row.bits_per_note.value for row in report.baselines]
    )


def test_report_is_json_with_every_figure(engine: NumpyEngine) -> None:
    table = score_likelihood(engine, CODEC, TUNES, TRAINING, VALIDATION).to_json()
    report = json.loads(json.dumps(table, allow_nan=False))
    assert set(report["bits_per_note"]) == {"value", "low", "high"}
    names = [row["name"] for row in report["baselines"]]
    assert names == [*(f"ngram-{order}" for order in range(1, 7)), "ppm", "bar-copy"]
    chosen = [row["name"] for row in report["baselines"] if row["is_chosen"]]
    assert len(chosen) == 3
    kinds = {row["kind"] for row in report["places"]}
    assert kinds == {"eighth", "section_bar", "bar_occurrence", "bar_distance"}


def test_calibration_is_the_gap_between_promise_and_frequency() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    is_top = np.array([True, False, True, False, True])
    calibration = measure_calibration(confidence, is_top)
    assert [row.tokens for row in calibration.bins] == [2, 3]
    assert calibration.bins[1].confidence == pytest.approx(2.9 / 3)
    assert calibration.bins[1].accuracy == pytest.approx(2 / 3)
    assert calibration.error == pytest.approx((0.1 + 0.9) / 5)


def test_promised_probabilities_have_no_calibration_error() -> None:
    is_top = np.arange(1000) % 4 > 0
    assert measure_calibration(np.full(1000, 0.75), is_top).error == pytest.approx(0)


def test_same_tunes_as_text_have_the_same_notes_and_bars() -> None:
    codec, (training, validation, tunes) = encode_as_text(CODEC, TRAINING, VALIDATION, TUNES)
    as_text, as_measures = (
        count_units(own_codec, own_tunes, read_scores(own_codec, own_tunes))
        for own_codec, own_tunes in ((codec, tunes), (CODEC, TUNES))
    )
    assert as_text.unit == "note"
    assert as_text.notes.tolist() == as_measures.notes.tolist()
    assert as_text.bars is not None
    assert as_measures.bars is not None
    assert as_text.bars.tolist() == as_measures.bars.tolist() == [8, 4, 6, 6, 6, 6]
    rows = score_baselines_as_text(CODEC, TUNES, TRAINING, VALIDATION)
    assert rows == score_baselines(codec, tunes, training, validation)
    assert [row.name for row in rows] == [*(f"ngram-{order}" for order in range(1, 7)), "ppm"]
    uniform = FixedEngine(np.zeros(len(codec.vocabulary)))
    report = score_likelihood(uniform, codec, tunes, training, validation)
    bits = math.log2(len(codec.vocabulary)) * sum(len(tune.ids) for tune in tunes)
    assert report.unmasked.bits_per_note.value == pytest.approx(bits / as_text.notes.sum())


def test_other_codecs_are_not_written_as_text() -> None:
    with pytest.raises(Mismatch, match="codec 'frames' cannot be written as text: build"):
        encode_as_text(find_codec("frames"), TRAINING)


def test_text_that_is_no_tune_is_measured_per_character() -> None:
    codec = find_codec("text")
    tunes = [store_tune(codec.encode("Oh, what a day"), 14)]
    units = count_units(codec, tunes, read_scores(codec, tunes))
    assert (units.unit, units.notes.tolist(), units.bars) == ("character", [14], None)


def test_learning_curve_falls_with_more_tunes() -> None:
    sizes: list[int] = []

    def train(part: Sequence[EncodedTune]) -> ScoreFunction:
        sizes.append(len(part))
        return lambda tunes: evaluate_surprisal(
            lambda ids: np.full(len(ids), 1.0), [tune.ids for tune in tunes]
        )

    training = make_tunes(64, seed=7)
    points = measure_learning_curve(CODEC, TUNES, training, VALIDATION, train)
    ngram = [point for point in points if point.model == "ngram"]
    assert [point.training_tunes for point in ngram] == sizes == [2, 4, 8, 16, 32, 64]
    assert ngram[-1].bits_per_note < ngram[0].bits_per_note
    assert {point.model for point in points} == {"ngram", "ppm", "bar-copy", "network"}
    nats, notes = sum(len(tune.ids) for tune in TUNES), sum(tune.notes for tune in TUNES)
    assert points[-1].bits_per_note == pytest.approx(nats / math.log(2) / notes)


@pytest.mark.parametrize(
    ("tunes", "training", "validation", "words"),
    [
        ([], TRAINING, VALIDATION, "no held-out tunes to score: choose another part"),
        (TUNES, [], VALIDATION, "no training tunes: the baselines need both parts"),
        (TUNES, TRAINING, [], "no validation tunes: the baselines need both parts"),
    ],
)
def test_empty_parts_are_refused(
    tunes: list[EncodedTune], training: list[EncodedTune], validation: list[EncodedTune], words: str
) -> None:
    uniform = FixedEngine(np.zeros(len(MEASURES)))
    with pytest.raises(InvalidValue, match=words) as refusal:
        score_likelihood(uniform, CODEC, tunes, training, validation)
    assert "\n" not in str(refusal.value)


def test_tunes_of_another_codec_are_refused() -> None:
    uniform = FixedEngine(np.zeros(len(MEASURES)))
    with pytest.raises(Mismatch, match="the grammar forbids id 1 of a tune: score tunes that"):
        score_tokens(uniform, [np.array([1])], [CODEC.create_grammar()])


def measure_coverage(simulations: int, tunes: int = 150) -> float:
    """Return how often the interval holds the ratio of expectations, 3 bits per note."""
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(simulations):
        notes = generator.integers(20, 200, tunes)
        bits = notes * generator.gamma(9, 1 / 3, tunes)  # a rate of 3 per tune, spread 1
        low, high = bootstrap_ratio(bits, notes, generator, samples=1000)
        hits += low <= 3 <= high
    return hits / simulations


def test_bootstrap_covers_the_truth() -> None:
    assert measure_coverage(40) >= 0.85


@pytest.mark.promises
def test_bootstrap_covers_the_truth_in_93_percent() -> None:
    assert measure_coverage(500) >= 0.93
