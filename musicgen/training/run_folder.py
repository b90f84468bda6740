"""A run folder on disk: its lock, the run that it replaces, and the saved progress.

    checkpoints/
    ├── mine/                        the run
    │   └── progress/00000240/       one of the last three saved states, named by its update
    │       ├── arrays.safetensors   weights, moments, recurrent states, generators, best weights
    │       ├── values.json          the rest
    │       └── manifest.json        the SHA-256 of both, and of itself
    ├── .mine.lock                   the process that trains there
    └── .mine.old/                   the previous `mine`, until the new one has saved a checkpoint

The lock is the operating system's, on an open file: it ends with its process. Where a file system
has no such locks, the process number decides. An old state goes only after the new one was read
back and its hashes matched; a state whose bytes changed since is detected, and the one before it
is taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_arrays
from safetensors.numpy import save as render_arrays

from musicgen.checkpoint import (
    BEST,
    WAY_OUT,
    aside,
    damaged,
    digest,
    numbered,
    read_files,
    read_manifest,
    render_manifest,
)
from musicgen.errors import DamagedCheckpoint, InUse, MusicgenError, OutputExists, WriteFailed
from musicgen.files import (
    explaining,
    hash_regular,
    new_folder,
    remove_folder,
    rename_folder,
    sweep_partials,
    write_new,
)
from musicgen.folder_contents import MANIFEST, has_manifest, is_run, is_step, refuse_foreign_run

FORMAT: Final = 2
KEPT: Final = 3
PROGRESS: Final = "progress"
ARRAYS: Final = "arrays.safetensors"
VALUES: Final = "values.json"


@dataclass(frozen=True, eq=False)
class Saved:
    """A run between two updates, as it was saved."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]  # JSON's own types
    folder: Path


def save(run: Path, step: int, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> Path:
    """Save the progress of a run, read it back, and let the oldest go.

    Raises WriteFailed, or MusicgenError for what is not finite: then nothing was saved.
    """
    refuse_odd(arrays, step)
    files = {ARRAYS: render_arrays(dict(arrays)), VALUES: _json(values)}
    hashes = {name: digest(data) for name, data in files.items()}
    files[MANIFEST] = render_manifest({"format": FORMAT, "sha256": hashes})
    folder = place(run / PROGRESS, step)
    needed = sum(map(len, files.values()))
    with new_folder(folder) as staging, explaining(folder, needed):
        for name, data in files.items():
            write_new(staging / name, data)
    let_go(folder, KEPT, FORMAT)
    return folder


def refuse_odd(arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Raise MusicgenError for an array that holds infinity or what is no number."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MusicgenError(
                f"update {step}: {name} is no longer finite; it was not saved, and what was saved"
                " before is whole. Go on from there with --resume and a lower --learning-rate"
            )


def place(shelf: Path, step: int) -> Path:
    """Return the name for the folder of an update; a damaged state that has it goes.

    Raises OutputExists for anything else of that name.
    """
    with explaining(shelf):
        shelf.mkdir(parents=True, exist_ok=True)
    folder = shelf / f"{step:08d}"
    if is_step(folder):
        remove_folder(folder)
    elif os.path.lexists(folder):
        raise OutputExists(f"{folder} is not a saved state of the run; move it away")
    return folder


def let_go(newest: Path, kept: int, known: int) -> None:
    """Remove all but the newest folders, once the newest of all was read back from the disk."""
    verify(newest, known)
    step = int(newest.name)
    others = [folder for folder in numbered(newest.parent) if folder != newest and is_step(folder)]
    before = [folder for folder in others if int(folder.name) < step]
    staying = before[max(0, len(before) - kept + 1) :]
    for folder in others:
        if folder not in staying:
            remove_folder(folder)


def verify(folder: Path, known: int) -> None:
    """Raise WriteFailed unless all files on the disk are what their manifest says."""
    hashes: dict[str, str] = {}
    with contextlib.suppress(DamagedCheckpoint):
        hashes = read_manifest(folder, known)["sha256"]
    kept = (hash_regular(folder / name, from_disk=True).hex() == hashes[name] for name in hashes)
    if not hashes or not all(kept):
        raise WriteFailed(
            f"{folder}: what was written is not what is read back; what was saved before is whole."
            " The disk may be failing: copy the run to another one and go on there with --resume"
        )


def load(folder: Path) -> Saved:
    """Read what was saved. Raises DamagedCheckpoint, or Mismatch for another format."""
    body = read_manifest(folder, FORMAT)
    contents = read_files(folder, body, ARRAYS, VALUES)
    try:
        values = json.loads(contents[VALUES])
        return Saved(parse_arrays(contents[ARRAYS]), values, folder)
    except (SafetensorError, ValueError, TypeError, KeyError) as fault:
        raise damaged(folder, f"its contents do not fit ({fault})") from fault


def latest(run: Path) -> tuple[Saved | None, list[str]]:
    """Return what was saved last and is whole, and a line for each later one that is not.

    Raises DamagedCheckpoint where nothing that was saved is whole, Mismatch for another format.
    """
    faults: list[str] = []
    for folder in reversed(numbered(run / PROGRESS)):
        try:
            return load(folder), faults
        except DamagedCheckpoint as fault:
            faults.append(str(fault).removesuffix(f"; {WAY_OUT}"))
    if faults:
        raise DamagedCheckpoint(
            f"{faults[0]}; nothing else that was saved is whole: begin again with --force"
        )
    return None, []


def sweep(run: Path) -> int:
    """Remove what killed writers left in the folders of a run whose lock is held; count them."""
    folders = [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    return sum(sweep_partials(folder) for folder in (*folders, run))


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, sort_keys=True).encode()


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
