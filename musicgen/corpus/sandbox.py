"""Read files in a sandboxed child process, which is fed one file after another.

A parser can crash, hang or exhaust memory. Files are therefore read by a child with limits, whose
death costs only the file that it was reading: `SandboxedReader.encode` yields what `encode_file`
yields, or a refusal. Both sides exchange lines of JSON; nothing is unpickled.

=============  ==================================================================================
CPU time       a timer in the child, restarted for each file and for each tune of an ABC book
wall clock     a watchdog in the parent: for a child that blocks, and where there is no timer
               (Windows)
memory         RLIMIT_DATA of the whole child, of which the interpreter and libraries take 60 MiB,
               100 with music21 (not on Windows)
=============  ==================================================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Self

from musicgen.corpus.encode import encode_file, refusal_to_json
from musicgen.corpus.sources import TuneFile
from musicgen.errors import InvalidValue, MusicgenError, Refusal
from musicgen.process_limits import (
    OUT_OF_MEMORY_STATUS,
    OUT_OF_TIME_STATUSES,
    SINGLE_THREAD_VARIABLES,
    describe_exit_status,
    disable_core_dumps,
    limit_memory,
    start_cpu_timer,
)
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import DEFAULT_CODEC, find_codec

CHILD_ARGUMENTS: Final = ("-P", "-m", "musicgen.corpus.sandbox")  # of the Python interpreter
SLOW_SUFFIXES: Final = (".mxl", ".musicxml", ".xml", ".krn")  # music21 is about 50 times slower
SLOW_FACTOR: Final = 12
WALL_FACTOR: Final = 6  # on a busy machine a file waits for the CPU
MIN_MEMORY_BYTES: Final = 192 * 2**20
MAX_LINE_BYTES: Final = 64 * 2**20
START_SECONDS: Final = 120.0
WATCHDOG_INTERVAL: Final = 0.2  # seconds
BOOK_SUFFIXES: Final = (".abc",)
_PACKAGE_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits on reading one file."""

    seconds: float = 5.0  # CPU time per file or tune of an ABC book; 12 times that with music21
    memory_bytes: int = 2**30  # of the whole child

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 1e6:
            raise InvalidValue(f"{self.seconds:g} seconds per file: give a number over 0")
        if self.memory_bytes < MIN_MEMORY_BYTES:
            minimum_mib = MIN_MEMORY_BYTES // 2**20
            raise InvalidValue(
                f"{self.memory_bytes} bytes per file: give at least {minimum_mib} MiB"
            )

    def seconds_for(self, name: str) -> float:
        """Return the CPU time in seconds for a file name."""
        return self.seconds * (SLOW_FACTOR if name.lower().endswith(SLOW_SUFFIXES) else 1)

    def wall_seconds_for(self, name: str) -> float:
        """Return how many seconds the parent waits for an answer about a file name."""
        return WALL_FACTOR * self.seconds_for(name)


class SandboxedReader:
    """A child process that reads files; a context manager, used by one thread."""

    def __init__(self, limits: ReadLimits | None = None, codec: str = DEFAULT_CODEC) -> None:
        self._limits = limits or ReadLimits()
        self._codec = codec
        self._child: ChildProcess | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.reap()
            self._child = None

    def cancel(self) -> None:
        """End the child from another thread; `encode` then raises CancelledError."""
        self._is_cancelled = True
        if (child := self._child) is not None:
            child.kill()

    def encode(self, file: TuneFile) -> Iterator[bytes]:
        """Yield what `encode_file` yields, or a refusal of a file that kills the child."""
        progress = _FileProgress(file)
        while not progress.is_done:
            if self._is_cancelled:
                raise CancelledError
            child, is_fresh = self._get_child()
            child.send_request(progress.to_request())
            try:
                yield from progress.iter_answers(child, self._limits)
            except _ChildDied as death:
                self._child = None
                if is_fresh or death.code == "too-slow":
                    yield refusal_to_json(progress.skip_current(death))
                else:
                    progress.restart()

    def _get_child(self) -> tuple[ChildProcess, bool]:
        """Return the child, and whether it is new and has read nothing yet."""
        if self._child is not None:
            return self._child, False
        self._child = ChildProcess(self._limits, self._codec)
        return self._child, True


class _ChildDied(Exception):
    """The child process ended; `code` is one of REASONS."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _FileProgress:
    """How far one file has been read, across the deaths of its readers."""

    def __init__(self, file: TuneFile) -> None:
        self.is_done = False
        self._file = file
        self._name = file.name  # of the file or the archive member that is being read
        self._member = 0
        self._yielded_count = 0  # its answers that were passed on
        self._repeat_count = 0  # of these, how many a new child will repeat

    def to_request(self) -> dict[str, Any]:
        """Return the request to read on from the current member."""
        file = self._file
        return {
            **file.to_fields(),
            "first": self._member,
        }

    def iter_answers(self, child: ChildProcess, limits: ReadLimits) -> Iterator[bytes]:
        """Yield the answers of the child. Raises _ChildDied."""
        while not self.is_done:
            line = child.read_answer(limits.wall_seconds_for(self._name))
            if line.startswith(b'{"at"'):
                self._set_position(**json.loads(line)["at"])
            elif line.startswith(b'{"done"'):
                self.is_done = True
            elif self._repeat_count:
                self._repeat_count -= 1
            else:
                self._yielded_count += 1
                yield line

    def restart(self) -> None:
        """Read the current file or member again, without repeating the answers passed on."""
        self._repeat_count = self._yielded_count

    def skip_current(self, death: _ChildDied) -> Refusal:
        """Refuse the current file or member, and move on to the next member of the archive."""
        name, tunes = self._name, self._yielded_count
        place = f"after {tunes} tunes" if tunes else ""
        consequence = "the rest of it was left out" if tunes else "it was left out"
        self.is_done = name == self._file.name
        self._set_position(self._file.name, self._member + 1)
        return Refusal(f"{death.reason}; {consequence}", source=name, place=place, code=death.code)

    def _set_position(self, name: str, member: int) -> None:
        if (name, member) != (self._name, self._member):
            self._yielded_count = self._repeat_count = 0
        self._name, self._member = name, member


class ChildProcess:
    """A child process as its parent sees it."""

    def __init__(self, limits: ReadLimits, codec: str) -> None:
        with tempfile.TemporaryFile() as stderr:
            self._process = _spawn(stderr)
            self._watchdog = _Watchdog(self._process.kill)
            self.send_request({"codec": codec, "limits": asdict(limits)})
            try:
                self.read_answer(START_SECONDS)
            except _ChildDied as death:
                stderr.seek(0)
                raise _start_error(death, stderr.read()) from death

    def send_request(self, request: dict[str, Any]) -> None:
        """Send a request; if the child is dead, `read_answer` raises."""
        with contextlib.suppress(OSError):
            pipe = _require_pipe(self._process.stdin)
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()

    def read_answer(self, seconds: float) -> bytes:
        """Wait up to some seconds for a line. Raises _ChildDied."""
        with self._watchdog.limit_time(seconds):
            line = _require_pipe(self._process.stdout).readline(MAX_LINE_BYTES)
        if line.endswith(b"\n"):
            return line[:-1]
        raise self._death_error()

    def kill(self) -> None:
        """Kill the process; another thread may call this."""
        self._process.kill()

    def reap(self) -> int:
        """Kill the process and wait; return its exit status, below 0 for a signal."""
        self._watchdog.stop()
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                _require_pipe(pipe).close()
        return status

    def _death_error(self) -> _ChildDied:
        status = self.reap()
        if self._watchdog.has_timed_out or status in OUT_OF_TIME_STATUSES:
            return _ChildDied("too-slow", "reading took longer than its limit")
        if status == OUT_OF_MEMORY_STATUS:
            return _ChildDied("memory", "reading took more memory than its limit")
        return _ChildDied("crashed", f"the reader process died ({describe_exit_status(status)})")


class _Watchdog:
    """A thread that kills a child that does not answer in time."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.has_timed_out = False
        self._kill = kill
        self._deadline = math.inf
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    @contextlib.contextmanager
    def limit_time(self, seconds: float) -> Iterator[None]:
        """Kill the child if the block takes more than some seconds."""
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = math.inf

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _poll(self) -> None:
        while not self._stopped.wait(WATCHDOG_INTERVAL):
            if time.monotonic() > self._deadline:
                self.has_timed_out = True
                self._kill()
                return


def _spawn(stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that it receives no Ctrl-C."""
    return subprocess.Popen(  # noqa: S603 - a fixed command, this Python interpreter
        [sys.executable, *CHILD_ARGUMENTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env=_build_environment(),
    )


def _build_environment() -> dict[str, str]:
    """Return the environment of a child: single-threaded libraries, this package on the path."""
    paths = (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", ""))
    python_path = os.pathsep.join(path for path in paths if path)
    return {**os.environ, **SINGLE_THREAD_VARIABLES, "PYTHONPATH": python_path}


def _start_error(death: _ChildDied, stderr: bytes) -> MusicgenError:
    last_line = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return MusicgenError(
        f"the reader process does not start ({last_line or death.reason});"
        f" see the output of {sys.executable} -m musicgen.corpus.sandbox"
    )


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


# In the child process


def main() -> None:
    """Answer the requests of the parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # where libraries print
    requests = sys.stdin.buffer
    settings = json.loads(requests.readline() or b"null")
    if settings is None:
        return
    codec, limits = find_codec(settings["codec"]), ReadLimits(**settings["limits"])
    limit_memory(limits.memory_bytes, permanent=True)
    disable_core_dumps()
    _write_message(answers, {"ready": True})
    with Path(os.devnull).open("wb") as null_device:
        os.dup2(null_device.fileno(), 1)
        os.dup2(null_device.fileno(), 2)
    try:
        serve(requests, answers, codec, limits)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)


def serve(
    requests: Iterable[bytes], answers: IO[bytes], codec: AnyCodec, limits: ReadLimits
) -> None:
    """Read one file per request line, each within the limits."""
    for line in requests:
        request = json.loads(line)
        first = request.pop("first")
        file = TuneFile.from_fields(request)
        timer = _CpuTimer(limits)
        timer.start(file.name)
        on_start = partial(_start_member, answers, timer, first)
        for answer in encode_file(file, codec, on_start=on_start, first=first):
            answers.write(answer + b"\n")
            answers.flush()
            timer.start_next_tune()
        timer.stop()
        _write_message(answers, {"done": True})


def _start_member(answers: IO[bytes], timer: _CpuTimer, first: int, name: str, member: int) -> None:
    """Restart the timer, and report which member is read now."""
    timer.start(name)
    if member >= first:
        _write_message(answers, {"at": {"name": name, "member": member}})


class _CpuTimer:
    """The CPU timer that ends this process if reading takes too long."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._name = ""

    def start(self, name: str) -> None:
        """Restart the timer for a file or a member of an archive."""
        self._name = name
        start_cpu_timer(self._limits.seconds_for(name))

    def start_next_tune(self) -> None:
        """Restart the timer for the next tune of an ABC book; other files hold one tune."""
        if self._name.lower().endswith(BOOK_SUFFIXES):
            self.start(self._name)

    def stop(self) -> None:
        """Stop the timer."""
        start_cpu_timer(0)


def _write_message(answers: IO[bytes], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
