"""Promise 25, and each line of what a server on one's own machine must be safe from."""

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
from musicgen.web.request_validation import build_sample_job, build_tweak_job
from musicgen.web.schemas import TuneRequest, parse_tune_request
from musicgen.web.worker_pool import Job, UploadBudget
from musicgen.web.worker_process import HttpError
from tests.live_server import PATIENCE, Served, read_all, served, until
from tests.malformed_files import make

FOREIGN = "this server answers only to its own"
JSON = {"Content-Type": "application/json"}
PATHS = ("/", "/api/models", "/api/shelf", "/static/app.js", "/openapi.json", "/nothing")


# No request computes in the loop


def test_a_request_that_is_slow_to_check_keeps_nobody_waiting(
    idle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(*_: object) -> Job:
        begun.set()
        assert release.wait(PATIENCE)
        raise HttpError(400, "it took long to see what is wrong")

    monkeypatch.setattr(app, "build_sample_job", slow)
    with ThreadPoolExecutor() as clients:
        asked = clients.submit(idle.client.post, "/api/jobs", json={"do": "sample"})
        assert begun.wait(PATIENCE)
        assert idle.get("/api/models")
        release.set()
        idle.refused(asked.result(), 400, "it took long")


@pytest.mark.parametrize(
    "body", ["[" + "[]," * 200_000 + "[]]", '{"do":' + "[" * 500_000, "9" * 900_000,
             "{" + ",".join(f'"a{n}":1' for n in range(90_000)) + "}",
             '{"do":"sample","primer":{' + ",".join(f'"a{n}":1' for n in range(90_000)) + "}}",
             '{"do":"sample","bars":' + "9" * 900_000 + "}",
             '{"do":"sample","tempo":' + "9" * 900_000 + "e9}"],
)  # fmt: skip
def test_a_body_is_never_built_where_it_does_not_fit(idle: Served, body: str) -> None:
    """What it holds beside what is asked for costs neither memory nor time."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidValue):
            parse_tune_request(body.encode())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)
    answer = idle.client.post("/api/jobs", content=body, headers=JSON)
    idle.refused(answer, 400, "the request")


FIELDS = [name for name in TuneRequest.__struct_fields__ if name not in ("do", "primer")]
HOSTILE = st.sampled_from(
    ["1e-9999999", "1e9999999", "²", "½", "٣", "9" * 90, "-0", "nan", "inf", "1/0",
     "1/" + "9" * 90, "1-99999999999", "AB" * 50, "\x00", "", " "]
)  # fmt: skip
VALUES = HOSTILE | st.text(max_size=110) | st.integers() | st.floats() | st.none() | st.booleans()


@pytest.mark.parametrize("count", [30, pytest.param(2000, marks=pytest.mark.promises)])
@pytest.mark.parametrize("field", FIELDS)
def test_any_value_of_a_field_is_taken_or_refused_at_once(field: str, count: int) -> None:
    @settings(max_examples=count, deadline=2000, database=None)
    @given(VALUES, st.sampled_from(["sample", "tweak"]))
    @example("1e-9999999", "sample")
    @example("²", "sample")
    @example("9" * 4000, "tweak")
    def check(value: object, do: str) -> None:
        with contextlib.suppress(MusicgenError):
            ask = parse_tune_request(json.dumps({"do": do, field: value}).encode())
            recipe = "{}"
            _ = build_sample_job(ask, "a") if do == "sample" else build_tweak_job(ask, "a", recipe)

    check()


# Who asks


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_it_answers_to_its_own_names(idle: Served, name: str) -> None:
    answer = idle.client.get("/api/models", headers={"Host": f"{name}:{idle.port}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{}", "[::1]",
             "localhost.:{}", "user@127.0.0.1:{}", "0.0.0.0:{}", "", ":{}", "127.0.0.1:{}:{}"],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_host_is_refused(idle: Served, host: str, path: str) -> None:
    headers = {"Host": host.format(idle.port, idle.port)}
    idle.refused(idle.client.get(path, headers=headers), 403, FOREIGN)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{}", "http://127.0.0.1",
               "http://127.0.0.1:{}.evil.example", "http://localhost:{}"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_a_foreign_origin_is_refused(idle: Served, origin: str, method: str) -> None:
    headers = {"Origin": origin.format(idle.port)}
    answer = idle.client.request(method, "/api/jobs", headers=headers)
    idle.refused(answer, 403, FOREIGN)


def test_its_own_page_is_served(idle: Served) -> None:
    own = {"Origin": f"http://127.0.0.1:{idle.port}", "Sec-Fetch-Site": "same-origin"}
    assert idle.client.post("/api/jobs", json={"do": "sample"}, headers=own).status_code == 202


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/jobs"), ("DELETE", "/api/shelf/x"), ("GET", "/api/shelf"),
                         ("POST", "/"), ("GET", "/static/app.js")],
)  # fmt: skip
def test_another_site_reaches_nothing(idle: Served, site: str, method: str, path: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    idle.refused(idle.client.request(method, path, headers=headers), 403, FOREIGN)


def test_a_link_from_elsewhere_opens_the_page_alone(idle: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert FOREIGN not in idle.client.get("/", headers=link).text
    drawn = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    idle.refused(idle.client.get("/", headers=drawn), 403, FOREIGN)


def test_a_header_that_decides_stands_there_once(idle: Served) -> None:
    own = f"http://127.0.0.1:{idle.port}"
    twice = [("Origin", own), ("Origin", "http://evil.example")]
    idle.refused(idle.client.get("/api/models", headers=twice), 400, "origin stands there twice")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_form_of_another_site_cannot_ask(idle: Served, kind: str) -> None:
    body = b'{"do": "sample"}'
    answer = idle.client.post("/api/jobs", content=body, headers={"Content-Type": kind})
    idle.refused(answer, 415, "a body must be application/json")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_marked(idle: Served, path: str) -> None:
    for headers in ({}, {"Host": "evil.example"}):
        told = idle.client.get(path, headers=headers).headers
        policy = told["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert not [name for name in told if name.startswith("access-control")]


def test_a_preflight_allows_nothing(idle: Served) -> None:
    headers = {"Origin": f"http://127.0.0.1:{idle.port}", "Access-Control-Request-Method": "PUT"}
    answer = idle.client.options("/api/jobs", headers=headers)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


# No path from a request


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
             "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/render/../../tune.py",
             "/static/app.js%00", "/static/", "/api/tunes/..%2f..%2fetc%2fpasswd",
             "/api/training/..%2f..%2fetc/tune", "/api/shelf/..%2fsecret"],
)  # fmt: skip
def test_no_path_of_a_request_reaches_a_file(playground: Served, path: str) -> None:
    secret = Path(playground.playground.saved_tunes.folder).parent / "secret.mid"
    secret.write_bytes(b"MThd")
    method = b"DELETE" if path.startswith("/api/shelf") else b"GET"
    told = raw(playground, b"%s %s HTTP/1.1\r\n" % (method, path.encode()))
    assert told.startswith(b"HTTP/1.1 404")
    assert b"root:" not in told
    assert secret.exists()


def raw(server: Served, line: bytes) -> bytes:
    """Send a request as it stands: a client of HTTP would tidy its path."""
    with server.connection() as connection:
        host = f"Host: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
        connection.sendall(line + host.encode())
        return read_all(connection)


# Limits


def test_a_body_that_says_it_is_too_large_is_not_read(idle: Served) -> None:
    with idle.connection() as connection:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{idle.port}\r\n"
        kind = "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
        connection.sendall(f"{head}{kind}".encode())
        told = read_all(connection)
    assert told.startswith(b"HTTP/1.1 413")
    assert b"larger than" in told


def test_a_body_that_grows_too_large_is_not_read_whole(idle: Served) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    try:
        answer = idle.client.post("/api/jobs", content=endless(), headers=JSON)
    except (httpx.WriteError, httpx.ReadError):
        pass  # it hung up while we were still sending
    else:
        idle.refused(answer, 413, "larger than 1,048,576 bytes")
    assert sent < 16 * 2**20
    until(lambda: idle.playground.worker_pool.upload_budget.used_bytes == 0)


def test_a_primer_is_as_large_as_it_may_be(playground: Served) -> None:
    for size, status in ((PRIMER_BYTES, 202), (PRIMER_BYTES + 1, 413)):
        primer = {"name": "x.mid", "base64": base64.b64encode(bytes(size)).decode()}
        answer = playground.client.post("/api/jobs", json={"do": "sample", "primer": primer})
        assert answer.status_code == status, answer.text
        if status == 202:
            assert "primer" in playground.end_of(answer.json()["id"])["error"]


@pytest.mark.parametrize(
    "start", [b"", b"POST /api/jobs HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\nX: "]
)
def test_headers_that_never_end_are_given_up(idle: Served, start: bytes) -> None:
    with idle.connection() as connection:
        connection.sendall(start)
        assert read_all(connection) == b""


def test_a_body_that_never_ends_is_given_up(idle: Served) -> None:
    with idle.connection() as connection:
        head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{idle.port}\r\n"
        kind = 'Content-Type: application/json\r\nContent-Length: 999\r\n\r\n{"do":'
        connection.sendall(f"{head}{kind}".encode())
        told = read_all(connection)
    assert told.startswith(b"HTTP/1.1 408")
    assert b"took too long to come in" in told


def test_a_client_that_hangs_up_in_mid_request_leaves_nothing(idle: Served) -> None:
    for _ in range(20):
        with idle.connection() as connection:
            head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{idle.port}\r\n"
            kind = "Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
            connection.sendall(f"{head}{kind}".encode() + b" " * 100_000)
    until(lambda: idle.playground.worker_pool.upload_budget.used_bytes == 0)
    until(lambda: len(idle.server.server_state.connections) <= 1)
    assert idle.get("/api/models")


@pytest.mark.parametrize(
    "rubbish",
    [b"rubbish\r\n\r\n", bytes(range(256)) * 9, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
     b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
     b"POST /api/jobs HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"],
)  # fmt: skip
def test_rubbish_is_refused(idle: Served, rubbish: bytes) -> None:
    with idle.connection() as connection:
        try:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it hung up already
        told = read_all(connection)
    assert told == b"" or told.startswith(b"HTTP/1.1 4")
    assert idle.get("/api/models")


def test_a_client_that_does_not_take_its_answer_is_given_up(tmp_path: Path) -> None:
    limits = ServerLimits(workers=0, send_seconds=0.3)
    with served(tmp_path, tmp_path, limits) as found:
        found.playground.assets["big.js"] = Asset(bytes(32 * 2**20), "text/javascript", '"big"')
        with found.connection() as connection:
            host = f"Host: 127.0.0.1:{found.port}\r\n\r\n"
            connection.sendall(b"GET /static/big.js HTTP/1.1\r\n" + host.encode())
            until(lambda: bool(found.server.server_state.total_requests))
            until(lambda: not found.server.server_state.connections)


@pytest.mark.parametrize(
    ("host", "known"), [("192.168.1.7:80", True), ("[fe80::1]:80", True), ("10.0.0.1", True),
                        ("evil.example:80", False), ("10.0.0.1:81", False), ("1.2.3:80", False)],
)  # fmt: skip
def test_a_server_that_is_open_to_others_goes_by_no_foreign_name(host: str, known: bool) -> None:
    """An address in numbers cannot be rebound; a name can."""
    answers: list[Message] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Message) -> None:
        answers.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http",
             "server": ("0.0.0.0", 80), "headers": [(b"host", host.encode())]}  # fmt: skip
    gate = RequestGuard(answer, ServerLimits(), UploadBudget(0), allow_ip_hosts=True)
    asyncio.run(gate(scope, receive, send))
    assert answers[0]["status"] == (200 if known else 403)


def test_idle_sockets_do_not_shut_the_page_out(tmp_path: Path) -> None:
    """Of too many connections the oldest goes that has sent no complete request."""
    limits = ServerLimits(workers=0, connections=20)
    head = b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
    with served(tmp_path, tmp_path, limits) as found, ExitStack() as end:
        job = found.ask(do="sample")
        with found.client.stream("GET", f"/api/jobs/{job}/events") as lines:
            states = (line for line in lines.iter_lines() if line.startswith("data: "))
            assert '"waiting"' in next(states)
            held = [end.enter_context(found.connection()) for _ in range(42)]
            for number, one in enumerate(held):
                with contextlib.suppress(ConnectionError):  # it may have been dropped already
                    if number % 2:  # half of a request
                        one.sendall(head % found.port + b"Content-Length: 99\r\n\r\n{")
            until(lambda: len(found.server.server_state.connections) <= 20)
            with httpx.Client(base_url=f"http://127.0.0.1:{found.port}", timeout=5) as other:
                assert other.get("/").status_code == 200
            assert read_all(held[0]) == b""
            found.client.delete(f"/api/jobs/{job}")
            assert '"cancelled"' in next(states)


def test_a_server_whose_connections_are_all_at_work_takes_no_other(tmp_path: Path) -> None:
    with (
        served(tmp_path, tmp_path, ServerLimits(workers=0, connections=3)) as found,
        ExitStack() as end,
    ):
        job = found.ask(do="sample")
        request = b"GET /api/jobs/%s/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
        for _ in range(3):
            one = end.enter_context(found.connection())
            one.sendall(request % (job.encode(), found.port))
            answer = b""
            while b"waiting" not in answer:
                answer += one.recv(2**16)
        with found.connection() as one_more:
            assert read_all(one_more) == b""


# A hundred clients


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Served]:
    """Serve with room for few."""
    limits = ServerLimits(workers=0, body_bytes=2**20, waiting_total=100, upload_bytes=4 * 2**20)
    with served(tmp_path, tmp_path, limits) as found:
        yield found


def test_a_hundred_uploads_at_once(narrow: Served) -> None:
    """All are answered, few are held, and the server is there for others meanwhile."""
    text = "x" * 900_000
    body = json.dumps({"do": "sample", "primer": {"text": text}}).encode()
    answers: list[int] = []

    def upload(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=PATIENCE)
        connection.request("POST", "/api/jobs", body, JSON | {"X-Client": str(number)})
        answers.append(connection.getresponse().status)
        connection.close()

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    assert narrow.get("/api/models")
    for thread in threads:
        thread.join()
    assert len(answers) == 100
    assert set(answers) == {202, 429}
    held = narrow.playground.worker_pool.upload_budget
    until(lambda: held.used_bytes == answers.count(202) * len(text))  # once the answers are through
    assert held.used_bytes <= held.max_bytes


def test_every_client_has_its_turn(narrow: Served) -> None:
    for number in range(10):
        for _ in range(2):
            headers = {"X-Client": f"greedy {number}"}
            narrow.client.post("/api/jobs", json={"do": "sample"}, headers=headers)
    modest = narrow.client.post("/api/jobs", json={"do": "sample"}, headers={"X-Client": "modest"})
    assert narrow.get(f"/api/jobs/{modest.json()['id']}")["ahead"] == 10


# What others wrote


def hostile_primers(*, big: bool) -> dict[str, bytes]:
    files = make(big=big)
    return {name: data for name, data in files.items() if name.endswith((".abc", ".mid"))
            and len(data) <= PRIMER_BYTES}  # fmt: skip


def assert_survives(playground: Served, names: list[str], *, big: bool = False) -> None:
    """Send hostile files as primers: each ends as a tune, or with one line."""
    files = hostile_primers(big=big)
    for name in names:
        data = base64.b64encode(files[name]).decode()
        job = playground.ask(do="sample", bars=2, seed=1, primer={"name": name, "base64": data})
        end = playground.end_of(job)
        assert end["state"] == "done" or end["error"].isprintable(), name


def test_hostile_primers_cost_themselves(playground: Served) -> None:
    names = sorted(hostile_primers(big=False))
    assert_survives(playground, names[:: max(1, len(names) // 6)])


@pytest.mark.promises
def test_all_hostile_primers_cost_themselves(playground: Served) -> None:
    names = sorted(hostile_primers(big=True))
    assert len(names) > 100
    assert_survives(playground, names, big=True)
    assert playground.tune_of(do="sample", bars=4)


@pytest.mark.parametrize(
    "title", ["<script>alert(1)</script>", "../../etc/passwd", '"; rm -rf "', "\x1b[31mred",
              "\r\nX-Evil: 1"],
)  # fmt: skip
def test_a_hostile_title_is_text(playground: Served, title: str) -> None:
    text = f"X:1\nT:{title}\nC:{title}\nM:6/8\nL:1/8\nK:D\nDFA dAF|GBd gdB|"
    primer = {"name": f"{title}.abc"[:100], "text": text}
    tune = playground.tune_of(do="sample", seed=1, bars=4, primer=primer)
    answer = playground.client.get(f"/api/tunes/{tune['id']}/file/mid")
    named = answer.headers["content-disposition"]
    assert re.fullmatch(r'attachment; filename="[a-z0-9-]{1,60}\.mid"', named)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-evil" not in answer.headers
    playground.refused(
        playground.client.post("/api/jobs", json={"do": "sample", "key": title}), 400, "key"
    )
