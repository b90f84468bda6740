"""Resource limits of the processes that parse untrusted files: memory, CPU time, core dumps.

Windows has none of them; there these functions do nothing, and only the parent's timeout ends a
worker.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OUT_OF_MEMORY_STATUS: Final = 77  # exit status of a worker that ran out of memory
OUT_OF_TIME_STATUSES: Final = tuple(
    -number for name in ("SIGPROF", "SIGXCPU") if (number := getattr(signal, name, 0))
)  # exit statuses of a worker that its CPU timer ended
SINGLE_THREAD_VARIABLES: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # environment of a worker: one thread per numeric library


def limit_memory(limit_bytes: int, *, permanent: bool = False) -> int:
    """Limit the data segment of this process, in bytes.

    Args:
        limit_bytes: the new limit; -1 for none.
        permanent: whether the process itself cannot raise it again.

    Returns:
        The previous limit in bytes, -1 if there was none.
    """
    if resource is None:
        return -1
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes if permanent else hard))
    return int(soft)


def start_cpu_timer(seconds: float) -> None:
    """Let SIGPROF end this process after so many seconds of CPU time; 0 stops the timer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def disable_core_dumps() -> None:
    """Keep the memory of this process off the disk if it crashes."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def describe_exit_status(status: int) -> str:
    """Name the signal that ended a process by its exit status, such as SIGKILL for -9."""
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit status {status}"
