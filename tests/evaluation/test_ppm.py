from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.evaluation.ppm import PartialMatching
from tests.evaluation.brute_force import OnlinePartialMatching

SIZE = 5
TUNES = st.lists(st.lists(st.integers(1, SIZE - 1), min_size=1, max_size=8), min_size=1, max_size=5)


def arrays(tunes: list[list[int]]) -> list[np.ndarray]:
    return [np.array(ids) for ids in tunes]


def distribution(model: PartialMatching, past: list[int], size: int = SIZE) -> list[float]:
    return [float(np.exp(-model.surprisal(np.array([*past, id_]))[-1])) for id_ in range(1, size)]


@given(TUNES, st.lists(st.integers(1, SIZE - 1), max_size=6), st.integers(0, 4))
def test_equals_an_encoder_that_learns_id_by_id(
    tunes: list[list[int]], past: list[int], order: int
) -> None:
    online = OnlinePartialMatching(SIZE, order)
    for ids in tunes:
        online.learn(ids)
    expected = [online.probability(past, id_) for id_ in range(1, SIZE)]
    model = PartialMatching(arrays(tunes), SIZE, order=4).limit_order(order)
    assert distribution(model, past) == pytest.approx(expected, abs=1e-12)
    assert sum(expected) == pytest.approx(1, abs=1e-12)


def test_golden_values_of_one_short_tune() -> None:
    """After 2 2 3 2 2 1: context 2 was followed by 2 twice, 3 once and 1 once."""
    model = PartialMatching([np.array([2, 2, 3, 2, 2, 1])], 5, order=1)
    assert distribution(model, [2]) == pytest.approx([1 / 7, 2 / 7, 1 / 7, 3 / 7])
    # 3 was followed by 2 once: an escape of 1/2, then 1 and 3 once each of 1 + 1 + 2 escapes
    assert distribution(model, [3]) == pytest.approx([1 / 8, 1 / 2, 1 / 8, 1 / 4])


def test_longer_contexts_predict_a_loop_better() -> None:
    loop = [np.array([2, 2, 3] * 20 + [1])]
    nats = [PartialMatching(loop, SIZE, order).surprisal(loop[0]).sum() for order in (0, 1, 2)]
    assert nats[2] < nats[1] < nats[0]
