"""Every byte of a MIDI file, checked: a survey that nothing in the file can mislead.

Times are ticks, and whole numbers of any size, so that none can wrap. What a file leaves open is
repaired and counted by kind, see REPAIRS.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import repeat
from operator import eq, rshift
from typing import Any, Final

import numpy as np

from musicgen.errors import Refusal
from musicgen.music.theory import Key, Meter, name_on_fifths

MAX_BYTES: Final = 8 * 2**20
MAX_QUARTERS: Final = 20_000
MAX_TRACKS: Final = 1_024
MAX_EVENTS: Final = 500_000
DRUM_CHANNEL: Final = 9
DEFAULT_TEMPO: Final = 500_000  # microseconds a quarter
SMPTE_TICKS_PER_QUARTER: Final = (
    9_600  # a quarter, where a file that counts seconds is put on quarters
)

REPAIRS: Final = {
    "hanging-note": "a note that nothing ends was ended with its track",
    "zero-length": "a note of no ticks was dropped",
    "stray-off": "the end of a note that does not sound was passed over",
    "overlap": "a pitch starts again while it sounds: the first end is that of the first",
    "doubled": "two notes of one pitch fell on one step: the longer stays",
    "moved-end": "the end of a note was moved to the next note or to the grid",
    "missing-track": "the header counts more tracks than there are",
    "extra-track": "there are more tracks than the header counts",
    "no-track-end": "a track stops without the event that says so",
    "odd-meter": "a meter that nobody can write was passed over",
    "odd-tempo": "a tempo of no time was passed over",
    "odd-key": "a key signature past seven accidentals was passed over",
    "tail": "bytes after the last chunk were passed over",
}  # every kind of repair that is counted

TickEvent = tuple[int, Any]  # ticks, and what happens there

# A note as one whole number: its tick, then velocity, channel, program and pitch in these bits.
_TICK_BITS: Final = 25
_VELOCITY_BITS: Final = 18
_CHANNEL_BITS: Final = 14
_PROGRAM_BITS: Final = 7
_MAX_TICK: Final = 2**37  # ticks; what is later is refused before anything is made of it


@dataclass
class Track:
    """What one chunk holds."""

    name: str = ""
    end: int = 0  # the tick of its last event
    program: tuple[int, int] | None = None  # channel and program of its first program change
    packed_notes: list[int] = field(default_factory=list)  # its notes, see _TICK_BITS
    note_ends: list[int] = field(default_factory=list)  # theirs; -1 while a note sounds
    pedals: list[tuple[int, int, bool]] = field(default_factory=list)  # tick, channel, is down
    texts: list[tuple[int, str]] = field(default_factory=list)
    meters: list[TickEvent] = field(default_factory=list)
    keys: list[TickEvent] = field(default_factory=list)
    tempos: list[TickEvent] = field(default_factory=list)  # microseconds a quarter

    @cached_property
    def notes(self) -> TickNotes:
        """The notes that last, as arrays."""
        return TickNotes.of(self.packed_notes, self.note_ends, self.end)


@dataclass(frozen=True)
class TickNotes:
    """The notes of a track as arrays of one length, in the order of their onsets."""

    onsets: Any
    ends: Any
    pitches: Any
    velocities: Any
    instruments: Any  # channel * 128 + program

    @classmethod
    def of(cls, packed: list[int], ends: list[int], last: int) -> TickNotes:
        """Unpack a walk's notes; what nothing ends lasts to the last tick."""
        found = np.array(packed, dtype=np.int64)
        stops = np.array(ends, dtype=np.int64)
        stops[stops < 0] = last
        onsets = found >> _TICK_BITS
        lasting = stops > onsets
        found, stops, onsets = found[lasting], stops[lasting], onsets[lasting]
        return cls(
            onsets, stops, found & 127, found >> _VELOCITY_BITS & 127, found >> _PROGRAM_BITS & 2047
        )

    def __len__(self) -> int:
        return len(self.onsets)


@dataclass(frozen=True)
class ParsedMidi:
    """A whole file: its kind (format 0, 1 or 2), its division, its tracks, what was repaired."""

    smf_format: int
    ticks_per_quarter: int
    tracks: tuple[Track, ...]
    repairs: Counter[str]
    ticks_per_second: Fraction | None = None  # of a file that counts film frames

    def split_tunes(self) -> Iterator[ParsedMidi]:
        """Yield the tunes of a file: each track of format 2 is one, any other file is one."""
        if self.smf_format != 2:
            yield self
            return
        for track in self.tracks:
            if track.packed_notes:
                yield ParsedMidi(1, self.ticks_per_quarter, (track,), self.repairs,
                             self.ticks_per_second)  # fmt: skip

    def merge_events(self, name: str) -> list[TickEvent]:
        """Return one kind of event of all tracks in order; of two at a tick the last holds."""
        events = [event for track in self.tracks for event in getattr(track, name)]
        events.sort(key=lambda event: event[0])
        return list(dict(events).items())


def make_refusal(offset: int, fault: str, code: str) -> Refusal:
    """Return the refusal of a file, at a byte."""
    return Refusal(f"{fault}; the file was left out", place=f"byte {offset}", code=code)


def parse_midi(data: bytes) -> ParsedMidi:
    """Walk over every byte of a file. Raises Refusal."""
    if len(data) > MAX_BYTES:
        raise make_refusal(MAX_BYTES, f"it is larger than {MAX_BYTES:,} bytes", "too-large")
    kind, counted, division, at = _header(data)
    repairs: Counter[str] = Counter()
    tracks: list[Track] = []
    left = MAX_EVENTS
    for start, stop in _chunks(data, at, repairs):
        if len(tracks) == MAX_TRACKS:
            raise make_refusal(start, f"it has more than {MAX_TRACKS:,} tracks", "too-large")
        track = Track()
        left = _parse_track(data, start, stop, track, left, repairs)
        tracks.append(track)
        if isinstance(division, int):
            _within_limit(stop, track, division)
    repairs["missing-track"] += max(0, counted - len(tracks))
    repairs["extra-track"] += max(0, len(tracks) - counted)
    if isinstance(division, int):
        return ParsedMidi(kind, division, tuple(tracks), repairs)
    return ParsedMidi(kind, SMPTE_TICKS_PER_QUARTER, tuple(tracks), repairs, division)


def _header(data: bytes) -> tuple[int, int, int | Fraction, int]:
    """Return format, tracks, ticks a quarter (or a second, a Fraction), and where chunks start."""
    if data[:4] != b"MThd":
        raise make_refusal(0, "it is no MIDI file: MThd is missing", "format")
    length = int.from_bytes(data[4:8], "big")
    if len(data) < 14 or length < 6 or 8 + length > len(data):
        raise make_refusal(8, "the header is cut off", "truncated")
    kind, counted, division = (int.from_bytes(data[n : n + 2], "big") for n in (8, 10, 12))
    if kind > 2:
        raise make_refusal(8, f"its format is {kind}; known are 0, 1 and 2", "format")
    if division & 0x8000:
        return kind, counted, _ticks_per_second(data), 8 + length
    if division == 0:
        raise make_refusal(12, "it has 0 ticks a quarter", "damaged")
    return kind, counted, division, 8 + length


def _ticks_per_second(data: bytes) -> Fraction:
    """Read a division in film frames; 29 stands for 29.97, as in the standard."""
    frames = 256 - data[12]
    if frames not in (24, 25, 29, 30) or data[13] == 0:
        fault = f"it counts {data[13]} ticks in a film frame, {frames} frames a second"
        raise make_refusal(12, fault, "damaged")
    return (Fraction(30_000, 1_001) if frames == 29 else Fraction(frames)) * data[13]


def _chunks(data: bytes, at: int, repairs: Counter[str]) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each track's bytes; other chunks are passed over."""
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


def _within_limit(place: int, track: Track, ticks_per_quarter: int) -> None:
    if track.end > MAX_QUARTERS * ticks_per_quarter:
        raise make_refusal(place, f"it lasts over {MAX_QUARTERS:,} quarters", "too-large")


def _parse_track(
    data: bytes, start: int, stop: int, track: Track, events_left: int, repairs: Counter[str]
) -> int:
    """Follow the events of a track, and return how many more the file may have."""
    follower = _TrackParser(data, track, repairs)
    try:
        at, events_left = follower.parse_events(start, stop, events_left)
    except IndexError:
        at = stop + 1
    if at > stop:
        raise make_refusal(stop, "an event runs past the end of its track", "truncated")
    if track.end > _MAX_TICK:
        raise make_refusal(stop, f"it lasts over {MAX_QUARTERS:,} quarters", "too-large")
    follower.finish()
    return events_left


class _TrackParser:
    """The events of one track, one after the other."""

    def __init__(self, data: bytes, track: Track, repairs: Counter[str]) -> None:
        self.data = data
        self.track = track
        self.repairs = repairs
        self.bases = [channel << _CHANNEL_BITS for channel in range(16)]  # and their programs
        self.queued_notes: dict[int, deque[int]] = {}  # further notes of a pitch that sounds
        # A grace note of no ticks is written by some with its end before its start: a stray end,
        # and a note that nothing ends. The next start of its pitch tells the two cases apart.
        self.stray_ends: dict[
            int, deque[int]
        ] = {}  # channel and pitch to ticks of ends without notes
        self.grace_notes: dict[int, int] = {}  # and to the note that starts at that tick
        self.has_end = False

    def parse_events(self, at: int, stop: int, events_left: int) -> tuple[int, int]:
        """Take events until one says that the track ends; return the place, and what is left.

        One loop and no calls for notes: it runs once for every event of every file.
        """
        data, bases, waiting = self.data, self.bases, self.queued_notes
        packed, ends = self.track.packed_notes, self.track.note_ends
        strays, graces = self.stray_ends, self.grace_notes
        sounding = [-1] * 2048  # channel and pitch to the note that sounds
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
            byte = data[at]
            if byte > 0x7F:
                if byte > 0xEF:
                    at = self.parse_long_event(at, tick)
                    if self.has_end:
                        break
                    continue
                status = byte
                at += 1
                byte = data[at]
            if not 0x80 <= status < 0xA0:
                at = self.parse_channel_event(at, status, tick)
                continue
            velocity = data[at + 1]
            if (byte | velocity) > 0x7F:
                raise make_refusal(at, "a data byte is over 127", "damaged")
            at += 2
            key = (status & 15) << 7 | byte
            if velocity and status > 0x8F:
                if sounding[key] < 0:
                    sounding[key] = len(packed)
                    if key in strays:
                        self.record_grace_note(key, tick, len(packed))
                elif graces and graces.pop(key, -1) == sounding[key]:
                    ends[sounding[key]] = packed[sounding[key]] >> 25
                    sounding[key] = len(packed)
                    self.record_grace_note(key, tick, len(packed))
                else:
                    waiting.setdefault(key, deque()).append(len(packed))
                packed.append(tick << 25 | velocity << 18 | bases[status & 15] | byte)
                ends.append(-1)
            elif sounding[key] < 0:
                strays.setdefault(key, deque()).append(tick)
                self.repairs["stray-off"] += 1
            else:
                ends[sounding[key]] = tick
                sounding[key] = self.pop_queued_note(key) if waiting else -1
        self.track.end = tick
        return at, events_left

    def record_grace_note(self, key: int, tick: int, note: int) -> None:
        """Remember a note that starts where an end came before it, one note for every such end."""
        line = self.stray_ends.get(key)
        while line and line[0] < tick:
            line.popleft()
        if line:
            line.popleft()
            self.grace_notes[key] = note

    def pop_queued_note(self, key: int) -> int:
        """Return the note that the next end of a pitch belongs to: the first that started."""
        line = self.queued_notes.get(key)
        if not line:
            return -1
        self.repairs["overlap"] += 1
        return line.popleft()

    def parse_channel_event(self, at: int, status: int, tick: int) -> int:
        """Take a program, a pedal or what is no matter here; return what follows."""
        first = self.data[at]
        if not status or first > 0x7F:
            raise make_refusal(at, "a note has no status, or a data byte is over 127", "damaged")
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
        """Take an event that says its length; return what follows."""
        kind, start, length = _parse_event_length(self.data, at)
        if kind == 0x2F:
            self.has_end = True
        elif kind:
            payload = self.data[start : start + length]
            if (odd := _store_meta_event(self.track, tick, kind, payload)) is not None:
                self.repairs[odd] += 1
        return start + length

    def finish(self) -> None:
        """Count what the track left open."""
        track = self.track
        for note in self.grace_notes.values():
            if track.note_ends[note] < 0:
                track.note_ends[note] = track.packed_notes[note] >> _TICK_BITS
        starts = map(rshift, track.packed_notes, repeat(_TICK_BITS))
        self.repairs["hanging-note"] += track.note_ends.count(-1)
        self.repairs["zero-length"] += sum(map(eq, starts, track.note_ends))
        self.repairs["no-track-end"] += not self.has_end


def _parse_variable_length(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of one to four bytes, and where it stops."""
    value = 0
    for place in range(at, at + 4):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    raise make_refusal(at, "a number has more than four bytes", "damaged")


def _parse_event_length(data: bytes, at: int) -> tuple[int, int, int]:
    """Read the kind (0 for system messages), place and length of an event that says its length."""
    if data[at] == 0xFF:
        length, start = _parse_variable_length(data, at + 2)
        return data[at + 1], start, length
    if data[at] in (0xF0, 0xF7):
        length, start = _parse_variable_length(data, at + 1)
        return 0, start, length
    raise make_refusal(at, f"an event has the status {data[at]}", "damaged")


def _store_meta_event(track: Track, tick: int, kind: int, payload: bytes) -> str | None:
    """Keep what a meta event says; return the kind of repair where that is impossible."""
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
    """Return the key that a signature names."""
    if is_minor:
        return Key(name_on_fifths(fifths + 3), "minor")
    return Key(name_on_fifths(fifths), "major")
