"""Promise 1: no file can crash, hang or exhaust a build; a file that kills its reader is refused.

The children of these tests start with a `sitecustomize` of ours in their path: a file that says
so makes its reader die. Nothing in the package knows of that.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from musicgen.corpus import sandbox
from musicgen.corpus.encode import encode_file
from musicgen.corpus.sandbox import ReadLimits, SandboxedReader, serve
from musicgen.corpus.sources import TuneFile
from musicgen.errors import InvalidValue, MusicgenError
from musicgen.tokens.measures import MeasuresCodec
from tests.corpus.conftest import tune

DEATHS = """
import ctypes, os, signal, sys, time
from musicgen import formats
from musicgen.corpus import encode

real_each = formats.iter_tunes
real_answers = encode._encode_piece
files_read = 0

def each(data, suffix, source="", **options):
    global files_read
    files_read += 1
    word = data.rpartition(b"%die:")[2].split()[0].decode() if b"%die:" in data else ""
    die(word)
    return real_each(data, suffix, source, **options)

def encoded(score, *rest, **options):
    if score.title.startswith("die:"):
        die(score.title[4:])
    return real_answers(score, *rest, **options)

def die(word):
    match word:
        case "segv" | "kill" | "abrt":
            os.kill(os.getpid(), getattr(signal, f"SIG{word.upper()}"))
        case "exit": os._exit(3)
        case "loop":
            while True: pass
        case "sleep": time.sleep(1000)
        case "stop": os.kill(os.getpid(), signal.SIGSTOP)
        case "memory": hoard = bytearray(2**40)
        case "eat":
            hoard = []
            while True: hoard.append(bytearray(2**24))
        case "disguised":
            try: bytearray(2**40)
            except MemoryError as fault: raise RuntimeError("cannot read it") from fault
        case "raise": raise ZeroDivisionError("in the middle")
        case "deep": die_deep(0)
        case "print": print("noise", flush=True); sys.stderr.write("noise"); os.write(1, b"noise")
        case "old" if files_read > 1: os.kill(os.getpid(), signal.SIGSEGV)

def die_deep(n): return die_deep(n + 1)

formats.iter_tunes = each
encode._encode_piece = encoded
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return tmp_path


def write(folder: Path, name: str, *numbers: int, die: str = "", extra: str = "") -> TuneFile:
    marker = f"\n%die:{die}\n" if die else ""
    (folder / name).write_text("\n".join([*map(tune, numbers), extra]) + marker)
    return TuneFile(folder / name, f"tunes/{name}")


def read_file(reader: SandboxedReader, file: TuneFile) -> list[dict[str, Any]]:
    return parse_lines(reader.encode(file))


def parse_lines(lines: Iterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def list_refusals(answers: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [line["refusal"] for line in answers if "refusal" in line]


def test_reader_yields_the_lines_of_encode_file(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "a.abc", 1, 2, extra="X:9\nDEF|\n"),
        write(tmp_path, "b.abc", 3),
        TuneFile(tmp_path / "gone.abc", "tunes/gone.abc"),
        TuneFile(tmp_path / "b.abc", "caf\udce9.abc"),
    ]
    with SandboxedReader() as reader:
        lines_by_file = [list(reader.encode(file)) for file in files]
    assert lines_by_file == [list(encode_file(file, MeasuresCodec())) for file in files]
    assert [len(lines) for lines in lines_by_file] == [3, 1, 1, 1]


CODES = {
    "disguised": ("memory", r"reading took more memory than its limit; it was left out"),
    "segv": ("crashed", r"the reader process died \(SIGSEGV\); it was left out"),
    "kill": ("crashed", r"died \(SIGKILL\)"),
    "abrt": ("crashed", r"died \(SIGABRT\)"),
    "exit": ("crashed", r"died \(exit status 3\)"),
    "memory": ("memory", r"reading took more memory than its limit; it was left out"),
    "eat": ("memory", r"reading took more memory than its limit; it was left out"),
    "raise": ("crashed", r"its reader failed \(ZeroDivisionError\('in the middle'\)\)"),
    "deep": ("crashed", r"its reader failed \(RecursionError"),
}


@pytest.mark.parametrize(
    "deaths",
    [("segv", "exit", "memory", "raise"), pytest.param((*CODES,), marks=pytest.mark.promises)],
    ids=["some", "all"],
)
def test_death_of_the_child_refuses_only_its_file(deadly: Path, deaths: tuple[str, ...]) -> None:
    answers: dict[str, list[dict[str, Any]]] = {}
    with SandboxedReader(
        ReadLimits(seconds=100, memory_bytes=2**28)
    ) as reader:  # so that no time limit applies
        for number, death in enumerate(deaths):
            answers[death] = parse_lines(reader.encode(write(deadly, "bad.abc", 1, die=death)))
            (good,) = read_file(reader, write(deadly, "good.abc", number))
            assert good["tune"]["title"] == f"Tune {number}"
    for death in deaths:
        code, message = CODES[death]
        (refusal,) = list_refusals(answers[death])
        assert len(answers[death]) == 1
        assert (refusal["source"], refusal["code"]) == ("tunes/bad.abc", code), death
        assert re.search(message, refusal["message"])


def test_child_ends_by_its_cpu_timer(deadly: Path) -> None:
    with SandboxedReader(
        ReadLimits(seconds=100)
    ) as reader:  # so that the watchdog does not act first
        child = reader._child = sandbox.ChildProcess(ReadLimits(seconds=0.5), "measures")
        (refusal,) = list_refusals(read_file(reader, write(deadly, "bad.abc", 1, die="loop")))
    assert (refusal["source"], refusal["code"]) == ("tunes/bad.abc", "too-slow")
    assert refusal["message"] == "reading took longer than its limit; it was left out"
    assert not child._watchdog.has_timed_out


@pytest.mark.parametrize("death", ["sleep", "stop"])
def test_watchdog_kills_blocked_child(
    deadly: Path, monkeypatch: pytest.MonkeyPatch, death: str
) -> None:
    monkeypatch.setattr(sandbox, "WALL_FACTOR", 1)
    with SandboxedReader(ReadLimits(seconds=0.5)) as reader:
        (refusal,) = list_refusals(read_file(reader, write(deadly, "bad.abc", 1, die=death)))
        (good,) = read_file(reader, write(deadly, "good.abc", 2))
    assert (refusal["code"], refusal["source"]) == ("too-slow", "tunes/bad.abc")
    assert "tune" in good


def test_tunes_before_a_crash_are_kept(deadly: Path) -> None:
    book = "\n".join([tune(1), tune(2), tune(3, title="die:segv"), tune(4)])
    with SandboxedReader() as reader:
        list(
            reader.encode(write(deadly, "good.abc", 9))
        )  # so that the book is read a second time, by a fresh child
        answers = read_file(reader, write(deadly, "bad.abc", extra=book))
    assert [line["tune"]["title"] for line in answers[:2]] == ["Tune 1", "Tune 2"]
    (refusal,) = list_refusals(answers[2:])
    assert refusal["place"] == "after 2 tunes"
    assert refusal["message"].endswith("the rest of it was left out")


def test_file_is_refused_only_by_a_fresh_child(deadly: Path) -> None:
    """Otherwise the files read before, and so the number of jobs, would decide what is kept."""
    with SandboxedReader() as reader:
        list(reader.encode(write(deadly, "first.abc", 1)))
        (answer,) = read_file(reader, write(deadly, "second.abc", 2, die="old"))
    assert answer["tune"]["title"] == "Tune 2"


def test_output_of_libraries_is_ignored(deadly: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with SandboxedReader() as reader:
        answers = read_file(reader, write(deadly, "loud.abc", 1, die="print"))
    assert len(answers) == 1
    assert "tune" in answers[0]
    assert capfd.readouterr() == ("", "")


def test_child_ignores_sigint_and_ends_with_its_parent(tmp_path: Path) -> None:
    with SandboxedReader() as reader:
        list(reader.encode(write(tmp_path, "a.abc", 1)))
        child = reader._child
        assert child is not None
        os.kill(child._process.pid, signal.SIGINT)
        assert len(list(reader.encode(write(tmp_path, "b.abc", 2)))) == 1
        assert reader._child is child
        sandbox._require_pipe(child._process.stdin).close()
        assert child._process.wait(10) == 0


def test_cancel_from_another_thread(deadly: Path) -> None:
    with SandboxedReader(ReadLimits(seconds=100)) as reader:
        list(reader.encode(write(deadly, "good.abc", 1)))
        threading.Timer(0.2, reader.cancel).start()
        with pytest.raises(CancelledError):
            list(reader.encode(write(deadly, "bad.abc", 1, die="sleep")))
        assert reader._child is None


def test_failed_start_reports_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHILD_ARGUMENTS", ("-P", "-c", "raise OSError('no such thing')"))
    with (
        pytest.raises(
            MusicgenError, match=r"does not start \(OSError: no such thing\); see the output"
        ),
        SandboxedReader() as reader,
    ):
        list(reader.encode(write(tmp_path, "a.abc", 1)))


def test_serve_answers_in_json_lines(tmp_path: Path) -> None:
    request = {"path": str(write(tmp_path, "a.abc", 1).path), "name": "a.abc", "named": False}
    output = io.BytesIO()
    serve([json.dumps({**request, "first": 0}).encode()], output, MeasuresCodec(), ReadLimits())
    position, answer, end = (json.loads(line) for line in output.getvalue().splitlines())
    assert position == {"at": {"name": "a.abc", "member": 0}}
    assert answer["tune"]["title"] == "Tune 1"
    assert end == {"done": True}


@pytest.mark.parametrize("limits", [{"seconds": 0.0}, {"seconds": -1.0}, {"memory_bytes": 1000}])
def test_refuses_limits_out_of_range(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="per file: give"):
        ReadLimits(**limits)


def test_slow_formats_get_more_time() -> None:
    limits = ReadLimits(seconds=2)
    assert limits.seconds_for("a/b.abc") == 2
    assert limits.seconds_for("a/B.MXL") == limits.seconds_for("x.krn") == 24
    assert limits.wall_seconds_for("a.mid") == 12


def test_child_imports_no_slow_library_at_start() -> None:
    slow = {"music21", "pyarrow", "symusic", "torch"}
    code = f"import sys, musicgen.corpus.sandbox; print({slow} & {{*sys.modules}})"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout == "set()\n"
