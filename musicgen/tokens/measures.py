"""The default codec: bar by bar and, inside a bar, voice by voice.

A note is its duration, then its pitch, then further pitches of a chord. `encode` and `decode` are
exact inverses on canonical scores; `decode` takes any ids at all and counts what it could not use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.arrays import ragged_arange
from musicgen.music.bars import Bar, find_bars
from musicgen.music.durations import PLAIN_DURATIONS, SHORTEST_WRITABLE, Tuplet, notate_segments
from musicgen.music.score import DEFAULT_VELOCITY, Ending, Mark, Note, Score
from musicgen.music.theory import ChordSymbol, Key, Meter
from musicgen.music.voices import Chords
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    ScoreCodec,
    Setting,
    count_doubled_notes,
)
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.vocabulary import MEASURES, RHYTHM_ALIASES, RHYTHMS, Event, Value
from musicgen.tokens.voice_segments import BarVoices, Segments, cut_into_segments

_CHANGES = ("key", "meter", "chord")


def extract_setting(score: Score) -> Setting:
    """Collect what the ids of a canonical score leave out."""
    velocities = np.full(len(score.parts), DEFAULT_VELOCITY)
    velocities[score.columns[4]] = score.columns[3]
    return Setting(
        tonic=score.key.tonic,
        title=score.title,
        rhythm=score.rhythm,
        tempos=tuple((mark.onset, float(mark.value)) for mark in score.of("tempo")),
        parts=score.parts,
        velocities=tuple(velocities.tolist()),
    )


def normalise_rhythm(rhythm: str) -> str:
    """Return the name in RHYTHMS that stands for a rhythm as a tunebook writes it."""
    name = RHYTHM_ALIASES.get(rhythm, rhythm)
    return name if name in RHYTHMS else "other"


class MeasuresCodec(ScoreCodec):
    """Score to ids of MEASURES and back."""

    name = "measures"
    vocabulary = MEASURES
    writable_suffixes = (*formats.WRITABLE_SUFFIXES, ".wav", ".svg", ".png", ".html")
    has_bars = True

    def encode(self, score: Score) -> Encoded:
        """Write a score, made canonical, as ids. Raises Refusal for what has no event.

        Of notes that a part strikes twice at one step the ids say one; the others count as lost.
        """
        lost = count_doubled_notes(score)
        score = score.canonical()
        setting = extract_setting(score)
        return Encoded(tuple(_MeasuresEncoder(score, setting.tonic_pitch).ids()), setting, lost)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Read ids as a canonical score; ids that mean nothing where they stand are counted."""
        reader = _MeasuresDecoder(setting)
        for id_ in ids:
            reader.take(MEASURES.event(id_))
        return reader.finish()

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> MeasuresGrammar:
        """Start a tune."""
        drums = (number for number, part in enumerate(setting.parts) if part.is_drums)
        return MeasuresGrammar(
            Rules(drum_parts=frozenset(drums)) if strict else Rules.permissive(drums)
        )


def find_drum_parts(ids: Iterable[int]) -> frozenset[int]:
    """Return the parts in which drums sound."""
    part, found = 0, set()
    for id_ in ids:
        event = MEASURES.event(id_)
        if event.kind in ("bar", "partial"):
            part = 0
        elif event.kind == "part":
            part = int(event.value or 0)
        elif event.kind == "drum":
            found.add(part)
    return frozenset(found)


Ids = tuple[int, ...]


@lru_cache(maxsize=4096)
def _event_id(kind: str, value: Value = None) -> int:
    """Return the id of an event. Raises Refusal where the table has none."""
    event = Event(kind, value)
    if event not in MEASURES.ids:
        raise Refusal(f"no event for {event}; the tune was left out", code="no-event")
    return MEASURES.ids[event]


_BAR: Final = _event_id("bar")
_REST: Final = _event_id("rest")
_HOLD: Final = _event_id("hold")
_LONGEST: Final = PLAIN_DURATIONS[-1]
# The id of each length that one sign writes and that needs no tuplet; 0 for others, longer ones too
_PLAIN_DURATION_IDS: Final = np.array(
    [
        _event_id("duration", n) if n in PLAIN_DURATIONS and n % SHORTEST_WRITABLE == 0 else 0
        for n in range(_LONGEST + 2)
    ]
)


class _MeasuresEncoder:
    """A canonical score as ids."""

    def __init__(self, score: Score, tonic_pitch: int) -> None:
        self.score = score
        self.tonic_pitch = tonic_pitch
        self.bars = find_bars(score)
        self.marks: dict[int, list[Mark]] = {}  # but bar lines
        for mark in score.marks:
            if mark.kind != "bar":
                self.marks.setdefault(mark.onset, []).append(mark)
        self.ending_ends = {mark.value.end for mark in score.of("ending")}

    def ids(self) -> list[int]:
        """Return the ids of the whole tune."""
        found = [
            _event_id("meter", str(self.score.meter)),
            _event_id("mode", self.score.key.mode),
            _event_id("rhythm", normalise_rhythm(self.score.rhythm)),
            _event_id("parts", len(self.score.parts)),
        ]
        if self.bars:
            self.write_bars(found)
        found.append(_event_id("end"))
        return found

    def write_bars(self, output: list[int]) -> None:
        """Write all bars: part 0's first voice always, others where they sound."""
        chords = Chords.of(self.score.columns)
        changes = [n for n, m in self.marks.items() if n < self.score.end and _is_change(m)]
        lines, segments = cut_into_segments(chords, self.bars, changes)
        plain = self.encode_plain_segments(chords, segments)
        odd = self.encode_irregular_lines(lines, segments, plain, changes)
        ids, firsts = plain.ids.tolist(), plain.firsts.tolist()
        now = 0
        for line, (bar, part, voice, first, stop) in enumerate(lines.rows()):
            if not part and not voice:
                self.write_bar_line(output, bar)
                now = 0
            if part != now:
                now = part
                output.append(_event_id("part", part))
            if voice:
                output.append(_event_id("voice", voice))
            output += odd[line] if line in odd else ids[firsts[first] : firsts[stop]]
        output += self.closing_ids(self.bars[-1])

    def encode_plain_segments(self, chords: Chords, segments: Segments) -> _PlainSegments:
        """Write each segment as one duration and its head."""
        zeros = [_event_id("drum", 0) if part.is_drums else _event_id("pitch", 0) - self.tonic_pitch
                 for part in self.score.parts]  # fmt: skip
        sizes = np.append(
            np.diff(chords.pitch_starts), [1, 1]
        )  # at REST and HOLD stand the two last
        firsts = np.append(chords.pitch_starts, len(chords.pitches) + 1)
        pitches = chords.pitches + np.repeat(np.array(zeros)[chords.parts], sizes[:-2])
        return _PlainSegments.of(
            _PLAIN_DURATION_IDS[np.minimum(segments.lengths, _LONGEST + 1)],
            np.append(pitches, [_REST, _HOLD]),
            firsts[segments.sounds],
            sizes[segments.sounds],
        )

    def encode_irregular_lines(
        self, lines: BarVoices, segments: Segments, plain: _PlainSegments, steps: Sequence[int]
    ) -> dict[int, list[int]]:
        """Write the lines that need ties or tuplets, or in which something changes at a step."""
        at = np.searchsorted(segments.starts, steps).tolist()
        # at the start of a bar its opening says what changes
        changing = {n: step for n, step in zip(at, steps, strict=True) if segments.offsets[n]}
        is_odd = plain.duration_ids == 0
        is_odd[list(changing)] = True
        odd = np.append(0, np.cumsum(is_odd))
        found = {}
        for line in np.flatnonzero(odd[lines.stops] > odd[lines.firsts]).tolist():
            first, stop = int(lines.firsts[line]), int(lines.stops[line])
            offsets = (*segments.offsets[first:stop].tolist(), int(segments.bar_steps[first]))
            found[line] = list(self.iter_segment_ids(offsets, first, plain, changing))
        return found

    def iter_segment_ids(
        self, offsets: Ids, first: int, plain: _PlainSegments, changing: Mapping[int, int]
    ) -> Iterator[int]:
        """Yield the ids of segments that fill a bar; what is tied is held."""
        before = -1
        for number, values in _values(offsets):
            head = plain.head(first + number)
            if number == before and head != [_REST]:
                head = [_HOLD]
            elif number != before and first + number in changing:
                yield from self.change_ids(changing[first + number], _CHANGES)
            yield from values
            yield from head
            before = number

    def write_bar_line(self, output: list[int], number: int) -> None:
        """Write what stands between a bar and the one before it."""
        if number:
            output += self.closing_ids(self.bars[number - 1])
        bar = self.bars[number]
        if bar.kind == "full" and bar.start not in self.marks:
            output.append(_BAR)
        else:
            output += self.opening_ids(bar)

    def opening_ids(self, bar: Bar) -> Iterator[int]:
        """Yield what stands before a bar's first note."""
        for mark in self.marks.get(bar.start, ()):
            if mark.kind == "repeat_start":
                yield _event_id("repeat_start")
            elif mark.kind == "ending":
                yield _event_id("ending", "".join(map(str, mark.value.passes)))
        yield from self.change_ids(bar.start, ("key", "meter"))
        if bar.kind == "irregular":
            yield _event_id("irregular")
        yield _event_id("partial", bar.steps) if bar.kind == "partial" else _BAR
        yield from self.change_ids(bar.start, ("chord",))

    def change_ids(self, step: int, kinds: tuple[str, ...]) -> Iterator[int]:
        """Yield the key, meter and chord symbol that change at a step."""
        for mark in self.marks.get(step, ()):
            if mark.kind == "chord" and "chord" in kinds:
                yield from _chord_ids(mark.value, self.tonic_pitch)
            elif mark.kind == "key" and "key" in kinds and step:
                interval = (mark.value.pitch_class - self.tonic_pitch) % 12
                yield _event_id("key", f"{interval} {mark.value.mode}")
            elif mark.kind == "meter" and "meter" in kinds and step:
                yield _event_id("meter", str(mark.value))

    def closing_ids(self, bar: Bar) -> Iterator[int]:
        """Yield what stands after a bar's last note."""
        repeats = [m.value for m in self.marks.get(bar.end, ()) if m.kind == "repeat_end"]
        if repeats:
            yield _event_id("repeat_end", int(repeats[0]))
        elif bar.end in self.ending_ends:
            yield _event_id("ending_end")


def _is_change(marks: Iterable[Mark]) -> bool:
    return any(mark.kind in _CHANGES for mark in marks)


@dataclass(frozen=True, eq=False)
class _PlainSegments:
    """Segments as ids: a duration each, or 0 where one will not do, then what sounds."""

    duration_ids: Any
    ids: Any
    firsts: Any  # where the ids of each segment start; one more, where those of the last stop

    @classmethod
    def of(cls, duration_ids: Any, heads: Any, sources: Any, sizes: Any) -> _PlainSegments:
        """Write durations, and after each the heads from a source on, as many as its size."""
        firsts = np.append(0, np.cumsum(sizes + 1))
        ids = np.empty(firsts[-1], dtype=np.int64)
        is_head = np.ones(len(ids), dtype=bool)
        is_head[firsts[:-1]] = False
        ids[firsts[:-1]] = duration_ids
        ids[is_head] = heads[np.repeat(sources, sizes) + ragged_arange(sizes)]
        return cls(duration_ids, ids, firsts)

    def head(self, segment: int) -> list[int]:
        """Return the ids of what sounds in a segment."""
        found: list[int] = self.ids[self.firsts[segment] + 1 : self.firsts[segment + 1]].tolist()
        return found


@lru_cache(maxsize=4096)
def _values(offsets: tuple[int, ...]) -> tuple[tuple[int, Ids], ...]:
    """Return the values that write segments: of which segment, and the ids before its head."""
    return tuple(
        (
            piece.segment,
            (
                *((_tuplet_id(piece.opened_tuplet),) if piece.opened_tuplet else ()),
                MEASURES.id("duration", piece.nominal),
            ),
        )
        for piece in notate_segments(offsets)
    )


def _tuplet_id(tuplet: Tuplet) -> int:
    return MEASURES.id("tuplet", f"{tuplet.p} {tuplet.q} {tuplet.unit}")


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
    """A chord as it is read: a hold lengthens it, a further pitch joins it."""

    part: int
    onset: int
    end: int
    pitches: list[int]


def trace_chords(
    ids: Iterable[int], setting: Setting
) -> Iterator[tuple[Event, SoundingChord | None]]:
    """Yield each id's event, and the chord that it starts, adds a pitch to or holds."""
    reader = _MeasuresDecoder(setting)
    for id_ in ids:
        event, dropped = MEASURES.event(id_), reader.dropped
        reader.take(event)
        sounds = event.kind in ("pitch", "drum", "hold") and reader.dropped == dropped
        yield event, reader.chord_by_voice.get(reader.voice) if sounds else None


class _MeasuresDecoder:
    """Events as a score: one method a kind of event, which tells whether it could be used."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.tonic_pitch = setting.tonic_pitch
        self.marks = [Mark(step, "tempo", qpm) for step, qpm in setting.tempos]
        self.mode = "major"
        self.chords: list[SoundingChord] = []
        self.rhythm = setting.rhythm
        self.dropped = 0
        self.ended = False
        self.bar_start = 0  # of the bar under way, or of the next one
        self.in_bar = False
        self.bar_length: int | None = None  # of the bar, once its first voice is complete
        self.cursor = 0  # steps from the start of the bar in the voice under way
        self.voice = (0, 0)  # part and number
        self.duration: int | None = None  # read, and still without its head
        self.tuplet: tuple[Tuplet, int, int] | None = None  # group, its start, what is written
        self.last_chord: SoundingChord | None = None  # what further pitches join
        self.chord_by_voice: dict[
            tuple[int, int], SoundingChord
        ] = {}  # the last chord of each voice
        self.open_ending: tuple[int, tuple[int, ...]] | None = None  # its start and passes

    def take(self, event: Event) -> None:
        """Use one event, or count it as dropped."""
        method = getattr(self, "take_" + event.kind, None)
        if self.ended or method is None or not method(event.value):
            self.dropped += 1

    def finish(self) -> Decoded[Score]:
        """Close what is open and return the score."""
        self.close_bar()
        self.close_ending()
        self.marks.append(Mark(0, "key", Key(self.setting.tonic, self.mode)))
        notes = [
            Note(c.onset, pitch, c.end - c.onset, self.setting.velocities[c.part], c.part)
            for c in self.chords
            for pitch in c.pitches
        ]
        score = Score(
            tuple(notes), tuple(self.marks), self.setting.parts, self.setting.title, self.rhythm
        )
        return Decoded(score.canonical(), self.dropped)

    @property
    def current_step(self) -> int:
        """The step that has been reached."""
        return self.bar_start + self.cursor

    def close_bar(self) -> None:
        """End the bar under way, at the length of its first voice."""
        self.close_voice()
        length = self.bar_length if self.bar_length is not None else self.cursor
        if self.in_bar and length:
            self.bar_start += length
            self.marks.append(Mark(self.bar_start, "bar"))
        self.in_bar, self.bar_length, self.cursor, self.voice = False, None, 0, (0, 0)

    def close_voice(self) -> None:
        """Forget what the next voice or bar cannot go on with."""
        self.dropped += self.duration is not None
        self.duration = self.tuplet = self.last_chord = None

    def close_ending(self) -> bool:
        """End the ending under way, if there is one."""
        ending, self.open_ending = self.open_ending, None
        if ending and ending[0] < self.bar_start:
            self.marks.append(Mark(ending[0], "ending", Ending(ending[1], self.bar_start)))
        return ending is not None

    def end_held_chords(self) -> None:
        """Nothing is held over a place where the playing may jump."""
        self.close_bar()
        self.chord_by_voice.clear()

    def take_end(self, _: None) -> bool:
        self.close_bar()
        self.ended = True
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
        """Go back to the start of the bar in another voice."""
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
        """Start a chord with a pitch, or add it to the chord that has just started."""
        if not 0 <= pitch <= 127:
            return False
        if self.duration is None:
            if self.last_chord is None or pitch >= self.last_chord.pitches[-1]:
                return False
            self.last_chord.pitches.append(pitch)
            return True
        span = self.advance()
        if span is None:
            return False
        self.last_chord = SoundingChord(self.voice[0], *span, [pitch])
        self.chord_by_voice[self.voice] = self.last_chord
        self.chords.append(self.last_chord)
        return True

    def advance(self) -> tuple[int, int] | None:
        """Spend the duration that was read; return its first and last step, None if it has none."""
        if self.duration is None:
            return None
        start, self.cursor = self.cursor, self.find_value_end(self.duration)
        self.duration = None
        limit = self.cursor if self.bar_length is None else min(self.cursor, self.bar_length)
        self.cursor = limit
        return (self.bar_start + start, self.bar_start + limit) if start < limit else None

    def find_value_end(self, nominal: int) -> int:
        """Return where a written value ends, inside the tuplet that is open."""
        if self.tuplet is None:
            return self.cursor + nominal
        group, start, written = self.tuplet
        written = min(written + nominal, group.nominal)
        self.tuplet = None if written == group.nominal else (group, start, written)
        return start + group.to_sounding(written)
