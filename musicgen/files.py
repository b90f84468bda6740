"""Files on disk: atomic writes, refusal to overwrite, bounded reads, locks, SHA-256 hashes.

`write_atomically` and `create_folder_atomically` write to a hidden `.NAME.*.partial` beside the
target and rename it when it is complete. A partial file is locked while its writer runs, so that
`sweep_partials` removes only those that a killed process left behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from musicgen.errors import (
    InvalidValue,
    MusicgenError,
    NotFound,
    OutputExists,
    Refusal,
    WriteFailed,
)

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed: that serves as the lock
    fcntl = None  # type: ignore[assignment]

HAS_FILE_LOCKS: Final = fcntl is not None
MAX_FILE_BYTES: Final = 256 * 2**20
MAX_NAME_BYTES: Final = 255  # the limit of common file systems
_PARTIAL: Final = re.compile(
    r"\.(?P<name>.+)\.(?P<nonce>[0-9a-f]{8})(?P<seal>[0-9a-f]{8})\.partial"
)
_NO_HARD_LINK_ERRNOS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_NO_FOLDER_SYNC_ERRNOS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def is_file(path: Path) -> bool:
    """Tell whether a path is a regular file; False for a name that the system cannot have."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file fails where a name is too long


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; False for a name that the system cannot have."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def is_plain_name(text: str) -> bool:
    """Tell whether a text is a visible, printable file name without path separators."""
    return (
        0 < len(text.encode("utf-8", "surrogateescape")) <= MAX_NAME_BYTES
        and text.isprintable()
        and not text.startswith(".")
        and not {"/", "\\", ":"} & set(text)
    )


def write_atomically(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file through a temporary file and a rename, so that it is never seen incomplete.

    Args:
        path: the file to write.
        data: all of its bytes.
        force: replace an existing file.

    Raises:
        OutputExists: the file exists and `force` is false, or it is a folder.
        NotFound: its folder does not exist.
        WriteFailed: the system refused to write; an existing file is unchanged.
    """
    refuse_existing([path], force=force)
    partial = make_partial_path(path)
    try:
        with _create_locked_file(partial, data):  # locked until it is renamed
            _publish(partial, path, force=force)
        _sync_folder(path.parent)
    except OSError as fault:
        raise _output_error(fault, path, len(data)) from fault
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def create_folder_atomically(
    path: Path, *, may_replace: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield an empty folder to fill; rename it to `path` if the block succeeds, else remove it.

    Args:
        path: the final name.
        may_replace: decides whether an existing folder is replaced by the new one; None: never.

    Raises:
        OutputExists: the path exists and may not be replaced.
        NotFound: its parent folder does not exist.
        WriteFailed: the system refused to write.
    """
    _refuse_existing_path(path, force=may_replace is not None and may_replace(path))
    staging = make_partial_path(path)
    try:
        with translate_os_errors(path):
            staging.mkdir()
        with locked_folder(staging):
            with translate_os_errors(path):
                staging.mkdir(exist_ok=True)  # a sweep may have removed it before it was locked
            yield staging
            with translate_os_errors(path):
                _publish_folder(staging, path, force=may_replace is not None and may_replace(path))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; it is renamed first, so that it is never seen incomplete."""
    doomed = make_partial_path(folder)
    with translate_os_errors(folder):
        folder.rename(doomed)
        _sync_folder(folder.parent)
    with contextlib.suppress(OSError):  # the rest is swept at the next start
        shutil.rmtree(doomed)


def rename_folder(folder: Path, name: Path) -> None:
    """Rename a folder durably. Raises OutputExists if the new name is taken."""
    with translate_os_errors(name):
        refuse_existing([name])
        folder.rename(name)
        _sync_folder(name.parent)


def refuse_existing(paths: Iterable[Path], *, force: bool = False) -> None:
    """Check outputs before any work is done.

    Raises:
        OutputExists: an output exists and `force` is false, is a folder, or is named twice.
        NotFound: the folder of an output does not exist.
    """
    seen_paths: set[Path] = set()
    for path in paths:
        if path in seen_paths:
            raise OutputExists(f"{path} is named twice; choose another name for one of them")
        seen_paths.add(path)
        if force and is_folder(path):
            raise OutputExists(f"{path} is a folder; choose another name")
        _refuse_existing_path(path, force=force)


def prepare_outputs(paths: Iterable[Path], *, force: bool = False) -> None:
    """Check outputs like `refuse_existing`, then sweep partial files from their folders."""
    outputs = list(paths)
    refuse_existing(outputs, force=force)
    for folder in dict.fromkeys(path.parent for path in outputs):
        sweep_partials(folder)


def refuse_foreign(path: Path, head: bytes, what: str) -> None:
    """Check a file before it is replaced.

    Args:
        path: the file.
        head: the first bytes of a file that musicgen writes.
        what: its description, for the error message.

    Raises:
        OutputExists: the file exists and does not start with `head`.
    """
    if not os.path.lexists(path):
        return
    try:
        with open_regular_file(path, follow=False) as handle:
            starts_with_head = _read(handle, len(head)) == head
    except MusicgenError:
        starts_with_head = False
    if not starts_with_head:
        raise OutputExists(f"{path} exists and is not {what}; move it away or choose another name")


def sweep_partials(folder: Path) -> int:
    """Remove the partial files and folders that killed writers left; keep those in use.

    Args:
        folder: the folder to sweep, without its subfolders.

    Returns:
        The number of files and folders removed.
    """
    if not is_folder(folder):
        return 0
    try:
        with os.scandir(folder) as entries:
            partial_names = sorted(entry.name for entry in entries if is_partial(entry.name))
    except OSError:
        return 0
    return sum(sweep_unlocked(folder / name) for name in partial_names)


def is_partial(name: str) -> bool:
    """Tell whether `make_partial_path` made a name: its checksum is right."""
    match = _PARTIAL.fullmatch(name)
    return match is not None and match[3] == _name_checksum(match[1], match[2])


def read_regular_file(path: Path, *, limit: int = MAX_FILE_BYTES, follow: bool = True) -> bytes:
    """Read a regular file.

    Args:
        path: the file.
        limit: the largest size accepted, in bytes.
        follow: follow a symbolic link; only for a path that the user named.

    Raises:
        NotFound: there is no such file.
        Refusal: it is not a regular file, is too large, or cannot be read.
    """
    with open_regular_file(path, limit=limit, follow=follow) as handle:
        data = _read(handle, limit + 1)
    if len(data) > limit:
        raise _too_large_refusal(path, limit)
    return data


@contextlib.contextmanager
def open_regular_file(
    path: Path, *, limit: int | None = None, follow: bool = True
) -> Iterator[int]:
    """Yield the descriptor of a regular file, opened without blocking; raises like reading it."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        handle = os.open(path, flags)
    except (OSError, ValueError) as fault:
        raise _open_error(fault, path) from fault
    try:
        _check_regular(os.fstat(handle), path, limit)
        yield handle
    except OSError as fault:
        raise _open_error(fault, path) from fault
    finally:
        with contextlib.suppress(OSError):  # it was only read
            os.close(handle)


def hash_regular_file(path: Path, *, follow: bool = True, from_disk: bool = False) -> bytes:
    """Return the SHA-256 digest of a regular file, b"" if it cannot be read.

    Args:
        path: the file.
        follow: follow a symbolic link.
        from_disk: drop the system's cached pages first, where it can, to read the disk itself.
    """
    try:
        with (
            open_regular_file(path, follow=follow) as handle,
            os.fdopen(handle, "rb", closefd=False) as file,
        ):
            if from_disk and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            return hashlib.file_digest(file, "sha256").digest()
    except MusicgenError:
        return b""


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of data, in hex."""
    return hashlib.sha256(data).hexdigest()


def _refuse_existing_path(path: Path, *, force: bool) -> None:
    try:
        path.lstat()
    except FileNotFoundError:
        if is_folder(path.parent):
            return
        raise NotFound(f"{path}: there is no folder {path.parent}; make it first") from None
    except (OSError, ValueError) as fault:
        raise _invalid_path_error(fault, path) from fault
    if not force:
        raise OutputExists(f"{path} exists; choose another name or add --force")


def make_partial_path(path: Path) -> Path:
    """Return a fresh hidden name beside a path, for an output that is not complete.

    Half of its number is a checksum of the rest, by which `is_partial` tells it from other files.
    """
    name, nonce = path.name[:40], secrets.token_hex(4)
    return path.parent / f".{name}.{nonce}{_name_checksum(name, nonce)}.partial"


def _name_checksum(name: str, nonce: str) -> str:
    return sha256_hex(f"musicgen\0{name}\0{nonce}".encode("utf-8", "surrogateescape"))[:8]


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that does not exist yet. Raises OSError."""
    with _create_locked_file(path, data):
        pass


@contextlib.contextmanager
def _create_locked_file(path: Path, data: bytes) -> Iterator[None]:
    """Write and sync a file that does not exist yet; hold its lock for the block."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        _lock(handle)
        if not os.path.lexists(path):  # a sweep removed it before it was locked
            os.close(handle)
            handle = os.open(path, flags, 0o666)
            _lock(handle)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
        if not HAS_FILE_LOCKS:  # Windows cannot rename an open file
            os.close(handle)
            handle = -1
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _publish(partial: Path, path: Path, *, force: bool) -> None:
    """Rename a complete file; without force, let the system refuse an existing target."""
    if force:
        partial.replace(path)
        return
    try:
        os.link(partial, path)
    except OSError as fault:
        if fault.errno not in _NO_HARD_LINK_ERRNOS:
            raise
        refuse_existing([path])  # no hard links here: check as late as possible
        partial.rename(path)


def _publish_folder(staging: Path, path: Path, *, force: bool) -> None:
    for file in staging.iterdir():
        _sync(file)
    _sync_folder(staging)
    if force and path.is_dir():
        old = make_partial_path(path)
        path.rename(old)
        staging.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        refuse_existing([path])  # rename would replace an empty folder silently
        staging.rename(path)
    _sync_folder(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Sync the entries of a folder; some systems cannot, and say so."""
    try:
        _sync(folder)
    except OSError as fault:
        if fault.errno not in _NO_FOLDER_SYNC_ERRNOS:
            raise


def _lock(handle: int) -> None:
    """Mark a partial file or folder as in use, where the file system has locks."""
    with contextlib.suppress(OSError):
        acquire_lock(handle, wait=True)


def acquire_lock(handle: int, *, wait: bool) -> None:
    """Take the exclusive lock of an open file or folder, until it is closed or the process ends.

    Nothing happens where the system has no such locks (HAS_FILE_LOCKS is false).

    Args:
        handle: its descriptor.
        wait: wait while another process holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder for the block."""
    if not HAS_FILE_LOCKS:
        yield
        return
    with translate_os_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        with contextlib.suppress(OSError):  # nothing was written through this handle
            os.close(handle)


def sweep_unlocked(path: Path) -> bool:
    """Remove a file or folder unless its lock is held; tell whether it was removed."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return False
    try:
        acquire_lock(handle, wait=False)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextlib.contextmanager
def translate_os_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an OSError of the block into one of our errors about an output of `size` bytes."""
    try:
        yield
    except OSError as fault:
        raise _output_error(fault, path, size) from fault


def _output_error(fault: OSError, path: Path, size: int) -> MusicgenError:
    """Say in one line why an output was not written."""
    if isinstance(fault, FileExistsError) or fault.errno == errno.ENOTEMPTY:
        return OutputExists(f"{path} exists; choose another name or add --force")
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{path}: there is no folder {path.parent}; make it first")
    if fault.errno == errno.ENAMETOOLONG:
        return _invalid_path_error(fault, path)
    needed = f" ({size:,} bytes are needed)" if size else ""
    return WriteFailed(
        f"{path} was not written: {os.strerror(fault.errno or errno.EIO)}{needed};"
        " free some space, check the rights of the folder or choose another place"
    )


def _read(handle: int, limit: int) -> bytes:
    """Read up to limit bytes."""
    chunks: list[bytes] = []
    while limit and (chunk := os.read(handle, min(limit, 2**20))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)


def _invalid_path_error(fault: OSError | ValueError, path: Path) -> MusicgenError:
    """Say why the system rejects a file name."""
    if isinstance(fault, NotADirectoryError):
        return NotFound(f"{path}: there is no folder {path.parent}; make it first")
    reason = os.strerror(fault.errno or errno.EIO) if isinstance(fault, OSError) else str(fault)
    return InvalidValue(f"{path}: {reason}; choose another name")


def _open_error(fault: OSError | ValueError, path: Path) -> MusicgenError:
    if isinstance(fault, ValueError) or fault.errno == errno.ENAMETOOLONG:
        reason = str(fault) if isinstance(fault, ValueError) else os.strerror(errno.ENAMETOOLONG)
        return NotFound(f"{path}: {reason}; check the name")
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{path} does not exist; check the name")
    if fault.errno == errno.ELOOP:
        return _not_regular_refusal(path, "a link")
    reason = os.strerror(fault.errno or errno.EIO)
    return Refusal(f"{reason}; it was left out", source=str(path), code="unreadable")


def _check_regular(status: os.stat_result, path: Path, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular_refusal(
            path, "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        )
    if limit is not None and status.st_size > limit:
        raise _too_large_refusal(path, limit)


def _not_regular_refusal(path: Path, kind: str) -> Refusal:
    return Refusal(
        f"it is {kind}; only regular files are read", source=str(path), code="not-regular"
    )


def _too_large_refusal(path: Path, limit: int) -> Refusal:
    return Refusal(
        f"it is larger than {limit:,} bytes; it was left out", source=str(path), code="too-large"
    )
