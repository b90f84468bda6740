"""One file to lines of JSON: one line for each tune kept, and one for each tune refused.

Lines of bytes, because they pass between processes: they carry no objects and run nothing. Beside
its ids each tune has metadata: how it is compared with other tunes, and remarks on what is odd in
it ("kind: words"; the kinds are in REMARKS). A remark refuses nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from musicgen.corpus.archives import Part
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.split import grams
from musicgen.errors import MusicgenError, Refusal, is_short_of_memory
from musicgen.formats import BY_SUFFIX, Reading, midi
from musicgen.music.bars import Bar, bars
from musicgen.music.melodic_runs import Move, elements
from musicgen.music.performance import PERFORMED_QPM
from musicgen.music.score import STEPS_PER_QUARTER, Score
from musicgen.music.theory import Key, spell
from musicgen.tokens.codec import AnyCodec, ScoreCodec

REMARKS: Final = {
    "bar-sum": "a bar holds more or less than its meter, and none balances it",
    "range": "notes lie where no voice or piano has them, or one voice spans four octaves",
    "title": "it has no title",
    "key": "no key is given; C major was taken",
    "meter": "no meter is given; 4/4 was taken",
    "short": "it has fewer than eight notes",
    "repaired": "a MIDI file needed repair: formats.midi.REPAIRS says of which kinds",
    "lost": "the codec has no event for some of it, which is left out",
}
SHARED_CHARACTERS: Final = 200  # consecutive ones that make two texts relatives
_BARS_NAMED = 4
_LOWEST, _HIGHEST, _WIDEST = 21, 108, 48  # a piano's keys; semitones of one voice
_FEW_NOTES = 8


def described(piece: Score | str) -> dict[str, Any]:
    """Return the fields of a piece's row that every codec shares."""
    return _of_text(piece) if isinstance(piece, str) else _of_score(piece)


def _of_score(score: Score) -> dict[str, Any]:
    whole = score.canonical()
    moves = elements(whole)
    return {
        "notes": len(whole.notes),
        "title": whole.title,
        "key": str(whole.key),
        "meter": str(whole.meter),
        "rhythm": whole.rhythm,
        "group": packed(grams(moves)),
        "line": [whole.notes[0].pitch if whole.notes else 0, _hash(moves), _hash(scaled(moves))],
        "remarks": list(remarks(score)),
    }


def _of_text(text: str) -> dict[str, Any]:
    moves = [(ord(character), 0) for character in text]
    title = next((line for line in text.splitlines() if line.startswith("T:")), text)
    return {
        "notes": len(text),
        "title": title.removeprefix("T:").strip()[:60],
        "key": "",
        "meter": "",
        "rhythm": "",
        "group": packed(grams(moves, SHARED_CHARACTERS)),
        "line": [0, _hash(moves), _hash(moves)],
        "remarks": [],
    }


def packed(hashes: Any) -> str:
    """Write hashes as text."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def scaled(moves: Sequence[Move]) -> list[Move]:
    """Divide all durations by their common measure: the same in 2/4 as in 4/8 or 2/2."""
    unit = math.gcd(*(duration for _, duration in moves)) or 1
    return [(interval, duration // unit) for interval, duration in moves]


def _hash(moves: Sequence[Move]) -> str:
    data = np.array(moves, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def remarks(score: Score) -> Iterator[str]:
    """Yield what is odd in a tune."""
    yield from _bar_sums(score)
    yield from _range(score)
    if not score.title.strip():
        yield "title: there is none"
    if not _is_performed(score) and not any(score.of("key")):
        yield "key: none is given; C major was taken"
    if not _is_performed(score) and not any(score.of("meter")):
        yield "meter: none is given; 4/4 was taken"
    if 0 < len(score.notes) < _FEW_NOTES:
        yield f"short: it has {len(score.notes)} notes"


def _is_performed(score: Score) -> bool:
    """Tell whether a step is a millisecond: a codec of performances wants no key or meter."""
    return any(mark.value == PERFORMED_QPM for mark in score.of("tempo"))


def _bar_sums(score: Score) -> Iterator[str]:
    found = bars(score)
    if len(found) < 2:  # a performance: nobody drew bars
        return
    first = 0 if found[0].kind == "partial" else 1  # a pickup is bar 0
    wrong = [(number, bar) for number, bar in enumerate(found, first) if bar.kind == "irregular"]
    for number, bar in wrong[:_BARS_NAMED]:
        yield f"bar-sum: bar {number} {_held(bar)}"
    if len(wrong) > _BARS_NAMED:
        yield f"bar-sum: and {len(wrong) - _BARS_NAMED} more bars of {len(found)}"


def _held(bar: Bar) -> str:
    over = bar.steps - bar.meter.steps
    if not over:
        return f"is full, and no pickup's partner in {bar.meter}"
    much = "too much" if over > 0 else "too little"
    return f"holds {_whole(bar.steps)} in a meter of {bar.meter}: {_whole(abs(over))} {much}"


def _whole(steps: int) -> str:
    """Write steps as a fraction of a whole note."""
    return str(Fraction(steps, 4 * STEPS_PER_QUARTER))


def _range(score: Score) -> Iterator[str]:
    drums = {index for index, part in enumerate(score.parts) if part.is_drums}
    pitches = [note.pitch for note in score.notes if note.part not in drums]
    if not pitches:
        return
    lowest, highest = min(pitches), max(pitches)
    outside = sum(not _LOWEST <= pitch <= _HIGHEST for pitch in pitches)
    if outside:
        many = f"{outside} note{'s' * (outside > 1)}"
        yield f"range: {many} outside of a piano's keys, {_span(lowest, highest)}"
    elif len(score.parts) == 1 and highest - lowest > _WIDEST:
        yield f"range: one part spans {highest - lowest} semitones, {_span(lowest, highest)}"


def _span(lowest: int, highest: int) -> str:
    return f"from {_name(lowest)} to {_name(highest)}"


def _name(pitch: int) -> str:
    name = spell(pitch, Key("C", "major"))
    sign = "#" * name.alteration if name.alteration > 0 else "b" * -name.alteration
    return f"{name.letter}{sign}{name.octave}"


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
