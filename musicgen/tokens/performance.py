"""Live playing: note on, note off, time shift, velocity (Oore and others, 2018).

The vocabulary of "This time with feeling: learning expressive musical performance":

===========  ================================================================
event        meaning
===========  ================================================================
begin, end   before the first event; after the last
on p         the pitch p sounds from here, at the velocity that holds
off p        it sounds no more
shift n      n units of 10 ms pass, 1 to 100
velocity b   what follows is struck at 4 b to 4 b + 3, b from 0 to 31
===========  ================================================================

A score is played out first (repeats, tempo) and its parts sound as one; drums are refused. Times
are rounded from the start of the tune, never from the event before, so that no error adds up: an
onset moves by 5 ms at the most, a velocity stays in its bin. At one time stand the offs and then
the ons, each from low to high; a note lasts a unit or more. Two notes of one pitch within one unit
become one, and the other is counted as lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.performance import PERFORMANCE_QPM, to_performance
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Score
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    LengthLimitedGrammar,
    ScoreCodec,
    Setting,
    find_main_part,
)
from musicgen.tokens.vocabulary import Event, Vocabulary

UNIT_MILLISECONDS: Final = 10  # milliseconds, which are steps
LONGEST_SHIFT: Final = 100  # units
VELOCITY_BINS: Final = 32
VELOCITIES_PER_BIN: Final = 128 // VELOCITY_BINS  # velocities in a bin
MAX_EVENTS: Final = 4096  # of a sampled piece: some two minutes

PERFORMANCE: Final = Vocabulary(
    (
        ("begin", (None,)),
        ("end", (None,)),
        ("on", range(128)),
        ("off", range(128)),
        ("shift", range(1, LONGEST_SHIFT + 1)),
        ("velocity", range(VELOCITY_BINS)),
    )
)
ON, OFF, SHIFT, VELOCITY = (PERFORMANCE.ranges[kind] for kind in ("on", "off", "shift", "velocity"))
END: Final = PERFORMANCE.id("end")


def to_units(milliseconds: int) -> int:
    """Round to the nearest unit, halves upward."""
    return (milliseconds + UNIT_MILLISECONDS // 2) // UNIT_MILLISECONDS


def bin_to_velocity(bin_: int) -> int:
    """Return the velocity that stands for a bin: never 0, at most 2 from any other in it."""
    return VELOCITIES_PER_BIN * bin_ + VELOCITIES_PER_BIN // 2


@dataclass(slots=True)
class _UnitNote:
    """A note in units."""

    on: int
    off: int
    pitch: int
    bin: int


class PerformanceCodec(ScoreCodec):
    """A score as it sounds to ids of PERFORMANCE and back."""

    name = "performance"
    vocabulary = PERFORMANCE
    setting_options = ("program",)

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Read a file's tunes as they sound, a step a millisecond."""
        return formats.iter_tunes(data, suffix, source, as_performance=True)

    def encode(self, piece: Score) -> Encoded:
        """Write a score, played out, as ids. Raises Refusal for drums."""
        part = find_main_part(piece)
        strokes, lost = _quantise_notes(to_performance(piece).notes)
        setting = Setting(
            title=piece.title,
            rhythm=piece.rhythm,
            tempos=((0, PERFORMANCE_QPM),),
            parts=(part,),
        )
        ids = (PERFORMANCE.ids[event] for event in _iter_events(strokes))
        return Encoded(tuple(ids), setting, lost)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Read any ids at all as a performance; those that could not be used are counted."""
        reader = _PerformanceDecoder()
        for id_ in ids:
            reader.take(PERFORMANCE.event(id_))
        marks = (Mark(0, "tempo", PERFORMANCE_QPM),)
        notes = tuple(reader.finish())
        score = Score(notes, marks, setting.parts[:1], setting.title, setting.rhythm)
        return Decoded(score, reader.dropped)

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> PerformanceGrammar:
        """Start a piece."""
        del setting
        return PerformanceGrammar(MAX_EVENTS if strict else None)


def _quantise_notes(notes: Iterable[Note]) -> tuple[list[_UnitNote], int]:
    """Put notes on the grid, each pitch sounding once at a time; count those that are lost."""
    found: list[_UnitNote] = []
    latest: dict[int, _UnitNote] = {}
    lost = 0
    for note in sorted(notes, key=lambda note: (note.onset, note.pitch, -note.velocity)):
        on = to_units(note.onset)
        stroke = _UnitNote(
            on, max(on + 1, to_units(note.end)), note.pitch, note.velocity // VELOCITIES_PER_BIN
        )
        before = latest.get(note.pitch)
        if before is not None and before.on == on:
            before.off = max(before.off, stroke.off)
            lost += 1
            continue
        if before is not None:
            before.off = min(before.off, on)
        latest[note.pitch] = stroke
        found.append(stroke)
    return found, lost


def _iter_events(strokes: Iterable[_UnitNote]) -> Iterator[Event]:
    """Yield the events of strokes in time, the offs of a time before its ons."""
    offs = [(s.off, 0, s.pitch, s.bin) for s in strokes]
    ons = [(s.on, 1, s.pitch, s.bin) for s in strokes]
    now, held = 0, -1
    for at, is_on, pitch, bin_ in sorted(offs + ons):
        yield from _shifts(at - now)
        now = at
        if is_on and bin_ != held:
            held = bin_
            yield Event("velocity", bin_)
        yield Event("on" if is_on else "off", pitch)
    yield Event("end")


def _shifts(units: int) -> Iterator[Event]:
    """Yield the fewest shifts, the longest first."""
    for _ in range(units // LONGEST_SHIFT):
        yield Event("shift", LONGEST_SHIFT)
    if units % LONGEST_SHIFT:
        yield Event("shift", units % LONGEST_SHIFT)


class _PerformanceDecoder:
    """Events as notes: one method a kind of event, which tells whether it could be used."""

    def __init__(self) -> None:
        self.now = 0  # units
        self.bin = DEFAULT_VELOCITY // VELOCITIES_PER_BIN
        self.sounding_notes: dict[int, tuple[int, int]] = {}  # pitch to its start and bin
        self.notes: list[Note] = []
        self.dropped = 0
        self.ended = False

    def take(self, event: Event) -> None:
        """Use one event, or count it as dropped."""
        value = event.value if isinstance(event.value, int) else 0
        method = getattr(self, "take_" + event.kind, None)
        if self.ended or method is None or not method(value):
            self.dropped += 1

    def finish(self) -> list[Note]:
        """Release what still sounds and return the notes."""
        self.now = max([self.now, *(start + 1 for start, _ in self.sounding_notes.values())])
        for pitch in list(self.sounding_notes):
            self.take_off(pitch)
        return self.notes

    def take_end(self, _: int) -> bool:
        self.ended = True
        return True

    def take_on(self, pitch: int) -> bool:
        if pitch in self.sounding_notes:
            return False
        self.sounding_notes[pitch] = self.now, self.bin
        return True

    def take_off(self, pitch: int) -> bool:
        if pitch not in self.sounding_notes or self.sounding_notes[pitch][0] == self.now:
            return False
        start, bin_ = self.sounding_notes.pop(pitch)
        duration = (self.now - start) * UNIT_MILLISECONDS
        self.notes.append(Note(start * UNIT_MILLISECONDS, pitch, duration, bin_to_velocity(bin_)))
        return True

    def take_shift(self, units: int) -> bool:
        self.now += units
        return True

    def take_velocity(self, bin_: int) -> bool:
        self.bin = bin_
        return True


class PerformanceGrammar(LengthLimitedGrammar):
    """Which events may come next, so that each piece has one way of being written.

    Off only what sounds, on only what is silent; at one time the offs before the ons, each from low
    to high; a velocity only where it changes and a note follows; a shorter shift ends a stretch of
    time; the end right after the last off.
    """

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.sounding_pitches: set[int] = set()
        self.velocity: int | None = None
        self.last_released = self.last_struck = -1  # the highest pitch of this time's offs and ons
        self.last_event = Event("begin")

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        if self.is_done:
            return ()
        if self.last_event.kind == "velocity":
            return self._ons()
        if self.is_closing:
            return tuple(self._closing_ids() or self._strikes())
        return (*self._offs(), *self._strikes(), *self._shifts(), *self._end())

    def take(self, id_: int) -> None:
        """Follow a legal id."""
        self.id_count += 1
        self.last_event = event = PERFORMANCE.events[id_]
        value = event.value if isinstance(event.value, int) else 0
        if event.kind == "on":
            self.sounding_pitches.add(value)
            self.last_struck = value
        elif event.kind == "off":
            self.sounding_pitches.discard(value)
            self.last_released = value
        elif event.kind == "shift":
            self.last_released = self.last_struck = -1
        elif event.kind == "velocity":
            self.velocity = value
        else:
            self.is_done = True

    def _offs(self) -> list[int]:
        if self.last_struck >= 0:
            return []
        return [OFF[pitch] for pitch in sorted(self.sounding_pitches) if pitch > self.last_released]

    def _ons(self) -> tuple[int, ...]:
        silent = (
            pitch
            for pitch in range(self.last_struck + 1, 128)
            if pitch not in self.sounding_pitches
        )
        return tuple(ON[pitch] for pitch in silent)

    def _strikes(self) -> list[int]:
        """Return what may start a note: the note itself, or another velocity for it."""
        ons = self._ons()
        if not ons:
            return []
        changes = [id_ for bin_, id_ in enumerate(VELOCITY) if bin_ != self.velocity]
        return [*(ons if self.velocity is not None else ()), *changes]

    def _shifts(self) -> range:
        short = self.last_event.kind == "shift" and self.last_event.value != LONGEST_SHIFT
        return SHIFT[: 0 if short else None]

    def _end(self) -> list[int]:
        may_end = self.last_event.kind == "off" or (
            self.last_event.kind == "begin" and not self.is_strict
        )
        return [END] if may_end and not self.sounding_pitches else []

    def _closing_ids(self) -> Sequence[int]:
        """Return what leads to the end; nothing where a note must be struck first."""
        if not self.sounding_pitches:
            return self._end()
        lowest = min(self.sounding_pitches)
        may_release = self.last_struck < 0 and lowest > self.last_released
        return [OFF[lowest]] if may_release else self._shifts()
