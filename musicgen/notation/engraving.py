"""The sheet: a tune as written on staves, which the MEI and MusicXML writers render.

Its measures are those of `music.bars.find_bars`. Each has one staff per part, and each staff one
layer per voice that sounds in the measure. The symbols of a layer fill the measure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Final, Literal

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.bars import Bar, find_bars, find_pickups, number_bars
from musicgen.music.durations import Tuplet
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Part, Score, find_sections
from musicgen.music.theory import Key, Meter, SpelledPitch, signature, spell, spell_chord
from musicgen.music.voices import Chords
from musicgen.notation.clefs import (
    DRUM_SYMBOLS,
    PERCUSSION,
    Clef,
    DrumSymbol,
    HeadShape,
    choose_clef,
)
from musicgen.notation.grand_staff import split_hands
from musicgen.notation.note_values import (
    NOTE_VALUES,
    NoteValue,
    TimedNoteValue,
    notate_bar,
    number_beams,
)

BARS_PER_LINE: Final = 4
MAX_FIFTHS: Final = 7  # accidentals in a key signature
LONGEST_BAR: Final = 512 * STEPS_PER_QUARTER  # steps; the longest of real tunes has 488 quarters
_STEPS_OF_LONE_RESTS: Final = (4 * STEPS_PER_QUARTER, 8 * STEPS_PER_QUARTER)
MAX_CHORDS_PER_BAR: Final = 1_024  # in all parts; engraving time is quadratic in both
MAX_WRITTEN_SYMBOLS: Final = 200_000  # notes and rests in a file
MAX_ENGRAVED_SYMBOLS: Final = 30_000  # notes and rests in an image: about 30 s and 10 MB
_OTHER_OUTPUTS_HINT: Final = "write .wav, .html, .mid, or a picture with --view roll"

BarLineStyle = Literal["single", "double", "final"]
Hand = Literal["", "right", "left"]


@dataclass(frozen=True, slots=True)
class NoteHead:
    """A note head. A note that spans several symbols has several tied heads."""

    note_index: int  # index into score.notes
    symbol_index: int  # number of the head among those of its note
    pitch: int  # MIDI note number
    staff_position: SpelledPitch  # of a drum, as in the treble clef
    accidental: int | None = None  # alteration in semitones of a written accidental
    is_tied: bool = False  # to the next head of its note
    shape: HeadShape = "normal"
    is_drum: bool = False  # written at the position of DRUM_SYMBOLS, not by its pitch

    @property
    def element_id(self) -> str:
        """The id of its element in MEI and SVG, which the player uses too."""
        return f"n{self.note_index}" + (f"-{self.symbol_index}" if self.symbol_index else "")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A note, a chord or a rest of a layer."""

    start: int  # steps from the start of the measure
    stop: int
    value: NoteValue
    heads: tuple[NoteHead, ...] = ()  # none for a rest
    tuplet: Tuplet | None = None
    opens_tuplet: bool = False
    closes_tuplet: bool = False
    beam: int = 0  # number of its beam in the layer, from 1; 0 for none
    is_measure_rest: bool = False  # a rest for the whole measure
    is_shown: bool = True  # rests of secondary voices are hidden


@dataclass(frozen=True, slots=True)
class Layer:
    """The symbols of one voice in a measure."""

    voice: int  # number of the voice in its part, from 0
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: its staves, its bar lines, and the changes at its start."""

    bar: Bar
    number: int  # as players count; a first pickup is 0
    key: Key | None  # where it changes
    meter: Meter | None  # where it changes
    marks: tuple[Mark, ...]  # chord symbols, fermatas, tempos, and key changes inside the measure
    staves: tuple[tuple[Layer, ...], ...]
    bar_line_style: BarLineStyle  # at its end
    has_repeat_start: bool = False
    repeat_plays: int = 0  # number of plays of the section that ends here; 0 for none
    starting_passes: tuple[int, ...] = ()  # of the ending that starts here
    stopping_passes: tuple[int, ...] = ()  # of the ending that stops here
    is_counted: bool = True  # pickups share the number of another measure
    ends_line: bool = False  # a line break follows, after four measures or a section


@dataclass(frozen=True, slots=True)
class Staff:
    """A staff: its part and its clef."""

    part: Part
    clef: Clef
    hand: Hand = ""  # of a part on two staves; the left hand follows the right


@dataclass(frozen=True, slots=True)
class Sheet:
    """A tune as written on staves."""

    title: str
    rhythm: str
    staves: tuple[Staff, ...]
    measures: tuple[Measure, ...]


def build_sheet(
    score: Score, *, as_strokes: bool = False, with_grand_staves: bool = False
) -> Sheet:
    """Lay out a score on staves; an empty score is a measure of rest.

    Args:
        score: a tune with bars, or `check_bars` raises InvalidValue.
        as_strokes: write each drum stroke until the next one or the end of its beat, as drummers
            read them, regardless of its duration.
        with_grand_staves: write a piano part that one staff cannot hold on two staves.
    """
    check_bars(score)
    right_hands: tuple[int, ...] = ()
    if with_grand_staves:
        score, right_hands = split_hands(score)
    if score.end == 0:
        score = replace(score, marks=(*score.marks, Mark(score.meter.steps, "bar")))
    pitches: list[list[int]] = [[] for _ in score.parts]
    for note in score.notes:
        pitches[note.part].append(note.pitch)
    staves = tuple(
        Staff(
            part,
            PERCUSSION if part.is_drums else choose_clef(part_pitches),
            "right" if number in right_hands else "left" if number - 1 in right_hands else "",
        )
        for number, (part, part_pitches) in enumerate(zip(score.parts, pitches, strict=True))
    )
    return Sheet(score.title, score.rhythm, staves, tuple(_measures(score, as_strokes)))


def check_bars(score: Score) -> None:
    """Check that a score can be written in bars.

    Raises:
        InvalidValue: it is a performance, a bar is too long, or there are too many symbols.
    """
    if is_performance(score):
        raise InvalidValue(
            f"the music keeps to no bars, so no score can be written; {_OTHER_OUTPUTS_HINT}"
        )
    longest = max((bar.steps for bar in find_bars(score)), default=0)
    if longest > LONGEST_BAR:
        raise InvalidValue(
            f"a bar lasts {longest // STEPS_PER_QUARTER:,} quarter notes, and the limit of a score"
            f" is {LONGEST_BAR // STEPS_PER_QUARTER}; {_OTHER_OUTPUTS_HINT}"
        )
    _check_count(_count_symbols(score, find_bars(score)), MAX_WRITTEN_SYMBOLS)


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise InvalidValue(
            f"it has {count:,} notes and rests, tied from bar to bar, and the limit is {limit:,};"
            f" {_OTHER_OUTPUTS_HINT}"
        )


def _count_symbols(score: Score, bars: Sequence[Bar]) -> int:
    """Count the notes, once per bar in which each sounds, plus one rest per bar and part."""
    bar_starts = [bar.start for bar in bars]
    onsets, _, durations, _, _ = score.columns
    first_bars = np.searchsorted(bar_starts, onsets, side="right")
    last_bars = np.searchsorted(bar_starts, onsets + durations, side="left")
    return int((last_bars - first_bars + 1).sum()) + len(bar_starts) * len(score.parts)


def check_engravable(score: Score) -> None:
    """Check that a score can be engraved in reasonable time.

    Raises:
        InvalidValue: `check_bars` refuses it, or there are too many symbols in it or in a bar.
    """
    check_bars(score)
    bars = find_bars(score)
    _check_count(_count_symbols(score, bars), MAX_ENGRAVED_SYMBOLS)
    bar_starts = [bar.start for bar in bars]
    onsets, _, _, _, parts = score.columns
    chords = np.unique(np.stack([onsets, parts]), axis=1)[0]
    max_chords = np.bincount(np.searchsorted(bar_starts, chords, side="right")).max(initial=0)
    if max_chords > MAX_CHORDS_PER_BAR:
        raise InvalidValue(
            f"a bar has {max_chords:,} notes and chords, and the limit of an image is"
            f" {MAX_CHORDS_PER_BAR:,}; {_OTHER_OUTPUTS_HINT}"
        )


def to_writable_key(key: Key) -> Key:
    """Return the key, respelled if its signature has over seven accidentals."""
    return key if abs(key.fifths) <= MAX_FIFTHS else Key.of(key.pitch_class, key.mode)


class KeyMap:
    """The written keys of a score, for lookup by step."""

    def __init__(self, score: Score) -> None:
        changes = {0: to_writable_key(score.key)}
        changes.update({mark.onset: to_writable_key(mark.value) for mark in score.of("key")})
        self._changes = sorted(changes.items(), key=itemgetter(0))

    def key_at(self, step: int) -> Key:
        """Return the key in force at a step."""
        return self._changes[bisect_right(self._changes, step, key=itemgetter(0)) - 1][1]


def _measures(score: Score, as_strokes: bool) -> Iterator[Measure]:
    bars, keys = find_bars(score), KeyMap(score)
    pickups = find_pickups(bars)
    lines, marks_by_bar = _BarLines(score, bars), _marks_by_bar(score, bars, keys)
    staves = _staff_writers(score, bars, keys, as_strokes)
    previous_key: Key | None = None
    previous_meter: Meter | None = None
    section_start = 0  # number of the measure before the current section
    for index, (bar, number) in enumerate(zip(bars, number_bars(bars), strict=True)):
        is_pickup = pickups[index]
        bar_offset = bar.meter.steps - bar.steps if is_pickup else 0
        key = keys.key_at(bar.start)
        style = lines.choose_style(index, keys, pickups)
        ends_section = number > 0 and (style != "single" or bar.end in lines.plays_by_repeat_end)
        count = number - section_start
        is_fourth = count > 0 and count % BARS_PER_LINE == 0
        ends_line = ends_section or (is_fourth and pickups[index + 1 : index + 2] != [True])
        yield Measure(
            bar=bar,
            number=number,
            key=key if key != previous_key else None,
            meter=bar.meter if bar.meter != previous_meter else None,
            marks=tuple(marks_by_bar[index]),
            staves=tuple(staff.build_layers(index, bar_offset) for staff in staves),
            bar_line_style=style,
            has_repeat_start=bar.start in lines.repeat_starts,
            repeat_plays=lines.plays_by_repeat_end.get(bar.end, 0),
            starting_passes=lines.passes_by_ending_start.get(bar.start, ()),
            stopping_passes=lines.passes_by_ending_stop.get(bar.end, ()),
            is_counted=not is_pickup,
            ends_line=ends_line and not lines.is_short_ending(index + 1),
        )
        previous_key, previous_meter = key, bar.meter
        section_start = number if ends_section else section_start


def _staff_writers(
    score: Score, bars: Sequence[Bar], keys: KeyMap, as_strokes: bool
) -> list[_StaffWriter]:
    chords = list(_chords(score))
    staves = [
        _StaffWriter(score, part, bars, keys, [chord for chord in chords if chord.part == part])
        for part in range(len(score.parts))
    ]
    for staff in staves:
        if as_strokes and staff.is_drums:
            staff.write_strokes()
    return staves


def _marks_by_bar(score: Score, bars: Sequence[Bar], keys: KeyMap) -> list[list[Mark]]:
    """Return for each bar its chord symbols, fermatas, tempos, and key changes inside it.

    Chord symbols are spelled in the key in force.
    """
    starts = [bar.start for bar in bars]
    marks_by_bar: list[list[Mark]] = [[] for _ in bars]
    last_marks = {(mark.onset, mark.kind): mark for mark in score.marks}
    current_qpm = None
    for mark in last_marks.values():
        index = bisect_right(starts, mark.onset) - 1
        if index < 0 or mark.onset >= bars[index].end:
            continue
        if mark.kind == "chord":
            mark = replace(mark, value=spell_chord(mark.value, keys.key_at(mark.onset)))
        is_new = mark.kind == "tempo" and mark.value != current_qpm
        current_qpm = mark.value if is_new else current_qpm
        if (
            mark.kind in ("chord", "fermata")
            or is_new
            or (mark.kind == "key" and mark.onset > starts[index])
        ):
            marks_by_bar[index].append(mark)
    return marks_by_bar


class _BarLines:
    """Repeats and endings at bar lines, by step."""

    def __init__(self, score: Score, bars: Sequence[Bar]) -> None:
        self.bars = bars
        self.repeat_starts: set[int] = set()
        self.plays_by_repeat_end: dict[int, int] = {}
        self.passes_by_ending_start: dict[int, tuple[int, ...]] = {}
        self.passes_by_ending_stop: dict[int, tuple[int, ...]] = {}
        for section in find_sections(score):
            self.repeat_starts |= {section.start} - {0}
            ends = [mark.value.end for mark in section.endings]
            self.plays_by_repeat_end.update(
                dict.fromkeys(ends[:-1] or ends, 2) or {section.stop: section.plays}
            )
            self.passes_by_ending_start.update(
                {mark.onset: mark.value.passes for mark in section.endings}
            )
            self.passes_by_ending_stop.update(
                {mark.value.end: mark.value.passes for mark in section.endings}
            )

    def is_short_ending(self, index: int) -> bool:
        """Return whether a bar is an ending of its own."""
        bar = self.bars[index] if index < len(self.bars) else None
        return (
            bar is not None
            and bar.start in self.passes_by_ending_start
            and bar.end in self.passes_by_ending_stop
        )

    def choose_style(self, index: int, keys: KeyMap, pickups: Sequence[bool]) -> BarLineStyle:
        """Choose the style of the line at the end of a bar: double where a section ends."""
        if index == len(self.bars) - 1:
            return "final"
        end = self.bars[index].end
        ends = (
            end in self.passes_by_ending_stop and end not in self.passes_by_ending_start
        ) or end in self.repeat_starts
        changes = keys.key_at(end) != keys.key_at(end - 1)
        return "double" if ends or changes or pickups[index + 1] else "single"


@dataclass(frozen=True, slots=True)
class _SoundingChord:
    """Notes of a voice that start and end together."""

    part: int
    voice: int
    onset: int  # steps
    end: int  # steps
    notes: tuple[int, ...]  # indexes into score.notes


class _StaffWriter:
    """Writes the layers of one part, measure by measure."""

    def __init__(
        self,
        score: Score,
        part: int,
        bars: Sequence[Bar],
        keys: KeyMap,
        chords: Sequence[_SoundingChord],
    ) -> None:
        self.pitches: list[int] = score.columns[1].tolist()
        self.is_drums = score.parts[part].is_drums
        self.bars, self.keys, self.chords = bars, keys, chords
        self.voices = _voices_by_bar(chords, bars)
        self.symbol_counts: defaultdict[int, int] = defaultdict(int)  # written so far, by note

    def write_strokes(self) -> None:
        """Write simultaneous strokes as chords that last until the next or the end of the beat."""
        notes_by_onset: defaultdict[int, list[int]] = defaultdict(list)
        for chord in self.chords:
            notes_by_onset[chord.onset] += chord.notes
        onsets = sorted(notes_by_onset)
        starts = [bar.start for bar in self.bars]
        strokes = []
        for onset, next_onset in zip(onsets, [*onsets, self.bars[-1].end][1:], strict=True):
            bar = self.bars[bisect_right(starts, onset) - 1]
            beat = bar.meter.beat_steps
            beat_end = onset + beat - (onset - bar.start) % beat
            notes = sorted(notes_by_onset[onset], key=lambda note: -self.pitches[note])
            end = min(next_onset, beat_end, bar.end)
            strokes.append(_SoundingChord(self.chords[0].part, 0, onset, end, tuple(notes)))
        self.voices = _voices_by_bar(strokes, self.bars)

    def build_layers(self, index: int, bar_offset: int) -> tuple[Layer, ...]:
        """Write the layers of a measure, of the voices that sound in it, the highest first."""
        bar, voices = self.bars[index], self.voices[index]
        if not voices:
            return (Layer(0, tuple(_iter_rests(bar, bar_offset))),)
        main_voice = max(
            voices, key=lambda voice: (_count_sounding_steps(bar, voices[voice]), -voice)
        )
        order = sorted(voices, key=lambda voice: (-self._mean_pitch(voices[voice]), voice))
        drafts = [_MeasureVoice(bar, bar_offset, voices[voice]) for voice in order]
        heads = self._heads(bar, drafts)
        return tuple(
            Layer(voice, tuple(draft.symbols(layer_heads, is_main=voice == main_voice)))
            for voice, draft, layer_heads in zip(order, drafts, heads, strict=True)
        )

    def _mean_pitch(self, chords: Sequence[_SoundingChord]) -> float:
        pitches = [self.pitches[note] for chord in chords for note in chord.notes]
        return sum(pitches) / len(pitches)

    def _heads(self, bar: Bar, drafts: Sequence[_MeasureVoice]) -> list[list[tuple[NoteHead, ...]]]:
        """Write the heads of all layers in order of time, as accidentals hold across voices."""
        heads: list[list[tuple[NoteHead, ...]]] = [[()] * len(draft.signs) for draft in drafts]
        accidentals = _AccidentalState()
        for start, layer, position in sorted(
            (value.start, layer, position)
            for layer, draft in enumerate(drafts)
            for position, value in enumerate(draft.signs)
        ):
            chord = drafts[layer].chord(position)
            if chord is not None:
                accidentals.set_key(self.keys.key_at(bar.start + start))
                stop = bar.start + drafts[layer].signs[position].stop
                heads[layer][position] = tuple(
                    self._head(n, chord, stop, accidentals) for n in chord.notes
                )
        return heads

    def _head(
        self, note: int, chord: _SoundingChord, stop: int, accidentals: _AccidentalState
    ) -> NoteHead:
        pitch, symbol_index, is_tied = (
            self.pitches[note],
            self.symbol_counts[note],
            stop < chord.end,
        )
        self.symbol_counts[note] += 1
        if self.is_drums:
            drum = DRUM_SYMBOLS.get(pitch, DrumSymbol(spell(pitch, Key("C")), "x"))
            return NoteHead(
                note, symbol_index, pitch, drum.staff_position,
                is_tied=is_tied, shape=drum.shape, is_drum=pitch in DRUM_SYMBOLS,
            )  # fmt: skip
        staff_position = spell(pitch, self.keys.key_at(chord.onset))
        return NoteHead(
            note,
            symbol_index,
            pitch,
            staff_position,
            None if symbol_index else accidentals.choose_accidental(staff_position),
            is_tied,
        )


def _voices_by_bar(
    chords: Sequence[_SoundingChord], bars: Sequence[Bar]
) -> list[dict[int, list[_SoundingChord]]]:
    """Return for each bar its chords by voice."""
    starts = [bar.start for bar in bars]
    voices: list[dict[int, list[_SoundingChord]]] = [{} for _ in bars]
    for chord in chords:
        first = bisect_right(starts, chord.onset) - 1
        for index in range(first, bisect_left(starts, chord.end)):
            voices[index].setdefault(chord.voice, []).append(chord)
    return voices


def _chords(score: Score) -> Iterator[_SoundingChord]:
    """Yield the chords of a score in order of part and onset."""
    chords = Chords.of(score.columns)
    pitch_starts, note_indexes = chords.pitch_starts.tolist(), chords.note_indexes.tolist()
    rows = zip(
        chords.parts.tolist(), chords.assign_voices().tolist(), chords.onsets.tolist(),
        chords.ends.tolist(), pairwise(pitch_starts), strict=True,
    )  # fmt: skip
    for part, voice, onset, end, (start, stop) in rows:
        yield _SoundingChord(part, voice, onset, end, tuple(note_indexes[start:stop]))


def _count_sounding_steps(bar: Bar, chords: Sequence[_SoundingChord]) -> int:
    """Return for how many steps of a bar a voice sounds."""
    return sum(min(chord.end, bar.end) - max(chord.onset, bar.start) for chord in chords)


def _iter_rests(bar: Bar, bar_offset: int) -> Iterator[Symbol]:
    """Yield the rests of a silent measure.

    A whole rest or a breve rest that stands alone means the whole measure, however long it is, to
    readers and to music21. In an irregular measure two rests of half the length stand in its place.
    """
    if bar.kind == "full":
        yield Symbol(0, bar.steps, NoteValue(1), is_measure_rest=True)
        return
    if bar.steps in _STEPS_OF_LONE_RESTS:
        half = NOTE_VALUES[bar.steps // 2]
        yield Symbol(0, bar.steps // 2, half)
        yield Symbol(bar.steps // 2, bar.steps, half)
        return
    for timed_value in notate_bar(bar.meter, (0, bar.steps), frozenset({0}), bar_offset):
        yield _to_symbol(timed_value)


def _to_symbol(
    timed_value: TimedNoteValue,
    heads: tuple[NoteHead, ...] = (),
    beam: int = 0,
    *,
    is_shown: bool = True,
) -> Symbol:
    return Symbol(
        timed_value.start, timed_value.stop, timed_value.value, heads,
        timed_value.tuplet, timed_value.opens_tuplet, timed_value.closes_tuplet, beam,
        is_shown=is_shown,
    )  # fmt: skip


class _MeasureVoice:
    """One voice in one bar: its chords and rests, and the note values that write them."""

    def __init__(self, bar: Bar, bar_offset: int, chords: Sequence[_SoundingChord]) -> None:
        self.segments: list[_SoundingChord | None] = []
        offsets = [0]
        for chord in chords:
            start = max(chord.onset - bar.start, 0)
            if start > offsets[-1]:
                self.segments.append(None)
                offsets.append(start)
            self.segments.append(chord)
            offsets.append(min(chord.end - bar.start, bar.steps))
        if offsets[-1] < bar.steps:
            self.segments.append(None)
            offsets.append(bar.steps)
        rests = frozenset(n for n, chord in enumerate(self.segments) if chord is None)
        self.signs = list(notate_bar(bar.meter, offsets, rests, bar_offset))
        self.beams = number_beams(bar.meter, self.signs, rests, bar_offset)

    def chord(self, position: int) -> _SoundingChord | None:
        """Return the chord that a note value writes, None for a rest."""
        return self.segments[self.signs[position].segment]

    def symbols(self, heads: Sequence[tuple[NoteHead, ...]], *, is_main: bool) -> Iterator[Symbol]:
        """Yield the symbols; hide the rests of a secondary voice."""
        for value, value_heads, beam in zip(self.signs, heads, self.beams, strict=True):
            yield _to_symbol(value, value_heads, beam, is_shown=is_main or bool(value_heads))


class _AccidentalState:
    """The accidentals in force in a measure."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.alterations: dict[tuple[str, int], int] = {}

    def set_key(self, key: Key) -> None:
        """Set the key in force; a new key cancels accidentals."""
        if key != self.key:
            self.key, self.alterations = key, {}
            self.signature = signature(key.fifths)

    def choose_accidental(self, position: SpelledPitch) -> int | None:
        """Return the accidental to write, if any; cancel one in another octave explicitly."""
        letter, key = position.letter, (position.letter, position.octave)
        current = self.alterations.get(key, self.signature[letter])
        alterations_of_letter = {
            alteration for (name, _), alteration in self.alterations.items() if name == letter
        }
        self.alterations[key] = position.alteration
        is_plain = current == position.alteration and alterations_of_letter <= {position.alteration}
        return None if is_plain else position.alteration
