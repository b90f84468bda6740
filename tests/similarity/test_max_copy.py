"""`max_copy`: no run of more notes stands in a training tune, whatever else is asked."""

from __future__ import annotations

import random

import numpy as np
import pytest

from musicgen import Model, Score, load
from musicgen.errors import InvalidValue
from musicgen.music.melodic_runs import find_runs
from musicgen.similarity.note_index import NoteIndex
from tests.sampling.test_option_combinations import check_options_met, draw_options

METERS = ["6/8", "4/4", "2/4", "3/4", "9/8"]


@pytest.fixture(scope="module")
def folk() -> Model:
    return load("folk")


def known_runs(known: NoteIndex, notes: int) -> frozenset[tuple[int, ...]]:
    """Return all runs of so many notes, straight from the stored columns."""
    found = set()
    durations, intervals = known.table[known.codes].tolist(), known.intervals.tolist()
    stops = np.cumsum(known.lengths).tolist()
    for length, stop in zip(known.lengths.tolist(), stops, strict=True):
        for at in range(stop - length, stop - notes + 1):
            moves = zip(intervals[at + 1 : at + notes], durations[at + 1 : at + notes], strict=True)
            found.add((durations[at], *(n for move in moves for n in move)))
    return frozenset(found)


def runs_of(score: Score, notes: int) -> set[tuple[int, ...]]:
    found = set()
    for run in find_runs(score):
        durations = (run.first_duration, *(duration for _, duration in run.moves))
        for at in range(len(run) - notes + 1):
            moves = run.moves[at : at + notes - 1]
            found.add((durations[at], *(n for move in moves for n in move)))
    return found


def check(folk: Model, first: int, count: int, limit: int) -> int:
    known = known_runs(folk.index.note_index, limit + 1)
    assert len(known) > 100_000
    done = 0
    for number in range(first, first + count):
        asked = draw_options(random.Random(number), METERS, ["jig", "reel", "hornpipe"])
        try:
            tune = folk.sample(seed=number, **asked | {"max_copy": limit})
        except InvalidValue as refusal:
            if "what is kept" in str(refusal):
                raise
            continue  # contradictory wishes are refused
        assert not runs_of(tune.score, limit + 1) & known
        check_options_met(tune.score, tune.recipe.request.options)
        done += 1
    return done


@pytest.mark.parametrize("limit", [4, 8])
def test_no_run_is_longer(folk: Model, limit: int) -> None:
    assert check(folk, 0, 25, limit) > 10


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(5))
def test_no_run_of_1_000_tunes_is_longer(folk: Model, chunk: int) -> None:
    assert check(folk, 250 * (chunk + 1), 250, 8) > 150


def test_a_primer_that_copies_more_is_refused(folk: Model) -> None:
    tune = folk.sample(seed=1, bars=16)
    assert tune.receipt is not None
    assert tune.receipt.longest is not None
    assert tune.receipt.longest.notes > 4
    with pytest.raises(InvalidValue, match="max-copy 4: what is kept of a tune, or its primer"):
        folk.sample(seed=1, primer=tune.score, max_copy=4)
