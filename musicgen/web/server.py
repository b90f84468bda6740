"""The HTTP server: uvicorn with a socket of our own and connections with time limits."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar, Final

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from musicgen.errors import InUse, InvalidValue
from musicgen.web.app import Playground
from musicgen.web.limits import ServerLimits

MAX_HEADER_BYTES: Final = 32 * 2**10
KEEP_ALIVE_SECONDS: Final = 15
GRACE_SECONDS: Final = 1.5  # for open responses to finish at shutdown
FORCED_EXIT_SECONDS: Final = 3.0  # after a signal, even if a thread hangs


class Connection(H11Protocol):
    """A connection that is closed when its client is too slow."""

    limits: ClassVar[ServerLimits] = ServerLimits()
    waiting_since = 0.0  # loop time of its opening, or of the end of its last response
    _header_timer: asyncio.TimerHandle | None = None  # runs until the headers are complete
    _send_timer: asyncio.TimerHandle | None = None  # runs while the client does not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; beyond the limit, drop the one that has waited longest."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._start_header_timer()
        if len(self.connections) > self.limits.connections:
            waiting = [c for c in self.connections if isinstance(c, Connection) and c.is_waiting]
            min(waiting, key=lambda connection: connection.waiting_since).drop()

    @property
    def is_waiting(self) -> bool:
        """Whether the client has not sent a complete request."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def drop(self) -> None:
        """Close the connection at once, and stop counting it."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self.waiting_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers of a closed connection."""
        self._stop_header_timer()
        self._send_timer = _cancel_timer(self._send_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read data; incomplete headers have a time limit."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()
        elif self._header_timer is None:
            self._start_header_timer()

    def pause_writing(self) -> None:
        """Start the time limit for the client to read what was sent."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time limit."""
        self._send_timer = _cancel_timer(self._send_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request with an error in the format of the API."""
        body = json.dumps({"error": msg}).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n"
        kind = "content-type: application/json\r\nconnection: close\r\n\r\n"
        self.transport.write(f"{head}{kind}".encode() + body)
        self.transport.close()

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _stop_header_timer(self) -> None:
        self._header_timer = _cancel_timer(self._header_timer)


def _cancel_timer(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer, if it runs, and return None."""
    if timer is not None:
        timer.cancel()
    return None


class _IgnoreCancelled:
    """Wrap an app so that requests cancelled at shutdown are not logged as errors."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


class Server(uvicorn.Server):
    """A server that reports when it is ready, and fails open jobs before it waits for clients.

    Args:
        app: an app that `create_app` made.
        ready: called once the server accepts connections.
    """

    _exit_timer: threading.Timer | None = None  # started by the first signal

    def __init__(self, app: FastAPI, ready: Callable[[], None] = lambda: None) -> None:
        self._ready = ready
        self._playground: Playground = app.state.playground
        connection_class = type("Connection", (Connection,), {"limits": self._playground.limits})
        super().__init__(
            uvicorn.Config(
                _IgnoreCancelled(app),
                http=connection_class,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                log_level="error",
                server_header=False,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=round(GRACE_SECONDS) + 1,
                proxy_headers=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `ready`."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail all open jobs, so that no client waits for them, then shut down."""
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._abort_open_requests)
        await self._playground.worker_pool.stop()
        await super().shutdown(sockets)

    def _abort_open_requests(self) -> None:
        """Abort all connections and requests that are still open."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to shut down; force the exit after FORCED_EXIT_SECONDS."""
        if self._exit_timer is None:
            self._exit_timer = threading.Timer(FORCED_EXIT_SECONDS, self._exit, (sig,))
            self._exit_timer.daemon = True
            self._exit_timer.start()
        super().handle_exit(sig, frame)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or until `should_exit` is set."""
        try:
            super().run(sockets)
        finally:
            if self._exit_timer is not None:
                self._exit_timer.cancel()

    def _exit(self, sig: int) -> None:
        """Exit at once, and terminate the workers."""
        for pid in self._playground.worker_pool.pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        os._exit(0 if sig == signal.SIGINT else 128 + sig)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a host and port.

    Raises:
        InUse: the port is taken.
        InvalidValue: the host is not an address of this machine, or the port is not allowed.
    """
    try:
        family, *_, address = _resolve_address(host, port)
        server_socket = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        raise InvalidValue(
            f"host {host[:60]!r}: not an address of this machine; use 127.0.0.1"
        ) from fault
    try:
        if os.name == "posix":  # allow a port whose last connections are still in TIME_WAIT
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server_socket.bind(address)
        server_socket.listen(128)
    except OSError as fault:
        server_socket.close()
        raise _explain_bind_error(fault, host, port) from fault
    return server_socket


def _resolve_address(host: str, port: int) -> Any:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _explain_bind_error(fault: OSError, host: str, port: int) -> InUse | InvalidValue:
    if fault.errno == errno.EADDRINUSE:
        return InUse(f"port {port} is in use, perhaps by another musicgen serve; choose another"
                     " with --port, or --port 0 for one that is free")  # fmt: skip
    reason = os.strerror(fault.errno or 0)
    return InvalidValue(f"{host}, port {port}: {reason}; choose another --host or --port")


def format_url(server_socket: socket.socket, host: str) -> str:
    """Return the URL of the page."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{server_socket.getsockname()[1]}/"


def run(app: FastAPI, server_socket: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an app on a socket until a signal; call `ready` once it accepts connections."""
    with suppress(KeyboardInterrupt), server_socket:
        Server(app, ready).run(sockets=[server_socket])
