"""Measure how the time of some work grows with its size, also on a busy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

ROUNDS = 10
MAX_RATIO = 18  # of the times for 8 times the size: linear is 8, quadratic 64


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
