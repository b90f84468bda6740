"""Measure how the time of some work grows with its size, also on a busy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import pytest
from _pytest.mark import ParameterSet

ROUNDS = 10
MAX_RATIO = 18  # of the times for 8 times the size: linear is 8, quadratic 64


def mark_most(texts: Sequence[str], step: int = 6) -> list[str | ParameterSet]:
    """Return all texts; those beyond every sixth are promises."""
    return [
        text if index % step == 0 else pytest.param(text, marks=pytest.mark.promises)
        for index, text in enumerate(texts)
    ]


def grows_linearly(
    work: Callable[[str], object], small: str, large: str, rounds: int = ROUNDS
) -> bool:
    """Tell whether work on a text of 8 times the size takes less than 18 times as long.

    Other processes only ever lengthen a time, so the shortest of several rounds counts; the two
    sizes take turns.
    """
    small_time, large_time = measure_seconds(work, small), measure_seconds(work, large)
    for _ in range(rounds):
        if large_time < MAX_RATIO * small_time + 0.005:
            return True
        small_time = min(small_time, measure_seconds(work, small))
        large_time = min(large_time, measure_seconds(work, large))
    return False


def measure_seconds(work: Callable[[str], object], text: str) -> float:
    """Return the CPU time of some work in seconds, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        work(text)
        return time.process_time() - start
    finally:
        gc.enable()
