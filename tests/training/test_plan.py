"""Training plans: held-out tunes and settings by the size of the corpus."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from musicgen.config import CONTEXTS
from musicgen.corpus.split import assign_splits
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import InvalidValue
from musicgen.tokens.registry import CODECS
from musicgen.training.plan import (
    MIN_GROUPS_FOR_TEST,
    MIN_VALID_GROUPS,
    TrainingOptions,
    adjust_split,
    make_plan,
    replace_tokens,
)

NAMES = ("begin", "end", *(f"token={letter}" for letter in "abcdef"))


def make_tune(number: int, length: int = 100) -> EncodedTune:
    ids = np.random.default_rng(number).integers(1, len(NAMES), length).astype(np.int16)
    return EncodedTune(ids, length // 2, str(number), "", f"{number:016x}", "", "", "", "{}")


def make_dataset(count: int, *, codec: str = "measures", length: int = 100) -> Dataset:
    """Make a data set that is split as `musicgen corpus build` does."""
    tunes = [make_tune(number, length) for number in range(count)]
    parts = assign_splits(tune.group for tune in tunes)
    train, valid, test = (
        [tune for tune in tunes if parts[tune.group] == part] for part in ("train", "valid", "test")
    )
    return Dataset(train, valid, test, codec, NAMES, {})


def split_sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.valid), len(dataset.test)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 0, 0)), (2, (2, 0, 0)), (5, (5, 0, 0)), (7, (7, 0, 0)), (8, (6, 2, 0)),
     (12, (10, 2, 0)), (20, (17, 3, 0)), (49, (42, 7, 0))],
)  # fmt: skip
def test_small_corpus_holds_out_few_tunes(count: int, expected: tuple[int, ...]) -> None:
    dataset = make_dataset(count)
    parts = adjust_split(dataset)
    assert split_sizes(parts) == expected
    assert {tune.title for _, tune in parts} == {tune.title for _, tune in dataset}


@pytest.mark.parametrize("count", range(MIN_GROUPS_FOR_TEST, MIN_GROUPS_FOR_TEST + 40, 3))
def test_corpus_with_a_test_split_has_validation_groups(count: int) -> None:
    dataset = make_dataset(count)
    parts = adjust_split(dataset)
    assert len(parts.valid) == max(MIN_VALID_GROUPS, len(dataset.valid))
    assert {t.group for t in parts.test} == {t.group for t in dataset.test}
    assert {t.group for t in dataset.valid} <= {t.group for t in parts.valid}
    assert len(parts) == count


def test_split_of_a_large_enough_corpus_is_kept() -> None:
    dataset = make_dataset(400)
    assert adjust_split(dataset) is dataset


def test_groups_stay_together() -> None:
    tunes = [make_tune(number % 20) for number in range(60)]
    dataset = Dataset(tunes, [], [], "measures", NAMES, {})
    parts = adjust_split(dataset)
    assert not {t.group for t in parts.train} & {t.group for t in parts.valid}
    assert split_sizes(parts) == (51, 9, 0)


def test_split_does_not_depend_on_the_order_of_tunes() -> None:
    tunes = [make_tune(number) for number in range(20)]
    original = adjust_split(Dataset(tunes, [], [], "measures", NAMES, {}))
    random.Random(1).shuffle(tunes)
    shuffled = adjust_split(Dataset(tunes, [], [], "measures", NAMES, {}))
    assert {t.title for t in original.valid} == {t.title for t in shuffled.valid}


def test_one_more_tune_rarely_moves_another() -> None:
    tunes = [make_tune(number) for number in range(1000, 1040)]
    parts = [
        {t.title for t in adjust_split(Dataset(tunes[:n], [], [], "measures", NAMES, {})).valid}
        for n in range(20, 41)
    ]
    moved = [len(smaller - larger) for smaller, larger in pairwise(parts)]
    assert max(moved) <= 1


def test_plan_explains_what_is_held_out() -> None:
    explanations = [
        make_plan(adjust_split(make_dataset(count)), TrainingOptions()).lines
        for count in (1, 5, 20, 400, 3000)
    ]
    assert explanations[0][0].startswith(
        "1 tune is too few to hold any out: training on all of them"
    )
    assert explanations[1][0].startswith("5 tunes are too few to hold any out")
    assert explanations[2][0].startswith(
        "20 tunes: 3 are held out for early stopping; there is no test split"
    )
    (size_line,) = explanations[3]
    assert size_line.startswith("16,250 notes train 862,636 weights, 0.019 per weight")
    assert explanations[4] == ()


@pytest.mark.parametrize(
    ("count", "lanes", "epochs"), [(1, 1, 600), (5, 2, 120), (20, 8, 60), (400, 32, 30)]
)
def test_lanes_and_tokens_depend_on_the_corpus(count: int, lanes: int, epochs: int) -> None:
    dataset = adjust_split(make_dataset(count))
    plan = make_plan(dataset, TrainingOptions())
    assert (plan.model.layers, plan.training.lanes) == (1, lanes)
    assert plan.training.tokens == epochs * 100 * len(dataset.train)


def test_large_corpus_gets_the_default_model() -> None:
    plan = make_plan(make_dataset(100, length=4000), TrainingOptions())
    assert (plan.model.layers, plan.model.hidden, plan.training.lanes) == (2, 400, 64)
    assert (plan.training.first_bptt, plan.training.bptt) == (0, 48)
    assert plan.model.context == CONTEXTS["all"]
    assert not plan.guarded
    assert plan.training.evaluate_every == 0


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 3e-3), ({"hidden": 128}, 3e-3), ({"hidden": 800}, 1.5e-3), ({"cell": "gru"}, 3e-3),
        ({"cell": "rnn"}, 1e-3), ({"cell": "irnn"}, 2e-4),
        ({"cell": "irnn", "learning_rate": 0.01}, 0.01),
    ],
)  # fmt: skip
def test_wide_models_and_cells_without_gates_get_lower_rates(
    options: dict[str, Any], rate: float
) -> None:
    plan = make_plan(make_dataset(100, length=4000), TrainingOptions(**options))
    assert plan.training.learning_rate == pytest.approx(rate)


def test_context_is_one_that_the_codec_offers() -> None:
    for codec in CODECS.values():
        dataset = make_dataset(5, codec=codec.name)
        assert make_plan(dataset, TrainingOptions()).model.context == CONTEXTS[codec.contexts[0]]
        for name, fields in CONTEXTS.items():
            if name in codec.contexts:
                assert make_plan(dataset, TrainingOptions(context=name)).model.context == fields
                continue
            with pytest.raises(InvalidValue, match=f"--context {name.replace('+', '.')}: codec"):
                make_plan(dataset, TrainingOptions(context=name))


def test_context_of_another_codec_is_refused_with_those_that_fit() -> None:
    with pytest.raises(
        InvalidValue, match="codec performance has no such context; choose one of time, none, or"
    ):
        make_plan(make_dataset(5, codec="performance"), TrainingOptions(context="all"))


def test_few_performances_are_transposed_at_random() -> None:
    few = make_dataset(5, codec="performance")
    many = make_dataset(400, length=4000, codec="performance")
    assert make_plan(few, TrainingOptions()).training.transposed
    assert not make_plan(many, TrainingOptions()).training.transposed
    assert not make_plan(make_dataset(5, codec="frames"), TrainingOptions()).training.transposed
    assert not make_plan(make_dataset(5), TrainingOptions()).training.transposed


@pytest.mark.parametrize(
    ("several", "name"), [(0, "all"), (5, "all"), (6, "all+vertical"), (100, "all+vertical")]
)
def test_vertical_context_is_for_tunes_of_several_parts_or_voices(several: int, name: str) -> None:
    voice = NAMES.index("token=f")
    names = (*NAMES[:voice], "voice=1")
    tunes = [make_tune(number) for number in range(100)]
    for tune in tunes[several:]:
        tune.ids[tune.ids == voice] = 1
    dataset = Dataset(tunes, [], [], "measures", names, {})
    assert make_plan(dataset, TrainingOptions()).model.context == CONTEXTS[name]
    assert make_plan(dataset, TrainingOptions(context="all")).model.context == CONTEXTS["all"]


def test_options_override_the_preset() -> None:
    options = TrainingOptions(
        "gru", 3, 32, 0.1, bptt=16, batch=2, epochs=3, learning_rate=0.01, seed=7
    )
    plan = make_plan(adjust_split(make_dataset(20)), options)
    assert (plan.model.cell, plan.model.layers, plan.model.hidden) == ("gru", 3, 32)
    assert (plan.model.dropout, plan.training.bptt, plan.training.lanes) == (0.1, 16, 2)
    assert (plan.training.tokens, plan.training.learning_rate) == (3 * 17 * 100, 0.01)


def test_small_corpora_except_texts_are_guarded() -> None:
    assert make_plan(adjust_split(make_dataset(5)), TrainingOptions()).guarded
    assert not make_plan(adjust_split(make_dataset(5, codec="text")), TrainingOptions()).guarded


def test_minutes_limit_the_tokens_of_a_small_corpus() -> None:
    dataset = adjust_split(make_dataset(5))
    options = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2)
    assert make_plan(dataset, options).training.tokens == 1000
    long = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2, minutes=100)
    assert make_plan(dataset, long).training.tokens == 1000
    short = TrainingOptions(layers=1, hidden=4, batch=1, bptt=8, epochs=2, minutes=1e-9)
    assert make_plan(dataset, short).training.tokens == 8


def test_replace_tokens_changes_only_tokens() -> None:
    plan = make_plan(adjust_split(make_dataset(20)), TrainingOptions())
    assert replace_tokens(plan, 5).training.tokens == 5
    assert replace_tokens(replace_tokens(plan, 5), plan.training.tokens) == plan


def test_orders_of_the_parts_of_a_tune_are_one_tune() -> None:
    dataset = adjust_split(make_dataset(20))
    copies = [replace(tune, order=order) for tune in dataset.train for order in (1, 2)]
    (line, *_) = make_plan(
        replace(dataset, train=[*dataset.train, *copies]), TrainingOptions()
    ).lines
    assert line.startswith("20 tunes: 3 are held out")
