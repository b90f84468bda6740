"""Settings shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before NumPy and torch are imported, and for child processes: the models of the tests are so
# small that several threads would only wait for each other.
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# No deadlines: a busy machine is slow at times.
settings.register_profile(
    "fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300
)
settings.register_profile(
    "repeatable", settings.get_profile("fresh"), derandomize=True, max_examples=25
)


def runs_promises(config: pytest.Config) -> bool:
    return bool(config.getoption("markexpr") == "promises")


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same few Hypothesis examples on every run, and many fresh ones for the promises."""
    settings.load_profile("fresh" if runs_promises(config) else "repeatable")
    if runs_promises(config) and config.getoption("dist", "no") == "loadfile":
        config.option.dist = "worksteal"  # some files take long: the workers share their tests
    pretend_bf16(os.environ.get("MUSICGEN_TEST_BF16"))
    restore_signals()


@pytest.fixture(scope="session", autouse=True)
def no_readers() -> Iterator[None]:
    """Let the commands read in this process, not in children, which import for half a second.

    Tests of the children start processes, give --jobs or call `build` with jobs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musicgen.cli.tune_sources.READERS", 0)
        patch.setattr("musicgen.cli.corpus._count_cores", lambda: 0)
        yield


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
    "test_option_combinations.py", "test_valid.py", "test_train_processes.py", "test_playground.py",
    "test_train_resume.py", "test_html_page_in_browser.py", "test_kills.py", "test_distributed.py",
    "test_no_code_from_data.py",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the Hypothesis tests, deselect those that need CUDA, and start the slowest files first.

    With `-m promises`, all Hypothesis tests run too.
    """
    for item in items if runs_promises(config) else ():
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("promises")
    items.sort(key=lambda item: item.path.name not in SLOWEST_FILES)
    cuda_items = [item for item in items if item.get_closest_marker("cuda")]
    if cuda_items and not has_cuda():
        config.hook.pytest_deselected(items=cuda_items)
        items[:] = [item for item in items if item not in cuda_items]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
