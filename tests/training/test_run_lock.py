"""Promises 13 and 14: one run a folder, whatever locks there are; an old run outlives failures."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_arrays

from musicgen.checkpoint import previous_run_path, render_manifest
from musicgen.errors import InUse, MusicgenError, OutputExists
from musicgen.files import make_partial_path, sha256_hex
from musicgen.folder_contents import CONFIG_HEAD
from musicgen.training import run_folder
from musicgen.training.run_folder import has_saved_state, lock_run

NOBODY = 2**22 + 1  # no process has such a number: the kernel's highest is 2**22


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "mine"


def fill(folder: Path, step: int) -> None:
    run_folder.save_progress(folder, step, {"a": np.zeros(2, np.float32)}, {"run": {}})


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
    with lock_run(folder):
        told = json.loads(lock_of(folder).read_text())
        assert (told["pid"], told["host"]) == (os.getpid(), socket.gethostname())
        words = f"another run is at work here .process {os.getpid()} on .*wait for it, or choose"
        for _ in range(2):
            with pytest.raises(InUse, match=words) as caught, lock_run(folder):
                pytest.fail("it is held")
            assert caught.value.exit_code == 2
    with lock_run(folder):
        pass
    assert not folder.parent.exists()


def test_a_dead_process_holds_nothing(folder: Path, system: str) -> None:
    leave_lock(folder, NOBODY, socket.gethostname())
    with lock_run(folder) as claim:
        assert claim.previous_holder is not None
        assert claim.previous_holder.pid == NOBODY
    assert names(folder.parent) == []


def test_without_locks_another_machine_is_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(folder, NOBODY, "elsewhere")
    with lock_run(folder):  # the system's lock says that nobody has it
        pass
    monkeypatch.setattr("fcntl.flock", no_locks)
    leave_lock(folder, NOBODY, "elsewhere")
    with pytest.raises(InUse, match="on elsewhere, since yesterday"), lock_run(folder):
        pytest.fail("nobody here knows")


@pytest.mark.parametrize("text", [b"", b"{", b'{"pid": "x"}', b'{"pid": 12, "ho'])
def test_a_lock_that_says_nothing_is_no_obstacle(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_of(folder).write_bytes(text)
    with lock_run(folder) as claim:
        assert claim.previous_holder is None


def test_a_run_that_stands_there_is_kept_unless_asked(folder: Path) -> None:
    fill(folder, 8)
    with (
        pytest.raises(OutputExists, match="--resume, or replace it with --force"),
        lock_run(folder),
    ):
        pytest.fail("there is a run")
    with lock_run(folder, exists=True) as claim:
        claim.create_folder()
        assert names(folder) == ["progress"]
    assert names(folder.parent) == ["mine"]


def test_a_new_folder_goes_if_nothing_was_saved_in_it(folder: Path) -> None:
    with lock_run(folder) as claim:
        claim.create_folder()
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 8}')
    assert not folder.exists()
    with lock_run(folder) as claim:
        claim.create_folder()
        fill(folder, 1)
        claim.discard_previous()
    assert has_saved_state(folder)


def begin_forced(folder: Path, *, saves: bool) -> None:
    """Begin a run in place of one, and fail."""
    with lock_run(folder, force=True) as claim:
        claim.create_folder(force=True)
        assert names(folder) == []
        assert has_saved_state(previous_run_path(folder))
        if saves:
            fill(folder, 1)
            claim.discard_previous()
            assert not previous_run_path(folder).exists()
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
    fill(previous_run_path(folder), 8)
    if stage != "moved":
        folder.mkdir()
    if stage == "saved":
        fill(folder, 1)
    stray = make_partial_path(folder)
    stray.mkdir()
    (stray / "half").touch()
    with lock_run(folder, exists=True):
        assert names(folder / "progress") == ["00000001" if stage == "saved" else "00000008"]
    assert names(folder.parent) == ["mine"]


def test_a_lock_that_cannot_be_written_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", full)
    words = r"\.mine\.lock was not written: No space left"
    with pytest.raises(MusicgenError, match=words), lock_run(folder):
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
    with pytest.raises(OutputExists, match="not replaced"), lock_run(folder, force=True):
        pytest.fail("it is more than a run")
    assert content(folder.parent.parent) == before


@pytest.mark.parametrize("lay", FOREIGN)
def test_what_has_the_name_of_a_run_set_aside_stays(
    folder: Path, lay: Callable[[Path], None]
) -> None:
    lay(previous_run_path(folder))
    fill(folder, 16)
    before = content(folder.parent.parent)
    for options in ({"force": True}, {"exists": True}):
        with pytest.raises(OutputExists, match=r"\.mine\.old"), lock_run(folder, **options):
            pytest.fail("it is in the way")
    assert content(folder.parent.parent) == before


@pytest.mark.parametrize("lay", FOREIGN[:2])
def test_a_run_set_aside_takes_no_folder_of_somebody_else(
    folder: Path, lay: Callable[[Path], None]
) -> None:
    lay(folder)
    fill(previous_run_path(folder), 8)
    before = content(folder.parent.parent)
    words = "not the folder of a training run"
    with pytest.raises(OutputExists, match=words), lock_run(folder, exists=True):
        pytest.fail("it is in the way")
    assert content(folder.parent.parent) == before


def test_no_run_is_begun_in_a_folder_of_something_else(folder: Path) -> None:
    lay_thesis(folder)
    words = "not the folder of a training run"
    with pytest.raises(OutputExists, match=words), lock_run(folder, exists=True):
        pytest.fail("it is no run")
    assert names(folder) == ["thesis.tex"]


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"the key is under the mat", b'{"key": 7}'])
def test_a_file_with_the_name_of_a_lock_stays(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_of(folder).write_bytes(text)
    with pytest.raises(OutputExists, match="is not the lock file of a run"), lock_run(folder):
        pytest.fail("it is in the way")
    assert lock_of(folder).read_bytes() == text


def test_a_link_with_the_name_of_a_lock_leads_nowhere(folder: Path) -> None:
    folder.parent.mkdir()
    (folder.parent.parent / "thesis.tex").write_text(THESIS)
    lock_of(folder).symlink_to(folder.parent.parent / "thesis.tex")
    with pytest.raises(OutputExists, match="is not the lock file of a run"), lock_run(folder):
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


HEARD_ABC = b"X:1\nT:Tune in C major, no. 1-1\nK:C\nCDEF|\n"


def fill_whole(folder: Path) -> None:
    """Lay what a finished run of notes leaves, each file of the program's own making."""
    fill(folder, 8)
    state = np.zeros((2, 2), np.float16)
    files = {"weights.safetensors": save_arrays({"a": state}), "receipt.bin": b"MGNOTES1"}
    hashes = {name: sha256_hex(data) for name, data in files.items()}
    files["manifest.json"] = render_manifest({"format": 1, "codec": "measures", "sha256": hashes})
    files["metrics.jsonl"] = b'{"step": 10, "tokens": 8}\n{"step": 20, "tok'
    files["heard/000008.abc"] = HEARD_ABC
    files["heard/000008.mid"] = b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\x20\0\xff\3\x08A, no. 1-1"
    files["tensorboard/events.out.tfevents.1.a.1.0"] = (
        b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09\0\0\xc0\x2c\xcf\x1c\xd8\x41\x1a\x0dbrain.Event:2"
    )
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


LISTED = ("weights.safetensors", "receipt.bin", "manifest.json", "metrics.jsonl",
          "heard/000008.abc", "heard/000008.mid", "tensorboard/events.out.tfevents.1.a.1.0",
          "progress/00000008/arrays.safetensors", "progress/00000008/values.json",
          "progress/00000008/manifest.json")  # fmt: skip
OTHERS = ("heard/123456.txt", "heard/123456.mid", "heard/123456.abc", "loss.png", "config.toml",
          "MODEL_CARD.md", "best/00000016/weights.safetensors",
          "tensorboard/events.out.tfevents.2")  # fmt: skip


@pytest.mark.parametrize("name", [*LISTED, *OTHERS])
def test_a_file_of_somebody_else_stays_whatever_its_name(folder: Path, name: str) -> None:
    fill_whole(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(f"# {THESIS}".encode())
    before = content(folder.parent)
    words = f"{re.escape(str(folder / name))} is not what a training run wrote.*not replaced"
    with pytest.raises(OutputExists, match=words), lock_run(folder, force=True):
        pytest.fail("it holds the work of somebody else")
    assert content(folder.parent) == before


def test_weights_from_elsewhere_stay(folder: Path) -> None:
    fill_whole(folder)
    theirs = save_arrays({"theirs": np.ones(3, np.float32)})
    (folder / "weights.safetensors").write_bytes(theirs)
    with pytest.raises(OutputExists, match="not what a training run"), lock_run(folder, force=True):
        pytest.fail("they are not the run's")
    assert (folder / "weights.safetensors").read_bytes() == theirs


@pytest.mark.parametrize("gone", [None, *LISTED])
def test_a_run_is_replaced_whatever_a_kill_left_of_it(folder: Path, gone: str | None) -> None:
    fill_whole(folder)
    if gone is not None:
        (folder / gone).unlink()
    begin_forced_and_save(folder)
    assert names(folder) == ["progress"]


def begin_forced_and_save(folder: Path) -> None:
    with lock_run(folder, force=True) as claim:
        claim.create_folder(force=True)
        fill(folder, 1)
        claim.discard_previous()


def test_a_damaged_state_is_the_runs_own(folder: Path) -> None:
    fill_whole(folder)
    arrays = folder / "progress" / "00000008" / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    begin_forced_and_save(folder)
    assert names(folder) == ["progress"]


@pytest.mark.parametrize("place", ["config.toml", "manifest.json"])
def test_a_run_that_learns_text_lets_text_be_heard(folder: Path, place: str) -> None:
    fill_whole(folder)
    if place == "config.toml":
        (folder / place).write_text(f'{CONFIG_HEAD}\n\ncodec = "text-words"\n')
    else:
        body = {"format": 1, "codec": "text", "sha256": {}}
        (folder / place).write_bytes(render_manifest(body))
    (folder / "heard" / "000008.txt").write_text("one two\n")
    begin_forced_and_save(folder)
    assert names(folder) == ["progress"]
