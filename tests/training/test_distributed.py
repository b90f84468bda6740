"""Data-parallel training with real processes, over gloo on the CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from musicgen.config import ModelSettings, TrainingSettings
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel
from musicgen.training.distributed import SINGLE_PROCESS, Ranks, join_process_group
from musicgen.training.trainer import Trainer, TrainerState
from tests.fork_server import Child, ForkServer

WORK = """
from tests.training.test_distributed import make_trainer, run_ranks as work

make_trainer()  # the first optimiser imports for seconds
"""
UPDATES = 20
SETTINGS = TrainingSettings(
    tokens=20_000, lanes=4, bptt=16, first_bptt=4, evaluate_every=100, precision="fp32"
)
THREADS = Path("/proc/self/task")
NEEDS_PROC = pytest.mark.skipif(not THREADS.exists(), reason="threads are counted in /proc")


def make_trainer(ranks: Ranks = SINGLE_PROCESS) -> Trainer:
    import torch

    shape = ModelSettings(12, layers=2, hidden=16, embedding=16)
    model = LanguageModel(shape, torch.Generator().manual_seed(2))
    generator = np.random.default_rng(1)
    tunes = [generator.integers(1, 12, length).astype(np.int16) for length in range(20, 60)]
    return Trainer(model, tunes[4:], tunes[:4], SETTINGS, ranks=ranks)


def train(trainer: Trainer, updates: int) -> list[float]:
    measurements: list[float] = []
    for progress in trainer.run():
        measurements += [progress.loss, progress.gradient_norm]
        measurements += [progress.held_out_score.loss] if progress.held_out_score else []
        if progress.step == updates:
            break
    return measurements


def run_rank(folder: Path, updates: int) -> None:
    """Train as one of several processes; rank 0 writes the measurements and the state."""
    earlier_threads = native_threads()
    with join_process_group("cpu") as ranks:
        communicating = native_threads() - earlier_threads
        if not communicating:
            raise AssertionError("a process group has no threads of its own now")
        trainer = make_trainer(ranks)
        if (folder / "state.safetensors").exists():
            values = json.loads((folder / "state.json").read_text())
            trainer.restore(TrainerState(load_file(folder / "state.safetensors"), values))
        measurements = train(trainer, updates)
        state = trainer.copy_state()
        if ranks.is_main_process:
            save_file(state.arrays, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(state.values))
            (folder / f"measurements-{updates}.json").write_text(json.dumps(measurements))
        if ranks.broadcast_first(ranks.rank + 7.0) != 7.0 or not ranks.all_reduce_any(
            ranks.rank == 1
        ):
            raise AssertionError("the processes do not agree")
        if updates == UPDATES + 1:
            os.kill(os.getpid(), signal.SIGKILL) if ranks.rank else train(trainer, 10**6)
    if left := communicating & native_threads():  # although the trainer is still there
        raise AssertionError(f"the process group is still there: {left}")


def native_threads() -> set[str]:
    """Return the ids of all threads of this process, those of libraries too."""
    return {task.name for task in THREADS.iterdir()}


def run_ranks(job: dict[str, Any]) -> None:
    """Run both ranks in two processes; print the status of the second, rank 1."""
    second_pid = os.fork()
    os.environ |= job["environment"] | {"RANK": "0" if second_pid else "1"}
    if not second_pid:
        run_rank(Path(job["folder"]), job["updates"])
        os._exit(0)
    try:
        run_rank(Path(job["folder"]), job["updates"])
    finally:
        print(os.waitstatus_to_exitcode(os.waitpid(second_pid, 0)[1]), flush=True)


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(WORK, tmp_path_factory.mktemp("ranks") / "stderr") as fork_server:
        yield fork_server


def train_in_two_processes(fork_server: ForkServer, folder: Path, updates: int) -> Child:
    """Train to an update, and return the process of rank 0, which has ended."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    job = {"folder": str(folder), "updates": updates, "environment": environment}
    child = fork_server.start(job)
    assert child.wait() == [f"{-signal.SIGKILL if updates > UPDATES else 0}"], child.error_lines
    return child


@NEEDS_PROC
def test_two_processes_train_like_one(fork_server: ForkServer, tmp_path: Path) -> None:
    trainer = make_trainer()
    expected = train(trainer, UPDATES)
    for updates in (UPDATES // 2 + 1, UPDATES):  # the second pair goes on from the first
        child = train_in_two_processes(fork_server, tmp_path, updates)
        assert child.status == 0, child.error_lines
    measurements = [
        value
        for updates in (UPDATES // 2 + 1, UPDATES)
        for value in json.loads((tmp_path / f"measurements-{updates}.json").read_text())
    ]
    assert measurements == pytest.approx(expected, abs=1e-4)
    weights = load_file(tmp_path / "state.safetensors")
    for name, array in trainer.model.copy_weights().items():
        np.testing.assert_allclose(weights[f"model/{name}"], array, atol=1e-4)


@NEEDS_PROC
def test_lost_process_is_reported_in_one_line(fork_server: ForkServer, tmp_path: Path) -> None:
    child = train_in_two_processes(fork_server, tmp_path, UPDATES + 1)
    assert child.status == 1, child.error_lines
    assert "MusicgenError: another process of this run has ended" in child.error_lines[0]


def test_lanes_are_shared_evenly() -> None:
    with pytest.raises(InvalidValue, match=r"--batch 5: 2 processes.*a multiple of 2"):
        Ranks(0, 2).check_lanes_divisible(5)
    Ranks(0, 2).check_lanes_divisible(6)


def test_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group("auto") as ranks:
        assert ranks == SINGLE_PROCESS
    assert SINGLE_PROCESS.is_main_process
    assert SINGLE_PROCESS.all_reduce_any(True)
    assert not SINGLE_PROCESS.all_reduce_any(False)
    assert SINGLE_PROCESS.broadcast_first(3.5) == 3.5
