"""Parser of the music of one voice: from tokens to notes and marks.

Every regular expression here visits a character a bounded number of times: no token extends past a
position where another of its kind could start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from musicgen.formats.abc.fields import (
    ALTERATIONS,
    ALTERED,
    TICKS_PER_STEP,
    TICKS_PER_WHOLE,
    KeyField,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    refuse,
)
from musicgen.music.score import MAX_PLAYS, Ending, Mark, MarkKind, Note
from musicgen.music.theory import LETTER_SEMITONES, Meter, match_chord

MAX_NOTES: Final = 20_000  # per tune; also the limit on bars
MAX_TICKS: Final = 5_000 * TICKS_PER_WHOLE
MAX_DIGITS: Final = 3
MAX_LABELS: Final = 64  # of sections

_LENGTH: Final = "[0-9]*/*[0-9]*"
_TOKEN: Final = re.compile(
    rf"""
      (?P<note> (?:\^\^?|__?|=)? [A-Ga-g] [,']* {_LENGTH} )
    | (?P<bar> (?: \|\]? | \[\|\]? | : )+ )
    | (?P<rest> [zx] {_LENGTH} )
    | (?P<tie> - )
    | (?P<broken> >+ | <+ )
    | (?P<tuplet> \( [0-9]+ (?: :[0-9]* (?: :[0-9]* )? )? )
    | (?P<ending> (?: \[ | (?<=[|:]) ) \ ? [0-9][0-9,.\-]* )
    | (?P<field> \[ [A-Za-z]: [^\[\]]* \] )
    | (?P<opening> \[ )
    | (?P<closing> \] {_LENGTH} )
    | (?P<text> " [^"]* "? )
    | (?P<grace> {{ [^{{}}]* }}? )
    | (?P<fermata> ! fermata ! )
    | ! [^!|"\[\]]{{0,40}} ! | \+ [^+|"\[\]]{{0,40}} \+ | y {_LENGTH}
    | (?P<measures> [ZX] [0-9]* )
    | (?P<overlay> \(& | &\) | &+ )
    | (?P<accidental> [\^_=]+ )
    """,
    re.VERBOSE,
)
_NOTE: Final = re.compile(rf"([_=^]*)([A-Ga-g])([,']*)({_LENGTH})")
_FACTORS: Final = re.compile(r"([0-9]*)(/*)([0-9]*)")
_CHORD_SYMBOL: Final = re.compile(
    r"\^?N\.?C\.?|[A-G][#b♯♭]?(?:maj|min|dim|aug|sus|add|[mM+°øo(),#b]|-|[0-9]{1,2}){0,8}(?:/[A-G][#b♯♭]?)?"
)
# Spellings of the Nottingham Music Database: "D/f+" (F sharp), "Gd" (diminished), "Ca" (augmented),
# "(E7)" (optional), "D m".
_LOOSE_CHORD: Final = re.compile(
    r"\(?\s*([A-G][#b]?(?:\s?m|maj|[da])?[0-9]{0,2}(?:b[59])?(?:/[A-Ga-g][#b+]?)?)\s*\)?"
)
MAX_CHORD_TEXT: Final = 24  # characters
# Residue of quoted-printable e-mail: "=3D" for "=", and "=20" or "=" at line ends. A note can
# follow none of them.
_MAIL_DAMAGE: Final = re.compile(r"(=)3D|=(?:20)?$")
_DEFAULT_TIMES: Final = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # 5, 7 and 9 depend on the meter


class NoteToken(NamedTuple):
    """A written note, independent of context."""

    letter: str
    natural: int  # MIDI note number without alteration
    alteration: int | None  # semitones; None without an accidental
    numerator: int  # of the length in units of L:
    denominator: int


@lru_cache(maxsize=4096)
def read_note(text: str) -> NoteToken:
    """Parse a note such as "^c'3/2"."""
    match = _NOTE.fullmatch(text)
    assert match is not None
    letter = match[2].upper()
    octaves = match[3].count("'") - match[3].count(",") + (match[2] != letter)
    natural = 60 + 12 * octaves + LETTER_SEMITONES[letter]
    return NoteToken(letter, natural, ALTERATIONS[match[1]], *read_length(match[4]))


@lru_cache(maxsize=1024)
def read_length(text: str) -> tuple[int, int]:
    """Parse a length such as "3/2", "/" or "//" into (numerator, denominator)."""
    match = _FACTORS.fullmatch(text)
    assert match is not None
    if max(map(len, match.groups())) > MAX_DIGITS:
        refuse("length", f"the length {text[:12]}... is too long; use at most {MAX_DIGITS} digits")
    numerator, slashes, denominator = int(match[1] or 1), len(match[2]), int(match[3] or 2)
    if numerator == 0 or denominator == 0:
        refuse("length", f"the length {text} is not allowed; write one such as 2, /2 or 3/2")
    return numerator, denominator << (slashes - 1) if slashes else 1


@lru_cache(maxsize=1024)
def read_chord_symbol(text: str) -> str | None:
    """Return the chord symbol that a quoted text is, as it is usually spelled; None for others."""
    if len(text) > MAX_CHORD_TEXT:
        return None
    if _CHORD_SYMBOL.fullmatch(text):
        return text.lstrip("^").replace("♯", "#").replace("♭", "b")
    loose = _LOOSE_CHORD.fullmatch(text)
    match = match_chord(loose[1]) if loose else None
    if match is None:
        return None
    root, quality, bass = match
    return f"{root}{quality}" + (f"/{bass}" if bass else "")


def to_steps(ticks: int) -> int:
    """Convert ticks to the nearest step; round halves up."""
    return (ticks + TICKS_PER_STEP // 2) // TICKS_PER_STEP


@dataclass(frozen=True)
class VoiceSettings:
    """The settings with which a voice starts."""

    key: KeyField
    meters: tuple[Meter, ...]  # several alternate; none is free meter
    unit: int  # ticks
    tempo: float | None = None  # quarter notes per minute
    transposition: int = 0  # semitones from written to sounding pitch


@dataclass(slots=True)
class TickNote:
    """A sounding note, which ties may still extend."""

    onset: int  # ticks
    end: int  # ticks
    pitch: int  # MIDI note number


@dataclass(slots=True)
class Ties:
    """The notes that are tied to the next note, by written and by sounding pitch."""

    pitch_by_natural: dict[int, int] = field(default_factory=dict)
    note_by_pitch: dict[int, TickNote] = field(default_factory=dict)

    def add(self, natural: int, note: TickNote) -> None:
        """Tie a note, given its written pitch without alteration."""
        self.pitch_by_natural[natural] = note.pitch
        self.note_by_pitch[note.pitch] = note

    def update(self, other: Ties) -> None:
        """Add all ties of another set."""
        self.pitch_by_natural.update(other.pitch_by_natural)
        self.note_by_pitch.update(other.note_by_pitch)

    def ending_at(self, time: int) -> Ties:
        """Return the ties of the notes that end at a time in ticks."""
        notes = {pitch: note for pitch, note in self.note_by_pitch.items() if note.end == time}
        naturals = {name: pitch for name, pitch in self.pitch_by_natural.items() if pitch in notes}
        return Ties(naturals, notes)


class Tuplet(NamedTuple):
    """The rest of a tuplet: p notes in the time of q."""

    notes_left: int = 0
    q: int = 1
    p: int = 1


class VoiceReader:
    """Reads a voice line by line, and keeps its notes and marks so far."""

    def __init__(self, settings: VoiceSettings) -> None:
        self.unit = settings.unit  # ticks
        self.transposition = settings.transposition  # semitones
        self.time = 0  # ticks
        self.notes: list[TickNote] = []
        self.marks: dict[tuple[int, MarkKind], Any] = {}
        self.labels: list[tuple[str, int]] = []  # letter and step of the labels of sections
        self.bars = 0
        self._bar_start = 0  # steps
        self._bar_starts = [0]  # ticks
        self._open_ending: tuple[int, tuple[int, ...]] | None = None  # start in steps, passes
        self._overlay: Overlay | None = None
        self._chord: list[NoteToken] | None = None
        self._chord_ties: list[int] = []
        self._lines_in_chord = 0
        self._last_notes: Sequence[tuple[int, TickNote]] = ()  # with their natural pitches
        self._last_length = 0  # ticks of the note or rest that < and > change
        self._next_length_factor: tuple[int, int] | None = None  # by < and >, as a fraction
        self._tuplet = Tuplet()
        self._ties = Ties()
        self._overlay_ties = Ties()
        self._token_handlers: dict[str | None, Callable[[str], None]] = {
            "note": self._note,
            "rest": self._rest,
            "bar": self._bar,
            "tie": self._tie,
            "broken": self._read_broken_rhythm,
            "tuplet": self._read_tuplet,
            "ending": self._read_ending,
            "field": self._inline_field,
            "opening": self._open_chord,
            "closing": self._close_chord,
            "text": self._text,
            "fermata": self._fermata,
            "grace": self._grace,
            "measures": self._read_measure_rests,
            "overlay": self._read_overlay,
            "accidental": self._refuse_accidental,
            None: _ignore_token,
        }
        self._change_key(settings.key)
        self._change_meters(settings.meters)
        self._change_tempo(settings.tempo)

    @property
    def is_used(self) -> bool:
        """Whether the voice has any notes or rests."""
        return self.time > 0 or self._chord is not None

    def read_line(self, text: str) -> None:
        """Read one line of music."""
        if "=" in text:
            text = _MAIL_DAMAGE.sub(r"\1", text)
        handlers = self._token_handlers
        for match in _TOKEN.finditer(text):
            handlers[match.lastgroup](match[0])
        if self._chord is not None:
            self._allow_line_break_in_chord()
        if self.time > MAX_TICKS or self.bars > MAX_NOTES:
            _refuse_too_long()

    def _allow_line_break_in_chord(self) -> None:
        """Let a chord continue on the next line, as mail programs break lines, but no further."""
        self._lines_in_chord += 1
        if self._lines_in_chord > 1:
            refuse("syntax", "a chord is still open at the end of the line; close it with ]")

    def read_field(self, name: str, text: str) -> None:
        """Read a field inside the tune; ignore fields that do not change the notes."""
        if name == "K":
            self._change_key(parse_key(text))
        elif name == "M":
            self._change_meters(parse_meter(text))
        elif name == "L":
            self.unit = parse_unit(text)
        elif name == "Q":
            self._change_tempo(parse_tempo(text, self.unit))
        elif name == "P" and len(self.labels) < MAX_LABELS:
            self.labels.append((text.strip()[:1], to_steps(self.time)))

    def finish(self, part: int, velocity: int) -> tuple[list[Note], list[Mark]]:
        """End the voice and return its notes and marks, in steps.

        Args:
            part: index of the part that the notes belong to.
            velocity: MIDI velocity of the notes.
        """
        if self._chord is not None:
            refuse("syntax", "a chord is still open at the end of the tune; close it with ]")
        self._end_overlay()
        self._end_bar()
        self._close_ending()
        spans = [(to_steps(note.onset), to_steps(note.end), note.pitch) for note in self.notes]
        if any(end <= onset for onset, end, _ in spans):
            refuse("length", "a note is shorter than 1/384; write longer ones")
        notes = [Note(onset, pitch, end - onset, velocity, part) for onset, end, pitch in spans]
        return notes, [Mark(step, kind, value) for (step, kind), value in self.marks.items()]

    # Fields

    def _change_key(self, key: KeyField) -> None:
        self._signature = key
        self._alterations = dict(key.alterations)
        self._set_mark("key", key.key.transpose(self.transposition))

    def _change_meters(self, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        if meters:
            self._set_mark("meter", meters[0])

    def _change_tempo(self, qpm: float | None) -> None:
        if qpm is not None:
            self._set_mark("tempo", qpm)

    def _inline_field(self, text: str) -> None:
        self.read_field(text[1], text[3:-1])

    def _set_mark(self, kind: MarkKind, value: Any = None) -> None:
        self.marks[to_steps(self.time), kind] = value

    # Notes, rests and chords

    def _note(self, text: str) -> None:
        token = read_note(text)
        if self._chord is not None:
            self._chord.append(token)
            return
        onset = self.time
        self._advance(token.numerator, token.denominator)
        pitch = self._resolve_pitch(token)
        note = self._ties.note_by_pitch.get(pitch) or self._start_note(onset, pitch)
        note.end = self.time
        self._last_notes = ((token.natural, note),)
        if self._ties.pitch_by_natural:
            self._ties = Ties()

    def _rest(self, text: str) -> None:
        if self._chord is None:
            self._advance(*read_length(text[1:]))
            self._forget_notes()

    def _read_measure_rests(self, text: str) -> None:
        """Read bars of rest, and end all but the last, which its own bar line ends."""
        measure = TICKS_PER_STEP * self.meters[0].steps if self.meters else TICKS_PER_WHOLE
        count = read_length(text[1:])[0]
        for number in range(count):
            if number:
                self._end_bar()
            self.time += measure
            if self.time > MAX_TICKS:
                _refuse_too_long()
        self._last_length = 0
        self._forget_notes()

    def _forget_notes(self) -> None:
        self._last_notes = ()
        self._ties = Ties()

    def _open_chord(self, _: str) -> None:
        if self._chord is not None:
            refuse("syntax", "a chord opens inside a chord; close the first with ]")
        self._chord, self._chord_ties, self._lines_in_chord = [], [], 0

    def _close_chord(self, text: str) -> None:
        tokens, self._chord = self._chord, None
        if tokens:
            numerator, denominator = read_length(text[1:])
            first = tokens[0]
            self._add_chord(tokens, numerator * first.numerator, denominator * first.denominator)
            for index in self._chord_ties:
                self._ties.add(*self._last_notes[index])

    def _add_chord(self, tokens: Sequence[NoteToken], numerator: int, denominator: int) -> None:
        """Add or, if tied, extend the notes of a chord, whose length is in units of L:."""
        onset = self.time
        self._advance(numerator, denominator)
        pitches = [self._resolve_pitch(token) for token in tokens]
        tied, self._ties = self._ties.note_by_pitch, Ties()
        last_notes = []
        for token, pitch in zip(tokens, pitches, strict=True):
            note = tied.pop(pitch, None) or self._start_note(onset, pitch)
            note.end = self.time
            last_notes.append((token.natural, note))
        self._last_notes = last_notes

    def _start_note(self, onset: int, pitch: int) -> TickNote:
        note = TickNote(onset, onset, pitch)
        self.notes.append(note)
        return note

    def _resolve_pitch(self, token: NoteToken) -> int:
        """Return the sounding pitch: by the note's accidental, its tie, the bar's or the key's."""
        alteration = token.alteration
        if alteration is None:
            if token.natural in self._ties.pitch_by_natural:
                return self._ties.pitch_by_natural[token.natural]
            alteration = self._alterations[token.letter]
        else:
            self._alterations[token.letter] = alteration
        pitch = token.natural + alteration + self._signature.transposition + self.transposition
        if not 0 <= pitch <= 127:
            refuse("pitch", f"MIDI note number {pitch} is outside of 0..127; transpose it")
        return pitch

    def _tie(self, _: str) -> None:
        if self._chord is None:
            for natural, note in self._last_notes:
                self._ties.add(natural, note)
        elif self._chord:
            self._chord_ties.append(len(self._chord) - 1)

    # Time

    def _advance(self, numerator: int, denominator: int) -> None:
        """Advance by a length in units of L:, as the current tuplet and broken rhythm change it."""
        if self._tuplet.notes_left or self._next_length_factor:
            numerator, denominator = self._scale_length(numerator, denominator)
        self._last_length, rest = divmod(self.unit * numerator, denominator)
        if rest or not self._last_length:
            _refuse_too_short()
        self.time += self._last_length

    def _scale_length(self, numerator: int, denominator: int) -> tuple[int, int]:
        notes_left, q, p = self._tuplet
        if notes_left:
            numerator, denominator = numerator * q, denominator * p
            self._tuplet = Tuplet(notes_left - 1, q, p)
        if self._next_length_factor:
            over, under = self._next_length_factor
            numerator, denominator = numerator * over, denominator * under
            self._next_length_factor = None
        return numerator, denominator

    def _read_broken_rhythm(self, text: str) -> None:
        """Change the length of the last note, and store the factor for the next one."""
        if len(text) > 3:
            refuse("syntax", f"{text[:4]} is not a broken rhythm; write one to three < or >")
        if not self._last_length:
            refuse("syntax", f"{text} does not follow a note; write it between two notes")
        divisor = 1 << len(text)
        shortened = _divide_exactly(self._last_length, divisor)
        is_lengthened = text[0] == ">"
        change = self._last_length - shortened
        self.time += change if is_lengthened else -change
        self._next_length_factor = (1 if is_lengthened else 2 * divisor - 1, divisor)
        self._last_length = 0
        for _, note in self._last_notes:
            note.end = self.time

    def _read_tuplet(self, text: str) -> None:
        numbers = [int(part[:MAX_DIGITS] or 0) for part in text[1:].split(":")]
        p, q, count = (*numbers, 0, 0)[:3]
        q = q or _DEFAULT_TIMES.get(p, 3 if self._is_compound() else 2)
        if not (2 <= p <= 9 and q <= 9 and count <= 99):
            refuse("tuplet", f"{text[:9]} is not a tuplet of 2 to 9 notes; write one such as (3")
        self._tuplet = Tuplet(count or p, q, p)

    def _is_compound(self) -> bool:
        return bool(self.meters) and self.meters[0].beats in (6, 9, 12)

    # Bar lines

    def _bar(self, text: str) -> None:
        if text == ":":
            return  # a stray colon, neither a bar line nor a repeat
        if self._overlay is not None:
            self._overlay.remaining_bars -= 1
            if self._overlay.remaining_bars == 0:
                self._end_overlay()
        self._end_bar()
        self._alterations = dict(self._signature.alterations)
        if ":" in text:
            self._mark_repeats(text)
        if ":" in text or (self._open_ending and len(text) > 1 and text != "[|]"):
            self._end_ties_and_ending()

    def _end_bar(self) -> None:
        """End the bar if any time has passed since its start."""
        step = to_steps(self.time)
        if step > self._bar_start:
            self.bars += 1
            if len(self.meters) > 1:
                self._choose_meter(step - self._bar_start)
            self._bar_start = step
            self._bar_starts.append(self.time)
            self.marks[step, "bar"] = None
        self._last_length = 0

    def _choose_meter(self, steps: int) -> None:
        """Mark which of the alternating meters has the length of the bar, in steps."""
        fitting = next((meter for meter in self.meters if meter.steps == steps), None)
        if fitting is not None:
            self.marks[self._bar_start, "meter"] = fitting

    def _mark_repeats(self, text: str) -> None:
        """Mark the repeats of a bar line: colons before it end a section, those after it start one.

        Colons between two lines, as in "|:|", are an end, as no section can start there.
        """
        lines = text.strip(":")
        opening = len(text) - len(text.rstrip(":")) if lines else 1
        closing = text.count(":") - opening if lines else max(1, len(text) // 2)
        if closing and self.time:
            self._set_mark("repeat_end", min(closing + 1, MAX_PLAYS))
        if opening:
            self._set_mark("repeat_start")

    def _end_ties_and_ending(self) -> None:
        """End ties and the open ending where playing may jump."""
        self._ties = Ties(self._ties.pitch_by_natural)
        self._close_ending()

    def _read_ending(self, text: str) -> None:
        passes = read_passes(text.strip("[ .,-"))
        self._end_bar()
        self._end_ties_and_ending()
        self._open_ending = to_steps(self.time), passes

    def _close_ending(self) -> None:
        if self._open_ending is not None:
            start, passes = self._open_ending
            if start < (end := to_steps(self.time)):
                self.marks[start, "ending"] = Ending(passes, end)
            self._open_ending = None

    # Texts and grace notes

    def _text(self, text: str) -> None:
        if symbol := read_chord_symbol(text.strip('" ')):
            self._set_mark("chord", symbol)

    def _fermata(self, _: str) -> None:
        self._set_mark("fermata")

    def _grace(self, text: str) -> None:
        if not text.endswith("}"):
            refuse("syntax", "grace notes are still open at the end of the line; close them with }")
        for sign, letter in ALTERED.findall(text):
            self._alterations[letter.upper()] = ALTERATIONS[sign] or 0  # until the bar line

    def _refuse_accidental(self, text: str) -> None:
        refuse("syntax", f"{text[:4]} does not precede a note; write it before a letter")

    # Overlays

    def _read_overlay(self, text: str) -> None:
        """Go back a bar per &, or to the open (&, for music that sounds at the same time."""
        if text == "&)":
            self._end_overlay()
            return
        bars = 0 if text == "(&" else len(text)
        if self._overlay is None:
            start = self._bar_starts[max(0, len(self._bar_starts) - bars)] if bars else self.time
            self._overlay = Overlay(start, bars, self.time, self._ties)
        else:
            self._overlay_ties.update(self._ties)
        if bars:
            self._go_back(self._overlay)

    def _go_back(self, overlay: Overlay) -> None:
        overlay.farthest_time = max(overlay.farthest_time, self.time)
        self.time = overlay.start
        self._last_notes, self._last_length = (), 0
        self._next_length_factor, self._tuplet = None, Tuplet()
        self._alterations = dict(self._signature.alterations)
        self._ties = self._overlay_ties.ending_at(overlay.start)

    def _end_overlay(self) -> None:
        """Continue after the longest of the overlaid voices."""
        if self._overlay is not None:
            self._overlay_ties.update(self._ties)
            self.time = max(self.time, self._overlay.farthest_time)
            self._last_notes = ()
            self._ties = self._overlay.ties
            self._overlay = None


@dataclass(slots=True)
class Overlay:
    """Music written after & that sounds together with the bars before it."""

    start: int  # ticks
    remaining_bars: int  # bar lines until it ends; 0 where it ends at "&)"
    farthest_time: int  # ticks; the latest end of the voices so far
    ties: Ties  # of the main voice


def _ignore_token(_: str) -> None:
    """Ignore a decoration or a space."""


def read_passes(text: str) -> tuple[int, ...]:
    """Parse the passes of an ending: "1", "1,3", "1-3"."""
    passes: set[int] = set()
    for span in text.replace(".", ",").split(","):
        numbers = [int(number[:MAX_DIGITS]) for number in span.split("-") if number]
        if numbers:
            passes |= set(range(numbers[0], numbers[-1] + 1))
    if not passes or not 1 <= min(passes) <= max(passes) <= MAX_PLAYS:
        refuse("ending", f"an ending is for pass {text[:9]}; write passes 1 to {MAX_PLAYS}")
    return tuple(sorted(passes))


def _divide_exactly(ticks: int, divisor: int) -> int:
    length, rest = divmod(ticks, divisor)
    if rest or not length:
        _refuse_too_short()
    return length


def _refuse_too_long() -> NoReturn:
    refuse("too-large", f"over {MAX_NOTES} bars, or 20000 quarter notes; split the tune")


def _refuse_too_short() -> NoReturn:
    refuse("length", "a length is too small a fraction of a whole note; write a longer one")
