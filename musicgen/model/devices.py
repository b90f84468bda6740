"""Devices and precision of the computation, and memory in use."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

from musicgen.errors import Mismatch

CPU_BF16_INSTRUCTIONS: Final = ("avx512_bf16", "amx_tile")
MALLOPT_LIMITS: Final = {-3: 2**25, -1: 2**30}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, in bytes
STATM: Final = Path("/proc/self/statm")


def choose_device(name: str) -> torch.device:
    """Return the device of a name; auto is CUDA if available, then MPS (Apple), then the CPU.

    Raises:
        Mismatch: the machine has no such device.
    """
    available = list_devices()
    if name == "auto":
        return torch.device(available[0])
    if torch.device(name).type not in available:
        raise Mismatch(f"--device {name}: this machine has {', '.join(available)} only")
    return torch.device(name)


def list_devices() -> list[str]:
    """Return the names of the devices of this machine, the fastest first."""
    cuda = ["cuda"] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def choose_precision(name: str, device: torch.device) -> str:
    """Return fp32 or bf16; auto is bf16 if the device has instructions for it."""
    return ("bf16" if has_bf16(device) else "fp32") if name == "auto" else name


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bf16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in CPU_BF16_INSTRUCTIONS)
    return any(check is not None and check() for check in checks)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which matrix products have a precision, fp32 or bf16."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def limit_recurrent_precision(
    device: torch.device,
) -> contextlib.AbstractContextManager[object]:
    """Return the context of a recurrent layer: fp32 where oneDNN has no bf16 LSTM.

    It has none on processors without AVX-512; the other products of a model may still be bf16.
    """
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    By default glibc returns large blocks to the system, so that each update of a training run
    touches new pages, which the system must fill with zeros: a quarter of the time of a run on the
    CPU (benchmarks/README.md).
    """
    if sys.platform != "linux":  # where there is no library to ask, either
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for parameter, limit in MALLOPT_LIMITS.items():
            library.mallopt(parameter, limit)


def to_staged_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array (...), any dtype, as a CPU tensor, pinned if the device is CUDA."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor (...), any dtype, to a device; to CUDA asynchronously, from pinned memory."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def get_memory_in_use(device: torch.device) -> int:
    """Return the bytes of memory in use: of a CUDA device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return get_resident_memory()


def get_resident_memory() -> int:
    """Return the resident memory of this process, in bytes; its peak where there is no /proc."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
