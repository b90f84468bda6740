"""The folder of a training run: its lock, the previous run, saved progress and metrics.

    checkpoints/
    ├── mine/                        the run
    │   ├── metrics.jsonl            see `read_metrics`
    │   └── progress/00000240/       one of the last three saved states, named by its update
    │       ├── arrays.safetensors   weights, moments, recurrent states, generators, best weights
    │       ├── values.json          all other values
    │       └── manifest.json        the SHA-256 of both, and of itself
    ├── .mine.lock                   the process that trains there
    └── .mine.old/                   the previous `mine`, until the new one has saved a checkpoint

The lock is an advisory lock of the operating system on an open file, which ends with its process.
On file systems without such locks, the process id in the file decides. An old state is removed only
after the new one has been read back and its hashes match. If a state is damaged, the previous one
is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
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
    NotFound,
    OutputExists,
    WriteFailed,
    is_short_of_memory,
)
from musicgen.files import (
    HAS_FILE_LOCKS,
    acquire_lock,
    create_folder_atomically,
    hash_regular_file,
    read_regular_file,
    remove_folder,
    rename_folder,
    sha256_hex,
    sweep_partials,
    translate_os_errors,
    write_new,
)
from musicgen.folder_contents import (
    MANIFEST,
    METRICS,
    has_manifest,
    is_run_folder,
    is_step_folder,
    refuse_foreign_run,
)

AnyArray: TypeAlias = NDArray[Any]
Arrays: TypeAlias = dict[str, AnyArray]

FORMAT: Final = 3  # 2 had the states of several threads, and windows with two tunes in a lane
KEPT_SAVES: Final = 3
PROGRESS_FOLDER: Final = "progress"
ARRAYS_FILE: Final = "arrays.safetensors"
VALUES_FILE: Final = "values.json"


@dataclass(frozen=True, eq=False)
class SavedProgress:
    """The state of a run between two updates."""

    arrays: Arrays  # as in TrainerState
    values: dict[str, Any]  # JSON values
    folder: Path


def save_progress(
    run: Path, step: int, arrays: Mapping[str, AnyArray], values: Mapping[str, Any]
) -> Path:
    """Save the progress of a run, read it back, and remove the oldest saved state.

    Args:
        run: the folder of the run.
        step: number of the update.
        arrays: by name, of any shape (...) and any dtype.
        values: JSON values.

    Returns:
        The folder of the saved state.

    Raises:
        WriteFailed: the files cannot be written, or differ when they are read back.
        MusicgenError: an array is not finite; nothing was saved.
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


def check_finite(arrays: Mapping[str, AnyArray], step: int) -> None:
    """Check that no array contains infinity or NaN.

    Args:
        arrays: by name, of any shape (...) and any dtype.
        step: number of the update, for the message.

    Raises:
        MusicgenError: an array is not finite.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MusicgenError(
                f"update {step}: {name} is no longer finite and was not saved; the progress saved"
                " before is intact. Continue from there with --resume and a lower --learning-rate"
            )


def prepare_step_path(parent: Path, step: int) -> Path:
    """Return the folder for an update, after removing a damaged state of the same update.

    Raises:
        OutputExists: something else has the name of the folder.
    """
    with translate_os_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{step:08d}"
    if is_step_folder(folder):
        remove_folder(folder)
    elif os.path.lexists(folder):
        raise OutputExists(f"{folder} is not a saved state of the run; move it away")
    return folder


def prune_saves(newest: Path, kept_count: int, format_number: int) -> None:
    """Verify the newest saved state on disk, then remove all but the last `kept_count` states."""
    verify_files(newest, format_number)
    step = int(newest.name)
    other_folders = [
        folder
        for folder in list_numbered_folders(newest.parent)
        if folder != newest and is_step_folder(folder)
    ]
    older = [folder for folder in other_folders if int(folder.name) < step]
    kept_folders = older[max(0, len(older) - kept_count + 1) :]
    for folder in other_folders:
        if folder not in kept_folders:
            remove_folder(folder)


def verify_files(folder: Path, format_number: int) -> None:
    """Compare all files on disk with the hashes of their manifest.

    Raises:
        WriteFailed: a file differs or cannot be read.
    """
    hashes: dict[str, str] = {}
    with contextlib.suppress(DamagedCheckpoint):
        hashes = read_manifest(folder, format_number)["sha256"]
    matches = (
        hash_regular_file(folder / name, from_disk=True).hex() == hashes[name] for name in hashes
    )
    if not hashes or not all(matches):
        raise WriteFailed(
            f"{folder}: the files read back differ from those written; the progress saved before is"
            " intact. The disk may be failing: copy the run to another disk and use --resume there"
        )


def load_progress(folder: Path) -> SavedProgress:
    """Load one saved state.

    Raises:
        DamagedCheckpoint: a file is missing or damaged.
        Mismatch: the format is that of another version.
    """
    advice = f"start a new run from its weights with --from {folder.parents[1]}"
    body = read_manifest(folder, FORMAT, advice)
    contents = read_files(folder, body, ARRAYS_FILE, VALUES_FILE)
    try:
        values = json.loads(contents[VALUES_FILE])
        return SavedProgress(parse_arrays(contents[ARRAYS_FILE]), values, folder)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise damage_error(folder, f"its contents do not fit ({error})") from error


def load_latest_progress(run: Path) -> tuple[SavedProgress | None, list[str]]:
    """Load the last intact state, and describe each later one that is damaged, one per line.

    Raises:
        DamagedCheckpoint: all saved states are damaged.
        Mismatch: the format is that of another version.
    """
    faults: list[str] = []
    for folder in reversed(list_numbered_folders(run / PROGRESS_FOLDER)):
        try:
            return load_progress(folder), faults
        except DamagedCheckpoint as error:
            faults.append(str(error).removesuffix(f"; {REMEDY}"))
    if faults:
        raise DamagedCheckpoint(
            f"{faults[0]}; no other saved progress is intact: begin again with --force"
        )
    return None, []


def remove_partial_files(run: Path) -> int:
    """Remove the partial files of killed processes from a locked run, and return their number."""
    folders = [path for path in run.iterdir() if path.is_dir()] if run.is_dir() else []
    return sum(sweep_partials(folder) for folder in (*folders, run))


def _to_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, sort_keys=True).encode()


def render_metrics(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Render rows as the content of metrics.jsonl."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the rows of metrics.jsonl in the order of their steps; the last row of a step counts.

    A truncated line, as a killed process may leave it, is skipped.

    Raises:
        NotFound: there is no file, or no complete line in it.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in read_regular_file(run / METRICS).splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    if not rows:
        raise NotFound(f"{run / METRICS} has no metrics yet; train for some updates first")
    return [rows[step] for step in sorted(rows)]


_OPEN_FLAGS: Final = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
)
_MAX_LOCK_BYTES: Final = 1024
_LOCK_PREFIX: Final = b'{"pid": '  # the first bytes of each lock file


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The process that holds a lock."""

    pid: int
    host: str
    since: str  # local time

    @classmethod
    def of_this_process(cls) -> LockHolder:
        """Return the current process."""
        return cls(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))


@dataclass
class RunLock:
    """A locked run folder."""

    folder: Path
    previous_holder: LockHolder | None = None  # a killed process that held the lock before
    has_moved_previous: bool = False  # whether the previous run has been moved aside
    has_made_folder: bool = False

    def create_folder(self, *, force: bool = False) -> None:
        """Create the folder; with force, first move the existing run aside."""
        if force and os.path.lexists(self.folder):
            refuse_foreign_run(self.folder)
            rename_folder(self.folder, previous_run_path(self.folder))
            self.has_moved_previous = True
        self.has_made_folder = not self.folder.exists()
        with translate_os_errors(self.folder):
            self.folder.mkdir(exist_ok=True)

    def discard_previous(self) -> None:
        """Remove the previous run, once the new one has saved progress."""
        if self.has_moved_previous:
            remove_folder(previous_run_path(self.folder))
        self.has_moved_previous = self.has_made_folder = False

    def clean_up(self) -> None:
        """Undo `create_folder`, unless progress has been saved."""
        if self.has_made_folder and not has_saved_state(self.folder) and is_run_folder(self.folder):
            remove_folder(self.folder)
        restore_previous(self.folder)


@contextlib.contextmanager
def lock_run(folder: Path, *, exists: bool = False, force: bool = False) -> Iterator[RunLock]:
    """Lock the folder of a run, and clean up after killed processes.

    Args:
        folder: of the run.
        exists: whether the run may exist.
        force: whether an existing run may be replaced.

    Raises:
        InUse: another process trains there.
        OutputExists: the run exists, or the folder is not that of a run.
    """
    is_new_parent = not folder.parent.exists()
    with translate_os_errors(folder.parent):
        folder.parent.mkdir(exist_ok=True)
    try:
        with _hold_lock_file(folder) as previous_holder:
            lock = RunLock(folder, previous_holder)
            sweep_partials(folder.parent)
            restore_previous(folder)
            remove_partial_files(folder)
            _refuse_other(folder, exists=exists or force, force=force)
            try:
                with translate_memory_errors(folder):
                    yield lock
            finally:
                lock.clean_up()
    finally:
        if is_new_parent:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


@contextlib.contextmanager
def translate_memory_errors(folder: Path) -> Iterator[None]:
    """Turn any out-of-memory error into a MusicgenError with a one-line message.

    Raises:
        MusicgenError: out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        if not is_short_of_memory(error):
            raise
        raise MusicgenError(
            f"{folder}: not enough memory; the saved progress is intact. Free some memory and use"
            " --resume, or train with a smaller --batch, --bptt or --hidden"
        ) from error


def _refuse_other(folder: Path, *, exists: bool, force: bool) -> None:
    """Raise OutputExists for a folder that may not be resumed or replaced."""
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
    """Tell whether a run has saved a checkpoint or progress."""
    folders = (
        *list_numbered_folders(run / BEST),
        *list_numbered_folders(run / PROGRESS_FOLDER),
        run,
    )
    return any(map(has_manifest, folders))


def restore_previous(folder: Path) -> None:
    """Restore a run that was moved aside, or remove it if its successor has saved progress.

    Raises:
        OutputExists: one of the two folders is not that of a run.
    """
    previous = previous_run_path(folder)
    if not os.path.lexists(previous):
        return
    refuse_foreign_run(previous)
    if has_saved_state(folder):
        remove_folder(previous)
        return
    if os.path.lexists(folder):
        refuse_foreign_run(folder)
        remove_folder(folder)
    rename_folder(previous, folder)


@contextlib.contextmanager
def _hold_lock_file(folder: Path) -> Iterator[LockHolder | None]:
    path = folder.parent / f".{folder.name}.lock"
    handle, previous_holder = _acquire_lock(path, folder)
    try:
        with translate_os_errors(path):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(asdict(LockHolder.of_this_process())).encode())
        yield previous_holder
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _acquire_lock(path: Path, folder: Path) -> tuple[int, LockHolder | None]:
    """Take the lock; return its open file and the killed process that held it before, if any."""
    while True:
        if not HAS_FILE_LOCKS:  # Windows: a file that can be removed is not open, so not locked
            with contextlib.suppress(OSError):
                path.unlink()
        previous_holder = _read_holder(path)
        if previous_holder is None:
            _refuse_other_file(path)
        with translate_os_errors(path):
            handle = os.open(path, _OPEN_FLAGS, 0o666)
        try:
            is_held = _try_lock(handle, previous_holder)
            if is_held and _is_same_file(handle, path):
                return handle, previous_holder
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not is_held:
            raise InUse(_describe_conflict(folder, _read_holder(path)))


def _refuse_other_file(path: Path) -> None:
    """Raise OutputExists for a file that is not a lock file, complete or truncated."""
    if not os.path.lexists(path):
        return
    is_lock = path.is_file() and not path.is_symlink()
    with contextlib.suppress(FileNotFoundError):  # the lock was just released
        start = path.read_bytes()[: len(_LOCK_PREFIX)] if is_lock else b"?"
        if not _LOCK_PREFIX.startswith(start):
            raise OutputExists(
                f"{path} is not the lock file of a run; move it away, or choose another --name"
            )


def _try_lock(handle: int, previous_holder: LockHolder | None) -> bool:
    """Take the lock of the system; without locks, check the process that wrote the file."""
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
    """Tell whether a process may be alive; one on another machine is assumed to be."""
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
    """Tell whether a path still names an open file, which its last holder may have removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _read_holder(path: Path) -> LockHolder | None:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_LOCK_BYTES:
            return None
        content: dict[str, Any] = json.loads(path.read_bytes())
        return LockHolder(int(content["pid"]), str(content["host"]), str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describe_conflict(folder: Path, holder: LockHolder | None) -> str:
    process = (
        f"process {holder.pid} on {holder.host}, since {holder.since}"
        if holder
        else "an unknown process"
    )
    return (
        f"{folder}: another run is at work here ({process}); wait for it, or choose another --name"
    )
