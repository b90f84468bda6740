from __future__ import annotations

import math

import numpy as np
import pytest

from musicgen.compare.baselines import (
    CLIPPING_OFF,
    CURVE_TUNES,
    NETWORKS,
    ComparedNetwork,
    ComparedNgram,
    CurvePoint,
    TrainingBudget,
    sample_evenly,
)
from musicgen.errors import InvalidValue
from musicgen.evaluation.ngram_models import KneserNey
from musicgen.training.plan import get_note_counts
from tests.loop_corpus import NAMES, make_corpus

DATASET = make_corpus()
SMALL = 12_000  # weights
UNIFORM_LOSS = math.log(len(NAMES) - 1)  # nats per token


def train(
    name: str, tokens: int = 4_000, seed: int = 1, parameters: int = SMALL
) -> tuple[ComparedNetwork, list[CurvePoint]]:
    model = ComparedNetwork(name, DATASET, parameters, seed=seed)
    return model, list(model.train(TrainingBudget(tokens, evaluations=3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_learn_and_use_their_budget(name: str) -> None:
    model, points = train(name, 6_000, parameters=40_000)
    assert points[-2].tokens < 6_000 <= points[-1].tokens
    assert sum(point.held_out_score is not None for point in points) == 3
    assert model.fault == ""
    assert model.score(DATASET.valid).loss < UNIFORM_LOSS


def test_best_weights_are_kept() -> None:
    model, points = train("lstm")
    lowest = min(point.held_out_score.loss for point in points if point.held_out_score)
    assert model.score(DATASET.valid).loss == pytest.approx(lowest, abs=1e-6)


def test_same_seed_gives_the_same_results() -> None:
    (first, first_points), (second, second_points) = train("gru", 2_000), train("gru", 2_000)
    assert [(p.tokens, p.loss, p.gradient_norm) for p in first_points] == [
        (p.tokens, p.loss, p.gradient_norm) for p in second_points
    ]
    np.testing.assert_array_equal(first.score(DATASET.test).nats, second.score(DATASET.test).nats)


def test_other_seed_gives_other_results() -> None:
    assert train("gru", 1_000)[1][0].loss != train("gru", 1_000, seed=2)[1][0].loss


def test_all_networks_read_the_same_windows() -> None:
    read = []
    for name in NETWORKS:
        model = ComparedNetwork(name, DATASET, SMALL)
        trainer = model.make_trainer(
            model.model, model.make_training_settings(TrainingBudget(1000))
        )
        read.append(np.concatenate([trainer.next_window().inputs for _ in range(12)], 1))
    for inputs in read[1:]:
        np.testing.assert_array_equal(inputs, read[0])


def test_networks_differ_only_in_learning_rate() -> None:
    settings = [
        ComparedNetwork(name, DATASET, SMALL).make_training_settings(TrainingBudget(1000))
        for name in NETWORKS
    ]
    rates = {setting.learning_rate for setting in settings}
    unclipped = {
        ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
        .make_training_settings(TrainingBudget(1000))
        .clip
    }
    assert len({(s.tokens, s.lanes, s.bptt, s.clip, s.weight_decay) for s in settings}) == 1
    assert len(rates) > 1
    assert unclipped == {CLIPPING_OFF}


def test_unclipped_run_has_the_same_initial_weights() -> None:
    clipped = ComparedNetwork("rnn", DATASET, SMALL)
    unclipped = ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
    assert unclipped.name == "rnn unclipped"
    for name, weight in clipped.model.copy_weights().items():
        np.testing.assert_array_equal(weight, unclipped.model.copy_weights()[name])


def test_diverged_network_keeps_its_best_weights() -> None:
    model = ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
    initial_loss = model.score(DATASET.valid).loss
    model.learning_rate = 1e30
    points = list(model.train(TrainingBudget(200_000, evaluations=1)))
    assert "Lower the learning rate" in model.fault
    assert points[-1].tokens < 200_000
    assert model.score(DATASET.valid).loss == pytest.approx(initial_loss)


def test_ngram_keeps_the_best_order() -> None:
    model = ComparedNgram(DATASET)
    losses = [
        point.held_out_score.loss
        for point in model.train(TrainingBudget(1))
        if point.held_out_score
    ]
    assert model.width == 1 + int(np.argmin(losses))
    assert model.score(DATASET.valid).loss == pytest.approx(min(losses))
    assert len(losses) - model.width in (0, 1)  # it stops at the first order that is not better


def test_ngram_equals_kneser_ney() -> None:
    model = ComparedNgram(DATASET)
    list(model.train(TrainingBudget(1)))
    kneser_ney = KneserNey([tune.ids for tune in DATASET.train], len(NAMES), model.width)
    score = kneser_ney.score([tune.ids for tune in DATASET.test], get_note_counts(DATASET.test))
    assert model.score(DATASET.test).loss == pytest.approx(score.loss, rel=1e-3)
    assert model.parameters == sum(len(order.grams) for order in kneser_ney.orders)


def test_unseen_events_of_the_ngram_share_the_remaining_probability() -> None:
    model = ComparedNgram(DATASET)
    list(model.train(TrainingBudget(1)))
    context = [2, 3, 4]
    tunes = [np.array([*context, id_]) for id_ in range(1, len(NAMES))]
    probabilities = np.exp([-model.surprisal(ids)[-1] for ids in tunes])
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[-1] > 0  # pitch=7 is in no tune
    assert NAMES[-1] not in {NAMES[id_] for tune in DATASET.train for id_ in tune.ids}


def test_untrained_ngram_is_refused() -> None:
    with pytest.raises(InvalidValue, match="train it first"):
        _ = ComparedNgram(DATASET).parameters


def test_sample_evenly_covers_the_whole_split() -> None:
    tunes = [*DATASET.train] * 5
    sample = sample_evenly(tunes, CURVE_TUNES)
    assert len(sample) == CURVE_TUNES
    assert sample == tunes[::3]
    assert sample_evenly(DATASET.valid, CURVE_TUNES) == list(DATASET.valid)


def test_unknown_model_is_refused() -> None:
    with pytest.raises(
        InvalidValue, match="model 'transformer' is unknown: choose one of window-4"
    ):
        ComparedNetwork("transformer", DATASET, SMALL)
