"""Settings shared by all tests."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is slow at times.
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("fresh"), derandomize=True)


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same Hypothesis examples on every run, and fresh ones with `-m promises`."""
    tests_promises = config.getoption("markexpr") == "promises"
    settings.load_profile("fresh" if tests_promises else "repeatable")
    pretend_bf16(os.environ.get("MUSICGEN_TEST_BF16"))
    restore_signals()


def restore_signals() -> None:
    """Restore the handlers of SIGINT and SIGHUP here and, by inheritance, in child processes.

    A shell starts background jobs with SIGINT ignored, and nohup ignores SIGHUP.
    """
    for name, default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


def pretend_bf16(value: str | None) -> None:
    """Pretend that this machine has (1) or lacks (0) bf16 instructions.

    `auto` precision depends on them; no test may.
    """
    if value is not None:
        from musicgen.model import devices

        devices.has_bf16 = lambda device: value == "1"


SLOWEST_FILES = (  # started first, so that no worker waits for them at the end
    "test_option_combinations.py", "test_distributed.py", "test_playground.py",
    "test_train_processes.py", "test_cluster.py", "test_no_code_from_data.py",
    "test_train_resume.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need CUDA on a machine without it; start the slowest files first."""
    items.sort(key=lambda item: item.path.name not in SLOWEST_FILES)
    cuda_items = [item for item in items if item.get_closest_marker("cuda")]
    if cuda_items and not has_cuda():
        config.hook.pytest_deselected(items=cuda_items)
        items[:] = [item for item in items if item not in cuda_items]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
