"""Several processes that train one model, each with its share of the lanes.

    torchrun --nproc-per-node 2 -m musicgen train

torchrun starts the processes and says to each, in its environment, which one it is. Every process
reads the corpus and cuts the same windows; DistributedDataParallel adds the gradients, so that the
weights stay equal; the first process alone writes. A run of several processes is the run of one
with the same lanes, but for the order in which gradients are added.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from musicgen.errors import Interrupted, InvalidValue, MusicgenError

PROCESS_GROUP_TIMEOUT: Final = timedelta(minutes=30)  # for a process that reads, evaluates or saves


class GradientAveragingModel:
    """A model whose gradients are averaged over the processes after each pass back."""

    def __init__(self, model: Any) -> None:
        self.model: Any = DistributedDataParallel(model, gradient_as_bucket_view=True)

    def __call__(self, *inputs: Any) -> Any:
        """Run the model forward."""
        return self.model(*inputs)

    def release(self) -> None:
        """Let go of the process group, which lives as long as the wrapper does."""
        self.model = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a constant
    models: list[GradientAveragingModel] = field(default_factory=list, compare=False)

    @property
    def is_main_process(self) -> bool:
        """Tell whether this process is the one that writes and speaks."""
        return self.rank == 0

    def get_lane_slice(self, worker: int, workers: int) -> slice:
        """Return the lanes of one of this process's workers."""
        return slice(worker * self.world_size + self.rank, None, workers * self.world_size)

    def wrap_model(self, model: Any) -> Any:
        """Return the model, its gradients averaged over the processes after each pass back."""
        if self.world_size == 1:
            return model
        self.models.append(GradientAveragingModel(model))
        return self.models[-1]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Add values up over the processes."""
        if self.world_size == 1:
            return values
        moved = values.to(self.device)
        distributed.all_reduce(moved)
        return moved.to(values.device)

    def all_reduce_any(self, flag: bool) -> bool:
        """Tell whether any process says so."""
        return bool(self.all_reduce(torch.tensor(float(flag)))) if self.world_size > 1 else flag

    def broadcast_first(self, value: float) -> float:
        """Return what the first process says."""
        own = torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64)
        return float(self.all_reduce(own))

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of all processes; their shapes are equal."""
        if self.world_size == 1:
            return [values]
        own = values.contiguous().to(self.device)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(found, own)
        return found

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        """Add arrays up over the processes."""
        return self.all_reduce(torch.from_numpy(values)).numpy() if self.world_size > 1 else values

    def check_lanes_divisible(self, lanes: int) -> None:
        """Raise InvalidValue unless every process gets as many lanes."""
        if lanes % self.world_size:
            raise InvalidValue(
                f"--batch {lanes}: {self.world_size} processes cannot share it evenly;"
                f" choose a multiple of {self.world_size}"
            )


SINGLE_PROCESS: Final = Ranks()


@contextlib.contextmanager
def join_process_group(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone, nothing is joined.

    Args:
        device: auto, cpu or cuda; each process of a machine takes a CUDA device of its own.

    Raises MusicgenError where another process ended while this one waited for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield SINGLE_PROCESS
        return
    place = choose_process_device(device)
    # Its functions take the process group of the moment of import as a default, and hold it for
    # good: DistributedDataParallel imports it, and then no group is ever destroyed.
    import_module("torch.distributed.nn.functional")
    distributed.init_process_group(
        "nccl" if place.type == "cuda" else "gloo", timeout=PROCESS_GROUP_TIMEOUT
    )
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), place)
    try:
        with _wait_for_all_at_exit():
            yield ranks
    except (RuntimeError, distributed.DistBackendError) as fault:
        if not is_lost_peer(fault):
            raise
        raise MusicgenError(
            "another process of this run has ended; what was saved is whole. Start all of them"
            " again with --resume"
        ) from fault
    finally:
        leave_process_group(ranks)


@contextlib.contextmanager
def _wait_for_all_at_exit() -> Iterator[None]:
    """Wait for the other processes at the end, and where all of them were told to stop.

    torchrun ends all processes as soon as one has failed: none may leave while the first one saves.
    """
    try:
        yield
    except Interrupted:
        distributed.barrier()
        raise
    distributed.barrier()


def leave_process_group(ranks: Ranks) -> None:
    """Destroy the process group, and the threads that work for it.

    They end with the last reference to the group. A thread that is still there when the interpreter
    ends, and then lets go of a tensor that Python knows, aborts the process.
    """
    for model in ranks.models:
        model.release()
    gc.collect()  # the wrapper and its hooks refer to each other
    distributed.destroy_process_group()


def choose_process_device(device: str) -> torch.device:
    """Return the device of this process."""
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(place)
    return place


def is_lost_peer(fault: BaseException) -> bool:
    """Tell whether a fault means that another process is gone."""
    words = str(fault).lower()
    known = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "nccl",
             "socket", "gloo", "remote process exited")  # fmt: skip
    return any(word in words for word in known)
