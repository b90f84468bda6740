"""Scores to standard MIDI files, equal in what is played when they are read back.

mido spells the messages that are rare. A note is three bytes, spelt here as mido would: it looks at
each of them so long that a file would take longer to write than its tune to draw.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from mido import Message, MetaMessage, bpm2tempo

from musicgen.errors import InvalidValue
from musicgen.formats.midi.bar_key_inference import (
    MAX_BARS,
    MAX_STEPS,
    NO_KEY,
    TEXT_PREFIX,
    format_bar_lengths,
    has_pickup,
    infer_bar_lines,
)
from musicgen.formats.midi.parser import DRUM_CHANNEL, MAX_QUARTERS, key_of_signature
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Note, Part, Score
from musicgen.music.theory import Key, name_on_fifths

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

TICKS_PER_QUARTER: Final = 480
TICKS_PER_STEP: Final = TICKS_PER_QUARTER // STEPS_PER_QUARTER
NOTE_OFF: Final = 0x80
NOTE_ON: Final = 0x90
FIRST_SYSTEM_STATUS: Final = 0xF0  # from here on a status holds for one message
_CHANNELS: Final = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)


def render(score: Score, *, text_events: Sequence[str] = ()) -> bytes:
    """Write a score as it is played, with further text events at its start.

    Raises InvalidValue for a tempo that MIDI cannot say, and past MAX_QUARTERS.
    """
    played = score.unfolded()
    if played.end > MAX_STEPS:
        raise InvalidValue(f"the tune lasts over {MAX_QUARTERS:,} quarters; write a part of it")
    tracks = [_build_conductor_track(played, text_events)]
    for index, channel in enumerate(_channels(played.parts)):
        tracks.append(_part_track(played, index, channel))
    header = struct.pack(">hhh", 1, len(tracks), TICKS_PER_QUARTER)
    return _chunk(b"MThd", header) + b"".join(_chunk(b"MTrk", track) for track in tracks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">L", len(data)) + data


def to_pretty_midi(score: Score) -> PrettyMIDI:
    """Return a score as the object that most MIDI tools in Python pass around."""
    from pretty_midi import PrettyMIDI  # slow to import, and only wanted here

    return PrettyMIDI(io.BytesIO(render(score)), charset="utf-8")


# Writing


def _build_conductor_track(score: Score, texts: Sequence[str]) -> bytes:
    """Build the first track: title, texts and marks."""
    own = [*_iter_own_texts(score), *texts]
    start = [_name(score.title), *(_text(text) for text in own)]
    events = [(0, _to_bytes(message)) for message in start if message is not None]
    for mark in score.marks:
        events += [(mark.onset, _to_bytes(message)) for message in _mark_messages(mark)]
    return _track(events, score.end)


def _part_track(score: Score, index: int, channel: int) -> bytes:
    part = score.parts[index]
    first = [_name(part.name), Message("program_change", channel=channel, program=part.program)]
    events = [(0, _to_bytes(message)) for message in first if message is not None]
    kinds = NOTE_OFF | channel, NOTE_ON | channel
    for onset, is_on, pitch, velocity in sorted(_iter_note_switches(score.notes, index)):
        events.append((onset, bytes((kinds[is_on], pitch, velocity))))
    return _track(events, score.end)


def _to_bytes(message: Any) -> bytes:
    return bytes(message.bytes())


def _iter_note_switches(notes: Iterable[Note], part: int) -> Iterator[tuple[int, bool, int, int]]:
    """Yield (step, on or off, pitch, velocity); a sounding pitch that starts again ends first."""
    mine = sorted((n for n in notes if n.part == part), key=lambda n: (n.pitch, n.onset, -n.end))
    for _, same in groupby(mine, key=lambda n: n.pitch):
        line = list({note.onset: note for note in reversed(list(same))}.values())[::-1]
        for note, following in zip(line, [*line[1:], None], strict=True):
            end = note.end if following is None else min(note.end, following.onset)
            yield note.onset, True, note.pitch, note.velocity
            yield end, False, note.pitch, 0


def _track(events: Iterable[tuple[int, bytes]], end: int) -> bytes:
    """Turn steps from the start into ticks from the event before; leave out a status that stays."""
    data, now, running = bytearray(), 0, -1
    for onset, message in events:
        status = message[0]
        data += _encode_ticks((onset - now) * TICKS_PER_STEP)
        data += message[1:] if status == running else message
        now, running = onset, status if status < FIRST_SYSTEM_STATUS else -1
    data += _encode_ticks((max(end, now) - now) * TICKS_PER_STEP)
    data += _to_bytes(MetaMessage("end_of_track"))
    return bytes(data)


@lru_cache(maxsize=4096)
def _encode_ticks(count: int) -> bytes:
    """Spell a number of ticks in sevens of bits, the highest first."""
    found = [count & 0x7F]
    while count := count >> 7:
        found.append(count & 0x7F | 0x80)
    return bytes(reversed(found))


def _channels(parts: Sequence[Part]) -> Iterator[int]:
    """Yield a channel for each part; past fifteen they are shared."""
    melodic = 0
    for part in parts:
        if part.is_drums:
            yield DRUM_CHANNEL
        else:
            yield _CHANNELS[melodic % len(_CHANNELS)]
            melodic += 1


def _name(text: str) -> MetaMessage | None:
    return MetaMessage("track_name", name=_as_latin1(text)) if text else None


def _text(text: str) -> MetaMessage:
    return MetaMessage("text", text=_as_latin1(text))


def _as_latin1(text: str) -> str:
    """Dress UTF-8 bytes as the Latin-1 that mido writes; other charsets hold for all threads."""
    return text.encode("utf-8", "replace").decode("latin-1")


def _iter_own_texts(score: Score) -> Iterator[str]:
    if score.rhythm:
        yield f"{TEXT_PREFIX}rhythm {score.rhythm}"
    lines = [mark.onset for mark in score.of("bar")]
    meters = [(mark.onset, mark.value) for mark in score.of("meter")]
    end = max((note.end for note in score.notes), default=0)
    as_found = lines == infer_bar_lines(end, meters) and not has_pickup(meters)
    if not as_found and len(lines) <= MAX_BARS:
        yield f"{TEXT_PREFIX}bars {format_bar_lengths(lines)}".rstrip()
    if not any(True for _ in score.of("key")):
        yield f"{TEXT_PREFIX}key {NO_KEY}"


def _mark_messages(mark: Mark) -> Iterator[MetaMessage]:
    match mark.kind:
        case "tempo":
            yield MetaMessage("set_tempo", tempo=_to_microseconds(mark.value))
        case "meter":
            beats, unit = mark.value.beats, mark.value.unit
            yield MetaMessage("time_signature", numerator=beats, denominator=unit)
        case "key":
            yield from _key_messages(mark.value)
        case "chord":
            yield _text(f"{TEXT_PREFIX}chord {mark.value}")


def _to_microseconds(qpm: float) -> int:
    microseconds = bpm2tempo(qpm) if qpm > 0 else 0
    if not 1 <= microseconds < 2**24:
        raise InvalidValue(f"tempo {qpm:g} is outside of 3.6 to 60,000,000 quarters a minute")
    return int(microseconds)


def _key_messages(key: Key) -> Iterator[MetaMessage]:
    """Yield the signature, as near as MIDI can say it, and the key in words where it says less."""
    written = key if abs(key.fifths) <= 7 else Key.of(key.pitch_class, key.mode)
    is_minor = written.mode == "minor"
    name = name_on_fifths(written.fifths + 3) + "m" if is_minor else name_on_fifths(written.fifths)
    yield MetaMessage("key_signature", key=name)
    if key != key_of_signature(written.fifths, is_minor=is_minor):
        yield _text(f"{TEXT_PREFIX}key {key}")
