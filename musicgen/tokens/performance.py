"""Performance codec: note on, note off, time shift, velocity.

Source of the vocabulary: Oore, Simon, Dieleman, Eck and Simonyan, "This time with feeling: learning
expressive musical performance", 2018.

===========  ================================================================
event        meaning
===========  ================================================================
begin, end   before the first event; after the last
on p         pitch p starts, at the current velocity
off p        pitch p ends
shift n      n units of 10 ms pass, 1 to 100
velocity b   following notes have velocity 4 b to 4 b + 3, b from 0 to 31
===========  ================================================================

Repeats and tempo are rendered first and parts are merged; drums are refused. Times are rounded from
the start of the tune, not from the previous event, so that errors do not accumulate: an onset moves
by at most 5 ms, and a velocity stays in its bin. At each time the offs precede the ons, each from
low to high; a note lasts at least one unit. Of two notes of the same pitch within one unit, the
second is counted as lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from musicgen import formats
from musicgen.errors import Refusal
from musicgen.music.milliseconds import PERFORMANCE_QPM, to_performance
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Score
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    LengthLimitedGrammar,
    ScoreCodec,
    Setting,
    find_main_part,
    leave_out_accompaniment,
)
from musicgen.tokens.vocabulary import Event, Vocabulary

UNIT_MILLISECONDS: Final = 10  # a step of a performance is a millisecond
LONGEST_SHIFT: Final = 100  # units
VELOCITY_BINS: Final = 32
VELOCITIES_PER_BIN: Final = 128 // VELOCITY_BINS
MAX_EVENTS: Final = 4096  # of a sampled piece, about two minutes
MAX_SILENT_UNITS: Final = 500  # for which a sampled piece may be silent
MAX_HELD_UNITS: Final = 1000  # for which it may hold notes and do nothing else

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
    """Round milliseconds to the nearest unit, halves up."""
    return (milliseconds + UNIT_MILLISECONDS // 2) // UNIT_MILLISECONDS


def bin_to_velocity(bin_: int) -> int:
    """Return the MIDI velocity at the center of a bin; never 0."""
    return VELOCITIES_PER_BIN * bin_ + VELOCITIES_PER_BIN // 2


@dataclass(slots=True)
class _UnitNote:
    """A note with times in units."""

    on: int
    off: int
    pitch: int
    bin: int  # of the velocity


class PerformanceCodec(ScoreCodec):
    """Converts a score as it sounds to ids of PERFORMANCE and back."""

    name = "performance"
    vocabulary = PERFORMANCE
    setting_options = ("program",)
    contexts = ("time", "none")
    writable_suffixes = (*ScoreCodec.writable_suffixes, ".svg", ".png")  # pictures of piano rolls

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[Score | Refusal]:
        """Yield a file's tunes as they sound, with a step of one millisecond, and refusals."""
        pieces = formats.iter_tunes(data, suffix, source, as_performance=True)
        return leave_out_accompaniment(pieces)

    def encode(self, piece: Score) -> Encoded:
        """Encode a score as it sounds. Raises Refusal for drums."""
        part = find_main_part(piece)
        notes, lost = _quantise_notes(to_performance(piece).notes)
        setting = Setting(
            title=piece.title,
            rhythm=piece.rhythm,
            tempos=((0, PERFORMANCE_QPM),),
            parts=(part,),
        )
        ids = (PERFORMANCE.ids[event] for event in _iter_events(notes))
        return Encoded(tuple(ids), setting, lost)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[Score]:
        """Decode any ids to a performance; count the ids that could not be used."""
        decoder = _PerformanceDecoder()
        for id_ in ids:
            decoder.take(PERFORMANCE.event(id_))
        marks = (Mark(0, "tempo", PERFORMANCE_QPM),)
        notes = tuple(decoder.finish())
        score = Score(notes, marks, setting.parts[:1], setting.title, setting.rhythm)
        return Decoded(score, decoder.dropped)

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> PerformanceGrammar:
        """Create the grammar of a new piece."""
        del setting
        return PerformanceGrammar(MAX_EVENTS if strict else None)


def _quantise_notes(notes: Iterable[Note]) -> tuple[list[_UnitNote], int]:
    """Round notes to units so that no pitch overlaps itself; count the lost notes."""
    unit_notes: list[_UnitNote] = []
    last_by_pitch: dict[int, _UnitNote] = {}
    lost = 0
    for note in sorted(notes, key=lambda note: (note.onset, note.pitch, -note.velocity)):
        on = to_units(note.onset)
        unit_note = _UnitNote(
            on, max(on + 1, to_units(note.end)), note.pitch, note.velocity // VELOCITIES_PER_BIN
        )
        last = last_by_pitch.get(note.pitch)
        if last is not None and last.on == on:
            last.off = max(last.off, unit_note.off)
            lost += 1
            continue
        if last is not None:
            last.off = min(last.off, on)
        last_by_pitch[note.pitch] = unit_note
        unit_notes.append(unit_note)
    return unit_notes, lost


def _iter_events(notes: Iterable[_UnitNote]) -> Iterator[Event]:
    """Yield the events of notes in order of time; at each time the offs before the ons."""
    offs = [(note.off, 0, note.pitch, note.bin) for note in notes]
    ons = [(note.on, 1, note.pitch, note.bin) for note in notes]
    now, velocity_bin = 0, -1
    for time, is_on, pitch, bin_ in sorted(offs + ons):
        yield from _iter_shifts(time - now)
        now = time
        if is_on and bin_ != velocity_bin:
            velocity_bin = bin_
            yield Event("velocity", bin_)
        yield Event("on" if is_on else "off", pitch)
    yield Event("end")


def _iter_shifts(units: int) -> Iterator[Event]:
    """Yield as few shifts as possible, the longest first."""
    for _ in range(units // LONGEST_SHIFT):
        yield Event("shift", LONGEST_SHIFT)
    if units % LONGEST_SHIFT:
        yield Event("shift", units % LONGEST_SHIFT)


class _PerformanceDecoder:
    """Builds notes from events; one method per kind of event returns whether it was usable."""

    def __init__(self) -> None:
        self.now = 0  # units
        self.bin = DEFAULT_VELOCITY // VELOCITIES_PER_BIN
        self.sounding_notes: dict[int, tuple[int, int]] = {}  # pitch to start in units, and bin
        self.notes: list[Note] = []
        self.dropped = 0
        self.has_ended = False

    def take(self, event: Event) -> None:
        """Apply one event, or count it as dropped."""
        value = event.value if isinstance(event.value, int) else 0
        method = getattr(self, "take_" + event.kind, None)
        if self.has_ended or method is None or not method(value):
            self.dropped += 1

    def finish(self) -> list[Note]:
        """End the sounding notes, and return all notes."""
        self.now = max([self.now, *(start + 1 for start, _ in self.sounding_notes.values())])
        for pitch in list(self.sounding_notes):
            self.take_off(pitch)
        return self.notes

    def take_end(self, _: int) -> bool:
        self.has_ended = True
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
    """Allows exactly one way to write each piece.

    Only sounding pitches can end and only silent ones can start; at each time the offs precede the
    ons, each from low to high; a velocity must differ from the current one and precede a note; no
    shift follows one that is shorter than the longest; the end follows the last off. A sampled
    piece is never silent for longer than MAX_SILENT_UNITS.
    """

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.sounding_pitches: set[int] = set()
        self.velocity: int | None = None
        self.last_off = self.last_on = -1  # the highest pitch of the offs and ons at this time
        self.last_event = Event("begin")
        self.idle_units = 0  # since the last on or off

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the piece is done."""
        if self.is_done:
            return ()
        if self.last_event.kind == "velocity":
            return self._on_ids()
        if self.is_closing:
            return tuple(self._closing_ids() or self._note_start_ids())
        return (*self._off_ids(), *self._note_start_ids(), *self._shift_ids(), *self._end_ids())

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        self.id_count += 1
        self.last_event = event = PERFORMANCE.events[id_]
        value = event.value if isinstance(event.value, int) else 0
        if event.kind == "on":
            self.sounding_pitches.add(value)
            self.last_on, self.idle_units = value, 0
        elif event.kind == "off":
            self.sounding_pitches.discard(value)
            self.last_off, self.idle_units = value, 0
        elif event.kind == "shift":
            self.last_off = self.last_on = -1
            self.idle_units += value
        elif event.kind == "velocity":
            self.velocity = value
        else:
            self.is_done = True

    def _off_ids(self) -> list[int]:
        if self.last_on >= 0:
            return []
        return [OFF[pitch] for pitch in sorted(self.sounding_pitches) if pitch > self.last_off]

    def _on_ids(self) -> tuple[int, ...]:
        silent = (
            pitch for pitch in range(self.last_on + 1, 128) if pitch not in self.sounding_pitches
        )
        return tuple(ON[pitch] for pitch in silent)

    def _note_start_ids(self) -> list[int]:
        """Return the ids that may start a note: its on, or another velocity for it."""
        on_ids = self._on_ids()
        if not on_ids:
            return []
        velocity_ids = [id_ for bin_, id_ in enumerate(VELOCITY) if bin_ != self.velocity]
        return [*(on_ids if self.velocity is not None else ()), *velocity_ids]

    def _shift_ids(self) -> range:
        is_after_short = self.last_event.kind == "shift" and self.last_event.value != LONGEST_SHIFT
        if is_after_short:
            return SHIFT[:0]
        limit = MAX_HELD_UNITS if self.sounding_pitches else MAX_SILENT_UNITS
        return SHIFT[: max(0, limit - self.idle_units) if self.is_strict else None]

    def _end_ids(self) -> list[int]:
        may_end = self.last_event.kind == "off" or (
            self.last_event.kind == "begin" and not self.is_strict
        )
        return [END] if may_end and not self.sounding_pitches else []

    def _closing_ids(self) -> Sequence[int]:
        """Return the ids that lead to the end; none if a note must start first."""
        if not self.sounding_pitches:
            return self._end_ids()
        lowest = min(self.sounding_pitches)
        may_end_note = self.last_on < 0 and lowest > self.last_off
        return [OFF[lowest]] if may_end_note else self._shift_ids()
