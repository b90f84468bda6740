"""Encode a file as lines of JSON: one line per tune kept, and one per tune refused.

Lines of bytes, because they pass between processes: they carry no objects and run no code. Besides
its ids each tune has metadata: hashes that compare it with other tunes, and remarks on oddities
("kind: description"; the kinds are in REMARKS). A remark does not refuse a tune.
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
from musicgen.corpus.part_orders import iter_lead_sheet_orders, iter_part_orders
from musicgen.corpus.sources import TuneFile
from musicgen.corpus.split import SHARED_MOVES, Grams, hash_grams
from musicgen.errors import MusicgenError, Refusal, is_short_of_memory
from musicgen.formats import FORMAT_BY_SUFFIX, midi
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.bars import Bar, find_bars
from musicgen.music.melodic_runs import Move, list_drum_moves, list_moves
from musicgen.music.milliseconds import PERFORMANCE_QPM
from musicgen.music.roles import assign_roles
from musicgen.music.score import STEPS_PER_QUARTER, Score
from musicgen.music.theory import Key, spell
from musicgen.tokens.codec import AnyCodec, Encoded, ScoreCodec
from musicgen.typed_data import shorten

REMARKS: Final = {
    "bar-sum": "a bar is longer or shorter than its meter, and no other bar balances it",
    "range": "notes are outside the range of a piano, or one voice spans over four octaves",
    "title": "it has no title",
    "key": "no key is given; C major was taken",
    "meter": "no meter is given; 4/4 was taken",
    "short": "it has fewer than eight notes",
    "timing": "what was taken out of a MIDI file that was played; see docs/midi.md",
    "repaired": "a MIDI file was repaired; formats.midi.REPAIRS lists the kinds",
    "lost": "the codec cannot encode some of it, which was left out",
}
SHARED_HITS: Final = 64  # consecutive drum hits that make two pieces of drums near-duplicates
SHARED_CHARACTERS: Final = 200  # consecutive characters that make two texts near-duplicates
_MAX_BARS_NAMED = 4
_LOWEST_PITCH, _HIGHEST_PITCH = 21, 108  # of a piano
_WIDEST_SPAN = 48  # semitones of one voice
_FEW_NOTES = 8


def describe_piece(piece: Score | str) -> dict[str, Any]:
    """Return the row fields of a piece that do not depend on the codec."""
    return _describe_text(piece) if isinstance(piece, str) else _describe_score(piece)


def _describe_score(score: Score) -> dict[str, Any]:
    canonical = score.canonical()
    moves, shared_length = list_moves(canonical), SHARED_MOVES
    if not moves and any(part.is_drums for part in canonical.parts):
        moves, shared_length = list_drum_moves(canonical), SHARED_HITS
    return {
        "notes": len(canonical.notes),
        "title": canonical.title,
        "key": str(canonical.key),
        "meter": str(canonical.meter),
        "rhythm": canonical.rhythm,
        "group": pack_hashes(hash_grams(moves, shared_length)),
        "line": [
            canonical.notes[0].pitch if canonical.notes else 0,
            _hash_moves(moves),
            _hash_moves(normalise_durations(moves)),
        ],
        "remarks": list(iter_remarks(score)),
    }


def _describe_text(text: str) -> dict[str, Any]:
    moves = [(ord(character), 0) for character in text]
    return {
        "notes": len(text),
        "title": _find_title(text)[:60],
        "key": "",
        "meter": "",
        "rhythm": "",
        "group": pack_hashes(hash_grams(moves, SHARED_CHARACTERS)),
        "line": [0, _hash_moves(moves), _hash_moves(moves)],
        "remarks": [],
    }


def _find_title(piece: Score | str) -> str:
    """Return the title of a tune; of text without the field T:, the text itself."""
    if isinstance(piece, Score):
        return piece.title
    title = next((line for line in piece.splitlines() if line.startswith("T:")), piece)
    return title.removeprefix("T:").strip()


def pack_hashes(hashes: Grams) -> str:
    """Write hashes, (count,) uint64, as base64 of little-endian bytes."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def normalise_durations(moves: Sequence[Move]) -> list[Move]:
    """Divide all durations by their greatest common divisor: 2/4, 4/8 and 2/2 become equal."""
    unit = math.gcd(*(duration for _, duration in moves)) or 1
    return [(interval, duration // unit) for interval, duration in moves]


def _hash_moves(moves: Sequence[Move]) -> str:
    data = np.array(moves, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def iter_remarks(score: Score) -> Iterator[str]:
    """Yield remarks on the oddities of a tune."""
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
    """Tell whether a score is a performance (1 step = 1 ms), which needs no key or meter."""
    return any(mark.value == PERFORMANCE_QPM for mark in score.of("tempo"))


def _iter_bar_remarks(score: Score) -> Iterator[str]:
    bars = find_bars(score)
    if len(bars) < 2:  # a performance has no bar lines
        return
    first = 0 if bars[0].kind == "partial" else 1  # a pickup is bar 0
    irregular = [(number, bar) for number, bar in enumerate(bars, first) if bar.kind == "irregular"]
    for number, bar in irregular[:_MAX_BARS_NAMED]:
        yield f"bar-sum: bar {number} {_describe_bar_length(bar)}"
    if len(irregular) > _MAX_BARS_NAMED:
        yield f"bar-sum: and {len(irregular) - _MAX_BARS_NAMED} more bars of {len(bars)}"


def _describe_bar_length(bar: Bar) -> str:
    excess = bar.steps - bar.meter.steps
    if not excess:
        return f"is full and does not complete the pickup in {bar.meter}"
    direction = "too much" if excess > 0 else "too little"
    length, difference = _format_whole_notes(bar.steps), _format_whole_notes(abs(excess))
    return f"holds {length} in a meter of {bar.meter}: {difference} {direction}"


def _format_whole_notes(steps: int) -> str:
    """Write steps as a fraction of a whole note."""
    return str(Fraction(steps, 4 * STEPS_PER_QUARTER))


def _iter_range_remarks(score: Score) -> Iterator[str]:
    drums = {index for index, part in enumerate(score.parts) if part.is_drums}
    pitches = [note.pitch for note in score.notes if note.part not in drums]
    if not pitches:
        return
    lowest, highest = min(pitches), max(pitches)
    outside = sum(not _LOWEST_PITCH <= pitch <= _HIGHEST_PITCH for pitch in pitches)
    if outside:
        notes = f"{outside} note{'s' * (outside > 1)}"
        yield f"range: {notes} outside the range of a piano, {_format_span(lowest, highest)}"
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
    on_start: Callable[[str, int], None] | None = None,
    first: int = 0,
) -> Iterator[bytes]:
    """Read and encode one file; yield {"tune": {...}} or {"refusal": {...}} for each tune.

    A tune of several parts is yielded once for each order of its parts, numbered by "order".

    Args:
        file: a tune file or an archive of tune files.
        codec: how to encode the tunes.
        on_start: called with the name and number of each member of an archive before it is read;
            a plain file counts as one member.
        first: skip the members before this number.
    """
    for entry, data in file.iter_contents(codec.suffixes, on_start=on_start, first=first):
        if isinstance(data, Refusal):
            yield refusal_to_json(data)
        else:
            yield from _encode_entry(entry, data, codec, file)


def _encode_entry(
    entry: FileEntry, data: bytes, codec: AnyCodec, file: TuneFile
) -> Iterator[bytes]:
    """Encode one file or archive member. Raises MemoryError, which the caller reports."""
    try:
        pieces, repairs = _read_pieces(data, entry, codec)
        pieces = (_apply_card(piece, entry.name, file) for piece in pieces)
        yield from _encode_pieces(pieces, entry.name, codec, file, repairs)
    except Exception as fault:  # a bug in a reader costs one file, not the build
        if is_short_of_memory(fault):
            raise MemoryError from fault
        message = f"its reader failed ({fault!r:.80}); it was left out"
        yield refusal_to_json(Refusal(message, source=entry.name, code="crashed"))


def _apply_card(piece: Piece | Refusal, name: str, file: TuneFile) -> Piece | Refusal:
    """Return a piece with the labels of its corpus card; refuse other parts than the card names."""
    if not isinstance(piece, Score):
        return piece
    if file.has_wanted_parts(piece):
        return file.apply_labels(piece)
    wanted, names = ", ".join(file.part_names), ", ".join(part.name or "?" for part in piece.parts)
    message = f"its parts are {shorten(names)}, not {wanted}; it was left out"
    return Refusal(message, source=name, code="parts")


def _read_pieces(
    data: bytes, entry: FileEntry, codec: AnyCodec
) -> tuple[Iterable[Piece | Refusal], list[str]]:
    """Return the pieces of a file, read lazily where possible, and remarks on how it was read."""
    form = FORMAT_BY_SUFFIX.get(entry.suffix.lower())
    reads_scores = getattr(type(codec), "iter_pieces", None) is ScoreCodec.iter_pieces
    if form is None or form.parse is not midi.parse or not reads_scores:
        return codec.iter_pieces(data, entry.suffix, entry.name), []
    result = midi.inspect(data, entry.name)
    remarks = [f"repaired: {count} x {kind}" for kind, count in (result.repairs or {}).items()]
    timings = ("; ".join(record.describe_timing()) for record in result.records)
    remarks += [f"timing: {timing}" for timing in timings if timing]
    scores = (split_accompaniment(score)[0] for score in result.scores)
    return (*result.refusals, *scores), sorted(remarks)


def _encode_pieces(
    pieces: Iterable[Piece | Refusal],
    name: str,
    codec: AnyCodec,
    file: TuneFile,
    repairs: Sequence[str] = (),
) -> Iterator[bytes]:
    number, is_empty = 0, True
    for piece in pieces:
        is_empty = False
        if isinstance(piece, Refusal):
            yield refusal_to_json(piece)
            continue
        number += 1
        if file.leaves_out(title := _find_title(piece)):
            place = f"tune {number} {title!r}"
            message = f"its corpus card leaves it out ({file.left_out}), so that it can judge"
            yield refusal_to_json(Refusal(message, source=name, place=place, code="left-out"))
        else:
            piece_repairs = repairs if number == 1 else ()
            yield from _encode_piece(
                piece, name, number, codec, piece_repairs, chords_as_part=file.chords_as_part
            )
    if is_empty:
        yield refusal_to_json(
            Refusal("it holds no tune; it was left out", source=name, code="empty")
        )


def refusal_to_json(refusal: Refusal) -> bytes:
    """Write a refusal as one line of JSON."""
    names = ("message", "source", "place", "code")
    return json.dumps({"refusal": {name: getattr(refusal, name) for name in names}}).encode()


def _encode_piece(
    piece: Piece,
    name: str,
    number: int,
    codec: AnyCodec,
    repairs: Sequence[str],
    *,
    chords_as_part: bool = False,
) -> Iterator[bytes]:
    """Yield a piece in each order of its parts, or its refusal."""
    try:
        row = describe_piece(piece)
        orders = list(_iter_orders(piece, codec, chords_as_part=chords_as_part))
        encodings = [codec.encode(ordered) for ordered in orders]
    except MusicgenError as fault:
        yield refusal_to_json(_encoding_refusal(fault, name, number, piece))
        return
    row["remarks"] += repairs
    if encodings[0].lost:
        row["remarks"].append(f"lost: {encodings[0].lost} of {row['notes']} have no event")
    for order, encoded in enumerate(encodings):
        fields = {"ids": _pack_ids(encoded), "setting": encoded.setting.to_json(), "order": order}
        if isinstance(ordered := orders[order], Score):
            fields["notes"] = len(ordered.canonical().notes)
        yield json.dumps({"tune": {**row, **fields, "source": name, "number": number}}).encode()


def _iter_orders(piece: Piece, codec: AnyCodec, *, chords_as_part: bool) -> Iterator[Piece]:
    """Yield a piece in each order of its parts that is stored, with roles of its parts."""
    if not isinstance(piece, Score) or not codec.has_bars:
        yield piece
    elif chords_as_part:
        yield from iter_lead_sheet_orders(assign_roles(piece))
    else:
        yield from iter_part_orders(assign_roles(piece))


def _pack_ids(encoded: Encoded) -> str:
    return base64.b64encode(np.array(encoded.ids, dtype="<i2").tobytes()).decode("ascii")


def _encoding_refusal(fault: MusicgenError, name: str, number: int, piece: Piece) -> Refusal:
    code = fault.code if isinstance(fault, Refusal) else "no-event"
    message = fault.message if isinstance(fault, Refusal) else str(fault)
    title = piece.title if isinstance(piece, Score) else piece[:40]
    return Refusal(message, source=name, place=f"tune {number} {title!r}", code=code or "no-event")
