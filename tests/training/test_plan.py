"""What a corpus of a size holds out, and what is trained on it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from musicgen.corpus.split import assign_splits
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.training.plan import (
    MIN_GROUPS_FOR_TEST,
    MIN_VALID_GROUPS,
    TrainingOptions,
    adjust_split,
    make_plan,
    replace_tokens,
)

NAMES = ("begin", "end", *(f"token={letter}" for letter in "abcdef"))


def a_tune(number: int, length: int = 100) -> EncodedTune:
    ids = np.random.default_rng(number).integers(1, len(NAMES), length).astype(np.int16)
    return EncodedTune(ids, length // 2, str(number), "", f"{number:016x}", "", "", "", "{}")


def a_dataset(count: int, *, codec: str = "measures", length: int = 100) -> Dataset:
    """Make a data set whose parts are decided as a build decides them."""
    tunes = [a_tune(number, length) for number in range(count)]
    parts = assign_splits(tune.group for tune in tunes)
    train, valid, test = (
        [tune for tune in tunes if parts[tune.group] == part] for part in ("train", "valid", "test")
    )
    return Dataset(train, valid, test, codec, NAMES, {})


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.valid), len(dataset.test)


@pytest.mark.parametrize(
    ("count", "found"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (5, (5, 0, 0)), (7, (7, 0, 0)), (8, (6, 2, 0)),
     (12, (10, 2, 0)), (20, (17, 3, 0)), (49, (42, 7, 0))],
)  # fmt: skip
def test_a_small_corpus_holds_out_what_it_can_spare(count: int, found: tuple[int, ...]) -> None:
    dataset = a_dataset(count)
    parts = adjust_split(dataset)
    assert sizes(parts) == found
    assert {tune.title for _, tune in parts} == {tune.title for _, tune in dataset}


@pytest.mark.parametrize("count", range(MIN_GROUPS_FOR_TEST, MIN_GROUPS_FOR_TEST + 40, 3))
def test_with_a_test_part_some_groups_are_left_to_stop_by(count: int) -> None:
    dataset = a_dataset(count)
    parts = adjust_split(dataset)
    assert len(parts.valid) == max(MIN_VALID_GROUPS, len(dataset.valid))
    assert {t.group for t in parts.test} == {t.group for t in dataset.test}
    assert {t.group for t in dataset.valid} <= {t.group for t in parts.valid}
    assert len(parts) == count


def test_a_corpus_that_lacks_nothing_is_left_as_it_is() -> None:
    dataset = a_dataset(400)
    assert adjust_split(dataset) is dataset


def test_relatives_stay_together() -> None:
    tunes = [a_tune(number % 20) for number in range(60)]
    dataset = Dataset(tunes, [], [], "measures", NAMES, {})
    parts = adjust_split(dataset)
    assert not {t.group for t in parts.train} & {t.group for t in parts.valid}
    assert sizes(parts) == (51, 9, 0)


def test_the_order_of_tunes_moves_none() -> None:
    tunes = [a_tune(number) for number in range(20)]
    before = adjust_split(Dataset(tunes, [], [], "measures", NAMES, {}))
    random.Random(1).shuffle(tunes)
    after = adjust_split(Dataset(tunes, [], [], "measures", NAMES, {}))
    assert {t.title for t in before.valid} == {t.title for t in after.valid}


def test_one_more_tune_seldom_moves_another() -> None:
    tunes = [a_tune(number) for number in range(1000, 1040)]
    parts = [
        {t.title for t in adjust_split(Dataset(tunes[:n], [], [], "measures", NAMES, {})).valid}
        for n in range(20, 41)
    ]
    left = [len(before - after) for before, after in pairwise(parts)]
    assert max(left) <= 1


def test_what_is_held_out_is_said() -> None:
    told = [
        make_plan(adjust_split(a_dataset(count)), TrainingOptions()).lines
        for count in (1, 5, 20, 400)
    ]
    assert told[0][0].startswith("1 tune is too few to hold any out: all are learnt from")
    assert told[1][0].startswith("5 tunes are too few to hold any out")
    assert told[2][0].startswith("20 tunes: 3 are held out to stop by; there is no test part")
    assert told[3] == ()


@pytest.mark.parametrize(
    ("count", "lanes", "epochs"), [(1, 1, 600), (5, 1, 120), (20, 6, 60), (400, 25, 30)]
)
def test_sizes_follow_the_corpus(count: int, lanes: int, epochs: int) -> None:
    dataset = adjust_split(a_dataset(count))
    found = make_plan(dataset, TrainingOptions())
    assert (found.model.layers, found.training.lanes) == (1, lanes)
    assert found.training.tokens == epochs * 100 * len(dataset.train)


def test_a_large_corpus_gets_the_default_model() -> None:
    found = make_plan(a_dataset(100, length=4000), TrainingOptions())
    assert (found.model.layers, found.model.hidden, found.training.lanes) == (2, 256, 64)
    assert (found.training.first_bptt, found.training.bptt) == (8, 32)
    assert not found.guarded
    assert found.training.evaluate_every == 0


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        ({}, 7e-3), ({"hidden": 128}, 7e-3), ({"hidden": 512}, 3.5e-3), ({"cell": "gru"}, 7e-3),
        ({"cell": "rnn"}, 1e-3), ({"cell": "irnn"}, 2e-4),
        ({"cell": "irnn", "learning_rate": 0.01}, 0.01),
    ],
)  # fmt: skip
def test_wide_models_and_plain_cells_learn_more_slowly(asked: dict[str, Any], rate: float) -> None:
    found = make_plan(a_dataset(100, length=4000), TrainingOptions(**asked))
    assert found.training.learning_rate == pytest.approx(rate)


def test_windows_asked_for_never_begin_longer_than_they_end() -> None:
    found = make_plan(a_dataset(100, length=4000), TrainingOptions(bptt=4))
    assert (found.training.first_bptt, found.training.bptt) == (4, 4)


def test_what_is_asked_for_is_done() -> None:
    options = TrainingOptions(
        "gru", 3, 32, 0.1, bptt=16, batch=2, epochs=3, learning_rate=0.01, seed=7
    )
    found = make_plan(adjust_split(a_dataset(20)), options)
    assert (found.model.cell, found.model.layers, found.model.hidden) == ("gru", 3, 32)
    assert (found.model.dropout, found.training.bptt, found.training.lanes) == (0.1, 16, 2)
    assert (found.training.tokens, found.training.learning_rate) == (3 * 17 * 100, 0.01)


def test_small_corpora_are_guarded_and_texts_are_not() -> None:
    assert make_plan(adjust_split(a_dataset(5)), TrainingOptions()).guarded
    assert not make_plan(adjust_split(a_dataset(5, codec="text")), TrainingOptions()).guarded


def test_minutes_are_the_most_that_a_small_corpus_takes() -> None:
    dataset = adjust_split(a_dataset(5))
    options = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2)
    assert make_plan(dataset, options).training.tokens == 1000
    long = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2, minutes=100)
    assert make_plan(dataset, long).training.tokens == 1000
    short = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2, minutes=1e-9)
    assert make_plan(dataset, short).training.tokens == 8


def test_another_number_of_tokens_changes_nothing_else() -> None:
    found = make_plan(adjust_split(a_dataset(20)), TrainingOptions())
    assert replace_tokens(found, 5).training.tokens == 5
    assert replace_tokens(replace_tokens(found, 5), found.training.tokens) == found
