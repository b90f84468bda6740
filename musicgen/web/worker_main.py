"""The main program of a worker process, which answers requests one after the other.

Untrusted files are parsed under limits of CPU time and memory. A file that exceeds them ends the
process, and the parent starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from musicgen.process_limits import OUT_OF_MEMORY_STATUS, disable_core_dumps
from musicgen.web.handlers import RequestHandlers
from musicgen.web.worker_process import ProgressWriter, RequestHandler

ORPHAN_SECONDS: Final = 10.0  # beyond the time limit of a job, in case the parent was killed


def main(runs: str) -> None:
    """Answer the parent's requests until it closes the pipe.

    Args:
        runs: folder of the run folders.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    progress = ProgressWriter(os.fdopen(os.dup(1), "wb"))
    disable_core_dumps()
    with Path(os.devnull).open("wb") as null:  # discards what libraries print
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    try:
        serve_requests(sys.stdin.buffer, RequestHandlers(Path(runs), progress).answer, progress)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)


def serve_requests(requests: IO[bytes], handler: RequestHandler, progress: ProgressWriter) -> None:
    """Report that the worker is ready, then answer requests until the stream ends."""
    progress.write_line({"done": {}, "bytes": 0})
    while line := requests.readline():
        request = json.loads(line)
        payload = requests.read(request.pop("bytes"))
        with _end_process_after(request.pop("seconds")):
            progress.answer_request(request, payload, handler)


@contextlib.contextmanager
def _end_process_after(seconds: float) -> Iterator[None]:
    """End the process after the time limit of a job, in case the parent is gone and cannot."""
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
