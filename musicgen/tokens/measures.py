"""The default codec: bar by bar and, inside a bar, voice by voice.

A note is its duration, then its pitch, then the further pitches of a chord. `encode` and `decode`
are exact inverses on canonical scores; `decode` accepts any ids and counts those it could not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.bars import Bar, find_bars
from musicgen.music.durations import Tuplet
from musicgen.music.dynamics import (
    LEVEL_VELOCITIES,
    find_default_velocities,
    find_level,
    has_dynamics,
)
from musicgen.music.general_midi import find_family
from musicgen.music.notes import NoteColumns
from musicgen.music.score import Ending, Mark, Note, Part, Score
from musicgen.music.symbols_part import find_symbols_part
from musicgen.music.theory import ChordSymbol, Key, Meter
from musicgen.music.voices import REST, BarVoices, Chords, Segments, cut_into_segments
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    ScoreCodec,
    Setting,
    count_doubled_notes,
)
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar, OpenTuplet
from musicgen.tokens.level_writer import find_level_changes
from musicgen.tokens.lineup import LineupState, iter_lineup_events, read_lineup
from musicgen.tokens.segment_writer import SegmentWriter
from musicgen.tokens.vocabulary import (
    DRUM_KIT,
    MAX_PARTS,
    MEASURES,
    RHYTHM_ALIASES,
    RHYTHMS,
    Event,
    Value,
)

_CHANGES = ("key", "meter", "chord", "fermata")


def extract_setting(score: Score, velocities: Sequence[int] | None = None) -> Setting:
    """Collect the properties that the ids of a canonical score leave out.

    Args:
        score: in its canonical form.
        velocities: MIDI velocity of each part at its default level; None: the most frequent one.
    """
    if velocities is None:
        velocities = find_default_velocities(score.columns, len(score.parts)).tolist()
    return Setting(
        tonic=score.key.tonic,
        title=score.title,
        rhythm=score.rhythm,
        tempos=tuple((mark.onset, float(mark.value)) for mark in score.of("tempo")),
        parts=score.parts,
        velocities=tuple(velocities),
        swing=score.swing,
    )


def normalise_rhythm(rhythm: str) -> str:
    """Map a rhythm as a tunebook spells it to a name in RHYTHMS."""
    name = RHYTHM_ALIASES.get(rhythm, rhythm)
    return name if name in RHYTHMS else "other"


class MeasuresCodec(ScoreCodec):
    """Converts a score to ids of MEASURES and back."""

    name = "measures"
    vocabulary = MEASURES
    writable_suffixes = (*formats.WRITABLE_SUFFIXES, ".wav", ".svg", ".png", ".html")
    has_bars = True
    contexts = ("all", "all+vertical", "position", "look-back", "none")

    def encode(self, score: Score, velocities: Sequence[int] | None = None) -> Encoded:
        """Encode the canonical form of a score. Raises Refusal for music without an event.

        The canonical form is that with dynamics, `Score.canonical_with_dynamics`.
        Of notes of equal part, onset and pitch, all but one are counted as lost.

        Args:
            score: the tune.
            velocities: MIDI velocity of each part at its default level; None: the most frequent
                one at its most frequent level.
        """
        lost = count_doubled_notes(score)
        score = score.canonical_with_dynamics(velocities)
        setting = extract_setting(score, velocities)
        return Encoded(tuple(_MeasuresEncoder(score, setting).ids()), setting, lost)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Decode ids to a canonical score; count the ids that could not be used."""
        decoder = _MeasuresDecoder(setting)
        for id_ in ids:
            decoder.take(MEASURES.event(id_))
        return decoder.finish()

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> MeasuresGrammar:
        """Create the grammar of a new tune."""
        drums = frozenset(number for number, part in enumerate(setting.parts) if part.is_drums)
        return MeasuresGrammar(Rules(drum_parts=drums) if strict else _permissive_rules(drums))


@lru_cache(maxsize=64)
def _permissive_rules(drum_parts: frozenset[int]) -> Rules:
    """Return the rules of every canonical tune, whose tables many tunes share."""
    return Rules.permissive(drum_parts)


def find_drum_parts(ids: Iterable[int]) -> frozenset[int]:
    """Return the numbers of the parts of drums: by the line-up, or by the drum events."""
    ids = tuple(ids)
    if lineup := read_lineup(ids):
        return frozenset(number for number, part in enumerate(lineup) if part.is_drums)
    part, drum_parts = 0, set()
    for id_ in ids:
        event = MEASURES.event(id_)
        if event.kind in ("bar", "partial"):
            part = 0
        elif event.kind == "part":
            part = int(event.value or 0)
        elif event.kind == "drum":
            drum_parts.add(part)
    return frozenset(drum_parts)


@lru_cache(maxsize=4096)
def _event_id(kind: str, value: Value = None) -> int:
    """Return the id of an event. Raises Refusal if there is no such event."""
    event = Event(kind, value)
    if event not in MEASURES.ids:
        raise Refusal(f"no event for {event}; the tune was left out", code="no-event")
    return MEASURES.ids[event]


_BAR: Final = _event_id("bar")


class _MeasuresEncoder:
    """Encodes a canonical score."""

    def __init__(self, score: Score, setting: Setting) -> None:
        self.score = score
        self.setting = setting
        self.tonic_pitch = setting.tonic_pitch
        self.bars = find_bars(score)
        self.marks: dict[int, list[Mark]] = {}  # by step, without bar lines
        for mark in score.marks:
            if mark.kind != "bar":
                self.marks.setdefault(mark.onset, []).append(mark)
        self.ending_ends = {mark.value.end for mark in score.of("ending")}
        self.symbols_part = find_symbols_part(score.parts)
        # kinds of changes that are written in the first voice
        has_symbols = self.symbols_part in (None, 0)
        self.changes = tuple(kind for kind in _CHANGES if kind != "chord" or has_symbols)

    def ids(self) -> list[int]:
        """Return the ids of the whole tune."""
        ids = [
            _event_id("meter", str(self.score.meter)),
            _event_id("mode", self.score.key.mode),
            _event_id("rhythm", normalise_rhythm(self.score.rhythm)),
            *self.lineup_ids(),
        ]
        if self.bars:
            self.write_bars(ids)
        ids.append(_event_id("end"))
        return ids

    def lineup_ids(self) -> Iterator[int]:
        """Yield the number of parts, and the description of each part where one is needed."""
        parts = self.score.parts
        if len(parts) > MAX_PARTS:
            raise Refusal(
                f"it has {len(parts)} parts, and at most {MAX_PARTS} can be written; the tune was"
                " left out",
                code="no-event",
            )
        if not has_dynamics(self.score.columns) and not _needs_lineup(parts):
            yield _event_id("parts", len(parts))
            return
        yield _event_id("lineup", len(parts))
        for kind, value in iter_lineup_events(parts, self.setting.velocities):
            yield _event_id(kind, value)

    def write_bars(self, output: list[int]) -> None:
        """Append all bars: the first voice of part 0 always, other voices where they sound."""
        changes = [
            step
            for step, marks in self.marks.items()
            if step < self.score.end and any(mark.kind in self.changes for mark in marks)
        ]
        lines, (ids, firsts) = self.encode_lines(changes)
        current_part = 0
        for bar, part, voice, first, stop in lines.rows():
            if not part and not voice:
                self.write_bar_line(output, bar)
                current_part = 0
            if part != current_part:
                current_part = part
                output.append(_event_id("part", part))
            if voice:
                output.append(_event_id("voice", voice))
            output += ids[firsts[first] : firsts[stop]]
        output += self.closing_ids(self.bars[-1])

    def encode_lines(self, changes: Sequence[int]) -> tuple[BarVoices, tuple[list[int], list[int]]]:
        """Encode all lines, without what opens them.

        Args:
            changes: steps at which key, meter or chord symbol change, or a fermata stands.

        Returns:
            The lines; the ids of all segments, and the index of the first id of each segment.
        """
        columns = np.concatenate([self.score.columns, self.list_symbol_spans()], axis=1)
        chords = Chords.of(columns)
        voices = chords.assign_voices()
        lines, segments = cut_into_segments(chords, voices, self.bars, changes)
        symbol_rows = self.find_symbol_rows(lines, segments)
        segments.sounds[list(symbol_rows.values())] = REST
        first_ids = [
            _event_id("drum", 0) if part.is_drums else _event_id("pitch", 0) - self.tonic_pitch
            for part in self.score.parts
        ]
        levels = find_level_changes(columns, chords, voices, self.setting.velocities)
        writer = SegmentWriter.of(segments, chords, np.array(first_ids), levels)
        writer.notate_lines(lines)
        for segment, step in zip(
            np.searchsorted(segments.starts, changes).tolist(), changes, strict=True
        ):
            if segments.offsets[segment]:  # changes at the start of a bar belong to its opening
                writer.insert_before(segment, list(self.change_ids(step, self.changes)))
        for step, segment in symbol_rows.items():
            writer.insert_before(segment, list(self.change_ids(step, ("chord",))))
        return lines, writer.join()

    def list_symbol_spans(self) -> NoteColumns:
        """Return the spans of the chord symbols as notes of their part, if it is a later part.

        In the first part no notes are needed, since the first voice is cut at all its changes.

        Raises:
            Refusal: the part of the chord symbols has notes of its own.
        """
        part = self.symbols_part
        if part is not None and (self.score.columns[4] == part).any():
            raise Refusal("its part of chord symbols has notes; it was left out", code="no-event")
        steps = [mark.onset for mark in self.score.of("chord") if mark.onset < self.score.end]
        if not part or not steps:
            return np.empty((5, 0), dtype=np.int64)
        spans = np.zeros((5, len(steps)), dtype=np.int64)
        spans[0], spans[2] = steps, np.diff([*steps, self.score.end])
        spans[3], spans[4] = self.setting.velocities[part], part
        return spans

    def find_symbol_rows(self, lines: BarVoices, segments: Segments) -> dict[int, int]:
        """Return the segments of a later part of chord symbols, by the step where each starts."""
        return {
            self.bars[bar].start + int(segments.offsets[row]): row
            for bar, part, _, first, stop in lines.rows()
            if part and part == self.symbols_part
            for row in range(first, stop)
        }

    def write_bar_line(self, output: list[int], number: int) -> None:
        """Append the ids between a bar and the bar before it."""
        bar = self.bars[number]
        if number and (bar.start in self.marks or bar.start in self.ending_ends):
            output += self.closing_ids(self.bars[number - 1])
        if bar.kind == "full" and bar.start not in self.marks:
            output.append(_BAR)
        else:
            output += self.opening_ids(bar)

    def opening_ids(self, bar: Bar) -> Iterator[int]:
        """Yield the ids before the first note of a bar."""
        for mark in self.marks.get(bar.start, ()):
            if mark.kind == "repeat_start":
                yield _event_id("repeat_start")
            elif mark.kind == "ending":
                yield _event_id("ending", "".join(map(str, mark.value.passes)))
        yield from self.change_ids(bar.start, ("key", "meter"))
        if bar.kind == "irregular":
            yield _event_id("irregular")
        yield _event_id("partial", bar.steps) if bar.kind == "partial" else _BAR
        yield from self.change_ids(bar.start, self.changes[2:])

    def change_ids(self, step: int, kinds: tuple[str, ...]) -> Iterator[int]:
        """Yield the changes of key, meter and chord symbol at a step, and a fermata."""
        for mark in self.marks.get(step, ()):
            if mark.kind == "chord" and "chord" in kinds:
                yield from _chord_ids(mark.value, self.tonic_pitch)
            elif mark.kind == "fermata" and "fermata" in kinds:
                yield _event_id("fermata")
            elif mark.kind == "key" and "key" in kinds and step:
                interval = (mark.value.pitch_class - self.tonic_pitch) % 12
                yield _event_id("key", f"{interval} {mark.value.mode}")
            elif mark.kind == "meter" and "meter" in kinds and step:
                yield _event_id("meter", str(mark.value))

    def closing_ids(self, bar: Bar) -> Iterator[int]:
        """Yield the ids after the last note of a bar."""
        marks = self.marks.get(bar.end, ())
        plays = next((mark.value for mark in marks if mark.kind == "repeat_end"), None)
        if plays is not None:
            yield _event_id("repeat_end", int(plays))
        elif bar.end in self.ending_ends:
            yield _event_id("ending_end")


def _needs_lineup(parts: Sequence[Part]) -> bool:
    """Return whether the header must say what the parts are: not for alike, nameless voices."""
    if any(part.is_drums or part.role for part in parts):
        return True
    return len(parts) > 1 and any(part.program for part in parts)


def _chord_ids(symbol: str, tonic_pitch: int) -> Iterator[int]:
    chord = ChordSymbol.parse(symbol)
    if chord is None:
        yield _event_id("no_chord")
        return
    yield _event_id("chord", f"{(chord.root - tonic_pitch) % 12} {chord.quality}")
    if chord.bass is not None:
        yield _event_id("bass", (chord.bass - tonic_pitch) % 12)


@dataclass(slots=True)
class SoundingChord:
    """A chord while it is decoded: a hold lengthens it, a further pitch is added to it."""

    part: int
    onset: int  # step
    end: int  # step
    pitches: list[int]  # MIDI note numbers, descending
    velocities: list[int]  # MIDI velocity of each pitch


def trace_chords(
    ids: Iterable[int], setting: Setting
) -> Iterator[tuple[Event, SoundingChord | None]]:
    """Yield the event of each id, and the chord that it starts, extends or holds."""
    decoder = _MeasuresDecoder(setting)
    for id_ in ids:
        event, dropped = MEASURES.event(id_), decoder.dropped
        decoder.take(event)
        is_head = event.kind in ("pitch", "drum", "hold") and decoder.dropped == dropped
        yield event, decoder.chord_by_voice.get(decoder.voice) if is_head else None


def read_chords(
    ids: Iterable[int], setting: Setting, held: Iterable[SoundingChord] = ()
) -> tuple[list[SoundingChord], int]:
    """Return the chords of some ids, and the step at which the next value starts.

    Args:
        ids: of a tune so far, or of one bar of it, from its opening on.
        setting: of the tune.
        held: chords of earlier bars, one per part at most, that a hold lengthens.
    """
    decoder = _MeasuresDecoder(setting)
    for chord in held:
        decoder.chord_by_voice[chord.part, 0] = chord
        decoder.chords.append(chord)
    for id_ in ids:
        decoder.take(MEASURES.event(id_))
    return decoder.chords, decoder.current_step


class _MeasuresDecoder:
    """Builds a score from events; one method per kind of event returns whether it was usable."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tonic_pitch = setting.tonic_pitch
        self.marks = [Mark(step, "tempo", qpm) for step, qpm in setting.tempos]
        self.mode = "major"
        self.chords: list[SoundingChord] = []
        self.rhythm = setting.rhythm
        self.dropped = 0
        self.has_ended = False
        self.bar_start = 0  # step of the current or, between bars, of the next bar
        self.in_bar = False
        self.bar_length: int | None = None  # steps, once the first voice is complete
        self.cursor = 0  # steps from the start of the bar, in the current voice
        self.voice = (0, 0)  # part, number in the part
        self.duration: int | None = None  # nominal steps; read, and its head follows
        self.tuplet: OpenTuplet | None = None
        self.last_chord: SoundingChord | None = None  # further pitches are added to it
        self.chord_by_voice: dict[tuple[int, int], SoundingChord] = {}  # the last of each voice
        self.velocity_by_voice: dict[tuple[int, int], int] = {}  # where it is not the part's
        self.lineup: LineupState | None = None
        self.open_ending: tuple[int, tuple[int, ...]] | None = None  # start step, passes

    def take(self, event: Event) -> None:
        """Apply one event, or count it as dropped."""
        method = getattr(self, "take_" + event.kind, None)
        if self.has_ended or method is None or not method(event.value):
            self.dropped += 1

    def finish(self) -> Decoded[Score]:
        """End the open bar and ending, and return the score."""
        self.close_bar()
        self.close_ending()
        self.marks.append(Mark(0, "key", Key(self.setting.tonic, self.mode)))
        notes = [
            Note(chord.onset, pitch, chord.end - chord.onset, velocity, chord.part)
            for chord in self.chords
            for pitch, velocity in zip(chord.pitches, chord.velocities, strict=True)
        ]
        setting = self.setting
        score = Score(
            tuple(notes),
            tuple(self.marks),
            setting.parts,
            setting.title,
            self.rhythm,
            setting.swing,
        )
        return Decoded(score.canonical_with_dynamics(setting.velocities), self.dropped)

    @property
    def current_step(self) -> int:
        """The step of the cursor from the start of the tune."""
        return self.bar_start + self.cursor

    def close_bar(self) -> None:
        """End the current bar, at the length of its first voice."""
        self.close_voice()
        length = self.bar_length if self.bar_length is not None else self.cursor
        if self.in_bar and length:
            self.bar_start += length
            self.marks.append(Mark(self.bar_start, "bar"))
        self.in_bar, self.bar_length, self.cursor, self.voice = False, None, 0, (0, 0)

    def close_voice(self) -> None:
        """Reset the state that does not continue in the next voice or bar."""
        self.dropped += self.duration is not None
        self.duration = self.tuplet = self.last_chord = None

    def close_ending(self) -> bool:
        """Close the open ending, if there is one."""
        ending, self.open_ending = self.open_ending, None
        if ending and ending[0] < self.bar_start:
            self.marks.append(Mark(ending[0], "ending", Ending(ending[1], self.bar_start)))
        return ending is not None

    def end_held_chords(self) -> None:
        """End the bar so that no note is held across a position where playback may jump."""
        self.close_bar()
        self.chord_by_voice.clear()

    def take_end(self, _: None) -> bool:
        self.close_bar()
        self.has_ended = True
        return True

    def take_meter(self, value: str) -> bool:
        self.marks.append(Mark(self.current_step, "meter", Meter.parse(value)))
        return True

    def take_mode(self, value: str) -> bool:
        if self.current_step:
            return False
        self.mode = value
        return True

    def take_rhythm(self, value: str) -> bool:
        if not self.rhythm and value != "other":
            self.rhythm = value
        return not self.current_step

    def take_parts(self, value: int) -> bool:
        return not self.current_step and value == len(self.setting.parts)

    def take_lineup(self, value: int) -> bool:
        is_first = not self.current_step and self.lineup is None
        self.lineup = LineupState(value) if is_first else self.lineup
        return is_first and value == len(self.setting.parts)

    def take_role(self, value: str) -> bool:
        return self.describe_part("role", value) and self.described_part.role == value

    def take_given(self, _: None) -> bool:
        return self.describe_part("given", None)

    def take_family(self, value: str) -> bool:
        part = self.described_part
        family = DRUM_KIT if part.is_drums else find_family(part.program)
        return self.describe_part("family", value) and family == value

    @property
    def described_part(self) -> Part:
        """The part that the line-up describes next."""
        number = self.lineup.described if self.lineup else 0
        return self.setting.parts[min(number, len(self.setting.parts) - 1)]

    def describe_part(self, kind: str, value: Value) -> bool:
        """Advance the line-up; return whether a part was left to describe."""
        if self.lineup is None or self.lineup.is_complete or self.in_bar:
            return False
        self.lineup = self.lineup.take(kind, value)
        return True

    def take_level(self, value: int) -> bool:
        if not self.in_bar:
            return self.describe_part("level", value)
        default = self.setting.velocities[self.voice[0]]
        is_default = find_level(default) == value
        velocity = default if is_default else int(LEVEL_VELOCITIES[value])
        self.velocity_by_voice[self.voice] = velocity
        return True

    def take_repeat_start(self, _: None) -> bool:
        self.end_held_chords()
        self.close_ending()
        self.marks.append(Mark(self.current_step, "repeat_start"))
        return True

    def take_repeat_end(self, value: int) -> bool:
        self.end_held_chords()
        self.close_ending()
        self.marks += [Mark(self.current_step, "repeat_end", value)] if self.current_step else []
        return self.current_step > 0

    def take_ending(self, value: str) -> bool:
        self.end_held_chords()
        self.close_ending()
        self.open_ending = self.current_step, tuple(map(int, value))
        return True

    def take_ending_end(self, _: None) -> bool:
        self.end_held_chords()
        return self.close_ending()

    def take_key(self, value: str) -> bool:
        interval, mode = value.split()
        if self.current_step:
            key = Key.of(self.setting.tonic_pitch + int(interval), mode)
            self.marks.append(Mark(self.current_step, "key", key))
        return self.current_step > 0

    def take_irregular(self, _: None) -> bool:
        self.close_bar()
        return True

    def take_bar(self, _: None) -> bool:
        self.close_bar()
        self.in_bar = True
        return True

    def take_partial(self, _: int) -> bool:
        return self.take_bar(None)

    def take_part(self, value: int) -> bool:
        return value < len(self.setting.parts) and self.open_voice((value, 0))

    def take_voice(self, value: int) -> bool:
        return self.open_voice((self.voice[0], value))

    def open_voice(self, voice: tuple[int, int]) -> bool:
        """Return to the start of the bar in another voice."""
        if not self.in_bar:
            return False
        self.close_voice()
        self.bar_length = self.cursor if self.bar_length is None else self.bar_length
        self.cursor, self.voice = 0, voice
        return True

    def take_chord(self, value: str) -> bool:
        root, quality = value.split(" ")
        chord = ChordSymbol((int(root) + self.setting.tonic_pitch) % 12, quality)
        self.marks.append(Mark(self.current_step, "chord", str(chord)))
        return self.in_bar

    def take_bass(self, value: int) -> bool:
        last = self.marks[-1] if self.marks else None
        if last is None or last.kind != "chord":
            return False
        chord = ChordSymbol.parse(last.value)
        if chord is None or chord.bass is not None:
            return False
        bass = (value + self.setting.tonic_pitch) % 12
        self.marks[-1] = Mark(last.onset, "chord", str(replace(chord, bass=bass)))
        return True

    def take_no_chord(self, _: None) -> bool:
        self.marks.append(Mark(self.current_step, "chord", "N.C."))
        return self.in_bar

    def take_fermata(self, _: None) -> bool:
        self.marks.append(Mark(self.current_step, "fermata"))
        return self.in_bar

    def take_tuplet(self, value: str) -> bool:
        if not self.in_bar or self.tuplet or self.duration is not None:
            return False
        self.tuplet = Tuplet(*map(int, value.split())), self.cursor, 0
        return True

    def take_duration(self, value: int) -> bool:
        if not self.in_bar:
            return False
        self.dropped += self.duration is not None
        self.duration, self.last_chord = value, None
        return True

    def take_rest(self, _: None) -> bool:
        return self.advance() is not None

    def take_hold(self, _: None) -> bool:
        span = self.advance()
        chord = self.chord_by_voice.get(self.voice)
        if span is None or chord is None or chord.end != span[0]:
            return False
        chord.end = span[1]
        return True

    def take_pitch(self, value: int) -> bool:
        is_drums = self.setting.parts[self.voice[0]].is_drums
        return not is_drums and self.sound_pitch(self.tonic_pitch + value)

    def take_drum(self, value: int) -> bool:
        return self.setting.parts[self.voice[0]].is_drums and self.sound_pitch(value)

    def sound_pitch(self, pitch: int) -> bool:
        """Start a chord with a pitch, or add the pitch to the chord that has just started."""
        if not 0 <= pitch <= 127:
            return False
        if self.duration is None:
            if self.last_chord is None or pitch >= self.last_chord.pitches[-1]:
                return False
            self.last_chord.pitches.append(pitch)
            self.last_chord.velocities.append(self.current_velocity)
            return True
        span = self.advance()
        if span is None:
            return False
        self.last_chord = SoundingChord(self.voice[0], *span, [pitch], [self.current_velocity])
        self.chord_by_voice[self.voice] = self.last_chord
        self.chords.append(self.last_chord)
        return True

    @property
    def current_velocity(self) -> int:
        """The MIDI velocity of the next note of the voice."""
        return self.velocity_by_voice.get(self.voice, self.setting.velocities[self.voice[0]])

    def advance(self) -> tuple[int, int] | None:
        """Consume the pending duration; return its first step and its end, None if it is empty."""
        if self.duration is None:
            return None
        start, self.cursor = self.cursor, self.find_value_end(self.duration)
        self.duration = None
        if self.bar_length is not None:
            self.cursor = min(self.cursor, self.bar_length)
        if start >= self.cursor:
            return None
        return self.bar_start + start, self.current_step

    def find_value_end(self, nominal: int) -> int:
        """Return the step of the bar at which a written value ends, in the open tuplet if any."""
        if self.tuplet is None:
            return self.cursor + nominal
        group, start, written = self.tuplet
        written = min(written + nominal, group.nominal)
        self.tuplet = None if written == group.nominal else (group, start, written)
        return start + group.to_sounding(written)
