"""How the time that work takes grows with its size, on a machine that has other work to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

ROUNDS = 10
MOST = 18  # times as long, for eight times the size: a line is 8, a square 64


def grows_linearly(work: Callable[[str], object], small: str, large: str) -> bool:
    """Tell whether work on a text of eight times the size takes under 18 times as long.

    Other programs only ever lengthen a time, so the shortest of several counts; the two sizes take
    turns, and what is slow by nature is as slow in each round.
    """
    few, many = seconds(work, small), seconds(work, large)
    for _ in range(ROUNDS):
        if many < MOST * few + 0.005:
            return True
        few = min(few, seconds(work, small))
        many = min(many, seconds(work, large))
    return False


def seconds(work: Callable[[str], object], text: str) -> float:
    """Return the processor's time for one piece of work, without the collection of garbage."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        work(text)
        return time.process_time() - start
    finally:
        gc.enable()
