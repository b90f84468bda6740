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

from musicgen.corpus.archives import FileEntry
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.split import hash_grams
from musicgen.errors import MusicgenError, Refusal, is_short_of_memory
from musicgen.formats import FORMAT_BY_SUFFIX, ParseResult, midi
from musicgen.music.bars import Bar, find_bars
from musicgen.music.melodic_runs import Move, list_moves
from musicgen.music.performance import PERFORMANCE_QPM
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
_MAX_BARS_NAMED = 4
_LOWEST, _HIGHEST, _WIDEST_SPAN = 21, 108, 48  # a piano's keys; semitones of one voice
_FEW_NOTES = 8


def describe_piece(piece: Score | str) -> dict[str, Any]:
    """Return the fields of a piece's row that every codec shares."""
    return _describe_text(piece) if isinstance(piece, str) else _describe_score(piece)


def _describe_score(score: Score) -> dict[str, Any]:
    whole = score.canonical()
    moves = list_moves(whole)
    return {
        "notes": len(whole.notes),
        "title": whole.title,
        "key": str(whole.key),
        "meter": str(whole.meter),
        "rhythm": whole.rhythm,
        "group": pack_hashes(hash_grams(moves)),
        "line": [
            whole.notes[0].pitch if whole.notes else 0,
            _hash_moves(moves),
            _hash_moves(normalise_durations(moves)),
        ],
        "remarks": list(iter_remarks(score)),
    }


def _describe_text(text: str) -> dict[str, Any]:
    moves = [(ord(character), 0) for character in text]
    title = next((line for line in text.splitlines() if line.startswith("T:")), text)
    return {
        "notes": len(text),
        "title": title.removeprefix("T:").strip()[:60],
        "key": "",
        "meter": "",
        "rhythm": "",
        "group": pack_hashes(hash_grams(moves, SHARED_CHARACTERS)),
        "line": [0, _hash_moves(moves), _hash_moves(moves)],
        "remarks": [],
    }


def pack_hashes(hashes: Any) -> str:
    """Write hashes as text."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def normalise_durations(moves: Sequence[Move]) -> list[Move]:
    """Divide all durations by their common measure: the same in 2/4 as in 4/8 or 2/2."""
    unit = math.gcd(*(duration for _, duration in moves)) or 1
    return [(interval, duration // unit) for interval, duration in moves]


def _hash_moves(moves: Sequence[Move]) -> str:
    data = np.array(moves, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def iter_remarks(score: Score) -> Iterator[str]:
    """Yield what is odd in a tune."""
    yield from _iter_bar_remarks(score)
    yield from _iter_range_remarks(score)
    if not score.title.strip():
        yield "title: there is none"
    if not _is_performance(score) and not any(score.of("key")):
        yield "key: none is given; C major was taken"
    if not _is_performance(score) and not any(score.of("meter")):
        yield "meter: none is given; 4/4 was taken"
    if 0 < len(score.notes) < _FEW_NOTES:
        yield f"short: it has {len(score.notes)} notes"


def _is_performance(score: Score) -> bool:
    """Tell whether a step is a millisecond: a codec of performances wants no key or meter."""
    return any(mark.value == PERFORMANCE_QPM for mark in score.of("tempo"))


def _iter_bar_remarks(score: Score) -> Iterator[str]:
    found = find_bars(score)
    if len(found) < 2:  # a performance: nobody drew bars
        return
    first = 0 if found[0].kind == "partial" else 1  # a pickup is bar 0
    wrong = [(number, bar) for number, bar in enumerate(found, first) if bar.kind == "irregular"]
    for number, bar in wrong[:_MAX_BARS_NAMED]:
        yield f"bar-sum: bar {number} {_describe_bar_length(bar)}"
    if len(wrong) > _MAX_BARS_NAMED:
        yield f"bar-sum: and {len(wrong) - _MAX_BARS_NAMED} more bars of {len(found)}"


def _describe_bar_length(bar: Bar) -> str:
    over = bar.steps - bar.meter.steps
    if not over:
        return f"is full, and no pickup's partner in {bar.meter}"
    much = "too much" if over > 0 else "too little"
    length, difference = _format_whole_notes(bar.steps), _format_whole_notes(abs(over))
    return f"holds {length} in a meter of {bar.meter}: {difference} {much}"


def _format_whole_notes(steps: int) -> str:
    """Write steps as a fraction of a whole note."""
    return str(Fraction(steps, 4 * STEPS_PER_QUARTER))


def _iter_range_remarks(score: Score) -> Iterator[str]:
    drums = {index for index, part in enumerate(score.parts) if part.is_drums}
    pitches = [note.pitch for note in score.notes if note.part not in drums]
    if not pitches:
        return
    lowest, highest = min(pitches), max(pitches)
    outside = sum(not _LOWEST <= pitch <= _HIGHEST for pitch in pitches)
    if outside:
        many = f"{outside} note{'s' * (outside > 1)}"
        yield f"range: {many} outside of a piano's keys, {_format_span(lowest, highest)}"
    elif len(score.parts) == 1 and highest - lowest > _WIDEST_SPAN:
        yield f"range: one part spans {highest - lowest} semitones, {_format_span(lowest, highest)}"


def _format_span(lowest: int, highest: int) -> str:
    return f"from {_format_pitch(lowest)} to {_format_pitch(highest)}"


def _format_pitch(pitch: int) -> str:
    name = spell(pitch, Key("C", "major"))
    sign = "#" * name.alteration if name.alteration > 0 else "b" * -name.alteration
    return f"{name.letter}{sign}{name.octave}"


Piece = Score | str


def encode_file(
    file: TuneFile,
    codec: AnyCodec,
    *,
    read: Callable[[TuneFile], ParseResult] | None = None,
    on_start: Callable[[str, int], None] | None = None,
    first: int = 0,
) -> Iterator[bytes]:
    """Read and encode one file; yield {"tune": {...}} or {"refusal": {...}} for each tune.

    Before each member of an archive (any other file is one) `starting` is told its name and
    number; those before the first are passed over.
    """
    if read is not None:
        scores, refusals = read(file)
        yield from _encode_pieces((*refusals, *scores), file.name, codec)
        return
    for part, data in file.iter_contents(codec.suffixes, on_start=on_start, first=first):
        if isinstance(data, Refusal):
            yield refusal_to_json(data)
        else:
            yield from _encode_entry(part, data, codec)


def _encode_entry(entry: FileEntry, data: bytes, codec: AnyCodec) -> Iterator[bytes]:
    """Answer for one part, tune by tune; memory that is short is the caller's to tell."""
    try:
        found, repairs = _read_pieces(data, entry, codec)
        yield from _encode_pieces(found, entry.name, codec, repairs)
    except Exception as fault:  # a reader's mistake costs the file, not the build
        if is_short_of_memory(fault):
            raise MemoryError from fault
        message = f"its reader failed ({fault!r:.80}); it was left out"
        yield refusal_to_json(Refusal(message, source=entry.name, code="crashed"))


def _read_pieces(
    data: bytes, entry: FileEntry, codec: AnyCodec
) -> tuple[Iterable[Piece | Refusal], list[str]]:
    """Read a file's pieces as they are asked for, and say what had to be repaired in it."""
    form = FORMAT_BY_SUFFIX.get(entry.suffix.lower())
    is_plain = getattr(type(codec), "iter_pieces", None) is ScoreCodec.iter_pieces
    if form is None or form.parse is not midi.parse or not is_plain:
        return codec.iter_pieces(data, entry.suffix, entry.name), []
    found = midi.inspect(data, entry.name)
    told = [f"repaired: {count} x {kind}" for kind, count in (found.repairs or {}).items()]
    return (*found.refusals, *found.scores), sorted(told)


def _encode_pieces(
    pieces: Iterable[Piece | Refusal], name: str, codec: AnyCodec, repairs: Sequence[str] = ()
) -> Iterator[bytes]:
    number, is_empty = 0, True
    for one in pieces:
        is_empty = False
        if isinstance(one, Refusal):
            yield refusal_to_json(one)
        else:
            number += 1
            yield _encode_piece(one, name, number, codec, repairs if number == 1 else ())
    if is_empty:
        yield refusal_to_json(
            Refusal("it holds no tune; it was left out", source=name, code="empty")
        )


def refusal_to_json(refusal: Refusal) -> bytes:
    """Write a refusal as a line."""
    names = ("message", "source", "place", "code")
    return json.dumps({"refusal": {name: getattr(refusal, name) for name in names}}).encode()


def _encode_piece(
    piece: Piece, name: str, number: int, codec: AnyCodec, repairs: Sequence[str]
) -> bytes:
    try:
        row = _build_row(piece, codec)
    except MusicgenError as fault:
        return refusal_to_json(_encoding_refusal(fault, name, number, piece))
    row["remarks"] += repairs
    return json.dumps({"tune": {**row, "source": name, "number": number}}).encode()


def _build_row(piece: Piece, codec: AnyCodec) -> dict[str, Any]:
    encoded = codec.encode(piece)
    row = describe_piece(piece)
    if encoded.lost:
        row["remarks"].append(f"lost: {encoded.lost} of {row['notes']} have no event")
    ids = base64.b64encode(np.array(encoded.ids, dtype="<i2").tobytes()).decode("ascii")
    return {**row, "ids": ids, "setting": encoded.setting.to_json()}


def _encoding_refusal(fault: MusicgenError, name: str, number: int, piece: Piece) -> Refusal:
    code = fault.code if isinstance(fault, Refusal) else "no-event"
    message = fault.message if isinstance(fault, Refusal) else str(fault)
    title = piece.title if isinstance(piece, Score) else piece[:40]
    return Refusal(message, source=name, place=f"tune {number} {title!r}", code=code or "no-event")
