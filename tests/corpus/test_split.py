"""Near-duplicates share a group, and the content of a group decides its split."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.corpus.encode import describe_piece
from musicgen.corpus.split import (
    PAIR_DTYPE,
    SHARED_MOVES,
    SPLITS,
    Grams,
    assign_splits,
    find_group_roots,
    format_group_name,
    hash_grams,
    number_groups,
)
from musicgen.music.melodic_runs import Move, list_moves
from musicgen.music.score import Note, Part, Score

MOVES = st.lists(st.tuples(st.integers(-12, 12), st.sampled_from((12, 24, 48))), max_size=60)


def group_tunes(tunes: Sequence[Grams]) -> list[str]:
    """Return the name of the group of each tune."""
    pairs = np.zeros(sum(map(len, tunes)), PAIR_DTYPE)
    if tunes:
        pairs["gram"] = np.concatenate(tunes)
        pairs["tune"] = np.repeat(np.arange(len(tunes)), [len(grams) for grams in tunes])
    smallest = np.array([grams[0] for grams in tunes], dtype=np.uint64)
    numbers = number_groups(find_group_roots(len(tunes), [pairs]), smallest)
    return [format_group_name(number) for number in numbers]


def make_moves(number: int, length: int = 60) -> list[Move]:
    rng = random.Random(number)
    return [(rng.randint(-12, 12), rng.choice((12, 24, 48))) for _ in range(length)]


def are_grouped(*tunes: list[Move]) -> bool:
    return len(set(group_tunes([hash_grams(tune) for tune in tunes]))) == 1


def test_shared_moves_at_any_position_group_tunes() -> None:
    shared = make_moves(0, SHARED_MOVES)
    assert are_grouped(make_moves(1) + shared, shared + make_moves(2))
    assert are_grouped(shared, make_moves(3) + shared)


def test_fewer_shared_moves_do_not_group_tunes() -> None:
    shared = make_moves(0, SHARED_MOVES - 1)
    assert not are_grouped(make_moves(1) + shared, shared + make_moves(2))


def test_compares_intervals_and_durations() -> None:
    moves = make_moves(0, SHARED_MOVES)
    assert not are_grouped(moves, [(interval + 1, duration) for interval, duration in moves])
    assert not are_grouped(moves, [(interval, 2 * duration) for interval, duration in moves])


def test_short_tunes_are_grouped_only_if_equal() -> None:
    assert are_grouped(make_moves(0, 5), make_moves(0, 5))
    assert not are_grouped(make_moves(0, 5), make_moves(0, 6))
    assert are_grouped([], [])


def test_groups_transposed_and_slightly_changed_tunes() -> None:
    rng = random.Random(8)
    notes = tuple(Note(24 * i, rng.randint(60, 80), 24) for i in range(80))
    score = Score(notes)
    changed = Score((*notes[:40], Note(960, 50, 24), *notes[41:]))
    lines = [list_moves(score), list_moves(score.transpose(5)), list_moves(changed)]
    assert are_grouped(*lines)


def test_beats_of_drums_alone_are_grouped_only_if_hits_are_equal() -> None:
    kit = (Part(is_drums=True),)
    beats = [[Note(24 * at, key, 12) for at, key in enumerate(keys * 8)]
             for keys in ((36, 42, 38, 42), (36, 42, 38, 42), (36, 51, 40, 51))]  # fmt: skip
    first, equal, other = (describe_piece(Score(beat, parts=kit)) for beat in beats)
    assert first["group"] == equal["group"] != other["group"]
    assert first["line"] == equal["line"] != other["line"]


def test_grouping_is_transitive() -> None:
    a, b = make_moves(1, SHARED_MOVES), make_moves(2, SHARED_MOVES)
    assert are_grouped(a, a + b, b)


@given(st.lists(MOVES, max_size=8), st.randoms(use_true_random=False))
def test_order_of_tunes_does_not_change_groups(tunes: list[list[Move]], rng: random.Random) -> None:
    before = group_tunes([hash_grams(tune) for tune in tunes])
    order = list(range(len(tunes)))
    rng.shuffle(order)
    after = group_tunes([hash_grams(tunes[index]) for index in order])
    assert after == [before[index] for index in order]


def test_unrelated_tunes_do_not_change_splits() -> None:
    early = [hash_grams(make_moves(number)) for number in range(300)]
    late = [hash_grams(make_moves(number)) for number in range(1_000, 1_300)]
    before, after = group_tunes(early), group_tunes(late + early)[300:]
    assert before == after
    splits, later_splits = assign_splits(before), assign_splits(group_tunes(late + early))
    assert all(splits[name] == later_splits[name] for name in before)


def test_later_near_duplicates_seldom_change_groups() -> None:
    tunes = [make_moves(number, 120) for number in range(200)]
    relatives = [tune[:60] + make_moves(number, 1) + tune[61:] for number, tune in enumerate(tunes)]
    before = group_tunes([hash_grams(tune) for tune in tunes])
    after = group_tunes([hash_grams(tune) for tune in tunes + relatives])
    assert after[:200] == after[200:]
    assert sum(a == b for a, b in zip(before, after, strict=False)) > 150


def test_split_shares_are_85_7_5_7_5() -> None:
    counts = Counter(assign_splits(str(number) for number in range(20_000)).values())
    assert counts["train"] == pytest.approx(17_000, abs=200)
    assert counts["valid"] == pytest.approx(1_500, abs=150)
    assert counts["test"] == pytest.approx(1_500, abs=150)


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("seed", range(5))
def test_small_corpus_fills_train_then_valid_then_test(count: int, seed: int) -> None:
    counts = Counter(assign_splits(f"{seed} {number}" for number in range(count)).values())
    assert sum(counts.values()) == count
    assert set(counts) <= set(SPLITS)
    assert (counts["train"] > 0) == (count > 0)
    assert count < 2 or counts["valid"] > 0 or count == 2
    assert count < 5 or counts["test"] > 0


def test_pieces_of_drums_are_grouped_by_their_hits() -> None:
    def write_groove(seed: int) -> Score:
        keys = random.Random(seed).choices((36, 38, 42, 46), k=200)
        notes = tuple(Note(24 * n, key, 24) for n, key in enumerate(keys))
        return Score(notes, parts=(Part("kit", is_drums=True),))

    def list_grams(score: Score) -> set[bytes]:
        hashes = base64.b64decode(describe_piece(score)["group"])
        return {hashes[first : first + 8] for first in range(0, len(hashes), 8)}

    groove, other = write_groove(1), write_groove(2)
    copy = replace(groove, notes=groove.notes[50:])
    assert list_grams(groove) & list_grams(copy)
    assert not list_grams(groove) & list_grams(other)
