"""Archives of tunes, read in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a member of an archive, that may be read on its own."""

    name: str
    number: int  # in the archive; a file by itself is 0
    read: Callable[[], bytes]  # raises Refusal or NotFound

    @property
    def suffix(self) -> str:
        """Its suffix, by which a reader is chosen."""
        return PurePosixPath(self.name).suffix
