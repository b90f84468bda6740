"""Promise 2: each reason for a refusal is reached, by a hostile file or by a case made here."""

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


def of_files() -> set[str]:
    """Return the codes that the small hostile files get on every run."""
    return {code.split()[-1] for name in malformed_files.make(big=False) for code in EXPECTED[name]}


def without_event(folder: Path) -> list[str]:
    drums = bytes(byte | 9 if byte in (0x80, 0x90) else byte for byte in malformed_files.honest())
    (folder / "drums.mid").write_bytes(drums)
    lines = encode_file(TuneFile(folder / "drums.mid", "drums.mid"), find_codec("frames"))
    return [json.loads(line)["refusal"]["code"] for line in lines]


def twice(folder: Path) -> list[str]:
    for name, title in (("a.abc", "One"), ("b.abc", "Other")):
        (folder / name).write_text(tune(1, title))
    _, report = build([str(folder)], folder / "data", jobs=1)
    return list(report.codes)


def dying(way: str) -> Callable[[Path], list[str]]:
    def die(folder: Path) -> list[str]:
        (folder / "bad.abc").write_text(tune(1) + f"%die:{way}\n")
        limits = ReadLimits(seconds=0.5 if way == "loop" else 100, memory_bytes=2**28)
        with SandboxedReader(limits) as reader:
            lines = list(reader.encode(TuneFile(folder / "bad.abc", "bad.abc")))
        return [json.loads(line)["refusal"]["code"] for line in lines]

    return die


MADE: Final[dict[str, Callable[[Path], list[str]]]] = {
    "no-event": without_event,
    "duplicate": twice,
    "crashed": dying("segv"),
    "too-slow": dying("loop"),
    "memory": dying("memory"),
}


def test_each_reason_has_a_file_or_a_case() -> None:
    assert of_files() - {"kept"} | MADE.keys() == REASONS.keys()
    assert of_files().isdisjoint(MADE)


@pytest.mark.parametrize("code", MADE)
def test_each_case_ends_in_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(DEATHS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    folder = tmp_path / "tunes"
    folder.mkdir()
    assert MADE[code](folder) == [code]
