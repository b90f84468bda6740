"""One file to lines of JSON: a line for each tune that is kept, and for each that is refused.

Lines, because they go between processes: bytes carry no objects and run nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from musicgen.corpus.archives import Part
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.split import grams
from musicgen.errors import MusicgenError, Refusal
from musicgen.formats import Reading
from musicgen.music.runs import elements
from musicgen.music.score import Score
from musicgen.tokens.codec import Encoded, Pieces


class Encoder(Protocol):
    """The part of a codec that a build needs."""

    @property
    def name(self) -> str:
        """What a data set calls it."""
        ...

    @property
    def vocabulary(self) -> Any:
        """Its table of events."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of the files that it reads."""
        ...

    def read(self, data: bytes, suffix: str, source: str = "") -> Pieces[Any]:
        """Read all pieces of a file's bytes."""
        ...

    def encode(self, piece: Any) -> Encoded:
        """Write a piece as ids."""
        ...


def encode_file(
    file: TuneFile,
    codec: Encoder,
    *,
    read: Callable[[TuneFile], Reading] | None = None,
    starting: Callable[[str, int], None] | None = None,
    first: int = 0,
) -> Iterator[bytes]:
    """Read and encode one file; yield {"tune": {...}} or {"refusal": {...}} for each tune.

    Before each member of an archive (any other file is one) `starting` is told its name and
    number; those before the first are passed over.
    """
    if read is not None:
        yield from _answers(read(file), file.name, codec)
        return
    for part, data in file.contents(codec.suffixes, starting=starting, first=first):
        if isinstance(data, Refusal):
            yield refused(data)
        else:
            yield from _encode_part(part, data, codec)


def _encode_part(part: Part, data: bytes, codec: Encoder) -> Iterator[bytes]:
    """Answer for one part; memory that is short is the caller's to tell."""
    try:
        yield from _answers(codec.read(data, part.suffix, part.name), part.name, codec)
    except MemoryError:
        raise
    except Exception as fault:  # noqa: BLE001 - a reader's mistake costs the file, not the build
        message = f"its reader failed ({fault!r:.80}); it was left out"
        yield refused(Refusal(message, source=part.name, code="crashed"))


def _answers(reading: Pieces[Any], name: str, codec: Encoder) -> Iterator[bytes]:
    scores, refusals = reading
    for refusal in refusals:
        yield refused(refusal)
    for number, score in enumerate(scores, 1):
        yield _encoded(score, name, number, codec)


def refused(refusal: Refusal) -> bytes:
    """Write a refusal as a line."""
    names = ("message", "source", "place", "code")
    return json.dumps({"refusal": {name: getattr(refusal, name) for name in names}}).encode()


def _encoded(score: Score, name: str, number: int, codec: Encoder) -> bytes:
    try:
        return json.dumps({"tune": _row(score.canonical(), name, codec)}).encode()
    except MusicgenError as fault:
        return refused(_not_encoded(fault, name, number, score))


def _row(score: Score, name: str, codec: Encoder) -> dict[str, Any]:
    encoded = codec.encode(score)
    return {
        "ids": _packed(np.array(encoded.ids, dtype="<i2")),
        "notes": len(score.notes),
        "title": score.title,
        "source": name,
        "group": _packed(grams(elements(score)).astype("<u8")),
        "key": str(score.key),
        "meter": str(score.meter),
        "rhythm": score.rhythm,
        "setting": encoded.setting.to_json(),
    }


def _packed(array: Any) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _not_encoded(fault: MusicgenError, name: str, number: int, score: Score) -> Refusal:
    code = fault.code if isinstance(fault, Refusal) else "no-event"
    message = fault.message if isinstance(fault, Refusal) else str(fault)
    place = f"tune {number} {score.title!r}"
    return Refusal(message, source=name, place=place, code=code or "no-event")
