"""Reader of MusicXML and Humdrum by music21, which is complete but slow.

Numbers are checked before music21 converts them: it builds lists as long as the beats of a time
signature or the passes of an ending, and moves pitches outside of MIDI's range by octaves.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import PurePath
from typing import Any, Final
from xml.parsers import expat

from musicgen.errors import InvalidValue, Refusal, is_short_of_memory
from musicgen.formats.musicxml.humdrum_chords import iter_humdrum_chords
from musicgen.formats.musicxml.musicxml_writer import HARMONY_KINDS, REMARK, RHYTHM
from musicgen.music.bars import find_bars
from musicgen.music.score import (
    DEFAULT_VELOCITY,
    FASTEST_QPM,
    SLOWEST_QPM,
    STEPS_PER_QUARTER,
    Ending,
    Mark,
    MarkKind,
    Note,
    Part,
    Score,
    find_jumps,
)
from musicgen.music.theory import MODE_ALIASES, Key, Meter, SpelledPitch, name_on_fifths
from musicgen.notation.clefs import PITCH_BY_DRUM_SYMBOL, DrumSymbol
from musicgen.notation.mei import unescape_xml
from musicgen.typed_data import parse_decimal, parse_integer, shorten

MAX_BEATS: Final = 256  # of a meter; one of over 64 is read as no meter
_INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    "fifths": (-15, 15),
    "octave": (-1, 9),
    "display-octave": (-1, 9),
    "beat-type": (1, 1_024),
    "actual-notes": (1, 1_000),
    "normal-notes": (1, 1_000),
    "octave-change": (-10, 10),
    "clef-octave-change": (-10, 10),
    "staves": (1, 64),
    "degree-value": (1, 32),
}
_DECIMALS: Final[Mapping[str, tuple[float, float]]] = {
    "divisions": (0.001, 1e7),
    "duration": (0, 1e9),
    "offset": (-1e9, 1e9),
    "chromatic": (-120, 120),
    "alter": (-4, 4),
    "root-alter": (-4, 4),
    "bass-alter": (-4, 4),
    "degree-alter": (-4, 4),
}
_LISTS: Final[Mapping[str, int]] = {"beats": MAX_BEATS, "number": 99}  # largest number in each
# The numbers that music21 accepts, as int and float do: with any Unicode digits and "_".
_NUMBER: Final = re.compile(r"[+-]?(?:[\d._]+(?:e[+-]?[\d_]+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_BEATS: Final = re.compile(r"[0-9]+(?:\s*\+\s*[0-9]+)*")
_DIGITS: Final = re.compile(r"\d+")
_MOST_DIGITS: Final = 6  # of a number in a note of Humdrum
_KERN_METER: Final = re.compile(r"\*M([\d+]*)/(\d*)(?:%\d*)?")
_KERN_TEMPO: Final = re.compile(r"\*MM\[?([^\]\s]*)")
_LONG_NUMBER: Final = re.compile(rf"\d{{{_MOST_DIGITS + 1},}}")
MAX_XML_BYTES: Final = 64 * 2**20  # uncompressed
_REMARKS: Final = re.compile(
    rf'<miscellaneous-field name="{REMARK}">([^<>]*)</miscellaneous-field>'.encode()
)
_QUALITIES: Final = {kind: quality for quality, kind in HARMONY_KINDS.items()} | {
    "dominant-seventh": "7", "half-diminished-seventh": "m7b5",
}  # fmt: skip  # music21's own names
_CONTAINER: Final = "META-INF/"
ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]


def check_musicxml(data: bytes) -> None:
    """Raise Refusal for a number outside of its bounds, with its line.

    Ignore XML that is not well-formed, which the reader refuses. Like the reader, use the encoding
    that the file declares, and UTF-8 where that fails.
    """
    if _is_well_formed(data):
        return
    with contextlib.suppress(UnicodeError):
        _is_well_formed(data.decode("utf-8"))


def _is_well_formed(data: bytes | str) -> bool:
    """Return whether XML is well-formed; raise Refusal for a number outside of its bounds."""
    parser = expat.ParserCreate()
    checker = _BoundsChecker(parser)
    parser.StartElementHandler = checker.start
    parser.EndElementHandler = checker.end
    parser.CharacterDataHandler = checker.text
    parser.EntityDeclHandler = checker.refuse_entity
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except InvalidValue as fault:
        place = f"line {parser.CurrentLineNumber}"
        raise Refusal(f"{fault}; the file was left out", place=place, code="damaged") from fault
    except (expat.ExpatError, UnicodeError, ValueError, LookupError):
        return False
    return True


class _BoundsChecker:
    """Handlers of an expat parser that check the elements with numbers."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.number_element = ""  # the current element, if its text is a number
        self.text_parts: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.number_element:
            raise InvalidValue(
                f"{self.number_element} holds the element {shorten(name)!r}: write only a number"
                f" in it"
            )
        self.number_element = name if name in _CHECKED_ELEMENTS else ""
        self.text_parts = []
        if name == "sound" and "tempo" in attributes:
            _check_tempo(attributes["tempo"])
        elif name == "ending":
            _check_list("number", attributes.get("number", ""))
        elif name == "repeat" and "times" in attributes:
            parse_integer(attributes["times"], "times", 0, 1_000)

    def text(self, data: str) -> None:
        if self.number_element:
            self.text_parts.append(data)

    def refuse_entity(self, name: str, *_: object) -> None:
        raise InvalidValue(f"entity {shorten(name)!r} is declared: write the text itself")

    def end(self, name: str) -> None:
        if self.number_element == name:
            _check_text(name, "".join(self.text_parts).strip())
        self.number_element = ""


_CHECKED_ELEMENTS: Final = frozenset({*_INTEGERS, *_DECIMALS, "beats", "per-minute"})


def _check_text(name: str, text: str) -> None:
    """Check the text of an element; accept an empty one."""
    if not text:
        return
    if name in _INTEGERS:
        parse_integer(text, name, *_INTEGERS[name])
    elif name in _DECIMALS:
        parse_decimal(text, name, *_DECIMALS[name])
    elif name == "beats":
        if not _BEATS.fullmatch(text):
            raise InvalidValue(f"beats {shorten(text)!r}: write whole numbers such as 4 or 2+3")
        _check_list(name, text)
    elif _NUMBER.fullmatch(text):  # else words, such as "ca. 120"
        _check_tempo(text)


def _check_list(name: str, text: str) -> None:
    """Check each number of a list such as "2+3" or "1, 2", and the length of the list."""
    most = _LISTS[name]
    numbers = _DIGITS.findall(text[:200])
    if len(text) > 200 or any(len(digits) > 9 or int(digits) > most for digits in numbers):
        raise InvalidValue(f"{name} {shorten(text)!r}: write whole numbers up to {most}")


def _check_tempo(text: str) -> None:
    parse_decimal(text, "tempo", round(SLOWEST_QPM, 6), FASTEST_QPM)


def check_humdrum(text: str) -> None:
    """Check the numbers of a Humdrum file.

    Raises:
        Refusal: a number is outside of its bounds; the refusal names the line.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("!"):
            continue
        try:
            for token in line.split("\t"):
                _check_token(token)
        except InvalidValue as fault:
            place = f"line {number}"
            raise Refusal(f"{fault}; the file was left out", place=place, code="damaged") from fault


def _check_token(token: str) -> None:
    if meter := _KERN_METER.match(token):
        _check_list("beats", meter[1])
        parse_integer(meter[2], "beat unit", 0, 1_024)
        if any(int(beats) == 0 for beats in _DIGITS.findall(meter[1])):
            raise InvalidValue(f"beats {shorten(meter[1])!r}: write whole numbers of 1 or more")
    elif tempo := _KERN_TEMPO.match(token):
        if _NUMBER.fullmatch(tempo[1]):
            _check_tempo(tempo[1])
    elif not token.startswith("*") and (digits := _LONG_NUMBER.search(token)):
        raise InvalidValue(
            f"length {shorten(digits[0])!r}: write a number of at most {_MOST_DIGITS} digits"
        )


def parse(data: bytes, source: str = "") -> ParseResult:
    """Read MusicXML, plain or compressed (.mxl); return a refusal if it cannot be read."""
    try:
        text = _unpack(data) if data[:2] == b"PK" else data
        check_musicxml(text)
    except Refusal as refusal:
        return (), (refusal.with_source(source),)
    return _parse(text, "musicxml", source)


def parse_humdrum(data: bytes, source: str = "") -> ParseResult:
    """Read a Humdrum **kern file; return a refusal if it cannot be read."""
    text = data.decode("utf-8", "replace")
    try:
        check_humdrum(text)
    except Refusal as refusal:
        return (), (refusal.with_source(source),)
    scores, refusals = _parse(text, "humdrum", source)
    return tuple(_with_humdrum_chords(score, text) for score in scores), refusals


def _with_humdrum_chords(score: Score, text: str) -> Score:
    """Add the chord symbols of the spines that music21 leaves out."""
    symbols = iter_humdrum_chords(text)
    marks = {step: Mark(step, "chord", symbol) for onset, symbol in symbols
             if (step := _steps(onset)) <= score.end}  # fmt: skip
    return replace(score, marks=(*score.marks, *marks.values())) if marks else score


def read_remarks(data: bytes) -> tuple[str, ...]:
    """Return the remarks that `render` stored in a file, plain or compressed."""
    text = _unpack(data) if data[:2] == b"PK" else data
    return tuple(
        unescape_xml(remark.decode("utf-8", "replace")) for remark in _REMARKS.findall(text)
    )


def _parse(data: bytes | str, form: str, source: str) -> ParseResult:
    from music21 import converter  # 0.9 s

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = converter.parseData(data, format=form)
            score = _score(stream, PurePath(source).stem)
    except Refusal as refusal:
        return (), (refusal.with_source(source),)
    except InvalidValue as fault:
        message = f"{fault}; the file was left out"
        return (), (Refusal(message, source=source, code="damaged"),)
    except Exception as fault:  # music21 does not limit what it raises
        if is_short_of_memory(fault):
            raise MemoryError from fault
        message = f"music21 cannot read it ({fault!r:.80}); the file was left out"
        return (), (Refusal(message, source=source, code="damaged"),)
    return (score,), ()


def _unpack(data: bytes) -> bytes:
    """Return the score in a compressed file, its first XML member outside of META-INF.

    Raises:
        Refusal: the file is malformed or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [n for n in archive.namelist() if n.endswith((".xml", ".musicxml"))]
            name = next(name for name in names if not name.startswith(_CONTAINER))
            with archive.open(name) as member:
                text = member.read(MAX_XML_BYTES + 1)
    except (zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, OSError) as fault:
        message = "it is not a compressed MusicXML file; the file was left out"
        raise Refusal(message, code="damaged") from fault
    if len(text) > MAX_XML_BYTES:
        message = f"uncompressed, it is larger than {MAX_XML_BYTES:,} bytes; the file was left out"
        raise Refusal(message, code="too-large")
    return text


def _score(stream: Any, name: str) -> Score:
    notes: list[Note] = []
    parts: list[Part] = []
    streams = list(getattr(stream, "parts", ())) or [stream]
    for index, part in enumerate(streams):
        parts.append(_part(part))
        notes += _notes(part, index, is_drums=parts[-1].is_drums)
    if not notes:
        raise Refusal("it has no notes; it was left out", code="empty")
    title, rhythm = _title_and_rhythm(stream.metadata)
    marks = tuple(_marks(stream, streams))
    return _join_split_bars(Score(notes, marks, tuple(parts), title or name, rhythm))


def _join_split_bars(score: Score) -> Score:
    """Remove the line between two short measures that make a full bar, where nothing repeats.

    Editors split a bar where a phrase ends in it, so that a system of the page can end there.
    """
    bars = find_bars(score)
    split_steps: set[int] = set()
    for before, after in pairwise(bars):
        is_split = before.kind == after.kind == "irregular" and before.start not in split_steps
        if is_split and before.steps + after.steps == before.meter.steps:
            split_steps.add(before.end)
    split_steps -= set(find_jumps(score))
    if not split_steps:
        return score
    marks = (m for m in score.marks if m.kind != "bar" or m.onset not in split_steps)
    return replace(score, marks=tuple(marks))


def _title_and_rhythm(metadata: Any) -> tuple[str, str]:
    """Return the title, and the rhythm if our own writer stored it."""
    if metadata is None:
        return "", ""
    rhythm = next(map(str, metadata.getCustom(RHYTHM)), "")
    titles = [str(text) for name in ("title", "movementName") for text in metadata[name]]
    return next((title for title in titles if title), ""), rhythm


def _part(part: Any) -> Part:
    instrument = part.getInstrument(returnDefault=True)
    is_drums = instrument.midiChannel == 9
    name = "" if instrument.partName is None else part.partName  # else music21 gives the program's
    return Part(name or "", instrument.midiProgram or 0, is_drums)


def _notes(part: Any, index: int, *, is_drums: bool) -> Iterator[Note]:
    """Yield the notes with ties joined; skip grace notes and notes without pitch."""
    tied: dict[tuple[int, int], Note] = {}  # by end and pitch
    for element in part.flatten().notes:
        if element.duration.isGrace or "Harmony" in element.classes:
            continue
        onset = _steps(element.offset)
        end = max(onset + 1, _steps(element.offset + element.quarterLength))
        for note in getattr(element, "notes", (element,)):
            pitch = _pitch(note, is_drums=is_drums)
            if pitch is None:
                continue
            tie_type = (note.tie or element.tie).type if note.tie or element.tie else ""
            tied_note = tied.pop((onset, pitch), None) if tie_type in ("stop", "continue") else None
            start, velocity = (
                (tied_note.onset, tied_note.velocity) if tied_note else (onset, _velocity(note))
            )
            joined = Note(start, pitch, end - start, velocity, index)
            if tie_type in ("start", "continue") and (end, pitch) not in tied:
                tied[end, pitch] = joined
            else:
                yield joined
    yield from tied.values()  # ties without a next note


def _pitch(note: Any, *, is_drums: bool) -> int | None:
    """Return the pitch; of a drum, its General MIDI note number."""
    if "Unpitched" not in note.classes:
        return _to_midi_pitch(note.pitch)
    if not is_drums:
        return None
    staff_position = SpelledPitch(note.displayStep, 0, note.displayOctave)
    return PITCH_BY_DRUM_SYMBOL.get(DrumSymbol(staff_position, note.notehead))


def _to_midi_pitch(pitch: Any) -> int:
    """Return the MIDI note number nearest to a pitch; round halves up.

    Raises:
        Refusal: it is outside of 0..127, where music21's own `midi` changes the octave.
    """
    number: int = floor(pitch.ps + 0.5)
    if not 0 <= number <= 127:
        message = f"{pitch.nameWithOctave} is outside of MIDI's 0..127; the file was left out"
        raise Refusal(message, code="pitch")
    return number


def _velocity(note: Any) -> int:
    """Return the MIDI velocity of a note."""
    velocity = note.volume.velocity if note.hasVolumeInformation() else None
    return DEFAULT_VELOCITY if velocity is None else min(max(int(velocity), 1), 127)


def _steps(quarters: float | Fraction) -> int:
    """Convert quarter notes to the nearest step; round halves up."""
    return int((2 * STEPS_PER_QUARTER * Fraction(quarters) + 1) // 2)


def _marks(stream: Any, streams: Sequence[Any]) -> Iterator[Mark]:
    """Yield the marks of the first part, the chord symbols of all parts, and fermatas."""
    part = streams[0]
    for measure in part.getElementsByClass("Measure"):
        yield Mark(_steps(measure.offset + measure.duration.quarterLength), "bar")
        yield from _repeats(measure)
    yield from _endings(part)
    for element in part.flatten():
        yield from _mark(element)
    for element in stream.flatten().getElementsByClass("Harmony"):
        if figure := _chord_symbol_text(element):
            yield Mark(_steps(element.offset), "chord", figure)
    yield from _fermatas(streams)


def _fermatas(streams: Iterable[Any]) -> Iterator[Mark]:
    """Yield the fermatas of the first part that has any: in others they may stand a note later."""
    for part in streams:
        steps = {
            _steps(element.offset)
            for element in part.flatten().notesAndRests
            if any("Fermata" in expression.classes for expression in element.expressions)
        }
        if steps:
            yield from (Mark(step, "fermata") for step in sorted(steps))
            return


def _chord_symbol_text(element: Any) -> str:
    """Return a chord symbol in our spelling, or music21's if its quality is unknown."""
    quality = _QUALITIES.get(getattr(element, "chordKind", None) or "")
    if quality is None or not element.root():
        return str(element.figure or "").replace("-", "b")
    names = (pitch.name.replace("-", "b") for pitch in (element.root(), element.bass()))
    root, bass = map(str, names)
    return f"{root}{quality}" + (f"/{bass}" if bass != root else "")


def _repeats(measure: Any) -> Iterator[Mark]:
    end = measure.offset + measure.duration.quarterLength
    for line, offset in ((measure.leftBarline, measure.offset), (measure.rightBarline, end)):
        if getattr(line, "direction", None) == "start":
            yield Mark(_steps(offset), "repeat_start")
        elif getattr(line, "direction", None) == "end":
            yield Mark(_steps(offset), "repeat_end", min(max(line.times or 2, 2), 4))


def _endings(part: Any) -> Iterator[Mark]:
    for bracket in part.recurse().getElementsByClass("RepeatBracket"):
        measures = bracket.getSpannedElements()
        if measures:
            start = min(measure.getOffsetInHierarchy(part) for measure in measures)
            stop = max(m.getOffsetInHierarchy(part) + m.duration.quarterLength for m in measures)
            passes = tuple(bracket.numberRange) or (1,)
            yield Mark(_steps(start), "ending", Ending(passes, _steps(stop)))


def _mark(element: Any) -> Iterator[Mark]:
    kind: MarkKind
    value: Any
    if "KeySignature" in element.classes:
        kind, value = "key", _key(element)
    elif "TimeSignature" in element.classes:
        kind, value = "meter", _meter(element)
    elif "MetronomeMark" in element.classes:
        kind, value = "tempo", _tempo(element)
    else:
        return
    if value is not None:
        yield Mark(_steps(element.offset), kind, value)


def _tempo(element: Any) -> float | None:
    """Return quarter notes per minute, rounded to remove floating-point error."""
    qpm = element.getQuarterBPM()
    return None if qpm is None else round(qpm, 9)


def _key(element: Any) -> Key | None:
    """Return the key, or the major key of a signature without a mode."""
    mode = getattr(element, "mode", None) or "major"
    try:
        if "Key" in element.classes:
            return Key(element.tonic.name.replace("-", "b"), MODE_ALIASES.get(mode, mode))
        return Key(name_on_fifths(element.sharps), "major")
    except InvalidValue:
        return None


def _meter(element: Any) -> Meter | None:
    try:
        return Meter(element.numerator, element.denominator)
    except InvalidValue:
        return None
