"""Promises 12 and 15: killed at any moment, or out of space or memory, a run loses nothing good.

The processes are real ones and are really killed. One of them prints each update, so that the
moment of death is drawn by update and then moved within it.
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
torch.set_num_threads(1)
from musicgen.training.resume import find
from musicgen.training.run_folder import foreseen
from musicgen.training.run import Pace, Run
from tests.small_runs import small_dataset, small_run
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])

def work(job):
    folder = Path(job["folder"])
    fatal(job.get("die_at"))
    if "bytes" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["bytes"], job["bytes"]))
    if "room" in job:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + job["room"], now + job["room"]))
    run = begun(folder, job)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: run.stop())
    print("begun", flush=True)
    for progress in run.train():
        print(progress.step, flush=True)

def begun(folder, job):
    with foreseen(folder):
        found = find(folder) if job.get("resume", True) else None
        pace = Pace(job.get("every", 0.0))
        if found is None:
            return small_run(folder, every=pace.every, force=True, plan=job.get("plan", {}))
        return Run.resume(found, small_dataset(), folder, pace=pace)

def fatal(at):
    '''Die at the n-th call of the file system that could leave something half done.'''
    left = [at]
    def counted(name):
        call = getattr(os, name)
        def counting(*args, **kwargs):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return counting
    if at is not None:
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
def whole(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing disturbed, trained in a process of its own."""
    folder = tmp_path_factory.mktemp("whole") / "mine"
    child = fork_server.start({"folder": str(folder), "every": 1e9})
    assert child.wait()[-1] == "40"
    assert child.status == 0
    return folder


def same_end(folder: Path, whole: Path) -> bool:
    """Tell whether two finished runs are equal bit for bit, what resuming needs included."""
    mine, other = (load_saved_run(place) for place in (folder, whole))
    assert mine is not None
    assert other is not None
    return (
        mine.progress.values["trainer"] == other.progress.values["trainer"]
        and {n: a.tobytes() for n, a in mine.progress.arrays.items()}
        == {n: a.tobytes() for n, a in other.progress.arrays.items()}
        and (folder / "weights.safetensors").read_bytes()
        == (whole / "weights.safetensors").read_bytes()
    )


def check_visible(run: Path) -> int:
    """Load every checkpoint that can be seen; one that is gone meanwhile was not one any more."""
    loads = [
        (path, run_folder.load_progress)
        for path in checkpoint.list_numbered_folders(run / "progress")
    ]
    loads += [
        (path, checkpoint.load_one)  # type: ignore[misc]
        for path in checkpoint.list_numbered_folders(run / "best")
    ]
    seen = 0
    for path, read in loads:
        try:
            read(path)
            seen += 1
        except (DamagedCheckpoint, NotFound):
            assert not path.exists(), path
    if seen and checkpoint.list_numbered_folders(run / "best"):
        checkpoint.load(run)
    return seen


def run_to(child: Child, folder: Path, step: int, spin: int) -> int:
    """Watch a run to an update and a little further, kill it, and return its status."""
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


def check_kills(fork_server: ForkServer, folder: Path, whole: Path, kills: int) -> None:
    """Kill a run at random moments and resume it, over and over: it ends as if never disturbed."""
    luck = np.random.default_rng(11)
    done = 0
    while done < kills:
        shutil.rmtree(folder, ignore_errors=True)
        while done < kills and not is_finished(folder):
            found = load_saved_run(folder)
            at = found.step if found else 0
            step = at + int(luck.integers(0, 9))
            child = fork_server.start({"folder": str(folder)})
            status = run_to(child, folder, step, int(luck.integers(0, 400_000)))
            done += status == KILLED
            check_visible(folder)
            later = load_saved_run(folder)
            assert (later.step if later else 0) >= at  # nothing good was lost
        child = fork_server.start({"folder": str(folder)})
        child.wait()
        assert child.status == 0
        assert same_end(folder, whole)
    assert names(folder.parent) == [folder.name]


def test_killed_and_resumed_a_run_ends_as_if_never_disturbed(
    fork_server: ForkServer, tmp_path: Path, whole: Path
) -> None:
    check_kills(fork_server, tmp_path / "mine", whole, 3)


@pytest.mark.promises
def test_50_kills_lose_nothing(fork_server: ForkServer, tmp_path: Path, whole: Path) -> None:
    check_kills(fork_server, tmp_path / "mine", whole, 50)


def check_deaths(fork_server: ForkServer, folder: Path, deaths: Sequence[int]) -> int:
    """Die at one call of the file system after the other; return at how many it could be done."""
    luck = 0
    for at in deaths:
        shutil.rmtree(folder, ignore_errors=True)
        job = {"folder": str(folder), "plan": {"updates": 10}}
        child = fork_server.start(job | {"die_at": at})
        child.wait()
        check_visible(folder)
        sweep_partials(folder.parent)
        assert set(names(folder.parent)) <= {".mine.lock", "mine"}
        luck += child.status == KILLED
        child = fork_server.start(job)
        child.wait()
        assert child.status == 0, (at, child.error_lines)
        assert is_finished(folder)
        assert len(names(folder / "progress")) == 3
    return luck


def test_dead_at_a_call_of_the_file_system_it_goes_on(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    assert check_deaths(fork_server, tmp_path / "mine", range(60, 300, 100)) == 3


@pytest.mark.promises
def test_dead_at_any_call_of_the_file_system_it_goes_on(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    """At each of the first calls, which start a run and save it, and at every seventh later one."""
    deaths = (*range(1, 80), *range(80, 300, 7))
    assert check_deaths(fork_server, tmp_path / "mine", deaths) == len(deaths)


def test_a_forced_run_that_is_killed_first_leaves_the_old_one(
    fork_server: ForkServer, tmp_path: Path, whole: Path
) -> None:
    """Whenever it dies, the old model or the new one loads; the next start puts all in order."""
    for step, old in ((2, True), (9, False)):
        folder = tmp_path / str(step) / "mine"
        shutil.copytree(whole, folder)
        every = 1e9 if old else 0.0
        job = {"folder": str(folder), "every": every, "resume": False, "plan": {"seed": 2}}
        assert run_to(fork_server.start(job), folder, step, 0) == KILLED
        assert checkpoint.load(folder).manifest.training["seed"] == (1 if old else 2)
        assert is_finished(checkpoint.previous_run_path(folder)) == old
        child = fork_server.start({"folder": str(folder)})
        child.wait()
        assert child.status == 0
        assert checkpoint.load(folder).manifest.training["seed"] == (1 if old else 2)
        assert names(folder.parent) == ["mine"]


@pytest.mark.parametrize("asked", ["SIGINT", "SIGTERM"])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(
    fork_server: ForkServer, tmp_path: Path, whole: Path, asked: str
) -> None:

    folder = tmp_path / "mine"
    child = fork_server.start({"folder": str(folder), "every": 1e9})
    for line in child.lines():
        if line == "11":
            child.kill(signal.Signals[asked])
    assert child.status == 130
    assert child.error_lines[0].startswith("Interrupted: stopped after update")
    found = load_saved_run(folder)
    assert found is not None
    assert found.step >= 11
    fork_server.start({"folder": str(folder)}).wait()
    assert same_end(folder, whole)


# Bytes that a file may have: from the lock's own to those of the arrays, and enough
SIZES = (0, 20, 100, 300, 1000, 3000, 6000, 12_000, 20_000, 60_000)


@pytest.mark.parametrize("size", SIZES[2::5])
def test_on_a_full_disk_nothing_is_lost(
    fork_server: ForkServer, tmp_path: Path, whole: Path, size: int
) -> None:
    check_full_disk(fork_server, tmp_path / "mine", whole, size)


@pytest.mark.promises
@pytest.mark.parametrize("size", SIZES)
def test_on_a_full_disk_of_any_size_nothing_is_lost(
    fork_server: ForkServer, tmp_path: Path, whole: Path, size: int
) -> None:
    check_full_disk(fork_server, tmp_path / "mine", whole, size)


def check_full_disk(fork_server: ForkServer, folder: Path, whole: Path, size: int) -> None:
    """Train while no file may be larger; go on when they may, to the same end."""
    child = fork_server.start({"folder": str(folder), "bytes": size})
    child.wait()
    check_visible(folder)
    assert child.status == len(child.error_lines) == (1 if size < 60_000 else 0)
    for line in child.error_lines:
        assert "WriteFailed" in line
        assert "free some space" in line
    again = fork_server.start({"folder": str(folder)})
    again.wait()
    assert again.status == 0
    assert same_end(folder, whole)


# Bytes of memory beyond those that the program has when it starts
ROOMS = tuple(2**20 * number for number in range(20))
LARGER = {"updates": 10, "lanes": 8, "shape": {"hidden": 256, "embedding": 256}}


@pytest.mark.parametrize("room", ROOMS[2:3])
def test_short_of_memory_nothing_is_lost(
    fork_server: ForkServer, tmp_path: Path, room: int
) -> None:
    check_short_memory(fork_server, tmp_path / "mine", room)


@pytest.mark.promises
@pytest.mark.parametrize("room", ROOMS)
def test_short_of_any_memory_nothing_is_lost(
    fork_server: ForkServer, tmp_path: Path, room: int
) -> None:
    check_short_memory(fork_server, tmp_path / "mine", room)


def check_short_memory(fork_server: ForkServer, folder: Path, room: int) -> None:
    """Train until there is no memory left, for one line; go on where there is some.

    The libraries multiply in other ways where memory is short: bits are not compared.
    """
    job = {"folder": str(folder), "plan": LARGER}
    child = fork_server.start(job)
    for line in child.lines():
        if line == "2":
            child.kill(signal.SIGTERM)
    kept = load_saved_run(folder)
    assert kept is not None
    short = fork_server.start(job | {"room": room})
    short.wait()
    check_visible(folder)
    assert (short.status, len(short.error_lines)) in ((0, 0), (1, 1)), (
        short.status,
        short.error_lines,
    )
    assert all("not enough memory" in line and "--resume" in line for line in short.error_lines)
    later = load_saved_run(folder)
    assert later is not None
    assert later.step >= kept.step
    again = fork_server.start(job)
    again.wait()
    assert again.status == 0
    assert is_finished(folder)


def test_two_processes_never_share_a_folder(fork_server: ForkServer, tmp_path: Path) -> None:
    """The second is refused with the first one's number; a dead one's lock is no lock."""
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
    found = load_saved_run(folder)
    assert found is not None
    again = TrainingRun.resume(found, small_dataset(), folder, pace=SaveSchedule(1e9))
    assert next(steps(again)) == found.step + 1
    del again
    assert names(tmp_path) == ["mine"]
