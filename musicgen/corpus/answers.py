"""What was read of each file, kept beside the data: a later build reads only what changed.

A file's key is a hash of its bytes and of all that decides what is read of them: its name, the
codec, the limits, the program's own reading rooms, the libraries. Lines are kept as they came.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from musicgen.corpus.sources import TuneFile
from musicgen.files import hash_regular

_PACKAGE: Final = Path(__file__).parents[1]
_ROOMS: Final = ("music", "formats", "tokens", "corpus")
_LIBRARIES: Final = ("mido", "music21", "numpy", "symusic")


def key_of(file: TuneFile, codec: str, limits: object) -> bytes:
    """Return a file's key, b"" where its bytes cannot be read."""
    content = hash_regular(file.path, follow=file.named)
    if not content:
        return b""
    told = "\n".join([reading_code(), codec, str(limits), file.name])
    return hashlib.sha256(content + told.encode("utf-8", "surrogateescape")).digest()


@cache
def reading_code() -> str:
    """Return the hash of the code that reads files, other people's by version."""
    found = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_PACKAGE / room).rglob("*.py")):
        found.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    for library in _LIBRARIES:
        found.update(f"{library} {metadata.version(library)}".encode())
    return found.hexdigest()


def write_answers(path: Path, answers: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
    """Write files by key, each with its lines."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        for key, lines in answers:
            out.write(json.dumps({"file": key.hex()}).encode() + b"\n")
            for line in lines:
                out.write(line + b"\n")


def take_answers(path: Path, wanted: Mapping[bytes, int]) -> Iterator[tuple[int, bytes, Any]]:
    """Yield number, key and lines of the files whose keys are wanted, one after the other.

    The lines are to be read before the next file is asked for.
    """
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as packed:
        lines = _Lines(io.BufferedReader(packed, 2**16))
        while (key := lines.next_key()) is not None:
            if key in wanted:
                yield wanted[key], key, lines


class _Lines:
    """The lines of one file at a time."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._ahead = file.readline()

    def next_key(self) -> bytes | None:
        """Go to the next file and return its key, None after the last one."""
        for _ in self:
            pass
        if not self._ahead:
            return None
        key = bytes.fromhex(json.loads(self._ahead)["file"])
        self._ahead = self._file.readline()
        return key

    def __iter__(self) -> Iterator[bytes]:
        while self._ahead and not self._ahead.startswith(b'{"file"'):
            yield self._ahead[:-1]
            self._ahead = self._file.readline()
