"""A Dask cluster gives the bytes that one process gives, though a worker dies."""

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

from musicgen.corpus.build import BuildProgress, build
from musicgen.corpus.dispatch import connect_dask
from musicgen.errors import InvalidValue

ROOT = Path(__file__).parents[2]
WORKERS = 3


def started(*words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join((str(ROOT), *(entry for entry in sys.path if entry)))
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path}, start_new_session=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str], pattern: str) -> str:
    """Wait for a line of a process and return what it says."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            rest = threading.Thread(target=process.stderr.read, daemon=True)
            rest.start()  # nobody fills the pipe
            return found[1]
    raise AssertionError(f"{process.args!r} ended with {process.wait()}")


@contextmanager
def cluster() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Yield a scheduler's address and its workers, each a process of its own."""
    everyone = [started("dask_scheduler", "--port", "0", "--no-dashboard")]
    try:
        address = said(everyone[0], r"Scheduler at:\s+(tcp://\S+)")
        for _ in range(WORKERS):
            everyone.append(started("dask_worker", address, "--nthreads", "1", "--no-nanny",
                                    "--no-dashboard"))  # fmt: skip
            said(everyone[-1], r"Registered to:\s+(tcp://\S+)")
        yield address, everyone[1:]
    finally:
        for process in everyone:
            with open_pipe(process):
                process.kill()
                process.wait()


@contextmanager
def open_pipe(process: subprocess.Popen[str]) -> Iterator[None]:
    yield
    if process.stderr is not None:
        process.stderr.close()


def test_a_cluster_that_loses_a_worker_gives_the_same_bytes(book: Any, tmp_path: Path) -> None:
    for number in range(30):
        folder = book(f"{number}.abc", number, number + 100)
    build([folder], tmp_path / "one", jobs=0)
    with cluster() as (address, workers), connect_dask(address) as executor:

        def killing(now: BuildProgress) -> None:
            if now.files == 5 and workers[0].poll() is None:
                workers[0].send_signal(signal.SIGKILL)

        _, report = build([folder], tmp_path / "three", executor=executor, progress=killing)
        assert workers[0].wait() == -signal.SIGKILL
    assert report.kept == 60
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_an_address_where_nobody_answers_is_one_line() -> None:
    with (
        pytest.raises(InvalidValue, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
        connect_dask("tcp://127.0.0.1:9"),
    ):
        pass


class Forgetful(ThreadPoolExecutor):
    """An executor whose first answers go lost, as many of each as it is told."""

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


def test_a_lost_answer_is_asked_for_again(book: Any, tmp_path: Path) -> None:
    folder = book("one.abc", 1, 101)
    with Forgetful(3) as executor:
        assert build([folder], tmp_path / "a", executor=executor)[1].kept == 2
    with Forgetful(4) as executor, pytest.raises(ValueError, match="too many"):
        build([folder], tmp_path / "b", executor=executor)
    assert not (tmp_path / "b").exists()
