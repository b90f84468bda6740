"""Archives of tunes, read in place: one member after the other, never unpacked to the disk.

A member's name is a name and no path. What a member or the whole archive may hold is bounded, so
that one which expands without end costs itself; archives inside of archives are not entered.
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
RATIO_EXEMPT_BYTES: Final = 64 * 2**20  # for which no ratio is asked
_CHUNK_BYTES: Final = 2**20
_BUFFER: Final = 2**16
_MACOS_FOLDER: Final = "__MACOSX/"  # what one system's archiver adds to every file
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
    number: int  # in the archive; a file by itself is 0
    read: Callable[[], bytes] | None  # raises Refusal or NotFound; None: it is no tune

    @property
    def suffix(self) -> str:
        """Its suffix, by which a reader is chosen."""
        return PurePosixPath(self.name).suffix


def is_archive(name: str) -> bool:
    """Tell by its suffix whether a file is an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def iter_members(
    path: Path, name: str, suffixes: Collection[str], *, only: str = "*", follow: bool = True
) -> Iterator[FileEntry]:
    """Yield the members of an archive, each to be read before the next is asked for.

    Raises Refusal where the archive itself ends, is damaged or goes past a bound.
    """
    with (
        open_regular_file(path, follow=follow) as handle,
        _translate_archive_errors(),
        os.fdopen(handle, "rb", closefd=False) as file,
    ):
        bound = _UnpackLimit(os.fstat(handle).st_size)
        found = _iter_zip(file, bound) if _is_zip(path) else _iter_tar(file, path.name, bound)
        for number, member in enumerate(found):
            bound.check_member_count(number)
            yield member.to_entry(
                f"{name}/{escape_unprintable(member.name)}", number, suffixes, only
            )


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


@dataclass(frozen=True, slots=True)
class _Member:
    """What is the same for members of all archives."""

    name: str
    size: int  # as the archive says
    fault: Refusal | None  # why it is not read
    unpack: Callable[[int], bytes]  # up to so many bytes

    def to_entry(self, name: str, number: int, suffixes: Collection[str], only: str) -> FileEntry:
        last = PurePosixPath(self.name).name
        is_tune = PurePosixPath(last).suffix.lower() in suffixes and fnmatch(last, only)
        if self.name.startswith(_MACOS_FOLDER) or not (is_tune or is_archive(last)):
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
    """How much an archive may unpack to."""

    def __init__(self, packed: int) -> None:
        self._most = min(MAX_UNPACKED_BYTES, max(RATIO_EXEMPT_BYTES, MAX_RATIO * packed))
        self._unpacked = 0

    def check_member_count(self, members: int) -> None:
        """Count members. Raises Refusal past the most."""
        if members >= MAX_MEMBERS:
            raise _make_refusal(f"it has over {MAX_MEMBERS:,} members; split it", "too-large")

    def add_unpacked(self, data: bytes) -> bytes:
        """Count unpacked bytes. Raises Refusal past the most."""
        self._unpacked += len(data)
        if self._unpacked > self._most:
            words = f"it unpacks to more than {self._most:,} bytes; unpack it yourself"
            raise _make_refusal(words, "too-large")
        return data


def _iter_zip(file: IO[bytes], limit: _UnpackLimit) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        found = [info for info in archive.infolist() if not info.is_dir()]
        limit.check_member_count(len(found) - 1)
        overlapping = _find_overlapping(found)
        for info in found:
            fault = _find_zip_fault(info, overlaps=id(info) in overlapping)
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
    """Return the members that reach into the next: a small archive can hold terabytes so."""
    ordered = sorted(zip_infos, key=lambda info: info.header_offset)
    return {
        id(member)
        for one, other in pairwise(ordered)
        if one.header_offset + 30 + one.compress_size > other.header_offset
        for member in (one, other)
    }


def _iter_tar(file: IO[bytes], name: str, limit: _UnpackLimit) -> Iterator[_Member]:
    unpacker = _UNPACKERS.get(PurePosixPath(name.lower()).suffix)
    stream: Any = _LimitedStream(unpacker(file) if unpacker else file, limit)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER, tarinfo=_Header) as opened:
        archive: Any = opened  # whose list of members is not among its published names
        while (info := archive.next()) is not None:
            archive.members.clear()  # else it keeps them all
            if not info.isdir():
                fault = None if info.isreg() else _make_refusal(_NOT_REGULAR, "not-regular")
                yield _Member(info.name, info.size, fault, _make_tar_reader(archive, info))


class _Header(tarfile.TarInfo):
    """A member's header; a damaged one is no silent end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Read a header. Raises Refusal."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as fault:
            if len(buf) in (0, tarfile.BLOCKSIZE) and not any(buf):
                raise  # the end
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
    """A stream that counts what is unpacked."""

    def __init__(self, file: Any, limit: _UnpackLimit) -> None:
        self._file = file
        self._bound = limit
        self._ended = False

    def read(self, size: int) -> bytes:
        """Read some bytes, no more than a piece at a time. Raises EOFError past the end."""
        data = self._bound.add_unpacked(self._file.read(min(size, _CHUNK_BYTES)))
        if not data and self._ended:  # else a lying size is sought for hours
            raise EOFError
        self._ended = not data
        return data


@contextmanager
def _translate_archive_errors() -> Iterator[None]:
    """Turn what the libraries raise on damaged archives into a Refusal."""
    try:
        yield
    except (MemoryError, Refusal):
        raise
    except EOFError as fault:
        raise _make_refusal("it ends too soon", "truncated") from fault
    except NotImplementedError as fault:
        raise _make_refusal(
            f"it is packed in a way that is not read ({fault})", "format"
        ) from fault
    except Exception as fault:
        words = f"it is no such archive, or damaged ({escape_unprintable(str(fault))[:80]})"
        raise _make_refusal(words, "damaged") from fault


def _make_refusal(words: str, code: str) -> Refusal:
    return Refusal(f"{words}; it was left out", code=code)
