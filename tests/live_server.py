"""Run a playground on a free local port, for tests that talk to it over HTTP."""

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

TIMEOUT = 60.0  # seconds, for operations that take about one


@dataclass(frozen=True)
class LiveServer:
    """A running server, with an HTTP client for it."""

    port: int
    client: httpx.Client
    playground: Playground
    server: Server

    def submit(self, **body: Any) -> str:
        """Submit a job, and return its id."""
        response = self.client.post("/api/jobs", json=body)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def follow(self, job: str) -> list[dict[str, Any]]:
        """Follow a job to its end, and return its states."""
        with self.client.stream("GET", f"/api/jobs/{job}/events") as response:
            events = [line for line in response.iter_lines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in events]

    def wait_for_end(self, job: str) -> dict[str, Any]:
        """Wait for the end of a job, and return its final state."""
        return self.follow(job)[-1]

    def generate(self, **body: Any) -> dict[str, Any]:
        """Generate a tune, and return its `TuneResponse`."""
        end = self.wait_for_end(self.submit(**body))
        assert end["state"] == "done", end
        tune: dict[str, Any] = self.get(f"/api/tunes/{end['tune']}")
        return tune

    def get(self, path: str) -> Any:
        """Return the JSON of a GET request that succeeds."""
        response = self.client.get(path)
        assert response.status_code == 200, response.text[:300]
        return response.json()

    def assert_refused(self, response: httpx.Response, status: int, words: str) -> None:
        """Check that a response is an error of one line that contains some words."""
        assert response.status_code == status, response.text[:300]
        body = response.json()
        assert list(body) == ["error"]
        assert words in body["error"]
        assert body["error"].isprintable()

    @contextlib.contextmanager
    def connect(self) -> Iterator[socket.socket]:
        """Yield a TCP connection to the server."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            yield connection


@contextlib.contextmanager
def run_server(folder: Path, runs: Path, limits: ServerLimits) -> Iterator[LiveServer]:
    """Run a server for the duration of a block."""
    app = create_app(folder, runs=runs, limits=limits)
    ready = threading.Event()
    with open_socket("127.0.0.1", 0) as server_socket:
        server = Server(app, ready.set)
        thread = threading.Thread(target=server.run, args=([server_socket],), daemon=True)
        thread.start()
        assert ready.wait(TIMEOUT)
        port = server_socket.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
            try:
                yield LiveServer(port, client, app.state.playground, server)
            finally:
                server.should_exit = True
                thread.join(TIMEOUT)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after the timeout."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def read_all(connection: socket.socket) -> bytes:
    """Read from a connection until the server closes it."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(2**16):
            data += chunk
    return data
