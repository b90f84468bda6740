"""`max_copy`: no longer run occurs in a training tune, with any other options."""

from __future__ import annotations

import random
from functools import cache
from itertools import chain

import numpy as np
import pytest

from musicgen import Model, load
from musicgen.errors import InvalidValue
from musicgen.similarity.note_index import NoteIndex
from tests.related_tunes import slice_runs
from tests.sampling.test_option_combinations import check_options_met, draw_options

METERS = ["6/8", "4/4", "2/4", "3/4", "9/8"]


@pytest.fixture(scope="module")
def folk() -> Model:
    return load("folk")


@cache
def find_training_runs(index: NoteIndex, notes: int) -> frozenset[tuple[int, ...]]:
    """Return all runs of a number of notes, directly from the stored columns."""
    runs = set()
    durations, intervals = index.table[index.codes].tolist(), index.intervals.tolist()
    stops = np.cumsum(index.lengths).tolist()
    for length, stop in zip(index.lengths.tolist(), stops, strict=True):
        for start in range(stop - length, stop - notes + 1):
            later = slice(start + 1, start + notes)
            moves = zip(intervals[later], durations[later], strict=True)
            runs.add((durations[start], *chain.from_iterable(moves)))
    return frozenset(runs)


def check_tunes(folk: Model, seeds: range, limit: int) -> int:
    """Check tunes with random options; return how many options do not contradict each other."""
    training_runs = find_training_runs(folk.index.note_index, limit + 1)
    assert len(training_runs) > 100_000
    tune_count = 0
    for seed in seeds:
        options = draw_options(random.Random(seed), METERS, ["jig", "reel", "hornpipe"])
        try:
            tune = folk.sample(seed=seed, **options | {"max_copy": limit})
        except InvalidValue as refusal:
            if "what is kept" in str(refusal):
                raise
            continue  # contradictory options are refused
        assert training_runs.isdisjoint(slice_runs(tune.score, limit + 1))
        check_options_met(tune.score, tune.recipe.request.options)
        tune_count += 1
    return tune_count


@pytest.mark.parametrize("limit", [4, 8])
def test_no_shared_run_exceeds_the_limit(folk: Model, limit: int) -> None:
    assert check_tunes(folk, range(25), limit) > 10


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(5))
def test_no_shared_run_of_1_000_tunes_exceeds_the_limit(folk: Model, chunk: int) -> None:
    assert check_tunes(folk, range(250 * (chunk + 1), 250 * (chunk + 2)), 8) > 150


def test_primer_that_copies_too_much_is_refused(folk: Model) -> None:
    tune = folk.sample(seed=1, bars=16)
    assert tune.receipt is not None
    assert tune.receipt.longest is not None
    assert tune.receipt.longest.notes > 4
    with pytest.raises(InvalidValue, match="max-copy 4: what is kept of a tune, or its primer"):
        folk.sample(seed=1, primer=tune.score, max_copy=4)
