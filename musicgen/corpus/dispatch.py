"""Read files in this process, in child processes, or on the workers of an executor.

All three return the same lines, and write them to a spill file as they arrive. What was read of
each file is cached beside the data set, so that a later build reads only what changed. The key of
a file is a hash of its bytes and of everything that decides how it is read: its name, the codec,
the limits, the code of the reading packages, the versions of the libraries.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import queue
import threading
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Final, overload

from musicgen.corpus.encode import encode_file, refusal_to_json
from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.spill import Spool
from musicgen.errors import InvalidValue, MusicgenError, Refusal
from musicgen.files import hash_regular_file
from musicgen.tokens.codec import AnyCodec

_PACKAGE: Final = Path(__file__).parents[1]
_READING_PACKAGES: Final = ("music", "notation", "formats", "tokens", "corpus")
_LIBRARIES: Final = ("mido", "music21", "numpy", "symusic")


def compute_cache_key(file: TuneFile, codec: str, limits: object) -> bytes:
    """Return a file's key, b"" where its bytes cannot be read."""
    content = hash_regular_file(file.path, follow=file.named)
    if not content:
        return b""
    told = "\n".join([hash_reading_code(), codec, str(limits), file.name])
    return hashlib.sha256(content + told.encode("utf-8", "surrogateescape")).digest()


@cache
def hash_reading_code() -> str:
    """Return the hash of the code that reads files, other people's by version."""
    found = hashlib.sha256()
    for path in sorted(
        path for room in _READING_PACKAGES for path in (_PACKAGE / room).rglob("*.py")
    ):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    for library in _LIBRARIES:
        found.update(f"{library} {metadata.version(library)}".encode())
    return found.hexdigest()


def write_read_cache(path: Path, entries: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
    """Write files by key, each with its lines."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        for key, lines in entries:
            out.write(json.dumps({"file": key.hex()}).encode() + b"\n")
            for line in lines:
                out.write(line + b"\n")


def iter_read_cache(path: Path, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, bytes, Any]]:
    """Yield number, key and lines of the files whose keys are wanted, one after the other.

    The lines are to be read before the next file is asked for.
    """
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as packed:
        lines = _CacheReader(io.BufferedReader(packed, 2**16))
        while (key := lines.next_key()) is not None:
            if key in wanted:
                yield wanted[key], key, lines


class _CacheReader:
    """The lines of one file at a time."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._next_line = file.readline()

    def next_key(self) -> bytes | None:
        """Go to the next file and return its key, None after the last one."""
        for _ in self:
            pass
        if not self._next_line:
            return None
        key = bytes.fromhex(json.loads(self._next_line)["file"])
        self._next_line = self._file.readline()
        return key

    def __iter__(self) -> Iterator[bytes]:
        while self._next_line and not self._next_line.startswith(b'{"file"'):
            yield self._next_line[:-1]
            self._next_line = self._file.readline()


MAX_IN_FLIGHT: Final = 64  # files that an executor has at a time, unless it has more workers
PROGRESS_INTERVAL: Final = 50  # tunes
MAX_RESENDS: Final = 3  # times that a file is sent again, whose answer went lost
Lines = Iterator[bytes]
FileCallback = Callable[[int | None], None]  # a file that is done, or None: some tunes are


class PackedFiles(Sequence[TuneFile]):
    """Files end to end in one string of bytes: some hundred bytes a file, not some six hundred."""

    def __init__(self, files: Iterable[TuneFile]) -> None:
        packed = bytearray()
        self._edges = array("Q", [0])
        for file in files:
            words = (os.fspath(file.path), file.name, file.only, "named" * file.named)
            packed += "\0".join(words).encode("utf-8", "surrogatepass")
            self._edges.append(len(packed))
        self._packed = bytes(packed)

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, index: int) -> TuneFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[TuneFile]: ...
    def __getitem__(self, index: int | slice) -> TuneFile | list[TuneFile]:
        """Make a file anew."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        words = self._packed[self._edges[place] : self._edges[place + 1]]
        path, name, only, named = words.decode("utf-8", "surrogatepass").split("\0")
        return TuneFile(Path(path), name, named=bool(named), only=only)


@dataclass(frozen=True, slots=True)
class ReadTask:
    """What is to be read, and with what."""

    files: Sequence[TuneFile]
    codec: AnyCodec
    limits: ReadLimits

    def compute_key(self, number: int) -> bytes:
        """Return the key of a file: of its bytes, and of what reads them."""
        return compute_cache_key(self.files[number], self.codec.name, self.limits)


def read_here(task: ReadTask, todo: Sequence[int], spool: Spool, on_progress: FileCallback) -> None:
    """Read files in this process, one after the other."""
    for number in todo:
        lines = encode_file(task.files[number], task.codec)
        spool.add_file(number, task.compute_key(number), _track_lines(lines, on_progress))
        on_progress(number)


def read_in_children(
    task: ReadTask, todo: Sequence[int], spools: Sequence[Spool], on_progress: FileCallback
) -> None:
    """Read files in child processes, one for each spool; a thread waits for each."""
    crew = _ReaderThreads(task, todo)
    readers = [SandboxedReader(task.limits, task.codec.name) for _ in spools]
    threads = [
        threading.Thread(target=crew.run_reader, args=pair, daemon=True)
        for pair in zip(readers, spools, strict=True)
    ]
    try:
        for thread in threads:
            thread.start()
        crew.report_until_done(len(todo), on_progress)
    except BaseException:
        crew.stopped.set()
        for reader in readers:
            reader.cancel()
        raise
    finally:
        for thread in threads:
            thread.join()


class _ReaderThreads:
    """Threads that take the next file when they are done with one."""

    def __init__(self, task: ReadTask, todo: Sequence[int]) -> None:
        self.stopped = threading.Event()
        self._task = task
        self._waiting = iter(todo)
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def run_reader(self, reader: SandboxedReader, spool: Spool) -> None:
        """Read until no file waits."""
        try:
            with reader:
                while (number := self._next_file()) is not None:
                    lines = _track_lines(
                        reader.encode(self._task.files[number]), self._messages.put
                    )
                    spool.add_file(number, self._task.compute_key(number), lines)
                    self._messages.put(number)
        except BaseException as fault:  # noqa: BLE001 - the thread that waits raises it
            self._messages.put(fault)

    def report_until_done(self, count: int, on_progress: FileCallback) -> None:
        """Pass on what is done, until all is."""
        while count:
            news = self._messages.get()
            if isinstance(news, BaseException):
                raise news
            on_progress(news)
            count -= news is not None

    def _next_file(self) -> int | None:
        with self._lock:
            return None if self.stopped.is_set() else next(self._waiting, None)


def _track_lines(lines: Lines, on_progress: FileCallback) -> Lines:
    """Pass lines on, and tell of every some."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % PROGRESS_INTERVAL == 0:
            on_progress(None)


def read_by_executor(
    task: ReadTask, todo: Sequence[int], spool: Spool, on_progress: FileCallback, executor: Executor
) -> None:
    """Read files with an executor's workers, a bounded number at a time."""
    waiting = iter(todo)
    room = getattr(executor, "in_flight", MAX_IN_FLIGHT)
    flying = {
        _submit_file(task, number, executor): number for number in itertools.islice(waiting, room)
    }
    lost: Counter[int] = Counter()
    try:
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                number = flying.pop(future)
                if _is_lost(future) and lost[number] < MAX_RESENDS:
                    lost[number] += 1
                    following = [number]
                else:
                    lines = iter(_get_lines(future, task.files[number]).splitlines())
                    spool.add_file(
                        number, task.compute_key(number), _track_lines(lines, on_progress)
                    )
                    on_progress(number)
                    following = list(itertools.islice(waiting, 1))
                flying |= {_submit_file(task, n, executor): n for n in following}
    finally:
        for future in flying:
            future.cancel()


def _submit_file(task: ReadTask, number: int, executor: Executor) -> Future[bytes]:
    fields = {**asdict(task.files[number]), "path": os.fspath(task.files[number].path)}
    try:
        return executor.submit(read_on_worker, fields, task.codec.name, asdict(task.limits))
    except BrokenExecutor as fault:
        raise _broken_executor_error(task.files[number]) from fault


def _is_lost(future: Future[bytes]) -> bool:
    """Tell whether an answer went lost on its way, as with a worker that held it."""
    if future.cancelled():
        return True
    fault = future.exception()
    return fault is not None and not (isinstance(fault, BrokenExecutor) or _is_killed_worker(fault))


def _is_killed_worker(fault: BaseException) -> bool:
    """Tell whether Dask gave a file up because it killed worker after worker."""
    return type(fault).__name__ == "KilledWorker"


def _get_lines(future: Future[bytes], file: TuneFile) -> bytes:
    """Return a file's lines; where it killed worker after worker, its refusal."""
    try:
        return future.result()
    except BrokenExecutor as fault:
        raise _broken_executor_error(file) from fault
    except Exception as fault:
        if not _is_killed_worker(fault):
            raise
        message = "the workers that read it died; it was left out"
        return refusal_to_json(Refusal(message, source=file.name, code="crashed"))


def _broken_executor_error(file: TuneFile) -> MusicgenError:
    return MusicgenError(
        f"the executor's workers died while they read {file.name} or a file beside it;"
        " build with --jobs, which costs only the file"
    )


_THREAD_LOCAL: Final = threading.local()


class _ThreadReader:
    """A worker thread's reader; it ends with the thread."""

    def __init__(self, limits: dict[str, Any], codec: str) -> None:
        self.settings = (limits, codec)
        self.reader = SandboxedReader(ReadLimits(**limits), codec)
        weakref.finalize(self, self.reader.stop)


def read_on_worker(fields: dict[str, Any], codec: str, limits: dict[str, Any]) -> bytes:
    """Read a file by its path, in a child of this worker thread; what an executor runs."""
    held = getattr(_THREAD_LOCAL, "held", None)
    if held is None or held.kind != (limits, codec):
        held = _THREAD_LOCAL.held = _ThreadReader(limits, codec)
    file = TuneFile(**{**fields, "path": Path(fields["path"])})
    return b"\n".join(held.reader.encode(file))


class _DaskExecutor(Executor):
    """A Dask client as an executor.

    Dask's own drops what is asked of it where a worker dies between its answer and the asking:
    whoever waits then waits for ever. Here each future ends, if need be with a fault.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.in_flight = max(MAX_IN_FLIGHT, 2 * sum(client.nthreads().values()))
        self._dask_futures: dict[Future[Any], Any] = {}  # Dask forgets a task that nobody holds

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to the cluster."""
        sent = self._client.submit(fn, *args, **kwargs, pure=False, retries=3)
        answer: Future[Any] = Future()
        self._dask_futures[answer] = sent
        sent.add_done_callback(lambda done: self._forward_result(done, answer))
        return answer

    def _forward_result(self, done: Any, answer: Future[Any]) -> None:
        self._dask_futures.pop(answer, None)
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(done.result())
        except BaseException as fault:  # noqa: BLE001 - whoever waits for the answer raises it
            answer.set_exception(fault)


@contextmanager
def connect_dask(address: str) -> Iterator[Executor]:
    """Yield a Dask cluster as an executor. Raises InvalidValue where none answers."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError as fault:
        raise InvalidValue("--dask needs more: pip install musicgen[cluster]") from fault
    try:
        client = distributed.Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as fault:
        raise InvalidValue(
            f"no Dask scheduler answers at {address!r} ({fault!s:.60}); start one with"
            " dask scheduler, and its workers with dask worker ADDRESS"
        ) from fault
    with client:
        yield _DaskExecutor(client)
