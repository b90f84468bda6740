"""`musicgen serve`: messages, refusals, shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import webbrowser
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from musicgen.cli import commands
from musicgen.web import server


@pytest.fixture
def opened_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Run the command without serving; return the addresses that a browser would open."""
    addresses: list[str] = []

    class Browser:
        def open(self, address: str) -> bool:
            addresses.append(address)
            return True

    def start(_: Any, listener: socket.socket, ready: Any) -> None:
        with listener:
            ready()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "run", start)
    monkeypatch.setattr(webbrowser, "get", Browser)
    return addresses


def run_serve(*args: str) -> Result:
    return CliRunner().invoke(commands, ["serve", "--port", "0", *args])


def test_serve_opens_the_page(opened_pages: list[str]) -> None:
    result = run_serve()
    assert result.exit_code == 0, result.output
    (address,) = opened_pages
    assert result.output == f"{address} is open; Ctrl-C stops it\n"
    assert address.startswith("http://127.0.0.1:")


def test_no_open_opens_no_page(opened_pages: list[str]) -> None:
    assert "is open" in run_serve("--no-open").output
    assert opened_pages == []


@pytest.mark.parametrize("kind", ["none", "text"])
def test_missing_browser_is_reported_in_one_line(
    opened_pages: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def get() -> webbrowser.BaseBrowser:
        if kind == "none":
            raise webbrowser.Error("could not locate runnable browser")
        return webbrowser.GenericBrowser("true")  # a text browser would hide the output

    monkeypatch.setattr(webbrowser, "get", get)
    result = run_serve()
    assert result.exit_code == 0
    assert result.output.count("\n") == 2
    assert "no browser found; open http://127.0.0.1:" in result.output


def test_non_loopback_host_causes_a_warning(opened_pages: list[str]) -> None:
    result = run_serve("--host", "0.0.0.0")
    assert result.output.splitlines()[0].startswith(
        "warning: 0.0.0.0 is reachable from other machines"
    )
    assert "warning" not in run_serve("--host", "localhost").output


def test_port_in_use_is_refused_in_one_line(opened_pages: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy_socket:
        port = str(busy_socket.getsockname()[1])
        result = CliRunner().invoke(commands, ["serve", "--port", port])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"port {port} is in use" in result.output
    assert "--port 0 for one that is free" in result.output


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7", "x" * 300, "\x1b[31m"])
def test_host_of_another_machine_is_refused_in_one_line(opened_pages: list[str], host: str) -> None:
    result = run_serve("--host", host)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize("folder", [
    "file", "file/tunes", "/dev/null", "/dev/null/x", "gone", "", "n" * 10_000,
    f"new/{'n' * 256}/x", "/".join(["n" * 200] * 30),
])  # fmt: skip
def test_path_that_cannot_be_a_folder_is_refused(
    opened_pages: list[str], tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    result = run_serve("--folder", folder)
    assert result.exit_code == 2
    assert "Error: Invalid value for '--folder'" in result.output
    assert opened_pages == []


def test_missing_folder_is_accepted(opened_pages: list[str], tmp_path: Path) -> None:
    assert run_serve("--folder", "new/tunes").exit_code == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["", " "])
@pytest.mark.parametrize(
    "args", [("sample",), ("tweak", "song.mid"), ("render", "song.mid"), ("compare",),
              ("corpus", "build", ".")],
)  # fmt: skip
def test_empty_output_name_is_refused(
    opened_pages: list[str], tmp_path: Path, args: tuple[str, ...], out: str
) -> None:
    result = CliRunner().invoke(commands, [*args, "--out", out])
    assert result.exit_code == 2
    assert "Invalid value for '--out': the name is empty" in result.output
    assert list(tmp_path.iterdir()) == []


def test_interrupt_stops_server_and_workers(tmp_path: Path) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    args = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=os.environ | {"PYTHONPATH": path}) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[0]
        assert httpx.get(f"{address}api/models").json()[0]["name"] == "folk"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
        assert process.stdout.read() == ""  # a living worker would hold it open


HANGING_HANDLERS = {
    "an answer": "async def list_tunes(self): reached(); await asyncio.Event().wait()",
    "a loop": "async def list_tunes(self): reached(); threading.Event().wait()",
    "a thread": "async def list_tunes(self): await asyncio.to_thread(lambda: (reached(),"
    " threading.Event().wait()))",
}


@pytest.mark.parametrize(
    "handler",
    [
        "an answer",
        *(pytest.param(name, marks=pytest.mark.promises) for name in ("a loop", "a thread")),
    ],
)
def test_interrupt_stops_a_hanging_server(tmp_path: Path, handler: str) -> None:
    code = f"""
import asyncio, sys, threading
from musicgen.cli import commands
from musicgen.web import saved_tunes, server, worker_pool
reached = lambda: print("reached", flush=True)
{HANGING_HANDLERS[handler]}
saved_tunes.SavedTunes.list_tunes = list_tunes
worker_pool.WorkerPool.start = lambda self: None
server.GRACE_SECONDS, server.FORCED_EXIT_SECONDS = 0.2, {60 if handler == "an answer" else 1}
commands(["serve", "--no-open", "--port", "0"])
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    start = partial(
        subprocess.Popen[str], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    environment = os.environ | {"PYTHONPATH": path}
    with (
        start([sys.executable, "-c", code], cwd=tmp_path, env=environment) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)  # a failed test must not wait for it
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline().split()[0].rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /api/shelf HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % port)
            assert process.stdout.readline() == "reached\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("seconds", [10, pytest.param(4, marks=pytest.mark.promises)])
def test_sigterm_stops_server_with_requests_in_flight(tmp_path: Path, seconds: float) -> None:
    """Shut down during long jobs, half an upload, an idle connection and an event stream."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    args = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(args, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=os.environ | {"PYTHONPATH": path})
        )  # fmt: skip
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[0]
        port = int(address.rstrip("/").rpartition(":")[2])
        client = stack.enter_context(httpx.Client(base_url=address, timeout=60))
        body = {"do": "sample", "bars": 512, "form": "through"}
        jobs = [client.post("/api/jobs", json=body).json()["id"] for _ in range(3)]
        events = stack.enter_context(client.stream("GET", f"/api/jobs/{jobs[0]}/events"))
        lines = events.iter_lines()
        assert any('"bars": 1' in line for line in lines)  # a worker has started
        head = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        for start in ("", f"POST /api/jobs HTTP/1.1\r\n{head}Content-Length: 99\r\n\r\n"):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(start.encode())
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert process.stderr.read() == ""
        assert process.stdout.read() == ""  # a living worker would hold it open


def test_help_imports_no_server() -> None:
    code = "from musicgen.cli import commands; commands(['serve', '--help'], standalone_mode=False)"
    heavy = "print([m for m in ('fastapi', 'uvicorn', 'verovio', 'torch') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", f"import sys; {code}; {heavy}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert process.stdout.strip().endswith("[]")
