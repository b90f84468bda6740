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

from musicgen.corpus.encode import encode_file, refused
from musicgen.corpus.sandbox import Limits, Reader
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.spill import Spool
from musicgen.errors import InvalidValue, MusicgenError, Refusal
from musicgen.files import hash_regular
from musicgen.tokens.codec import AnyCodec

_PACKAGE: Final = Path(__file__).parents[1]
_ROOMS: Final = ("music", "notation", "formats", "tokens", "corpus")
_LIBRARIES: Final = ("mido", "music21", "numpy", "symusic")


def key_of(file: TuneFile, codec: str, limits: object) -> bytes:
    """Return a file's key, b"" where its bytes cannot be read."""
    content = hash_regular(file.path, follow=file.named)
    if not content:
        return b""
    told = "\n".join([reading_code(), codec, str(limits), file.name])
    return hashlib.sha256(content + told.encode("utf-8", "surrogateescape")).digest()


@cache
def reading_code() -> str:
    """Return the hash of the code that reads files, other people's by version."""
    found = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_PACKAGE / room).rglob("*.py")):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    for library in _LIBRARIES:
        found.update(f"{library} {metadata.version(library)}".encode())
    return found.hexdigest()


def write_answers(path: Path, answers: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
    """Write files by key, each with its lines."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        for key, lines in answers:
            out.write(json.dumps({"file": key.hex()}).encode() + b"\n")
            for line in lines:
                out.write(line + b"\n")


def take_answers(path: Path, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, bytes, Any]]:
    """Yield number, key and lines of the files whose keys are wanted, one after the other.

    The lines are to be read before the next file is asked for.
    """
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as packed:
        lines = _Lines(io.BufferedReader(packed, 2**16))
        while (key := lines.next_key()) is not None:
            if key in wanted:
                yield wanted[key], key, lines


class _Lines:
    """The lines of one file at a time."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._ahead = file.readline()

    def next_key(self) -> bytes | None:
        """Go to the next file and return its key, None after the last one."""
        for _ in self:
            pass
        if not self._ahead:
            return None
        key = bytes.fromhex(json.loads(self._ahead)["file"])
        self._ahead = self._file.readline()
        return key

    def __iter__(self) -> Iterator[bytes]:
        while self._ahead and not self._ahead.startswith(b'{"file"'):
            yield self._ahead[:-1]
            self._ahead = self._file.readline()


IN_FLIGHT: Final = 64  # files that an executor has at a time, unless it has more workers
TOLD_EVERY: Final = 50  # tunes
RESENT: Final = 3  # times that a file is sent again, whose answer went lost
Lines = Iterator[bytes]
Tell = Callable[[int | None], None]  # a file that is done, or None: some tunes are


class Files(Sequence[TuneFile]):
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
class Task:
    """What is to be read, and with what."""

    files: Sequence[TuneFile]
    codec: AnyCodec
    limits: Limits

    def key(self, number: int) -> bytes:
        """Return the key of a file: of its bytes, and of what reads them."""
        return key_of(self.files[number], self.codec.name, self.limits)


def read_here(task: Task, todo: Sequence[int], spool: Spool, tell: Tell) -> None:
    """Read files in this process, one after the other."""
    for number in todo:
        lines = encode_file(task.files[number], task.codec)
        spool.take(number, task.key(number), _counted(lines, tell))
        tell(number)


def read_in_children(task: Task, todo: Sequence[int], spools: Sequence[Spool], tell: Tell) -> None:
    """Read files in child processes, one for each spool; a thread waits for each."""
    crew = _Crew(task, todo)
    readers = [Reader(task.limits, task.codec.name) for _ in spools]
    threads = [
        threading.Thread(target=crew.read, args=pair, daemon=True)
        for pair in zip(readers, spools, strict=True)
    ]
    try:
        for thread in threads:
            thread.start()
        crew.watch(len(todo), tell)
    except BaseException:
        crew.stopped.set()
        for reader in readers:
            reader.cancel()
        raise
    finally:
        for thread in threads:
            thread.join()


class _Crew:
    """Threads that take the next file when they are done with one."""

    def __init__(self, task: Task, todo: Sequence[int]) -> None:
        self.stopped = threading.Event()
        self._task = task
        self._waiting = iter(todo)
        self._turn = threading.Lock()
        self._news: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def read(self, reader: Reader, spool: Spool) -> None:
        """Read until no file waits."""
        try:
            with reader:
                while (number := self._next()) is not None:
                    lines = _counted(reader.encode(self._task.files[number]), self._news.put)
                    spool.take(number, self._task.key(number), lines)
                    self._news.put(number)
        except BaseException as fault:  # noqa: BLE001 - the thread that waits raises it
            self._news.put(fault)

    def watch(self, count: int, tell: Tell) -> None:
        """Pass on what is done, until all is."""
        while count:
            news = self._news.get()
            if isinstance(news, BaseException):
                raise news
            tell(news)
            count -= news is not None

    def _next(self) -> int | None:
        with self._turn:
            return None if self.stopped.is_set() else next(self._waiting, None)


def _counted(lines: Lines, tell: Tell) -> Lines:
    """Pass lines on, and tell of every some."""
    for count, line in enumerate(lines, 1):
        yield line
        if count % TOLD_EVERY == 0:
            tell(None)


def read_by_executor(
    task: Task, todo: Sequence[int], spool: Spool, tell: Tell, executor: Executor
) -> None:
    """Read files with an executor's workers, a bounded number at a time."""
    waiting = iter(todo)
    room = getattr(executor, "in_flight", IN_FLIGHT)
    flying = {_sent(task, number, executor): number for number in itertools.islice(waiting, room)}
    lost: Counter[int] = Counter()
    try:
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                number = flying.pop(future)
                if _is_lost(future) and lost[number] < RESENT:
                    lost[number] += 1
                    following = [number]
                else:
                    lines = iter(_result(future, task.files[number]).splitlines())
                    spool.take(number, task.key(number), _counted(lines, tell))
                    tell(number)
                    following = list(itertools.islice(waiting, 1))
                flying |= {_sent(task, n, executor): n for n in following}
    finally:
        for future in flying:
            future.cancel()


def _sent(task: Task, number: int, executor: Executor) -> Future[bytes]:
    fields = {**asdict(task.files[number]), "path": os.fspath(task.files[number].path)}
    try:
        return executor.submit(read_apart, fields, task.codec.name, asdict(task.limits))
    except BrokenExecutor as fault:
        raise _broken(task.files[number]) from fault


def _is_lost(future: Future[bytes]) -> bool:
    """Tell whether an answer went lost on its way, as with a worker that held it."""
    if future.cancelled():
        return True
    fault = future.exception()
    return fault is not None and not (isinstance(fault, BrokenExecutor) or _is_killer(fault))


def _is_killer(fault: BaseException) -> bool:
    """Tell whether Dask gave a file up because it killed worker after worker."""
    return type(fault).__name__ == "KilledWorker"


def _result(future: Future[bytes], file: TuneFile) -> bytes:
    """Return a file's lines; where it killed worker after worker, its refusal."""
    try:
        return future.result()
    except BrokenExecutor as fault:
        raise _broken(file) from fault
    except Exception as fault:
        if not _is_killer(fault):
            raise
        message = "the workers that read it died; it was left out"
        return refused(Refusal(message, source=file.name, code="crashed"))


def _broken(file: TuneFile) -> MusicgenError:
    return MusicgenError(
        f"the executor's workers died while they read {file.name} or a file beside it;"
        " build with --jobs, which costs only the file"
    )


_OWN: Final = threading.local()


class _Held:
    """A worker thread's reader; it ends with the thread."""

    def __init__(self, limits: dict[str, Any], codec: str) -> None:
        self.kind = (limits, codec)
        self.reader = Reader(Limits(**limits), codec)
        weakref.finalize(self, self.reader.stop)


def read_apart(fields: dict[str, Any], codec: str, limits: dict[str, Any]) -> bytes:
    """Read a file by its path, in a child of this worker thread; what an executor runs."""
    held = getattr(_OWN, "held", None)
    if held is None or held.kind != (limits, codec):
        held = _OWN.held = _Held(limits, codec)
    file = TuneFile(**{**fields, "path": Path(fields["path"])})
    return b"\n".join(held.reader.encode(file))


class _DaskExecutor(Executor):
    """A Dask client as an executor.

    Dask's own drops what is asked of it where a worker dies between its answer and the asking:
    whoever waits then waits for ever. Here each future ends, if need be with a fault.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.in_flight = max(IN_FLIGHT, 2 * sum(client.nthreads().values()))
        self._held: dict[Future[Any], Any] = {}  # Dask forgets a task that nobody holds

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call to the cluster."""
        sent = self._client.submit(fn, *args, **kwargs, pure=False, retries=3)
        answer: Future[Any] = Future()
        self._held[answer] = sent
        sent.add_done_callback(lambda done: self._answer(done, answer))
        return answer

    def _answer(self, done: Any, answer: Future[Any]) -> None:
        self._held.pop(answer, None)
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(done.result())
        except BaseException as fault:  # noqa: BLE001 - whoever waits for the answer raises it
            answer.set_exception(fault)


@contextmanager
def dask(address: str) -> Iterator[Executor]:
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
