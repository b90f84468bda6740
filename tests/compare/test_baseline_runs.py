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
from musicgen.training.ngram import KneserNey
from musicgen.training.plan import get_note_counts
from tests.loop_corpus import NAMES, corpus

DATASET = corpus()
SMALL = 12_000  # weights
KNOWING_NOTHING = math.log(len(NAMES) - 1)  # nats an id


def learnt(
    name: str, tokens: int = 4_000, seed: int = 1, parameters: int = SMALL
) -> tuple[ComparedNetwork, list[CurvePoint]]:
    rung = ComparedNetwork(name, DATASET, parameters, seed=seed)
    return rung, list(rung.train(TrainingBudget(tokens, evaluations=3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_learns_and_spends_its_budget(name: str) -> None:
    rung, points = learnt(name, 6_000, parameters=40_000)
    assert points[-2].tokens < 6_000 <= points[-1].tokens
    assert sum(point.held_out_score is not None for point in points) == 3
    assert rung.fault == ""
    assert rung.score(DATASET.valid).loss < KNOWING_NOTHING


def test_the_weights_that_did_best_are_kept() -> None:
    rung, points = learnt("lstm")
    lowest = min(point.held_out_score.loss for point in points if point.held_out_score)
    assert rung.score(DATASET.valid).loss == pytest.approx(lowest, abs=1e-6)


def test_equal_ids_give_equal_figures() -> None:
    (one, first), (two, second) = learnt("gru", 2_000), learnt("gru", 2_000)
    assert [(p.tokens, p.loss, p.gradient_norm) for p in first] == [
        (p.tokens, p.loss, p.gradient_norm) for p in second
    ]
    np.testing.assert_array_equal(one.score(DATASET.test).nats, two.score(DATASET.test).nats)


def test_another_seed_gives_other_figures() -> None:
    assert learnt("gru", 1_000)[1][0].loss != learnt("gru", 1_000, seed=2)[1][0].loss


def test_all_networks_read_the_same_windows() -> None:
    read = []
    for name in NETWORKS:
        rung = ComparedNetwork(name, DATASET, SMALL)
        trainer = rung.make_trainer(rung.model, rung.make_training_settings(TrainingBudget(1000)))
        read.append(np.concatenate([trainer.next_window().inputs for _ in range(12)], 1))
    for inputs in read[1:]:
        np.testing.assert_array_equal(inputs, read[0])


def test_only_the_learning_rate_differs_between_networks() -> None:
    settings = [
        ComparedNetwork(name, DATASET, SMALL).make_training_settings(TrainingBudget(1000))
        for name in NETWORKS
    ]
    rates = {each.learning_rate for each in settings}
    changed = {
        ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
        .make_training_settings(TrainingBudget(1000))
        .clip
    }
    assert len({(s.tokens, s.lanes, s.bptt, s.clip, s.weight_decay) for s in settings}) == 1
    assert len(rates) > 1
    assert changed == {CLIPPING_OFF}


def test_what_is_not_clipped_begins_alike_and_says_so() -> None:
    clipped = ComparedNetwork("rnn", DATASET, SMALL)
    free = ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
    assert free.name == "rnn unclipped"
    for name, weight in clipped.model.copy_weights().items():
        np.testing.assert_array_equal(weight, free.model.copy_weights()[name])


def test_a_rung_that_breaks_down_keeps_what_it_was() -> None:
    rung = ComparedNetwork("rnn", DATASET, SMALL, clip=CLIPPING_OFF)
    before = rung.score(DATASET.valid).loss
    rung.learning_rate = 1e30
    points = list(rung.train(TrainingBudget(200_000, evaluations=1)))
    assert "Lower the learning rate" in rung.fault
    assert points[-1].tokens < 200_000
    assert rung.score(DATASET.valid).loss == pytest.approx(before)


def test_the_ngram_keeps_the_length_that_does_best() -> None:
    rung = ComparedNgram(DATASET)
    losses = [
        point.held_out_score.loss for point in rung.train(TrainingBudget(1)) if point.held_out_score
    ]
    assert rung.width == 1 + int(np.argmin(losses))
    assert rung.score(DATASET.valid).loss == pytest.approx(min(losses))
    assert len(losses) - rung.width in (0, 1)  # it stops where a longer one is no better


def test_the_ngram_is_kneser_neys() -> None:
    rung = ComparedNgram(DATASET)
    list(rung.train(TrainingBudget(1)))
    plain = KneserNey([tune.ids for tune in DATASET.train], len(NAMES), rung.width)
    held = plain.score([tune.ids for tune in DATASET.test], get_note_counts(DATASET.test))
    assert rung.score(DATASET.test).loss == pytest.approx(held.loss, rel=1e-3)
    assert rung.parameters == sum(len(order.grams) for order in plain.orders)


def test_what_the_ngram_never_met_shares_what_is_left() -> None:
    rung = ComparedNgram(DATASET)
    list(rung.train(TrainingBudget(1)))
    before = [2, 3, 4]
    every = [np.array([*before, id_]) for id_ in range(1, len(NAMES))]
    last = np.exp([-rung.surprisal(ids)[-1] for ids in every])
    assert last.sum() == pytest.approx(1)
    assert last[-1] > 0  # pitch=7 is in no tune
    assert NAMES[-1] not in {NAMES[id_] for tune in DATASET.train for id_ in tune.ids}


def test_an_ngram_that_has_counted_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match="train it first"):
        _ = ComparedNgram(DATASET).parameters


def test_a_sample_is_taken_from_all_of_a_part() -> None:
    many = [*DATASET.train] * 5
    sample = sample_evenly(many, CURVE_TUNES)
    assert len(sample) == CURVE_TUNES
    assert sample == many[::3]
    assert sample_evenly(DATASET.valid, CURVE_TUNES) == list(DATASET.valid)


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(InvalidValue, match="rung 'transformer' is unknown: choose one of window-4"):
        ComparedNetwork("transformer", DATASET, SMALL)
