"""`torchrun -m musicgen train`: two processes train one run, and one of them is killed."""

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

from tests.command_runner import run_ok
from tests.synthetic_tunes import tune

ROOT = Path(__file__).parents[2]
TRAIN_ARGS = ("train", "tunes", "--hidden", "16", "--layers", "1", "--batch", "4", "--bptt", "16",
         "--no-heard", "--device", "cpu", "--precision", "fp32")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tunes").mkdir()
    for number in range(1, 13):
        (tmp_path / "tunes" / f"{number}.abc").write_text(tune(number))
    return tmp_path


def start_torchrun(folder: Path, *args: str) -> subprocess.Popen[str]:
    """Train with two processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *torchrun, "-m", "musicgen", *TRAIN_ARGS, *args],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def read_metrics(folder: Path, name: str) -> list[dict[str, float]]:
    lines = (folder / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_the_same_run_as_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_torchrun(folder, "--name", "by-2", "--epochs", "2")
    monkeypatch.chdir(folder)
    run_ok(*TRAIN_ARGS, "--name", "by-1", "--epochs", "2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("done; generate a tune") == 1, "only the main process prints"
    serial_metrics, parallel_metrics = read_metrics(folder, "by-1"), read_metrics(folder, "by-2")
    assert [line["step"] for line in serial_metrics] == [line["step"] for line in parallel_metrics]
    assert any("held_loss" in line for line in serial_metrics)
    for serial, parallel in zip(serial_metrics, parallel_metrics, strict=True):
        for name in ("loss", "norm", "held_loss"):
            assert serial.get(name) == pytest.approx(parallel.get(name), abs=1e-4)


@pytest.mark.promises
def test_run_resumes_after_one_process_was_killed(folder: Path) -> None:
    process = start_torchrun(folder, "--name", "cut", "--epochs", "1200")
    best = folder / "checkpoints" / "cut" / "best"
    deadline = time.monotonic() + 200
    while not (best.exists() and any(best.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.2)  # the run needs the processor
    victim_pids = [int(pid.name) for pid in Path("/proc").iterdir() if is_second_rank(pid)]
    os.kill(victim_pids[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "another process of this run has ended" in output
    resumed_process = start_torchrun(folder, "--name", "cut", "--resume")
    lines = []
    assert resumed_process.stdout is not None
    for line in resumed_process.stdout:
        lines.append(line)
        if "epoch" in line:
            resumed_process.send_signal(signal.SIGINT)
            break
    output, _ = resumed_process.communicate(timeout=300)
    assert any("resumed after update" in line for line in lines)


def is_second_rank(process_folder: Path) -> bool:
    """Return whether a process is rank 1 of the run."""
    with contextlib.suppress(OSError):
        args = (process_folder / "environ").read_bytes().split(b"\0")
        is_this_run = b"--name\0cut\0" in (process_folder / "cmdline").read_bytes()
        return is_this_run and b"RANK=1" in args
    return False
