"""One run at a time in a folder, and the run before kept until its successor has saved something.

    checkpoints/
    ├── mine/         the run
    ├── .mine.lock    who trains there, while somebody does
    └── .mine.old/    what `mine` was, until the new one has saved its first checkpoint

The lock is the system's own, on an open file: it goes with the process that holds it, however that
one ends. Where a file system has no such locks, the process's number decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from musicgen.checkpoint import BEST, aside, numbered
from musicgen.errors import InUse, MusicgenError, OutputExists
from musicgen.files import explaining, remove_folder, rename_folder, sweep_partials
from musicgen.folder_contents import has_manifest, is_run, refuse_foreign_run
from musicgen.model.keeping import PROGRESS, sweep

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_MOST_BYTES: Final = 1024  # of a lock
_HEAD: Final = b'{"pid": '  # of a lock


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a folder."""

    pid: int
    host: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """Return this very process."""
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))


@dataclass
class Claim:
    """A folder that is ours alone for a while."""

    folder: Path
    before: Holder | None = None  # who held it last and ended without a word
    moved: bool = False  # whether the run before waits aside
    made: bool = False

    def begin(self, *, force: bool = False) -> None:
        """Make the folder; with force the run that stands there waits aside."""
        if force and os.path.lexists(self.folder):
            refuse_foreign_run(self.folder)
            rename_folder(self.folder, aside(self.folder))
            self.moved = True
        self.made = not self.folder.exists()
        with explaining(self.folder):
            self.folder.mkdir(exist_ok=True)

    def settle(self) -> None:
        """Let the run before go: something of the new one is saved."""
        if self.moved:
            remove_folder(aside(self.folder))
        self.moved = self.made = False

    def give_up(self) -> None:
        """Leave the place as it was found, unless something was saved."""
        if self.made and not has_saved(self.folder) and is_run(self.folder):
            remove_folder(self.folder)
        put_back(self.folder)


@contextlib.contextmanager
def claimed(folder: Path, *, exists: bool = False, force: bool = False) -> Iterator[Claim]:
    """Hold a run's folder against all other runs, and put in order what killed ones left.

    Args:
        folder: the run's.
        exists: whether a run may be there.
        force: whether it may be replaced.

    Raises InUse where another run is at work, OutputExists for one that exists unless asked, and
    for a folder that no run filled.
    """
    fresh = not folder.parent.exists()
    with explaining(folder.parent):
        folder.parent.mkdir(exist_ok=True)
    try:
        with _locked(folder) as before:
            claim = Claim(folder, before)
            sweep_partials(folder.parent)
            put_back(folder)
            sweep(folder)
            _refuse_other(folder, exists=exists or force, force=force)
            try:
                with foreseen(folder):
                    yield claim
            finally:
                claim.give_up()
    finally:
        if fresh:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


@contextlib.contextmanager
def foreseen(folder: Path) -> Iterator[None]:
    """Say in one line that memory was short, whoever noticed it."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as fault:
        if not is_short_of_memory(fault):
            raise
        raise MusicgenError(
            f"{folder}: not enough memory; what was saved is whole. Free some and go on"
            " with --resume, or train with a smaller --batch, --bptt or --hidden"
        ) from fault


def is_short_of_memory(fault: BaseException) -> bool:
    """Tell whether a fault, of torch or of the system too, means that there was no memory left."""
    words = str(fault).lower()
    known = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
             "not enough memory", "can't start new thread", "failed to map segment")  # fmt: skip
    return isinstance(fault, MemoryError) or any(word in words for word in known)


def _refuse_other(folder: Path, *, exists: bool, force: bool) -> None:
    """Raise OutputExists for a folder that may not be gone on with, or not be replaced."""
    if not os.path.lexists(folder):
        return
    if not exists:
        raise OutputExists(
            f"{folder} exists; choose another --name, go on with --resume,"
            " or replace it with --force"
        )
    if force or not (numbered(folder / PROGRESS) or has_saved(folder)):
        refuse_foreign_run(folder)


def has_saved(run: Path) -> bool:
    """Tell whether a run's folder holds anything worth keeping."""
    kept = (*numbered(run / BEST), *numbered(run / PROGRESS), run)
    return any(map(has_manifest, kept))


def put_back(folder: Path) -> None:
    """Decide between a run that waits aside and its successor.

    Raises OutputExists where either of them is nothing that a run wrote.
    """
    old = aside(folder)
    if not os.path.lexists(old):
        return
    refuse_foreign_run(old)
    if has_saved(folder):
        remove_folder(old)
        return
    if os.path.lexists(folder):
        refuse_foreign_run(folder)
        remove_folder(folder)
    rename_folder(old, folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Holder | None]:
    path = folder.parent / f".{folder.name}.lock"
    handle, before = _taken(path, folder)
    try:
        with explaining(path):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(asdict(Holder.here())).encode())
        yield before
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _taken(path: Path, folder: Path) -> tuple[int, Holder | None]:
    """Take the lock; return it open, and whoever ended without giving it back."""
    while True:
        if fcntl is None:  # there an open file cannot be removed: one that can be is nobody's
            with contextlib.suppress(OSError):
                path.unlink()
        before = _holder(path)
        if before is None:
            _refuse_other_file(path)
        with explaining(path):
            handle = os.open(path, _FLAGS, 0o666)
        try:
            alone = _alone(handle, before)
            if alone and _same(handle, path):
                return handle, before
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not alone:
            raise InUse(_told(folder, _holder(path)))


def _refuse_other_file(path: Path) -> None:
    """Raise OutputExists for what has the name of a lock file and is none, nor half of one."""
    if not os.path.lexists(path):
        return
    is_lock = path.is_file() and not path.is_symlink()
    with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
        head = path.read_bytes()[: len(_HEAD)] if is_lock else b"?"
        if not _HEAD.startswith(head):
            raise OutputExists(
                f"{path} is not the lock file of a run; move it away, or choose another --name"
            )


def _alone(handle: int, before: Holder | None) -> bool:
    """Take the system's lock, or where there is none go by the process that wrote the file."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return before is None or not _lives(before)


def _lives(holder: Holder) -> bool:
    """Tell whether a process may still be there; of another machine's, nobody here knows."""
    if holder.host != socket.gethostname():
        return True
    if holder.pid == os.getpid() or not hasattr(os, "fork"):
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _same(handle: int, path: Path) -> bool:
    """Tell whether the file still has its name: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _holder(path: Path) -> Holder | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        found: dict[str, Any] = json.loads(path.read_bytes())
        return Holder(int(found["pid"]), str(found["host"]), str(found["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _told(folder: Path, holder: Holder | None) -> str:
    who = f"process {holder.pid} on {holder.host}, since {holder.since}" if holder else "somebody"
    return f"{folder}: another run is at work here ({who}); wait for it, or choose another --name"
