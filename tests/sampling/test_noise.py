from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.sampling.noise import (
    Noise,
    draw,
    gumbel_noise,
    hash_combine,
    hash_combine_arrays,
    log_softmax,
    min_p,
    temperature,
    top_k,
    top_p,
)
from musicgen.tokens.grammar import DecisionContext

HERE = DecisionContext(voice=0, bar=3, position=24, bar_steps=144, bar_in_phrase=3, bars_left=None,
               decision="head")  # fmt: skip
LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1]))


def kept(logs: np.ndarray) -> list[int]:
    return list(np.flatnonzero(np.isfinite(logs)))


@pytest.mark.parametrize(("count", "left"), [(1, [0]), (2, [0, 1]), (9, [0, 1, 2, 3])])
def test_top_k_keeps_the_likeliest(count: int, left: list[int]) -> None:
    assert kept(top_k(count)(LOGITS)) == left


@pytest.mark.parametrize(
    ("mass", "left"), [(0.4, [0]), (0.5, [0]), (0.6, [0, 1]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_smallest_set_of_the_mass(mass: float, left: list[int]) -> None:
    assert kept(top_p(mass)(LOGITS)) == left


@pytest.mark.parametrize(("share", "left"), [(1.0, [0]), (0.4, [0, 1]), (0.0, [0, 1, 2, 3])])
def test_min_p_keeps_what_is_a_share_of_the_best(share: float, left: list[int]) -> None:
    assert kept(min_p(share)(LOGITS)) == left


def test_temperature_sharpens_and_flattens() -> None:
    cold, hot = (np.exp(log_softmax(temperature(t)(LOGITS))) for t in (0.5, 2.0))
    assert cold[0] > 0.5 > hot[0]
    assert cold.sum() == pytest.approx(1)
    assert hot.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: temperature(0), "temperature 0: choose 0.01 to 10"),
        (lambda: top_k(0), "top-k 0: keep 1 event or more"),
        (lambda: top_p(2), "top-p 2: choose a probability over 0 and up to 1"),
        (lambda: min_p(-1), "min-p -1: choose a share from 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidValue, match=words):
        make()


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=40))
def test_log_softmax_sums_to_one(values: list[float]) -> None:
    assert np.exp(log_softmax(np.array(values))).sum() == pytest.approx(1)


def test_events_are_drawn_as_often_as_their_probability() -> None:
    counts = np.zeros(4)
    for seed in range(20_000):
        counts[draw(LOGITS, (0, 1, 2, 3), (), Noise(seed), HERE)] += 1
    expected = 20_000 * np.exp(LOGITS)
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


def test_noise_is_keyed_by_position_and_event() -> None:
    noise = Noise(7, 2)
    here = noise.gumbel(HERE, [10, 20, 30])
    assert (noise.gumbel(HERE, [30, 10])[::-1] == here[[0, 2]]).all()
    other_noise = DecisionContext(0, 4, 24, 144, 3, None, "head")
    assert not np.isin(noise.gumbel(other_noise, [10, 20, 30]), here).any()
    assert not np.isin(Noise(7, 3).gumbel(HERE, [10, 20, 30]), here).any()


def test_filtered_events_are_never_sampled() -> None:
    drawn = {draw(LOGITS, (0, 1, 2, 3), (top_k(2),), Noise(s), HERE) for s in range(400)}
    assert drawn == {0, 1}


def test_one_choice_needs_no_model() -> None:
    assert draw(np.array([np.nan]), (5,), (), Noise(1), HERE) == 5


WORDS = st.integers(0, 2**64 - 1)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=9))
def test_keys_are_mixed_alike_one_by_one_and_together(key: int, numbers: list[int]) -> None:
    together = hash_combine_arrays(
        np.full(len(numbers), key, np.uint64), np.array(numbers, np.uint64)
    )
    assert together.tolist() == [hash_combine(key, number) for number in numbers]


def test_noise_is_standard_gumbel_over_seeds_bars_and_events() -> None:
    bars = np.arange(200, dtype=np.uint64)[:, None]
    keys = hash_combine_arrays(
        np.array([hash_combine(0, seed) for seed in range(10)], np.uint64), bars
    )
    noise = np.sort(gumbel_noise(keys[:, :, None], np.arange(50, dtype=np.uint64)).ravel())
    share = np.exp(-np.exp(-noise))  # uniform, if the noise is Gumbel's (inverse transform)
    expected = (np.arange(len(noise)) + 0.5) / len(noise)
    assert np.abs(share - expected).max() < 1.95 / len(noise) ** 0.5  # Kolmogorov, p = 0.001


def test_noise_of_neighbouring_bars_is_uncorrelated() -> None:
    events = np.arange(4000, dtype=np.uint64)
    noise, other_noise = (
        gumbel_noise(np.array(hash_combine(5, bar), np.uint64), events) for bar in (1, 2)
    )
    assert abs(np.corrcoef(noise, other_noise)[0, 1]) < 3.3 / 4000**0.5  # p = 0.001
