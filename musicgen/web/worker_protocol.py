"""What a worker and its parent share: answers, progress, and limits on what others wrote."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OUT_OF_MEMORY: Final = 77  # the child's exit code for it
PARSE_SECONDS: Final = 5.0  # of CPU
PARSE_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """What came of a request: a few words, and perhaps a body."""

    head: dict[str, Any]
    body: bytes = b""


@dataclass(slots=True)
class ProgressWriter:
    """Counts the bars that are written, and tells the parent."""

    stream: IO[bytes]
    bars: int = field(default=0, init=False)

    def count_bar(self) -> None:
        """Tell that another bar was begun."""
        self.bars += 1
        self.write_line({"bars": self.bars})

    def write_line(self, message: dict[str, Any], body: bytes = b"") -> None:
        """Say something, with a body after it."""
        self.stream.write(json.dumps(message).encode() + b"\n" + body)
        self.stream.flush()


@contextlib.contextmanager
def resource_limits() -> Iterator[None]:
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


def disable_core_dumps() -> None:
    """Let no memory of this process be written to a disk when it dies."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hide_folders(text: str, folders: Iterable[Path]) -> str:
    """Cut the folders of this machine out of an error: names stay, where they lie does not."""
    places = {str(place) for folder in folders for place in (folder.absolute(), folder.resolve())}
    for place in sorted(places - {"/"}, key=len, reverse=True):
        text = text.replace(f"{place}/", "").replace(place, Path(place).name)
    return text
