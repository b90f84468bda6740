"""Parser of Standard MIDI Files that checks every byte.

Times are in ticks, as Python integers, so none can overflow. Ambiguities and minor faults are
repaired and counted by kind, see REPAIRS.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import repeat
from operator import eq, rshift
from typing import Any, Final, NamedTuple

import numpy as np

from musicgen.errors import Refusal
from musicgen.music.arrays import IntArray
from musicgen.music.theory import Key, Meter, name_on_fifths

MAX_BYTES: Final = 8 * 2**20
MAX_QUARTERS: Final = 20_000
MAX_TRACKS: Final = 1_024
MAX_EVENTS: Final = 500_000
DRUM_CHANNEL: Final = 9
DEFAULT_TEMPO: Final = 500_000  # microseconds per quarter note
SMPTE_TICKS_PER_QUARTER: Final = 9_600  # resolution to which files in SMPTE frames are converted

REPAIRS: Final = {
    "hanging-note": "a note without an end was ended with its track",
    "zero-length": "a note of zero ticks was dropped",
    "stray-off": "a note-off without a sounding note was ignored",
    "overlap": "a pitch started again while sounding: the first note-off ends the first note",
    "doubled": "two notes of one pitch fell on one step: the longer one was kept",
    "doubled-part": "a note of a part that repeats a part of the same instrument was left out",
    "moved-end": "the end of a note was moved to the next note or to the grid",
    "missing-track": "the header counts more tracks than there are",
    "extra-track": "there are more tracks than the header counts",
    "no-track-end": "a track has no end-of-track event",
    "odd-meter": "a meter that notation does not have was ignored",
    "odd-tempo": "a tempo of zero microseconds was ignored",
    "odd-key": "a key signature of more than seven accidentals was ignored",
    "tail": "bytes after the last chunk were ignored",
}  # every kind of repair that is counted

TickEvent = tuple[int, Any]  # tick, value

# Start bits of the fields of a note packed into one integer; the pitch starts at bit 0.
_TICK_BITS: Final = 25
_VELOCITY_BITS: Final = 18
_CHANNEL_BITS: Final = 14
_PROGRAM_BITS: Final = 7
_MAX_TICK: Final = 2**37  # a packed note must fit into int64


@dataclass
class Track:
    """The contents of one track chunk."""

    name: str = ""
    end: int = 0  # the tick of its last event
    program: tuple[int, int] | None = None  # (channel, program) of its first program change
    packed_notes: list[int] = field(default_factory=list)  # see _TICK_BITS
    note_ends: list[int] = field(default_factory=list)  # tick of each; -1 while it sounds
    pedals: list[tuple[int, int, bool]] = field(default_factory=list)  # (tick, channel, is down)
    texts: list[tuple[int, str]] = field(default_factory=list)
    meters: list[TickEvent] = field(default_factory=list)
    keys: list[TickEvent] = field(default_factory=list)
    tempos: list[TickEvent] = field(default_factory=list)  # microseconds per quarter note

    @cached_property
    def notes(self) -> TickNotes:
        """The notes of non-zero length, as arrays."""
        return TickNotes.of(self.packed_notes, self.note_ends, self.end)


@dataclass(frozen=True)
class TickNotes:
    """The notes of a track as (note,) int64 columns, in order of onset."""

    onsets: IntArray  # ticks
    ends: IntArray  # ticks
    pitches: IntArray  # MIDI note numbers
    velocities: IntArray
    instruments: IntArray  # channel * 128 + program

    @classmethod
    def of(cls, packed_notes: list[int], note_ends: list[int], track_end: int) -> TickNotes:
        """Unpack the notes of a track; those without an end last until its last tick."""
        notes = np.array(packed_notes, dtype=np.int64)
        ends = np.array(note_ends, dtype=np.int64)
        ends[ends < 0] = track_end
        has_length = ends > notes >> _TICK_BITS
        notes, ends = notes[has_length], ends[has_length]
        return cls(
            onsets=notes >> _TICK_BITS,
            ends=ends,
            pitches=notes & 127,
            velocities=notes >> _VELOCITY_BITS & 127,
            instruments=notes >> _PROGRAM_BITS & 2047,
        )

    def __len__(self) -> int:
        return len(self.onsets)


@dataclass(frozen=True)
class ParsedMidi:
    """A parsed file."""

    smf_format: int  # 0, 1 or 2
    ticks_per_quarter: int
    tracks: tuple[Track, ...]
    repairs: Counter[str]  # by kind, see REPAIRS
    ticks_per_second: Fraction | None = None  # where the file counts SMPTE frames

    def split_tunes(self) -> Iterator[ParsedMidi]:
        """Yield the tunes of a file: each track of format 2, or the whole file."""
        if self.smf_format != 2:
            yield self
            return
        for track in self.tracks:
            if track.packed_notes:
                yield ParsedMidi(1, self.ticks_per_quarter, (track,), self.repairs,
                             self.ticks_per_second)  # fmt: skip

    def merge_events(self, name: str) -> list[TickEvent]:
        """Return one kind of event of all tracks in order; keep the last of those at one tick."""
        events = [event for track in self.tracks for event in getattr(track, name)]
        events.sort(key=lambda event: event[0])
        return list(dict(events).items())


def make_refusal(offset: int, fault: str, code: str) -> Refusal:
    """Create the refusal of a file at a byte offset."""
    return Refusal(f"{fault}; the file was left out", place=f"byte {offset}", code=code)


def parse_midi(data: bytes) -> ParsedMidi:
    """Parse a file.

    Raises:
        Refusal: the file is malformed or exceeds a limit.
    """
    if len(data) > MAX_BYTES:
        raise make_refusal(MAX_BYTES, f"it is larger than {MAX_BYTES:,} bytes", "too-large")
    header = _read_header(data)
    division = header.division
    repairs: Counter[str] = Counter()
    tracks: list[Track] = []
    events_left = MAX_EVENTS
    for start, stop in _iter_track_chunks(data, header.size, repairs):
        if len(tracks) == MAX_TRACKS:
            raise make_refusal(start, f"it has more than {MAX_TRACKS:,} tracks", "too-large")
        track = Track()
        events_left = _parse_track(data, start, stop, track, events_left, repairs)
        tracks.append(track)
        if isinstance(division, int):
            _check_duration(stop, track, division)
    repairs["missing-track"] += max(0, header.track_count - len(tracks))
    repairs["extra-track"] += max(0, len(tracks) - header.track_count)
    if isinstance(division, int):
        return ParsedMidi(header.smf_format, division, tuple(tracks), repairs)
    return ParsedMidi(header.smf_format, SMPTE_TICKS_PER_QUARTER, tuple(tracks), repairs, division)


class _Header(NamedTuple):
    """The header chunk."""

    smf_format: int
    track_count: int
    division: int | Fraction  # ticks per quarter note, or as a Fraction, ticks per second
    size: int  # bytes


def _read_header(data: bytes) -> _Header:
    if data[:4] != b"MThd":
        raise make_refusal(0, "it is not a MIDI file: MThd is missing", "format")
    length = int.from_bytes(data[4:8], "big")
    if len(data) < 14 or length < 6 or 8 + length > len(data):
        raise make_refusal(8, "the header is cut off", "truncated")
    smf_format, track_count, division = struct.unpack_from(">HHH", data, 8)
    if smf_format > 2:
        raise make_refusal(8, f"its format is {smf_format}; known are 0, 1 and 2", "format")
    if division & 0x8000:
        return _Header(smf_format, track_count, _ticks_per_second(data), 8 + length)
    if division == 0:
        raise make_refusal(12, "it has 0 ticks per quarter note", "damaged")
    return _Header(smf_format, track_count, division, 8 + length)


def _ticks_per_second(data: bytes) -> Fraction:
    """Read a division in SMPTE frames; 29 stands for 29.97, as in the standard."""
    frames = 256 - data[12]
    if frames not in (24, 25, 29, 30) or data[13] == 0:
        fault = f"it has {data[13]} ticks per SMPTE frame, {frames} frames per second"
        raise make_refusal(12, fault, "damaged")
    return (Fraction(30_000, 1_001) if frames == 29 else Fraction(frames)) * data[13]


def _iter_track_chunks(data: bytes, at: int, repairs: Counter[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the bytes of each track; skip other chunks."""
    while at + 8 <= len(data):
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "big")
        if stop > len(data):
            fault = f"a chunk of {stop - start:,} bytes has only {len(data) - start:,}"
            raise make_refusal(at, fault, "truncated")
        if data[at : at + 4] == b"MTrk":
            yield start, stop
        at = stop
    repairs["tail"] += at < len(data)


def _check_duration(offset: int, track: Track, ticks_per_quarter: int) -> None:
    if track.end > MAX_QUARTERS * ticks_per_quarter:
        raise make_refusal(offset, _TOO_LONG, "too-large")


_TOO_LONG: Final = f"it lasts over {MAX_QUARTERS:,} quarter notes"


def _parse_track(
    data: bytes, start: int, stop: int, track: Track, events_left: int, repairs: Counter[str]
) -> int:
    """Parse the events of a track; return how many more the file may have."""
    parser = _TrackParser(data, track, repairs)
    try:
        at, events_left = parser.parse_events(start, stop, events_left)
    except IndexError:
        at = stop + 1
    if at > stop:
        raise make_refusal(stop, "an event runs past the end of its track", "truncated")
    if track.end > _MAX_TICK:
        raise make_refusal(stop, _TOO_LONG, "too-large")
    parser.finish()
    return events_left


class _TrackParser:
    """Parses the events of one track.

    Some files end a grace note of zero ticks before its start: a stray note-off, then a note that
    nothing ends. The next start of its pitch tells this from a note that sounds on.
    """

    def __init__(self, data: bytes, track: Track, repairs: Counter[str]) -> None:
        self.data = data
        self.track = track
        self.repairs = repairs
        self.bases = [channel << _CHANNEL_BITS for channel in range(16)]  # with their programs
        # All by channel and pitch, a key of channel * 128 + pitch:
        self.sounding = [-1] * 2048  # index of the sounding note
        self.queued_notes: dict[int, deque[int]] = {}  # indexes of further notes of the pitch
        self.stray_ends: dict[int, deque[int]] = {}  # ticks of note-offs without a note
        self.grace_notes: dict[int, int] = {}  # index of the note that starts at such a tick
        self.has_end = False

    def parse_events(self, at: int, stop: int, events_left: int) -> tuple[int, int]:
        """Parse events until the end-of-track event; return the offset and the events left.

        This loop runs once per event of every file, so ordinary notes need no call.
        """
        data, bases, sounding = self.data, self.bases, self.sounding
        packed, ends = self.track.packed_notes, self.track.note_ends
        tick = status = 0
        while at < stop:
            delta = data[at]
            at += 1
            if delta > 0x7F:
                if data[at] < 0x80:
                    delta = (delta & 0x7F) << 7 | data[at]
                    at += 1
                else:
                    delta, at = _parse_variable_length(data, at - 1)
            tick += delta
            events_left -= 1
            if events_left < 0:
                raise make_refusal(at, f"it has more than {MAX_EVENTS:,} events", "too-large")
            if data[at] > 0x7F:
                if data[at] > 0xEF:
                    at = self.parse_long_event(at, tick)
                    if self.has_end:
                        break
                    continue
                status = data[at]
                at += 1
            if not 0x80 <= status < 0xA0:
                at = self.parse_channel_event(at, status, tick)
                continue
            byte, velocity = data[at], data[at + 1]
            if (byte | velocity) > 0x7F:
                raise make_refusal(at, "a data byte is over 127", "damaged")
            at += 2
            key = (status & 15) << 7 | byte
            if velocity and status > 0x8F:
                if sounding[key] >= 0:
                    self.restart_pitch(key, tick)
                else:
                    sounding[key] = len(packed)
                    if key in self.stray_ends:
                        self.record_grace_note(key, tick)
                packed.append(tick << 25 | velocity << 18 | bases[status & 15] | byte)
                ends.append(-1)
            elif sounding[key] < 0:
                self.record_stray_end(key, tick)
            else:
                ends[sounding[key]] = tick
                sounding[key] = self.pop_queued_note(key) if self.queued_notes else -1
        self.track.end = tick
        return at, events_left

    def record_stray_end(self, key: int, tick: int) -> None:
        """Count the end of a pitch that does not sound; a note of no length may follow."""
        self.stray_ends.setdefault(key, deque()).append(tick)
        self.repairs["stray-off"] += 1

    def restart_pitch(self, key: int, tick: int) -> None:
        """Register the next note, whose pitch already sounds: end a grace note, or queue it."""
        sounding, note = self.sounding[key], len(self.track.packed_notes)
        if self.grace_notes.pop(key, -1) == sounding:
            self.track.note_ends[sounding] = self.track.packed_notes[sounding] >> _TICK_BITS
            self.sounding[key] = note
            self.record_grace_note(key, tick)
        else:
            self.queued_notes.setdefault(key, deque()).append(note)

    def record_grace_note(self, key: int, tick: int) -> None:
        """Record the next note as a possible grace note if a stray end has its tick."""
        stray_ticks = self.stray_ends.get(key)
        while stray_ticks and stray_ticks[0] < tick:
            stray_ticks.popleft()
        if stray_ticks:
            stray_ticks.popleft()
            self.grace_notes[key] = len(self.track.packed_notes)

    def pop_queued_note(self, key: int) -> int:
        """Return the queued note of a pitch that started first, which ends next, or -1."""
        queue = self.queued_notes.get(key)
        if not queue:
            return -1
        self.repairs["overlap"] += 1
        return queue.popleft()

    def parse_channel_event(self, at: int, status: int, tick: int) -> int:
        """Parse a channel event: a program, a pedal, or one to ignore; return the next offset."""
        first = self.data[at]
        if not status or first > 0x7F:
            raise make_refusal(at, "an event has no status, or a data byte is over 127", "damaged")
        channel = status & 15
        if 0xC0 <= status < 0xE0:
            if status < 0xD0:
                self.bases[channel] = channel << _CHANNEL_BITS | first << _PROGRAM_BITS
                self.track.program = self.track.program or (channel, first)
            return at + 1
        second = self.data[at + 1]
        if second > 0x7F:
            raise make_refusal(at + 1, "a data byte is over 127", "damaged")
        if first == 64 and 0xB0 <= status < 0xC0:
            self.track.pedals.append((tick, channel, second >= 64))
        return at + 2

    def parse_long_event(self, at: int, tick: int) -> int:
        """Parse an event that states its length; return the next offset."""
        kind, start, length = _parse_event_length(self.data, at)
        if kind == 0x2F:
            self.has_end = True
        elif kind:
            payload = self.data[start : start + length]
            if (repair := _store_meta_event(self.track, tick, kind, payload)) is not None:
                self.repairs[repair] += 1
        return start + length

    def finish(self) -> None:
        """End the grace notes, and count the faults of the track."""
        track = self.track
        for note in self.grace_notes.values():
            if track.note_ends[note] < 0:
                track.note_ends[note] = track.packed_notes[note] >> _TICK_BITS
        starts = map(rshift, track.packed_notes, repeat(_TICK_BITS))
        self.repairs["hanging-note"] += track.note_ends.count(-1)
        self.repairs["zero-length"] += sum(map(eq, starts, track.note_ends))
        self.repairs["no-track-end"] += not self.has_end


def _parse_variable_length(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of one to four bytes; return it and the next offset."""
    value = 0
    for offset in range(at, at + 4):
        byte = data[offset]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, offset + 1
    raise make_refusal(at, "a number has more than four bytes", "damaged")


def _parse_event_length(data: bytes, at: int) -> tuple[int, int, int]:
    """Return the kind (0 for system messages), offset and length of a payload."""
    if data[at] == 0xFF:
        length, start = _parse_variable_length(data, at + 2)
        return data[at + 1], start, length
    if data[at] in (0xF0, 0xF7):
        length, start = _parse_variable_length(data, at + 1)
        return 0, start, length
    raise make_refusal(at, f"an event has the status {data[at]}", "damaged")


def _store_meta_event(track: Track, tick: int, kind: int, payload: bytes) -> str | None:
    """Store a meta event in its track, or return the kind of repair if it is invalid."""
    match kind, len(payload):
        case (0x01, _):
            track.texts.append((tick, _decode_text(payload)))
        case (0x03, _):
            track.name = track.name or _decode_text(payload)
        case (0x51, 3):
            if not any(payload):
                return "odd-tempo"
            track.tempos.append((tick, int.from_bytes(payload, "big")))
        case (0x58, 4 | 2):
            if not (1 <= payload[0] <= 64 and payload[1] <= 6):
                return "odd-meter"
            track.meters.append((tick, Meter(payload[0], 2 ** payload[1])))
        case (0x59, 2):
            fifths = (payload[0] + 128) % 256 - 128
            if not -7 <= fifths <= 7:
                return "odd-key"
            track.keys.append((tick, key_of_signature(fifths, is_minor=payload[1] == 1)))
    return None


def _decode_text(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return payload.decode("latin-1")


def key_of_signature(fifths: int, *, is_minor: bool) -> Key:
    """Return the major or minor key with a signature of sharps (flats negative)."""
    if is_minor:
        return Key(name_on_fifths(fifths + 3), "minor")
    return Key(name_on_fifths(fifths), "major")
