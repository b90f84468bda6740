"""`torchrun ... -m musicgen train`: two real processes train one run, and one may die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.synthetic_tunes import tune

ROOT = Path(__file__).parents[2]
WORDS = ("train", "tunes", "--hidden", "16", "--layers", "1", "--batch", "4", "--bptt", "16",
         "--no-heard", "--device", "cpu", "--precision", "fp32")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tunes").mkdir()
    for number in range(1, 13):
        (tmp_path / "tunes" / f"{number}.abc").write_text(tune(number))
    return tmp_path


def start(place: Path, processes: int, *words: str) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "musicgen", *WORDS, *words],
        cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def metrics(place: Path, name: str) -> list[dict[str, float]]:
    lines = (place / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_make_the_run_of_one(place: Path) -> None:
    for processes in (1, 2):
        run = start(place, processes, "--name", f"by-{processes}", "--epochs", "6")
        told, _ = run.communicate(timeout=300)
        assert run.returncode == 0, told
        assert told.count("done; hear it") == 1, "one process speaks"
    one, two = metrics(place, "by-1"), metrics(place, "by-2")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for mine, theirs in zip(one, two, strict=True):
        for name in ("loss", "norm", "held_loss"):
            assert mine.get(name) == pytest.approx(theirs.get(name), abs=1e-4)


@pytest.mark.promises
def test_a_run_whose_process_was_killed_goes_on(place: Path) -> None:
    run = start(place, 2, "--name", "cut", "--epochs", "1200")
    best = place / "checkpoints" / "cut" / "best"
    until = time.monotonic() + 200
    while not (best.exists() and any(best.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.2)  # the run needs the processor
    victims = [int(pid.name) for pid in Path("/proc").iterdir() if is_second(pid)]
    os.kill(victims[0], signal.SIGKILL)
    told, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "another process of this run has ended" in told
    again = start(place, 2, "--name", "cut", "--resume")
    lines = []
    assert again.stdout is not None
    for line in again.stdout:
        lines.append(line)
        if "epoch" in line:
            again.send_signal(signal.SIGINT)
            break
    told, _ = again.communicate(timeout=300)
    assert any("goes on after update" in line for line in lines)


def is_second(process: Path) -> bool:
    """Tell whether a process is the run's second one."""
    with contextlib.suppress(OSError):
        words = (process / "environ").read_bytes().split(b"\0")
        named = b"--name\0cut\0" in (process / "cmdline").read_bytes()
        return named and b"RANK=1" in words
    return False
