"""Writer of MEI, which verovio engraves.

A note head has its `element_id`, and measure k (from 0) the id `m{k}`; the SVG keeps these ids.
The texts of a tune are untrusted: `escape_xml` escapes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from textwrap import wrap
from typing import Final

from musicgen.music.durations import choose_tempo_beat
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.score import STEPS_PER_WHOLE, Mark
from musicgen.music.theory import Key, Meter
from musicgen.notation.clefs import PERCUSSION, Clef
from musicgen.notation.engraving import (
    Layer,
    Measure,
    NoteHead,
    Sheet,
    Staff,
    Symbol,
    to_writable_key,
)
from musicgen.notation.note_values import NOTE_VALUES, NoteValue

MAX_SHOWN_TEXT: Final = 200  # characters of a title or name
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_ESCAPES: Final = str.maketrans(_ENTITIES)


def escape_xml(text: str, max_length: int = MAX_SHOWN_TEXT) -> str:
    """Escape markup, drop control characters and line breaks, and cut at max_length characters."""
    spaced = (" " if char.isspace() else char for char in text[: 4 * max_length])
    visible = "".join(char for char in spaced if char.isprintable()).strip()
    return visible[:max_length].translate(_ESCAPES)


def unescape_xml(text: str) -> str:
    """Undo `escape_xml` of a printable text."""
    for char, entity in reversed(_ENTITIES.items()):
        text = text.replace(entity, char)
    return text


_ACCIDENTALS: Final = {-2: "ff", -1: "f", 0: "n", 1: "s", 2: "x"}
_BAR_LINES: Final = {"single": "single", "double": "dbl", "final": "end"}
_METRONOME_NOTES: Final = {1 << n: chr(code) for n, code in enumerate(range(0xECA3, 0xECB0, 2), 1)}
_METRONOME_NOTES[1] = "\ueca2"
_METRONOME_DOT: Final = "\uecb7"
_SHAPES: Final = {"circle-x": "circle", "triangle": "isotriangle"}
MAX_LABEL: Final = 20  # characters of the name beside a staff
MAX_CHORD_SYMBOL: Final = 24  # characters


def render(sheet: Sheet, title_width: int = 60) -> str:
    """Write a sheet as MEI, with the title in lines of at most title_width characters."""
    return "".join(_document(sheet, title_width))


def _document(sheet: Sheet, title_width: int) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield '<mei xmlns="http://www.music-encoding.org/ns/mei" meiversion="5.0">'
    yield f"<meiHead><fileDesc><titleStmt><title>{escape_xml(sheet.title)}</title></titleStmt>"
    yield "<pubStmt/></fileDesc></meiHead><music><body><mdiv><score>"
    yield from _score_def(sheet, title_width)
    yield "<section>"
    yield from _section(sheet)
    yield "</section></score></mdiv></body></music></mei>\n"


def _score_def(sheet: Sheet, title_width: int) -> Iterator[str]:
    first = sheet.measures[0]
    yield f"<scoreDef>{_heading(sheet, title_width)}{_meter(first.meter)}"
    part_count = sum(staff.hand != "left" for staff in sheet.staves)
    yield '<staffGrp symbol="bracket" bar.thru="true">' if part_count > 1 else "<staffGrp>"
    for number, staff in enumerate(sheet.staves, 1):
        if staff.hand == "right":
            yield f'<staffGrp symbol="brace" bar.thru="true">{_label(staff, part_count)}'
        yield _staff_def(number, staff, first.key, part_count)
        if staff.hand == "left":
            yield "</staffGrp>"
    yield "</staffGrp></scoreDef>"


def _heading(sheet: Sheet, title_width: int) -> str:
    """Write the title, centered, and the rhythm below it on the left."""
    lines = ""
    if sheet.title:
        title = "<lb/>".join(map(escape_xml, wrap(sheet.title[:MAX_SHOWN_TEXT], title_width)))
        lines += f'<rend halign="center" valign="top" fontsize="160%">{title}</rend>'
    if sheet.rhythm:
        rhythm = escape_xml(sheet.rhythm)
        lines += f'<rend halign="left" valign="bottom" fontstyle="italic">{rhythm}</rend>'
    return f"<pgHead>{lines}</pgHead>" if lines else ""


def _label(staff: Staff, part_count: int) -> str:
    """Write the name of a part, unless it is alone."""
    name = "" if part_count == 1 else staff.part.name or _instrument(staff)
    return f"<label>{escape_xml(name, MAX_LABEL)}</label>" if name else ""


def _staff_def(number: int, staff: Staff, key: Key | None, part_count: int) -> str:
    label = "" if staff.hand else _label(staff, part_count)
    return (
        f'<staffDef n="{number}" lines="5"{_clef(staff.clef)}>{label}{_key(key, staff)}</staffDef>'
    )


def _instrument(staff: Staff) -> str:
    """Name the instrument of a part without a name; omit the default piano."""
    if staff.part.is_drums:
        return "drums"
    return PROGRAMS[staff.part.program].split(" (")[0] if staff.part.program else ""


def _clef(clef: Clef) -> str:
    if clef == PERCUSSION:
        return ' clef.shape="perc"'
    octave = ""
    if clef.octave:
        octave = f' clef.dis="8" clef.dis.place="{"above" if clef.octave > 0 else "below"}"'
    return f' clef.shape="{clef.sign}" clef.line="{clef.line}"{octave}'


def _key(key: Key | None, staff: Staff) -> str:
    """Write a key signature, except for drums."""
    if key is None or staff.part.is_drums:
        return ""
    sign = f"{abs(key.fifths)}{'s' if key.fifths > 0 else 'f'}" if key.fifths else "0"
    return f'<keySig sig="{sign}"/>'


def _meter(meter: Meter | None) -> str:
    return "" if meter is None else f'<meterSig count="{meter.beats}" unit="{meter.unit}"/>'


def _section(sheet: Sheet) -> Iterator[str]:
    heads = _heads_by_note(sheet.measures)
    in_ending = False
    for index, measure in enumerate(sheet.measures):
        if index and (measure.key or measure.meter):
            yield _key_and_meter_changes(sheet, measure)
        if measure.starting_passes:
            yield "</ending>" if in_ending else ""
            name = ", ".join(map(str, measure.starting_passes))
            yield f'<ending n="{name}" label="{name}.">'
            in_ending = True
        yield from _measure(index, measure, sheet.staves, heads)
        if measure.ends_line and index + 1 < len(sheet.measures):
            yield "<sb/>"  # inside an ending, as verovio does not break after it
        if in_ending and measure.stopping_passes:
            yield "</ending>"
            in_ending = False


def _key_and_meter_changes(sheet: Sheet, measure: Measure) -> str:
    """Write the changes of key, per staff, and meter before a measure."""
    staves = "".join(
        f'<staffDef n="{number}">{_key(measure.key, staff)}</staffDef>'
        for number, staff in enumerate(sheet.staves, 1)
        if measure.key and not staff.part.is_drums
    )
    group = f"<staffGrp>{staves}</staffGrp>" if staves else ""
    return f"<scoreDef>{_meter(measure.meter)}{group}</scoreDef>"


def _heads_by_note(measures: Iterable[Measure]) -> dict[tuple[int, int], NoteHead]:
    """Return all heads by note index and symbol index."""
    return {
        (head.note_index, head.symbol_index): head
        for measure in measures
        for layers in measure.staves
        for layer in layers
        for symbol in layer.symbols
        for head in symbol.heads
    }


def _measure(
    index: int,
    measure: Measure,
    staves: Sequence[Staff],
    heads: dict[tuple[int, int], NoteHead],
) -> Iterator[str]:
    right = "rptend" if measure.repeat_plays else _BAR_LINES[measure.bar_line_style]
    left = ' left="rptstart"' if measure.has_repeat_start else ""
    metcon = "" if measure.bar.kind == "full" else ' metcon="false"'
    yield f'<measure xml:id="m{index}" n="{measure.number}" right="{right}"{left}{metcon}>'
    for number, (staff, layers) in enumerate(zip(staves, measure.staves, strict=True), 1):
        yield f'<staff n="{number}">'
        for layer_number, layer in enumerate(layers, 1):
            yield f'<layer n="{layer_number}">{"".join(_layer(layer, measure, staff))}</layer>'
        yield "</staff>"
    yield from _ties(measure, heads)
    yield from (_chord_symbol_or_tempo(mark, measure) for mark in measure.marks)
    if measure.repeat_plays > 2:
        yield f'<dir tstamp="{_tstamp(measure.bar.steps, measure)}" staff="1" place="above">'
        yield f"{measure.repeat_plays}x</dir>"
    yield "</measure>"


def _ties(measure: Measure, heads: dict[tuple[int, int], NoteHead]) -> Iterator[str]:
    for layers in measure.staves:
        for layer in layers:
            for symbol in layer.symbols:
                for head in symbol.heads:
                    if head.is_tied:
                        next_head = heads[head.note_index, head.symbol_index + 1]
                        yield f'<tie startid="#{head.element_id}" endid="#{next_head.element_id}"/>'


def _tstamp(steps: int, measure: Measure) -> str:
    """Write a position in a measure in beats, from 1."""
    beats = Fraction(steps * measure.bar.meter.unit, STEPS_PER_WHOLE)
    return f"{float(1 + beats):.6g}"


def _chord_symbol_or_tempo(mark: Mark, measure: Measure) -> str:
    """Write a chord symbol, a fermata or a tempo; key changes are in the layers."""
    attributes = f'tstamp="{_tstamp(mark.onset - measure.bar.start, measure)}" staff="1"'
    if mark.kind == "chord":
        return f"<harm {attributes}>{escape_xml(mark.value, MAX_CHORD_SYMBOL)}</harm>"
    if mark.kind == "fermata":
        return f'<fermata {attributes} place="above"/>'
    if mark.kind == "tempo":
        text = _tempo_text(mark.value, measure)
        return f'<tempo {attributes} midi.bpm="{mark.value!r}">{text}</tempo>'
    return ""


def _tempo_text(qpm: float, measure: Measure) -> str:
    """Write a tempo as a note value and beats per minute."""
    steps, pace = choose_tempo_beat(qpm, measure.bar.meter)
    beat = NOTE_VALUES[steps]
    note = _METRONOME_NOTES[beat.denominator] + _METRONOME_DOT * beat.dots
    return f'<rend glyph.auth="smufl">{note}</rend> = {float(pace):.4g}'


# One layer


def _layer(layer: Layer, measure: Measure, staff: Staff) -> Iterator[str]:
    """Yield the symbols in their beams and tuplets, with the key changes between them."""
    keys = [mark for mark in measure.marks if mark.kind == "key"]
    opening, closing = _brackets(layer.symbols)
    depth = 0
    for position, symbol in enumerate(layer.symbols):
        while keys and not depth and keys[0].onset - measure.bar.start <= symbol.start:
            yield _key(to_writable_key(keys.pop(0).value), staff)
        yield "".join(opening[position])
        yield _symbol(symbol)
        yield "".join(closing[position])
        depth += len(opening[position]) - len(closing[position])


def _brackets(symbols: Sequence[Symbol]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the tags before and after each symbol, with the longer of beam and tuplet outside."""
    spans = [(start, stop, "<beam>", "</beam>") for start, stop in _beams(symbols)]
    for start, stop in _tuplets(symbols):
        tuplet = symbols[start].tuplet
        assert tuplet is not None
        spans.append((start, stop, f'<tuplet num="{tuplet.p}" numbase="{tuplet.q}">', "</tuplet>"))
    opening: list[list[str]] = [[] for _ in symbols]
    closing: list[list[str]] = [[] for _ in symbols]
    for start, stop, opens, closes in sorted(spans, key=lambda span: (span[0] - span[1], span[2])):
        opening[start].append(opens)
        closing[stop].insert(0, closes)
    return opening, closing


def _beams(symbols: Sequence[Symbol]) -> Iterator[tuple[int, int]]:
    for number, group in groupby(range(len(symbols)), key=lambda position: symbols[position].beam):
        positions = list(group)
        if number:
            yield positions[0], positions[-1]


def _tuplets(symbols: Sequence[Symbol]) -> Iterator[tuple[int, int]]:
    tuplet_start = 0
    for position, symbol in enumerate(symbols):
        tuplet_start = position if symbol.opens_tuplet else tuplet_start
        if symbol.closes_tuplet:
            yield tuplet_start, position


def _symbol(symbol: Symbol) -> str:
    value = _value(symbol.value)
    if symbol.is_measure_rest:
        return "<mRest/>"
    if not symbol.heads:
        return f"<rest{value}/>" if symbol.is_shown else f"<space{value}/>"
    stem = ' stem.dir="up"' if symbol.heads[0].is_drum else ""
    if len(symbol.heads) == 1:
        return f"<note{_head(symbol.heads[0])}{value}{stem}/>"
    notes = "".join(f"<note{_head(head)}/>" for head in symbol.heads)
    return f"<chord{value}{stem}>{notes}</chord>"


def _value(value: NoteValue) -> str:
    name = value.denominator or "breve"
    return f' dur="{name}"' + (f' dots="{value.dots}"' if value.dots else "")


def _head(head: NoteHead) -> str:
    """Write the position, pitch and accidental of a head."""
    position = head.staff_position
    text = f' xml:id="{head.element_id}" pname="{position.letter.lower()}" oct="{position.octave}"'
    if head.shape != "normal":
        text += f' head.shape="{_SHAPES.get(head.shape, head.shape)}"'
    if head.is_drum or head.shape != "normal":
        return f'{text} pnum="{head.pitch}"'
    if position.alteration:
        text += f' accid.ges="{_ACCIDENTALS[position.alteration]}"'
    return text if head.accidental is None else f'{text} accid="{_ACCIDENTALS[head.accidental]}"'
