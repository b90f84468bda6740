"""Read archives of tunes in place: member by member, never unpacked to disk.

A member name is only a label, never a path. The unpacked size of each member and of the whole
archive is bounded, so that an archive bomb costs only itself. Nested archives are not entered.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from musicgen.errors import Refusal, escape_unprintable
from musicgen.files import open_regular_file
from musicgen.formats import max_bytes_of

ARCHIVE_SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS: Final = 250_000
MAX_UNPACKED_BYTES: Final = 8 * 2**30
MAX_RATIO: Final = 200  # unpacked to packed, of the whole archive
RATIO_EXEMPT_BYTES: Final = 64 * 2**20  # unpacked bytes below which the ratio is not checked
_CHUNK_BYTES: Final = 2**20
_BUFFER_BYTES: Final = 2**16
_MACOS_FOLDER: Final = "__MACOSX/"  # resource forks that macOS adds for each file
_UNPACKERS: Final[dict[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".tgz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, or a member of an archive, that is read on its own."""

    name: str
    number: int  # index in the archive; 0 for a plain file
    read: Callable[[], bytes] | None  # raises Refusal or NotFound; None: not a tune file

    @property
    def suffix(self) -> str:
        """The suffix, which selects the reader."""
        return PurePosixPath(self.name).suffix


def is_archive(name: str) -> bool:
    """Tell by its suffix whether a file is an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def iter_members(
    path: Path, name: str, suffixes: Collection[str], *, only: str = "*", follow: bool = True
) -> Iterator[FileEntry]:
    """Yield the members of an archive; read each before requesting the next.

    Args:
        path: the archive.
        name: its display name, the prefix of the members' names.
        suffixes: of tune files.
        only: pattern of the member names to read.
        follow: follow a symbolic link.

    Raises:
        Refusal: the archive is truncated, damaged or exceeds a limit.
    """
    with (
        open_regular_file(path, follow=follow) as handle,
        _translate_archive_errors(),
        os.fdopen(handle, "rb", closefd=False) as file,
    ):
        limit = _UnpackLimit(os.fstat(handle).st_size)
        is_zip = path.suffix.lower() == ".zip"
        members = _iter_zip(file, limit) if is_zip else _iter_tar(file, path.name, limit)
        for number, member in enumerate(members):
            limit.check_member_count(number)
            yield member.to_entry(
                f"{name}/{escape_unprintable(member.name)}", number, suffixes, only
            )


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an archive of either kind."""

    name: str
    size: int  # unpacked bytes, as the archive declares
    fault: Refusal | None  # why it is not read
    unpack: Callable[[int], bytes]  # unpacks up to a number of bytes

    def to_entry(self, name: str, number: int, suffixes: Collection[str], only: str) -> FileEntry:
        base_name = PurePosixPath(self.name).name
        is_tune = PurePosixPath(base_name).suffix.lower() in suffixes and fnmatch(base_name, only)
        if self.name.startswith(_MACOS_FOLDER) or not (is_tune or is_archive(base_name)):
            return FileEntry(name, number, None)
        return FileEntry(name, number, self._read)

    def _read(self) -> bytes:
        limit = max_bytes_of(PurePosixPath(self.name).suffix)
        if self.fault is not None:
            raise self.fault
        if is_archive(self.name):
            raise _make_refusal("it is an archive inside an archive: unpack it", "format")
        if self.size > limit:
            raise _make_refusal(f"it is larger than {limit:,} bytes", "too-large")
        data = self.unpack(limit + 1)
        if len(data) != self.size:
            raise _make_refusal(f"it holds {len(data):,} bytes, not {self.size:,}", "truncated")
        return data


class _UnpackLimit:
    """The limits on members and unpacked bytes of one archive, and the bytes so far."""

    def __init__(self, packed_bytes: int) -> None:
        self._max_bytes = min(MAX_UNPACKED_BYTES, max(RATIO_EXEMPT_BYTES, MAX_RATIO * packed_bytes))
        self._unpacked_bytes = 0

    def check_member_count(self, members: int) -> None:
        """Raise Refusal for too many members."""
        if members >= MAX_MEMBERS:
            raise _make_refusal(f"it has over {MAX_MEMBERS:,} members; split it", "too-large")

    def add_unpacked(self, data: bytes) -> bytes:
        """Count unpacked bytes and return them. Raises Refusal for too many."""
        self._unpacked_bytes += len(data)
        if self._unpacked_bytes > self._max_bytes:
            fault = f"it unpacks to more than {self._max_bytes:,} bytes; unpack it yourself"
            raise _make_refusal(fault, "too-large")
        return data


def _iter_zip(file: IO[bytes], limit: _UnpackLimit) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        limit.check_member_count(len(infos) - 1)
        overlapping_ids = _find_overlapping(infos)
        for info in infos:
            fault = _find_zip_fault(info, overlaps=id(info) in overlapping_ids)
            yield _Member(
                info.filename, info.file_size, fault, _make_zip_reader(archive, info, limit)
            )


def _make_zip_reader(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, unpack_limit: _UnpackLimit
) -> Callable[[int], bytes]:
    def unpack(limit: int) -> bytes:
        with _translate_archive_errors(), archive.open(info) as member:
            return unpack_limit.add_unpacked(member.read(limit))

    return unpack


def _find_zip_fault(info: zipfile.ZipInfo, *, overlaps: bool) -> Refusal | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return _make_refusal("it is a link or device; only regular files are read", "not-regular")
    if info.flag_bits & 1:
        return _make_refusal("it is encrypted: unpack it with its password", "unreadable")
    if overlaps:
        return _make_refusal("it shares its bytes with another member", "damaged")
    return None


def _find_overlapping(zip_infos: Collection[zipfile.ZipInfo]) -> set[int]:
    """Return the ids of members that share bytes: so a small archive could hold terabytes."""
    ordered = sorted(zip_infos, key=lambda info: info.header_offset)
    return {
        id(info)
        for first, second in pairwise(ordered)
        if first.header_offset + 30 + first.compress_size > second.header_offset
        for info in (first, second)
    }


def _iter_tar(file: IO[bytes], name: str, limit: _UnpackLimit) -> Iterator[_Member]:
    unpacker = _UNPACKERS.get(PurePosixPath(name.lower()).suffix)
    stream: Any = _LimitedStream(unpacker(file) if unpacker else file, limit)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER_BYTES, tarinfo=_TarHeader) as tar:
        archive: Any = tar  # `members` is not in the type stubs
        while (info := archive.next()) is not None:
            archive.members.clear()  # else it accumulates all members
            if not info.isdir():
                fault = None if info.isreg() else _make_refusal(_NOT_REGULAR, "not-regular")
                yield _Member(info.name, info.size, fault, _make_tar_reader(archive, info))


class _TarHeader(tarfile.TarInfo):
    """A member header; a damaged one is refused, where tarfile would end the archive silently."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarHeader:
        """Parse a header. Raises Refusal if it is damaged."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as fault:
            if len(buf) in (0, tarfile.BLOCKSIZE) and not any(buf):
                raise  # the end of the archive
            raise _make_refusal(
                f"it is damaged between two members ({fault})", "damaged"
            ) from fault


_NOT_REGULAR: Final = "it is a link, a device or a pipe; only regular files are read"


def _make_tar_reader(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[int], bytes]:
    def unpack(limit: int) -> bytes:
        with _translate_archive_errors():
            member = archive.extractfile(info)
            return member.read(limit) if member is not None else b""

    return unpack


class _LimitedStream:
    """A stream that counts the unpacked bytes."""

    def __init__(self, file: Any, limit: _UnpackLimit) -> None:
        self._file = file
        self._limit = limit
        self._has_ended = False

    def read(self, size: int) -> bytes:
        """Read up to one chunk. Raises EOFError at the second read past the end."""
        data = self._limit.add_unpacked(self._file.read(min(size, _CHUNK_BYTES)))
        if not data and self._has_ended:  # else tarfile would seek to a forged size for hours
            raise EOFError
        self._has_ended = not data
        return data


@contextmanager
def _translate_archive_errors() -> Iterator[None]:
    """Turn the exceptions of the archive libraries into a Refusal."""
    try:
        yield
    except (MemoryError, Refusal):
        raise
    except EOFError as fault:
        raise _make_refusal("it ends too soon", "truncated") from fault
    except NotImplementedError as fault:
        raise _make_refusal(
            f"its compression method is not supported ({fault})", "format"
        ) from fault
    except Exception as fault:
        reason = f"it is damaged or not such an archive ({escape_unprintable(str(fault))[:80]})"
        raise _make_refusal(reason, "damaged") from fault


def _make_refusal(fault: str, code: str) -> Refusal:
    return Refusal(f"{fault}; it was left out", code=code)
