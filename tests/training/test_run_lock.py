"""Promises 13 and 14: one run per folder, with any kind of lock; foreign files are kept."""

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

DEAD_PID = 2**22 + 1  # above the largest process id of Linux, 2**22


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "mine"


def save_step(folder: Path, step: int) -> None:
    run_folder.save_progress(folder, step, {"a": np.zeros(2, np.float32)}, {"run": {}})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def lock_path(folder: Path) -> Path:
    return folder.parent / ".mine.lock"


def leave_lock(folder: Path, pid: int, host: str) -> None:
    """Write the lock file of a killed process."""
    folder.parent.mkdir(exist_ok=True)
    lock_path(folder).write_text(json.dumps({"pid": pid, "host": host, "since": "yesterday"}))


def raise_no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture(params=["with locks", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Simulate a file system with or without locks."""
    if request.param == "without":
        monkeypatch.setattr("fcntl.flock", raise_no_locks)
    return str(request.param)


def test_held_folder_is_refused_and_the_holder_named(folder: Path, system: str) -> None:
    with lock_run(folder):
        holder = json.loads(lock_path(folder).read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
        message = f"another run is at work here .process {os.getpid()} on .*wait for it, or choose"
        for _ in range(2):
            with pytest.raises(InUse, match=message) as caught, lock_run(folder):
                pytest.fail("it is held")
            assert caught.value.exit_code == 2
    with lock_run(folder):
        pass
    assert not folder.parent.exists()


def test_lock_of_a_dead_process_is_ignored(folder: Path, system: str) -> None:
    leave_lock(folder, DEAD_PID, socket.gethostname())
    with lock_run(folder) as lock:
        assert lock.previous_holder is not None
        assert lock.previous_holder.pid == DEAD_PID
    assert names(folder.parent) == []


def test_lock_of_another_machine_counts_without_system_locks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_lock(folder, DEAD_PID, "elsewhere")
    with lock_run(folder):  # the lock of the system is free
        pass
    monkeypatch.setattr("fcntl.flock", raise_no_locks)
    leave_lock(folder, DEAD_PID, "elsewhere")
    with pytest.raises(InUse, match="on elsewhere, since yesterday"), lock_run(folder):
        pytest.fail("the process may be alive")


@pytest.mark.parametrize("text", [b"", b"{", b'{"pid": "x"}', b'{"pid": 12, "ho'])
def test_empty_or_truncated_lock_file_is_ignored(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_path(folder).write_bytes(text)
    with lock_run(folder) as lock:
        assert lock.previous_holder is None


def test_existing_run_is_kept_unless_requested(folder: Path) -> None:
    save_step(folder, 8)
    with (
        pytest.raises(OutputExists, match="--resume, or replace it with --force"),
        lock_run(folder),
    ):
        pytest.fail("there is a run")
    with lock_run(folder, exists=True) as lock:
        lock.create_folder()
        assert names(folder) == ["progress"]
    assert names(folder.parent) == ["mine"]


def test_new_folder_is_removed_if_nothing_was_saved(folder: Path) -> None:
    with lock_run(folder) as lock:
        lock.create_folder()
        (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 8}')
    assert not folder.exists()
    with lock_run(folder) as lock:
        lock.create_folder()
        save_step(folder, 1)
        lock.discard_previous()
    assert has_saved_state(folder)


def start_forced_run(folder: Path, *, saves: bool) -> None:
    """Start a run that replaces another one, and fail."""
    with lock_run(folder, force=True) as lock:
        lock.create_folder(force=True)
        assert names(folder) == []
        assert has_saved_state(previous_run_path(folder))
        if saves:
            save_step(folder, 1)
            lock.discard_previous()
            assert not previous_run_path(folder).exists()
        raise ZeroDivisionError


@pytest.mark.parametrize(("saves", "left"), [(False, "00000008"), (True, "00000001")])
def test_previous_run_is_removed_once_the_new_one_has_saved(
    folder: Path, saves: bool, left: str
) -> None:
    save_step(folder, 8)
    with pytest.raises(ZeroDivisionError):
        start_forced_run(folder, saves=saves)
    assert names(folder / "progress") == [left]
    assert names(folder.parent) == ["mine"]


@pytest.mark.parametrize("stage", ["moved", "made", "saved"])
def test_next_start_cleans_up_after_a_kill(folder: Path, stage: str) -> None:
    save_step(previous_run_path(folder), 8)
    if stage != "moved":
        folder.mkdir()
    if stage == "saved":
        save_step(folder, 1)
    stray = make_partial_path(folder)
    stray.mkdir()
    (stray / "half").touch()
    with lock_run(folder, exists=True):
        assert names(folder / "progress") == ["00000001" if stage == "saved" else "00000008"]
    assert names(folder.parent) == ["mine"]


def test_unwritable_lock_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", raise_disk_full)
    message = r"\.mine\.lock was not written: No space left"
    with pytest.raises(MusicgenError, match=message), lock_run(folder):
        pytest.fail("there is no room")
    assert names(folder.parent) == []


THESIS = "ten years of work"


def write_thesis(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text(THESIS)


def write_thesis_with_names_of_a_run(folder: Path) -> None:
    write_thesis(folder)
    (folder / "manifest.json").write_text('{"name": "an extension of a browser", "version": 3}')
    (folder / "metrics.jsonl").write_text('{"visitors": 3}')
    (folder / "config.toml").write_text("title = 'mine'")


def write_thesis_beside_a_run(folder: Path) -> None:
    save_step(folder, 8)
    (folder / "thesis.tex").write_text(THESIS)


def write_thesis_in_a_state(folder: Path) -> None:
    save_step(folder, 8)
    (folder / "progress" / "00000008" / "thesis.tex").write_text(THESIS)


def write_edited_metrics(folder: Path) -> None:
    save_step(folder, 8)
    (folder / "metrics.jsonl").write_text(THESIS)


def write_link_to_a_run(folder: Path) -> None:
    save_step(folder.parent.parent / "disk", 8)
    folder.parent.mkdir()
    folder.symlink_to(folder.parent.parent / "disk")


def write_link_in_a_run(folder: Path) -> None:
    write_thesis(folder.parent.parent / "disk")
    save_step(folder, 8)
    (folder / "heard").symlink_to(folder.parent.parent / "disk")


def write_file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text(THESIS)


FOREIGN = (write_thesis, write_thesis_with_names_of_a_run, write_thesis_beside_a_run,
           write_thesis_in_a_state, write_edited_metrics, write_link_to_a_run, write_link_in_a_run,
           write_file)  # fmt: skip


def read_contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder, and the targets of links."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()).encode() if path.is_symlink() else
            path.read_bytes() if path.is_file() else b""
        )
        for path in folder.rglob("*")
    }  # fmt: skip


@pytest.mark.parametrize("write_foreign", FOREIGN)
def test_only_run_folders_are_replaced(folder: Path, write_foreign: Callable[[Path], None]) -> None:
    write_foreign(folder)
    contents = read_contents(folder.parent.parent)
    with pytest.raises(OutputExists, match="not replaced"), lock_run(folder, force=True):
        pytest.fail("it is more than a run")
    assert read_contents(folder.parent.parent) == contents


@pytest.mark.parametrize("write_foreign", FOREIGN)
def test_foreign_content_under_the_name_of_a_previous_run_is_kept(
    folder: Path, write_foreign: Callable[[Path], None]
) -> None:
    write_foreign(previous_run_path(folder))
    save_step(folder, 16)
    contents = read_contents(folder.parent.parent)
    for options in ({"force": True}, {"exists": True}):
        with pytest.raises(OutputExists, match=r"\.mine\.old"), lock_run(folder, **options):
            pytest.fail("it is in the way")
    assert read_contents(folder.parent.parent) == contents


@pytest.mark.parametrize("write_foreign", FOREIGN[:2])
def test_previous_run_does_not_replace_a_foreign_folder(
    folder: Path, write_foreign: Callable[[Path], None]
) -> None:
    write_foreign(folder)
    save_step(previous_run_path(folder), 8)
    contents = read_contents(folder.parent.parent)
    message = "not the folder of a training run"
    with pytest.raises(OutputExists, match=message), lock_run(folder, exists=True):
        pytest.fail("it is in the way")
    assert read_contents(folder.parent.parent) == contents


def test_no_run_starts_in_a_foreign_folder(folder: Path) -> None:
    write_thesis(folder)
    message = "not the folder of a training run"
    with pytest.raises(OutputExists, match=message), lock_run(folder, exists=True):
        pytest.fail("not a run")
    assert names(folder) == ["thesis.tex"]


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"the key is under the mat", b'{"key": 7}'])
def test_foreign_file_under_the_name_of_a_lock_is_kept(folder: Path, text: bytes) -> None:
    folder.parent.mkdir()
    lock_path(folder).write_bytes(text)
    with pytest.raises(OutputExists, match="is not the lock file of a run"), lock_run(folder):
        pytest.fail("it is in the way")
    assert lock_path(folder).read_bytes() == text


def test_symlink_under_the_name_of_a_lock_is_not_followed(folder: Path) -> None:
    folder.parent.mkdir()
    (folder.parent.parent / "thesis.tex").write_text(THESIS)
    lock_path(folder).symlink_to(folder.parent.parent / "thesis.tex")
    with pytest.raises(OutputExists, match="is not the lock file of a run"), lock_run(folder):
        pytest.fail("it is in the way")
    assert (folder.parent.parent / "thesis.tex").read_text() == THESIS


def test_state_with_a_foreign_file_is_kept(folder: Path) -> None:
    save_step(folder, 8)
    (folder / "progress" / "00000008" / "thesis.tex").write_text(THESIS)
    for step in (16, 24, 32, 40):
        save_step(folder, step)
    assert names(folder / "progress") == ["00000008", "00000024", "00000032", "00000040"]
    with pytest.raises(OutputExists, match="not a saved state of the run"):
        save_step(folder, 8)


EXAMPLE_ABC = b"X:1\nT:Tune in C major, no. 1-1\nK:C\nCDEF|\n"


def write_finished_run(folder: Path) -> None:
    """Write the files of a finished run, each in the format of the program."""
    save_step(folder, 8)
    weights = np.zeros((2, 2), np.float16)
    files = {"weights.safetensors": save_arrays({"a": weights}), "receipt.bin": b"MGNOTES1"}
    hashes = {name: sha256_hex(data) for name, data in files.items()}
    files["manifest.json"] = render_manifest({"format": 1, "codec": "measures", "sha256": hashes})
    files["metrics.jsonl"] = b'{"step": 10, "tokens": 8}\n{"step": 20, "tok'
    files["heard/000008.abc"] = EXAMPLE_ABC
    files["heard/000008.mid"] = b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\x20\0\xff\3\x08A, no. 1-1"
    files["tensorboard/events.out.tfevents.1.a.1.0"] = (
        b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09\0\0\xc0\x2c\xcf\x1c\xd8\x41\x1a\x0dbrain.Event:2"
    )
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


FILES_OF_A_RUN = ("weights.safetensors", "receipt.bin", "manifest.json", "metrics.jsonl",
                  "heard/000008.abc", "heard/000008.mid",
                  "tensorboard/events.out.tfevents.1.a.1.0",
                  "progress/00000008/arrays.safetensors", "progress/00000008/values.json",
                  "progress/00000008/manifest.json")  # fmt: skip
OTHER_FILES = ("heard/123456.txt", "heard/123456.mid", "heard/123456.abc", "loss.png",
               "config.toml", "MODEL_CARD.md", "best/00000016/weights.safetensors",
               "tensorboard/events.out.tfevents.2")  # fmt: skip


@pytest.mark.parametrize("name", [*FILES_OF_A_RUN, *OTHER_FILES])
def test_foreign_file_is_kept_under_any_name(folder: Path, name: str) -> None:
    write_finished_run(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(f"# {THESIS}".encode())
    contents = read_contents(folder.parent)
    message = f"{re.escape(str(folder / name))} is not what a training run wrote.*not replaced"
    with pytest.raises(OutputExists, match=message), lock_run(folder, force=True):
        pytest.fail("it holds a foreign file")
    assert read_contents(folder.parent) == contents


def test_foreign_weights_are_kept(folder: Path) -> None:
    write_finished_run(folder)
    foreign = save_arrays({"theirs": np.ones(3, np.float32)})
    (folder / "weights.safetensors").write_bytes(foreign)
    with pytest.raises(OutputExists, match="not what a training run"), lock_run(folder, force=True):
        pytest.fail("they are not the run's")
    assert (folder / "weights.safetensors").read_bytes() == foreign


@pytest.mark.parametrize("missing", [None, *FILES_OF_A_RUN])
def test_incomplete_run_is_replaced(folder: Path, missing: str | None) -> None:
    write_finished_run(folder)
    if missing is not None:
        (folder / missing).unlink()
    start_forced_run_and_save(folder)
    assert names(folder) == ["progress"]


def start_forced_run_and_save(folder: Path) -> None:
    with lock_run(folder, force=True) as lock:
        lock.create_folder(force=True)
        save_step(folder, 1)
        lock.discard_previous()


def test_damaged_state_belongs_to_the_run(folder: Path) -> None:
    write_finished_run(folder)
    arrays = folder / "progress" / "00000008" / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    start_forced_run_and_save(folder)
    assert names(folder) == ["progress"]


@pytest.mark.parametrize("file_name", ["config.toml", "manifest.json"])
def test_listening_examples_of_a_text_model_belong_to_the_run(folder: Path, file_name: str) -> None:
    write_finished_run(folder)
    if file_name == "config.toml":
        (folder / file_name).write_text(f'{CONFIG_HEAD}\n\ncodec = "text-words"\n')
    else:
        body = {"format": 1, "codec": "text", "sha256": {}}
        (folder / file_name).write_bytes(render_manifest(body))
    (folder / "heard" / "000008.txt").write_text("one two\n")
    start_forced_run_and_save(folder)
    assert names(folder) == ["progress"]
