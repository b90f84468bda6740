"""Limits on what clients and files may cost the server.

A module of its own, since the schemas, the middleware, the worker pool and the workers all read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from musicgen.process_limits import limit_memory, start_cpu_timer

PRIMER_SUFFIXES: Final = (".abc", ".mid", ".midi")
PRIMER_BYTES: Final = 8 * 2**20
# JSON carries a primer as base64: four characters for three bytes, and the other fields
BODY_BYTES: Final = PRIMER_BYTES // 3 * 4 + 2**16
MAX_LABEL_LENGTH: Final = 200  # characters of a title or another text of a tune
PARSE_SECONDS: Final = 5.0  # CPU time for parsing a file
PARSE_BYTES: Final = 2**30  # memory for parsing a file


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of a server, which tests set lower."""

    workers: int = 2
    job_seconds: float = 30.0
    start_seconds: float = 120.0  # for a worker to start and to warm up
    waiting_per_client: int = 4  # waiting jobs per client
    waiting_total: int = 200  # the last half is reserved for clients without a waiting job
    finished_jobs: int = 2000  # whose state is still available
    upload_bytes: int = 48 * 2**20  # of uploads being read or waiting
    tune_cache_bytes: int = 64 * 2**20
    body_bytes: int = BODY_BYTES
    body_seconds: float = 20.0
    header_seconds: float = 10.0
    send_seconds: float = 30.0  # for a client to read a response
    connections: int = 256  # open at once; beyond that, the one idle for longest is closed


@contextlib.contextmanager
def resource_limits() -> Iterator[None]:
    """Limit the CPU time and the memory of a block that parses an untrusted file.

    Exceeding the time ends the process with SIGPROF; exceeding the memory raises MemoryError.
    """
    previous_limit = limit_memory(PARSE_BYTES)
    start_cpu_timer(PARSE_SECONDS)
    try:
        yield
    finally:
        start_cpu_timer(0)
        limit_memory(previous_limit)
