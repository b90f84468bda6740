"""What a worker and its parent share: answers, progress, and limits on what others wrote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from musicgen.process_limits import limit_memory, start_cpu_timer

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
    previous_limit = limit_memory(PARSE_BYTES)
    start_cpu_timer(PARSE_SECONDS)
    try:
        yield
    finally:
        start_cpu_timer(0)
        limit_memory(previous_limit)


def hide_folders(text: str, folders: Iterable[Path]) -> str:
    """Cut the folders of this machine out of an error: names stay, where they lie does not."""
    places = {str(place) for folder in folders for place in (folder.absolute(), folder.resolve())}
    for place in sorted(places - {"/"}, key=len, reverse=True):
        text = text.replace(f"{place}/", "").replace(place, Path(place).name)
    return text
