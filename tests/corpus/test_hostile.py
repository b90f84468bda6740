"""Promises 1, 2, 7 and 10: hostile files are kept or refused with a reason, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import list_files
from musicgen.errors import REASONS
from musicgen.music import durations
from tests import malformed_files
from tests.test_no_code_from_data import ROOT, assert_clean, watched

SLOWEST: Final = 10.0  # seconds for any file
EXPECTED: Final[dict[str, list[str]]] = json.loads(malformed_files.OUTCOMES.read_text("utf-8"))
STEERING: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_there_are_enough_of_them() -> None:
    kinds = Counter(Path(name).suffix for name in malformed_files.make(big=False))
    assert kinds[".mid"] + kinds[".abc"] >= 120
    assert {".musicxml", ".mxl", ".krn", ".zip", ".tar", ".gz"} <= kinds.keys()
    assert dict(malformed_files.everything()) == malformed_files.make()


def test_small_ones_end_as_the_table_says(tmp_path: Path) -> None:
    found = malformed_files.outcomes(tmp_path / "hostile", big=False)
    assert found == {name: EXPECTED[name] for name in found}


@pytest.mark.promises
def test_all_end_as_the_table_says(tmp_path: Path) -> None:
    assert malformed_files.outcomes(tmp_path / "hostile") == EXPECTED


def test_the_table_names_each_with_a_reason() -> None:
    assert sorted(EXPECTED) == sorted(malformed_files.make())
    codes = {code.split()[-1] for found in EXPECTED.values() for code in found}
    assert all(EXPECTED.values())
    assert codes - {"kept"} <= REASONS.keys()
    assert not codes & {"crashed", "too-slow", "memory"}  # no reader needed the whip


BUILD = """
import resource, sys
from musicgen.__main__ import main
try:
    main()
except SystemExit as end:
    print("exit", end.code or 0)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("memory", used * (1 if sys.platform == "darwin" else 1024))
"""


def _built(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = ["corpus", "build", str(folder), "--out", str(out), "--jobs", "1", "-v"]
    return subprocess.run(
        [sys.executable, "-c", BUILD, *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.promises
def test_one_build_of_all_of_them(tmp_path: Path) -> None:
    names = malformed_files.write(tmp_path / "hostile")
    done = _built(tmp_path / "hostile", tmp_path / "data")
    words = dict(line.split() for line in done.stdout.splitlines()[-2:])
    assert (done.returncode, words["exit"]) == (0, "0"), done.stderr[-500:]
    assert int(words["memory"]) < 500 * 2**20
    assert "Traceback" not in done.stderr
    assert not STEERING.search(done.stderr.replace("\n", ""))
    refused = [name for name in names if "kept" not in str(EXPECTED[name])]
    assert [name for name in refused if name not in done.stderr] == []
    counts = re.search(r"kept ([\d,]+) of ([\d,]+) tunes.*left out ([\d,]+)", done.stderr)
    assert counts is not None
    kept, found, left_out = (int(number.replace(",", "")) for number in counts.groups())
    assert kept + left_out == found


@pytest.mark.parametrize("name", ["abc-title-escape.abc", "zip-paths.zip", "tar-paths.tar"])
def test_names_steer_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(malformed_files.make(big=False)[name])
    with SandboxedReader(ReadLimits()) as reader:
        for file in list_files(tmp_path):
            for line in reader.encode(file):
                assert not STEERING.search(json.loads(line).get("tune", {}).get("source", ""))
                assert b"\x1b" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


OPENING = """
import io, json, os, sys
from musicgen.corpus.sandbox import Limits, serve
from musicgen.tokens.registry import find

sources = sys.argv[1:]
requests = [json.dumps({"path": path, "name": path, "first": 0}).encode() for path in sources]
codec, limits = find("measures"), Limits(seconds=1e6)
serve(requests[:1], io.BytesIO(), codec, limits)  # what is imported late is imported now
allowed = {os.path.realpath(path) for path in sources}
own = tuple(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, ROOT))

def look(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "os.mkdir", "os.rename"):
        stop(f"{event} {args}")
    if event == "os.listdir" and not os.path.realpath(args[0]).startswith(own):
        stop(f"{event} {args}")
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        if path not in allowed and not (path.startswith(own) and path.endswith((".py", ".pyc"))):
            stop(f"open {path}")

sys.addaudithook(look)
told = io.BytesIO()
serve(requests, told, codec, limits)
assert told.getvalue().count(b'{"done"') == len(sources)
"""


def test_reading_opens_the_named_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    malformed_files.write(folder, big=False)
    names = ["abc-cut-001.abc", "abc-directive-include.abc", "abc-directive-in-tune.abc",
             "abc-directive-ps.abc", "abc-title-path.abc", "midi-meta-text-evil.mid",
             "midi-note-on-only.mid", "zip-paths.zip", "tar-paths.tar", "tar-symlinks.tar",
             "tar-hardlink.tar", "zip-nested.zip"]  # fmt: skip
    assert_clean(watched(OPENING, *(folder / name for name in names)))


def test_the_hook_sees_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text(malformed_files.TUNE)
    done = watched(OPENING + "\nopen('/etc/passwd')", tmp_path / "a.abc")
    assert (done.returncode, done.stderr) == (99, "AUDIT: open /etc/passwd\n")


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.promises)])
def test_mutants_of_real_tunes_find_nothing(tmp_path: Path, count: int) -> None:
    """Promise 8; the seed is printed where one does."""
    command = ["benchmarks/fuzz.py", "--mutants", str(count), "--out", str(tmp_path / "found")]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_lengths_that_no_value_writes_are_cut_from_one_table() -> None:
    """A mutant of 413 bytes asked for 700 of them, 15 ms each, before there was one."""
    durations.split_duration.cache_clear()
    durations._fewest_values.cache_clear()
    for steps in range(1, 2_000):
        assert sum(durations.split_duration(steps)) == steps
    assert durations._fewest_values.cache_info().misses == 2
