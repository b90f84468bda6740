"""The parent's end of a worker: a process that keeps its models warm and may die of a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from musicgen.errors import MusicgenError
from musicgen.process_limits import (
    OUT_OF_MEMORY_STATUS,
    OUT_OF_TIME_STATUSES,
    SINGLE_THREAD_VARIABLES,
)
from musicgen.web.worker_protocol import WorkerAnswer

COMMAND: Final = ("-P", "-m", "musicgen.web.worker_main")  # what this Python runs as the child
MAX_LINE: Final = 8 * 2**20
_PACKAGES: Final = Path(__file__).parents[2]
TIME_LIMIT_MESSAGE: Final = "reading took longer than its limit; a shorter piece of it will do"
MEMORY_LIMIT_MESSAGE: Final = (
    "it took more memory than there is for it; ask for less, or send a shorter piece"
)
START_FAILED_MESSAGE: Final = "the process that writes tunes does not start; try again"
CRASH_MESSAGE: Final = "the process that worked on it died ({}); ask again, or for something else"


class HttpError(MusicgenError):
    """A request that comes to nothing: the status of its answer, and one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WorkerLost(HttpError):
    """The worker is gone; the next request needs another."""


class WorkerCrashed(WorkerLost):
    """The worker ended by itself: by a fault of its own, or since others ended it."""


class WorkerUnavailable(WorkerLost):
    """There is no worker to ask, which says nothing of what was to be asked."""


class Worker:
    """One process, asked one thing at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, runs: Path, seconds: float) -> Worker:
        """Start a process and wait until it is there. Raises Away."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *COMMAND, str(runs.resolve()), stdin=PIPE, stdout=PIPE,
                stderr=DEVNULL, start_new_session=True, env=_build_environment(), limit=MAX_LINE,
            )  # fmt: skip
        except (OSError, ValueError) as fault:  # too many files or processes, no memory
            raise WorkerUnavailable(503, START_FAILED_MESSAGE) from fault
        worker = cls(process)
        try:
            async with asyncio.timeout(seconds):
                await worker._wait_for_answer(lambda _: None)
        except (TimeoutError, WorkerLost) as fault:
            await worker.stop()
            raise WorkerUnavailable(503, START_FAILED_MESSAGE) from fault
        except BaseException:
            await worker.stop()
            raise
        return worker

    async def ask(
        self,
        request: Mapping[str, Any],
        payload: bytes,
        seconds: float,
        on_progress: Callable[[int], None],
    ) -> WorkerAnswer:
        """Ask for something and wait for the answer; a process that takes too long is ended.

        on_progress: called with the bars written so far. Raises Refused; Died where it is gone.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._send(dict(request) | {"seconds": seconds}, payload)
                return await self._wait_for_answer(on_progress)
        except TimeoutError as fault:
            await self.stop()
            words = f"it took longer than {seconds:g} s and was stopped; ask for fewer bars"
            raise WorkerLost(400, words) from fault
        except asyncio.CancelledError:
            await asyncio.shield(self.stop())
            raise

    async def stop(self) -> int:
        """End the process; return its exit status, below 0 for a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdout is not None:  # while some of it is unread, its end is not seen
            with contextlib.suppress(OSError):
                while await self._process.stdout.read(2**16):
                    pass
        status = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    async def _send(self, request: dict[str, Any], payload: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        line = json.dumps(request | {"bytes": len(payload)}).encode()
        with contextlib.suppress(OSError):  # the wait for its answer will tell
            pipe.write(line + b"\n" + payload)
            await pipe.drain()

    async def _wait_for_answer(self, on_progress: Callable[[int], None]) -> WorkerAnswer:
        """Wait for the answer; a process that says what cannot be read is ended."""
        try:
            return await self._read_answer(on_progress)
        except TimeoutError:  # an OSError too, but the caller's
            raise
        except (OSError, ValueError) as fault:
            await self.stop()
            raise WorkerLost(503, CRASH_MESSAGE.format("its answer cannot be read")) from fault

    async def _read_answer(self, on_progress: Callable[[int], None]) -> WorkerAnswer:
        pipe = self._process.stdout
        assert pipe is not None
        while True:
            line = await pipe.readline()
            if not line.endswith(b"\n"):
                raise await self._diagnose_exit()
            words = json.loads(line)
            if "bars" in words:
                on_progress(int(words["bars"]))
            elif "refused" in words:
                status = 404 if words["kind"] == "NotFound" else 400
                raise HttpError(status, words["refused"])
            else:
                return WorkerAnswer(words["done"], await self._read_body(words["bytes"]))

    async def _read_body(self, count: int) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            return await pipe.readexactly(count)
        except asyncio.IncompleteReadError as fault:
            raise await self._diagnose_exit() from fault

    async def _diagnose_exit(self) -> WorkerLost:
        """Say why it is gone: it has closed its pipe, so it ends by itself or hangs."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._process.wait()
        status = await self.stop()
        if status in OUT_OF_TIME_STATUSES:
            return WorkerLost(400, TIME_LIMIT_MESSAGE)
        if status == OUT_OF_MEMORY_STATUS:
            return WorkerLost(400, MEMORY_LIMIT_MESSAGE)
        return WorkerCrashed(503, CRASH_MESSAGE.format(_describe_status(status)))


def _describe_status(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit status {status}"


def _build_environment() -> dict[str, str]:
    """Return the parent's environment, one thread a library, and where this package lies."""
    paths = (str(_PACKAGES), os.environ.get("PYTHONPATH", ""))
    own = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return {**os.environ, **SINGLE_THREAD_VARIABLES, **own}
