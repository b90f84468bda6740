"""Standard MIDI files: `render` writes one, `parse` reads one back equal in what is played.

What MIDI has no event for stands in text events of the first track, which other programs pass over:

====================  =====================================================
musicgen:key          tonic and mode, where the signature does not say both
musicgen:bars         the lengths of the bars, where the meters do not say them
musicgen:chord        a chord symbol
musicgen:rhythm       the kind of tune
====================  =====================================================
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from mido import Message, MetaMessage, MidiFile, MidiTrack, bpm2tempo

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.grid import to_steps
from musicgen.music.performed import performed
from musicgen.music.score import (
    STEPS_PER_QUARTER,
    Mark,
    MarkKind,
    Note,
    Part,
    Score,
)
from musicgen.music.theory import Key, Meter, name_on_fifths

if TYPE_CHECKING:
    from pretty_midi import PrettyMIDI

TICKS_PER_QUARTER: Final = 480
TICKS_PER_STEP: Final = TICKS_PER_QUARTER // STEPS_PER_QUARTER
MAX_BYTES: Final = 8 * 2**20
MAX_QUARTERS: Final = 20_000
MAX_STEPS: Final = MAX_QUARTERS * STEPS_PER_QUARTER
MAX_TRACKS: Final = 1_024
MAX_EVENTS: Final = 500_000
MAX_BARS: Final = 65_536  # that words may tell
DRUM_CHANNEL: Final = 9
_CHANNELS: Final = tuple(channel for channel in range(16) if channel != DRUM_CHANNEL)
_OWN: Final = "musicgen:"

Timed = tuple[int, Any]  # steps or ticks, and what happens there


def render(score: Score, *, text_events: Sequence[str] = ()) -> bytes:
    """Write a score as it is played, with further text events at its start.

    Raises InvalidValue for a tempo that MIDI cannot say, and past MAX_QUARTERS.
    """
    played = score.unfolded()
    if played.end > MAX_STEPS:
        raise InvalidValue(f"the tune lasts over {MAX_QUARTERS:,} quarters; write a part of it")
    file = MidiFile(type=1, ticks_per_beat=TICKS_PER_QUARTER)
    file.tracks.append(_conductor(played, text_events))
    for index, channel in enumerate(_channels(played.parts)):
        file.tracks.append(_part_track(played, index, channel))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def parse(data: bytes, source: str = "") -> tuple[tuple[Score, ...], tuple[Refusal, ...]]:
    """Read the one tune of a MIDI file; what cannot be read is refused, never raised."""
    try:
        file = _survey(data)
        return (_score(file),), ()
    except Refusal as refusal:
        return (), (refusal.at(source),)
    except InvalidValue as fault:
        return (), (Refusal(f"{fault}; it was left out", source=source, code="damaged"),)


def perform(data: bytes, source: str = "") -> tuple[tuple[Score, ...], tuple[Refusal, ...]]:
    """Read what a MIDI file plays, at 1,250 quarters a minute: one step is one millisecond."""
    scores, refusals = parse(data, source)
    return tuple(map(performed, scores)), refusals


def text_events(data: bytes) -> tuple[str, ...]:
    """Return the texts of a MIDI file in order. Raises Refusal."""
    return tuple(text for track in _survey(data).tracks for _, text in track.texts)


def to_pretty_midi(score: Score) -> PrettyMIDI:
    """Return a score as the object that most MIDI tools in Python pass around."""
    from pretty_midi import PrettyMIDI  # slow to import, and only wanted here

    return PrettyMIDI(io.BytesIO(render(score)), charset="utf-8")


# Writing


def _conductor(score: Score, texts: Sequence[str]) -> MidiTrack:
    """Build the first track: title, texts and marks."""
    own = [*_texts_of(score), *texts]
    start = [_name(score.title), *(_text(text) for text in own)]
    events = [(0, message) for message in start if message is not None]
    for mark in score.marks:
        events += [(mark.onset, message) for message in _mark_messages(mark)]
    return _track(events, score.end)


def _part_track(score: Score, index: int, channel: int) -> MidiTrack:
    part = score.parts[index]
    first = [_name(part.name), Message("program_change", channel=channel, program=part.program)]
    events = [(0, message) for message in first if message is not None]
    for onset, is_on, pitch, velocity in sorted(_switches(score.notes, index)):
        kind = "note_on" if is_on else "note_off"
        events.append((onset, Message(kind, channel=channel, note=pitch, velocity=velocity)))
    return _track(events, score.end)


def _switches(notes: Iterable[Note], part: int) -> Iterator[tuple[int, bool, int, int]]:
    """Yield (step, on or off, pitch, velocity); a sounding pitch that starts again ends first."""
    mine = sorted((n for n in notes if n.part == part), key=lambda n: (n.pitch, n.onset, -n.end))
    for _, same in groupby(mine, key=lambda n: n.pitch):
        line = list({note.onset: note for note in reversed(list(same))}.values())[::-1]
        for note, following in zip(line, [*line[1:], None], strict=True):
            end = note.end if following is None else min(note.end, following.onset)
            yield note.onset, True, note.pitch, note.velocity
            yield end, False, note.pitch, 0


def _track(events: list[tuple[int, Any]], end: int) -> MidiTrack:
    """Turn steps from the start into ticks from the event before."""
    track = MidiTrack()
    now = 0
    for onset, message in [*events, (max(end, now), MetaMessage("end_of_track"))]:
        message.time = (onset - now) * TICKS_PER_STEP
        track.append(message)
        now = onset
    return track


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


def _texts_of(score: Score) -> Iterator[str]:
    if score.rhythm:
        yield f"{_OWN}rhythm {score.rhythm}"
    lines = [mark.onset for mark in score.of("bar")]
    meters = [(mark.onset, mark.value) for mark in score.of("meter")]
    if lines != _bar_lines(score.notes, meters) and len(lines) <= MAX_BARS:
        yield f"{_OWN}bars {_lengths_text(lines)}".rstrip()


def _mark_messages(mark: Mark) -> Iterator[MetaMessage]:
    match mark.kind:
        case "tempo":
            yield MetaMessage("set_tempo", tempo=_tempo(mark.value))
        case "meter":
            beats, unit = mark.value.beats, mark.value.unit
            yield MetaMessage("time_signature", numerator=beats, denominator=unit)
        case "key":
            yield from _key_messages(mark.value)
        case "chord":
            yield _text(f"{_OWN}chord {mark.value}")


def _tempo(qpm: float) -> int:
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
    if key != _key_of_signature(written.fifths, is_minor=is_minor):
        yield _text(f"{_OWN}key {key}")


def _lengths_text(lines: Sequence[int]) -> str:
    """Write the lengths between bar lines; "144*8" is eight bars of 144 steps."""
    lengths = [after - before for before, after in zip([0, *lines], lines, strict=False)]
    counted = [(length, len(list(same))) for length, same in groupby(lengths)]
    return " ".join(f"{length}*{count}" if count > 1 else str(length) for length, count in counted)


# Both ways


def _bar_lines(notes: Sequence[Note], meters: Sequence[Timed]) -> list[int]:
    """Return where the meters put bar lines; the last at or after the last note's end."""
    end = max((note.end for note in notes), default=0)
    starts = [] if meters and meters[0][0] == 0 else [(0, Meter(4, 4))]
    starts += [(onset, meter) for onset, meter in meters if onset < end]
    lines: list[int] = []
    for (start, meter), (stop, _) in zip(starts, [*starts[1:], (None, None)], strict=True):
        last = end + meter.steps if stop is None else stop
        lines += range(start + meter.steps, last, meter.steps)
        if stop is not None:
            lines.append(stop)
    return lines


def _key_of_signature(fifths: int, *, is_minor: bool) -> Key:
    if is_minor:
        return Key(name_on_fifths(fifths + 3), "minor")
    return Key(name_on_fifths(fifths), "major")


# Reading: a survey of all bytes first, then symusic for the notes


@dataclass
class _Track:
    """What one chunk holds besides its notes; times in ticks."""

    chunk: bytes = b""
    name: str = ""
    program: tuple[int, int] | None = None  # channel and program of its first program change
    texts: list[tuple[int, str]] = field(default_factory=list)
    meters: list[Timed] = field(default_factory=list)
    keys: list[Timed] = field(default_factory=list)
    tempos: list[Timed] = field(default_factory=list)

    def note_meta(self, tick: int, kind: int, payload: bytes) -> None:
        """Keep what a meta event says; one that says nothing possible is passed over."""
        match kind, len(payload):
            case (0x01, _):
                self.texts.append((tick, _decoded(payload)))
            case (0x03, _):
                self.name = self.name or _decoded(payload)
            case (0x51, 3) if any(payload):
                self.tempos.append((tick, _qpm(int.from_bytes(payload, "big"))))
            case (0x58, 4) if 1 <= payload[0] <= 64 and payload[1] <= 6:
                self.meters.append((tick, Meter(payload[0], 2 ** payload[1])))
            case (0x59, 2) if -7 <= (fifths := (payload[0] + 128) % 256 - 128) <= 7:
                self.keys.append((tick, _key_of_signature(fifths, is_minor=payload[1] == 1)))


@dataclass(frozen=True)
class _File:
    ticks_per_quarter: int
    tracks: tuple[_Track, ...]

    def all_of(self, name: str) -> list[Timed]:
        """Return one kind of event of all tracks, in steps; of two at a step the last holds."""
        events = [event for track in self.tracks for event in getattr(track, name)]
        events.sort(key=lambda event: event[0])
        return list({self.steps(tick): value for tick, value in events}.items())

    def steps(self, ticks: int) -> int:
        """Round ticks to steps."""
        return to_steps(ticks, self.ticks_per_quarter, STEPS_PER_QUARTER)


def _refused(place: int, fault: str, code: str) -> Refusal:
    return Refusal(f"{fault}; the file was left out", place=f"byte {place}", code=code)


def _survey(data: bytes) -> _File:
    """Walk over every byte of a file, so that nothing in it can mislead what reads it next."""
    if len(data) > MAX_BYTES:
        raise _refused(MAX_BYTES, f"it is larger than {MAX_BYTES:,} bytes", "too-large")
    ticks_per_quarter, at = _header(data)
    tracks: list[_Track] = []
    events = 0
    for start, stop in _chunks(data, at):
        if len(tracks) == MAX_TRACKS:
            raise _refused(start, f"it has more than {MAX_TRACKS:,} tracks", "too-large")
        track = _Track()
        events = _walk(data, start, stop, track, events, MAX_QUARTERS * ticks_per_quarter)
        tracks.append(track)
    return _File(ticks_per_quarter, tuple(tracks))


def _header(data: bytes) -> tuple[int, int]:
    """Return the ticks a quarter, and where the first chunk starts."""
    if data[:4] != b"MThd":
        raise _refused(0, "it is no MIDI file: MThd is missing", "not-midi")
    length = int.from_bytes(data[4:8], "big")
    if len(data) < 14 or length < 6 or 8 + length > len(data):
        raise _refused(8, "the header is cut off", "truncated")
    if data[12] & 0x80:
        raise _refused(12, "it counts time in film frames (SMPTE), not in quarters", "smpte")
    ticks_per_quarter = int.from_bytes(data[12:14], "big")
    if ticks_per_quarter == 0:
        raise _refused(12, "it has 0 ticks a quarter", "damaged")
    return ticks_per_quarter, 8 + length


def _chunks(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each track's bytes; other chunks are passed over."""
    while at + 8 <= len(data):
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "big")
        if stop > len(data):
            fault = f"a chunk of {stop - start:,} bytes has only {len(data) - start:,}"
            raise _refused(at, fault, "truncated")
        if data[at : at + 4] == b"MTrk":
            yield start, stop
        at = stop


def _walk(data: bytes, start: int, stop: int, track: _Track, events: int, latest: int) -> int:
    """Check the events of a track, collect what is not a note, and return the count of events."""
    at = start
    tick = running = 0
    try:
        while at < stop:
            delta, at = _number(data, at)
            tick += delta
            events += 1
            if tick > latest or events > MAX_EVENTS:
                raise _past_limits(at, events)
            if data[at] < 0xF0:
                if data[at] >= 0x80:
                    running, at = data[at], at + 1
                at = _channel_event(data, at, running, track)
            else:
                kind, at, length = _long_event(data, at)
                track.note_meta(tick, kind, data[at : at + length])
                at += length
                if kind == 0x2F:
                    break
    except IndexError:
        at = stop + 1
    if at > stop:
        raise _refused(stop, "an event runs past the end of its track", "truncated")
    track.chunk = data[start:at]
    return events


def _past_limits(at: int, events: int) -> Refusal:
    if events > MAX_EVENTS:
        return _refused(at, f"it has more than {MAX_EVENTS:,} events", "too-large")
    return _refused(at, f"it lasts over {MAX_QUARTERS:,} quarters", "too-large")


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of one to four bytes, and where it stops."""
    value = 0
    for place in range(at, at + 4):
        byte = data[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    raise _refused(at, "a number has more than four bytes", "damaged")


def _channel_event(data: bytes, at: int, status: int, track: _Track) -> int:
    if not status or data[at] >= 0x80:
        raise _refused(at, "a note has no status, or a data byte is over 127", "damaged")
    if 0xC0 <= status < 0xE0:
        if status < 0xD0 and track.program is None:
            track.program = status & 0x0F, data[at]
        return at + 1
    if data[at + 1] >= 0x80:
        raise _refused(at + 1, "a data byte is over 127", "damaged")
    return at + 2


def _long_event(data: bytes, at: int) -> tuple[int, int, int]:
    """Read the kind (0 for system messages), place and length of an event that says its length."""
    if data[at] == 0xFF:
        length, start = _number(data, at + 2)
        return data[at + 1], start, length
    if data[at] in (0xF0, 0xF7):
        length, start = _number(data, at + 1)
        return 0, start, length
    raise _refused(at, f"an event has the status {data[at]}", "damaged")


def _decoded(payload: bytes) -> str:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return payload.decode("latin-1")


def _qpm(microseconds: int) -> float:
    """Return the shortest number of quarters a minute that writes these microseconds a quarter."""
    exact = 60_000_000 / microseconds
    rounded = (round(exact, digits) for digits in range(7))
    return next((q for q in rounded if q and bpm2tempo(q) == microseconds), exact)


def _score(file: _File) -> Score:
    """Build the score of a surveyed file."""
    notes: list[Note] = []
    parts: list[Part] = []
    for index, track in enumerate(file.tracks):
        for part, played in _parts(file, track, is_first=index == 0):
            notes += [Note(*values, part=len(parts)) for values in played]
            parts.append(part)
    if not notes:
        raise Refusal("it has no notes; it was left out", code="empty")
    texts = _own_texts(file)
    title = file.tracks[0].name
    rhythm = next((value for _, kind, value in texts if kind == "rhythm"), "")
    return Score(tuple(notes), _marks(file, notes, texts), tuple(parts), title, rhythm)


def _parts(
    file: _File, track: _Track, *, is_first: bool
) -> Iterator[tuple[Part, list[tuple[int, int, int, int]]]]:
    """Yield each instrument of a track with its notes as (onset, pitch, duration, velocity)."""
    found = [t for t in _read_by_symusic(file, track) if len(t.notes)]
    for instrument in found:
        part = Part(track.name, int(instrument.program), bool(instrument.is_drum))
        yield part, list(_notes(file, instrument.notes.numpy()))
    if not found and not is_first and track.program is not None:
        channel, program = track.program
        yield Part(track.name, program, channel == DRUM_CHANNEL), []


def _read_by_symusic(file: _File, track: _Track) -> Any:
    """Let symusic read one track, so that its answer belongs to that track for certain."""
    from symusic.core import ScoreTick  # 0.1 s, and no writer needs it

    header = b"MThd" + bytes((0, 0, 0, 6, 0, 1, 0, 1)) + file.ticks_per_quarter.to_bytes(2, "big")
    chunk = b"MTrk" + len(track.chunk).to_bytes(4, "big") + track.chunk
    try:
        return ScoreTick.from_midi(header + chunk).tracks
    except (RuntimeError, ValueError) as fault:
        raise Refusal(f"{fault}; the file was left out", code="damaged") from fault


def _notes(file: _File, arrays: dict[str, Any]) -> Iterator[tuple[int, int, int, int]]:
    """Move notes to the grid; one of no ticks goes, a shorter one than a step lasts a step."""
    names = ("time", "pitch", "duration", "velocity")
    for tick, pitch, ticks, velocity in zip(*(arrays[n].tolist() for n in names), strict=True):
        if ticks > 0:
            onset = file.steps(tick)
            yield onset, pitch, max(1, file.steps(tick + ticks) - onset), velocity


def _own_texts(file: _File) -> list[tuple[int, str, str]]:
    """Return what the first track says in our own text events: (step, kind, value)."""
    said = [(t, *text.partition(" ")) for t, text in file.tracks[0].texts if text.startswith(_OWN)]
    return [(file.steps(tick), kind.removeprefix(_OWN), value) for tick, kind, _, value in said]


def _marks(
    file: _File, notes: Sequence[Note], texts: Sequence[tuple[int, str, str]]
) -> tuple[Mark, ...]:
    meters = _changes(file.all_of("meters"))
    said = next((_lines_of(value) for _, kind, value in texts if kind == "bars"), None)
    lines = _bar_lines(notes, meters) if said is None else said
    end = max([note.end for note in notes] + lines)
    timed: dict[MarkKind, list[Timed]] = {
        "meter": meters,
        "key": _changes(_keys(file, texts)),
        "tempo": _changes(file.all_of("tempos")),
        "chord": list({at: value for at, kind, value in texts if kind == "chord"}.items()),
    }
    found = [Mark(at, kind, v) for kind, events in timed.items() for at, v in events if at < end]
    return tuple(found + [Mark(line, "bar") for line in lines])


def _keys(file: _File, texts: Sequence[tuple[int, str, str]]) -> list[Timed]:
    """Return the keys; words count where they agree with the signature that they stand by."""
    keys = dict(file.all_of("keys"))
    for at, kind, value in texts:
        if kind == "key" and at in keys:
            named = _key_named(value)
            if named is not None and (named.fifths - keys[at].fifths) % 12 == 0:
                keys[at] = named
    return sorted(keys.items(), key=lambda item: item[0])


def _key_named(text: str) -> Key | None:
    try:
        return Key.parse(text)
    except InvalidValue:
        return None


def _changes(events: Sequence[Timed]) -> list[Timed]:
    """Drop events that say what already holds."""
    before = [None, *(value for _, value in events)]
    return [event for event, held in zip(events, before, strict=False) if event[1] != held]


def _lines_of(text: str) -> list[int] | None:
    """Read bar lines from their lengths, or None where the text makes no sense."""
    lines: list[int] = []
    now = 0
    for word in text.split():
        match = re.fullmatch(r"([0-9]{1,6})(?:\*([0-9]{1,6}))?", word)
        length, count = (int(match[1]), int(match[2] or 1)) if match else (0, MAX_BARS + 1)
        if count + len(lines) > MAX_BARS or now + length * count > MAX_STEPS:
            return None
        lines += [now + length * n for n in range(1, count + 1)]
        now += length * count
    return lines
