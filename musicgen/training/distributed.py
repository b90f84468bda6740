"""Data-parallel training: several processes train one model, each on its share of the lanes.

    torchrun --nproc-per-node 2 -m musicgen train

torchrun starts the processes and sets the rank of each in its environment. Every process reads the
corpus and cuts the same windows; DistributedDataParallel averages the gradients, so the weights
stay equal; only rank 0 writes files. Apart from the order in which gradients are added, several
processes compute what a single process with the same lanes computes.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from musicgen.errors import Interrupted, InvalidValue, MusicgenError
from musicgen.music.arrays import FloatArray

ModelCall: TypeAlias = Callable[..., Any]  # a SequenceModel, or one wrapped for several processes

PROCESS_GROUP_TIMEOUT: Final = timedelta(
    minutes=30
)  # while another process reads, evaluates or saves


class GradientAveragingModel:
    """A model whose gradients are averaged over the processes after each backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.model: DistributedDataParallel | None = DistributedDataParallel(
            model, gradient_as_bucket_view=True
        )

    def __call__(self, *inputs: Any) -> Any:
        """Run the forward pass."""
        assert self.model is not None
        return self.model(*inputs)

    def release(self) -> None:
        """Drop the wrapper, which holds a reference to the process group."""
        self.model = None


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank of this process, and collective operations over all processes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    models: list[GradientAveragingModel] = field(default_factory=list, compare=False)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and messages: rank 0 does."""
        return self.rank == 0

    def wrap_model(self, model: ModelCall) -> ModelCall:
        """Wrap a model so that each backward pass averages its gradients over the processes."""
        if self.world_size == 1:
            return model
        assert isinstance(model, nn.Module)
        self.models.append(GradientAveragingModel(model))
        return self.models[-1]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes: any shape (...) and any dtype, which it keeps."""
        if self.world_size == 1:
            return values
        device_values = values.to(self.device)
        distributed.all_reduce(device_values)
        return device_values.to(values.device)

    def all_reduce_any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return bool(self.all_reduce(torch.tensor(float(flag)))) if self.world_size > 1 else flag

    def broadcast_first(self, value: float) -> float:
        """Return the value that rank 0 passed."""
        contribution = torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64)
        return float(self.all_reduce(contribution))

    def all_gather(self, values: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, by rank: equal shapes (...) and any dtype."""
        if self.world_size == 1:
            return [values]
        local = values.contiguous().to(self.device)
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        distributed.all_gather(gathered, local)
        return gathered

    def sum_array(self, values: FloatArray) -> FloatArray:
        """Sum an array over the processes: any shape (...), float64."""
        return self.all_reduce(torch.from_numpy(values)).numpy() if self.world_size > 1 else values

    def check_lanes_divisible(self, lanes: int) -> None:
        """Check that the processes can share the lanes evenly.

        Raises:
            InvalidValue: `lanes` is not a multiple of the number of processes.
        """
        if lanes % self.world_size:
            raise InvalidValue(
                f"--batch {lanes}: {self.world_size} processes cannot share it evenly;"
                f" choose a multiple of {self.world_size}"
            )


SINGLE_PROCESS: Final = Ranks()


@contextlib.contextmanager
def join_process_group(device: str) -> Iterator[Ranks]:
    """Join the process group of torchrun; without torchrun, yield `SINGLE_PROCESS`.

    Args:
        device: auto, cpu or cuda; each process of a machine uses its own CUDA device.

    Raises:
        MusicgenError: another process ended while this one waited for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield SINGLE_PROCESS
        return
    process_device = choose_process_device(device)
    # The functions of this module capture the process group as a default argument at import.
    # DistributedDataParallel imports it; if that happened later, the group could not be destroyed.
    import_module("torch.distributed.nn.functional")
    distributed.init_process_group(
        "nccl" if process_device.type == "cuda" else "gloo", timeout=PROCESS_GROUP_TIMEOUT
    )
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), process_device)
    try:
        with _wait_for_all_at_exit():
            yield ranks
    except (RuntimeError, distributed.DistBackendError) as fault:
        if not is_lost_peer(fault):
            raise
        raise MusicgenError(
            "another process of this run has ended; the saved progress is intact. Restart all"
            " processes with --resume"
        ) from fault
    finally:
        leave_process_group(ranks)


@contextlib.contextmanager
def _wait_for_all_at_exit() -> Iterator[None]:
    """Wait for the other processes at the end, and when all of them are interrupted.

    torchrun kills all processes as soon as one fails, so none may leave while rank 0 saves.
    """
    try:
        yield
    except Interrupted:
        distributed.barrier()
        raise
    distributed.barrier()


def leave_process_group(ranks: Ranks) -> None:
    """Destroy the process group and its threads.

    The threads end with the last reference to the group. A thread that still runs when the
    interpreter exits, and then frees a tensor owned by Python, aborts the process.
    """
    for model in ranks.models:
        model.release()
    gc.collect()  # the wrapper and its hooks form a reference cycle
    distributed.destroy_process_group()


def choose_process_device(device: str) -> torch.device:
    """Return the device of this process, and make it the current CUDA device."""
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    process_device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(process_device)
    return process_device


def is_lost_peer(fault: BaseException) -> bool:
    """Tell whether an exception means that another process has ended."""
    message = str(fault).lower()
    phrases = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "nccl",
             "socket", "gloo", "remote process exited")  # fmt: skip
    return any(phrase in message for phrase in phrases)
