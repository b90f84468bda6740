"""Saved tunes: MIDI files with their recipes, in one folder.

A file is named after the id of its tune, which is the hash of the recipe, so no name in a request
or a tune becomes a path. A file counts as a saved tune only if both its name and its notes match
the recipe in it. All other files of the folder, such as copies and edited tunes, belong to the user
and are neither listed nor replaced nor deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from musicgen.errors import MusicgenError, OutputExists
from musicgen.files import read_regular_file, write_atomically
from musicgen.web.worker_process import HttpError, WorkerUnavailable

MAX_BYTES: Final = 2**20  # of a file
MAX_FILES: Final = 1000
BATCH_SIZE: Final = 40  # files per request to a worker
TOO_MANY_REQUESTS: Final = 429  # HTTP status
MAX_NAMES: Final = 99  # file names to try for a tune
_FILE_NAME: Final = re.compile(r"([0-9a-f]{16})(?:-[1-9][0-9]?)?\.mid")
DescribeFiles: TypeAlias = Callable[[list[bytes]], Awaitable[list[dict[str, Any] | None]]]
_FileStamp: TypeAlias = tuple[int, int, int]  # inode, modification time in ns, size in bytes
_FileKey: TypeAlias = tuple[str, _FileStamp]  # name, stamp


@dataclass(frozen=True, slots=True)
class SavedTune:
    """One saved tune."""

    id: str
    title: str
    key: str
    meter: str
    bars: int  # 0: no bars
    seconds: float
    when: float  # time of saving, in seconds since 1970
    name: str  # file name

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a `SavedTuneResponse`: all except the file name."""
        fields = asdict(self)
        del fields["name"]
        return fields


@dataclass
class SavedTunes:
    """A folder of saved tunes, and a table of its files.

    Args:
        folder: the folder, which is created when a tune is saved.
        describe: returns the description of the tune in each file, or None; a worker does this,
            since files may be hostile.
    """

    folder: Path
    describe: DescribeFiles
    _entries: dict[_FileKey, SavedTune | None] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one scan or change at a time

    async def list_tunes(self) -> list[SavedTune]:
        """Scan the folder, and return the saved tunes, the latest first; read only new files."""
        async with self._lock:
            await self._refresh()
        return self.get_cached_tunes()

    def get_cached_tunes(self) -> list[SavedTune]:
        """Return the saved tunes as of the last scan, the latest first; copies are listed once."""
        entries = sorted(filter(None, self._entries.values()), key=lambda entry: -entry.when)
        return list({entry.id: entry for entry in reversed(entries)}.values())[::-1]

    async def _refresh(self) -> None:
        present = dict(await asyncio.to_thread(self._scan_folder))
        self._entries = {
            key: entry for key, entry in self._entries.items() if key in present.items()
        }
        new_keys = [key for key in present.items() if key not in self._entries]
        for start in range(0, len(new_keys), BATCH_SIZE):
            await self._describe_new(new_keys[start : start + BATCH_SIZE])

    async def has(self, id_: str) -> bool:
        """Tell whether a tune was saved as of the last scan, and its file still exists."""
        return await self._find_path(id_) is not None

    async def read(self, id_: str) -> bytes | None:
        """Return the bytes of a tune's file, or None."""
        path = await self._find_path(id_)
        if path is None:
            await self.list_tunes()
            path = await self._find_path(id_)
        return None if path is None else await asyncio.to_thread(_read_file, path)

    async def save(self, id_: str, data: bytes) -> None:
        """Write a tune's file under a free name, unless the tune is already saved.

        Raises:
            HttpError: the file cannot be written.
        """
        async with self._lock:
            if await self._find_path(id_) is None:
                await asyncio.to_thread(self._write, id_, data)
            with contextlib.suppress(
                HttpError
            ):  # the tune is saved, even if no worker can scan now
                await self._refresh()

    async def remove(self, id_: str) -> None:
        """Delete all files of a saved tune.

        Raises:
            HttpError: the tune is not saved, or a file changed or cannot be deleted.
        """
        async with self._lock:
            await self._refresh()
            entries = self._find_entries(id_)
            if not entries:
                raise HttpError(404, "the tune is not saved; reload the list")
            for key, _ in entries:
                await asyncio.to_thread(self._unlink, *key)
                del self._entries[key]

    def _write(self, id_: str, data: bytes) -> None:
        """Write a new file under the first free name. Raises HttpError."""
        names = [f"{id_}.mid", *(f"{id_}-{number}.mid" for number in range(2, MAX_NAMES + 1))]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                path = self.folder / name
                with contextlib.suppress(OutputExists):
                    return write_atomically(path, data)
                if _read_file(path) == data:
                    return None
        except (MusicgenError, OSError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else str(fault)
            raise HttpError(400, f"the tune was not saved: {reason}") from fault
        raise HttpError(400, f"the tune was not saved: {MAX_NAMES} other files have its name; move"
                           " them to another folder")  # fmt: skip

    def _unlink(self, name: str, stamp: _FileStamp) -> None:
        """Delete a file, unless it changed since the last scan. Raises HttpError."""
        path = self.folder / name
        try:
            if _get_file_stamp(path.lstat()) != stamp:
                raise HttpError(
                    409, "the file changed meanwhile and was not deleted; reload the list"
                )
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as fault:
            reason = os.strerror(fault.errno or 0)
            raise HttpError(400, f"the file was not deleted: {reason}") from fault

    async def _find_path(self, id_: str) -> Path | None:
        """Return the file of a tune from the table; an id never becomes a path."""
        paths = [self.folder / entry.name for _, entry in self._find_entries(id_)]
        return await asyncio.to_thread(_find_first_file, paths)

    def _find_entries(self, id_: str) -> list[tuple[_FileKey, SavedTune]]:
        """Return the table's entries of a tune: one, or several with copies."""
        return [(key, entry) for key, entry in self._entries.items() if entry and entry.id == id_]

    def _scan_folder(self) -> list[_FileKey]:
        """Return the latest regular files whose names and sizes may be those of a saved tune."""
        try:
            with os.scandir(self.folder) as folder_entries:
                candidates = [entry for entry in folder_entries if _FILE_NAME.fullmatch(entry.name)]
        except OSError:
            return []
        files = [(entry.name, status) for entry in candidates if (status := _stat_entry(entry))]
        files.sort(key=lambda file: -file[1].st_mtime_ns)
        keys = [(name, _get_file_stamp(status)) for name, status in files
                if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES]  # fmt: skip
        return keys[:MAX_FILES]

    async def _describe_new(self, keys: list[_FileKey]) -> None:
        """Add files to the table; if a batch fails, describe its files one by one."""
        paths = [self.folder / name for name, _ in keys]
        contents = await asyncio.to_thread(lambda: [_read_file(path) or b"" for path in paths])
        descriptions: list[dict[str, Any] | None] = [None]
        try:
            descriptions = await self.describe(contents)
        except HttpError as error:
            # the server was the reason, not the files
            if isinstance(error, WorkerUnavailable) or error.status == TOO_MANY_REQUESTS:
                raise
            if len(keys) > 1:
                for key in keys:
                    await self._describe_new([key])
                return
        for (name, stamp), tune in zip(keys, descriptions, strict=True):
            is_saved = tune is not None and tune["id"] == _parse_tune_id(name)
            self._entries[name, stamp] = (
                SavedTune(**tune, when=stamp[1] / 1e9, name=name) if tune and is_saved else None
            )


def _parse_tune_id(name: str) -> str | None:
    """Return the tune id in a file name, or None."""
    match = _FILE_NAME.fullmatch(name)
    return match[1] if match else None


def _get_file_stamp(status: os.stat_result) -> _FileStamp:
    """Return a value that changes when a file is written again."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def _find_first_file(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _stat_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a file, or None if it was deleted meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _read_file(path: Path) -> bytes | None:
    try:
        return read_regular_file(path, limit=MAX_BYTES, follow=False)
    except MusicgenError:
        return None
