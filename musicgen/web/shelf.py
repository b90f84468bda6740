"""The tunes that are kept: MIDI files with their recipes, in one folder.

A tune is known by the hash of its recipe, and its file is called by it: no name in a request or in
a tune becomes a path. Files that `musicgen sample` wrote into the folder are on the shelf too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from musicgen.errors import MusicgenError
from musicgen.files import open_regular, write_whole
from musicgen.web.worker import Away, Refused

MAX_BYTES: Final = 2**20  # of a file that is looked at
MAX_FILES: Final = 1000
AT_ONCE: Final = 40  # files that a worker looks at in one go
BUSY: Final = 429  # the status of what is refused because too much waits
Describe = Callable[[list[bytes]], Awaitable[list[dict[str, Any] | None]]]
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tune on the shelf."""

    id: str
    title: str
    key: str
    meter: str
    bars: int
    when: float  # seconds since 1970
    name: str  # of the file

    def to_json(self) -> dict[str, Any]:
        """Return what is told of it; its file's name is not."""
        told = asdict(self)
        del told["name"]
        return told


@dataclass
class Shelf:
    """A folder of tunes, and what is known of its files."""

    folder: Path
    describe: Describe  # what tunes some files hold, asked where files may be hostile
    _known: dict[tuple[str, _Stamp], Entry | None] = field(default_factory=dict)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)  # new files are read once

    async def entries(self) -> list[Entry]:
        """Return the tunes on the shelf, the latest first; only new files are read."""
        async with self._looking:
            await self._look()
        return self.listed()

    def listed(self) -> list[Entry]:
        """Return the tunes that were on the shelf when it was looked at last, the latest first."""
        found = sorted(filter(None, self._known.values()), key=lambda entry: -entry.when)
        return list({entry.id: entry for entry in reversed(found)}.values())[::-1]

    async def _look(self) -> None:
        present = dict(islice(self._files(), MAX_FILES))
        self._known = {key: told for key, told in self._known.items() if key in present.items()}
        new = [key for key in present.items() if key not in self._known]
        for start in range(0, len(new), AT_ONCE):
            await self._look_at(new[start : start + AT_ONCE])

    def has(self, id_: str) -> bool:
        """Tell whether a tune was on the shelf when it was looked at last, and still is."""
        return self._path(id_) is not None

    async def read(self, id_: str) -> bytes | None:
        """Return the bytes of a tune's file; None where there is none."""
        path = self._path(id_)
        if path is None:
            await self.entries()
            path = self._path(id_)
        return None if path is None else _read(path)

    async def keep(self, id_: str, data: bytes) -> None:
        """Write a tune's file unless it is there. Raises Refused."""
        if self._path(id_) is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_whole(self.folder / f"{id_}.mid", data, force=True)
            except (MusicgenError, OSError) as fault:
                raise Refused(400, f"the tune was not kept: {fault}") from fault
        with contextlib.suppress(Refused):  # it is kept, whoever cannot look at it now
            await self.entries()

    def remove(self, id_: str) -> None:
        """Take a tune off the shelf, every file of it. Raises Refused where it is not there."""
        if self._path(id_) is None:
            raise Refused(404, "the tune is not on the shelf")
        for key, entry in self._of(id_):
            try:
                (self.folder / entry.name).unlink(missing_ok=True)
            except OSError as fault:
                words = os.strerror(fault.errno or 0)
                raise Refused(400, f"the tune's file stays: {words}") from fault
            del self._known[key]

    def _path(self, id_: str) -> Path | None:
        """Return the file of a tune, out of the table: an id is never made a path."""
        paths = (self.folder / entry.name for _, entry in self._of(id_))
        return next((path for path in paths if path.is_file()), None)

    def _of(self, id_: str) -> list[tuple[tuple[str, _Stamp], Entry]]:
        """Return what the table has of a tune: one file, or copies too."""
        return [(key, entry) for key, entry in self._known.items() if entry and entry.id == id_]

    def _files(self) -> Iterator[tuple[str, _Stamp]]:
        """Yield the regular MIDI files of the folder that are not too large, the latest first."""
        try:
            with os.scandir(self.folder) as found:
                entries = [entry for entry in found if entry.name.lower().endswith(".mid")]
        except OSError:
            return
        looked = [(entry.name, status) for entry in entries if (status := _status(entry))]
        for name, status in sorted(looked, key=lambda one: -one[1].st_mtime_ns):
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
                yield name, (status.st_ino, status.st_mtime_ns, status.st_size)

    async def _look_at(self, files: list[tuple[str, _Stamp]]) -> None:
        """Ask what some files hold; one that cannot be told of spoils nothing for the others."""
        contents = [_read(self.folder / name) or b"" for name, _ in files]
        told: list[dict[str, Any] | None] = [None]
        try:
            told = await self.describe(contents)
        except Refused as fault:
            if isinstance(fault, Away) or fault.status == BUSY:  # no fault of the files
                raise
            if len(files) > 1:
                for file in files:
                    await self._look_at([file])
                return
        for (name, stamp), about in zip(files, told, strict=True):
            entry = Entry(**about, when=stamp[1] / 1e9, name=name) if about else None
            self._known[name, stamp] = entry


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return how a file stands; None of one that has gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except OSError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return open_regular(path, limit=MAX_BYTES, follow=False)
    except MusicgenError:
        return None
