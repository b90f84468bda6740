"""Promises 7, 11, 12, 13: outputs are complete or absent; only regular files are read."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from musicgen.errors import MusicgenError, NotFound, OutputExists, Refusal, WriteFailed
from musicgen.files import (
    create_folder_atomically,
    make_partial_path,
    read_regular_file,
    refuse_existing,
    remove_folder,
    rename_folder,
    sweep_partials,
    write_atomically,
)

OLD, NEW = b"old" * 1000, b"new!" * 250_000
CALLS = ("open", "write", "fsync", "link", "rename", "replace", "close")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return tmp_path / "song.mid"


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def list_partials(folder: Path) -> list[str]:
    return [name for name in list_names(folder) if name.endswith(".partial")]


@pytest.mark.parametrize("force", [False, True])
def test_writes_file_and_leaves_no_partial(song: Path, force: bool) -> None:
    write_atomically(song, NEW, force=force)
    assert song.read_bytes() == NEW
    assert list_names(song.parent) == ["song.mid"]


def test_new_file_mode_follows_umask(song: Path) -> None:
    write_atomically(song, NEW)
    (song.parent / "plain").write_bytes(b"")
    assert song.stat().st_mode == (song.parent / "plain").stat().st_mode


def test_refuses_existing_file_without_force(song: Path) -> None:
    song.write_bytes(OLD)
    with pytest.raises(OutputExists, match=r"song\.mid exists; choose another name or add --force"):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD
    write_atomically(song, NEW, force=True)
    assert song.read_bytes() == NEW


def test_never_replaces_folder_by_file(song: Path) -> None:
    song.mkdir()
    with pytest.raises(OutputExists, match="is a folder; choose another name"):
        write_atomically(song, NEW, force=True)


def test_broken_link_counts_as_existing(song: Path) -> None:
    song.symlink_to(song.parent / "elsewhere")
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)


def test_names_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no folder .*nowhere; make it first") as caught:
        write_atomically(tmp_path / "nowhere" / "song.mid", NEW)
    assert caught.value.exit_code == 2


def test_refuses_output_named_twice(tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match=r"a\.mid is named twice"):
        refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid", tmp_path / "a.mid"], force=True)


def test_refuse_existing_checks_every_path(tmp_path: Path) -> None:
    (tmp_path / "b.mid").write_bytes(OLD)
    refuse_existing([tmp_path / "a.mid"])
    with pytest.raises(OutputExists, match=r"b\.mid"):
        refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid"])
    refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid"], force=True)


def test_writes_longest_possible_name(tmp_path: Path) -> None:
    long = tmp_path / ("ü" * 125 + ".mid")
    write_atomically(long, NEW)
    assert long.read_bytes() == NEW


class FailingCall:
    """Fail at the n-th call of a function of os, and count the calls."""

    def __init__(self, call: Callable[..., Any], number: int, code: int) -> None:
        self.call, self.number, self.code, self.count = call, number, code, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            if self.call.__name__ == "close":
                self.call(*args)
            raise OSError(self.code, os.strerror(self.code))
        return self.call(*args, **kwargs)


def write_and_catch(song: Path, *, force: bool) -> str | None:
    """Write, and return the error message if it failed."""
    try:
        write_atomically(song, NEW, force=force)
    except WriteFailed as fault:
        return str(fault)
    return None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("before", [None, OLD])
def test_failing_system_call_leaves_old_or_new_file(
    song: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, before: bytes | None
) -> None:
    for number in range(1, 20):
        song.unlink(missing_ok=True)
        if before is not None:
            song.write_bytes(before)
        with monkeypatch.context() as patch:
            failing_call = FailingCall(getattr(os, name), number, code)
            patch.setattr(os, name, failing_call)
            message = write_and_catch(song, force=before is not None)
        assert message is None or os.strerror(code) in message
        assert message is None or "(1,000,000 bytes are needed)" in message
        content = song.read_bytes() if song.exists() else None
        assert content in (before, NEW)
        assert not list_partials(song.parent)
        if failing_call.count < number:
            assert content == NEW
            return
    pytest.fail("the calls never ended")


def test_works_without_hard_links(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(song, OLD)
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD


def test_does_not_overwrite_file_created_meanwhile(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_too_late(source: Path, target: Path) -> None:
        target.write_bytes(OLD)
        link(source, target)

    monkeypatch.setattr(os, "link", link_too_late)
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD
    assert not list_partials(song.parent)


def start_python(code: str, *args: str, **kwargs: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, env=environment, text=True, **kwargs)


WRITE_ONE = """
import sys
from pathlib import Path
from musicgen.errors import MusicgenError
from musicgen.files import write_atomically
sys.stdin.readline()
try:
    write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 1000, force=len(sys.argv) > 3)
except MusicgenError as fault:
    sys.exit(f"{type(fault).__name__} {fault}")
"""


@contextlib.contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1, 100, 4095, 4096, 4097, 8192, 65536, 99_999])
def test_full_disk_keeps_old_file(song: Path, limit: int) -> None:
    song.write_bytes(OLD)
    with (
        pytest.raises(WriteFailed, match="100,000 bytes are needed") as failure,
        limit_file_size(limit),
    ):
        write_atomically(song, b"x" * 100_000, force=True)
    assert "\n" not in str(failure.value)
    assert list_names(song.parent) == ["song.mid"]
    assert song.read_bytes() == OLD


def test_file_that_fills_the_disk_is_written(song: Path) -> None:
    with limit_file_size(100_000):
        write_atomically(song, b"x" * 100_000)
    assert song.stat().st_size == 100_000


def test_one_of_concurrent_writers_wins(song: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [start_python(WRITE_ONE, str(song), letter, **pipes) for letter in "abcd"]
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    errors = [child.communicate()[1] for child in children]
    assert sorted(child.returncode for child in children) == [0, 1, 1, 1]
    assert sum("OutputExists" in error for error in errors) == 3
    winner = "abcd"[[child.returncode for child in children].index(0)]
    assert song.read_text() == winner * 1000
    assert not list_partials(song.parent)


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from musicgen.files import write_atomically
for number in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([number % 256]) * 300_000, force=True)
    print(flush=True)
"""


def kill_while_writing(song: Path, times: int) -> Iterator[None]:
    for number in range(times):
        with start_python(WRITE_FOR_EVER, str(song), stdout=subprocess.PIPE) as child:
            assert child.stdout
            for _ in range(1 + number % 3):
                child.stdout.readline()
            for _ in range(number * 997):  # varies the moment of the kill
                pass
            child.send_signal(signal.SIGKILL)
        yield


def check_killed_writers(song: Path, times: int) -> None:
    for _ in kill_while_writing(song, times):
        data = song.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
        left = len(list_partials(song.parent))
        assert left <= 1
        assert sweep_partials(song.parent) == left
        assert list_names(song.parent) == ["song.mid"]


def test_killed_writers_leave_complete_file(song: Path) -> None:
    check_killed_writers(song, 4)


@pytest.mark.promises
def test_200_killed_writers_leave_complete_file(song: Path) -> None:
    check_killed_writers(song, 200)


def test_sweep_keeps_locked_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "notes.partial").write_text("mine")
    (tmp_path / ".mine.mid.0123abcd01234567.partial").write_text("no writer gave it this name")
    make_partial_path(tmp_path / "old.mid").write_text("stray")
    stray = make_partial_path(tmp_path / "old")
    stray.mkdir()
    (stray / "half").write_bytes(OLD)
    make_partial_path(tmp_path / "link").symlink_to(tmp_path / "notes.partial")
    make_partial_path(tmp_path / "new.mid").touch()
    with create_folder_atomically(tmp_path / "data") as staging:
        assert sweep_partials(tmp_path) == 3
        assert staging.is_dir()
    left = sorted(path.name.strip(".").split(".")[0] for path in tmp_path.iterdir())
    assert left == ["data", "link", "mine", "notes"]
    assert sweep_partials(tmp_path / "nowhere") == 0


def test_sweep_before_the_lock_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    flock = fcntl.flock
    swept: list[bool] = []

    def sweep_then_lock(handle: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            for path in tmp_path.glob(".*.partial"):
                path.rmdir() if path.is_dir() else path.unlink()
        flock(handle, operation)

    monkeypatch.setattr("fcntl.flock", sweep_then_lock)
    write_atomically(tmp_path / "song.mid", NEW)
    swept.clear()
    with create_folder_atomically(tmp_path / "data") as staging:
        write_atomically(staging / "a", OLD)
    assert (tmp_path / "song.mid").read_bytes() == NEW
    assert (tmp_path / "data" / "a").read_bytes() == OLD
    assert list_names(tmp_path) == ["data", "song.mid"]


def fill_and_fail(staging: Path) -> None:
    write_atomically(staging / "a", OLD)
    raise ZeroDivisionError


def test_new_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), create_folder_atomically(target) as staging:
        fill_and_fail(staging)
    assert list_names(tmp_path) == []
    with create_folder_atomically(target) as staging:
        write_atomically(staging / "a", OLD)
        assert not target.exists()
    assert (target / "a").read_bytes() == OLD
    with pytest.raises(OutputExists, match="data exists"), create_folder_atomically(target):
        pytest.fail("there is a folder of that name")
    with pytest.raises(OutputExists), create_folder_atomically(target, may_replace=lambda _: False):
        pytest.fail("it may not be replaced")
    with create_folder_atomically(target, may_replace=lambda folder: folder == target) as staging:
        write_atomically(staging / "b", NEW)
    assert list_names(target) == ["b"]
    assert list_names(tmp_path) == ["data"]


def test_removed_folder_is_never_seen_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create_folder_atomically(tmp_path / "data") as staging:
        write_atomically(staging / "a", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if the process was killed here
        remove_folder(tmp_path / "data")
    assert len(list_partials(tmp_path)) == len(list_names(tmp_path)) == 1
    assert sweep_partials(tmp_path) == 1
    with pytest.raises(NotFound):
        remove_folder(tmp_path / "data")


def test_rename_folder_refuses_taken_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputExists):
        rename_folder(tmp_path / "a", tmp_path / "b")
    rename_folder(tmp_path / "a", tmp_path / "c")
    assert list_names(tmp_path) == ["b", "c"]


def test_refuses_folder_created_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with create_folder_atomically(tmp_path / "other") as staging:
        write_atomically(staging / "a", OLD)
    with pytest.raises(OutputExists), create_folder_atomically(target):
        shutil.copytree(tmp_path / "other", target)
    assert (target / "a").read_bytes() == OLD
    assert list_names(tmp_path) == ["data", "other"]


def test_new_folder_reports_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = FailingCall(os.mkdir, 1, errno.ENOSPC)
    monkeypatch.setattr(os, "mkdir", failing)
    with (
        pytest.raises(WriteFailed, match="No space left"),
        create_folder_atomically(tmp_path / "data"),
    ):
        pytest.fail("there is no room")


def test_reads_regular_file_and_followed_link(tmp_path: Path) -> None:
    file = tmp_path / "a.mid"
    file.write_bytes(NEW)
    link = tmp_path / "b.mid"
    link.symlink_to(file)
    assert (
        read_regular_file(file)
        == read_regular_file(link)
        == read_regular_file(file, follow=False)
        == NEW
    )
    with pytest.raises(Refusal, match=r"b\.mid: it is a link; only regular files") as caught:
        read_regular_file(link, follow=False)
    assert caught.value.code == "not-regular"


def test_refuses_special_files_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "folder.mid").mkdir()
    for name, kind in (("pipe.mid", "a device or pipe"), ("folder.mid", "a folder")):
        with pytest.raises(Refusal, match=f"{name}: it is {kind}; only regular files are read"):
            read_regular_file(tmp_path / name)
    with pytest.raises(Refusal, match="a device or pipe"):
        read_regular_file(Path("/dev/zero"))


def test_size_limit_is_exact(tmp_path: Path) -> None:
    file = tmp_path / "a.mid"
    file.write_bytes(b"12345")
    assert read_regular_file(file, limit=5) == b"12345"
    with pytest.raises(Refusal, match="larger than 4 bytes") as caught:
        read_regular_file(file, limit=4)
    assert caught.value.code == "too-large"


def test_limits_file_of_unknown_size() -> None:
    with pytest.raises(Refusal, match="larger than 3 bytes"):
        read_regular_file(Path("/proc/self/stat"), limit=3)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.mid does not exist"):
        read_regular_file(tmp_path / "none.mid")


def test_os_errors_become_our_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mid"
    file.write_bytes(NEW)
    for name in ("open", "read", "fstat"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, FailingCall(getattr(os, name), 1, errno.EIO))
            with pytest.raises(MusicgenError, match="Input/output"):
                read_regular_file(file)
