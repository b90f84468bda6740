"""Parser of Standard MIDI Files that checks every byte.

Times are in ticks, as Python integers, so none can overflow. Ambiguities and minor faults are
repaired and counted by kind, see REPAIRS.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musicgen.errors import Refusal
from musicgen.music.arrays import BoolArray, IntArray, unique_sorted
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


def _make_empty() -> IntArray:
    return np.empty(0, dtype=np.int64)


@dataclass
class Track:
    """The contents of one track chunk."""

    name: str = ""
    end: int = 0  # the tick of its last event
    program: tuple[int, int] | None = None  # (channel, program) of its first program change
    packed_notes: IntArray = field(default_factory=_make_empty)  # (note,) see _TICK_BITS
    note_ends: IntArray = field(default_factory=_make_empty)  # (note,) tick; -1: with the track
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
    def of(cls, notes: IntArray, ends: IntArray, track_end: int) -> TickNotes:
        """Unpack the notes of a track; those without an end last until its last tick.

        Args:
            notes: (note,) int64, packed.
            ends: (note,) int64 ticks, -1 for those without an end.
            track_end: tick of the last event.
        """
        ends = np.where(ends < 0, track_end, ends)
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
            if len(track.packed_notes):
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
    """Parses the events of one track."""

    def __init__(self, data: bytes, track: Track, repairs: Counter[str]) -> None:
        self.data = data
        self.track = track
        self.repairs = repairs
        self.bases = [channel << _CHANNEL_BITS for channel in range(16)]  # with their programs
        # The starts and ends of notes, packed as notes are; the velocity of an end is 0.
        self.note_events: list[int] = []  # since the last run
        self.stored_events: list[IntArray] = []  # before
        self.has_end = False

    def parse_events(self, at: int, stop: int, events_left: int) -> tuple[int, int]:
        """Parse events until the end-of-track event; return the offset and the events left.

        This loop runs once per event, apart from long runs of notes, so notes need no call.
        """
        data, bases = self.data, self.bases
        tick = status = 0
        gap = _MIN_GAP  # bytes to the next attempt at a run
        next_run, last_run = at + gap, stop - _MIN_BYTES
        while at < stop:
            if next_run <= at < last_run:
                run = _parse_run(data, at, stop, status, events_left)
                gap = _MIN_GAP if len(run.ticks) >= _MIN_RUN else 2 * gap
                next_run = run.stop + gap
                if len(run.ticks):
                    self.store_run(run, tick)
                    tick, at, status = tick + int(run.ticks[-1]), run.stop, int(run.statuses[-1])
                    events_left -= len(run.ticks)
                    continue
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
            velocity = velocity if status > 0x8F else 0
            self.note_events.append(tick << 25 | velocity << 18 | bases[status & 15] | byte)
        self.track.end = tick
        return at, events_left

    def store_run(self, run: _Run, tick: int) -> None:
        """Store the notes and pedals of a run that starts after a tick."""
        ticks = run.ticks + tick
        is_pedal = (run.statuses & 0xF0 == 0xB0) & (run.firsts == 64)
        if is_pedal.any():
            channels, is_down = run.statuses[is_pedal] & 15, run.seconds[is_pedal] >= 64
            columns = ticks[is_pedal], channels, is_down
            self.track.pedals += zip(*(column.tolist() for column in columns), strict=True)
        is_note = run.statuses < 0xA0
        velocities = np.where(run.statuses > 0x8F, run.seconds, 0)
        bases = np.array(self.bases)[run.statuses & 15]
        packed = ticks << _TICK_BITS | velocities << _VELOCITY_BITS | bases | run.firsts
        self.stored_events += [np.array(self.note_events, dtype=np.int64), packed[is_note]]
        self.note_events = []

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
        """Pair the starts and ends of notes, and count the faults of the track."""
        track = self.track
        last_events = np.array(self.note_events, dtype=np.int64)
        events = np.concatenate([*self.stored_events, last_events])
        track.packed_notes = events[events >> _VELOCITY_BITS & 127 > 0]
        track.note_ends = _find_note_ends(events, self.repairs)
        self.repairs["hanging-note"] += int((track.note_ends < 0).sum())
        has_no_length = track.packed_notes >> _TICK_BITS == track.note_ends
        self.repairs["zero-length"] += int(has_no_length.sum())
        self.repairs["no-track-end"] += not self.has_end


# Runs of events


_WINDOW: Final = 16_384  # most bytes of a run
_MIN_BYTES: Final = 256  # that are worth an attempt at a run
_MIN_GAP: Final = 32  # bytes from an event that ends a run to the next attempt at a run
_MIN_RUN: Final = 64  # events; after a shorter run, the gap is doubled


class _Run(NamedTuple):
    """Channel events with two data bytes each, in sequence; (event,) int64 each."""

    stop: int  # offset after the last one
    ticks: IntArray  # since the event before the run
    statuses: IntArray
    firsts: IntArray  # data bytes
    seconds: IntArray


def _parse_run(data: bytes, at: int, stop: int, status: int, most: int) -> _Run:
    """Parse channel events with two data bytes each, up to the first that is different.

    Each has three bytes under 128: the last one of its delta time, and its data bytes. The others
    continue the delta time or are the status, so their number between those three tells them apart.

    Args:
        data: of the file.
        at: offset of the first event.
        stop: offset of the end of the track.
        status: in force before the first event.
        most: events to parse.
    """
    window = np.frombuffer(data, np.uint8, min(stop - at, _WINDOW), at)
    low = np.flatnonzero(window < 0x80)
    deltas, firsts, seconds = low[: len(low) // 3 * 3].reshape(-1, 3).T
    starts = np.zeros(len(deltas) + 1, dtype=np.int64)
    starts[1:] = seconds + 1
    statuses = _fill_statuses(window, deltas, firsts - deltas == 2, status)
    is_valid = (
        (deltas - starts[:-1] < 4)
        & (firsts - deltas <= 2)
        & (seconds - firsts == 1)
        & _HAS_TWO_DATA_BYTES[statuses]
    )
    count = min(len(deltas) if is_valid.all() else int(is_valid.argmin()), most)
    ticks = np.cumsum(_read_deltas(window, starts[:count], deltas[:count]))
    data_bytes = window[firsts[:count]], window[seconds[:count]]
    return _Run(
        at + int(starts[count]), ticks, statuses[:count], *(b.astype(np.int64) for b in data_bytes)
    )


_HAS_TWO_DATA_BYTES: Final = np.array([kind in (8, 9, 10, 11, 14) for kind in range(16)]).repeat(16)


def _fill_statuses(
    window: NDArray[np.uint8], deltas: IntArray, has_status: BoolArray, status: int
) -> IntArray:
    """Return the status of each event: its own, or the last one before it."""
    rows = np.flatnonzero(has_status)
    statuses = np.empty(len(rows) + 1, dtype=np.int64)
    statuses[0] = status
    statuses[1:] = window[deltas[rows] + 1]
    return statuses[np.cumsum(has_status)]


def _read_deltas(window: NDArray[np.uint8], starts: IntArray, stops: IntArray) -> IntArray:
    """Return the delta times from offsets `starts` to `stops`, which are up to four bytes long."""
    ticks = window[stops].astype(np.int64)
    sizes = stops - starts
    for distance in range(1, int(sizes.max(initial=0)) + 1):
        longer = np.flatnonzero(sizes >= distance)
        part = window[stops[longer] - distance].astype(np.int64) & 127
        ticks[longer] += part << 7 * distance
    return ticks


# The ends of notes


def _find_note_ends(events: IntArray, repairs: Counter[str]) -> IntArray:
    """Find where notes end: of one channel and pitch, the first end is that of the first note.

    Args:
        events: (event,) int64 starts and ends of notes, packed as notes are, in order.
        repairs: counts overlaps and ends without a note.

    Returns:
        (note,) int64 ticks, -1 for notes without an end.
    """
    is_start = events >> _VELOCITY_BITS & 127 > 0
    keys = (events >> _CHANNEL_BITS & 15) << 7 | events & 127
    order = np.argsort(keys.astype(np.int16), kind="stable")  # a radix sort, at 16 bits
    ends = np.full(len(events), -1)
    ends[order[is_start[order]]] = _pair_by_key(
        keys[order], events[order] >> _TICK_BITS, is_start[order], repairs
    )
    return ends[is_start]


def _pair_by_key(
    keys: IntArray, ticks: IntArray, is_start: BoolArray, repairs: Counter[str]
) -> IntArray:
    """Find where notes end, from events sorted by key, a number of channel and pitch.

    Returns:
        (note,) int64 ticks, in the order of the starts.
    """
    starts_before = np.zeros(len(keys) + 1, dtype=np.int64)
    np.cumsum(is_start, out=starts_before[1:])
    ends_before = np.arange(len(keys) + 1) - starts_before
    balance = starts_before - ends_before
    # index of the first event of the key of each event
    key_firsts = np.concatenate([[0], np.cumsum(np.bincount(keys))])[keys]
    sounding = balance[1:] - balance[key_firsts]  # notes of the key after each event
    stray_keys = unique_sorted(keys[sounding < 0])
    is_end = ~is_start
    ends = np.flatnonzero(is_end & ~np.isin(keys, stray_keys) if len(stray_keys) else is_end)
    firsts = key_firsts[ends]
    notes = starts_before[firsts] + ends_before[ends] - ends_before[firsts]
    note_ends = np.full(starts_before[-1], -1)
    note_ends[notes] = ticks[ends]
    repairs["overlap"] += int((sounding[ends] > 0).sum())
    for key in stray_keys.tolist():
        first, stop = np.searchsorted(keys, [key, key + 1]).tolist()
        note_ends[starts_before[first] : starts_before[stop]] = _pair_with_strays(
            ticks[first:stop].tolist(), is_start[first:stop].tolist(), repairs
        )
    return note_ends


def _pair_with_strays(
    ticks: Sequence[int], is_start: Sequence[bool], repairs: Counter[str]
) -> list[int]:
    """Return the ends of the notes of one channel and pitch, where some end has no note.

    Some files end a grace note of zero ticks before its start: a stray end, then a note that
    nothing ends. The next start of its pitch tells this from a note that sounds on.

    Args:
        ticks: of the starts and ends of notes, in order.
        is_start: whether each is a start.
        repairs: counts overlaps and ends without a note.
    """
    starts: list[int] = []
    ends: list[int] = []
    sounding: deque[int] = deque()  # notes; the first one ends next
    stray_ticks: deque[int] = deque()  # of ends without a note
    grace_note = -1  # the last note that started at such a tick
    for tick, starts_note in zip(ticks, is_start, strict=True):
        note = len(ends)
        if not starts_note and sounding:
            ends[sounding.popleft()] = tick
            repairs["overlap"] += bool(sounding)
        elif not starts_note:
            stray_ticks.append(tick)
            repairs["stray-off"] += 1
        elif sounding and sounding[0] != grace_note:
            sounding.append(note)
            grace_note = -1
        else:
            if sounding:
                ends[grace_note] = starts[grace_note]
                sounding.popleft()
            sounding.appendleft(note)
            while stray_ticks and stray_ticks[0] < tick:
                stray_ticks.popleft()
            grace_note = note if stray_ticks else -1
            if stray_ticks:
                stray_ticks.popleft()
        if starts_note:
            starts.append(tick)
            ends.append(-1)
    if grace_note >= 0 and ends[grace_note] < 0:
        ends[grace_note] = starts[grace_note]
    return ends


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
