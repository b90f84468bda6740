"""The tunes that were made of late, by id; the oldest go when there are too many."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass, field

from musicgen.web.work import Answer


@dataclass(frozen=True, slots=True)
class Made:
    """A tune as the server holds it."""

    id: str
    recipe: str  # which makes it again
    packed: bytes  # what is shown of it: JSON, compressed

    @classmethod
    def of(cls, answer: Answer) -> Made:
        """Take what a worker answered."""
        return cls(answer.head["id"], answer.head["recipe"], answer.body)

    def body(self, *, kept: bool) -> bytes:
        """Return what is shown of it as JSON."""
        flag = b'{"kept":true,' if kept else b'{"kept":false,'
        return flag + zlib.decompress(self.packed)[1:]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.packed) + len(self.recipe)


@dataclass
class Tunes:
    """As many tunes as there is room for; those that were asked for last stay."""

    room: int  # bytes
    taken: int = 0
    _made: OrderedDict[str, Made] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._made)

    def add(self, made: Made) -> None:
        """Hold a tune, in place of the oldest."""
        old = self._made.pop(made.id, None)
        self.taken += made.size - (old.size if old else 0)
        self._made[made.id] = made
        while self.taken > self.room and len(self._made) > 1:
            self.taken -= self._made.popitem(last=False)[1].size

    def find(self, id_: str) -> Made | None:
        """Return a tune that is still held."""
        if id_ in self._made:
            self._made.move_to_end(id_)
        return self._made.get(id_)
