"""Settings that all tests share."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow at times: what is found counts, not when.
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("fresh"), derandomize=True)


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples for every commit, and fresh ones where the promises are tested."""
    promised = config.getoption("markexpr") == "promises"
    settings.load_profile("fresh" if promised else "repeatable")
    pretend_bf16(os.environ.get("MUSICGEN_TEST_BF16"))
    restore_signals()


def restore_signals() -> None:
    """Let signals be heard here and in child processes, also where the suite runs under nohup.

    A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP; both are inherited.
    """
    for name, default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, default)


def pretend_bf16(value: str | None) -> None:
    """Let this process take a machine for one with (1) or without (0) bf16 instructions.

    `auto` precision is bf16 where there are such: no test may depend on it.
    """
    if value is not None:
        from musicgen.model import devices

        devices.has_bf16 = lambda device: value == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    wanting = [item for item in items if item.get_closest_marker("cuda")]
    if wanting and not has_cuda():
        config.hook.pytest_deselected(items=wanting)
        items[:] = [item for item in items if item not in wanting]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
