"""Writer of MusicXML: a sheet, part by part; and the names that the reader shares with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.durations import choose_tempo_beat
from musicgen.music.score import DEFAULT_VELOCITY, STEPS_PER_QUARTER, Mark, Score
from musicgen.music.theory import Key, Meter, match_chord
from musicgen.notation.clefs import Clef
from musicgen.notation.engraving import (
    Layer,
    Measure,
    NoteHead,
    Sheet,
    Staff,
    Symbol,
    build_sheet,
    to_writable_key,
)
from musicgen.notation.mei import escape_xml
from musicgen.notation.note_values import NOTE_VALUES

REMARK: Final = "musicgen"  # names the miscellaneous fields that hold remarks
RHYTHM: Final = "rhythm"

# Kinds of harmony by the qualities of theory.CHORD_QUALITIES.
HARMONY_KINDS: Final = {
    "": "major", "m": "minor", "7": "dominant", "m7": "minor-seventh", "maj7": "major-seventh",
    "dim": "diminished", "aug": "augmented", "sus4": "suspended-fourth",
    "sus2": "suspended-second", "6": "major-sixth", "m6": "minor-sixth", "9": "dominant-ninth",
    "dim7": "diminished-seventh", "m7b5": "half-diminished",
}  # fmt: skip
NO_CHORD: Final = "none"

NOTE_TYPES: Final = {
    0: "breve", 1: "whole", 2: "half", 4: "quarter", 8: "eighth", 16: "16th", 32: "32nd",
    64: "64th", 128: "128th",
}  # fmt: skip
ACCIDENTALS: Final = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}

# The dynamics attribute of a note is a percentage of this velocity.
FORTE_VELOCITY: Final = 90

MAX_REMARK: Final = 8192  # characters
_DRUM_CHANNEL: Final = 10
_BAR_STYLES: Final = {"double": "light-light", "final": "light-heavy"}
_DOCUMENT_START: Final = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" \
"http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="4.0">"""


def render(score: Score, *, remarks: Sequence[str] = ()) -> bytes:
    """Write a tune as MusicXML, UTF-8.

    Args:
        score: a tune with bars.
        remarks: single-line texts for the header.

    Raises:
        InvalidValue: a remark is not printable or too long; the tune has no bars.
    """
    sheet = build_sheet(score)
    velocities = score.columns[3].tolist()
    lines = chain(
        _identification(sheet, remarks),
        ["<part-list>"],
        *(_score_part(number, staff) for number, staff in enumerate(sheet.staves, 1)),
        ["</part-list>"],
        *(_part(sheet, number, velocities) for number in range(len(sheet.staves))),
    )
    return "\n".join([_DOCUMENT_START, *lines, "</score-partwise>", ""]).encode("utf-8")


def _identification(sheet: Sheet, remarks: Sequence[str]) -> Iterator[str]:
    yield f"<work><work-title>{escape_xml(sheet.title)}</work-title></work>"
    yield "<identification><encoding><software>musicgen</software></encoding><miscellaneous>"
    if sheet.rhythm:
        yield _field(RHYTHM, escape_xml(sheet.rhythm))
    for remark in remarks:
        if not remark.isprintable() or len(remark) > MAX_REMARK:
            raise InvalidValue(
                f"remark {remark[:40]!r}: write one line of at most {MAX_REMARK} characters"
            )
        yield _field(REMARK, escape_xml(remark, MAX_REMARK))
    yield "</miscellaneous></identification>"


def _field(name: str, text: str) -> str:
    return f'<miscellaneous-field name="{name}">{text}</miscellaneous-field>'


def _score_part(number: int, staff: Staff) -> Iterator[str]:
    part, instrument_id = staff.part, f"P{number}-I1"
    yield f'<score-part id="P{number}"><part-name>{escape_xml(part.name)}</part-name>'
    yield f'<score-instrument id="{instrument_id}"><instrument-name/></score-instrument>'
    channel = _DRUM_CHANNEL if part.is_drums else _channel(number)
    yield f'<midi-instrument id="{instrument_id}"><midi-channel>{channel}</midi-channel>'
    yield f"<midi-program>{part.program + 1}</midi-program></midi-instrument></score-part>"


def _channel(number: int) -> int:
    """Return the MIDI channel of a part, counted from 1: any but that of the drums."""
    channels = [channel for channel in range(1, 17) if channel != _DRUM_CHANNEL]
    return channels[(number - 1) % len(channels)]


def _part(sheet: Sheet, number: int, velocities: Sequence[int]) -> Iterator[str]:
    yield f'<part id="P{number + 1}">'
    for index, measure in enumerate(sheet.measures):
        yield _measure_start(index, measure)
        yield from _left(measure)
        yield _attributes(index, measure, sheet.staves[number].clef)
        if number == 0:
            yield from (_harmony_or_tempo(mark, measure) for mark in measure.marks)
        yield from _inner_keys(measure)
        for layer_index, layer in enumerate(measure.staves[number]):
            if layer_index:
                yield f"<backup><duration>{measure.bar.steps}</duration></backup>"
            has_fermatas = number == 0 and layer_index == 0
            yield from _layer(layer, velocities, _fermata_steps(measure) if has_fermatas else ())
        yield from _right(measure)
        yield "</measure>"
    yield "</part>"


def _measure_start(index: int, measure: Measure) -> str:
    if measure.is_counted:
        return f'<measure number="{measure.number}">'
    number = f"X{index}" if index else "0"
    return f'<measure number="{number}" implicit="yes">'


def _left(measure: Measure) -> Iterator[str]:
    if not (measure.has_repeat_start or measure.starting_passes):
        return
    yield (
        '<barline location="left">'
        + "<bar-style>heavy-light</bar-style>" * measure.has_repeat_start
    )
    yield _ending(measure.starting_passes, "start") if measure.starting_passes else ""
    yield '<repeat direction="forward"/>' * measure.has_repeat_start + "</barline>"


def _right(measure: Measure) -> Iterator[str]:
    style = "light-heavy" if measure.repeat_plays else _BAR_STYLES.get(measure.bar_line_style)
    if style is None and not measure.stopping_passes:
        return
    yield '<barline location="right">' + (f"<bar-style>{style}</bar-style>" if style else "")
    if measure.stopping_passes:
        yield _ending(measure.stopping_passes, "stop" if measure.repeat_plays else "discontinue")
    if measure.repeat_plays:
        times = f' times="{measure.repeat_plays}"' if measure.repeat_plays > 2 else ""
        yield f'<repeat direction="backward"{times}/>'
    yield "</barline>"


def _ending(passes: Sequence[int], kind: str) -> str:
    numbers = ",".join(map(str, passes))
    shown = f">{', '.join(map(str, passes))}.</ending>" if kind == "start" else "/>"
    return f'<ending number="{numbers}" type="{kind}"{shown}'


def _attributes(index: int, measure: Measure, clef: Clef) -> str:
    divisions = f"<divisions>{STEPS_PER_QUARTER}</divisions>" if index == 0 else ""
    content = (
        divisions + _key(measure.key) + _time(measure.meter) + (_clef(clef) if not index else "")
    )
    return f"<attributes>{content}</attributes>" if content else ""


def _key(key: Key | None) -> str:
    if key is None:
        return ""
    return f"<key><fifths>{key.fifths}</fifths><mode>{key.mode}</mode></key>"


def _time(meter: Meter | None) -> str:
    if meter is None:
        return ""
    return f"<time><beats>{meter.beats}</beats><beat-type>{meter.unit}</beat-type></time>"


def _clef(clef: Clef) -> str:
    if clef.sign == "percussion":
        return "<clef><sign>percussion</sign></clef>"
    change = f"<clef-octave-change>{clef.octave}</clef-octave-change>" if clef.octave else ""
    return f"<clef><sign>{clef.sign}</sign><line>{clef.line}</line>{change}</clef>"


def _inner_keys(measure: Measure) -> Iterator[str]:
    """Write the key changes inside a measure, each between a forward and a backup."""
    for mark in measure.marks:
        if mark.kind == "key":
            steps = mark.onset - measure.bar.start
            yield f"<forward><duration>{steps}</duration></forward>"
            yield f"<attributes>{_key(to_writable_key(mark.value))}</attributes>"
            yield f"<backup><duration>{steps}</duration></backup>"


# Above the staff


def _harmony_or_tempo(mark: Mark, measure: Measure) -> str:
    offset = f"<offset>{mark.onset - measure.bar.start}</offset>"
    if mark.kind == "chord":
        return _harmony(match_chord(mark.value), offset)
    if mark.kind == "tempo":
        return _tempo(mark.value, measure.bar.meter, offset)
    return ""


def _harmony(chord: tuple[str, str, str] | None, offset: str) -> str:
    """Write a chord symbol, given the names of its root, quality and bass."""
    if chord is None:
        root = '<root><root-step text="">C</root-step></root>'
        return f'<harmony>{root}<kind text="N.C.">{NO_CHORD}</kind>{offset}</harmony>'
    root_name, quality, bass_name = chord
    kind = f'<kind text="{quality}">{HARMONY_KINDS[quality]}</kind>'
    bass = _root_or_bass("bass", bass_name) if bass_name else ""
    return f"<harmony>{_root_or_bass('root', root_name)}{kind}{bass}{offset}</harmony>"


def _root_or_bass(element: str, name: str) -> str:
    """Write a root or bass by its name, such as "F#"."""
    alter = name.count("#") - name.count("b")
    altered = f"<{element}-alter>{alter}</{element}-alter>" if alter else ""
    return f"<{element}><{element}-step>{name[0]}</{element}-step>{altered}</{element}>"


def _tempo(qpm: float, meter: Meter, offset: str) -> str:
    steps, pace = choose_tempo_beat(qpm, meter)
    beat = NOTE_VALUES[steps]
    shown = pace if pace.denominator == 1 else repr(qpm)
    unit = f"<beat-unit>{NOTE_TYPES[beat.denominator]}</beat-unit>" + "<beat-unit-dot/>" * beat.dots
    metronome = f"<metronome>{unit}<per-minute>{shown}</per-minute></metronome>"
    kind = f"<direction-type>{metronome}</direction-type>"
    return f'<direction placement="above">{kind}{offset}<sound tempo="{qpm!r}"/></direction>'


# Notes


def _fermata_steps(measure: Measure) -> tuple[int, ...]:
    """Return the steps from the start of a measure at which fermatas stand."""
    return tuple(m.onset - measure.bar.start for m in measure.marks if m.kind == "fermata")


def _layer(layer: Layer, velocities: Sequence[int], fermatas: Sequence[int]) -> Iterator[str]:
    beams = list(_beams(layer.symbols))
    for symbol, beam in zip(layer.symbols, beams, strict=True):
        has_fermata = any(symbol.start <= step < symbol.stop for step in fermatas)
        if not symbol.heads:
            yield _rest(symbol, layer.voice, has_fermata=has_fermata)
        for position, head in enumerate(symbol.heads):
            head_beam = "" if position else beam
            yield _note(
                symbol,
                head,
                layer.voice,
                velocities[head.note_index],
                position > 0,
                head_beam,
                has_fermata=has_fermata,
            )


def _rest(symbol: Symbol, voice: int, *, has_fermata: bool) -> str:
    hidden = "" if symbol.is_shown else ' print-object="no"'
    if symbol.is_measure_rest:
        rest, value = '<rest measure="yes"/>', ""
    else:
        rest, value = "<rest/>", _value(symbol)
    length = f"<duration>{symbol.stop - symbol.start}</duration><voice>{voice + 1}</voice>"
    notations = _notations(symbol, "", has_fermata=has_fermata)
    return f"<note{hidden}>{rest}{length}{value}{notations}</note>"


def _note(
    symbol: Symbol,
    head: NoteHead,
    voice: int,
    velocity: int,
    in_chord: bool,
    beam: str,
    *,
    has_fermata: bool,
) -> str:
    dynamics = (
        "" if velocity == DEFAULT_VELOCITY else f' dynamics="{100 * velocity / FORTE_VELOCITY:.2f}"'
    )
    ends = ["stop"] * (head.symbol_index > 0) + ["start"] * head.is_tied
    sign = (
        f"<accidental>{ACCIDENTALS[head.accidental]}</accidental>"
        if head.accidental is not None
        else ""
    )
    shape = "" if head.shape == "normal" else f"<notehead>{head.shape}</notehead>"
    return (
        f"<note{dynamics}>{'<chord/>' * in_chord}{_pitch(head)}"
        f"<duration>{symbol.stop - symbol.start}</duration>"
        + "".join(f'<tie type="{end}"/>' for end in ends)
        + f"<voice>{voice + 1}</voice>{_value(symbol, sign)}{shape}{beam}"
        + _notations(
            symbol,
            "".join(f'<tied type="{end}"/>' for end in ends),
            in_chord=in_chord,
            has_fermata=has_fermata and not in_chord,
        )
        + "</note>"
    )


def _pitch(head: NoteHead) -> str:
    position = head.staff_position
    if head.is_drum:
        display = f"<display-step>{position.letter}</display-step>"
        display += f"<display-octave>{position.octave}</display-octave>"
        return f"<unpitched>{display}</unpitched>"
    alter = f"<alter>{position.alteration}</alter>" if position.alteration else ""
    return f"<pitch><step>{position.letter}</step>{alter}<octave>{position.octave}</octave></pitch>"


def _value(symbol: Symbol, sign: str = "") -> str:
    """Write the note value, the accidental, and the tuplet ratio."""
    tuplet = symbol.tuplet
    modification = ""
    if tuplet is not None:
        modification = (
            f"<actual-notes>{tuplet.p}</actual-notes><normal-notes>{tuplet.q}</normal-notes>"
        )
        modification = f"<time-modification>{modification}</time-modification>"
    name, dots = NOTE_TYPES[symbol.value.denominator], "<dot/>" * symbol.value.dots
    return f"<type>{name}</type>{dots}{sign}{modification}"


def _notations(
    symbol: Symbol, ties: str, *, in_chord: bool = False, has_fermata: bool = False
) -> str:
    opens = '<tuplet type="start"/>' * (symbol.opens_tuplet and not in_chord)
    closes = '<tuplet type="stop"/>' * (symbol.closes_tuplet and not in_chord)
    content = ties + opens + closes + "<fermata/>" * has_fermata
    return f"<notations>{content}</notations>" if content else ""


def _beams(symbols: Sequence[Symbol]) -> Iterator[str]:
    """Yield the beams of each symbol: at each level it begins, continues, ends or is a hook."""
    for number, group in groupby(symbols, key=lambda symbol: symbol.beam):
        flags = [symbol.value.flags if number else 0 for symbol in group]
        for position, count in enumerate(flags):
            previous = flags[position - 1] if position else 0
            following = flags[position + 1] if position + 1 < len(flags) else 0
            yield "".join(_beam_levels(count, previous, following))


def _beam_levels(count: int, previous: int, following: int) -> Iterator[str]:
    for level in range(1, count + 1):
        if previous >= level:
            kind = "continue" if following >= level else "end"
        elif following >= level:
            kind = "begin"
        else:
            kind = "backward hook" if previous else "forward hook"
        yield f'<beam number="{level}">{kind}</beam>'
