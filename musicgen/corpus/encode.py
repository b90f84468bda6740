"""One file to lines of JSON: a line for each tune that is kept, and for each that is refused.

Lines, because they go between processes: bytes carry no objects and run nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from musicgen.corpus.sources import TuneFile
from musicgen.corpus.split import grams
from musicgen.errors import MusicgenError, Refusal
from musicgen.formats import Reading
from musicgen.music.runs import elements
from musicgen.music.score import Score
from musicgen.tokens.codec import Encoded


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

    def encode(self, score: Score) -> Encoded:
        """Write a score as ids."""
        ...


def encode_file(
    file: TuneFile, codec: Encoder, *, read: Callable[[TuneFile], Reading] = TuneFile.read
) -> Iterator[bytes]:
    """Read and encode one file; yield {"tune": {...}} or {"refusal": {...}} for each tune."""
    scores, refusals = read(file)
    for refusal in refusals:
        yield refused(refusal)
    for number, score in enumerate(scores, 1):
        yield _encoded(score, file, number, codec)


def refused(refusal: Refusal) -> bytes:
    """Write a refusal as a line."""
    names = ("message", "source", "place", "code")
    return json.dumps({"refusal": {name: getattr(refusal, name) for name in names}}).encode()


def _encoded(score: Score, file: TuneFile, number: int, codec: Encoder) -> bytes:
    try:
        return json.dumps({"tune": _row(score.canonical(), file, codec)}).encode()
    except MusicgenError as fault:
        return refused(_not_encoded(fault, file, number, score))


def _row(score: Score, file: TuneFile, codec: Encoder) -> dict[str, Any]:
    encoded = codec.encode(score)
    return {
        "ids": _packed(np.array(encoded.ids, dtype="<i2")),
        "notes": len(score.notes),
        "title": score.title,
        "source": file.name,
        "group": _packed(grams(elements(score)).astype("<u8")),
        "key": str(score.key),
        "meter": str(score.meter),
        "rhythm": score.rhythm,
        "setting": encoded.setting.to_json(),
    }


def _packed(array: Any) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _not_encoded(fault: MusicgenError, file: TuneFile, number: int, score: Score) -> Refusal:
    code = fault.code if isinstance(fault, Refusal) else "no-event"
    message = fault.message if isinstance(fault, Refusal) else str(fault)
    place = f"tune {number} {score.title!r}"
    return Refusal(message, source=file.name, place=place, code=code or "no-event")
