"""What the server lets a client cost it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PRIMER_BYTES: Final = 8 * 2**20
# a primer travels as base64 inside of JSON: four characters for three bytes, and the words about it
BODY_BYTES: Final = PRIMER_BYTES // 3 * 4 + 2**16


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much of everything; a test chooses less."""

    workers: int = 2
    job_seconds: float = 30.0
    start_seconds: float = 120.0  # until a worker says that it is there
    waiting_per_client: int = 4  # jobs of one client that wait
    waiting_total: int = 200  # the last half of them is for clients that have none waiting yet
    finished_jobs: int = 2000  # that are over and can still be asked for
    upload_bytes: int = 48 * 2**20  # of uploads that are read or wait
    tune_cache_bytes: int = 64 * 2**20  # of tunes that can still be asked for
    body_bytes: int = BODY_BYTES
    body_seconds: float = 20.0
    header_seconds: float = 10.0
    send_seconds: float = 30.0  # a client that does not take its answer
    connections: int = 256  # open at once; of more, the one that has asked for nothing longest goes
