from __future__ import annotations

import numpy as np
import pytest

from musicgen.evaluation.sequence_baselines import MAX_MATCH, BarCopy, find_copies
from musicgen.music.arrays import FloatArray, TokenIds

BAR, SIZE = 2, 8


def uniform(ids: TokenIds) -> FloatArray:
    return np.full(len(ids), np.log(SIZE - 1))


def test_copies_stand_at_the_same_place_of_the_bar() -> None:
    ids = np.array([7, BAR, 3, 4, BAR, 5, BAR, 3, 6, 4, 1])
    copies, matches = find_copies(ids, BAR, lag=2)
    # the third bar opens at 6: from its second id on, each copy is 5 ids earlier
    assert copies.tolist() == [0, 0, 0, 0, 0, 0, 0, 3, 4, BAR, 5]
    assert matches.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_matches_are_capped() -> None:
    ids = np.array([BAR, 3] * 40)
    assert find_copies(ids, BAR, lag=1)[1].max() == MAX_MATCH


def make_tunes(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(2)
    phrases = generator.integers(3, SIZE, (count, 4, 3))
    return [
        np.array([id_ for _ in range(3) for bar in phrase for id_ in (BAR, *bar)] + [1])
        for phrase in phrases.tolist()
    ]


def test_probabilities_sum_to_one() -> None:
    model = BarCopy.fit(uniform, make_tunes(5), BAR)
    past = make_tunes(6)[5][:30]
    values = [model.surprisal(np.append(past, id_))[-1] for id_ in range(1, SIZE)]
    assert np.exp(-np.array(values)).sum() == pytest.approx(1)


def test_weights_are_the_shares_that_return() -> None:
    """Against a base that never agrees, the weight is the share of copies that come true."""
    ids = np.array([BAR, 3, BAR, 3, BAR, 4, BAR, 4, BAR, 4])
    copies, matches = find_copies(ids, BAR, lag=1)
    model = BarCopy.fit(lambda ids: np.full(len(ids), 50.0), [ids], BAR, lag=1)
    has_copy = (copies != 0) & (matches == 1)
    assert has_copy.sum() > 1
    share = (copies == ids)[has_copy].mean()
    assert model.weights[1] == pytest.approx(min(share, 1 - 1 / (has_copy.sum() + 1)))


def test_repeated_phrases_cost_little() -> None:
    tunes = make_tunes(20)
    model = BarCopy.fit(uniform, tunes[:10], BAR)
    nats = model.surprisal(tunes[15])
    assert nats[20:-1].mean() < 0.2 < uniform(tunes[15])[0]
