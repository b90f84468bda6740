"""Promises 13 and 14: one run a folder, whatever locks there are; an old run outlives failures."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicgen.checkpoint import aside
from musicgen.errors import InUse, MusicgenError, OutputExists
from musicgen.files import partial_beside
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


@pytest.mark.parametrize("text", [b"", b"{", b'{"pid": "x"}', b'{"pid": 12, "ho'])
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
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 8}')
    assert not folder.exists()
    with claimed(folder) as claim:
        claim.begin()
        fill(folder, 1)
        claim.settle()
    assert has_saved(folder)


def begin_forced(folder: Path, *, saves: bool) -> None:
    """Begin a run in place of one, and fail."""
    with claimed(folder, force=True) as claim:
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
    stray = partial_beside(folder)
    stray.mkdir()
    (stray / "half").touch()
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


THESIS = "ten years of work"


def lay_thesis(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text(THESIS)


def lay_thesis_with_names_of_a_run(folder: Path) -> None:
    lay_thesis(folder)
    (folder / "manifest.json").write_text('{"name": "an extension of a browser", "version": 3}')
    (folder / "metrics.jsonl").write_text('{"visitors": 3}')
    (folder / "config.toml").write_text("title = 'mine'")


def lay_thesis_beside_a_run(folder: Path) -> None:
    fill(folder, 8)
    (folder / "thesis.tex").write_text(THESIS)


def lay_thesis_in_a_state(folder: Path) -> None:
    fill(folder, 8)
    (folder / "progress" / "00000008" / "thesis.tex").write_text(THESIS)


def lay_edited_metrics(folder: Path) -> None:
    fill(folder, 8)
    (folder / "metrics.jsonl").write_text(THESIS)


def lay_a_link_to_a_run(folder: Path) -> None:
    fill(folder.parent.parent / "disk", 8)
    folder.parent.mkdir()
    folder.symlink_to(folder.parent.parent / "disk")


def lay_a_link_in_a_run(folder: Path) -> None:
    lay_thesis(folder.parent.parent / "disk")
    fill(folder, 8)
    (folder / "heard").symlink_to(folder.parent.parent / "disk")


def lay_a_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text(THESIS)


FOREIGN = (lay_thesis, lay_thesis_with_names_of_a_run, lay_thesis_beside_a_run,
           lay_thesis_in_a_state, lay_edited_metrics, lay_a_link_to_a_run, lay_a_link_in_a_run,
           lay_a_file)  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    """Return all that lies in a folder, links by where they lead."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()).encode() if path.is_symlink() else
            path.read_bytes() if path.is_file() else b""
        )
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.mark.parametrize("lay", FOREIGN)
def test_only_a_run_is_replaced(folder: Path, lay: Callable[[Path], None]) -> None:
    lay(folder)
    before = content(folder.parent.parent)
    with pytest.raises(OutputExists, match="not replaced"), claimed(folder, force=True):
        pytest.fail("it is more than a run")
    assert content(folder.parent.parent) == before


@pytest.mark.parametrize("lay", FOREIGN)
def test_what_has_the_name_of_a_run_set_aside_stays(
    folder: Path, lay: Callable[[Path], None]
) -> None:
    lay(aside(folder))
    fill(folder, 16)
    before = content(folder.parent.parent)
    for options in ({"force": True}, {"exists": True}):
        with pytest.raises(OutputExists, match=r"\.mine\.old"), claimed(folder, **options):
            pytest.fail("it is in the way")
    assert content(folder.parent.parent) == before


@pytest.mark.parametrize("lay", FOREIGN[:2])
def test_a_run_set_aside_takes_no_folder_of_somebody_else(
    folder: Path, lay: Callable[[Path], None]
) -> None:
    lay(folder)
    fill(aside(folder), 8)
    before = content(folder.parent.parent)
    words = "not the folder of a training run"
    with pytest.raises(OutputExists, match=words), claimed(folder, exists=True):
        pytest.fail("it is in the way")
    assert content(folder.parent.parent) == before


def test_no_run_is_begun_in_a_folder_of_something_else(folder: Path) -> None:
    lay_thesis(folder)
    words = "not the folder of a training run"
    with pytest.raises(OutputExists, match=words), claimed(folder, exists=True):
        pytest.fail("it is no run")
    assert names(folder) == ["thesis.tex"]


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"the key is under the mat", b'{"key": 7}'])
def test_a_file_with_the_name_of_a_lock_stays(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_of(folder).write_bytes(text)
    with pytest.raises(OutputExists, match="is not the lock file of a run"), claimed(folder):
        pytest.fail("it is in the way")
    assert lock_of(folder).read_bytes() == text


def test_a_link_with_the_name_of_a_lock_leads_nowhere(folder: Path) -> None:
    folder.parent.mkdir()
    (folder.parent.parent / "thesis.tex").write_text(THESIS)
    lock_of(folder).symlink_to(folder.parent.parent / "thesis.tex")
    with pytest.raises(OutputExists, match="is not the lock file of a run"), claimed(folder):
        pytest.fail("it is in the way")
    assert (folder.parent.parent / "thesis.tex").read_text() == THESIS


def test_a_state_with_a_foreign_file_stays(folder: Path) -> None:
    fill(folder, 8)
    (folder / "progress" / "00000008" / "thesis.tex").write_text(THESIS)
    for step in (16, 24, 32, 40):
        fill(folder, step)
    assert names(folder / "progress") == ["00000008", "00000024", "00000032", "00000040"]
    with pytest.raises(OutputExists, match="not a saved state of the run"):
        fill(folder, 8)
