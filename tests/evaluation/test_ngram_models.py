from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.evaluation.ngram_models import KneserNey, PartialMatching, estimate_discounts
from tests.evaluation.brute_force import DirectKneserNey, OnlinePartialMatching

SIZE = 7


def draw_tunes(count: int = 30) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [
        np.append(generator.choice([2, 3, 4], size=generator.integers(1, 12), p=[0.7, 0.2, 0.1]), 1)
        for _ in range(count)
    ]


MODEL = KneserNey(draw_tunes(), SIZE, order=3)


@given(st.lists(st.integers(1, SIZE - 1), max_size=6))
def test_probabilities_sum_to_one_in_any_context(context: list[int]) -> None:
    values = MODEL.distribution(context)
    assert values.sum() == pytest.approx(1, abs=1e-12)
    assert values[0] == 0
    assert (values[1:] > 0).all()  # 5 and 6 were never seen


def test_unseen_events_get_equal_and_lowest_probabilities() -> None:
    values = MODEL.distribution([2, 2])
    assert values[5] == values[6] < values[2:5].min()


def test_surprisal_matches_the_distribution() -> None:
    tune = np.array([2, 3, 3, 6, 2, 1])
    expected = [-np.log(MODEL.distribution(tune[:at].tolist())[tune[at]]) for at in range(6)]
    np.testing.assert_allclose(MODEL.surprisal(tune), expected, rtol=0, atol=1e-12)


def test_higher_orders_predict_a_loop_better() -> None:
    loop = [np.array([2, 2, 3] * 20 + [1])]
    losses = [KneserNey(loop, SIZE, order=order).score(loop).loss for order in (1, 2, 3)]
    assert losses[2] < 0.25 < losses[1] < losses[0]


def test_lower_orders_count_left_contexts() -> None:
    """San Francisco: 4 is frequent, but only ever after 3."""
    tunes = [np.array([3, 4] * 9 + [2, 5, 3, 5, 6, 5, 1])]
    values = KneserNey(tunes, SIZE, order=2).distribution([1])  # a context never seen
    assert values[5] > values[4]


def test_discounts_match_manual_calculation() -> None:
    counts = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])  # Y = 8 / (8 + 8)
    expected = [0, 1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2]
    assert estimate_discounts(counts) == pytest.approx(expected)


def test_score_is_bits_over_notes() -> None:
    held = MODEL.score(draw_tunes(4), [2, 3, 4, 5])
    nats = sum(MODEL.surprisal(tune).sum() for tune in draw_tunes(4))
    assert held.bits_per_note == pytest.approx(nats / np.log(2) / 14)
    assert held.loss == pytest.approx(nats / sum(len(tune) for tune in draw_tunes(4)))
    low, high = held.bootstrap_interval(np.random.default_rng(1))
    assert low < held.bits_per_note < high


def test_too_high_order_is_refused() -> None:
    with pytest.raises(InvalidValue, match="order 9 with 650 events does not fit"):
        KneserNey(draw_tunes(), 650, order=9)


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=8), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), max_size=4),
    st.integers(1, 4),
)
def test_equals_the_definition(tunes: list[list[int]], past: list[int], order: int) -> None:
    direct = DirectKneserNey(tunes, 5, order)
    expected = [direct.probability(past, id_) for id_ in range(1, 5)]
    model = KneserNey([np.array(ids) for ids in tunes], 5, order)
    assert model.distribution(past)[1:] == pytest.approx(expected, abs=1e-12)


SMALL_SIZE = 5
TUNES = st.lists(
    st.lists(st.integers(1, SMALL_SIZE - 1), min_size=1, max_size=8), min_size=1, max_size=5
)


def arrays(tunes: list[list[int]]) -> list[np.ndarray]:
    return [np.array(ids) for ids in tunes]


def predict_next(model: PartialMatching, past: list[int], size: int = SMALL_SIZE) -> list[float]:
    return [float(np.exp(-model.surprisal(np.array([*past, id_]))[-1])) for id_ in range(1, size)]


@given(TUNES, st.lists(st.integers(1, SMALL_SIZE - 1), max_size=6), st.integers(0, 4))
def test_equals_an_encoder_that_learns_id_by_id(
    tunes: list[list[int]], past: list[int], order: int
) -> None:
    online = OnlinePartialMatching(SMALL_SIZE, order)
    for ids in tunes:
        online.learn(ids)
    expected = [online.probability(past, id_) for id_ in range(1, SMALL_SIZE)]
    model = PartialMatching(arrays(tunes), SMALL_SIZE, order=4).limit_order(order)
    assert predict_next(model, past) == pytest.approx(expected, abs=1e-12)
    assert sum(expected) == pytest.approx(1, abs=1e-12)


def test_golden_values_of_one_short_tune() -> None:
    """After 2 2 3 2 2 1: context 2 was followed by 2 twice, 3 once and 1 once."""
    model = PartialMatching([np.array([2, 2, 3, 2, 2, 1])], 5, order=1)
    assert predict_next(model, [2]) == pytest.approx([1 / 7, 2 / 7, 1 / 7, 3 / 7])
    # 3 was followed by 2 once: an escape of 1/2, then 1 and 3 once each of 1 + 1 + 2 escapes
    assert predict_next(model, [3]) == pytest.approx([1 / 8, 1 / 2, 1 / 8, 1 / 4])


def test_longer_contexts_predict_a_loop_better() -> None:
    loop = [np.array([2, 2, 3] * 20 + [1])]
    nats = [
        PartialMatching(loop, SMALL_SIZE, order).surprisal(loop[0]).sum() for order in (0, 1, 2)
    ]
    assert nats[2] < nats[1] < nats[0]
