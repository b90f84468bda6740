"""Promise 1: no file can crash, hang or blow up a build; what kills its reader is refused.

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
real_answers = encode._encoded
files_read = 0

def each(data, suffix, source="", **options):
    global files_read
    files_read += 1
    word = data.rpartition(b"%die:")[2].split()[0].decode() if b"%die:" in data else ""
    die(word)
    return real_each(data, suffix, source, **options)

def encoded(score, *rest):
    if score.title.startswith("die:"):
        die(score.title[4:])
    return real_answers(score, *rest)

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
encode._encoded = encoded
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return tmp_path


def write(folder: Path, name: str, *numbers: int, die: str = "", more: str = "") -> TuneFile:
    words = f"\n%die:{die}\n" if die else ""
    (folder / name).write_text("\n".join([*map(tune, numbers), more]) + words)
    return TuneFile(folder / name, f"tunes/{name}")


def answers(lines: Iterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def refusals(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [line["refusal"] for line in found if "refusal" in line]


def test_a_reader_answers_as_the_function_does(tmp_path: Path) -> None:
    found = [
        write(tmp_path, "a.abc", 1, 2, more="X:9\nDEF|\n"),
        write(tmp_path, "b.abc", 3),
        TuneFile(tmp_path / "gone.abc", "tunes/gone.abc"),
        TuneFile(tmp_path / "b.abc", "caf\udce9.abc"),
    ]
    with SandboxedReader() as reader:
        told = [list(reader.encode(file)) for file in found]
    assert told == [list(encode_file(file, MeasuresCodec())) for file in found]
    assert [len(lines) for lines in told] == [3, 1, 1, 1]


CODES = {
    "disguised": ("memory", r"reading took more memory than its limit; it was left out"),
    "segv": ("crashed", r"the program that reads it died \(SIGSEGV\); it was left out"),
    "kill": ("crashed", r"died \(SIGKILL\)"),
    "abrt": ("crashed", r"died \(SIGABRT\)"),
    "exit": ("crashed", r"died \(exit status 3\)"),
    "memory": ("memory", r"reading took more memory than its limit; it was left out"),
    "eat": ("memory", r"reading took more memory than its limit; it was left out"),
    "raise": ("crashed", r"its reader failed \(ZeroDivisionError\('in the middle'\)\)"),
    "deep": ("crashed", r"its reader failed \(RecursionError"),
}


def test_each_death_costs_the_file_that_it_came_from(deadly: Path) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    with SandboxedReader(
        ReadLimits(seconds=100, memory_bytes=2**28)
    ) as reader:  # no clock decides on these
        for number, word in enumerate(CODES):
            found[word] = answers(reader.encode(write(deadly, "bad.abc", 1, die=word)))
            (good,) = answers(reader.encode(write(deadly, "good.abc", number)))
            assert good["tune"]["title"] == f"Tune {number}"
    for word, (code, message) in CODES.items():
        (refusal,) = refusals(found[word])
        assert len(found[word]) == 1
        assert (refusal["source"], refusal["code"]) == ("tunes/bad.abc", code), word
        assert re.search(message, refusal["message"])


def test_a_child_that_computes_for_too_long_ends_by_its_own_clock(deadly: Path) -> None:
    with SandboxedReader(ReadLimits(seconds=100)) as reader:  # so that the parent's watch waits
        child = reader._child = sandbox.ChildProcess(ReadLimits(seconds=0.5), "measures")
        (refusal,) = refusals(answers(reader.encode(write(deadly, "bad.abc", 1, die="loop"))))
    assert (refusal["source"], refusal["code"]) == ("tunes/bad.abc", "too-slow")
    assert refusal["message"] == "reading took longer than its limit; it was left out"
    assert not child._watchdog.has_timed_out


@pytest.mark.parametrize("word", ["sleep", "stop"])
def test_a_child_that_waits_is_ended(
    deadly: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(sandbox, "WALL_FACTOR", 1)
    with SandboxedReader(ReadLimits(seconds=0.5)) as reader:
        (refusal,) = refusals(answers(reader.encode(write(deadly, "bad.abc", 1, die=word))))
        (good,) = answers(reader.encode(write(deadly, "good.abc", 2)))
    assert (refusal["code"], refusal["source"]) == ("too-slow", "tunes/bad.abc")
    assert "tune" in good


def test_tunes_that_were_answered_stay(deadly: Path) -> None:
    book = "\n".join([tune(1), tune(2), tune(3, title="die:segv"), tune(4)])
    with SandboxedReader() as reader:
        list(reader.encode(write(deadly, "good.abc", 9)))  # so that it is read a second time
        found = answers(reader.encode(write(deadly, "bad.abc", more=book)))
    assert [line["tune"]["title"] for line in found[:2]] == ["Tune 1", "Tune 2"]
    (refusal,) = refusals(found[2:])
    assert refusal["place"] == "after 2 tunes"
    assert refusal["message"].endswith("the rest of it was left out")


def test_a_file_is_judged_by_a_child_that_has_read_nothing_else(deadly: Path) -> None:
    """Else what was read before would decide what is kept, and so would the number of jobs."""
    with SandboxedReader() as reader:
        list(reader.encode(write(deadly, "first.abc", 1)))
        (kept,) = answers(reader.encode(write(deadly, "second.abc", 2, die="old")))
    assert kept["tune"]["title"] == "Tune 2"


def test_what_libraries_print_is_no_answer(deadly: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with SandboxedReader() as reader:
        found = answers(reader.encode(write(deadly, "loud.abc", 1, die="print")))
    assert len(found) == 1
    assert "tune" in found[0]
    assert capfd.readouterr() == ("", "")


def test_a_child_hears_no_interrupt_and_ends_with_its_parent(tmp_path: Path) -> None:
    with SandboxedReader() as reader:
        list(reader.encode(write(tmp_path, "a.abc", 1)))
        child = reader._child
        assert child is not None
        os.kill(child._process.pid, signal.SIGINT)
        assert len(list(reader.encode(write(tmp_path, "b.abc", 2)))) == 1
        assert reader._child is child
        sandbox._require_pipe(child._process.stdin).close()
        assert child._process.wait(10) == 0


def test_another_thread_can_end_a_reading(deadly: Path) -> None:
    with SandboxedReader(ReadLimits(seconds=100)) as reader:
        list(reader.encode(write(deadly, "good.abc", 1)))
        threading.Timer(0.2, reader.cancel).start()
        with pytest.raises(CancelledError):
            list(reader.encode(write(deadly, "bad.abc", 1, die="sleep")))
        assert reader._child is None


def test_a_child_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "CHILD_ARGUMENTS", ("-P", "-c", "raise OSError('no such thing')"))
    with (
        pytest.raises(MusicgenError, match=r"does not start \(OSError: no such thing\); see what"),
        SandboxedReader() as reader,
    ):
        list(reader.encode(write(tmp_path, "a.abc", 1)))


def test_the_child_answers_lines_and_reads_lines(tmp_path: Path) -> None:
    request = {"path": str(write(tmp_path, "a.abc", 1).path), "name": "a.abc", "named": False}
    told = io.BytesIO()
    serve([json.dumps({**request, "first": 0}).encode()], told, MeasuresCodec(), ReadLimits())
    at, answer, done = (json.loads(line) for line in told.getvalue().splitlines())
    assert at == {"at": {"name": "a.abc", "member": 0}}
    assert answer["tune"]["title"] == "Tune 1"
    assert done == {"done": True}


@pytest.mark.parametrize("bad", [{"seconds": 0.0}, {"seconds": -1.0}, {"memory_bytes": 1000}])
def test_absurd_limits_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="a file: give"):
        ReadLimits(**bad)


def test_slow_formats_have_more_time() -> None:
    limits = ReadLimits(seconds=2)
    assert limits.seconds_for("a/b.abc") == 2
    assert limits.seconds_for("a/B.MXL") == limits.seconds_for("x.krn") == 24
    assert limits.wall_seconds_for("a.mid") == 12


def test_the_child_has_no_slow_library_until_one_is_needed() -> None:
    slow = {"music21", "pyarrow", "symusic", "torch"}
    code = f"import sys, musicgen.corpus.sandbox; print({slow} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout == "set()\n"
