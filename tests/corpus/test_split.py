"""Near-duplicates share a group, and a group's content decides its part."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.corpus.split import SHARED_MOVES, SPLITS, assign_splits, group_tunes, hash_grams
from musicgen.music.melodic_runs import Move, list_moves
from musicgen.music.score import Note, Score

MOVES = st.lists(st.tuples(st.integers(-12, 12), st.sampled_from((12, 24, 48))), max_size=60)


def some_moves(number: int, length: int = 60) -> list[Move]:
    chance = random.Random(number)
    return [(chance.randint(-12, 12), chance.choice((12, 24, 48))) for _ in range(length)]


def together(*tunes: list[Move]) -> bool:
    return len(set(group_tunes([hash_grams(tune) for tune in tunes]))) == 1


def test_a_shared_stretch_joins_two_tunes_wherever_it_stands() -> None:
    shared = some_moves(0, SHARED_MOVES)
    assert together(some_moves(1) + shared, shared + some_moves(2))
    assert together(shared, some_moves(3) + shared)


def test_a_shorter_stretch_does_not() -> None:
    shared = some_moves(0, SHARED_MOVES - 1)
    assert not together(some_moves(1) + shared, shared + some_moves(2))


def test_stretches_are_compared_in_interval_and_duration() -> None:
    moves = some_moves(0, SHARED_MOVES)
    assert not together(moves, [(interval + 1, duration) for interval, duration in moves])
    assert not together(moves, [(interval, 2 * duration) for interval, duration in moves])


def test_short_tunes_are_together_if_equal() -> None:
    assert together(some_moves(0, 5), some_moves(0, 5))
    assert not together(some_moves(0, 5), some_moves(0, 6))
    assert together([], [])


def test_a_transposed_and_a_slightly_changed_tune_are_relatives() -> None:
    chance = random.Random(8)
    notes = tuple(Note(24 * i, chance.randint(60, 80), 24) for i in range(80))
    score = Score(notes)
    changed = Score((*notes[:40], Note(960, 50, 24), *notes[41:]))
    lines = [list_moves(score), list_moves(score.transpose(5)), list_moves(changed)]
    assert together(*lines)


def test_relatives_of_relatives_are_one_group() -> None:
    a, b = some_moves(1, SHARED_MOVES), some_moves(2, SHARED_MOVES)
    assert together(a, a + b, b)


@given(st.lists(MOVES, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_tunes_changes_no_group(
    tunes: list[list[Move]], chance: random.Random
) -> None:
    before = group_tunes([hash_grams(tune) for tune in tunes])
    order = list(range(len(tunes)))
    chance.shuffle(order)
    after = group_tunes([hash_grams(tunes[index]) for index in order])
    assert after == [before[index] for index in order]


def test_a_later_corpus_moves_no_tune_without_a_relative() -> None:
    early = [hash_grams(some_moves(number)) for number in range(300)]
    late = [hash_grams(some_moves(number)) for number in range(1_000, 1_300)]
    before, after = group_tunes(early), group_tunes(late + early)[300:]
    assert before == after
    parts, more = assign_splits(before), assign_splits(group_tunes(late + early))
    assert all(parts[name] == more[name] for name in before)


def test_a_relative_that_comes_later_seldom_moves_a_tune() -> None:
    tunes = [some_moves(number, 120) for number in range(200)]
    relatives = [tune[:60] + some_moves(number, 1) + tune[61:] for number, tune in enumerate(tunes)]
    before = group_tunes([hash_grams(tune) for tune in tunes])
    after = group_tunes([hash_grams(tune) for tune in tunes + relatives])
    assert after[:200] == after[200:]
    assert sum(a == b for a, b in zip(before, after, strict=False)) > 150


def test_parts_are_85_to_7_5_to_7_5() -> None:
    counts = Counter(assign_splits(str(number) for number in range(20_000)).values())
    assert counts["train"] == pytest.approx(17_000, abs=200)
    assert counts["valid"] == pytest.approx(1_500, abs=150)
    assert counts["test"] == pytest.approx(1_500, abs=150)


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("seed", range(5))
def test_a_small_corpus_has_something_to_train_and_then_to_validate_on(
    count: int, seed: int
) -> None:
    counts = Counter(assign_splits(f"{seed} {number}" for number in range(count)).values())
    assert sum(counts.values()) == count
    assert set(counts) <= set(SPLITS)
    assert (counts["train"] > 0) == (count > 0)
    assert count < 2 or counts["valid"] > 0 or count == 2
    assert count < 5 or counts["test"] > 0
