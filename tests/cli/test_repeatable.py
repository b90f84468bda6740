"""Promise 22: the same seed, the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_models import untrained


def write(folder: Path, out: str, *words: str, hash_seed: str = "0") -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        [sys.executable, "-m", "musicgen", "sample", "--model", "model", "--out", out, *words],
        cwd=folder, check=True, capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
    )  # fmt: skip


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(folder: Path, seeds: range) -> None:
    untrained(folder / "model")
    for seed in seeds:
        found = set()
        for hash_seed in ("0", "1", "2"):
            out = f"{seed}-{hash_seed}.mid"
            write(folder, out, "--seed", str(seed), hash_seed=hash_seed)
            found.add(digest(folder / out))
        assert len(found) == 1


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    check(tmp_path, range(2))


@pytest.mark.promises
def test_20_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    check(tmp_path, range(20))


def test_a_tune_is_the_same_however_many_are_asked_for(tmp_path: Path) -> None:
    untrained(tmp_path / "model")
    write(tmp_path, "few-{n}.mid", "--seed", "5", "--count", "3", "--bars", "4")
    write(tmp_path, "many-{n}.mid", "--seed", "5", "--count", "12", "--bars", "4", "--jobs", "2")
    for number in (1, 2, 3):
        assert digest(tmp_path / f"few-{number}.mid") == digest(tmp_path / f"many-{number}.mid")
