"""Promise 22: the same seed, the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_models import untrained


def run_sample(folder: Path, out: str, *args: str, hash_seed: str = "0") -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        [sys.executable, "-m", "musicgen", "sample", "--model", "model", "--out", out, *args],
        cwd=folder, check=True, capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
    )  # fmt: skip


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_seeds(folder: Path, seeds: range) -> None:
    untrained(folder / "model")
    for seed in seeds:
        hashes = set()
        for hash_seed in ("0", "1", "2"):
            out = f"{seed}-{hash_seed}.mid"
            run_sample(folder, out, "--seed", str(seed), hash_seed=hash_seed)
            hashes.add(hash_file(folder / out))
        assert len(hashes) == 1


def test_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    check_seeds(tmp_path, range(1))


@pytest.mark.promises
def test_20_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    check_seeds(tmp_path, range(20))


def test_tune_does_not_depend_on_the_count(tmp_path: Path) -> None:
    untrained(tmp_path / "model")
    run_sample(tmp_path, "few-{n}.mid", "--seed", "5", "--count", "3", "--bars", "4")
    run_sample(
        tmp_path, "many-{n}.mid", "--seed", "5", "--count", "12", "--bars", "4", "--jobs", "2"
    )
    for number in (1, 2, 3):
        assert hash_file(tmp_path / f"few-{number}.mid") == hash_file(
            tmp_path / f"many-{number}.mid"
        )
