"""One file to lines of JSON: a line for each tune that is kept, and for each that is refused.

Lines, because they go between processes: bytes carry no objects and run nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from musicgen.corpus.archives import Part
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.traits import described
from musicgen.errors import MusicgenError, Refusal, is_short_of_memory
from musicgen.formats import BY_SUFFIX, Reading, midi
from musicgen.music.score import Score
from musicgen.tokens.codec import AnyCodec, ScoreCodec

Piece = Score | str


def encode_file(
    file: TuneFile,
    codec: AnyCodec,
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
        scores, refusals = read(file)
        yield from _answers((*refusals, *scores), file.name, codec)
        return
    for part, data in file.contents(codec.suffixes, starting=starting, first=first):
        if isinstance(data, Refusal):
            yield refused(data)
        else:
            yield from _encode_part(part, data, codec)


def _encode_part(part: Part, data: bytes, codec: AnyCodec) -> Iterator[bytes]:
    """Answer for one part, tune by tune; memory that is short is the caller's to tell."""
    try:
        found, repairs = _read(data, part, codec)
        yield from _answers(found, part.name, codec, repairs)
    except Exception as fault:  # a reader's mistake costs the file, not the build
        if is_short_of_memory(fault):
            raise MemoryError from fault
        message = f"its reader failed ({fault!r:.80}); it was left out"
        yield refused(Refusal(message, source=part.name, code="crashed"))


def _read(data: bytes, part: Part, codec: AnyCodec) -> tuple[Iterable[Piece | Refusal], list[str]]:
    """Read a file's pieces as they are asked for, and say what had to be repaired in it."""
    form = BY_SUFFIX.get(part.suffix.lower())
    is_plain = getattr(type(codec), "each", None) is ScoreCodec.each
    if form is None or form.parse is not midi.parse or not is_plain:
        return codec.each(data, part.suffix, part.name), []
    found = midi.inspect(data, part.name)
    told = [f"repaired: {count} x {kind}" for kind, count in (found.repairs or {}).items()]
    return (*found.refusals, *found.scores), sorted(told)


def _answers(
    found: Iterable[Piece | Refusal], name: str, codec: AnyCodec, repairs: Sequence[str] = ()
) -> Iterator[bytes]:
    number, is_empty = 0, True
    for one in found:
        is_empty = False
        if isinstance(one, Refusal):
            yield refused(one)
        else:
            number += 1
            yield _encoded(one, name, number, codec, repairs if number == 1 else ())
    if is_empty:
        yield refused(Refusal("it holds no tune; it was left out", source=name, code="empty"))


def refused(refusal: Refusal) -> bytes:
    """Write a refusal as a line."""
    names = ("message", "source", "place", "code")
    return json.dumps({"refusal": {name: getattr(refusal, name) for name in names}}).encode()


def _encoded(
    piece: Piece, name: str, number: int, codec: AnyCodec, repairs: Sequence[str]
) -> bytes:
    try:
        row = _row(piece, codec)
    except MusicgenError as fault:
        return refused(_not_encoded(fault, name, number, piece))
    row["remarks"] += repairs
    return json.dumps({"tune": {**row, "source": name, "number": number}}).encode()


def _row(piece: Piece, codec: AnyCodec) -> dict[str, Any]:
    encoded = codec.encode(piece)
    row = described(piece)
    if encoded.lost:
        row["remarks"].append(f"lost: {encoded.lost} of {row['notes']} have no event")
    ids = base64.b64encode(np.array(encoded.ids, dtype="<i2").tobytes()).decode("ascii")
    return {**row, "ids": ids, "setting": encoded.setting.to_json()}


def _not_encoded(fault: MusicgenError, name: str, number: int, piece: Piece) -> Refusal:
    code = fault.code if isinstance(fault, Refusal) else "no-event"
    message = fault.message if isinstance(fault, Refusal) else str(fault)
    title = piece.title if isinstance(piece, Score) else piece[:40]
    return Refusal(message, source=name, place=f"tune {number} {title!r}", code=code or "no-event")
