"""Many files, each of which is written again from its own recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from musicgen import checkpoint
from musicgen.model_folders import find_model_folder
from tests.cli.test_tweak import IDEA
from tests.command_runner import run_ok

OPTION_SETS = (
    (),
    ("--key", "Dmix", "--bars", "16", "--temperature", "1.1"),
    ("--rhythm", "jig", "--form", "AABB", "--bars", "16", "--end", "tonic"),
    ("--meter", "4/4", "--form", "ABAC", "--bars", "16", "--top-p", "0.9"),
    ("--range", "D4-B5", "--bars", "12", "--pickup", "none", "--min-p", "0.05", "--tempo", "90"),
    ("--max-copy", "8", "--bars", "8", "--program", "flute"),
    ("--primer", "idea.abc", "--bars", "12"),
    ("--primer", "idea.abc", "--bars", "12", "--no-primer", "--top-k", "9"),
)


def hash_files(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def sample_files(cwd: Path, number: int, count: int, jobs: int) -> dict[str, str]:
    """Sample tunes with a set of options in some processes; return the hashes of the files."""
    folder = cwd / f"{count}-{jobs}"
    folder.mkdir()
    outs = [f"{folder}/t{{n}}{suffix}" for suffix in (".mid", ".abc")]
    run_ok("sample", "--seed", str(number), *OPTION_SETS[number], "--count", str(count),
         "--jobs", str(jobs), "--out", outs[0], "--out", outs[1], "-q")  # fmt: skip
    return hash_files(folder)


def check_option_set(cwd: Path, number: int, count: int) -> int:
    """Check that two processes, one process, a single tune and tweak write the same files."""
    expected = sample_files(cwd, number, count, 1)
    assert len(expected) == 2 * count
    assert sample_files(cwd, number, count, 2) == expected
    assert sample_files(cwd, number, 1, 1).items() <= expected.items()
    tweaked_folder = cwd / "again"
    tweaked_folder.mkdir()
    for n in range(1, count + 1):
        source = str(cwd / f"{count}-1" / f"t{n}{('.mid', '.abc')[n % 2]}")
        outs = [str(tweaked_folder / f"t{n}{suffix}") for suffix in (".mid", ".abc")]
        run_ok("tweak", source, "--model", "copy", "--out", outs[0], "--out", outs[1], "-q")
    assert hash_files(tweaked_folder) == expected
    return len(expected)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a primer and a copy of the model folk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "idea.abc").write_text(IDEA)
    model = checkpoint.load(find_model_folder("folk"))
    extra = {"receipt.bin": model.read_extra_file("receipt.bin")}
    checkpoint.save(tmp_path / "copy", model.weights, model.manifest, extra)
    return tmp_path


def test_tweak_rewrites_9_tunes_from_their_files(cwd: Path) -> None:
    assert check_option_set(cwd, 7, 9) == 18


@pytest.mark.promises
@pytest.mark.parametrize("number", range(len(OPTION_SETS)))
def test_tweak_rewrites_512_tunes_from_their_files(cwd: Path, number: int) -> None:
    assert check_option_set(cwd, number, 64) == 128
