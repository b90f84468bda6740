"""Read files in this process, in child processes, or on the workers of an executor.

All three give the same lines of JSON and write them to a spool as they arrive. The lines are cached
beside the data set, so that a later build reads only what changed. The cache key of a file is a
hash of its bytes and of everything that decides how it is read: its name, the codec, the limits,
the code of the reading packages, the versions of the libraries.
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
from typing import Any, Final

from musicgen.corpus.disk_storage import LazySequence, Spool
from musicgen.corpus.encode import encode_file, refusal_to_json
from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import TuneFile
from musicgen.errors import InvalidValue, MusicgenError, Refusal
from musicgen.files import hash_regular_file
from musicgen.tokens.codec import AnyCodec

_PACKAGE: Final = Path(__file__).parents[1]
_READING_PACKAGES: Final = ("music", "notation", "formats", "tokens", "corpus")
_LIBRARIES: Final = ("mido", "music21", "numpy")
MAX_IN_FLIGHT: Final = 64  # files that an executor holds at a time, unless it has more workers
PROGRESS_INTERVAL: Final = 50  # tunes
CONNECT_SECONDS = 10.0  # for a Dask scheduler to answer; tests set it lower
MAX_RESENDS: Final = 3  # times that a file is sent again after its result was lost
Lines = Iterator[bytes]
FileCallback = Callable[[int | None], None]  # the number of a finished file, or None: some tunes


def compute_cache_key(file: TuneFile, codec: str, limits: object) -> bytes:
    """Return the cache key of a file, b"" if it cannot be read."""
    content = hash_regular_file(file.path, follow=file.named)
    if not content:
        return b""
    labels = (file.left_out, file.rhythm, file.tonic)
    card = (*labels, *file.part_names, "chords" * file.chords_as_part)
    reader = "\n".join([hash_reading_code(), codec, str(limits), file.name, *card])
    return hashlib.sha256(content + reader.encode("utf-8", "surrogateescape")).digest()


@cache
def hash_reading_code() -> str:
    """Return a hash of the code that reads files; of libraries, the version counts."""
    code_hash = hashlib.sha256()
    modules = (path for name in _READING_PACKAGES for path in (_PACKAGE / name).rglob("*.py"))
    for path in sorted(modules):
        code_hash.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    for library in _LIBRARIES:
        code_hash.update(f"{library} {metadata.version(library)}".encode())
    return code_hash.hexdigest()


def write_read_cache(path: Path, entries: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
    """Write the keys and lines of files to a compressed cache."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        for key, lines in entries:
            out.write(json.dumps({"file": key.hex()}).encode() + b"\n")
            for line in lines:
                out.write(line + b"\n")


def iter_read_cache(path: Path, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, bytes, Lines]]:
    """Yield the number, key and lines of each cached file that is wanted.

    Args:
        path: the cache.
        wanted: the numbers of the wanted files, by key.

    Yields:
        Number, key and lines; consume the lines before requesting the next file.
    """
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as packed:
        lines = _CacheReader(io.BufferedReader(packed, 2**16))
        while (key := lines.next_key()) is not None:
            if key in wanted:
                yield wanted[key], key, iter(lines)


class _CacheReader:
    """Iterate over a cache file by file: over the keys, and over the lines of the current file."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._next_line = file.readline()

    def next_key(self) -> bytes | None:
        """Skip to the next file and return its key, or None after the last one."""
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


class PackedFiles(LazySequence[TuneFile]):
    """Files packed into one byte string: about 100 bytes per file instead of 600."""

    def __init__(self, files: Iterable[TuneFile]) -> None:
        packed = bytearray()
        self._edges = array("Q", [0])
        for file in files:
            fields = (
                os.fspath(file.path), file.name, file.only, "named" * file.named,
                "chords" * file.chords_as_part, file.left_out, file.rhythm, file.tonic,
                *file.part_names,
            )  # fmt: skip
            packed += "\0".join(fields).encode("utf-8", "surrogatepass")
            self._edges.append(len(packed))
        self._packed = bytes(packed)

    def __len__(self) -> int:
        return len(self._edges) - 1

    def get_item(self, index: int) -> TuneFile:
        """Unpack a file."""
        fields = self._packed[self._edges[index] : self._edges[index + 1]]
        path, name, only, named, chords, rule, rhythm, tonic, *part_names = fields.decode(
            "utf-8", "surrogatepass"
        ).split("\0")
        return TuneFile(
            Path(path), name, bool(named), only, rule, part_names=tuple(part_names), rhythm=rhythm,
            chords_as_part=bool(chords), tonic=tonic,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadTask:
    """The files to read, and how to read them."""

    files: Sequence[TuneFile]
    codec: AnyCodec
    limits: ReadLimits

    def compute_key(self, number: int) -> bytes:
        """Return the cache key of a file."""
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
    """Read files in child processes, one child and one thread per spool."""
    workers = _ReaderThreads(task, todo)
    readers = [SandboxedReader(task.limits, task.codec.name) for _ in spools]
    threads = [
        threading.Thread(target=workers.run_reader, args=pair, daemon=True)
        for pair in zip(readers, spools, strict=True)
    ]
    try:
        for thread in threads:
            thread.start()
        workers.report_until_done(len(todo), on_progress)
    except BaseException:
        workers.stopped.set()
        for reader in readers:
            reader.cancel()
        raise
    finally:
        for thread in threads:
            thread.join()


class _ReaderThreads:
    """The shared state of threads that each take the next file when they finish one."""

    def __init__(self, task: ReadTask, todo: Sequence[int]) -> None:
        self.stopped = threading.Event()
        self._task = task
        self._pending = iter(todo)
        self._lock = threading.Lock()
        self._messages: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def run_reader(self, reader: SandboxedReader, spool: Spool) -> None:
        """Read files until none is left."""
        try:
            with reader:
                while (number := self._next_file()) is not None:
                    lines = _track_lines(
                        reader.encode(self._task.files[number]), self._messages.put
                    )
                    spool.add_file(number, self._task.compute_key(number), lines)
                    self._messages.put(number)
        except BaseException as fault:  # noqa: BLE001 - report_until_done raises it
            self._messages.put(fault)

    def report_until_done(self, count: int, on_progress: FileCallback) -> None:
        """Report finished files until `count` are done; raise the first error of a thread."""
        while count:
            message = self._messages.get()
            if isinstance(message, BaseException):
                raise message
            on_progress(message)
            count -= message is not None

    def _next_file(self) -> int | None:
        with self._lock:
            return None if self.stopped.is_set() else next(self._pending, None)


def _track_lines(lines: Lines, on_progress: FileCallback) -> Lines:
    """Pass lines on; report progress every PROGRESS_INTERVAL lines."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % PROGRESS_INTERVAL == 0:
            on_progress(None)


def read_by_executor(
    task: ReadTask, todo: Sequence[int], spool: Spool, on_progress: FileCallback, executor: Executor
) -> None:
    """Read files on the workers of an executor, a bounded number at a time."""
    pending = iter(todo)
    max_in_flight = getattr(executor, "in_flight", MAX_IN_FLIGHT)
    in_flight = {
        _submit_file(task, number, executor): number
        for number in itertools.islice(pending, max_in_flight)
    }
    losses: Counter[int] = Counter()  # per file
    try:
        while in_flight:
            done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
            for future in done:
                number = in_flight.pop(future)
                if _is_lost(future) and losses[number] < MAX_RESENDS:
                    losses[number] += 1
                    next_numbers = [number]
                else:
                    lines = iter(_get_lines(future, task.files[number]).splitlines())
                    spool.add_file(
                        number, task.compute_key(number), _track_lines(lines, on_progress)
                    )
                    on_progress(number)
                    next_numbers = list(itertools.islice(pending, 1))
                in_flight |= {_submit_file(task, n, executor): n for n in next_numbers}
    finally:
        for future in in_flight:
            future.cancel()


def _submit_file(task: ReadTask, number: int, executor: Executor) -> Future[bytes]:
    fields = task.files[number].to_fields()
    try:
        return executor.submit(read_on_worker, fields, task.codec.name, asdict(task.limits))
    except BrokenExecutor as fault:
        raise _broken_executor_error(task.files[number]) from fault


def _is_lost(future: Future[bytes]) -> bool:
    """Tell whether a result was lost in transit, for example with the worker that held it."""
    if future.cancelled():
        return True
    fault = future.exception()
    return fault is not None and not (isinstance(fault, BrokenExecutor) or _is_killed_worker(fault))


def _is_killed_worker(fault: BaseException) -> bool:
    """Tell whether Dask gave up on a file because it killed several workers."""
    return type(fault).__name__ == "KilledWorker"


def _get_lines(future: Future[bytes], file: TuneFile) -> bytes:
    """Return the lines of a file, or a refusal if it killed several workers."""
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
        f"the executor's workers died while reading {file.name} or another file;"
        " build with --jobs, which leaves out only that file"
    )


_THREAD_LOCAL: Final = threading.local()


class _ThreadReader:
    """The sandboxed reader of a worker thread; it ends with the thread."""

    def __init__(self, limits: dict[str, Any], codec: str) -> None:
        self.settings = (limits, codec)
        self.reader = SandboxedReader(ReadLimits(**limits), codec)
        weakref.finalize(self, self.reader.stop)


def read_on_worker(fields: dict[str, Any], codec: str, limits: dict[str, Any]) -> bytes:
    """Read a file in a sandboxed child of this worker thread; executors run this function."""
    current: _ThreadReader | None = getattr(_THREAD_LOCAL, "current", None)
    if current is None or current.settings != (limits, codec):
        current = _THREAD_LOCAL.current = _ThreadReader(limits, codec)
    file = TuneFile.from_fields(fields)
    return b"\n".join(current.reader.encode(file))


class _DaskExecutor(Executor):
    """A Dask client as an executor.

    The executor of Dask itself never completes a future whose worker dies after it computed the
    result and before it sent it. Here every future completes, possibly with an exception.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.in_flight = max(MAX_IN_FLIGHT, 2 * sum(client.nthreads().values()))
        self._dask_futures: dict[Future[Any], Any] = {}  # Dask drops tasks without a reference

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to the cluster."""
        dask_future = self._client.submit(fn, *args, **kwargs, pure=False, retries=3)
        future: Future[Any] = Future()
        self._dask_futures[future] = dask_future
        dask_future.add_done_callback(lambda done: self._forward_result(done, future))
        return future

    def _forward_result(self, dask_future: Any, future: Future[Any]) -> None:
        self._dask_futures.pop(future, None)
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(dask_future.result())
        except BaseException as fault:  # noqa: BLE001 - future.result() raises it
            future.set_exception(fault)


@contextmanager
def connect_dask(address: str) -> Iterator[Executor]:
    """Yield a Dask cluster as an executor. Raises InvalidValue if no scheduler answers."""
    try:
        distributed: Any = import_module("distributed")
    except ImportError as fault:
        raise InvalidValue("--dask needs Dask: pip install musicgen[cluster]") from fault
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as fault:
        raise InvalidValue(
            f"no Dask scheduler answers at {address!r} ({fault!s:.60}); start one with"
            " dask scheduler, and its workers with dask worker ADDRESS"
        ) from fault
    with client:
        yield _DaskExecutor(client)
