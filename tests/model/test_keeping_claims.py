"""Promises 13 and 14: one run a folder, whatever locks there are; an old run outlives failures."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.checkpoint import aside
from musicgen.errors import InUse, MusicgenError, OutputExists
from musicgen.model import keeping
from musicgen.model.claim import claimed, has_saved

NOBODY = 2**22 + 1  # no process has such a number: the kernel's highest is 2**22


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "mine"


def fill(folder: Path, step: int) -> None:
    keeping.save(folder, step, {"a": np.zeros(2, np.float32)}, {})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def lock_of(folder: Path) -> Path:
    return folder.parent / ".mine.lock"


def leave_lock(folder: Path, pid: int, host: str) -> None:
    """Leave a lock as a process that was killed leaves it."""
    folder.parent.mkdir(exist_ok=True)
    lock_of(folder).write_text(json.dumps({"pid": pid, "host": host, "since": "yesterday"}))


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture(params=["with locks", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be on a file system that has locks, or on one that has none."""
    if request.param == "without":
        monkeypatch.setattr("fcntl.flock", no_locks)
    return str(request.param)


def test_a_held_folder_is_refused_with_the_holder_named(folder: Path, system: str) -> None:
    with claimed(folder):
        told = json.loads(lock_of(folder).read_text())
        assert (told["pid"], told["host"]) == (os.getpid(), socket.gethostname())
        words = f"another run is at work here .process {os.getpid()} on .*wait for it, or choose"
        for _ in range(2):
            with pytest.raises(InUse, match=words) as caught, claimed(folder):
                pytest.fail("it is held")
            assert caught.value.exit_code == 2
    with claimed(folder):
        pass
    assert not folder.parent.exists()


def test_a_dead_process_holds_nothing(folder: Path, system: str) -> None:
    leave_lock(folder, NOBODY, socket.gethostname())
    with claimed(folder) as claim:
        assert claim.before is not None
        assert claim.before.pid == NOBODY
    assert names(folder.parent) == []


def test_without_locks_another_machine_is_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(folder, NOBODY, "elsewhere")
    with claimed(folder):  # the system's lock says that nobody has it
        pass
    monkeypatch.setattr("fcntl.flock", no_locks)
    leave_lock(folder, NOBODY, "elsewhere")
    with pytest.raises(InUse, match="on elsewhere, since yesterday"), claimed(folder):
        pytest.fail("nobody here knows")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_lock_that_says_nothing_is_no_obstacle(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_of(folder).write_bytes(text)
    with claimed(folder) as claim:
        assert claim.before is None


def test_a_run_that_stands_there_is_kept_unless_asked(folder: Path) -> None:
    fill(folder, 8)
    with pytest.raises(OutputExists, match="--resume, or replace it with --force"), claimed(folder):
        pytest.fail("there is a run")
    with claimed(folder, exists=True) as claim:
        claim.begin()
        assert names(folder) == ["progress"]
    assert names(folder.parent) == ["mine"]


def test_a_new_folder_goes_if_nothing_was_saved_in_it(folder: Path) -> None:
    with claimed(folder) as claim:
        claim.begin()
        (folder / "metrics.jsonl").write_text("{}")
    assert not folder.exists()
    with claimed(folder) as claim:
        claim.begin()
        fill(folder, 1)
        claim.settle()
    assert has_saved(folder)


def begin_forced(folder: Path, *, saves: bool) -> None:
    """Begin a run in place of one, and fail."""
    with claimed(folder, exists=True) as claim:
        claim.begin(force=True)
        assert names(folder) == []
        assert has_saved(aside(folder))
        if saves:
            fill(folder, 1)
            claim.settle()
            assert not aside(folder).exists()
        raise ZeroDivisionError


@pytest.mark.parametrize(("saves", "left"), [(False, "00000008"), (True, "00000001")])
def test_the_old_run_goes_when_the_new_one_has_saved(folder: Path, saves: bool, left: str) -> None:
    fill(folder, 8)
    with pytest.raises(ZeroDivisionError):
        begin_forced(folder, saves=saves)
    assert names(folder / "progress") == [left]
    assert names(folder.parent) == ["mine"]


@pytest.mark.parametrize("stage", ["moved", "made", "saved"])
def test_the_next_start_puts_in_order_what_a_kill_left(folder: Path, stage: str) -> None:
    fill(aside(folder), 8)
    if stage != "moved":
        folder.mkdir()
    if stage == "saved":
        fill(folder, 1)
    (folder.parent / ".mine.0123abcd.partial").mkdir()
    with claimed(folder, exists=True):
        assert names(folder / "progress") == ["00000001" if stage == "saved" else "00000008"]
    assert names(folder.parent) == ["mine"]


def test_a_lock_that_cannot_be_written_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", full)
    words = r"\.mine\.lock was not written: No space left"
    with pytest.raises(MusicgenError, match=words), claimed(folder):
        pytest.fail("there is no room")
    assert names(folder.parent) == []
