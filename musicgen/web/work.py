"""The child's side of a worker: it answers requests one after the other, and may die of one.

    parent -> child   a line of JSON {"do": ..., "bytes": n}, then n bytes
    child -> parent   {"bars": 3} as often as it likes; at last {"refused": "one line"}, or
                      {"done": {...}, "bytes": n} and n bytes

Files of others are parsed under a timer of CPU time and a limit of memory; whoever exceeds them
ends the child, and the parent starts another. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from musicgen.errors import MusicgenError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OUT_OF_MEMORY: Final = 77  # the child's exit code for it
PARSE_SECONDS: Final = 5.0  # of CPU
PARSE_BYTES: Final = 2**30
_ORPHAN_SECONDS: Final = 10.0  # what a job may take longer than its parent would have waited


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a few words, and perhaps a body."""

    head: dict[str, Any]
    body: bytes = b""


@dataclass(slots=True)
class Tell:
    """Counts the bars that are written, and tells the parent."""

    out: IO[bytes]
    bars: int = field(default=0, init=False)

    def bar(self) -> None:
        """Tell that another bar was begun."""
        self.bars += 1
        self.line({"bars": self.bars})

    def line(self, words: dict[str, Any], body: bytes = b"") -> None:
        """Say something, with a body after it."""
        self.out.write(json.dumps(words).encode() + b"\n" + body)
        self.out.flush()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Limit what the parsing of somebody's bytes may cost; too much of it ends the process."""
    timer = hasattr(signal, "setitimer")
    before = _limit_memory(PARSE_BYTES)
    if timer:
        signal.setitimer(signal.ITIMER_PROF, PARSE_SECONDS)
    try:
        yield
    finally:
        if timer:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _limit_memory(before)


def _limit_memory(limit: int) -> int:
    """Set the limit of data and return the one before; -1 is none."""
    if resource is None:
        return -1
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return int(soft)


def main(runs: str) -> None:
    """Answer the requests of a parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    tell = Tell(os.fdopen(os.dup(1), "wb"))
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what libraries print
        if resource is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from musicgen.web.craft import Craft  # what it needs is heavy

        craft = Craft(Path(runs), tell)
        os.dup2(nowhere.fileno(), 2)
    try:
        serve(sys.stdin.buffer, craft.answer, tell)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def serve(requests: IO[bytes], answer: Any, tell: Tell) -> None:
    """Answer requests until there are no more."""
    tell.line({"done": {}, "bytes": 0})
    while line := requests.readline():
        request = json.loads(line)
        payload = requests.read(request.pop("bytes"))
        with _lifetime(request.pop("seconds")):
            _answer_one(request, payload, answer, tell)


def _answer_one(request: dict[str, Any], payload: bytes, answer: Any, tell: Tell) -> None:
    tell.bars = 0
    try:
        found = answer(request, payload)
    except MusicgenError as fault:
        tell.line({"refused": str(fault), "kind": type(fault).__name__})
        return
    tell.line({"done": found.head, "bytes": len(found.body)}, found.body)


@contextlib.contextmanager
def _lifetime(seconds: float) -> Iterator[None]:
    """End the process if nobody else did: a parent that was killed cannot."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds + _ORPHAN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(sys.argv[1])
