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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from musicgen.errors import MusicgenError
from musicgen.process_limits import OUT_OF_MEMORY_STATUS, disable_core_dumps
from musicgen.web.handlers import RequestHandlers
from musicgen.web.worker_protocol import ProgressWriter, WorkerAnswer

ORPHAN_SECONDS: Final = 10.0  # what a job may take longer than its parent would have waited
RequestHandler = Callable[[dict[str, Any], bytes], WorkerAnswer]


def main(runs: str) -> None:
    """Answer the requests of a parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    tell = ProgressWriter(os.fdopen(os.dup(1), "wb"))
    disable_core_dumps()
    with Path(os.devnull).open("wb") as nowhere:  # what libraries print
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        serve_requests(sys.stdin.buffer, RequestHandlers(Path(runs), tell).answer, tell)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)


def serve_requests(requests: IO[bytes], answer: RequestHandler, progress: ProgressWriter) -> None:
    """Answer requests until there are no more."""
    progress.write_line({"done": {}, "bytes": 0})
    while line := requests.readline():
        request = json.loads(line)
        payload = requests.read(request.pop("bytes"))
        with _end_process_after(request.pop("seconds")):
            _answer_one(request, payload, answer, progress)


def _answer_one(
    request: dict[str, Any], payload: bytes, answer: RequestHandler, progress: ProgressWriter
) -> None:
    progress.bars = 0
    try:
        found = answer(request, payload)
    except MusicgenError as fault:
        progress.write_line({"refused": str(fault), "kind": type(fault).__name__})
        return
    progress.write_line({"done": found.head, "bytes": len(found.body)}, found.body)


@contextlib.contextmanager
def _end_process_after(seconds: float) -> Iterator[None]:
    """End the process if nobody else did: a parent that was killed cannot."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(sys.argv[1])
