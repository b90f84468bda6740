"""Numbered work spread over processes: each takes the next number when it has room for one.

What goes between the processes is bytes; nothing is unpickled but how a process starts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from musicgen import errors
from musicgen.errors import MusicgenError

Answer = tuple[int, bytes]
Work = Callable[..., Iterator[Answer]]  # of the numbers, and what it was started with
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_PLACE: Final = 8  # bytes of a number
_FAULT: Final = -1  # in the place of a number: what follows is an error


def in_order(work: Work, arguments: tuple[str, ...], count: int, jobs: int) -> Iterator[bytes]:
    """Yield the answers to the numbers 0..count-1 in turn.

    `work` is a function of a module, which each process finds by its name; it may answer in any
    order. Raises what it raises of the project's own errors.
    """
    context = get_context("spawn")
    taken = context.Value("q", 0)
    links: list[Any] = []
    children: list[Any] = []
    try:
        with _one_thread_each():
            for _ in range(jobs):
                ours, theirs = context.Pipe(duplex=False)
                child = context.Process(
                    target=_run, args=(work, arguments, taken, count, theirs), daemon=True
                )
                child.start()
                theirs.close()
                links.append(ours)
                children.append(child)
        yield from _sorted(links, count)
    finally:
        for child in children:
            child.terminate()
            child.join()
        for link in links:
            link.close()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start here compute in one thread: each has a core of its own."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _sorted(links: list[Any], count: int) -> Iterator[bytes]:
    """Yield the answers that arrive, each once all before it have come."""
    early: dict[int, bytes] = {}
    open_ = list(links)
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
                place = int.from_bytes(data[:_PLACE], "little", signed=True)
                if place == _FAULT:
                    raise _fault(data[_PLACE:])
                early[place] = data[_PLACE:]
        yield early.pop(number)


def _fault(data: bytes) -> MusicgenError:
    name, _, words = data.decode().partition(" ")
    kind = getattr(errors, name, MusicgenError)
    found = kind(words)
    return found if isinstance(found, MusicgenError) else MusicgenError(words)


def _run(work: Work, arguments: tuple[str, ...], taken: Any, count: int, link: Any) -> None:
    """Work in a process until no number is left."""
    try:
        for number, answer in work(_numbers(taken, count), *arguments):
            link.send_bytes(number.to_bytes(_PLACE, "little", signed=True) + answer)
    except MusicgenError as fault:
        words = f"{type(fault).__name__} {fault}".encode()
        link.send_bytes(_FAULT.to_bytes(_PLACE, "little", signed=True) + words)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # whoever asked is gone, and says so itself
    finally:
        link.close()


def _numbers(taken: Any, count: int) -> Iterator[int]:
    """Yield numbers that no other process has taken."""
    while True:
        with taken.get_lock():
            number = int(taken.value)
            taken.value = number + 1
        if number >= count:
            return
        yield number
