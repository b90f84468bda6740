"""Writer of ABC text: one tune, which the reader parses back to the same canonical score."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from operator import attrgetter
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.formats.abc.abc_reader import MAX_TUNE, MAX_VOICES
from musicgen.formats.abc.body import MAX_NOTES, MAX_TICKS
from musicgen.formats.abc.fields import MAX_FIELD_TEXT, TICKS_PER_STEP
from musicgen.music.durations import (
    SHORTEST_WRITABLE,
    WrittenDuration,
    choose_tempo_beat,
    notate_segments,
)
from musicgen.music.score import DEFAULT_VELOCITY, STEPS_PER_WHOLE, Mark, Note, Score, find_jumps
from musicgen.music.theory import Key, Meter, SpelledPitch, signature, spell, spell_chord
from musicgen.notation.engraving import check_bars

UNIT_NOTE_STEPS: Final = 24  # steps of L:1/8
BARS_PER_LINE: Final = 4
LINE_WIDTH: Final = 400  # characters after which a line is broken, inside a bar if necessary

_IN_HEADER: Final = ("key", "meter", "tempo")
_AT_NOTES: Final = ("chord", "fermata")
_INLINE: Final = ("key", "meter", "tempo", *_AT_NOTES)
_OPENING: Final = ("repeat_start", "ending")
_FIRST_PART_KINDS: Final = ("tempo", *_AT_NOTES)
MIDDLE_C: Final = 60
_NO_CHORD: Final = '"^N.C."'  # an annotation, which players do not read as a chord
_REMAINDER_BRACKET: Final = "(3:2:1"  # a tuplet of one note, for lengths of thirds
_ACCIDENTALS: Final = {-2: "__", -1: "_", 0: "=", 1: "^", 2: "^^"}
_MODES: Final = {
    "major": "", "minor": "m", "dorian": "dor", "mixolydian": "mix",
    "lydian": "lyd", "phrygian": "phr", "locrian": "loc",
}  # fmt: skip


def render(score: Score, number: int = 1, *, directives: Sequence[str] = ()) -> str:
    """Write a tune as ABC text.

    Args:
        score: a tune with bars.
        number: the number of the X: field.
        directives: lines such as "%%recipe seed=7".

    Raises:
        InvalidValue: a directive is not one printable line or opens a block of text; the tune
            exceeds the limits of the reader; it has no bars.
    """
    _check_limits(score)
    check_bars(score)
    score = score.canonical()
    head = list(_header(score, number, directives))
    lines = [*head[:-1], *_voice_fields(score), head[-1], *_body(score)]
    text = "".join(f"{line}\n" for line in lines)
    if len(text) > MAX_TUNE:
        raise InvalidValue(f"{score.title[:60]!r} has over {MAX_TUNE} characters of ABC; split it")
    return text


def _check_limits(score: Score) -> None:
    sizes = (
        (len(score.parts), MAX_VOICES, "parts"),
        (len(score.notes), MAX_NOTES, "notes"),
        (len(score.marks), MAX_NOTES, "marks"),
        (score.end, MAX_TICKS // TICKS_PER_STEP, "steps"),
    )
    for size, most, name in sizes:
        if size > most:
            raise InvalidValue(
                f"{score.title[:60]!r} has {size} {name}, ABC at most {most}; split it"
            )


# The header


def _header(score: Score, number: int, directives: Sequence[str]) -> Iterator[str]:
    initial = {mark.kind: mark.value for mark in score.marks if mark.onset == 0}
    yield f"X:{number}"
    yield f"T:{_field_text(score.title)}"
    yield from map(_check_directive, directives)
    if score.rhythm:
        yield f"R:{_field_text(score.rhythm)}"
    yield f"M:{initial.get('meter', 'none')}"
    yield "L:1/8"
    if "tempo" in initial:
        yield f"Q:{tempo_text(initial['tempo'], score.meter)}"
    yield f"K:{key_text(initial.get('key', Key('C')))}"


def _voice_fields(score: Score) -> Iterator[str]:
    """Yield the V: field of each part; a single part has none."""
    if len(score.parts) == 1:
        return
    yield "%%continueall 1"  # let abcm2ps break the lines, as those of the parts differ
    for number, part in enumerate(score.parts):
        name = _field_text(part.name).replace('"', "&quot;")
        yield f"V:{number + 1}{_clef(score, number)}" + (f' name="{name}"' if name else "")


def _clef(score: Score, part: int) -> str:
    """Return the clef of a part by its median pitch: bass, or the default treble."""
    pitches = sorted(note.pitch for note in score.notes if note.part == part)
    return " clef=bass" if pitches and pitches[len(pitches) // 2] < MIDDLE_C else ""


def _iter_player_directives(score: Score) -> Iterator[list[str]]:
    """Yield for each part the directives of its name, instrument and loudness."""
    loudness = {note.part: note.velocity for note in score.notes}
    for number, part in enumerate(score.parts):
        velocity = loudness.get(number, DEFAULT_VELOCITY)
        is_named = part.name and len(score.parts) == 1
        directives = (
            (f"%%player {_field_text(part.name)}", is_named),
            ("%%MIDI channel 10", part.is_drums),
            (f"%%MIDI program {part.program}", part.program != 0),
            (f"%%MIDI beat {velocity} {velocity} {velocity} 1", velocity != DEFAULT_VELOCITY),
        )
        yield [line for line, is_needed in directives if is_needed]


def _body(score: Score) -> Iterator[str]:
    """Yield the lines of music, part by part."""
    for number, directives in enumerate(_iter_player_directives(score)):
        if len(score.parts) > 1:
            yield f"V:{number + 1}"
        yield from directives
        yield from _lines(_select_part(score, number))


def _select_part(score: Score, part: int) -> Score:
    """Return a score of one part; chords, fermatas, tempos go with the first only."""
    notes = tuple(note for note in score.notes if note.part == part)
    marks = tuple(mark for mark in score.marks if part == 0 or mark.kind not in _FIRST_PART_KINDS)
    return replace(score, notes=notes, marks=marks)


def _field_text(text: str) -> str:
    r"""Return a text as the value of a field: on one line, with % and \ escaped."""
    visible = "".join(char for char in text if char.isprintable()).strip()[:MAX_FIELD_TEXT]
    return visible.replace("\\", "\\\\").replace("%", "\\%")


def _check_directive(line: str) -> str:
    if not line.startswith("%%") or line.startswith("%%begin") or not line.isprintable():
        raise InvalidValue(f"directive {line[:40]!r}: write one line such as %%recipe seed=7")
    return line


def key_text(key: Key) -> str:
    """Write a key as the value of K:, such as "D", "F#m" or "Amix"."""
    return key.tonic + _MODES[key.mode]


def tempo_text(qpm: float, meter: Meter) -> str:
    """Write a tempo as the value of Q:, in the beat of `choose_tempo_beat`.

    Args:
        qpm: quarter notes per minute.
        meter: the meter in force.
    """
    steps, pace = choose_tempo_beat(qpm, meter)
    beat = Fraction(steps, STEPS_PER_WHOLE)
    shown = pace if pace.denominator == 1 else repr(qpm)
    return f"{beat.numerator}/{beat.denominator}={shown}"


# The bars


@dataclass(frozen=True, slots=True)
class SoundingSegment:
    """A segment in which no note starts or ends."""

    start: int  # steps
    stop: int  # steps
    notes: tuple[Note, ...]  # that sound in it, ascending
    marks: tuple[Mark, ...]  # at its start


class WriterState:
    """The state that a reader would have: key, meter, accidentals of the bar, tied notes."""

    def __init__(self) -> None:
        self.key = Key("C")
        self.meter = Meter(4, 4)
        self.accidentals = signature(0)
        self._tied_pitches: dict[int, int] = {}  # of notes tied to the next, by natural pitch

    def reset_accidentals(self) -> None:
        """Reset the accidentals to the key, at a bar line."""
        self.accidentals = signature(self.key.fifths)

    def write_mark(self, mark: Mark) -> str:
        """Write a mark between notes, and update the state."""
        if mark.kind == "chord":
            symbol = spell_chord(mark.value, self.key)
            return _NO_CHORD if symbol == "N.C." else f'"{symbol}"'
        if mark.kind == "fermata":
            return "!fermata!"
        if mark.kind == "tempo":
            return f"[Q:{tempo_text(mark.value, self.meter)}]"
        if mark.kind == "meter":
            self.meter = mark.value
            return f"[M:{mark.value}]"
        self.key = mark.value
        self.reset_accidentals()
        return f"[K:{key_text(mark.value)}]"

    def write_notes(self, notes: Sequence[Note], length: str, stop: int) -> str:
        """Write a rest, a note or a chord that stops at a step; tie notes that sound longer."""
        if not notes:
            self._tied_pitches = {}
            return "z" + length
        spelled = [(note, spell(note.pitch, self.key)) for note in notes]
        names = [self._write_pitch(pitch) for _, pitch in spelled]
        ties = ["-" * (note.end > stop) for note in notes]
        self._tied_pitches = {
            natural_pitch(pitch): note.pitch for note, pitch in spelled if note.end > stop
        }
        if len(notes) == 1:
            return names[0] + length + ties[0]
        if all(ties):
            return f"[{''.join(names)}]{length}-"
        return f"[{''.join(map(''.join, zip(names, ties, strict=True)))}]{length}"

    def _write_pitch(self, spelled: SpelledPitch) -> str:
        """Write a pitch, with an accidental unless the bar or a tie implies it."""
        sign = ""
        tied = self._tied_pitches.get(natural_pitch(spelled), spelled.pitch)
        if tied != spelled.pitch or self.accidentals[spelled.letter] != spelled.alteration:
            self.accidentals[spelled.letter] = spelled.alteration
            sign = _ACCIDENTALS[spelled.alteration]
        if spelled.octave >= 5:
            return sign + spelled.letter.lower() + "'" * (spelled.octave - 5)
        return sign + spelled.letter + "," * (4 - spelled.octave)


def natural_pitch(spelled: SpelledPitch) -> int:
    """Return the MIDI note number of a pitch without its alteration."""
    return spelled.pitch - spelled.alteration


def _lines(score: Score) -> Iterator[str]:
    """Yield the lines of music: BARS_PER_LINE bars each, and a new line after a repeat."""
    line: list[str] = []
    count = 0
    for words in _bars(score):
        for word in words:
            if sum(map(len, line)) > LINE_WIDTH:
                yield " ".join(line)
                line = []
            line.append(word)
        count += 1
        if count == BARS_PER_LINE or len(words[-1]) > 1:
            yield " ".join(line)
            line, count = [], 0
    if line:
        yield " ".join(line)


def _bars(score: Score) -> Iterator[list[str]]:
    """Yield the words of each bar: its opening repeat or ending, its beats, its bar line."""
    edges = sorted({0, score.end, *find_jumps(score), *(mark.onset for mark in score.of("bar"))})
    marks = _marks_by_step(score)
    segments = list(_segments(score, sorted({*edges, *marks})))
    starts = [segment.start for segment in segments]
    doubled = {mark.value.end for mark in score.of("ending")} | _find_split_bars(score, edges)
    state = WriterState()
    for mark in marks[0]:
        if mark.kind in _IN_HEADER:
            state.write_mark(mark)
    for start, stop in pairwise(edges):
        state.reset_accidentals()
        opening = [_opening(mark) for mark in marks[start] if mark.kind in _OPENING]
        bar_segments = segments[bisect_left(starts, start) : bisect_left(starts, stop)]
        final_marks = marks[stop] if stop == score.end else []
        beats = [
            *_beats(bar_segments, state),
            *(state.write_mark(mark) for mark in final_marks if mark.kind in _INLINE),
        ]
        yield [*opening, *beats, _bar_line(marks[stop], stop in doubled, stop == score.end)]


def _marks_by_step(score: Score) -> defaultdict[int, list[Mark]]:
    marks_by_step: defaultdict[int, list[Mark]] = defaultdict(list)
    for mark in score.marks:
        marks_by_step[mark.onset].append(mark)
    return marks_by_step


def _opening(mark: Mark) -> str:
    if mark.kind == "repeat_start":
        return "|:"
    return "[" + ",".join(map(str, mark.value.passes))


def _find_split_bars(score: Score, edges: Sequence[int]) -> set[int]:
    """Return the steps between two short bars that form a full one, as where a section ends.

    Leave out those inside an ending, which a double bar line would close.
    """
    meters = list(score.of("meter")) or [Mark(0, "meter", Meter(4, 4))]
    ending_spans = [(mark.onset, mark.value.end) for mark in score.of("ending")]
    split_steps = set()
    for (bar_start, step), bar_end in zip(pairwise(edges), edges[2:], strict=False):
        index = bisect_right(meters, bar_start, key=attrgetter("onset")) - 1
        if step - bar_start < meters[max(0, index)].value.steps == bar_end - bar_start:
            split_steps.add(step)
    return {
        step for step in split_steps if not any(start < step < end for start, end in ending_spans)
    }


def _bar_line(marks: Sequence[Mark], closes_section: bool, ends_tune: bool) -> str:
    """Write the line that ends a bar: double at the end of a section, unless an ending starts."""
    kinds = {mark.kind: mark.value for mark in marks}
    if "repeat_end" in kinds:
        return ":" * (int(kinds["repeat_end"]) - 1) + "|"
    if ends_tune:
        return "|]"
    return "||" if "repeat_start" in kinds or (closes_section and "ending" not in kinds) else "|"


def _segments(score: Score, cuts: Sequence[int]) -> Iterator[SoundingSegment]:
    """Divide a score where a note starts or ends, and at the given steps."""
    edges = sorted({*cuts, *(note.onset for note in score.notes), *(n.end for n in score.notes)})
    marks = _marks_by_step(score)
    sounding: list[Note] = []
    notes = iter(score.notes)
    next_note = next(notes, None)
    for start, stop in pairwise(edges):
        sounding = [note for note in sounding if note.end > start]
        while next_note is not None and next_note.onset == start:
            sounding.append(next_note)
            next_note = next(notes, None)
        written = tuple(m for m in marks[start] if m.kind in (_INLINE if start else _AT_NOTES))
        yield SoundingSegment(start, stop, tuple(sorted(sounding, key=lambda n: n.pitch)), written)


# One bar


def _beats(segments: Sequence[SoundingSegment], state: WriterState) -> Iterator[str]:
    """Yield the text of each beat of a bar."""
    if not segments:
        return
    start, stop = segments[0].start, segments[-1].stop
    offsets = (*(segment.start - start for segment in segments), stop - start)
    durations = notate_segments(offsets)
    spans, sizes = _iter_with_sounding_offsets(durations), _iter_tuplet_sizes(durations)
    lead = max(0, state.meter.steps - stop) if start == 0 else 0  # a pickup ends at a beat
    beat = ""
    marked_segment = -1
    for (piece, onset, end), tuplet_size in zip(spans, sizes, strict=True):
        segment = segments[piece.segment]
        if beat and (lead + onset) % state.meter.beat_steps == 0:
            yield beat
            beat = ""
        if piece.segment != marked_segment:
            beat += "".join(map(state.write_mark, segment.marks))
            marked_segment = piece.segment
        beat += _bracket(piece, tuplet_size)
        beat += state.write_notes(segment.notes, length_text(piece.nominal), start + end)
    yield beat


def _iter_with_sounding_offsets(
    durations: Sequence[WrittenDuration],
) -> Iterator[tuple[WrittenDuration, int, int]]:
    """Yield each written value with the offsets in steps at which it starts and ends to sound."""
    offset = nominal = tuplet_start = 0
    tuplet = None
    for piece in durations:
        if piece.opened_tuplet:
            tuplet, tuplet_start, nominal = piece.opened_tuplet, offset, 0
        onset = offset
        nominal += piece.nominal
        offset = tuplet_start + tuplet.to_sounding(nominal) if tuplet else offset + piece.nominal
        yield piece, onset, offset
        if piece.closes_tuplet:
            tuplet = None


def _iter_tuplet_sizes(durations: Sequence[WrittenDuration]) -> Iterator[int]:
    """Yield for each written value the number of values in the tuplet that it opens, or 0."""
    closing = [index for index, piece in enumerate(durations) if piece.closes_tuplet]
    for index, piece in enumerate(durations):
        yield closing[bisect_left(closing, index)] - index + 1 if piece.opened_tuplet else 0


def _bracket(duration: WrittenDuration, count: int) -> str:
    """Write the opening of a tuplet: "(3", or "(p:q:r" where the defaults do not apply."""
    if duration.opened_tuplet is None:
        return _REMAINDER_BRACKET if _is_remainder(duration.nominal) else ""
    p, q = duration.opened_tuplet.p, duration.opened_tuplet.q
    return "(3" if (p, q, count) == (3, 2, 3) else f"({p}:{q}:{count}"


def _is_remainder(steps: int) -> bool:
    """Return whether a length's denominator is not a power of 2, which other programs refuse."""
    return steps % SHORTEST_WRITABLE != 0


def length_text(steps: int) -> str:
    """Write a length in units of L:1/8, as in "", "2" or "3/2"; a remainder as in its tuplet."""
    length = Fraction(steps, UNIT_NOTE_STEPS) * (Fraction(3, 2) if _is_remainder(steps) else 1)
    numerator = "" if length.numerator == 1 else str(length.numerator)
    return numerator if length.denominator == 1 else f"{numerator}/{length.denominator}"
