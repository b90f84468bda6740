"""The parent's end of a worker, with children that misbehave in every way that there is."""

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


def ask(code: str, monkeypatch: pytest.MonkeyPatch, seconds: float = 60) -> list[int]:
    """Ask a child that runs some code; return what bars it told of."""
    monkeypatch.setattr(worker_process, "COMMAND", ("-c", READY + code))
    bars: list[int] = []

    async def whole() -> None:
        child = await Worker.start(Path(), 60)
        try:
            answer = await child.ask({"do": "x"}, b"payload", seconds, bars.append)
            assert (answer.head, answer.body) == ({"id": "a"}, b"body")
        finally:
            await child.stop()

    asyncio.run(whole())
    return bars


def test_a_child_tells_of_bars_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
line = sys.stdin.buffer.readline(); assert b'"bytes": 7' in line
assert sys.stdin.buffer.read(7) == b"payload"
print('{"bars": 1}\\n{"bars": 2}\\n{"done": {"id": "a"}, "bytes": 4}\\nbody', end="", flush=True)
sys.stdin.read()
"""
    assert ask(code, monkeypatch) == [1, 2]


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGPROF)", 400, "reading took longer than its limit"),
        ("os._exit(77)", 400, "it took more memory than there is for it"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 503, r"died \(SIGSEGV\); ask again"),
        ("raise SystemExit(3)", 503, r"died \(exit status 3\)"),
        ('print(\'{"done": {}, "bytes": 9}\\nhalf\', flush=True)', 503, "died"),
        ("os.close(1); time.sleep(600)", 503, "died"),
        ("print('{\"bars\": 1', end='', flush=True)", 503, "died"),
        ("print('no JSON', flush=True); time.sleep(600)", 503, "its answer cannot be read"),
        ("print('x' * 10**5, flush=True); time.sleep(600)", 503, "its answer cannot be read"),
    ],
)
def test_a_child_that_dies_is_explained(
    monkeypatch: pytest.MonkeyPatch, code: str, status: int, words: str
) -> None:
    monkeypatch.setattr(worker_process, "MAX_LINE", 2**14)
    with pytest.raises(WorkerLost, match=words) as told:
        ask(code, monkeypatch)
    assert told.value.status == status


def test_a_child_that_refuses_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'print(\'{"refused": "no such tune", "kind": "NotFound"}\', flush=True)'
    with pytest.raises(HttpError, match="no such tune") as told:
        ask(f"{code}; sys.stdin.read()", monkeypatch)
    assert (told.value.status, isinstance(told.value, WorkerLost)) == (404, False)


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkerLost, match=r"it took longer than 0\.2 s and was stopped"):
        ask("time.sleep(600)", monkeypatch, seconds=0.2)


@pytest.mark.parametrize("code", ["import time; time.sleep(600)", "raise SystemExit"])
def test_a_child_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(worker_process, "COMMAND", ("-c", code))
    with pytest.raises(WorkerLost):
        asyncio.run(Worker.start(Path(), 0.5))


def test_a_process_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", none)
    with pytest.raises(WorkerUnavailable, match="does not start") as told:
        asyncio.run(Worker.start(Path(), 1))
    assert told.value.status == 503


# The limits on what others wrote, which the child sets itself


def guarded(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"from musicgen.web import work\n{before}\nwith work.guarded():\n    {code}\n"
    return subprocess.run([sys.executable, "-c", program + "print('survived')"], cwd=ROOT,
                          capture_output=True, text=True, check=False)  # fmt: skip


def test_reading_has_a_limit_of_time() -> None:
    done = guarded("while True: pass", "work.PARSE_SECONDS = 0.2")
    assert done.returncode in process_limits.OUT_OF_TIME_STATUSES
    assert guarded("pass", "work.PARSE_SECONDS = 0.2").stdout == "survived\n"


def test_reading_has_a_limit_of_memory() -> None:
    done = guarded("bytearray(2**30 + 2**20)")
    assert "MemoryError" in done.stderr
    assert guarded("bytearray(2**29)").stdout == "survived\n"
