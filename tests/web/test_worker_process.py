"""The parent's end of a worker, with worker processes that crash, hang or send garbage."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from musicgen import process_limits
from musicgen.web import worker_process
from musicgen.web.worker_process import HttpError, Worker, WorkerLost, WorkerUnavailable

READY = 'import os, signal, sys, time; print(\'{"done": {}, "bytes": 0}\', flush=True);'
ROOT = Path(__file__).parents[2]


def ask_child(code: str, monkeypatch: pytest.MonkeyPatch, seconds: float = 60) -> list[int]:
    """Send a request to a worker that runs some code; return the bars it reported."""
    monkeypatch.setattr(worker_process, "COMMAND", ("-c", READY + code))
    bars: list[int] = []

    async def start_and_ask() -> None:
        worker = await Worker.start(Path(), 60)
        try:
            answer = await worker.ask({"do": "x"}, b"payload", seconds, bars.append)
            assert (answer.head, answer.body) == ({"id": "a"}, b"body")
        finally:
            await worker.stop()

    asyncio.run(start_and_ask())
    return bars


def test_worker_reports_bars_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
line = sys.stdin.buffer.readline(); assert b'"bytes": 7' in line
assert sys.stdin.buffer.read(7) == b"payload"
print('{"bars": 1}\\n{"bars": 2}\\n{"done": {"id": "a"}, "bytes": 4}\\nbody', end="", flush=True)
sys.stdin.read()
"""
    assert ask_child(code, monkeypatch) == [1, 2]


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGPROF)", 400, "parsing the file exceeded the time limit"),
        ("os._exit(77)", 400, "the request exceeded the memory limit"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 503, r"crashed \(SIGSEGV\); try again"),
        ("raise SystemExit(3)", 503, r"crashed \(exit status 3\)"),
        ('print(\'{"done": {}, "bytes": 9}\\nhalf\', flush=True)', 503, "crashed"),
        ("os.close(1); time.sleep(600)", 503, "crashed"),
        ("print('{\"bars\": 1', end='', flush=True)", 503, "crashed"),
        ("print('no JSON', flush=True); time.sleep(600)", 503, "its answer cannot be read"),
        ("print('x' * 10**5, flush=True); time.sleep(600)", 503, "its answer cannot be read"),
    ],
)
def test_crash_is_explained(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, words: str
) -> None:
    monkeypatch.setattr(worker_process, "MAX_LINE", 2**14)
    with pytest.raises(WorkerLost, match=words) as crash:
        ask_child(code, monkeypatch)
    assert crash.value.status == status


def test_refusal_keeps_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'print(\'{"refused": "no such tune", "kind": "NotFound"}\', flush=True)'
    with pytest.raises(HttpError, match="no such tune") as refusal:
        ask_child(f"{code}; sys.stdin.read()", monkeypatch)
    assert (refusal.value.status, isinstance(refusal.value, WorkerLost)) == (404, False)


def test_slow_worker_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerLost, match=r"the job exceeded 0\.2 s and was stopped"):
        ask_child("time.sleep(600)", monkeypatch, seconds=0.2)


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "raise SystemExit"])
def test_failed_start_is_reported(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(worker_process, "COMMAND", ("-c", code))
    with pytest.raises(WorkerLost):
        asyncio.run(Worker.start(Path(), 0.5))


def test_failed_process_creation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    with pytest.raises(WorkerUnavailable, match="does not start") as failure:
        asyncio.run(Worker.start(Path(), 1))
    assert failure.value.status == 503


# Resource limits, which the worker sets itself


def run_limited(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = (
        f"from musicgen.web import limits\n{before}\nwith limits.resource_limits():\n    {code}\n"
    )
    return subprocess.run([sys.executable, "-c", program + "print('survived')"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip


def test_parsing_time_is_limited() -> None:
    process = run_limited("while True: pass", "limits.PARSE_SECONDS = 0.2")
    assert process.returncode in process_limits.OUT_OF_TIME_STATUSES
    assert run_limited("pass", "limits.PARSE_SECONDS = 0.2").stdout == "survived\n"


def test_parsing_memory_is_limited() -> None:
    process = run_limited("bytearray(2**30 + 2**20)")
    assert "MemoryError" in process.stderr
    assert run_limited("bytearray(2**29)").stdout == "survived\n"
