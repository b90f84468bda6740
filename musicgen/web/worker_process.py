"""A worker, a process that keeps models loaded and may crash on a request: the parent's end.

The messages are one line of JSON each, and perhaps a body:

    parent -> worker   {"do": ..., "seconds": s, "bytes": n}, then n bytes
    worker -> parent   {"bars": 3}, any number of times; then {"refused": "one line", "kind": class}
                       or {"done": {...}, "bytes": n} and n bytes

Nothing is unpickled. `worker_main` is the worker's end; this module imports none of what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from musicgen.errors import MusicgenError
from musicgen.process_limits import (
    OUT_OF_MEMORY_STATUS,
    OUT_OF_TIME_STATUSES,
    SINGLE_THREAD_VARIABLES,
    describe_exit_status,
)


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """The answer to a request: a small JSON object, and perhaps a body."""

    head: dict[str, Any]
    body: bytes = b""


RequestHandler: TypeAlias = Callable[[dict[str, Any], bytes], WorkerAnswer]


@dataclass(slots=True)
class ProgressWriter:
    """Write messages to the parent, and count the bars of the tune being written."""

    stream: IO[bytes]
    bars: int = field(default=0, init=False)

    def count_bar(self) -> None:
        """Report that another bar was started."""
        self.bars += 1
        self.write_line({"bars": self.bars})

    def write_line(self, message: dict[str, Any], body: bytes = b"") -> None:
        """Send a message, followed by its body."""
        self.stream.write(json.dumps(message).encode() + b"\n" + body)
        self.stream.flush()

    def answer_request(
        self, request: dict[str, Any], payload: bytes, handler: RequestHandler
    ) -> None:
        """Handle a request, and send the answer or the error."""
        self.bars = 0
        try:
            answer = handler(request, payload)
        except MusicgenError as fault:
            self.write_line({"refused": str(fault), "kind": type(fault).__name__})
            return
        self.write_line({"done": answer.head, "bytes": len(answer.body)}, answer.body)


COMMAND: Final = ("-P", "-m", "musicgen.web.worker_main")  # arguments of the Python interpreter
MAX_LINE: Final = 8 * 2**20
_PACKAGES: Final = Path(__file__).parents[2]
TIME_LIMIT_MESSAGE: Final = "parsing the file exceeded the time limit; send a shorter file"
MEMORY_LIMIT_MESSAGE: Final = (
    "the request exceeded the memory limit; ask for fewer bars, or send a shorter file"
)
START_FAILED_MESSAGE: Final = "the worker process does not start; try again"
CRASH_MESSAGE: Final = "the worker process crashed ({}); try again, or change the request"


class HttpError(MusicgenError):
    """A request failed: the HTTP status of the response, and an error message of one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WorkerLost(HttpError):
    """The worker ended; the next request needs another."""


class WorkerCrashed(WorkerLost):
    """The worker process crashed, or was killed from outside."""


class WorkerUnavailable(WorkerLost):
    """No worker could be started; the request was not tried."""


class Worker:
    """One worker process, which handles one request at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, runs: Path, seconds: float) -> Worker:
        """Start a process and wait until it is ready.

        Args:
            runs: folder of the run folders.
            seconds: time limit.

        Raises:
            WorkerUnavailable: the process does not start in time.
        """
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
        """Send a request and wait for the answer; kill the process if it exceeds the time limit.

        Args:
            request: the name of a handler as "do", and its arguments.
            payload: bytes sent after the request.
            seconds: time limit.
            on_progress: called with the number of bars written so far.

        Raises:
            HttpError: the worker refused the request.
            WorkerLost: the process ended, or exceeded the time limit.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._send(dict(request) | {"seconds": seconds}, payload)
                return await self._wait_for_answer(on_progress)
        except TimeoutError as fault:
            await self.stop()
            message = f"the job exceeded {seconds:g} s and was stopped; ask for fewer bars"
            raise WorkerLost(400, message) from fault
        except asyncio.CancelledError:
            await asyncio.shield(self.stop())
            raise

    async def stop(self) -> int:
        """Kill the process; return its exit status, negative for a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdout is not None:  # wait() returns only once the pipe is drained
            with contextlib.suppress(OSError):
                while await self._process.stdout.read(2**16):
                    pass
        status = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def _send(self, request: dict[str, Any], payload: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        line = json.dumps(request | {"bytes": len(payload)}).encode()
        with contextlib.suppress(OSError):  # reading the answer will fail, with the reason
            pipe.write(line + b"\n" + payload)
            await pipe.drain()

    async def _wait_for_answer(self, on_progress: Callable[[int], None]) -> WorkerAnswer:
        """Wait for the answer; kill a process whose answer cannot be read."""
        try:
            return await self._read_answer(on_progress)
        except TimeoutError:  # a subclass of OSError that the caller handles
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
            message = json.loads(line)
            if "bars" in message:
                on_progress(int(message["bars"]))
            elif "refused" in message:
                status = 404 if message["kind"] == "NotFound" else 400
                raise HttpError(status, message["refused"])
            else:
                return WorkerAnswer(message["done"], await self._read_body(message["bytes"]))

    async def _read_body(self, count: int) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        try:
            return await pipe.readexactly(count)
        except asyncio.IncompleteReadError as fault:
            raise await self._diagnose_exit() from fault

    async def _diagnose_exit(self) -> WorkerLost:
        """Return why the process closed its pipe; kill it if it does not end within a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._process.wait()
        status = await self.stop()
        if status in OUT_OF_TIME_STATUSES:
            return WorkerLost(400, TIME_LIMIT_MESSAGE)
        if status == OUT_OF_MEMORY_STATUS:
            return WorkerLost(400, MEMORY_LIMIT_MESSAGE)
        return WorkerCrashed(503, CRASH_MESSAGE.format(describe_exit_status(status)))


def _build_environment() -> dict[str, str]:
    """Return the parent's environment with this package on the path and one thread per library."""
    paths = (str(_PACKAGES), os.environ.get("PYTHONPATH", ""))
    python_path = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return {**os.environ, **SINGLE_THREAD_VARIABLES, **python_path}
