"""Where a model is computed, and in which precision."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from musicgen.errors import Mismatch

PRECISIONS: Final = ("auto", "fp32", "bf16")
CPU_BF16_INSTRUCTIONS: Final = ("avx512_bf16", "amx_tile")  # instructions of processors
STATM: Final = Path("/proc/self/statm")


def choose_device(name: str) -> torch.device:
    """Return the device of that name; auto is CUDA, else Apple's, else the CPU.

    Raises Mismatch where the machine has no such device.
    """
    there = list_devices()
    if name == "auto":
        return torch.device(there[0])
    if torch.device(name).type not in there:
        raise Mismatch(f"--device {name}: this machine has none; here is {', '.join(there)}")
    return torch.device(name)


def list_devices() -> list[str]:
    """Name the devices of this machine, the fastest first."""
    cuda = ["cuda"] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def choose_precision(name: str, device: torch.device) -> str:
    """Return fp32 or bf16; auto is bf16 where the device multiplies it faster than fp32."""
    return ("bf16" if has_bf16(device) else "fp32") if name == "auto" else name


def has_bf16(device: torch.device) -> bool:
    """Tell whether the device has instructions for products in bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    known = (
        getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")
    )
    return any(asks is not None and asks() for asks in known)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which products are taken in that precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def get_matmul_dtype(values: Tensor) -> torch.dtype:
    """Return the type in which products are taken in this context."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def to_staged_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor of the CPU, in memory from which the device can fetch it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without waiting where its memory is pinned."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def use_tensor_cores() -> None:
    """Let CUDA round the inputs of fp32 products to TF32; the CPU's are left as they are."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def get_memory_in_use(device: torch.device) -> int:
    """Return the bytes in use: of the device's own memory, or of this program's."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return get_resident_memory()


def get_resident_memory() -> int:
    """Return the bytes of this program that are in memory."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most so far, not the present
    return most if sys.platform == "darwin" else 1024 * most
