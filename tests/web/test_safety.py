"""Security of the local server: foreign requests, paths, limits and hostile files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from musicgen.errors import InvalidValue, MusicgenError
from musicgen.web import app
from musicgen.web.app import Asset
from musicgen.web.limits import PRIMER_BYTES, ServerLimits
from musicgen.web.middleware import RequestGuard
from musicgen.web.schemas import TuneRequest, build_sample_job, build_tweak_job, parse_tune_request
from musicgen.web.worker_pool import Job, UploadBudget
from musicgen.web.worker_process import HttpError
from tests.live_server import TIMEOUT, LiveServer, read_all, run_server, wait_until
from tests.malformed_files import make

FOREIGN = "this server answers only to its own"
JSON = {"Content-Type": "application/json"}
PATHS = ("/", "/api/models", "/api/shelf", "/static/app.js", "/openapi.json", "/nothing")


# Requests do not block the event loop


def test_slow_validation_does_not_block_the_server(
    idle: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()

    def validate_slowly(*_: object) -> Job:
        started.set()
        assert release.wait(TIMEOUT)
        raise HttpError(400, "validation took long")

    monkeypatch.setattr(app, "build_sample_job", validate_slowly)
    with ThreadPoolExecutor() as clients:
        pending = clients.submit(idle.client.post, "/api/jobs", json={"do": "sample"})
        assert started.wait(TIMEOUT)
        assert idle.get("/api/models")
        release.set()
        idle.assert_refused(pending.result(), 400, "validation took long")


@pytest.mark.parametrize(
    "body", ["[" + "[]," * 200_000 + "[]]", '{"do":' + "[" * 500_000, "9" * 900_000,
             "{" + ",".join(f'"a{n}":1' for n in range(90_000)) + "}",
             '{"do":"sample","primer":{' + ",".join(f'"a{n}":1' for n in range(90_000)) + "}}",
             '{"do":"sample","bars":' + "9" * 900_000 + "}",
             '{"do":"sample","tempo":' + "9" * 900_000 + "e9}"],
)  # fmt: skip
def test_mismatched_body_costs_little_memory(idle: LiveServer, body: str) -> None:
    """Content that does not match the schema costs neither memory nor time."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidValue):
            parse_tune_request(body.encode())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)
    answer = idle.client.post("/api/jobs", content=body, headers=JSON)
    idle.assert_refused(answer, 400, "the request")


FIELDS = [name for name in TuneRequest.__struct_fields__ if name not in ("do", "primer")]
HOSTILE = st.sampled_from(
    ["1e-9999999", "1e9999999", "²", "½", "٣", "9" * 90, "-0", "nan", "inf", "1/0",
     "1/" + "9" * 90, "1-99999999999", "AB" * 50, "\x00", "", " "]
)  # fmt: skip
VALUES = HOSTILE | st.text(max_size=110) | st.integers() | st.floats() | st.none() | st.booleans()


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.promises)])
@pytest.mark.parametrize("field", FIELDS)
def test_any_field_value_is_parsed_or_refused_quickly(field: str, count: int) -> None:
    @settings(max_examples=count, deadline=2000, database=None)
    @given(VALUES, st.sampled_from(["sample", "tweak"]))
    @example("1e-9999999", "sample")
    @example("²", "sample")
    @example("9" * 4000, "tweak")
    def check(value: object, do: str) -> None:
        with contextlib.suppress(MusicgenError):
            request = parse_tune_request(json.dumps({"do": do, field: value}).encode())
            recipe = "{}"
            _ = (
                build_sample_job(request, "a")
                if do == "sample"
                else build_tweak_job(request, "a", recipe)
            )

    check()


# Origin of requests


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_own_hosts_are_accepted(idle: LiveServer, name: str) -> None:
    answer = idle.client.get("/api/models", headers={"Host": f"{name}:{idle.port}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{}", "[::1]",
             "localhost.:{}", "user@127.0.0.1:{}", "0.0.0.0:{}", "", ":{}", "127.0.0.1:{}:{}"],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_foreign_host_is_refused(idle: LiveServer, host: str, path: str) -> None:
    headers = {"Host": host.format(idle.port, idle.port)}
    idle.assert_refused(idle.client.get(path, headers=headers), 403, FOREIGN)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{}", "http://127.0.0.1",
               "http://127.0.0.1:{}.evil.example", "http://localhost:{}"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_foreign_origin_is_refused(idle: LiveServer, origin: str, method: str) -> None:
    headers = {"Origin": origin.format(idle.port)}
    answer = idle.client.request(method, "/api/jobs", headers=headers)
    idle.assert_refused(answer, 403, FOREIGN)


def test_own_origin_is_accepted(idle: LiveServer) -> None:
    own = {"Origin": f"http://127.0.0.1:{idle.port}", "Sec-Fetch-Site": "same-origin"}
    assert idle.client.post("/api/jobs", json={"do": "sample"}, headers=own).status_code == 202


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/jobs"), ("DELETE", "/api/shelf/x"), ("GET", "/api/shelf"),
                         ("POST", "/"), ("GET", "/static/app.js")],
)  # fmt: skip
def test_cross_site_request_is_refused(idle: LiveServer, site: str, method: str, path: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    idle.assert_refused(idle.client.request(method, path, headers=headers), 403, FOREIGN)


def test_cross_site_link_opens_only_the_page(idle: LiveServer) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert FOREIGN not in idle.client.get("/", headers=link).text
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    idle.assert_refused(idle.client.get("/", headers=embedded), 403, FOREIGN)


def test_duplicate_header_is_refused(idle: LiveServer) -> None:
    own = f"http://127.0.0.1:{idle.port}"
    duplicates = [("Origin", own), ("Origin", "http://evil.example")]
    idle.assert_refused(
        idle.client.get("/api/models", headers=duplicates), 400, "duplicate header origin"
    )


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_form_body_is_refused(idle: LiveServer, kind: str) -> None:
    body = b'{"do": "sample"}'
    answer = idle.client.post("/api/jobs", content=body, headers={"Content-Type": kind})
    idle.assert_refused(answer, 415, "the body must be JSON")


@pytest.mark.parametrize("path", PATHS)
def test_every_response_has_security_headers(idle: LiveServer, path: str) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        response_headers = idle.client.get(path, headers=headers).headers
        policy = response_headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response_headers["x-content-type-options"] == "nosniff"
        assert response_headers["referrer-policy"] == "no-referrer"
        assert not [name for name in response_headers if name.startswith("access-control")]


def test_preflight_allows_nothing(idle: LiveServer) -> None:
    headers = {"Origin": f"http://127.0.0.1:{idle.port}", "Access-Control-Request-Method": "PUT"}
    answer = idle.client.options("/api/jobs", headers=headers)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


# Paths


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
             "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/render/../../tune.py",
             "/static/app.js%00", "/static/", "/api/tunes/..%2f..%2fetc%2fpasswd",
             "/api/training/..%2f..%2fetc/tune", "/api/shelf/..%2fsecret"],
)  # fmt: skip
def test_request_path_reaches_no_file(playground: LiveServer, path: str) -> None:
    secret = Path(playground.playground.saved_tunes.folder).parent / "secret.mid"
    secret.write_bytes(b"MThd")
    method = b"DELETE" if path.startswith("/api/shelf") else b"GET"
    response = send_raw(playground, b"%s %s HTTP/1.1\r\n" % (method, path.encode()))
    assert response.startswith(b"HTTP/1.1 404")
    assert b"root:" not in response
    assert secret.exists()


def send_raw(server: LiveServer, line: bytes) -> bytes:
    """Send a request unchanged: an HTTP client would normalise its path."""
    with server.connect() as connection:
        host = f"Host: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
        connection.sendall(line + host.encode())
        return read_all(connection)


# Limits


def make_upload_head(server: LiveServer, length: int) -> bytes:
    """Return the head of a request with a JSON body of a number of bytes."""
    return (
        f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_body_with_a_large_content_length_is_not_read(idle: LiveServer) -> None:
    with idle.connect() as connection:
        connection.sendall(make_upload_head(idle, 99_999_999_999))
        response = read_all(connection)
    assert response.startswith(b"HTTP/1.1 413")
    assert b"larger than" in response


def test_growing_body_is_not_read_completely(idle: LiveServer) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    try:
        answer = idle.client.post("/api/jobs", content=endless(), headers=JSON)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # the server closed the connection while we were sending
    else:
        idle.assert_refused(answer, 413, "larger than 1,048,576 bytes")
    assert sent < 16 * 2**20
    wait_until(lambda: idle.playground.worker_pool.upload_budget.used_bytes == 0)


def test_primer_size_limit_is_exact(playground: LiveServer) -> None:
    for size, status in ((PRIMER_BYTES, 202), (PRIMER_BYTES + 1, 413)):
        primer = {"name": "x.mid", "base64": base64.b64encode(bytes(size)).decode()}
        answer = playground.client.post("/api/jobs", json={"do": "sample", "primer": primer})
        assert answer.status_code == status, answer.text
        if status == 202:
            assert "primer" in playground.wait_for_end(answer.json()["id"])["error"]


@pytest.mark.parametrize(
    "start", [b"", b"POST /api/jobs HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX: "]
)
def test_endless_headers_time_out(idle: LiveServer, start: bytes) -> None:
    with idle.connect() as connection:
        connection.sendall(start)
        assert read_all(connection) == b""


def test_endless_body_times_out(idle: LiveServer) -> None:
    with idle.connect() as connection:
        connection.sendall(make_upload_head(idle, 999) + b'{"do":')
        response = read_all(connection)
    assert response.startswith(b"HTTP/1.1 408")
    assert b"arrived too slowly" in response


def test_aborted_request_releases_everything(idle: LiveServer) -> None:
    for _ in range(20):
        with idle.connect() as connection:
            connection.sendall(make_upload_head(idle, 900_000) + b" " * 100_000)
    wait_until(lambda: idle.playground.worker_pool.upload_budget.used_bytes == 0)
    wait_until(lambda: len(idle.server.server_state.connections) <= 1)
    assert idle.get("/api/models")


@pytest.mark.parametrize(
    "malformed",
    [b"malformed\r\n\r\n", bytes(range(256)) * 9, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
     b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
     b"POST /api/jobs HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"],
)  # fmt: skip
def test_malformed_request_is_refused(idle: LiveServer, malformed: bytes) -> None:
    with idle.connect() as connection:
        try:
            connection.sendall(malformed)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server closed the connection
        response = read_all(connection)
    assert response == b"" or response.startswith(b"HTTP/1.1 4")
    assert idle.get("/api/models")


def test_client_that_does_not_read_times_out(tmp_path: Path) -> None:
    limits = ServerLimits(workers=0, send_seconds=0.3)
    with run_server(tmp_path, tmp_path, limits) as server:
        server.playground.assets["big.js"] = Asset(bytes(32 * 2**20), "text/javascript", '"big"')
        with server.connect() as connection:
            host = f"Host: 127.0.0.1:{server.port}\r\n\r\n"
            connection.sendall(b"GET /static/big.js HTTP/1.1\r\n" + host.encode())
            wait_until(lambda: bool(server.server.server_state.total_requests))
            wait_until(lambda: not server.server.server_state.connections)


@pytest.mark.parametrize(
    ("host", "is_allowed"), [("192.168.1.7:80", True), ("[fe80::1]:80", True), ("10.0.0.1", True),
                        ("evil.example:80", False), ("10.0.0.1:81", False), ("1.2.3:80", False)],
)  # fmt: skip
def test_open_server_accepts_addresses_but_no_foreign_names(host: str, is_allowed: bool) -> None:
    """DNS can rebind a name, but not an IP address."""
    messages: list[Message] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http",
             "server": ("0.0.0.0", 80), "headers": [(b"host", host.encode())]}  # fmt: skip
    guard = RequestGuard(answer, ServerLimits(), UploadBudget(0), allow_ip_hosts=True)
    asyncio.run(guard(scope, receive, send))
    assert messages[0]["status"] == (200 if is_allowed else 403)


def test_idle_connections_do_not_block_others(tmp_path: Path) -> None:
    """Beyond the limit, the oldest connection without a complete request is closed."""
    limits = ServerLimits(workers=0, connections=20)
    with run_server(tmp_path, tmp_path, limits) as server, ExitStack() as stack:
        job = server.submit(do="sample")
        with server.client.stream("GET", f"/api/jobs/{job}/events") as response:
            states = (line for line in response.iter_lines() if line.startswith("data: "))
            assert '"waiting"' in next(states)
            connections = [stack.enter_context(server.connect()) for _ in range(42)]
            for number, connection in enumerate(connections):
                with contextlib.suppress(ConnectionError):  # it may have been dropped already
                    if number % 2:  # an incomplete request
                        connection.sendall(make_upload_head(server, 99) + b"{")
            wait_until(lambda: len(server.server.server_state.connections) <= 20)
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=5) as client:
                assert client.get("/").status_code == 200
            assert read_all(connections[0]) == b""
            server.client.delete(f"/api/jobs/{job}")
            assert '"cancelled"' in next(states)


def test_full_server_accepts_no_other_connection(tmp_path: Path) -> None:
    with (
        run_server(tmp_path, tmp_path, ServerLimits(workers=0, connections=3)) as server,
        ExitStack() as stack,
    ):
        job = server.submit(do="sample")
        request = b"GET /api/jobs/%s/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
        for _ in range(3):
            connection = stack.enter_context(server.connect())
            connection.sendall(request % (job.encode(), server.port))
            data = b""
            while b"waiting" not in data:
                data += connection.recv(2**16)
        with server.connect() as extra_connection:
            assert read_all(extra_connection) == b""


# Many clients


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[LiveServer]:
    """Run a server with low limits."""
    limits = ServerLimits(workers=0, body_bytes=2**20, waiting_total=100, upload_bytes=4 * 2**20)
    with run_server(tmp_path, tmp_path, limits) as server:
        yield server


def test_many_concurrent_uploads(small_server: LiveServer) -> None:
    """All get a response, few are held in memory, and the server stays responsive."""
    text = "x" * 900_000
    body = json.dumps({"do": "sample", "primer": {"text": text}}).encode()
    statuses: list[int] = []

    def upload(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", small_server.port, timeout=TIMEOUT)
        connection.request("POST", "/api/jobs", body, JSON | {"X-Client": str(number)})
        statuses.append(connection.getresponse().status)
        connection.close()

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    assert small_server.get("/api/models")
    for thread in threads:
        thread.join()
    assert len(statuses) == 100
    assert set(statuses) == {202, 429}
    budget = small_server.playground.worker_pool.upload_budget
    wait_until(
        lambda: budget.used_bytes == statuses.count(202) * len(text)
    )  # once all responses are sent
    assert budget.used_bytes <= budget.max_bytes


def test_clients_take_turns(small_server: LiveServer) -> None:
    for number in range(10):
        for _ in range(2):
            headers = {"X-Client": f"greedy {number}"}
            small_server.client.post("/api/jobs", json={"do": "sample"}, headers=headers)
    modest = small_server.client.post(
        "/api/jobs", json={"do": "sample"}, headers={"X-Client": "modest"}
    )
    assert small_server.get(f"/api/jobs/{modest.json()['id']}")["ahead"] == 10


# Hostile files


def list_hostile_primers(*, big: bool) -> dict[str, bytes]:
    files = make(big=big)
    return {name: data for name, data in files.items() if name.endswith((".abc", ".mid"))
            and len(data) <= PRIMER_BYTES}  # fmt: skip


def assert_survives(playground: LiveServer, names: list[str], *, big: bool = False) -> None:
    """Send hostile files as primers: each job ends with a tune or an error of one line."""
    files = list_hostile_primers(big=big)
    for name in names:
        data = base64.b64encode(files[name]).decode()
        job = playground.submit(do="sample", bars=2, seed=1, primer={"name": name, "base64": data})
        end = playground.wait_for_end(job)
        assert end["state"] == "done" or end["error"].isprintable(), name


def test_hostile_primers_fail_alone(playground: LiveServer) -> None:
    names = sorted(list_hostile_primers(big=False))
    assert_survives(playground, names[:: max(1, len(names) // 6)])


@pytest.mark.promises
def test_all_hostile_primers_fail_alone(playground: LiveServer) -> None:
    names = sorted(list_hostile_primers(big=True))
    assert len(names) > 100
    assert_survives(playground, names, big=True)
    assert playground.generate(do="sample", bars=4)


@pytest.mark.parametrize(
    "title", ["<script>alert(1)</script>", "../../etc/passwd", '"; rm -rf "', "\x1b[31mred",
              "\r\nX-Evil: 1"],
)  # fmt: skip
def test_hostile_title_is_text(playground: LiveServer, title: str) -> None:
    text = f"X:1\nT:{title}\nC:{title}\nM:6/8\nL:1/8\nK:D\nDFA dAF|GBd gdB|"
    primer = {"name": f"{title}.abc"[:100], "text": text}
    tune = playground.generate(do="sample", seed=1, bars=4, primer=primer)
    answer = playground.client.get(f"/api/tunes/{tune['id']}/file/mid")
    disposition = answer.headers["content-disposition"]
    assert re.fullmatch(r'attachment; filename="[a-z0-9-]{1,60}\.mid"', disposition)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-evil" not in answer.headers
    playground.assert_refused(
        playground.client.post("/api/jobs", json={"do": "sample", "key": title}), 400, "key"
    )
