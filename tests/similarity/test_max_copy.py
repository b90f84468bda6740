"""`max_copy`: no longer run occurs in a training tune, with any other options."""

from __future__ import annotations

from functools import cache
from itertools import chain

import numpy as np
import pytest

from musicgen import Model, load
from musicgen.errors import InvalidValue
from musicgen.sampling.sampler import Sampler
from musicgen.similarity.note_index import NoteIndex
from tests.related_tunes import slice_runs
from tests.sampling.test_option_combinations import REFUSED, Combinations, check_options_met


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


def check_tunes(folk: Model, seeds: range, limit: int) -> None:
    """Check tunes with random options; combinations that no tune can meet must be refused."""
    assert isinstance(folk.sampler, Sampler)
    combinations = Combinations.of(folk.sampler)
    training_runs = find_training_runs(folk.index.note_index, limit + 1)
    assert len(training_runs) > 100_000
    tune_count = 0
    for seed in seeds:
        options, impossible = combinations.draw(seed)
        if impossible:
            with pytest.raises(InvalidValue, match=REFUSED):
                folk.sample(seed=seed, max_copy=limit, **options)
            continue
        tune = folk.sample(seed=seed, max_copy=limit, **options)
        assert training_runs.isdisjoint(slice_runs(tune.score, limit + 1))
        check_options_met(tune.score, tune.recipe.request.options)
        tune_count += 1
    assert tune_count > len(seeds) / 2


@pytest.mark.parametrize("limit", [4, 8])
def test_no_shared_run_exceeds_the_limit(folk: Model, limit: int) -> None:
    check_tunes(folk, range(10), limit)


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(5))
def test_no_shared_run_of_1_000_tunes_exceeds_the_limit(folk: Model, chunk: int) -> None:
    check_tunes(folk, range(250 * (chunk + 1), 250 * (chunk + 2)), 8)


def test_primer_that_copies_too_much_is_refused(folk: Model) -> None:
    tune = folk.sample(seed=1, bars=16)
    assert tune.receipt is not None
    assert tune.receipt.longest is not None
    assert tune.receipt.longest.notes > 4
    with pytest.raises(InvalidValue, match="max-copy 4: what is kept of a tune, or its primer"):
        folk.sample(seed=1, primer=tune.score, max_copy=4)
