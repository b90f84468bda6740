"""Each planted fault is seen by the figure that should see it, and by the judge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from musicgen.evaluation.score_card import Column, TuneSet, make_score_card
from musicgen.music.score import Score
from tests.related_tunes import indexed
from tests.toy_tunes import (
    drop_bar,
    end_elsewhere,
    make_dances,
    repeat_one_note,
    rotate_bars,
    shuffle_bars,
    transpose_half,
    write_other_key,
)

COUNT = 40
TRAINING = make_dances(COUNT, 1000)


def compare(sampled: list[Score]) -> Column:
    """Compare tunes with dances of the source that they were made from."""
    real = TuneSet("real", tuple(make_dances(COUNT)))
    card = make_score_card([TuneSet("sampled", tuple(sampled))], real, indexed(TRAINING))
    return card.columns[0]


def list_outside(column: Column) -> set[str]:
    return {figure.key for figure in column.figures
            if not figure.is_inside and figure.verdict != "not known"}  # fmt: skip


FAULTS: dict[str, tuple[Callable[[Score], Score], set[str]]] = {
    "shuffled bars": (lambda score: shuffle_bars(score, len(score.notes)),
                      {"bar_likeness.4", "phrases_varied"}),
    "bars moved by one": (rotate_bars, {"ends_on_tonic", "phrases_on_tonic", "cadence_beats"}),
    "one note repeated": (repeat_one_note, {"pitch_class_entropy", "interval", "range"}),
    "sections of 7 bars": (drop_bar, {"sections_8", "sections_multiple_of_4"}),
    "transposed second halves": (transpose_half, {"scale_consistency", "notes_in_key"}),
    "wrong cadences": (end_elsewhere, {"ends_on_tonic", "phrases_on_tonic"}),
    "wrong keys": (write_other_key, {"notes_in_key", "ends_on_tonic"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_seen(name: str) -> None:
    pytest.importorskip("sklearn")
    plant, keys = FAULTS[name]
    column = compare([plant(score) for score in make_dances(COUNT, 500)])
    assert keys <= list_outside(column)
    assert column.get_figure("judge_auc").low > 0.5


def test_verbatim_copies_are_seen() -> None:
    column = compare([*TRAINING[: COUNT // 2], *make_dances(COUNT // 2, 500)])
    assert {"copied_8", "copied_16", "longest_run", "verbatim"} <= list_outside(column)
    assert column.get_figure("verbatim").value == 0.5


def test_tunes_without_a_fault_are_mostly_inside() -> None:
    column = compare(make_dances(COUNT, 500))
    known = [figure for figure in column.figures if figure.verdict != "not known"]
    assert sum(figure.is_inside for figure in known) >= 0.85 * len(known)
