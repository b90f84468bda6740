"""Overlap with training tunes and within a set: equal to brute-force searches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.overlap import (
    TuneGrams,
    add_overlap,
    group_duplicates,
    measure_neighbors,
)
from musicgen.music.melodic_runs import list_moves
from musicgen.music.score import Score
from musicgen.music.tune_content import TuneContent
from tests.related_tunes import count_copied_runs, find_longest_run, indexed, lines, slice_runs
from tests.toy_tunes import make_dances


def measure(scores: list[Score], training: list[Score]) -> dict[str, float]:
    table = FigureTable.of([TuneContent.of(score) for score in scores], ())
    full = add_overlap(table, scores, indexed(training))
    return dict(zip((d.key for d in full.definitions), full.values.tolist(), strict=True))


@given(st.lists(lines(), min_size=1, max_size=3), st.lists(lines(), min_size=1, max_size=3))
def test_copied_runs_equal_a_search_by_brute_force(
    scores: list[Score], training: list[Score]
) -> None:
    figures = measure(scores, training)
    for length, key in ((8, "copied_8"), (16, "copied_16")):
        counts = [count_copied_runs(score, training, length) for score in scores]
        copied, runs = (sum(column) for column in zip(*counts, strict=True))
        assert figures[key] == copied / runs if runs else figures[key] != figures[key]
    longest = [find_longest_run(score, training) for score in scores]
    assert figures["longest_run"] == sum(longest) / len(longest)


def test_copies_in_other_keys_are_verbatim() -> None:
    dances = make_dances(6)
    figures = measure([dances[0].transpose(3), dances[1], dances[5]], dances[:3])
    assert figures["verbatim"] == 2 / 3
    assert measure(dances[3:], dances[:3])["verbatim"] == 0


@given(st.lists(lines(), min_size=1, max_size=4))
def test_nearest_neighbor_equals_a_search_by_brute_force(scores: list[Score]) -> None:
    def runs_of(score: Score) -> set[tuple[tuple[int, int], ...]]:
        moves = list_moves(score)
        if len(moves) < 7:
            return {tuple(moves)}
        return {tuple(moves[start : start + 7]) for start in range(len(moves) - 6)}

    runs = list(map(runs_of, scores))
    expected = [
        max((len(own & other) for j, other in enumerate(runs) if j != i), default=0) / len(own)
        for i, own in enumerate(runs)
    ]
    grams = [TuneGrams.of(score) for score in scores]
    assert [ratio.part for ratio in measure_neighbors(grams)] == expected


def test_near_duplicates_are_one_group() -> None:
    dances = make_dances(3)
    tunes = [*dances, dances[1].transpose(2)]
    groups = group_duplicates([TuneGrams.of(score) for score in tunes])
    assert groups[3] == groups[1]
    assert len(set(groups.tolist())) == 3
    assert slice_runs(dances[0], 8)
