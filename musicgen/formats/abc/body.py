"""The music of one voice: tokens in, notes and marks out.

Every regular expression here reads a character a bounded number of times: no token is looked for
beyond a place where another of its kind could start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from musicgen.formats.abc.fields import (
    ALTERATIONS,
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
from musicgen.music.theory import LETTER_SEMITONES, Meter

MAX_NOTES: Final = 20_000  # and as many bars
MAX_TICKS: Final = 5_000 * TICKS_PER_WHOLE
MAX_DIGITS: Final = 3

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
    | ! [^!|"\[\]]{{0,40}} ! | \+ [^+|"\[\]]{{0,40}} \+ | y {_LENGTH}
    | (?P<measures> [ZX] [0-9]* )
    | (?P<overlay> \(& | &\) | &+ )
    | (?P<accidental> [\^_=]+ )
    """,
    re.VERBOSE,
)
_NOTE: Final = re.compile(rf"([_=^]*)([A-Ga-g])([,']*)({_LENGTH})")
_ALTERED: Final = re.compile(r"(\^\^?|__?|=)([A-Ga-g])")
_FACTORS: Final = re.compile(r"([0-9]*)(/*)([0-9]*)")
_CHORD_SYMBOL: Final = re.compile(
    r"\^?N\.?C\.?|[A-G][#b♯♭]?(?:maj|min|dim|aug|sus|add|[mM+°øo(),#b]|-|[0-9]{1,2}){0,8}(?:/[A-G][#b♯♭]?)?"
)
# What a mail program made of "=" and of blanks and breaks at line ends ("quoted-printable"):
# no note can follow any of them.
_MAIL_DAMAGE: Final = re.compile(r"(=)3D|=(?:20)?$")
_DEFAULT_TIMES: Final = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # 5, 7 and 9: by the meter


class NoteToken(NamedTuple):
    """A note as it is written: nothing of it depends on what stands before."""

    letter: str
    natural: int  # MIDI number without any alteration
    alteration: int | None
    numerator: int  # its length, in units of L:
    denominator: int


@lru_cache(maxsize=4096)
def read_note(text: str) -> NoteToken:
    """Read a note such as "^c'3/2"."""
    match = _NOTE.fullmatch(text)
    assert match is not None
    letter = match[2].upper()
    octaves = match[3].count("'") - match[3].count(",") + (match[2] != letter)
    natural = 60 + 12 * octaves + LETTER_SEMITONES[letter]
    return NoteToken(letter, natural, ALTERATIONS[match[1]], *read_length(match[4]))


@lru_cache(maxsize=1024)
def read_length(text: str) -> tuple[int, int]:
    """Read a length such as "3/2", "/" or "//" as (over, under)."""
    match = _FACTORS.fullmatch(text)
    assert match is not None
    if max(map(len, match.groups())) > MAX_DIGITS:
        refuse("length", f"a length of {text[:12]}... is absurd; use at most {MAX_DIGITS} digits")
    over, slashes, under = int(match[1] or 1), len(match[2]), int(match[3] or 2)
    if over == 0 or under == 0:
        refuse("length", f"a length of {text} is none; write one such as 2, /2 or 3/2")
    return over, under << (slashes - 1) if slashes else 1


def to_steps(ticks: int) -> int:
    """Round ticks to the nearest step, halves upward."""
    return (ticks + TICKS_PER_STEP // 2) // TICKS_PER_STEP


@dataclass(frozen=True)
class VoiceSettings:
    """What holds where a voice starts; several meters alternate, no meter is a free one."""

    key: KeyField
    meters: tuple[Meter, ...]
    unit: int  # ticks
    tempo: float | None = None
    transposition: int = 0  # semitones that the voice sounds off


class VoiceReader:
    """What has been read of a voice so far; `line` reads on."""

    def __init__(self, settings: VoiceSettings) -> None:
        self.unit = settings.unit  # ticks
        self.transposition = settings.transposition  # semitones
        self.time = 0  # ticks
        self.onsets: list[int] = []  # of each note, in ticks
        self.ends: list[int] = []
        self.pitches: list[int] = []
        self.marks: dict[tuple[int, MarkKind], Any] = {}
        self.bars = 0
        self._bar_start = 0  # steps
        self._bar_starts = [0]  # ticks
        self._current_ending: tuple[int, tuple[int, ...]] | None = (
            None  # the open one: from, passes
        )
        self._overlay: Overlay | None = None
        self._chord: list[NoteToken] | None = None
        self._chord_ties: list[int] = []
        self._lines_in_chord = 0
        self._last_notes: Sequence[tuple[int, int, int]] = ()  # natural, pitch, index
        self._last_length = 0  # ticks of the note or rest that < and > would change
        self._next_length_factor: tuple[int, int] | None = None  # what they do to the next one
        self._tuplet = (0, 1, 1)  # how many more notes, over, under
        self._tied_naturals: dict[int, int] = {}  # natural: pitch
        self._tied_pitches: dict[int, int] = {}  # pitch: index
        self._overlaid_ties: tuple[dict[int, int], dict[int, int]] = {}, {}
        self._token_handlers: dict[str | None, Callable[[str], None]] = {
            "note": self._note,
            "rest": self._rest,
            "bar": self._bar,
            "tie": self._tie,
            "broken": self._read_broken_rhythm,
            "tuplet": self._open_tuplet,
            "ending": self._open_ending,
            "field": self._inline_field,
            "opening": self._open_chord,
            "closing": self._close_chord,
            "text": self._text,
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
        """Tell whether anything sounds or rests in it."""
        return self.time > 0 or self._chord is not None

    def read_line(self, text: str) -> None:
        """Read one line of music."""
        if "=" in text:
            text = _MAIL_DAMAGE.sub(r"\1", text)
        read = self._token_handlers
        for match in _TOKEN.finditer(text):
            read[match.lastgroup](match[0])
        if self._chord is not None:
            self._allow_line_break_in_chord()
        if self.time > MAX_TICKS or self.bars > MAX_NOTES:
            _refuse_too_long()

    def _allow_line_break_in_chord(self) -> None:
        """Let a chord go on in the next line, where some mail programs cut it, and no further."""
        self._lines_in_chord += 1
        if self._lines_in_chord > 1:
            refuse("syntax", "a chord is still open at the end of the line; close it with ]")

    def read_field(self, name: str, text: str) -> None:
        """Read a field inside the tune; what does not change the notes is passed over."""
        if name == "K":
            self._change_key(parse_key(text))
        elif name == "M":
            self._change_meters(parse_meter(text))
        elif name == "L":
            self.unit = parse_unit(text)
        elif name == "Q":
            self._change_tempo(parse_tempo(text, self.unit))

    def finish(self, part: int, velocity: int) -> tuple[list[Note], list[Mark]]:
        """End the voice and return its notes and marks, in steps."""
        if self._chord is not None:
            refuse("syntax", "a chord is still open at the end of the tune; close it with ]")
        self._end_overlay()
        self._end_bar()
        self._close_ending()
        half, step = TICKS_PER_STEP // 2, TICKS_PER_STEP
        onsets = [(ticks + half) // step for ticks in self.onsets]
        lengths = [(t + half) // step - o for t, o in zip(self.ends, onsets, strict=True)]
        if lengths and min(lengths) < 1:
            refuse("length", "a note is shorter than 1/384; write longer ones")
        notes = [
            Note(onset, pitch, length, velocity, part)
            for onset, pitch, length in zip(onsets, self.pitches, lengths, strict=True)
        ]
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
        head = read_note(text)
        if self._chord is not None:
            self._chord.append(head)
            return
        onset = self.time
        self._advance(head.numerator, head.denominator)
        pitch = self._resolve_pitch(head)
        tied = self._tied_pitches.get(pitch) if self._tied_pitches else None
        index = self._add_note(onset, pitch) if tied is None else self._extend_note(tied)
        self._last_notes = ((head.natural, pitch, index),)
        if self._tied_naturals:
            self._tied_naturals, self._tied_pitches = {}, {}

    def _rest(self, text: str) -> None:
        if self._chord is None:
            self._advance(*read_length(text[1:]))
            self._forget_notes()

    def _read_measure_rests(self, text: str) -> None:
        """Read bars of rest: a bar line ends each but the last, whose own is still to come."""
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
        self._tied_naturals, self._tied_pitches = {}, {}

    def _open_chord(self, _: str) -> None:
        if self._chord is not None:
            refuse("syntax", "a chord opens inside a chord; close the first with ]")
        self._chord, self._chord_ties, self._lines_in_chord = [], [], 0

    def _close_chord(self, text: str) -> None:
        heads, self._chord = self._chord, None
        if heads:
            over, under = read_length(text[1:])
            self._add_chord(heads, over * heads[0].numerator, under * heads[0].denominator)
            for index in self._chord_ties:
                self._add_tie(*self._last_notes[index])

    def _add_chord(self, heads: list[NoteToken], numerator: int, denominator: int) -> None:
        """Let notes sound together: the first one's length is the chord's."""
        onset = self.time
        self._advance(numerator, denominator)
        pitches = [self._resolve_pitch(head) for head in heads]
        tied, self._tied_naturals, self._tied_pitches = self._tied_pitches, {}, {}
        sounding = []
        for head, pitch in zip(heads, pitches, strict=True):
            before = tied.pop(pitch, None)
            index = self._add_note(onset, pitch) if before is None else self._extend_note(before)
            sounding.append((head.natural, pitch, index))
        self._last_notes = sounding

    def _add_note(self, onset: int, pitch: int) -> int:
        """Start a note; return its index."""
        self.onsets.append(onset)
        self.ends.append(self.time)
        self.pitches.append(pitch)
        return len(self.pitches) - 1

    def _extend_note(self, tied: int) -> int:
        """Go on with the note that is tied to the one being read; return its index."""
        self.ends[tied] = self.time
        return tied

    def _resolve_pitch(self, head: NoteToken) -> int:
        """Return the pitch of a note: its own accidental, else the tie's, the bar's, the key's."""
        alteration = head.alteration
        if alteration is None:
            if head.natural in self._tied_naturals:
                return self._tied_naturals[head.natural]
            alteration = self._alterations[head.letter]
        else:
            self._alterations[head.letter] = alteration
        pitch = head.natural + alteration + self._signature.transposition + self.transposition
        if not 0 <= pitch <= 127:
            refuse("pitch", f"a note of MIDI number {pitch} is outside of 0..127; move it")
        return pitch

    def _tie(self, _: str) -> None:
        if self._chord is None:
            for voiced in self._last_notes:
                self._add_tie(*voiced)
        elif self._chord:
            self._chord_ties.append(len(self._chord) - 1)

    def _add_tie(self, natural: int, pitch: int, index: int) -> None:
        self._tied_naturals[natural] = pitch
        self._tied_pitches[pitch] = index

    # Time

    def _advance(self, numerator: int, denominator: int) -> None:
        """Go on by a length in units of L:, under the tuplet and the broken rhythm that hold."""
        if self._tuplet[0] or self._next_length_factor:
            numerator, denominator = self._scale_length(numerator, denominator)
        self._last_length, rest = divmod(self.unit * numerator, denominator)
        if rest or not self._last_length:
            _refuse_too_short()
        self.time += self._last_length

    def _scale_length(self, numerator: int, denominator: int) -> tuple[int, int]:
        count, times, each = self._tuplet
        if count:
            numerator, denominator = numerator * times, denominator * each
            self._tuplet = count - 1, times, each
        if self._next_length_factor:
            numerator, denominator = (
                numerator * self._next_length_factor[0],
                denominator * self._next_length_factor[1],
            )
            self._next_length_factor = None
        return numerator, denominator

    def _read_broken_rhythm(self, text: str) -> None:
        """Change the note before, and keep what is to be done to the next one."""
        if len(text) > 3:
            refuse("syntax", f"{text[:4]} is no broken rhythm; write one to three < or >")
        if not self._last_length:
            refuse("syntax", f"{text} stands after no note; write it between two notes")
        short = _divide_exactly(self._last_length, 1 << len(text))
        factors = (1 << len(text)), (2 << len(text)) - 1
        longer = text[0] == ">"
        self.time += self._last_length - short if longer else short - self._last_length
        self._next_length_factor = (1, factors[0]) if longer else (factors[1], factors[0])
        self._last_length = 0
        for _, _, index in self._last_notes:
            self.ends[index] = self.time

    def _open_tuplet(self, text: str) -> None:
        numbers = [int(part[:MAX_DIGITS] or 0) for part in text[1:].split(":")]
        each, times, count = (*numbers, 0, 0)[:3]
        times = times or _DEFAULT_TIMES.get(each, 3 if self._is_compound() else 2)
        if not (2 <= each <= 9 and times <= 9 and count <= 99):
            refuse("tuplet", f"{text[:9]} is no tuplet of 2 to 9 notes; write one such as (3")
        self._tuplet = count or each, times, each

    def _is_compound(self) -> bool:
        return bool(self.meters) and self.meters[0].beats in (6, 9, 12)

    # Bar lines

    def _bar(self, text: str) -> None:
        if text == ":":
            return  # a stray one: neither a bar line nor a repeat
        if self._overlay is not None:
            self._overlay.remaining_bars -= 1
            if self._overlay.remaining_bars == 0:
                self._end_overlay()
        self._end_bar()
        self._alterations = dict(self._signature.alterations)
        if ":" in text:
            self._mark_repeats(text)
        if ":" in text or (self._current_ending and len(text) > 1 and text != "[|]"):
            self._end_ties_and_ending()

    def _end_bar(self) -> None:
        """End a bar if any time has passed since the last one ended."""
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
        """Mark which of the meters that alternate fills the bar that ends."""
        fitting = next((meter for meter in self.meters if meter.steps == steps), None)
        if fitting is not None:
            self.marks[self._bar_start, "meter"] = fitting

    def _mark_repeats(self, text: str) -> None:
        """Mark what the colons of a bar line say: before it an end, after it a start.

        Colons between two lines, as in "|:|", are an end: there is nothing there to start.
        """
        lines = text.strip(":")
        opening = len(text) - len(text.rstrip(":")) if lines else 1
        closing = text.count(":") - opening if lines else max(1, len(text) // 2)
        if closing and self.time:
            self._set_mark("repeat_end", min(closing + 1, MAX_PLAYS))
        if opening:
            self._set_mark("repeat_start")

    def _end_ties_and_ending(self) -> None:
        """Let no tie and no ending go across this place."""
        self._tied_pitches = {}
        self._close_ending()

    def _open_ending(self, text: str) -> None:
        passes = read_passes(text.strip("[ .,-"))
        self._end_bar()
        self._end_ties_and_ending()
        self._current_ending = to_steps(self.time), passes

    def _close_ending(self) -> None:
        if self._current_ending is not None:
            start, passes = self._current_ending
            if start < (end := to_steps(self.time)):
                self.marks[start, "ending"] = Ending(passes, end)
            self._current_ending = None

    # What is not notes

    def _text(self, text: str) -> None:
        symbol = text.strip('" ')
        if len(symbol) <= 24 and _CHORD_SYMBOL.fullmatch(symbol):
            self._set_mark("chord", symbol.lstrip("^").replace("♯", "#").replace("♭", "b"))

    def _grace(self, text: str) -> None:
        if not text.endswith("}"):
            refuse("syntax", "grace notes are still open at the end of the line; close them with }")
        for sign, letter in _ALTERED.findall(text):
            self._alterations[letter.upper()] = ALTERATIONS[sign] or 0  # it holds for the bar

    def _refuse_accidental(self, text: str) -> None:
        refuse("syntax", f"{text[:4]} stands before no note; write it before a letter")

    # Overlays

    def _read_overlay(self, text: str) -> None:
        """Go back a bar for each &, or to the (& that is open; what follows sounds with it."""
        if text == "&)":
            self._end_overlay()
            return
        bars = 0 if text == "(&" else len(text)
        if self._overlay is None:
            start = self._bar_starts[max(0, len(self._bar_starts) - bars)] if bars else self.time
            self._overlay = Overlay(
                start, bars, self.time, (self._tied_naturals, self._tied_pitches)
            )
        else:
            self._keep_overlaid_ties()
        if bars:
            self._go_back(self._overlay)

    def _go_back(self, overlay: Overlay) -> None:
        overlay.farthest_time = max(overlay.farthest_time, self.time)
        self.time = overlay.start
        self._last_notes, self._last_length, self._next_length_factor, self._tuplet = (
            (),
            0,
            None,
            (0, 1, 1),
        )
        self._alterations = dict(self._signature.alterations)
        names, pitches = self._overlaid_ties
        pitches = {p: index for p, index in pitches.items() if self.ends[index] == overlay.start}
        self._tied_pitches = pitches
        self._tied_naturals = {name: p for name, p in names.items() if p in pitches}

    def _keep_overlaid_ties(self) -> None:
        """Remember what is tied in an overlay: the next bar's may go on with it."""
        names, pitches = self._overlaid_ties
        names.update(self._tied_naturals)
        pitches.update(self._tied_pitches)

    def _end_overlay(self) -> None:
        """Go on where the longest of the voices that lay over each other has come to."""
        if self._overlay is not None:
            self._keep_overlaid_ties()
            self.time = max(self.time, self._overlay.farthest_time)
            self._last_notes = ()
            self._tied_naturals, self._tied_pitches = self._overlay.ties
            self._overlay = None


@dataclass(slots=True)
class Overlay:
    """Bars that are written once more, for what sounds together with them."""

    start: int  # ticks
    remaining_bars: int  # bar lines that are still to come before it is over; 0: it ends at "&)"
    farthest_time: int  # ticks: how far the music below it has come
    ties: tuple[dict[int, int], dict[int, int]]  # those of the music below it


def _ignore_token(_: str) -> None:
    """Read what is no note: a decoration, a space."""


def read_passes(text: str) -> tuple[int, ...]:
    """Read the passes of an ending: "1", "1,3", "1-3"."""
    passes: set[int] = set()
    for stretch in text.replace(".", ",").split(","):
        numbers = [int(number[:MAX_DIGITS]) for number in stretch.split("-") if number]
        if numbers:
            passes |= set(range(numbers[0], numbers[-1] + 1))
    if not passes or not 1 <= min(passes) <= max(passes) <= MAX_PLAYS:
        refuse("ending", f"an ending for pass {text[:9]}; write passes 1 to {MAX_PLAYS}")
    return tuple(sorted(passes))


def _divide_exactly(ticks: int, divisor: int) -> int:
    length, rest = divmod(ticks, divisor)
    if rest or not length:
        _refuse_too_short()
    return length


def _refuse_too_long() -> NoReturn:
    refuse("too-large", f"over {MAX_NOTES} bars, or 20000 quarters; split the tune")


def _refuse_too_short() -> NoReturn:
    refuse("length", "a length is too small a part of the whole note; write longer ones")
