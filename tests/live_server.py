"""A playground that listens on a free port of this machine, for tests that talk to it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from musicgen.web.app import Playground, create_app
from musicgen.web.limits import ServerLimits
from musicgen.web.server import Server, open_socket

PATIENCE = 60.0  # seconds for what takes one


@dataclass(frozen=True)
class Served:
    """A server under way, and a client of it."""

    port: int
    client: httpx.Client
    playground: Playground
    server: Server

    def ask(self, **body: Any) -> str:
        """Submit a job, and return its id."""
        answer = self.client.post("/api/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def events(self, job: str) -> list[dict[str, Any]]:
        """Follow a job to its end."""
        with self.client.stream("GET", f"/api/jobs/{job}/events") as lines:
            found = [line for line in lines.iter_lines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in found]

    def end_of(self, job: str) -> dict[str, Any]:
        """Wait for the end of a job."""
        return self.events(job)[-1]

    def tune_of(self, **body: Any) -> dict[str, Any]:
        """Ask for a tune, and return what is shown of it."""
        end = self.end_of(self.ask(**body))
        assert end["state"] == "done", end
        shown: dict[str, Any] = self.get(f"/api/tunes/{end['tune']}")
        return shown

    def get(self, path: str) -> Any:
        """Return what a path answers."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text[:300]
        return answer.json()

    def refused(self, answer: httpx.Response, status: int, words: str) -> None:
        """Check that an answer is one line of why not."""
        assert answer.status_code == status, answer.text[:300]
        told = answer.json()
        assert list(told) == ["error"]
        assert words in told["error"]
        assert told["error"].isprintable()

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """Yield a bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as found:
            yield found


@contextlib.contextmanager
def served(folder: Path, runs: Path, limits: ServerLimits) -> Iterator[Served]:
    """Serve for a block."""
    app = create_app(folder, runs=runs, limits=limits)
    ready = threading.Event()
    with open_socket("127.0.0.1", 0) as found:
        server = Server(app, ready.set)
        thread = threading.Thread(target=server.run, args=([found],), daemon=True)
        thread.start()
        assert ready.wait(PATIENCE)
        port = found.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            try:
                yield Served(port, client, app.state.playground, server)
            finally:
                server.should_exit = True
                thread.join(PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, and fail where it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def read_all(connection: socket.socket) -> bytes:
    """Read what a server says until it hangs up."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(2**16):
            found += piece
    return found
