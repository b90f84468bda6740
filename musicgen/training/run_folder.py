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
    REMEDY,
    damage_error,
    list_numbered_folders,
    previous_run_path,
    read_files,
    read_manifest,
    render_manifest,
)
from musicgen.errors import (
    DamagedCheckpoint,
    InUse,
    MusicgenError,
    OutputExists,
    WriteFailed,
    is_short_of_memory,
)
from musicgen.files import (
    HAS_FILE_LOCKS,
    acquire_lock,
    create_folder_atomically,
    hash_regular_file,
    remove_folder,
    rename_folder,
    sha256_hex,
    sweep_partials,
    translate_os_errors,
    write_new,
)
from musicgen.folder_contents import (
    MANIFEST,
    has_manifest,
    is_run_folder,
    is_step_folder,
    refuse_foreign_run,
)

FORMAT: Final = 2
KEPT_SAVES: Final = 3
PROGRESS_FOLDER: Final = "progress"
ARRAYS_FILE: Final = "arrays.safetensors"
VALUES_FILE: Final = "values.json"


@dataclass(frozen=True, eq=False)
class SavedProgress:
    """A run between two updates, as it was saved."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]  # JSON's own types
    folder: Path


def save_progress(
    run: Path, step: int, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> Path:
    """Save the progress of a run, read it back, and let the oldest go.

    Raises WriteFailed, or MusicgenError for what is not finite: then nothing was saved.
    """
    check_finite(arrays, step)
    files = {ARRAYS_FILE: render_arrays(dict(arrays)), VALUES_FILE: _to_json(values)}
    hashes = {name: sha256_hex(data) for name, data in files.items()}
    files[MANIFEST] = render_manifest({"format": FORMAT, "sha256": hashes})
    folder = prepare_step_path(run / PROGRESS_FOLDER, step)
    needed = sum(map(len, files.values()))
    with create_folder_atomically(folder) as staging, translate_os_errors(folder, needed):
        for name, data in files.items():
            write_new(staging / name, data)
    prune_saves(folder, KEPT_SAVES, FORMAT)
    return folder


def check_finite(arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Raise MusicgenError for an array that holds infinity or what is no number."""
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MusicgenError(
                f"update {step}: {name} is no longer finite; it was not saved, and what was saved"
                " before is whole. Go on from there with --resume and a lower --learning-rate"
            )


def prepare_step_path(shelf: Path, step: int) -> Path:
    """Return the name for the folder of an update; a damaged state that has it goes.

    Raises OutputExists for anything else of that name.
    """
    with translate_os_errors(shelf):
        shelf.mkdir(parents=True, exist_ok=True)
    folder = shelf / f"{step:08d}"
    if is_step_folder(folder):
        remove_folder(folder)
    elif os.path.lexists(folder):
        raise OutputExists(f"{folder} is not a saved state of the run; move it away")
    return folder


def prune_saves(newest: Path, keep: int, format_number: int) -> None:
    """Remove all but the newest folders, once the newest of all was read back from the disk."""
    verify_files(newest, format_number)
    step = int(newest.name)
    others = [
        folder
        for folder in list_numbered_folders(newest.parent)
        if folder != newest and is_step_folder(folder)
    ]
    before = [folder for folder in others if int(folder.name) < step]
    staying = before[max(0, len(before) - keep + 1) :]
    for folder in others:
        if folder not in staying:
            remove_folder(folder)


def verify_files(folder: Path, format_number: int) -> None:
    """Raise WriteFailed unless all files on the disk are what their manifest says."""
    hashes: dict[str, str] = {}
    with contextlib.suppress(DamagedCheckpoint):
        hashes = read_manifest(folder, format_number)["sha256"]
    kept = (
        hash_regular_file(folder / name, from_disk=True).hex() == hashes[name] for name in hashes
    )
    if not hashes or not all(kept):
        raise WriteFailed(
            f"{folder}: what was written is not what is read back; what was saved before is whole."
            " The disk may be failing: copy the run to another one and go on there with --resume"
        )


def load_progress(folder: Path) -> SavedProgress:
    """Read what was saved. Raises DamagedCheckpoint, or Mismatch for another format."""
    body = read_manifest(folder, FORMAT)
    contents = read_files(folder, body, ARRAYS_FILE, VALUES_FILE)
    try:
        values = json.loads(contents[VALUES_FILE])
        return SavedProgress(parse_arrays(contents[ARRAYS_FILE]), values, folder)
    except (SafetensorError, ValueError, TypeError, KeyError) as fault:
        raise damage_error(folder, f"its contents do not fit ({fault})") from fault


def load_latest_progress(run: Path) -> tuple[SavedProgress | None, list[str]]:
    """Return what was saved last and is whole, and a line for each later one that is not.

    Raises DamagedCheckpoint where nothing that was saved is whole, Mismatch for another format.
    """
    faults: list[str] = []
    for folder in reversed(list_numbered_folders(run / PROGRESS_FOLDER)):
        try:
            return load_progress(folder), faults
        except DamagedCheckpoint as fault:
            faults.append(str(fault).removesuffix(f"; {REMEDY}"))
    if faults:
        raise DamagedCheckpoint(
            f"{faults[0]}; nothing else that was saved is whole: begin again with --force"
        )
    return None, []


def remove_partial_files(run: Path) -> int:
    """Remove what killed writers left in the folders of a run whose lock is held; count them."""
    folders = [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    return sum(sweep_partials(folder) for folder in (*folders, run))


def _to_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, sort_keys=True).encode()


_OPEN_FLAGS: Final = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
)
_MAX_LOCK_BYTES: Final = 1024  # of a lock
_LOCK_PREFIX: Final = b'{"pid": '  # of a lock


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a folder."""

    pid: int
    host: str
    since: str

    @classmethod
    def of_this_process(cls) -> LockHolder:
        """Return this very process."""
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))


@dataclass
class RunLock:
    """A folder that is ours alone for a while."""

    folder: Path
    previous_holder: LockHolder | None = None  # who held it last and ended without a word
    has_moved_previous: bool = False  # whether the run before waits aside
    has_made_folder: bool = False

    def create_folder(self, *, force: bool = False) -> None:
        """Make the folder; with force the run that stands there waits aside."""
        if force and os.path.lexists(self.folder):
            refuse_foreign_run(self.folder)
            rename_folder(self.folder, previous_run_path(self.folder))
            self.has_moved_previous = True
        self.has_made_folder = not self.folder.exists()
        with translate_os_errors(self.folder):
            self.folder.mkdir(exist_ok=True)

    def discard_previous(self) -> None:
        """Let the run before go: something of the new one is saved."""
        if self.has_moved_previous:
            remove_folder(previous_run_path(self.folder))
        self.has_moved_previous = self.has_made_folder = False

    def clean_up(self) -> None:
        """Leave the place as it was found, unless something was saved."""
        if self.has_made_folder and not has_saved_state(self.folder) and is_run_folder(self.folder):
            remove_folder(self.folder)
        restore_previous(self.folder)


@contextlib.contextmanager
def lock_run(folder: Path, *, exists: bool = False, force: bool = False) -> Iterator[RunLock]:
    """Hold a run's folder against all other runs, and put in order what killed ones left.

    Args:
        folder: the run's.
        exists: whether a run may be there.
        force: whether it may be replaced.

    Raises InUse where another run is at work, OutputExists for one that exists unless asked, and
    for a folder that no run filled.
    """
    fresh = not folder.parent.exists()
    with translate_os_errors(folder.parent):
        folder.parent.mkdir(exist_ok=True)
    try:
        with _hold_lock_file(folder) as before:
            claim = RunLock(folder, before)
            sweep_partials(folder.parent)
            restore_previous(folder)
            remove_partial_files(folder)
            _refuse_other(folder, exists=exists or force, force=force)
            try:
                with translate_memory_errors(folder):
                    yield claim
            finally:
                claim.clean_up()
    finally:
        if fresh:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


@contextlib.contextmanager
def translate_memory_errors(folder: Path) -> Iterator[None]:
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


def _refuse_other(folder: Path, *, exists: bool, force: bool) -> None:
    """Raise OutputExists for a folder that may not be gone on with, or not be replaced."""
    if not os.path.lexists(folder):
        return
    if not exists:
        raise OutputExists(
            f"{folder} exists; choose another --name, go on with --resume,"
            " or replace it with --force"
        )
    if force or not (list_numbered_folders(folder / PROGRESS_FOLDER) or has_saved_state(folder)):
        refuse_foreign_run(folder)


def has_saved_state(run: Path) -> bool:
    """Tell whether a run's folder holds anything worth keeping."""
    kept = (*list_numbered_folders(run / BEST), *list_numbered_folders(run / PROGRESS_FOLDER), run)
    return any(map(has_manifest, kept))


def restore_previous(folder: Path) -> None:
    """Decide between a run that waits aside and its successor.

    Raises OutputExists where either of them is nothing that a run wrote.
    """
    old = previous_run_path(folder)
    if not os.path.lexists(old):
        return
    refuse_foreign_run(old)
    if has_saved_state(folder):
        remove_folder(old)
        return
    if os.path.lexists(folder):
        refuse_foreign_run(folder)
        remove_folder(folder)
    rename_folder(old, folder)


@contextlib.contextmanager
def _hold_lock_file(folder: Path) -> Iterator[LockHolder | None]:
    path = folder.parent / f".{folder.name}.lock"
    handle, before = _acquire_lock(path, folder)
    try:
        with translate_os_errors(path):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(asdict(LockHolder.of_this_process())).encode())
        yield before
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _acquire_lock(path: Path, folder: Path) -> tuple[int, LockHolder | None]:
    """Take the lock; return it open, and whoever ended without giving it back."""
    while True:
        if not HAS_FILE_LOCKS:  # there an open file cannot be removed: one that can be is nobody's
            with contextlib.suppress(OSError):
                path.unlink()
        before = _read_holder(path)
        if before is None:
            _refuse_other_file(path)
        with translate_os_errors(path):
            handle = os.open(path, _OPEN_FLAGS, 0o666)
        try:
            alone = _try_lock(handle, before)
            if alone and _is_same_file(handle, path):
                return handle, before
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not alone:
            raise InUse(_describe_conflict(folder, _read_holder(path)))


def _refuse_other_file(path: Path) -> None:
    """Raise OutputExists for what has the name of a lock file and is none, nor half of one."""
    if not os.path.lexists(path):
        return
    is_lock = path.is_file() and not path.is_symlink()
    with contextlib.suppress(FileNotFoundError):  # it was given back meanwhile
        head = path.read_bytes()[: len(_LOCK_PREFIX)] if is_lock else b"?"
        if not _LOCK_PREFIX.startswith(head):
            raise OutputExists(
                f"{path} is not the lock file of a run; move it away, or choose another --name"
            )


def _try_lock(handle: int, previous_holder: LockHolder | None) -> bool:
    """Take the system's lock, or where there is none go by the process that wrote the file."""
    try:
        if HAS_FILE_LOCKS:
            acquire_lock(handle, wait=False)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return previous_holder is None or not _is_alive(previous_holder)


def _is_alive(holder: LockHolder) -> bool:
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


def _is_same_file(handle: int, path: Path) -> bool:
    """Tell whether the file still has its name: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _read_holder(path: Path) -> LockHolder | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_LOCK_BYTES:
            return None
        found: dict[str, Any] = json.loads(path.read_bytes())
        return LockHolder(int(found["pid"]), str(found["host"]), str(found["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe_conflict(folder: Path, holder: LockHolder | None) -> str:
    who = f"process {holder.pid} on {holder.host}, since {holder.since}" if holder else "somebody"
    return f"{folder}: another run is at work here ({who}); wait for it, or choose another --name"
