"""The cost of a score card: a tune is read once, work grows with the tunes, one thread judges."""

from __future__ import annotations

import cProfile
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.evaluation import form, judge, overlap, score_card
from musicgen.evaluation.figures import FigureTable
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.evaluation.judge import Judgement, judge_tunes
from musicgen.evaluation.score_card import TuneSet, make_score_card
from musicgen.music.tune_content import TuneContent
from musicgen.similarity.overlap_report import OverlapIndex
from tests.related_tunes import indexed
from tests.toy_tunes import make_dances, shuffle_bars

ROOT = Path(__file__).parents[2]
CPU_SECONDS = 60
PEAK_BYTES = 10**9


def count_calls(patch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[Any, ...]]:
    """Return a list that grows by the arguments of each call of a function."""
    function, calls = getattr(owner, name), list[tuple[Any, ...]]()

    def counted(*args: Any) -> Any:
        calls.append(args)
        return function(*args)

    patch.setattr(owner, name, counted)
    return calls


def test_tunes_are_read_once_whatever_the_number_of_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves = count_calls(monkeypatch, overlap, "list_moves")
    comparisons = count_calls(monkeypatch, OverlapIndex, "count_overlap")
    neighbors = count_calls(monkeypatch, score_card, "measure_neighbors")
    features = count_calls(monkeypatch, score_card, "measure_features")
    phrases = count_calls(monkeypatch, form, "find_phrases")
    sets = [TuneSet(f"set {first}", tuple(make_dances(6, first))) for first in (100, 200, 300)]
    make_score_card(sets, TuneSet("real", tuple(make_dances(7))), indexed(make_dances(5, 400)))
    tunes = 3 * 6 + 7
    assert len(moves) == len(comparisons) == tunes
    assert len(neighbors) == 3 + 1  # the sets are of one size, so the real tunes are searched once
    assert len(features) == 1  # of the real tunes
    assert len(phrases) == 2 * tunes  # for those that return, and for cadences


def count_card_calls(tunes: int) -> int:
    """Return the number of calls of functions that a card of so many tunes takes."""
    sampled = TuneSet("sampled", tuple(make_dances(tunes, 100)))
    real = TuneSet("real", tuple(make_dances(tunes)))
    index, profile = indexed(make_dances(5, 400)), cProfile.Profile()
    profile.runcall(make_score_card, [sampled], real, index)
    return sum(entry.callcount for entry in profile.getstats())


def test_work_grows_with_the_number_of_tunes() -> None:
    few, some, many = map(count_card_calls, (7, 14, 28))
    assert 0 < many - some < 3 * (some - few)  # 2 where it grows linearly, 4 where quadratically


def judge_dances(shuffled: int) -> Judgement:
    dances = [*(shuffle_bars(d, 1) for d in make_dances(shuffled)), *make_dances(80 - shuffled, 80)]
    table = FigureTable.of([TuneContent.of(dance) for dance in dances], FORM_FIGURES)
    halves = table.take(np.arange(40)), table.take(np.arange(40, 80))
    return judge_tunes(*halves, np.arange(80), np.random.default_rng(0))


def test_judge_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from threadpoolctl import threadpool_info, threadpool_limits

    threads: list[int] = []

    def classify(*args: Any) -> Any:
        pools = threadpool_info()
        threads.extend(pool["num_threads"] for pool in pools if pool["user_api"] == "openmp")
        return original(*args)

    original = judge.classify
    monkeypatch.setattr(judge, "classify", classify)
    with threadpool_limits(3, user_api="openmp"):
        judge_dances(20)
        pools = threadpool_info()
    assert set(threads) == {1}
    assert {pool["num_threads"] for pool in pools if pool["user_api"] == "openmp"} == {3}


def test_judge_says_the_same_on_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    judgement = judge_dances(20)
    monkeypatch.setattr(judge, "THREADS", 3)
    assert judge_dances(20).figure == judgement.figure
    assert 0.5 < judgement.figure.value < 1


@pytest.mark.promises
def test_metrics_of_5000_tunes_take_a_minute_of_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "find_spec", lambda name: None)
    real, index = TuneSet("real", tuple(make_dances(300))), indexed(make_dances(3500, 1000))
    sampled = TuneSet("sampled", tuple(make_dances(5000, 5000)))
    start = time.process_time()
    column = make_score_card([sampled], real, index).columns[0]
    assert time.process_time() - start < CPU_SECONDS
    assert column.get_figure("sections_8").is_inside
    assert "judge: scikit-learn is missing" in column.notes[-1]


EVALUATE = """
import resource, sys
from musicgen.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
used *= 1 if sys.platform == "darwin" else 1024
if sys.platform == "linux":  # there the peak of the parent is inherited, but not in VmHWM
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    used = int(line.split()[1]) * 1024
print("memory", used, file=sys.stderr)
"""


@pytest.mark.promises
def test_card_of_500_tunes_takes_less_than_a_gigabyte() -> None:
    """The whole command: likelihood, baselines, 500 tunes of each of two forms, the judge."""
    pytest.importorskip("sklearn")
    command = [sys.executable, "-c", EVALUATE, "evaluate", "folk", "--count", "500", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    card = json.loads(result.stdout)
    assert [column["tunes"] for column in card["columns"].values()] == [500, 500]
    assert int(result.stderr.split()[-1]) < PEAK_BYTES
