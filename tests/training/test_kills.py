"""Promises 12 and 15: a run that is killed, or runs out of space or memory, loses nothing saved.

The processes are real and are really killed. They print each update, so that the moment of death is
drawn by update, and then shifted within the update.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from musicgen import checkpoint
from musicgen.errors import DamagedCheckpoint, InUse, NotFound
from musicgen.files import sweep_partials
from musicgen.training import run_folder
from musicgen.training.resume import is_finished, load_saved_run
from musicgen.training.run import SaveSchedule, TrainingRun
from tests.fork_server import Child, ForkServer
from tests.small_runs import names, small_dataset, small_run, steps

WORK = """
import os, resource, signal, sys
from pathlib import Path
import torch
from musicgen.training.resume import load_saved_run
from musicgen.training.run import SaveSchedule, TrainingRun
from musicgen.training.run_folder import translate_memory_errors
from tests.small_runs import small_dataset, small_run
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])

def work(job):
    folder = Path(job["folder"])
    die_at_call(job.get("die_at"))
    if "bytes" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["bytes"], job["bytes"]))
    if "memory" in job:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + job["memory"], now + job["memory"]))
    run = start_run(folder, job)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: run.stop())
    print("begun", flush=True)
    for progress in run.train():
        print(progress.step, flush=True)

def start_run(folder, job):
    with translate_memory_errors(folder):
        saved = load_saved_run(folder) if job.get("resume", True) else None
        schedule = SaveSchedule(job.get("every", 0.0))
        if saved is None:
            return small_run(folder, every=schedule.interval, force=True, plan=job.get("plan", {}))
        return TrainingRun.resume(saved, small_dataset(), folder, save_schedule=schedule)

def die_at_call(number):
    '''Kill this process at the n-th file system call that could leave something half done.'''
    left = [number]
    def counted(name):
        call = getattr(os, name)
        def counting(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return counting
    if number is not None:
        for name in ("open", "write", "fsync", "rename", "replace", "link", "unlink", "mkdir",
                     "rmdir"):
            setattr(os, name, counted(name))
"""
KILLED = -9


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(WORK, tmp_path_factory.mktemp("said") / "stderr") as fork_server:
        yield fork_server


@pytest.fixture(scope="module")
def uninterrupted(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run, trained in a process of its own."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "mine"
    child = fork_server.start({"folder": str(folder), "every": 1e9})
    assert child.wait()[-1] == "40"
    assert child.status == 0
    return folder


def has_same_end(folder: Path, uninterrupted: Path) -> bool:
    """Tell whether two finished runs are bit-identical, including their saved progress."""
    progress, expected = (load_saved_run(run) for run in (folder, uninterrupted))
    assert progress is not None
    assert expected is not None
    return (
        progress.progress.values["trainer"] == expected.progress.values["trainer"]
        and {n: a.tobytes() for n, a in progress.progress.arrays.items()}
        == {n: a.tobytes() for n, a in expected.progress.arrays.items()}
        and (folder / "weights.safetensors").read_bytes()
        == (uninterrupted / "weights.safetensors").read_bytes()
    )


def check_visible(run: Path) -> int:
    """Load all visible checkpoints and states, except those removed meanwhile; count them."""
    loads = [
        (path, run_folder.load_progress)
        for path in checkpoint.list_numbered_folders(run / "progress")
    ]
    loads += [
        (path, checkpoint.load_one)  # type: ignore[misc]
        for path in checkpoint.list_numbered_folders(run / "best")
    ]
    loaded_count = 0
    for path, read in loads:
        try:
            read(path)
            loaded_count += 1
        except (DamagedCheckpoint, NotFound):
            assert not path.exists(), path
    if loaded_count and checkpoint.list_numbered_folders(run / "best"):
        checkpoint.load(run)
    return loaded_count


def run_to(child: Child, folder: Path, step: int, spin: int) -> int:
    """Let a run reach an update, spin a little, kill it, and return its exit status."""
    for line in child.lines():
        check_visible(folder)
        if line.isdigit() and int(line) >= step:
            for _ in range(spin):
                pass
            child.kill()
            break
    child.wait()
    assert child.status is not None
    return child.status


def check_kills(fork_server: ForkServer, folder: Path, uninterrupted: Path, kills: int) -> None:
    """Kill a run at random moments and resume it: it ends like an uninterrupted run."""
    rng = np.random.default_rng(11)
    kill_count = 0
    while kill_count < kills:
        shutil.rmtree(folder, ignore_errors=True)
        while kill_count < kills and not is_finished(folder):
            saved = load_saved_run(folder)
            saved_step = saved.step if saved else 0
            step = saved_step + int(rng.integers(0, 9))
            child = fork_server.start({"folder": str(folder)})
            status = run_to(child, folder, step, int(rng.integers(0, 400_000)))
            kill_count += status == KILLED
            check_visible(folder)
            later = load_saved_run(folder)
            assert (later.step if later else 0) >= saved_step  # nothing saved was lost
        child = fork_server.start({"folder": str(folder)})
        child.wait()
        assert child.status == 0
        assert has_same_end(folder, uninterrupted)
    assert names(folder.parent) == [folder.name]


def test_killed_run_resumes_to_the_same_end(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path
) -> None:
    check_kills(fork_server, tmp_path / "mine", uninterrupted, 2)


@pytest.mark.promises
def test_50_kills_lose_nothing_saved(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path
) -> None:
    check_kills(fork_server, tmp_path / "mine", uninterrupted, 50)


def check_deaths(fork_server: ForkServer, folder: Path, deaths: Sequence[int]) -> int:
    """Kill a process at each of the given calls and resume; return the number of kills."""
    death_count = 0
    for call in deaths:
        shutil.rmtree(folder, ignore_errors=True)
        job = {"folder": str(folder), "plan": {"updates": 10}}
        child = fork_server.start(job | {"die_at": call})
        child.wait()
        check_visible(folder)
        sweep_partials(folder.parent)
        assert set(names(folder.parent)) <= {".mine.lock", "mine"}
        death_count += child.status == KILLED
        child = fork_server.start(job)
        child.wait()
        assert child.status == 0, (call, child.error_lines)
        assert is_finished(folder)
        assert len(names(folder / "progress")) == 3
    return death_count


def test_run_resumes_after_death_in_a_file_system_call(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    assert check_deaths(fork_server, tmp_path / "mine", range(60, 300, 150)) == 2


@pytest.mark.promises
def test_run_resumes_after_death_in_any_file_system_call(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    """At each of the first calls, which start and save a run, and at every seventh later call."""
    deaths = (*range(1, 80), *range(80, 300, 7))
    assert check_deaths(fork_server, tmp_path / "mine", deaths) == len(deaths)


def test_killed_forced_run_leaves_the_previous_one(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path
) -> None:
    """The previous or the new model always loads, and the next start cleans up."""
    for step, is_previous_kept in ((2, True), (9, False)):
        folder = tmp_path / str(step) / "mine"
        shutil.copytree(uninterrupted, folder)
        interval = 1e9 if is_previous_kept else 0.0
        job = {"folder": str(folder), "every": interval, "resume": False, "plan": {"seed": 2}}
        assert run_to(fork_server.start(job), folder, step, 0) == KILLED
        assert checkpoint.load(folder).manifest.training["seed"] == (1 if is_previous_kept else 2)
        assert is_finished(checkpoint.previous_run_path(folder)) == is_previous_kept
        child = fork_server.start({"folder": str(folder)})
        child.wait()
        assert child.status == 0
        assert checkpoint.load(folder).manifest.training["seed"] == (1 if is_previous_kept else 2)
        assert names(folder.parent) == ["mine"]


@pytest.mark.parametrize(
    "signal_name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.promises)]
)
def test_signal_saves_state(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, signal_name: str
) -> None:

    folder = tmp_path / "mine"
    child = fork_server.start({"folder": str(folder), "every": 1e9})
    for line in child.lines():
        if line == "11":
            child.kill(signal.Signals[signal_name])
    assert child.status == 130
    assert child.error_lines[0].startswith("Interrupted: stopped after update")
    saved = load_saved_run(folder)
    assert saved is not None
    assert saved.step >= 11
    fork_server.start({"folder": str(folder)}).wait()
    assert has_same_end(folder, uninterrupted)


# Largest file in bytes: from the size of the lock file to more than that of the arrays
SIZES = (0, 20, 100, 300, 1000, 3000, 6000, 12_000, 20_000, 60_000)


@pytest.mark.parametrize("size", SIZES[7:8])
def test_full_disk_loses_nothing_saved(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, size: int
) -> None:
    check_full_disk(fork_server, tmp_path / "mine", uninterrupted, size)


@pytest.mark.promises
@pytest.mark.parametrize("size", SIZES)
def test_disk_full_at_any_size_loses_nothing_saved(
    fork_server: ForkServer, tmp_path: Path, uninterrupted: Path, size: int
) -> None:
    check_full_disk(fork_server, tmp_path / "mine", uninterrupted, size)


def check_full_disk(fork_server: ForkServer, folder: Path, uninterrupted: Path, size: int) -> None:
    """Train with a limited file size, then resume without the limit, to the same end."""
    child = fork_server.start({"folder": str(folder), "bytes": size})
    child.wait()
    check_visible(folder)
    assert child.status == len(child.error_lines) == (1 if size < 60_000 else 0)
    for line in child.error_lines:
        assert "WriteFailed" in line
        assert "free some space" in line
    resumed = fork_server.start({"folder": str(folder)})
    resumed.wait()
    assert resumed.status == 0
    assert has_same_end(folder, uninterrupted)


# Bytes of memory beyond those that the process has at its start
MEMORY_LIMITS = tuple(2**20 * number for number in range(20))
LARGER = {"updates": 10, "lanes": 8, "shape": {"hidden": 256, "embedding": 256}}


@pytest.mark.parametrize("memory", MEMORY_LIMITS[2:3])
def test_lack_of_memory_loses_nothing_saved(
    fork_server: ForkServer, tmp_path: Path, memory: int
) -> None:
    check_short_memory(fork_server, tmp_path / "mine", memory)


@pytest.mark.promises
@pytest.mark.parametrize("memory", MEMORY_LIMITS)
def test_any_lack_of_memory_loses_nothing_saved(
    fork_server: ForkServer, tmp_path: Path, memory: int
) -> None:
    check_short_memory(fork_server, tmp_path / "mine", memory)


def check_short_memory(fork_server: ForkServer, folder: Path, memory: int) -> None:
    """Train with limited memory, which ends in a one-line error; resume without the limit.

    Bits are not compared, because libraries use other algorithms when memory is scarce.
    """
    job = {"folder": str(folder), "plan": LARGER}
    child = fork_server.start(job)
    for line in child.lines():
        if line == "2":
            child.kill(signal.SIGTERM)
    saved = load_saved_run(folder)
    assert saved is not None
    limited = fork_server.start(job | {"memory": memory})
    limited.wait()
    check_visible(folder)
    assert (limited.status, len(limited.error_lines)) in ((0, 0), (1, 1)), (
        limited.status,
        limited.error_lines,
    )
    assert all("not enough memory" in line and "--resume" in line for line in limited.error_lines)
    later = load_saved_run(folder)
    assert later is not None
    assert later.step >= saved.step
    resumed = fork_server.start(job)
    resumed.wait()
    assert resumed.status == 0
    assert is_finished(folder)


def test_second_process_is_refused(fork_server: ForkServer, tmp_path: Path) -> None:
    """The refusal names the first process; the lock of a killed process is ignored."""
    folder = tmp_path / "mine"
    child = fork_server.start({"folder": str(folder), "plan": {"updates": 5000}})
    run = small_run(folder, force=True)
    for line in child.lines():
        if line == "3":
            with pytest.raises(InUse, match=f"process {child.pid} on .*wait for it"):
                next(iter(run.train()))
            child.kill()
    assert child.status == KILLED
    assert (tmp_path / ".mine.lock").exists()
    saved = load_saved_run(folder)
    assert saved is not None
    resumed = TrainingRun.resume(saved, small_dataset(), folder, save_schedule=SaveSchedule(1e9))
    assert next(steps(resumed)) == saved.step + 1
    del resumed
    assert names(tmp_path) == ["mine"]
