"""Middleware that checks each request: is it from our own page, and is it small and fast enough?

==================  ===============================================================================
Host                must be an address of this server (prevents DNS rebinding)
Origin              must be our own, if the browser sends one
Sec-Fetch-Site      must be same-origin; other sites may only link to the page
Content-Type        must be JSON for a request with a body, which a form cannot send
body                is counted as it arrives, and has a time limit
responses           get a content security policy, nosniff, no referrer, no frame; no CORS headers
==================  ===============================================================================
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from musicgen.web.limits import ServerLimits
from musicgen.web.worker_pool import UploadBudget
from musicgen.web.worker_process import HttpError

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = tuple(
    (name.lower().encode(), value.encode())
    for name, value in {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }.items()
)
CLOSE: Final = (b"connection", b"close")
FOREIGN_HOST_MESSAGE: Final = "this server answers only to its own address; open that"
FOREIGN_PAGE_MESSAGE: Final = "this server answers only to its own page; open that"
PAGE: Final = "/"  # other sites may link to it


class BodyRejected(HTTPException):
    """A body was refused while it was read; FastAPI passes only an HTTPException on."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.status, str(error))


@dataclass(frozen=True, slots=True)
class RequestGuard:
    """Refuse requests from elsewhere or too large, and add security headers to every response."""

    app: ASGIApp
    limits: ServerLimits
    upload_budget: UploadBudget  # shared by all bodies being read
    hosts: Collection[str] = LOOPBACK  # without ports
    allow_ip_hosts: bool = False  # accept any IP address as Host: DNS cannot rebind it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        body = _Body(self, receive)
        response = _GuardedResponse(send, body)
        try:
            self._check(scope)
            await self.app(scope, body.receive, response.send)
        except HttpError as fault:
            await response.refuse(fault)
        finally:
            self.upload_budget.release(body.received_bytes)

    def _check(self, scope: Scope) -> None:
        """Raise HttpError for a request from elsewhere, or one that is known to be too large."""
        headers = RequestHeaders(scope)
        self._check_host(headers, scope)
        self._check_site(headers, scope)
        if headers.has_body:
            media_type = headers.get_single("content-type").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise HttpError(415, "the body must be JSON; send Content-Type: application/json")
        length = headers.get_single("content-length")
        if length and (not length.isdecimal() or int(length[:20]) > self.limits.body_bytes):
            raise _make_too_large_error(self.limits)

    def _check_host(self, headers: RequestHeaders, scope: Scope) -> None:
        host = headers.get_single("host").lower()
        name, colon, port = host.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = host, "80"
        is_allowed = name in self.hosts or (self.allow_ip_hosts and _is_address(name))
        if not is_allowed or port != str(scope["server"][1]):
            raise HttpError(403, FOREIGN_HOST_MESSAGE)

    def _check_site(self, headers: RequestHeaders, scope: Scope) -> None:
        site = headers.get_single("sec-fetch-site") or "none"
        is_page = scope["path"] == PAGE and headers.get_single("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not (is_page and scope["method"] == "GET"):
            raise HttpError(403, FOREIGN_PAGE_MESSAGE)
        origin = headers.get_single("origin")
        if origin and origin.lower() != f"{scope['scheme']}://{headers.get_single('host').lower()}":
            raise HttpError(403, FOREIGN_PAGE_MESSAGE)


class RequestHeaders:
    """The headers of a request; each header that is read may occur only once."""

    def __init__(self, scope: Scope) -> None:
        self._headers: Iterable[tuple[bytes, bytes]] = scope["headers"]

    def get_single(self, name: str) -> str:
        """Return the value of a header, "" without it.

        Raises:
            HttpError: the header occurs more than once.
        """
        values = [value for key, value in self._headers if key == name.encode()]
        if len(values) > 1:
            raise HttpError(400, f"duplicate header {name}; send it once")
        return values[0].decode("latin-1") if values else ""

    @property
    def has_body(self) -> bool:
        """Whether the request has a body."""
        return self.get_single("content-length") not in ("", "0") or bool(
            self.get_single("transfer-encoding")
        )


class _Body:
    """The body of a request, with limits on its bytes and its time."""

    def __init__(self, guard: RequestGuard, receive: Receive) -> None:
        self.received_bytes = 0
        self.is_refused = False  # the rest of it is not read
        self._guard = guard
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + guard.limits.body_seconds
        self._is_whole = False

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            BodyRejected: the body is too large or too slow, or all bodies together are too large.
        """
        if self._is_whole:
            return await self._receive()  # the client disconnected
        message = await self._next()
        count = len(message.get("body", b""))
        if self.received_bytes + count > self._guard.limits.body_bytes:
            raise self._reject(_make_too_large_error(self._guard.limits))
        try:
            self._guard.upload_budget.reserve(count)
        except HttpError as fault:
            message.clear()
            await self._drop_rest(count)
            raise self._reject(fault) from fault
        self.received_bytes += count
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as fault:
            timeout = HttpError(408, "the request arrived too slowly; try again")
            raise self._reject(timeout) from fault
        self._is_whole = not message.get("more_body", False)
        return message

    async def _drop_rest(self, count: int) -> None:
        """Read and discard the rest: a client that is still sending does not read a response."""
        self._guard.upload_budget.release(self.received_bytes)
        count, self.received_bytes = self.received_bytes + count, 0
        while not self._is_whole and count <= self._guard.limits.body_bytes:
            count += len((await self._next()).get("body", b""))

    def _reject(self, fault: HttpError) -> BodyRejected:
        self.is_refused = True
        return BodyRejected(fault)


class _GuardedResponse:
    """The response to a request, with the security headers."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send = send
        self._body = body
        self._has_started = False

    async def send(self, message: Message) -> None:
        """Send the next message."""
        if message["type"] == "http.response.start":
            self._has_started = True
            closing = [CLOSE] if self._body.is_refused else []
            message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS, *closing]
        await self._send(message)

    async def refuse(self, fault: HttpError) -> None:
        """Send an error and close the connection: the rest of the request is not read."""
        if self._has_started:
            raise fault
        body = json.dumps({"error": str(fault)}).encode()
        headers = [(b"content-type", b"application/json"),
                   (b"content-length", str(len(body)).encode())]  # fmt: skip
        self._body.is_refused = True
        start = {"type": "http.response.start", "status": fault.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})


def _make_too_large_error(limits: ServerLimits) -> HttpError:
    return HttpError(413, f"the request is larger than {limits.body_bytes:,} bytes; send less")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
