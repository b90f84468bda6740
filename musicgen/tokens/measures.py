"""The default codec: bar by bar and, inside a bar, voice by voice.

A note is its duration, then its pitch, then further pitches of a chord. `encode` and `decode` are
exact inverses on canonical scores; `decode` takes any ids at all and counts what it could not use.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from musicgen.errors import Refusal
from musicgen.music.grid import Bar, Chord, Tuplet, bars, pieces, voices
from musicgen.music.score import DEFAULT_VELOCITY, Ending, Mark, Note, Score
from musicgen.music.theory import ChordSymbol, Key, Meter
from musicgen.tokens.codec import PLAIN_SETTING, Decoded, Encoded, ScoreCodec, Setting
from musicgen.tokens.grammar import Walk
from musicgen.tokens.rules import Rules
from musicgen.tokens.vocabulary import MEASURES, RHYTHM_ALIASES, RHYTHMS, Event

_CHANGES = ("key", "meter", "chord")


def setting_of(score: Score) -> Setting:
    """Collect what the ids of a canonical score leave out."""
    velocities = {note.part: note.velocity for note in score.notes}
    return Setting(
        tonic=score.key.tonic,
        title=score.title,
        rhythm=score.rhythm,
        tempos=tuple((mark.onset, float(mark.value)) for mark in score.of("tempo")),
        parts=score.parts,
        velocities=tuple(velocities.get(i, DEFAULT_VELOCITY) for i in range(len(score.parts))),
    )


def rhythm_event(rhythm: str) -> str:
    """Return the name in RHYTHMS that stands for a rhythm as a tunebook writes it."""
    name = RHYTHM_ALIASES.get(rhythm, rhythm)
    return name if name in RHYTHMS else "other"


class MeasuresCodec(ScoreCodec):
    """Score to ids of MEASURES and back."""

    name = "measures"
    vocabulary = MEASURES

    def encode(self, score: Score) -> Encoded:
        """Write a score, made canonical, as ids. Raises Refusal for what has no event."""
        score = score.canonical()
        setting = setting_of(score)
        ids = []
        for event in _Writer(score, setting.tonic_pitch).events():
            if event not in MEASURES.ids:
                raise Refusal(f"no event for {event}; the tune was left out", code="no-event")
            ids.append(MEASURES.ids[event])
        return Encoded(tuple(ids), setting)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Read ids as a canonical score; ids that mean nothing where they stand are counted."""
        reader = _Reader(setting)
        for id_ in ids:
            reader.take(MEASURES.event(id_))
        return reader.finish()

    def walk(self, setting: Setting = PLAIN_SETTING, *, strict: bool = True) -> Walk:
        """Start a tune."""
        drums = (number for number, part in enumerate(setting.parts) if part.is_drums)
        return Walk(Rules(drum_parts=frozenset(drums)) if strict else Rules.reading(drums))


@dataclass(frozen=True, slots=True)
class _Voice:
    """One voice of one part, its chords in order and without overlap."""

    part: int
    number: int
    chords: tuple[Chord, ...]

    def inside(self, bar: Bar) -> tuple[Chord, ...]:
        """Return the chords that sound in a bar."""
        first = bisect_right(self.chords, bar.start, key=lambda chord: chord.end)
        last = bisect_left(self.chords, bar.end, key=lambda chord: chord.onset)
        return self.chords[first:last]


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a bar in one voice: a chord that starts or goes on, or a rest."""

    start: int
    head: tuple[Event, ...]  # what follows its first duration
    tail: Event  # what follows the durations of its further pieces


class _Writer:
    """A canonical score as events."""

    def __init__(self, score: Score, tonic_pitch: int) -> None:
        self.score = score
        self.tonic_pitch = tonic_pitch
        self.voices = _voices(score)
        self.marks: dict[int, list[Mark]] = {}
        for mark in score.marks:
            self.marks.setdefault(mark.onset, []).append(mark)
        self.changing = sorted({m.onset for m in score.marks if m.kind in _CHANGES})
        self.ending_ends = {mark.value.end for mark in score.of("ending")}

    def events(self) -> Iterator[Event]:
        """Yield the events of the whole tune."""
        yield Event("meter", str(self.score.meter))
        yield Event("mode", self.score.key.mode)
        yield Event("rhythm", rhythm_event(self.score.rhythm))
        yield Event("parts", len(self.score.parts))
        for bar in bars(self.score):
            yield from self.opening(bar)
            yield from self.lines(bar)
            yield from self.closing(bar)
        yield Event("end")

    def opening(self, bar: Bar) -> Iterator[Event]:
        """Yield what stands before a bar's first note."""
        for mark in self.marks.get(bar.start, ()):
            if mark.kind == "repeat_start":
                yield Event("repeat_start")
            elif mark.kind == "ending":
                yield Event("ending", "".join(map(str, mark.value.passes)))
        yield from self.changes(bar.start, ("key", "meter"))
        if bar.kind == "irregular":
            yield Event("irregular")
        yield Event("partial", bar.steps) if bar.kind == "partial" else Event("bar")
        yield from self.changes(bar.start, ("chord",))

    def changes(self, step: int, kinds: tuple[str, ...]) -> Iterator[Event]:
        """Yield the key, meter and chord symbol that change at a step."""
        for mark in self.marks.get(step, ()):
            if mark.kind == "chord" and "chord" in kinds:
                yield from _chord_events(mark.value, self.tonic_pitch)
            elif mark.kind == "key" and "key" in kinds and step:
                interval = (mark.value.pitch_class - self.tonic_pitch) % 12
                yield Event("key", f"{interval} {mark.value.mode}")
            elif mark.kind == "meter" and "meter" in kinds and step:
                yield Event("meter", str(mark.value))

    def closing(self, bar: Bar) -> Iterator[Event]:
        """Yield what stands after a bar's last note."""
        repeats = [m.value for m in self.marks.get(bar.end, ()) if m.kind == "repeat_end"]
        if repeats:
            yield Event("repeat_end", int(repeats[0]))
        elif bar.end in self.ending_ends:
            yield Event("ending_end")

    def lines(self, bar: Bar) -> Iterator[Event]:
        """Yield a bar's notes: part 0's first voice always, others where they sound."""
        part = 0
        for index, voice in enumerate(self.voices):
            chords = voice.inside(bar)
            if index and not chords:
                continue
            if voice.part != part:
                part = voice.part
                yield Event("part", part)
            if voice.number:
                yield Event("voice", voice.number)
            cuts = self.cuts(bar) if index == 0 else []
            yield from self.line(bar, list(self.segments(voice, chords, bar, cuts)), cuts)

    def cuts(self, bar: Bar) -> list[int]:
        """Return the steps inside a bar where a key, meter or chord symbol changes."""
        first = bisect_right(self.changing, bar.start)
        return self.changing[first : bisect_left(self.changing, bar.end)]

    def segments(
        self, voice: _Voice, chords: tuple[Chord, ...], bar: Bar, cuts: list[int]
    ) -> Iterator[_Segment]:
        """Cut a bar of one voice where its chords start and end, and at the cuts."""
        edges = {bar.start, *cuts}
        starts = {}
        for chord in chords:
            starts[max(chord.onset, bar.start)] = chord
            edges |= {max(chord.onset, bar.start), min(chord.end, bar.end)}
        sounding: Chord | None = None
        for step in sorted(edges - {bar.end}):
            sounding = starts.get(step, sounding)
            if sounding is None or sounding.end <= step:
                yield _Segment(step, (Event("rest"),), Event("rest"))
            elif sounding.onset == step:
                yield _Segment(step, self.pitches(voice.part, sounding), Event("hold"))
            else:
                yield _Segment(step, (Event("hold"),), Event("hold"))

    def pitches(self, part: int, chord: Chord) -> tuple[Event, ...]:
        """Return the pitch events of a chord."""
        if self.score.parts[part].is_drums:
            return tuple(Event("drum", pitch) for pitch in chord.pitches)
        return tuple(Event("pitch", pitch - self.tonic_pitch) for pitch in chord.pitches)

    def line(self, bar: Bar, segments: list[_Segment], cuts: list[int]) -> Iterator[Event]:
        """Yield the durations and heads of segments that fill a bar, and what changes at cuts."""
        offsets = (*(segment.start - bar.start for segment in segments), bar.steps)
        before = -1
        for piece in pieces(offsets):
            segment = segments[piece.segment]
            fresh = piece.segment != before
            if fresh and segment.start in cuts:
                yield from self.changes(segment.start, _CHANGES)
            if piece.opens:
                yield Event("tuplet", f"{piece.opens.p} {piece.opens.q} {piece.opens.unit}")
            yield Event("duration", piece.nominal)
            yield from segment.head if fresh else (segment.tail,)
            before = piece.segment


def _voices(score: Score) -> tuple[_Voice, ...]:
    """Separate the voices of a score; part 0 has at least one, empty perhaps."""
    notes: dict[int, list[Note]] = {0: []}
    for note in score.notes:
        notes.setdefault(note.part, []).append(note)
    return tuple(
        _Voice(part, number, chords)
        for part in sorted(notes)
        for number, chords in enumerate(voices(notes[part]) or ((),))
    )


def _chord_events(symbol: str, tonic_pitch: int) -> Iterator[Event]:
    chord = ChordSymbol.parse(symbol)
    if chord is None:
        yield Event("no_chord")
        return
    yield Event("chord", f"{(chord.root - tonic_pitch) % 12} {chord.quality}")
    if chord.bass is not None:
        yield Event("bass", (chord.bass - tonic_pitch) % 12)


@dataclass(slots=True)
class _Sounding:
    """A chord as it is read: a hold lengthens it, a further pitch joins it."""

    part: int
    onset: int
    end: int
    pitches: list[int]


class _Reader:
    """Events as a score: one method a kind of event, which tells whether it could be used."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.marks = [Mark(step, "tempo", qpm) for step, qpm in setting.tempos]
        self.mode = "major"
        self.chords: list[_Sounding] = []
        self.rhythm = setting.rhythm
        self.dropped = 0
        self.ended = False
        self.bar_start = 0  # of the bar under way, or of the next one
        self.in_bar = False
        self.length: int | None = None  # of the bar, once its first voice is complete
        self.cursor = 0  # steps from the start of the bar in the voice under way
        self.voice = (0, 0)  # part and number
        self.duration: int | None = None  # read, and still without its head
        self.tuplet: tuple[Tuplet, int, int] | None = None  # group, its start, what is written
        self.last: _Sounding | None = None  # what further pitches join
        self.sounding: dict[tuple[int, int], _Sounding] = {}  # the last chord of each voice
        self.ending: tuple[int, tuple[int, ...]] | None = None  # its start and passes

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
    def here(self) -> int:
        """The step that has been reached."""
        return self.bar_start + self.cursor

    def close_bar(self) -> None:
        """End the bar under way, at the length of its first voice."""
        self.close_line()
        length = self.length if self.length is not None else self.cursor
        if self.in_bar and length:
            self.bar_start += length
            self.marks.append(Mark(self.bar_start, "bar"))
        self.in_bar, self.length, self.cursor, self.voice = False, None, 0, (0, 0)

    def close_line(self) -> None:
        """Forget what the next voice or bar cannot go on with."""
        self.dropped += self.duration is not None
        self.duration = self.tuplet = self.last = None

    def close_ending(self) -> bool:
        """End the ending under way, if there is one."""
        ending, self.ending = self.ending, None
        if ending and ending[0] < self.bar_start:
            self.marks.append(Mark(ending[0], "ending", Ending(ending[1], self.bar_start)))
        return ending is not None

    def jump(self) -> None:
        """Nothing is held over a place where the playing may jump."""
        self.close_bar()
        self.sounding.clear()

    def take_end(self, _: None) -> bool:
        self.close_bar()
        self.ended = True
        return True

    def take_meter(self, value: str) -> bool:
        self.marks.append(Mark(self.here, "meter", Meter.parse(value)))
        return True

    def take_mode(self, value: str) -> bool:
        if self.here:
            return False
        self.mode = value
        return True

    def take_rhythm(self, value: str) -> bool:
        if not self.rhythm and value != "other":
            self.rhythm = value
        return not self.here

    def take_parts(self, value: int) -> bool:
        return not self.here and value == len(self.setting.parts)

    def take_repeat_start(self, _: None) -> bool:
        self.jump()
        self.close_ending()
        self.marks.append(Mark(self.here, "repeat_start"))
        return True

    def take_repeat_end(self, value: int) -> bool:
        self.jump()
        self.close_ending()
        self.marks += [Mark(self.here, "repeat_end", value)] if self.here else []
        return self.here > 0

    def take_ending(self, value: str) -> bool:
        self.jump()
        self.close_ending()
        self.ending = self.here, tuple(map(int, value))
        return True

    def take_ending_end(self, _: None) -> bool:
        self.jump()
        return self.close_ending()

    def take_key(self, value: str) -> bool:
        interval, mode = value.split()
        if self.here:
            key = Key.of(self.setting.tonic_pitch + int(interval), mode)
            self.marks.append(Mark(self.here, "key", key))
        return self.here > 0

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
        return value < len(self.setting.parts) and self.open_line((value, 0))

    def take_voice(self, value: int) -> bool:
        return self.open_line((self.voice[0], value))

    def open_line(self, voice: tuple[int, int]) -> bool:
        """Go back to the start of the bar in another voice."""
        if not self.in_bar:
            return False
        self.close_line()
        self.length = self.cursor if self.length is None else self.length
        self.cursor, self.voice = 0, voice
        return True

    def take_chord(self, value: str) -> bool:
        root, quality = value.split(" ")
        chord = ChordSymbol((int(root) + self.setting.tonic_pitch) % 12, quality)
        self.marks.append(Mark(self.here, "chord", str(chord)))
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
        self.marks.append(Mark(self.here, "chord", "N.C."))
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
        self.duration, self.last = value, None
        return True

    def take_rest(self, _: None) -> bool:
        return self.advance() is not None

    def take_hold(self, _: None) -> bool:
        span = self.advance()
        chord = self.sounding.get(self.voice)
        if span is None or chord is None or chord.end != span[0]:
            return False
        chord.end = span[1]
        return True

    def take_pitch(self, value: int) -> bool:
        is_drums = self.setting.parts[self.voice[0]].is_drums
        return not is_drums and self.sound(self.setting.tonic_pitch + value)

    def take_drum(self, value: int) -> bool:
        return self.setting.parts[self.voice[0]].is_drums and self.sound(value)

    def sound(self, pitch: int) -> bool:
        """Start a chord with a pitch, or add it to the chord that has just started."""
        if not 0 <= pitch <= 127:
            return False
        if self.duration is None:
            if self.last is None or pitch >= self.last.pitches[-1]:
                return False
            self.last.pitches.append(pitch)
            return True
        span = self.advance()
        if span is None:
            return False
        self.last = _Sounding(self.voice[0], *span, [pitch])
        self.sounding[self.voice] = self.last
        self.chords.append(self.last)
        return True

    def advance(self) -> tuple[int, int] | None:
        """Spend the duration that was read; return its first and last step, None if it has none."""
        if self.duration is None:
            return None
        start, self.cursor = self.cursor, self.after(self.duration)
        self.duration = None
        limit = self.cursor if self.length is None else min(self.cursor, self.length)
        self.cursor = limit
        return (self.bar_start + start, self.bar_start + limit) if start < limit else None

    def after(self, nominal: int) -> int:
        """Return where a written value ends, inside the tuplet that is open."""
        if self.tuplet is None:
            return self.cursor + nominal
        group, start, written = self.tuplet
        written = min(written + nominal, group.nominal)
        self.tuplet = None if written == group.nominal else (group, start, written)
        return start + group.sounding(written)
