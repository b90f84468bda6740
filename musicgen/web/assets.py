"""The files of the page: read once, so that what a request names is looked up in a table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOM: Final = Path(__file__).parent
FOLDERS: Final[Mapping[str, Path]] = {
    "": _ROOM / "static",
    "listen/": _ROOM.parent / "listen" / "static",
}
KINDS: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
PAGE: Final = "index.html"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    data: bytes
    kind: str
    tag: str  # changes with the bytes


def read_assets() -> dict[str, Asset]:
    """Read the files of the page, by the names that a request may give."""
    return dict(pair for prefix, folder in FOLDERS.items() for pair in _found(prefix, folder))


def _found(prefix: str, folder: Path) -> Iterator[tuple[str, Asset]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in KINDS and path.is_file():
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            yield prefix + path.relative_to(folder).as_posix(), Asset(data, KINDS[path.suffix], tag)
