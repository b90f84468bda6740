"""Promises 7, 11, 12, 13: what is written is whole or absent; only regular files are read."""

from __future__ import annotations

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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def strays(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(".partial")]


@pytest.mark.parametrize("force", [False, True])
def test_writes_all_bytes_and_leaves_nothing_beside(song: Path, force: bool) -> None:
    write_atomically(song, NEW, force=force)
    assert song.read_bytes() == NEW
    assert names(song.parent) == ["song.mid"]


def test_the_rights_of_a_new_file_follow_the_umask(song: Path) -> None:
    write_atomically(song, NEW)
    (song.parent / "plain").write_bytes(b"")
    assert song.stat().st_mode == (song.parent / "plain").stat().st_mode


def test_an_existing_file_is_refused_without_force(song: Path) -> None:
    song.write_bytes(OLD)
    with pytest.raises(OutputExists, match=r"song\.mid exists; choose another name or add --force"):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD
    write_atomically(song, NEW, force=True)
    assert song.read_bytes() == NEW


def test_a_folder_is_never_replaced_by_a_file(song: Path) -> None:
    song.mkdir()
    with pytest.raises(OutputExists, match="is a folder; choose another name"):
        write_atomically(song, NEW, force=True)


def test_a_dangling_link_counts_as_existing(song: Path) -> None:
    song.symlink_to(song.parent / "elsewhere")
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no folder .*nowhere; make it first") as caught:
        write_atomically(tmp_path / "nowhere" / "song.mid", NEW)
    assert caught.value.exit_code == 2


def test_a_file_is_written_once(tmp_path: Path) -> None:
    with pytest.raises(OutputExists, match=r"a\.mid is named twice"):
        refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid", tmp_path / "a.mid"], force=True)


def test_refuse_existing_looks_at_every_path(tmp_path: Path) -> None:
    (tmp_path / "b.mid").write_bytes(OLD)
    refuse_existing([tmp_path / "a.mid"])
    with pytest.raises(OutputExists, match=r"b\.mid"):
        refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid"])
    refuse_existing([tmp_path / "a.mid", tmp_path / "b.mid"], force=True)


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    long = tmp_path / ("ü" * 125 + ".mid")
    write_atomically(long, NEW)
    assert long.read_bytes() == NEW


class Failing:
    """Make the n-th call of a function of os fail, and count the calls."""

    def __init__(self, call: Callable[..., Any], number: int, code: int) -> None:
        self.call, self.number, self.code, self.count = call, number, code, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.number:
            if self.call.__name__ == "close":
                self.call(*args)
            raise OSError(self.code, os.strerror(self.code))
        return self.call(*args, **kwargs)


def outcome(song: Path, *, force: bool) -> str | None:
    """Write, and return the words of what went wrong."""
    try:
        write_atomically(song, NEW, force=force)
    except WriteFailed as fault:
        return str(fault)
    return None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("before", [None, OLD])
def test_whatever_call_fails_the_file_is_old_or_new(
    song: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, before: bytes | None
) -> None:
    for number in range(1, 20):
        song.unlink(missing_ok=True)
        if before is not None:
            song.write_bytes(before)
        with monkeypatch.context() as patch:
            failing = Failing(getattr(os, name), number, code)
            patch.setattr(os, name, failing)
            words = outcome(song, force=before is not None)
        assert words is None or os.strerror(code) in words
        assert words is None or "(1,000,000 bytes are needed)" in words
        now = song.read_bytes() if song.exists() else None
        assert now in (before, NEW)
        assert not strays(song.parent)
        if failing.count < number:
            assert now == NEW
            return
    pytest.fail("the calls never ended")


def test_without_hard_links_a_file_is_still_written_and_kept(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    write_atomically(song, OLD)
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD


def test_a_file_made_in_the_last_moment_is_not_overwritten(
    song: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_bytes(OLD)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(OutputExists):
        write_atomically(song, NEW)
    assert song.read_bytes() == OLD
    assert not strays(song.parent)


def python(code: str, *args: str, **kwargs: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, env=environment, text=True, **kwargs)


WRITE_ONE = """
import sys
from pathlib import Path
from musicgen.errors import MusicgenError
from musicgen.files import write_whole
sys.stdin.readline()
try:
    write_whole(Path(sys.argv[1]), sys.argv[2].encode() * 1000, force=len(sys.argv) > 3)
except MusicgenError as fault:
    sys.exit(f"{type(fault).__name__} {fault}")
"""


@pytest.mark.parametrize("limit", [0, 1, 100, 4095, 4096, 4097, 8192, 65536, 99_999, 100_000])
def test_on_a_full_disk_the_old_file_stays(song: Path, limit: int) -> None:
    song.write_bytes(OLD)
    child = python(
        WRITE_ONE,
        str(song),
        "x" * 100,
        "--force",
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, said = child.communicate("go\n")
    assert not strays(song.parent)
    if limit == 100_000:
        assert (child.returncode, song.stat().st_size) == (0, 100_000)
    else:
        assert (child.returncode, song.read_bytes()) == (1, OLD)
        assert said.startswith("WriteFailed")
        assert "100,000 bytes are needed" in said
        assert said.count("\n") == 1


def test_of_two_at_once_one_wins(song: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [python(WRITE_ONE, str(song), letter, **pipes) for letter in "abcd"]
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate()[1] for child in children]
    assert sorted(child.returncode for child in children) == [0, 1, 1, 1]
    assert sum("OutputExists" in words for words in said) == 3
    winner = "abcd"[[child.returncode for child in children].index(0)]
    assert song.read_text() == winner * 1000
    assert not strays(song.parent)


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from musicgen.files import write_whole
for number in itertools.count():
    write_whole(Path(sys.argv[1]), bytes([number % 256]) * 300_000, force=True)
    print(flush=True)
"""


def kill_while_writing(song: Path, times: int) -> Iterator[None]:
    for number in range(times):
        with python(WRITE_FOR_EVER, str(song), stdout=subprocess.PIPE) as child:
            assert child.stdout
            for _ in range(1 + number % 3):
                child.stdout.readline()
            for _ in range(number * 997):  # the moment of death moves from round to round
                pass
            child.send_signal(signal.SIGKILL)
        yield


def check_killed_writers(song: Path, times: int) -> None:
    for _ in kill_while_writing(song, times):
        data = song.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1
        left = len(strays(song.parent))
        assert left <= 1
        assert sweep_partials(song.parent) == left
        assert names(song.parent) == ["song.mid"]


def test_killed_writers_leave_a_whole_file(song: Path) -> None:
    check_killed_writers(song, 10)


@pytest.mark.promises
def test_200_killed_writers_leave_a_whole_file(song: Path) -> None:
    check_killed_writers(song, 200)


def test_the_sweep_leaves_what_is_in_use_and_what_is_not_ours(tmp_path: Path) -> None:
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


def test_a_sweep_that_comes_before_the_lock_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock = fcntl.flock
    swept: list[bool] = []

    def late(handle: int, operation: int) -> None:
        if not swept:
            swept.append(True)
            for path in tmp_path.glob(".*.partial"):
                path.rmdir() if path.is_dir() else path.unlink()
        flock(handle, operation)

    monkeypatch.setattr("fcntl.flock", late)
    write_atomically(tmp_path / "song.mid", NEW)
    swept.clear()
    with create_folder_atomically(tmp_path / "data") as staging:
        write_atomically(staging / "a", OLD)
    assert (tmp_path / "song.mid").read_bytes() == NEW
    assert (tmp_path / "data" / "a").read_bytes() == OLD
    assert names(tmp_path) == ["data", "song.mid"]


def fill_and_fail(staging: Path) -> None:
    write_atomically(staging / "a", OLD)
    raise ZeroDivisionError


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), create_folder_atomically(target) as staging:
        fill_and_fail(staging)
    assert names(tmp_path) == []
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
    assert names(target) == ["b"]
    assert names(tmp_path) == ["data"]


def test_a_folder_that_goes_is_never_there_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with create_folder_atomically(tmp_path / "data") as staging:
        write_atomically(staging / "a", OLD)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if it was killed here
        remove_folder(tmp_path / "data")
    assert len(strays(tmp_path)) == len(names(tmp_path)) == 1
    assert sweep_partials(tmp_path) == 1
    with pytest.raises(NotFound):
        remove_folder(tmp_path / "data")


def test_a_folder_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputExists):
        rename_folder(tmp_path / "a", tmp_path / "b")
    rename_folder(tmp_path / "a", tmp_path / "c")
    assert names(tmp_path) == ["b", "c"]


def test_a_new_folder_that_came_second_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "data"
    with create_folder_atomically(tmp_path / "other") as staging:
        write_atomically(staging / "a", OLD)
    with pytest.raises(OutputExists), create_folder_atomically(target):
        shutil.copytree(tmp_path / "other", target)
    assert (target / "a").read_bytes() == OLD
    assert names(tmp_path) == ["data", "other"]


def test_a_folder_on_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(os.mkdir, 1, errno.ENOSPC)
    monkeypatch.setattr(os, "mkdir", failing)
    with (
        pytest.raises(WriteFailed, match="No space left"),
        create_folder_atomically(tmp_path / "data"),
    ):
        pytest.fail("there is no room")


def test_reads_a_regular_file_and_a_link_that_was_named(tmp_path: Path) -> None:
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


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mid")
    (tmp_path / "folder.mid").mkdir()
    for name, words in (("pipe.mid", "a device or pipe"), ("folder.mid", "a folder")):
        with pytest.raises(Refusal, match=f"{name}: it is {words}; only regular files are read"):
            read_regular_file(tmp_path / name)
    with pytest.raises(Refusal, match="a device or pipe"):
        read_regular_file(Path("/dev/zero"))


def test_the_limit_of_bytes_is_exact(tmp_path: Path) -> None:
    file = tmp_path / "a.mid"
    file.write_bytes(b"12345")
    assert read_regular_file(file, limit=5) == b"12345"
    with pytest.raises(Refusal, match="larger than 4 bytes") as caught:
        read_regular_file(file, limit=4)
    assert caught.value.code == "too-large"


def test_a_file_that_claims_to_be_empty_is_limited_too() -> None:
    with pytest.raises(Refusal, match="larger than 3 bytes"):
        read_regular_file(Path("/proc/self/stat"), limit=3)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.mid does not exist"):
        read_regular_file(tmp_path / "none.mid")


def test_every_fault_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mid"
    file.write_bytes(NEW)
    for name in ("open", "read", "fstat"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Failing(getattr(os, name), 1, errno.EIO))
            with pytest.raises(MusicgenError, match="Input/output"):
                read_regular_file(file)
