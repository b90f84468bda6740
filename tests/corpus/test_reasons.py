"""Promise 2: each reason for a refusal is reached, by a malformed file or by a case below."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from musicgen.corpus.build import build
from musicgen.corpus.encode import encode_file
from musicgen.corpus.sandbox import ReadLimits, SandboxedReader
from musicgen.corpus.sources import TuneFile
from musicgen.errors import REASONS
from musicgen.tokens.registry import find_codec
from tests import malformed_files
from tests.corpus.conftest import tune
from tests.corpus.test_hostile import EXPECTED
from tests.corpus.test_sandbox import DEATHS


def codes_of_small_files() -> set[str]:
    """Return the outcome codes of the small malformed files."""
    return {code.split()[-1] for name in malformed_files.make(big=False) for code in EXPECTED[name]}


def read_unencodable(folder: Path) -> list[str]:
    drums = bytes(
        byte | 9 if byte in (0x80, 0x90) else byte for byte in malformed_files.valid_midi()
    )
    (folder / "drums.mid").write_bytes(drums)
    lines = encode_file(TuneFile(folder / "drums.mid", "drums.mid"), find_codec("frames"))
    return [json.loads(line)["refusal"]["code"] for line in lines]


def build_duplicates(folder: Path) -> list[str]:
    for name, title in (("a.abc", "One"), ("b.abc", "Other")):
        (folder / name).write_text(tune(1, title))
    _, report = build([str(folder)], folder / "data", jobs=1)
    return list(report.codes)


def read_left_out(folder: Path) -> list[str]:
    (folder / "a.abc").write_text(tune(1, "Sir Roger de Coverley"))
    file = TuneFile(folder / "a.abc", "a.abc", left_out="title SHA-256 divisible by 8")
    lines = encode_file(file, find_codec("measures"))
    return [json.loads(line)["refusal"]["code"] for line in lines]


def make_dying_reader(way: str) -> Callable[[Path], list[str]]:
    def die(folder: Path) -> list[str]:
        (folder / "bad.abc").write_text(tune(1) + f"%die:{way}\n")
        limits = ReadLimits(seconds=0.5 if way == "loop" else 100, memory_bytes=2**28)
        with SandboxedReader(limits) as reader:
            lines = list(reader.encode(TuneFile(folder / "bad.abc", "bad.abc")))
        return [json.loads(line)["refusal"]["code"] for line in lines]

    return die


def read_other_parts(folder: Path) -> list[str]:
    (folder / "one.abc").write_text(tune(1))
    file = TuneFile(folder / "one.abc", "one.abc", part_names=("Soprano", "Alto"))
    return [
        json.loads(line)["refusal"]["code"] for line in encode_file(file, find_codec("measures"))
    ]


CASES: Final[dict[str, Callable[[Path], list[str]]]] = {
    "no-event": read_unencodable,
    "duplicate": build_duplicates,
    "left-out": read_left_out,
    "parts": read_other_parts,
    "crashed": make_dying_reader("segv"),
    "too-slow": make_dying_reader("loop"),
    "memory": make_dying_reader("memory"),
}


def test_every_reason_has_a_file_or_a_case() -> None:
    assert codes_of_small_files() - {"kept"} | CASES.keys() == REASONS.keys()
    assert codes_of_small_files().isdisjoint(CASES)


@pytest.mark.parametrize("code", CASES)
def test_case_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    folder = tmp_path / "tunes"
    folder.mkdir()
    assert CASES[code](folder) == [code]
