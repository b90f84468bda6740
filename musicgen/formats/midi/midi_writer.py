"""Writer of Standard MIDI Files, which the reader parses back to an equal score as played.

mido encodes the rare messages. Notes are encoded here, in the same three bytes: with mido's checks
of every message, writing a file would take longer than sampling its tune.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mido import Message, MetaMessage, bpm2tempo

from musicgen.errors import InvalidValue
from musicgen.formats.midi.bar_key_inference import (
    MAX_BARS,
    MAX_STEPS,
    NO_KEY,
    TEXT_PREFIX,
    format_bar_lengths,
    format_swing,
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
FIRST_SYSTEM_STATUS: Final = 0xF0  # from here on, no running status
_CHANNELS: Final = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)


def render(score: Score, *, text_events: Sequence[str] = ()) -> bytes:
    """Write a score as it is played, with repeats unfolded.

    Args:
        score: the score to write.
        text_events: further text events for the start of the first track.

    Raises:
        InvalidValue: the tune lasts over MAX_QUARTERS.
    """
    played = score.unfolded()
    if played.end > MAX_STEPS:
        raise InvalidValue(
            f"the tune lasts over {MAX_QUARTERS:,} quarter notes; write a part of it"
        )
    tracks = [_build_conductor_track(played, text_events)]
    for index, channel in enumerate(_channels(played.parts)):
        tracks.append(_part_track(played, index, channel))
    header = struct.pack(">hhh", 1, len(tracks), TICKS_PER_QUARTER)
    return _chunk(b"MThd", header) + b"".join(_chunk(b"MTrk", track) for track in tracks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">L", len(data)) + data


def to_pretty_midi(score: Score) -> PrettyMIDI:
    """Convert a score to a `pretty_midi.PrettyMIDI` object."""
    from pretty_midi import PrettyMIDI  # slow to import

    return PrettyMIDI(io.BytesIO(render(score)), charset="utf-8")


# Writing


def _build_conductor_track(score: Score, texts: Sequence[str]) -> bytes:
    """Build the first track: title, text events and marks."""
    text_lines = [*_iter_own_texts(score), *texts]
    start_messages = [_name(score.title), *(_text(text) for text in text_lines)]
    events = [(0, _to_bytes(message)) for message in start_messages if message is not None]
    for mark in score.marks:
        tick = mark.onset * TICKS_PER_STEP
        events += [(tick, _to_bytes(message)) for message in _mark_messages(mark)]
    return _track(events, score.end * TICKS_PER_STEP)


def _part_track(score: Score, index: int, channel: int) -> bytes:
    part = score.parts[index]
    start_messages = [
        _name(part.name),
        Message("program_change", channel=channel, program=part.program),
    ]
    events = [(0, _to_bytes(message)) for message in start_messages if message is not None]
    statuses = NOTE_OFF | channel, NOTE_ON | channel
    switches = sorted(_iter_note_switches(score.notes, index))
    ticks = _to_ticks(score, [step for step, *_ in switches])
    for tick, (_, is_on, pitch, velocity) in zip(ticks, switches, strict=True):
        events.append((tick, bytes((statuses[is_on], pitch, velocity))))
    return _track(events, score.end * TICKS_PER_STEP)


def _to_ticks(score: Score, steps: Sequence[int]) -> list[int]:
    """Return the ticks at which steps are played, with the swing of the score."""
    if score.swing is None:
        return [step * TICKS_PER_STEP for step in steps]
    played = score.swing.to_played(np.array(steps, dtype=np.int64), score.swing_phase)
    return list(map(int, np.floor(played * TICKS_PER_STEP + 0.5)))


def _to_bytes(message: Any) -> bytes:
    return bytes(message.bytes())


def _iter_note_switches(notes: Iterable[Note], part: int) -> Iterator[tuple[int, bool, int, int]]:
    """Yield (step, is_on, pitch, velocity); end a pitch where it starts again."""
    part_notes = sorted(
        (n for n in notes if n.part == part), key=lambda n: (n.pitch, n.onset, -n.end)
    )
    for _, group in groupby(part_notes, key=lambda n: n.pitch):
        pitch_notes = list({note.onset: note for note in reversed(list(group))}.values())[::-1]
        for note, next_note in zip(pitch_notes, [*pitch_notes[1:], None], strict=True):
            end = note.end if next_note is None else min(note.end, next_note.onset)
            yield note.onset, True, note.pitch, note.velocity
            yield end, False, note.pitch, 0


def _track(events: Iterable[tuple[int, bytes]], end: int) -> bytes:
    """Encode events at ticks as a track, with delta times and running status."""
    data, position, running_status = bytearray(), 0, -1
    for tick, message in events:
        status = message[0]
        data += _encode_ticks(tick - position)
        data += message[1:] if status == running_status else message
        position, running_status = tick, status if status < FIRST_SYSTEM_STATUS else -1
    data += _encode_ticks(max(end, position) - position)
    data += _to_bytes(MetaMessage("end_of_track"))
    return bytes(data)


@lru_cache(maxsize=4096)
def _encode_ticks(count: int) -> bytes:
    """Encode a number of ticks as a variable-length quantity: 7 bits per byte, highest first."""
    encoded = [count & 0x7F]
    while count := count >> 7:
        encoded.append(count & 0x7F | 0x80)
    return bytes(reversed(encoded))


def _channels(parts: Sequence[Part]) -> Iterator[int]:
    """Yield a channel for each part; parts after the fifteenth melodic one share channels."""
    melodic_count = 0
    for part in parts:
        if part.is_drums:
            yield DRUM_CHANNEL
        else:
            yield _CHANNELS[melodic_count % len(_CHANNELS)]
            melodic_count += 1


def _name(text: str) -> MetaMessage | None:
    return MetaMessage("track_name", name=_as_latin1(text)) if text else None


def _text(text: str) -> MetaMessage:
    return MetaMessage("text", text=_as_latin1(text))


def _as_latin1(text: str) -> str:
    """Re-encode UTF-8 bytes as Latin-1, as mido writes; its charset setting is not thread-safe."""
    return text.encode("utf-8", "replace").decode("latin-1")


def _iter_own_texts(score: Score) -> Iterator[str]:
    if score.rhythm:
        yield f"{TEXT_PREFIX}rhythm {score.rhythm}"
    lines = [mark.onset for mark in score.of("bar")]
    meters = [(mark.onset, mark.value) for mark in score.of("meter")]
    end = max((note.end for note in score.notes), default=0)
    is_implied = lines == infer_bar_lines(end, meters) and not has_pickup(meters)
    if not is_implied and len(lines) <= MAX_BARS:
        yield f"{TEXT_PREFIX}bars {format_bar_lengths(lines)}".rstrip()
    if not any(True for _ in score.of("key")):
        yield f"{TEXT_PREFIX}key {NO_KEY}"
    if score.swing is not None:
        yield f"{TEXT_PREFIX}swing {format_swing(score.swing, score.swing_phase)}"


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
        case "fermata":
            yield _text(f"{TEXT_PREFIX}fermata")


def _to_microseconds(qpm: float) -> int:
    microseconds = bpm2tempo(qpm) if qpm > 0 else 0
    if not 1 <= microseconds < 2**24:
        raise InvalidValue(
            f"tempo {qpm:g} is outside of 3.6 to 60,000,000 quarter notes per minute"
        )
    return int(microseconds)


def _key_messages(key: Key) -> Iterator[MetaMessage]:
    """Yield the nearest signature of MIDI, and a text event where it does not determine the key."""
    written = key if abs(key.fifths) <= 7 else Key.of(key.pitch_class, key.mode)
    is_minor = written.mode == "minor"
    name = name_on_fifths(written.fifths + 3) + "m" if is_minor else name_on_fifths(written.fifths)
    yield MetaMessage("key_signature", key=name)
    if key != key_of_signature(written.fifths, is_minor=is_minor):
        yield _text(f"{TEXT_PREFIX}key {key}")
