"""Numbered work spread over processes: each takes the next number when it has room for one.

What goes between the processes is bytes; nothing is unpickled but how a process starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, Final

from musicgen import errors
from musicgen.errors import MusicgenError, WriteFailed
from musicgen.process_limits import SINGLE_THREAD_VARIABLES

NumberedResult = tuple[int, bytes]
WorkFunction = Callable[
    ..., Iterator[NumberedResult]
]  # of the numbers, and what it was started with
_NUMBER_BYTES: Final = 8  # bytes of a number
_ERROR_MARKER: Final = -1  # instead of a number: an error follows


def run_in_order(
    work: WorkFunction, arguments: tuple[str, ...], count: int, jobs: int
) -> Iterator[bytes]:
    """Yield the answers to the numbers 0..count-1 in turn.

    `work` is a function of a module, which each process finds by its name; it may answer in any
    order. Raises what it raises of the project's own errors.
    """
    context = get_context("spawn")
    links: list[Any] = []
    children: list[Any] = []
    try:
        with _translate_start_errors(), _limit_child_threads(), _block_sigint():
            taken = context.Value("q", 0)
            for _ in range(jobs):
                ours, theirs = context.Pipe(duplex=False)
                child = context.Process(
                    target=_run_worker, args=(work, arguments, taken, count, theirs), daemon=True
                )
                child.start()
                theirs.close()
                links.append(ours)
                children.append(child)
        yield from _yield_in_order(links, count)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        for link in links:
            link.close()


@contextlib.contextmanager
def _translate_start_errors() -> Iterator[None]:
    """Translate the system's errors at process start to one line."""
    try:
        yield
    except OSError as fault:
        words = os.strerror(fault.errno or errno.EIO)
        raise WriteFailed(
            f"the processes for many tunes were not started: {words}; free some space, lift the"
            " limit (ulimit), or try --jobs 1"
        ) from fault


@contextlib.contextmanager
def _block_sigint() -> Iterator[None]:
    """Block SIGINT in child processes: the parent terminates them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Terminated(BaseException):
    """The process received SIGTERM: finish the current write, and start no other."""


def _handle_sigterm(number: int, frame: FrameType | None) -> None:
    """Hear SIGTERM once."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    raise _Terminated


@contextlib.contextmanager
def _limit_child_threads() -> Iterator[None]:
    """Let processes that start here compute in one thread: each has a core of its own."""
    before = {name: os.environ.get(name) for name in SINGLE_THREAD_VARIABLES}
    os.environ.update(SINGLE_THREAD_VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _yield_in_order(connections: list[Any], count: int) -> Iterator[bytes]:
    """Yield the answers that arrive, each once all before it have come."""
    early: dict[int, bytes] = {}
    open_ = list(connections)
    for number in range(count):
        while number not in early:
            if not open_:
                raise MusicgenError(
                    f"tune {number + 1} of {count}: the process that drew it died; is there enough"
                    " memory? Try --jobs 1"
                )
            for link in wait(open_):
                assert isinstance(link, Connection)
                try:
                    data = link.recv_bytes()
                except EOFError:
                    open_.remove(link)
                    continue
                next_number = int.from_bytes(data[:_NUMBER_BYTES], "little", signed=True)
                if next_number == _ERROR_MARKER:
                    raise _decode_error(data[_NUMBER_BYTES:])
                early[next_number] = data[_NUMBER_BYTES:]
        yield early.pop(number)


def _decode_error(data: bytes) -> MusicgenError:
    name, _, words = data.decode().partition(" ")
    kind = getattr(errors, name, MusicgenError)
    error_type = kind(words)
    return error_type if isinstance(error_type, MusicgenError) else MusicgenError(words)


def _run_worker(
    work: WorkFunction, arguments: tuple[str, ...], counter: Any, count: int, connection: Any
) -> None:
    """Work in a process until no number is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signal.signal(signal.SIGTERM, _handle_sigterm)
        for number, answer in work(_take_numbers(counter, count), *arguments):
            connection.send_bytes(number.to_bytes(_NUMBER_BYTES, "little", signed=True) + answer)
    except MusicgenError as fault:
        words = f"{type(fault).__name__} {fault}".encode()
        connection.send_bytes(_ERROR_MARKER.to_bytes(_NUMBER_BYTES, "little", signed=True) + words)
    except (_Terminated, KeyboardInterrupt, BrokenPipeError):
        pass  # the parent has ended and reports the reason itself
    finally:
        with contextlib.suppress(_Terminated):  # SIGTERM may come now, too
            connection.close()


def _take_numbers(counter: Any, count: int) -> Iterator[int]:
    """Yield numbers that no other process has taken."""
    while True:
        with counter.get_lock():
            number = int(counter.value)
            counter.value = number + 1
        if number >= count:
            return
        yield number
