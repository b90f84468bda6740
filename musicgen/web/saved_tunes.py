"""The tunes that are kept: MIDI files with their recipes, in one folder.

A tune is known by the hash of its recipe, and its file is called by it: no name in a request or in
a tune becomes a path. A file is on the shelf where both its name and its notes are those of the
recipe in it: every other file of the folder, a copy or an edited tune too, is the user's, and is
neither listed nor replaced nor removed.
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
from typing import Any, Final

from musicgen.errors import MusicgenError, OutputExists
from musicgen.files import read_regular_file, write_atomically
from musicgen.web.worker_process import HttpError, WorkerUnavailable

MAX_BYTES: Final = 2**20  # of a file that is looked at
MAX_FILES: Final = 1000
BATCH_SIZE: Final = 40  # files that a worker looks at in one go
TOO_MANY_REQUESTS: Final = 429  # the status of what is refused because too much waits
MAX_NAMES: Final = 99  # that are tried for a tune, where files of others have them
_FILE_NAME: Final = re.compile(r"([0-9a-f]{16})(?:-[1-9][0-9]?)?\.mid")
DescribeFiles = Callable[[list[bytes]], Awaitable[list[dict[str, Any] | None]]]
_FileStamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SavedTune:
    """One tune on the shelf."""

    id: str
    title: str
    key: str
    meter: str
    bars: int  # 0: it has none
    seconds: float
    when: float  # seconds since 1970
    name: str  # of the file

    def to_json(self) -> dict[str, Any]:
        """Return what is told of it; its file's name is not."""
        told = asdict(self)
        del told["name"]
        return told


@dataclass
class SavedTunes:
    """A folder of tunes, and what is known of its files."""

    folder: Path
    describe: DescribeFiles  # what tunes some files hold, asked where files may be hostile
    _entries: dict[tuple[str, _FileStamp], SavedTune | None] = field(default_factory=dict)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one look or change at a time

    async def list_tunes(self) -> list[SavedTune]:
        """Return the tunes on the shelf, the latest first; only new files are read."""
        async with self._lock:
            await self._refresh()
        return self.get_cached_tunes()

    def get_cached_tunes(self) -> list[SavedTune]:
        """Return the tunes that were on the shelf when it was looked at last, the latest first."""
        found = sorted(filter(None, self._entries.values()), key=lambda entry: -entry.when)
        return list({entry.id: entry for entry in reversed(found)}.values())[::-1]

    async def _refresh(self) -> None:
        present = dict(await asyncio.to_thread(self._scan_folder))
        self._entries = {key: told for key, told in self._entries.items() if key in present.items()}
        new = [key for key in present.items() if key not in self._entries]
        for start in range(0, len(new), BATCH_SIZE):
            await self._describe_new(new[start : start + BATCH_SIZE])

    async def has(self, id_: str) -> bool:
        """Tell whether a tune was on the shelf when it was looked at last, and still is."""
        return await self._find_path(id_) is not None

    async def read(self, id_: str) -> bytes | None:
        """Return the bytes of a tune's file; None where there is none."""
        path = await self._find_path(id_)
        if path is None:
            await self.list_tunes()
            path = await self._find_path(id_)
        return None if path is None else await asyncio.to_thread(_read_file, path)

    async def save(self, id_: str, data: bytes) -> None:
        """Write a tune's file, under a name that is free, unless it is there. Raises Refused."""
        async with self._lock:
            if await self._find_path(id_) is None:
                await asyncio.to_thread(self._write, id_, data)
            with contextlib.suppress(HttpError):  # it is kept, whoever cannot look at it now
                await self._refresh()

    async def remove(self, id_: str) -> None:
        """Take a tune off the shelf, every file of it. Raises Refused where it is not there."""
        async with self._lock:
            await self._refresh()
            entries = self._find_entries(id_)
            if not entries:
                raise HttpError(404, "the tune is not on the shelf")
            for key, _ in entries:
                await asyncio.to_thread(self._unlink, *key)
                del self._entries[key]

    def _write(self, id_: str, data: bytes) -> None:
        """Write a new file; one of the name that holds something else stays. Raises Refused."""
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
            words = fault.strerror if isinstance(fault, OSError) else str(fault)
            raise HttpError(400, f"the tune was not kept: {words}") from fault
        raise HttpError(400, f"the tune was not kept: {MAX_NAMES} other files have its name; move"
                           " them to another folder")  # fmt: skip

    def _unlink(self, name: str, stamp: _FileStamp) -> None:
        """Remove a file, unless it changed since it was looked at. Raises Refused."""
        path = self.folder / name
        try:
            if _get_file_stamp(path.lstat()) != stamp:
                raise HttpError(409, "the tune's file has just been changed, and stays")
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as fault:
            words = os.strerror(fault.errno or 0)
            raise HttpError(400, f"the tune's file stays: {words}") from fault

    async def _find_path(self, id_: str) -> Path | None:
        """Return the file of a tune, out of the table: an id is never made a path."""
        paths = [self.folder / entry.name for _, entry in self._find_entries(id_)]
        return await asyncio.to_thread(_find_first_file, paths)

    def _find_entries(self, id_: str) -> list[tuple[tuple[str, _FileStamp], SavedTune]]:
        """Return what the table has of a tune: one file, or copies too."""
        return [(key, entry) for key, entry in self._entries.items() if entry and entry.id == id_]

    def _scan_folder(self) -> list[tuple[str, _FileStamp]]:
        """Return the latest regular files of the folder that have names and sizes of ours."""
        try:
            with os.scandir(self.folder) as found:
                entries = [entry for entry in found if _FILE_NAME.fullmatch(entry.name)]
        except OSError:
            return []
        looked = [(entry.name, status) for entry in entries if (status := _stat_entry(entry))]
        looked.sort(key=lambda one: -one[1].st_mtime_ns)
        ours = [(name, _get_file_stamp(status)) for name, status in looked
                if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES]  # fmt: skip
        return ours[:MAX_FILES]

    async def _describe_new(self, files: list[tuple[str, _FileStamp]]) -> None:
        """Ask what some files hold; one that cannot be told of spoils nothing for the others."""
        paths = [self.folder / name for name, _ in files]
        contents = await asyncio.to_thread(lambda: [_read_file(path) or b"" for path in paths])
        told: list[dict[str, Any] | None] = [None]
        try:
            told = await self.describe(contents)
        except HttpError as fault:
            if (
                isinstance(fault, WorkerUnavailable) or fault.status == TOO_MANY_REQUESTS
            ):  # no fault of the files
                raise
            if len(files) > 1:
                for file in files:
                    await self._describe_new([file])
                return
        for (name, stamp), about in zip(files, told, strict=True):
            is_ours = about is not None and about["id"] == _parse_tune_id(name)
            entry = (
                SavedTune(**about, when=stamp[1] / 1e9, name=name) if about and is_ours else None
            )
            self._entries[name, stamp] = entry


def _parse_tune_id(name: str) -> str | None:
    """Return the id of the tune that a file's name stands for."""
    match = _FILE_NAME.fullmatch(name)
    return match[1] if match else None


def _get_file_stamp(status: os.stat_result) -> _FileStamp:
    """Return what changes when a file is written again."""
    return status.st_ino, status.st_mtime_ns, status.st_size


def _find_first_file(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _stat_entry(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return how a file stands; None of one that has gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _read_file(path: Path) -> bytes | None:
    try:
        return read_regular_file(path, limit=MAX_BYTES, follow=False)
    except MusicgenError:
        return None
