"""The cores of a CPU, each with its own share of a batch's lanes.

One thread a core that runs forward and backward on its lanes beats one batch whose every small
operation is spread over all cores and waited for: most steps of a recurrent network are too small
to share. The gradients are added in the order of the shares, so a run is repeatable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

LEAST_LANES = 8  # of a share: with fewer, a core waits for its weights
LEAST_WORK = 64 * 64  # lanes times hidden units of a batch that is worth sharing

Result = TypeVar("Result")


def count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(device: torch.device, lanes: int, hidden: int) -> int:
    """Return how many shares a batch is cut into: one on a GPU and for small work."""
    if device.type != "cpu" or lanes * hidden < LEAST_WORK:
        return 1
    return max(1, min(count_cores(), lanes // LEAST_LANES))


class Crew:
    """Some threads; torch is told to use one core in each of them, from now on."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(workers, "share", torch.set_num_threads, (1,))

    def each(self, work: Callable[[int], Result], count: int | None = None) -> list[Result]:
        """Do work(0), work(1), ... at once; return what they return, in order.

        Args:
            work: gets its number.
            count: how many; as many as there are workers where it is None.
        """
        numbers = range(self.workers if count is None else count)
        if self.workers == 1:
            return [work(number) for number in numbers]
        return list(self.pool.map(work, numbers))


def added(shares: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Add up the shares' gradients, parameter by parameter, in the order of the shares."""
    if len(shares) == 1:
        return [grad.clone() for grad in shares[0]]  # two parameters may share one gradient
    total = list(torch._foreach_add(list(shares[0]), list(shares[1])))
    for share in shares[2:]:
        torch._foreach_add_(total, list(share))
    return total
