"""Promise 22: the same seed, the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_runner import run_ok
from tests.fake_models import untrained

SAMPLE_SEEDS = """
import sys
from musicgen.cli import commands
folder, *seeds = sys.argv[1:]
for seed in seeds:
    arguments = ["sample", "--model", "model", "--out", f"{folder}/{seed}.mid", "--seed", seed]
    commands(arguments, standalone_mode=False)
"""


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_seeds(folder: Path, count: int) -> None:
    """Sample with each random seed in a process per hash seed: they write the same files."""
    untrained(folder / "model")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    for hash_seed in "012":
        (folder / hash_seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", SAMPLE_SEEDS, hash_seed, *map(str, range(count))],
            cwd=folder, check=True, capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        )  # fmt: skip
    for seed in range(count):
        assert len({hash_file(folder / hash_seed / f"{seed}.mid") for hash_seed in "012"}) == 1
    assert len({hash_file(file) for file in (folder / "0").iterdir()}) == count


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    check_seeds(tmp_path, 1)


@pytest.mark.promises
def test_20_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    check_seeds(tmp_path, 20)


def test_tune_does_not_depend_on_the_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "model")
    args = ("sample", "--model", "model", "--seed", "5", "--bars", "4")
    run_ok(*args, "--out", "few-{n}.mid", "--count", "3")
    run_ok(*args, "--out", "many-{n}.mid", "--count", "12", "--jobs", "2")
    for number in (1, 2, 3):
        assert hash_file(tmp_path / f"few-{number}.mid") == hash_file(
            tmp_path / f"many-{number}.mid"
        )
