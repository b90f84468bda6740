"""Reading where it may die: a child process that is fed one file after the other.

A parser can crash, hang or eat the memory. So files are read by a child that lives under limits,
and its death costs the file that it read: `Reader.encode` answers as `encode_file` does, whatever
happens. Both sides speak in lines of JSON; nothing is unpickled.

=============  ==================================================================================
CPU time       a timer in the child that is set anew for each file, and each tune of an ABC book
wall clock     a watch in the parent: for a child that waits for something, and where there is
               no timer (Windows)
memory         RLIMIT_DATA, for the whole child: the interpreter and libraries have 60 MiB of it,
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
from types import TracebackType
from typing import IO, Any, Final, Self

from musicgen.corpus.encode import encode_file, refusal_to_json
from musicgen.corpus.sources import TuneFile
from musicgen.errors import InvalidValue, MusicgenError, Refusal
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import DEFAULT_CODEC, find_codec

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CHILD_ARGUMENTS: Final = (
    "-P",
    "-m",
    "musicgen.corpus.sandbox",
)  # what this Python runs as the child
SLOW_SUFFIXES: Final = (
    ".mxl",
    ".musicxml",
    ".xml",
    ".krn",
)  # music21 reads these, some 50 times slower
SLOW_FACTOR: Final = 12
WALL_FACTOR: Final = 6  # on a busy machine an honest file waits for the CPU
MIN_MEMORY: Final = 192 * 2**20
MAX_LINE: Final = 64 * 2**20
START_SECONDS: Final = 120.0
WATCHDOG_INTERVAL: Final = 0.2
BOOK_SUFFIXES: Final = (".abc",)
_PACKAGE_ROOT: Final = Path(__file__).parents[2]
_OUT_OF_MEMORY_STATUS: Final = 77  # the child's exit code for it
_OUT_OF_TIME_STATUSES: Final = tuple(
    -number for name in ("SIGPROF", "SIGXCPU") if (number := getattr(signal, name, 0))
)
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What the reading of one file may cost."""

    seconds: float = 5.0  # of CPU, a file or a tune of an ABC book; what music21 reads has 12 times
    memory_bytes: int = 2**30  # of the child in all

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 1e6:
            raise InvalidValue(f"{self.seconds:g} seconds a file: give a number over 0")
        if self.memory_bytes < MIN_MEMORY:
            least = MIN_MEMORY // 2**20
            raise InvalidValue(f"{self.memory_bytes} bytes a file: give at least {least} MiB")

    def seconds_for(self, name: str) -> float:
        """Return the CPU time for a file of a name."""
        return self.seconds * (SLOW_FACTOR if name.lower().endswith(SLOW_SUFFIXES) else 1)

    def wall_seconds_for(self, name: str) -> float:
        """Return how long the parent waits for a word about it."""
        return WALL_FACTOR * self.seconds_for(name)


class SandboxedReader:
    """One child that reads files; a context manager, for one thread."""

    def __init__(self, limits: ReadLimits | None = None, codec: str = DEFAULT_CODEC) -> None:
        self._limits = limits or ReadLimits()
        self._codec = codec
        self._child: ChildProcess | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.reap()
            self._child = None

    def cancel(self) -> None:
        """End the child from another thread; `encode` raises CancelledError then."""
        self._is_cancelled = True
        if (child := self._child) is not None:
            child.kill()

    def encode(self, file: TuneFile) -> Iterator[bytes]:
        """Yield what `encode_file` yields; what kills the child becomes a refusal."""
        reading = _FileProgress(file)
        while not reading.is_over:
            if self._is_cancelled:
                raise CancelledError
            child, is_fresh = self._get_child()
            child.send_request(reading.to_request())
            try:
                yield from reading.iter_answers(child, self._limits)
            except _ChildDied as death:
                self._child = None
                if is_fresh or death.code == "too-slow":
                    yield refusal_to_json(reading.skip_current(death))
                else:
                    reading.restart()

    def _get_child(self) -> tuple[ChildProcess, bool]:
        """Return the child, and whether it has read nothing yet."""
        if self._child is not None:
            return self._child, False
        self._child = ChildProcess(self._limits, self._codec)
        return self._child, True


class _ChildDied(Exception):
    """The child is gone."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class _FileProgress:
    """How far the reading of one file has come, over the deaths of its readers."""

    def __init__(self, file: TuneFile) -> None:
        self.is_over = False
        self._file = file
        self._name = file.name  # what is being read: the file, or a member of an archive
        self._member = 0
        self._yielded_count = 0  # answers about it that were passed on
        self._repeat_count = 0  # of these, how many the child will say again

    def to_request(self) -> dict[str, Any]:
        file = self._file
        return {
            "path": os.fspath(file.path),
            "name": file.name,
            "named": file.named,
            "only": file.only,
            "first": self._member,
        }

    def iter_answers(self, child: ChildProcess, limits: ReadLimits) -> Iterator[bytes]:
        """Yield the child's answers. Raises _Died."""
        while not self.is_over:
            line = child.read_answer(limits.wall_seconds_for(self._name))
            if line.startswith(b'{"at"'):
                self._set_position(**json.loads(line)["at"])
            elif line.startswith(b'{"done"'):
                self.is_over = True
            elif self._repeat_count:
                self._repeat_count -= 1
            else:
                self._yielded_count += 1
                yield line

    def restart(self) -> None:
        """Read what was being read once more, without saying again what was said."""
        self._repeat_count = self._yielded_count

    def skip_current(self, death: _ChildDied) -> Refusal:
        """Leave out what was being read, and go on with the archive's next member."""
        name, place = (
            self._name,
            f"after {self._yielded_count} tunes" if self._yielded_count else "",
        )
        rest = "the rest of it was left out" if self._yielded_count else "it was left out"
        self.is_over = name == self._file.name
        self._set_position(self._file.name, self._member + 1)
        return Refusal(f"{death.why}; {rest}", source=name, place=place, code=death.code)

    def _set_position(self, name: str, member: int) -> None:
        if (name, member) != (self._name, self._member):
            self._yielded_count = self._repeat_count = 0
        self._name, self._member = name, member


class ChildProcess:
    """The parent's end of one process."""

    def __init__(self, limits: ReadLimits, codec: str) -> None:
        with tempfile.TemporaryFile() as complaints:
            self._process = _spawn(complaints)
            self._watchdog = _Watchdog(self._process.kill)
            self.send_request({"codec": codec, "limits": asdict(limits)})
            try:
                self.read_answer(START_SECONDS)
            except _ChildDied as death:
                complaints.seek(0)
                raise _start_error(death, complaints.read()) from death

    def send_request(self, request: dict[str, Any]) -> None:
        """Send a request; if the child is dead, the wait for its answer will tell."""
        with contextlib.suppress(OSError):
            pipe = _require_pipe(self._process.stdin)
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()

    def read_answer(self, seconds: float) -> bytes:
        """Wait for a line. Raises _Died."""
        with self._watchdog.limit_time(seconds):
            line = _require_pipe(self._process.stdout).readline(MAX_LINE)
        if line.endswith(b"\n"):
            return line[:-1]
        raise self._death_error()

    def kill(self) -> None:
        """End the process, whatever it does; another thread may call this."""
        self._process.kill()

    def reap(self) -> int:
        """End it and wait; return its exit status, below 0 for a signal."""
        self._watchdog.stop()
        self._process.kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                _require_pipe(pipe).close()
        return status

    def _death_error(self) -> _ChildDied:
        status = self.reap()
        if self._watchdog.has_timed_out or status in _OUT_OF_TIME_STATUSES:
            return _ChildDied("too-slow", "reading took longer than its limit")
        if status == _OUT_OF_MEMORY_STATUS:
            return _ChildDied("memory", "reading took more memory than its limit")
        return _ChildDied("crashed", f"the program that reads it died ({_describe_status(status)})")


class _Watchdog:
    """A thread that kills a child which keeps its parent waiting."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.has_timed_out = False
        self._kill = kill
        self._deadline = math.inf
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    @contextlib.contextmanager
    def limit_time(self, seconds: float) -> Iterator[None]:
        """Give the child some seconds for what the block waits for."""
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = math.inf

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _poll(self) -> None:
        while not self._stopped.wait(WATCHDOG_INTERVAL):
            if time.monotonic() > self._deadline:
                self.has_timed_out = True
                self._kill()
                return


def _spawn(stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a child; it hears no keys, for it has no terminal."""
    return subprocess.Popen(  # noqa: S603 - one fixed command, this Python itself
        [sys.executable, *CHILD_ARGUMENTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env=_build_environment(),
    )


def _build_environment() -> dict[str, str]:
    """Return the parent's environment, one thread a library, and where this package lies."""
    paths = (str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", ""))
    own = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1"), **own}


def _start_error(death: _ChildDied, stderr: bytes) -> MusicgenError:
    last = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return MusicgenError(
        f"the reading process does not start ({last or death.why});"
        f" see what {sys.executable} -m musicgen.corpus.sandbox says"
    )


def _describe_status(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit status {status}"


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


# The child


def main() -> None:
    """Answer the requests of a parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    requests = sys.stdin.buffer
    first = json.loads(requests.readline() or b"null")
    if first is None:
        return
    codec, limits = find_codec(first["codec"]), ReadLimits(**first["limits"])
    _limit_memory(limits)
    _write_message(answers, {"ready": True})
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        serve(requests, answers, codec, limits)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except MemoryError:
        os._exit(_OUT_OF_MEMORY_STATUS)


def serve(
    requests: Iterable[bytes], answers: IO[bytes], codec: AnyCodec, limits: ReadLimits
) -> None:
    """Read one file a line of the requests, each within the limits."""
    for line in requests:
        request = json.loads(line)
        first = request.pop("first")
        file = TuneFile(**{**request, "path": Path(request["path"])})
        clock = _CpuTimer(limits)
        clock.start(file.name)
        starting = partial(_start_member, answers, clock, first)
        for answer in encode_file(file, codec, on_start=starting, first=first):
            answers.write(answer + b"\n")
            answers.flush()
            clock.start_next_tune()
        clock.stop()
        _write_message(answers, {"done": True})


def _start_member(answers: IO[bytes], timer: _CpuTimer, first: int, name: str, member: int) -> None:
    """Set the clock anew, and say what is read now."""
    timer.start(name)
    if member >= first:
        _write_message(answers, {"at": {"name": name, "member": member}})


class _CpuTimer:
    """The timer that ends a child which computes for too long."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._name = ""

    def start(self, name: str) -> None:
        """Start on a file, or a member of an archive."""
        self._name = name
        self._set_timer(self._limits.seconds_for(name))

    def start_next_tune(self) -> None:
        """Start on the next tune of a book; other files hold one."""
        if self._name.lower().endswith(BOOK_SUFFIXES):
            self.start(self._name)

    def stop(self) -> None:
        """Rest."""
        self._set_timer(0)

    @staticmethod
    def _set_timer(seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(limits: ReadLimits) -> None:
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _write_message(answers: IO[bytes], message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
