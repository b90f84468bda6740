"""`musicgen serve`: what it says, what it refuses, how it ends."""

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
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Let the command run up to where it would serve, and note what a browser would open."""
    found: list[str] = []

    class Browser:
        def open(self, address: str) -> bool:
            found.append(address)
            return True

    def start(_: Any, listens: socket.socket, ready: Any) -> None:
        with listens:
            ready()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "run", start)
    monkeypatch.setattr(webbrowser, "get", Browser)
    return found


def serve(*words: str) -> Result:
    return CliRunner().invoke(commands, ["serve", "--port", "0", *words])


def test_it_opens_the_page(opened: list[str]) -> None:
    result = serve()
    assert result.exit_code == 0, result.output
    (address,) = opened
    assert result.output == f"{address} is open; Ctrl-C ends it\n"
    assert address.startswith("http://127.0.0.1:")


def test_it_opens_no_page_if_told_so(opened: list[str]) -> None:
    assert "is open" in serve("--no-open").output
    assert opened == []


@pytest.mark.parametrize("kind", ["none", "text"])
def test_no_browser_is_one_line(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def get() -> webbrowser.BaseBrowser:
        if kind == "none":
            raise webbrowser.Error("could not locate runnable browser")
        return webbrowser.GenericBrowser("true")  # one in the terminal would hide what is said

    monkeypatch.setattr(webbrowser, "get", get)
    result = serve()
    assert result.exit_code == 0
    assert result.output.count("\n") == 2
    assert "no browser was found here: open http://127.0.0.1:" in result.output


def test_a_host_that_lets_others_in_is_warned_of(opened: list[str]) -> None:
    result = serve("--host", "0.0.0.0")
    assert result.output.splitlines()[0].startswith("warning: 0.0.0.0 is open to others")
    assert "warning" not in serve("--host", "localhost").output


def test_a_port_in_use_is_one_line(opened: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(commands, ["serve", "--port", port])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert f"port {port} is in use" in result.output
    assert "--port 0 for one that is free" in result.output


@pytest.mark.parametrize("host", ["nowhere.invalid", "203.0.113.7", "x" * 300, "\x1b[31m"])
def test_a_host_that_is_not_ours_is_one_line(opened: list[str], host: str) -> None:
    result = serve("--host", host)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize("folder", [
    "file", "file/tunes", "/dev/null", "/dev/null/x", "gone", "", "n" * 10_000,
    f"new/{'n' * 256}/x", "/".join(["n" * 200] * 30),
])  # fmt: skip
def test_a_folder_that_can_be_none_is_refused(
    opened: list[str], tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    result = serve("--folder", folder)
    assert result.exit_code == 2
    assert "Error: Invalid value for '--folder'" in result.output
    assert opened == []


def test_a_folder_that_is_not_there_yet_will_do(opened: list[str], tmp_path: Path) -> None:
    assert serve("--folder", "new/tunes").exit_code == 0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["", " "])
@pytest.mark.parametrize(
    "words", [("sample",), ("tweak", "song.mid"), ("render", "song.mid"), ("compare",),
              ("corpus", "build", ".")],
)  # fmt: skip
def test_an_output_without_a_name_is_refused(
    opened: list[str], tmp_path: Path, words: tuple[str, ...], out: str
) -> None:
    result = CliRunner().invoke(commands, [*words, "--out", out])
    assert result.exit_code == 2
    assert "Invalid value for '--out': the name is empty" in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_it_and_its_workers(tmp_path: Path) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    words = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=os.environ | {"PYTHONPATH": path}) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        address = child.stdout.readline().split()[0]
        assert httpx.get(f"{address}api/models").json()[0]["name"] == "folk"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert child.stderr.read() == ""
        assert child.stdout.read() == ""  # which its workers would hold open


HANGS = {
    "an answer": "async def entries(self): hung(); await asyncio.Event().wait()",
    "a loop": "async def entries(self): hung(); threading.Event().wait()",
    "a thread": "async def entries(self): await asyncio.to_thread(lambda: (hung(),"
    " threading.Event().wait()))",
}


@pytest.mark.parametrize("hangs", HANGS)
def test_an_interrupt_ends_it_whatever_hangs(tmp_path: Path, hangs: str) -> None:
    code = f"""
import asyncio, sys, threading
from musicgen.cli import commands
from musicgen.web import crew, serving, shelf
hung = lambda: print("hung", flush=True)
{HANGS[hangs]}
shelf.Shelf.entries = entries
crew.Crew.start = lambda self: None
serving.GRACE, serving.LAST_SECONDS = 0.2, {60 if hangs == "an answer" else 1}
commands(["serve", "--no-open", "--port", "0"])
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    start = partial(
        subprocess.Popen[str], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    own = os.environ | {"PYTHONPATH": path}
    with start([sys.executable, "-c", code], cwd=tmp_path, env=own) as child, ExitStack() as end:
        end.callback(child.kill)  # lest a failure wait for it
        assert child.stdout is not None
        assert child.stderr is not None
        port = int(child.stdout.readline().split()[0].rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /api/shelf HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % port)
            assert child.stdout.readline() == "hung\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 0
        assert child.stderr.read() == ""


@pytest.mark.parametrize("seconds", [10, pytest.param(4, marks=pytest.mark.promises)])
def test_a_signal_ends_it_whatever_is_in_flight(tmp_path: Path, seconds: float) -> None:
    """Tunes of 512 bars, half an upload, idle sockets, and a client that follows a job."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    words = [sys.executable, "-m", "musicgen", "serve", "--no-open", "--port", "0"]
    with ExitStack() as end:
        child = end.enter_context(
            subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=os.environ | {"PYTHONPATH": path})
        )  # fmt: skip
        end.callback(child.kill)
        assert child.stdout is not None
        assert child.stderr is not None
        address = child.stdout.readline().split()[0]
        port = int(address.rstrip("/").rpartition(":")[2])
        client = end.enter_context(httpx.Client(base_url=address, timeout=60))
        body = {"do": "sample", "bars": 512, "form": "through"}
        jobs = [client.post("/api/jobs", json=body).json()["id"] for _ in range(3)]
        events = end.enter_context(client.stream("GET", f"/api/jobs/{jobs[0]}/events"))
        lines = events.iter_lines()
        assert any('"bars": 1' in line for line in lines)  # a worker is at it
        head = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        for start in ("", f"POST /api/jobs HTTP/1.1\r\n{head}Content-Length: 99\r\n\r\n"):
            one = end.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(start.encode())
        child.send_signal(signal.SIGTERM)
        assert child.wait(seconds) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert child.stderr.read() == ""
        assert child.stdout.read() == ""  # which its workers would hold open


def test_its_help_imports_no_server() -> None:
    code = "from musicgen.cli import commands; commands(['serve', '--help'], standalone_mode=False)"
    heavy = "print([m for m in ('fastapi', 'uvicorn', 'verovio', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}; {heavy}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip().endswith("[]")
