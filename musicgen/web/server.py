"""The server itself: a socket, uvicorn, and connections that neither come nor go too slowly."""

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
from typing import Any, ClassVar

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from musicgen.errors import InUse, InvalidValue
from musicgen.web.limits import ServerLimits

MAX_HEADERS = 32 * 2**10
KEEP_ALIVE = 15  # seconds that a connection may wait for its next request
GRACE = 1.5  # seconds in which answers under way may finish at the end
FORCED_EXIT_SECONDS = 3.0  # after a signal, before the process ends whatever hangs


class Connection(H11Protocol):
    """A connection that is given up where its client keeps it waiting."""

    limits: ClassVar[ServerLimits] = ServerLimits()
    waiting_since = 0.0  # when it was opened, or its last answer ended; of the loop's clock
    _header_timer: asyncio.TimerHandle | None = None  # until a request's headers are there
    _send_timer: asyncio.TimerHandle | None = None  # until the client takes what was sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; of too many, drop the oldest that has sent no complete request."""
        super().connection_made(transport)
        self.waiting_since = self.loop.time()
        self._start_header_timer()
        if len(self.connections) > self.limits.connections:
            ours = (one for one in self.connections if isinstance(one, Connection))
            waiting = [one for one in ours if one.is_waiting]
            min(waiting, key=lambda one: one.waiting_since).drop()

    @property
    def is_waiting(self) -> bool:
        """Whether its client has sent no request, or not all of one."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def drop(self) -> None:
        """Close it at once, and count it no longer."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self.waiting_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_header_timer()
        self._send_timer = _cancel_timer(self._send_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; headers that are not whole have some seconds more."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()
        elif self._header_timer is None:
            self._start_header_timer()

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent, but not for ever."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        self._send_timer = _cancel_timer(self._send_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the words of the API."""
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
    """Cancel a timer; return what stands in its place."""
    if timer is not None:
        timer.cancel()
    return None


class _IgnoreCancelled:
    """An app whose requests may be given up at the end, which is no fault to tell of."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)


class Server(uvicorn.Server):
    """A server that says when it is there, and lets jobs go before it waits for its clients."""

    _exit_timer: threading.Timer | None = None  # which ends the process, once a signal has come

    def __init__(self, app: FastAPI, ready: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._ready = ready
        limits = app.state.playground.limits
        kind = type("Connection", (Connection,), {"limits": limits})
        super().__init__(
            uvicorn.Config(
                _IgnoreCancelled(app),
                http=kind,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                log_level="error",
                server_header=False,
                h11_max_incomplete_event_size=MAX_HEADERS,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=round(GRACE) + 1,
                proxy_headers=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Fail what is under way, so that nobody waits for it; then end."""
        asyncio.get_running_loop().call_later(GRACE, self._abort_open_requests)
        await self._app.state.playground.crew.stop()
        await super().shutdown(sockets)

    def _abort_open_requests(self) -> None:
        """Give up what has not finished."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a thread, or a loop, that hangs keeps the process for some seconds only."""
        if self._exit_timer is None:
            self._exit_timer = threading.Timer(FORCED_EXIT_SECONDS, self._exit, (sig,))
            self._exit_timer.daemon = True
            self._exit_timer.start()
        super().handle_exit(sig, frame)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        try:
            super().run(sockets)
        finally:
            if self._exit_timer is not None:
                self._exit_timer.cancel()

    def _exit(self, sig: int) -> None:
        """End at once, and the workers too."""
        for pid in self._app.state.playground.crew.pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        os._exit(0 if sig == signal.SIGINT else 128 + sig)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises InUse for a port that is taken, InvalidValue."""
    try:
        family, *_, address = _resolve_address(host, port)
        found = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as fault:
        words = "there is no such address here; 127.0.0.1 is this machine"
        raise InvalidValue(f"host {host[:60]!r}: {words}") from fault
    try:
        if os.name == "posix":  # a port that was in use a moment ago may be taken again
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as fault:
        found.close()
        raise _explain_bind_error(fault, host, port) from fault
    return found


def _resolve_address(host: str, port: int) -> Any:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _explain_bind_error(fault: OSError, host: str, port: int) -> InUse | InvalidValue:
    if fault.errno == errno.EADDRINUSE:
        return InUse(f"port {port} is in use, perhaps by another musicgen serve; choose another"
                     " with --port, or --port 0 for one that is free")  # fmt: skip
    words = os.strerror(fault.errno or 0)
    return InvalidValue(f"{host}, port {port}: {words}; choose another --host or --port")


def format_url(server_socket: socket.socket, host: str) -> str:
    """Return the address of the page."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{server_socket.getsockname()[1]}/"


def run(app: FastAPI, server_socket: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until the program is told to stop."""
    with suppress(KeyboardInterrupt), server_socket:
        Server(app, ready).run(sockets=[server_socket])
