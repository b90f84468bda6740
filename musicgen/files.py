"""Files on disk: written whole or not at all, read only where they are regular files."""

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
except ImportError:  # an open file cannot be removed there, which serves as the lock
    fcntl = None  # type: ignore[assignment]

MAX_FILE_BYTES: Final = 256 * 2**20
MAX_NAME_BYTES: Final = 255  # bytes, on every system
_PARTIAL: Final = re.compile(
    r"\.(?P<name>.+)\.(?P<nonce>[0-9a-f]{8})(?P<seal>[0-9a-f]{8})\.partial"
)
_NO_HARD_LINK_ERRNOS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_NO_FOLDER_SYNC_ERRNOS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def is_file(path: Path) -> bool:
    """Tell whether a name stands for a regular file; one that no system can have does not."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file fails where a name is too long


def is_folder(path: Path) -> bool:
    """Tell whether a name stands for a folder; one that no system can have does not."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def is_plain_name(text: str) -> bool:
    """Tell whether a text can name a file or folder beside others, and is not a path."""
    return (
        0 < len(text.encode("utf-8", "surrogateescape")) <= MAX_NAME_BYTES
        and text.isprintable()
        and not text.startswith(".")
        and not {"/", "\\", ":"} & set(text)
    )


def write_atomically(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file so that its name only ever stands for all of its bytes.

    Raises OutputExists without force, NotFound for a missing folder, WriteFailed for the rest.
    """
    refuse_existing([path], force=force)
    partial = make_partial_path(path)
    try:
        with _create_locked_file(partial, data):  # locked until it has its name
            _publish(partial, path, force=force)
        _sync_folder(path.parent)
    except OSError as fault:
        raise _os_error_to_ours(fault, path, len(data)) from fault
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def create_folder_atomically(
    path: Path, *, may_replace: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield an empty folder to fill; it gets its name when the block ends well, else it goes.

    Args:
        path: the name.
        may_replace: whether a folder that has the name may go, once the new one is complete; None
            where no folder may.

    Raises OutputExists for anything else that has the name.
    """
    _refuse_one(path, force=may_replace is not None and may_replace(path))
    staging = make_partial_path(path)
    try:
        with translate_os_errors(path):
            staging.mkdir()
        with locked_folder(staging):
            with translate_os_errors(path):
                staging.mkdir(exist_ok=True)  # unless a sweep came before the lock, it is there
            yield staging
            with translate_os_errors(path):
                _publish_folder(staging, path, force=may_replace is not None and may_replace(path))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that its name never stands for a part of it."""
    going = make_partial_path(folder)
    with translate_os_errors(folder):
        folder.rename(going)
        _sync_folder(folder.parent)
    with contextlib.suppress(OSError):  # what is left of it is swept at the next start
        shutil.rmtree(going)


def rename_folder(folder: Path, name: Path) -> None:
    """Give a folder a name that nothing has, for good."""
    with translate_os_errors(name):
        refuse_existing([name])
        folder.rename(name)
        _sync_folder(name.parent)


def refuse_existing(paths: Iterable[Path], *, force: bool = False) -> None:
    """Raise OutputExists or NotFound for the first output that cannot be written."""
    named: set[Path] = set()
    for path in paths:
        if path in named:
            raise OutputExists(f"{path} is named twice; choose another name for one of them")
        named.add(path)
        if force and is_folder(path):
            raise OutputExists(f"{path} is a folder; choose another name")
        _refuse_one(path, force=force)


def prepare_outputs(paths: Iterable[Path], *, force: bool = False) -> None:
    """Refuse outputs as `refuse_existing` does; sweep what killed writers left beside them."""
    outputs = list(paths)
    refuse_existing(outputs, force=force)
    for folder in dict.fromkeys(path.parent for path in outputs):
        sweep_partials(folder)


def refuse_foreign(path: Path, head: bytes, what: str) -> None:
    """Raise OutputExists for an existing file that does not start as the program writes it."""
    if not os.path.lexists(path):
        return
    try:
        with open_regular_file(path, follow=False) as handle:
            is_own = _read(handle, len(head)) == head
    except MusicgenError:
        is_own = False
    if not is_own:
        raise OutputExists(f"{path} exists and is not {what}; move it away or choose another name")


def sweep_partials(folder: Path) -> int:
    """Remove what killed writers left in a folder; what is in use stays.

    Args:
        folder: where to look, itself only.

    Returns:
        The number of files and folders removed.
    """
    if not is_folder(folder):
        return 0
    try:
        with os.scandir(folder) as entries:
            strays = sorted(entry.name for entry in entries if is_partial(entry.name))
    except OSError:
        return 0
    return sum(sweep_unlocked(folder / name) for name in strays)


def is_partial(name: str) -> bool:
    """Tell whether a name is one that `partial_beside` makes."""
    match = _PARTIAL.fullmatch(name)
    return match is not None and match[3] == _name_checksum(match[1], match[2])


def read_regular_file(path: Path, *, limit: int = MAX_FILE_BYTES, follow: bool = True) -> bytes:
    """Read a regular file; links are followed only where the caller named the file itself.

    Raises NotFound where nothing is there, Refusal for what is no regular file or too large.
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
    """Open a regular file for a block, never waiting for one; it raises as `open_regular` does."""
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
    """Return the SHA-256 of a regular file, b"" where there is none that can be read.

    From the disk: what the system remembers of the file is not asked, where it can be told so.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return b""
            if from_disk and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = hashlib.sha256()
            while piece := file.read(2**16):
                found.update(piece)
            return found.digest()
    except (OSError, ValueError):
        return b""


def _refuse_one(path: Path, *, force: bool) -> None:
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
    """Return a name for an output that is not complete.

    Half of its number is a hash of the rest, so that a file of somebody else's has no such name.
    """
    name, nonce = path.name[:40], secrets.token_hex(4)
    return path.parent / f".{name}.{nonce}{_name_checksum(name, nonce)}.partial"


def _name_checksum(name: str, nonce: str) -> str:
    text = f"musicgen\0{name}\0{nonce}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:8]


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, such as one of a new folder's; raises OSError."""
    with _create_locked_file(path, data):
        pass


@contextlib.contextmanager
def _create_locked_file(path: Path, data: bytes) -> Iterator[None]:
    """Write a file that is not there yet, and hold its lock for a block."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o666)
    try:
        _lock(handle)
        if not os.path.lexists(path):  # a sweep came before the lock
            os.close(handle)
            handle = os.open(path, flags, 0o666)
            _lock(handle)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
        if fcntl is None:  # an open file gets no other name there
            os.close(handle)
            handle = -1
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _publish(partial: Path, path: Path, *, force: bool) -> None:
    """Give the finished file its name; without force the system itself refuses an existing one."""
    if force:
        partial.replace(path)
        return
    try:
        os.link(partial, path)
    except OSError as fault:
        if fault.errno not in _NO_HARD_LINK_ERRNOS:
            raise
        refuse_existing([path])  # no hard links here: the last look is as late as it can be
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
        refuse_existing([path])  # an empty folder would give way in silence
        staging.rename(path)
    _sync_folder(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last; some systems cannot, and say so."""
    try:
        _sync(folder)
    except OSError as fault:
        if fault.errno not in _NO_FOLDER_SYNC_ERRNOS:
            raise


def _lock(handle: int) -> None:
    """Show other programs that a partial file or folder is in use; wait for a sweep to end."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Show other programs for a block that a folder is in use."""
    if fcntl is None:
        yield
        return
    with translate_os_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        with contextlib.suppress(OSError):  # nothing was written through it
            os.close(handle)


def sweep_unlocked(path: Path) -> bool:
    """Remove a stray file or folder unless its lock is held; tell whether it is gone."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextlib.contextmanager
def translate_os_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn what the system says of an output, of so many bytes, into one of our errors."""
    try:
        yield
    except OSError as fault:
        raise _os_error_to_ours(fault, path, size) from fault


def _os_error_to_ours(fault: OSError, path: Path, size: int) -> MusicgenError:
    """Say in one line what a fault of the system means for an output."""
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
    pieces: list[bytes] = []
    while limit and (piece := os.read(handle, min(limit, 2**20))):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _invalid_path_error(fault: OSError | ValueError, path: Path) -> MusicgenError:
    """Say why there can be no file of a name."""
    if isinstance(fault, NotADirectoryError):
        return NotFound(f"{path}: there is no folder {path.parent}; make it first")
    words = os.strerror(fault.errno or errno.EIO) if isinstance(fault, OSError) else str(fault)
    return InvalidValue(f"{path}: {words}; choose another name")


def _open_error(fault: OSError | ValueError, path: Path) -> MusicgenError:
    if isinstance(fault, ValueError) or fault.errno == errno.ENAMETOOLONG:
        words = str(fault) if isinstance(fault, ValueError) else os.strerror(errno.ENAMETOOLONG)
        return NotFound(f"{path}: {words}; check the name")
    if isinstance(fault, FileNotFoundError | NotADirectoryError):
        return NotFound(f"{path} does not exist; check the name")
    if fault.errno == errno.ELOOP:
        return _not_regular_refusal(path, "a link")
    words = os.strerror(fault.errno or errno.EIO)
    return Refusal(f"{words}; it was left out", source=str(path), code="unreadable")


def _check_regular(status: os.stat_result, path: Path, limit: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular_refusal(
            path, "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        )
    if limit is not None and status.st_size > limit:
        raise _too_large_refusal(path, limit)


def _not_regular_refusal(path: Path, what: str) -> Refusal:
    return Refusal(
        f"it is {what}; only regular files are read", source=str(path), code="not-regular"
    )


def _too_large_refusal(path: Path, limit: int) -> Refusal:
    return Refusal(
        f"it is larger than {limit:,} bytes; it was left out", source=str(path), code="too-large"
    )
