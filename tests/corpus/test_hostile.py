"""Promises 1, 2, 7 and 10: malformed files are kept or refused with a reason."""

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
from tests.test_no_code_from_data import ROOT, assert_clean, run_under_hook

SLOWEST: Final = 10.0  # seconds for any file
EXPECTED: Final[dict[str, list[str]]] = json.loads(malformed_files.OUTCOMES.read_text("utf-8"))
CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_malformed_files_cover_the_formats() -> None:
    kinds = Counter(Path(name).suffix for name in malformed_files.make(big=False))
    assert kinds[".mid"] + kinds[".abc"] >= 120
    assert {".musicxml", ".mxl", ".krn", ".zip", ".tar", ".gz"} <= kinds.keys()


def test_small_files_have_expected_outcomes(tmp_path: Path) -> None:
    outcomes = malformed_files.outcomes(tmp_path / "hostile", big=False)
    assert outcomes == {name: EXPECTED[name] for name in outcomes}


@pytest.mark.promises
def test_all_files_have_expected_outcomes(tmp_path: Path) -> None:
    assert dict(malformed_files.generate_files()) == malformed_files.make()
    assert malformed_files.outcomes(tmp_path / "hostile") == EXPECTED


def test_every_file_has_an_outcome_with_a_known_reason() -> None:
    assert sorted(EXPECTED) == sorted(malformed_files.make())
    codes = {code.split()[-1] for outcomes in EXPECTED.values() for code in outcomes}
    assert all(EXPECTED.values())
    assert codes - {"kept"} <= REASONS.keys()
    assert not codes & {
        "crashed",
        "too-slow",
        "memory",
    }  # no file ran into the limits of the sandbox


BUILD = """
import resource, sys
from musicgen.__main__ import main
try:
    main()
except SystemExit as end:
    print("exit", end.code or 0)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
used *= 1 if sys.platform == "darwin" else 1024
if sys.platform == "linux":  # there the peak of the parent is inherited, but not in VmHWM
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    used = int(line.split()[1]) * 1024
print("memory", used)
"""


def build_in_process(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = ["corpus", "build", str(folder), "--out", str(out), "--jobs", "1", "-v"]
    return subprocess.run(
        [sys.executable, "-c", BUILD, *command],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.promises
def test_build_of_all_files_succeeds(tmp_path: Path) -> None:
    names = malformed_files.write(tmp_path / "hostile")
    process = build_in_process(tmp_path / "hostile", tmp_path / "data")
    results = dict(line.split() for line in process.stdout.splitlines()[-2:])
    assert (process.returncode, results["exit"]) == (0, "0"), process.stderr[-500:]
    assert int(results["memory"]) < 500 * 2**20
    assert "Traceback" not in process.stderr
    assert not CONTROL_CHARACTERS.search(process.stderr.replace("\n", ""))
    refused = [name for name in names if "kept" not in str(EXPECTED[name])]
    assert [name for name in refused if name not in process.stderr] == []
    counts = re.search(r"kept ([\d,]+) of ([\d,]+) tunes.*left out ([\d,]+)", process.stderr)
    assert counts is not None
    kept_count, total, refused_count = (int(number.replace(",", "")) for number in counts.groups())
    assert kept_count + refused_count == total


@pytest.mark.parametrize("name", ["abc-title-escape.abc", "zip-paths.zip", "tar-paths.tar"])
def test_control_characters_in_names_are_escaped(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(malformed_files.make(big=False)[name])
    with SandboxedReader(ReadLimits()) as reader:
        for file in list_files(tmp_path):
            for line in reader.encode(file):
                assert not CONTROL_CHARACTERS.search(
                    json.loads(line).get("tune", {}).get("source", "")
                )
                assert b"\x1b" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


READ_NAMED_FILES = """
import io, json, os, sys
from musicgen.corpus.sandbox import ReadLimits, serve
from musicgen.tokens.registry import find_codec

sources = sys.argv[1:]
requests = [json.dumps({"path": path, "name": path, "first": 0}).encode() for path in sources]
codec, limits = find_codec("measures"), ReadLimits(seconds=1e6)
serve(requests[:1], io.BytesIO(), codec, limits)  # import lazily loaded modules now
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


def test_reading_opens_only_the_named_files(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    malformed_files.write(folder, big=False)
    names = ["abc-cut-001.abc", "abc-directive-include.abc", "abc-directive-in-tune.abc",
             "abc-directive-ps.abc", "abc-title-path.abc", "midi-meta-text-evil.mid",
             "midi-note-on-only.mid", "zip-paths.zip", "tar-paths.tar", "tar-symlinks.tar",
             "tar-hardlink.tar", "zip-nested.zip"]  # fmt: skip
    assert_clean(run_under_hook(READ_NAMED_FILES, *(folder / name for name in names)))


def test_audit_hook_notices_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.abc").write_text(malformed_files.TUNE)
    process = run_under_hook(READ_NAMED_FILES + "\nopen('/etc/passwd')", tmp_path / "a.abc")
    assert (process.returncode, process.stderr) == (99, "AUDIT: open /etc/passwd\n")


@pytest.mark.parametrize("count", [60, pytest.param(10_000, marks=pytest.mark.promises)])
def test_fuzzing_real_tunes_finds_no_fault(tmp_path: Path, count: int) -> None:
    """Promise 8; the seed of a failure is printed."""
    command = ["benchmarks/fuzz.py", "--mutants", str(count), "--out", str(tmp_path / "found")]
    process = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr


def test_durations_are_split_from_one_table() -> None:
    """A mutant of 413 bytes needed 700 splits, 15 ms each, before there was a table."""
    durations.split_duration.cache_clear()
    durations._fewest_values.cache_clear()
    for steps in range(1, 2_000):
        assert sum(durations.split_duration(steps)) == steps
    assert durations._fewest_values.cache_info().misses == 2
