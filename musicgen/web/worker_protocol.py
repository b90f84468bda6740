"""The messages between a worker and its parent: one line of JSON each, and perhaps a body.

    parent -> worker   {"do": ..., "seconds": s, "bytes": n}, then n bytes
    worker -> parent   {"bars": 3}, any number of times; then {"refused": "one line", "kind": class}
                       or {"done": {...}, "bytes": n} and n bytes

Nothing is unpickled. `worker_main` is the worker's end, `worker_process` the parent's; this module
is separate, since the parent must not import what a worker needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from musicgen.errors import MusicgenError


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """The answer to a request: a small JSON object, and perhaps a body."""

    head: dict[str, Any]
    body: bytes = b""


RequestHandler: TypeAlias = Callable[[dict[str, Any], bytes], WorkerAnswer]


@dataclass(slots=True)
class ProgressWriter:
    """Write messages to the parent, and count the bars of the tune being written."""

    stream: IO[bytes]
    bars: int = field(default=0, init=False)

    def count_bar(self) -> None:
        """Report that another bar was started."""
        self.bars += 1
        self.write_line({"bars": self.bars})

    def write_line(self, message: dict[str, Any], body: bytes = b"") -> None:
        """Send a message, followed by its body."""
        self.stream.write(json.dumps(message).encode() + b"\n" + body)
        self.stream.flush()

    def answer_request(
        self, request: dict[str, Any], payload: bytes, handler: RequestHandler
    ) -> None:
        """Handle a request, and send the answer or the error."""
        self.bars = 0
        try:
            answer = handler(request, payload)
        except MusicgenError as fault:
            self.write_line({"refused": str(fault), "kind": type(fault).__name__})
            return
        self.write_line({"done": answer.head, "bytes": len(answer.body)}, answer.body)
