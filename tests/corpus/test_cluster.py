"""A Dask cluster builds the same bytes as one process, even if a worker dies."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from musicgen.corpus import dispatch
from musicgen.corpus.build import BuildProgress, build
from musicgen.corpus.dispatch import connect_dask
from musicgen.errors import InvalidValue

ROOT = Path(__file__).parents[2]
WORKERS = 2


def start_process(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join((str(ROOT), *(entry for entry in sys.path if entry)))
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> str:
    """Wait for a line of a process that matches, and return the first group."""
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(pattern, line):
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()  # so that the pipe never fills up
            return match[1]
    raise AssertionError(f"{process.args!r} ended with {process.wait()}")


@contextmanager
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Yield the address of a scheduler and its worker processes."""
    processes = [start_process("dask_scheduler", "--port", "0", "--no-dashboard")]
    try:
        address = wait_for_line(processes[0], r"Scheduler at:\s+(tcp://\S+)")
        for _ in range(WORKERS):
            processes.append(start_process("dask_worker", address, "--nthreads", "1", "--no-nanny",
                                    "--no-dashboard"))  # fmt: skip
            wait_for_line(processes[-1], r"Registered to:\s+(tcp://\S+)")
        yield address, processes[1:]
    finally:
        for process in processes:
            with open_pipe(process):
                process.kill()
                process.wait()


@contextmanager
def open_pipe(process: subprocess.Popen[str]) -> Iterator[None]:
    yield
    if process.stderr is not None:
        process.stderr.close()


def test_cluster_that_loses_a_worker_builds_same_bytes(book: Any, tmp_path: Path) -> None:
    for number in range(30):
        folder = book(f"{number}.abc", number, number + 100)
    build([folder], tmp_path / "one", jobs=0)
    with cluster() as (address, workers), connect_dask(address) as executor:

        def kill_worker(progress_report: BuildProgress) -> None:
            if progress_report.files == 5 and workers[0].poll() is None:
                workers[0].send_signal(signal.SIGKILL)

        _, report = build([folder], tmp_path / "three", executor=executor, progress=kill_worker)
        assert workers[0].wait() == -signal.SIGKILL
    assert report.kept == 60
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_refuses_address_without_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(InvalidValue, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
        connect_dask("tcp://127.0.0.1:9"),
    ):
        pass


class LossyExecutor(ThreadPoolExecutor):
    """An executor that loses the first results of each file."""

    def __init__(self, times: int) -> None:
        super().__init__(2)
        self.times, self.asked = times, Counter[str]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.asked[args[0]["path"]] += 1
        if self.asked[args[0]["path"]] > self.times:
            return super().submit(fn, *args, **kwargs)
        lost: Future[Any] = Future()
        lost.set_exception(ValueError("too many values to unpack"))
        return lost


def test_lost_results_are_requested_again(book: Any, tmp_path: Path) -> None:
    folder = book("one.abc", 1, 101)
    with LossyExecutor(3) as executor:
        assert build([folder], tmp_path / "a", executor=executor)[1].kept == 2
    with LossyExecutor(4) as executor, pytest.raises(ValueError, match="too many"):
        build([folder], tmp_path / "b", executor=executor)
    assert not (tmp_path / "b").exists()
