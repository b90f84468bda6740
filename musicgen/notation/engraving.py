"""The written page of a tune as data: what MEI and MusicXML both write.

Measures are those of `grid.bars`. In each, a staff for each part, and on it a layer for each voice
that sounds there; a layer's symbols fill the measure.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.bars import Bar, find_bars, find_pickups, number_bars
from musicgen.music.durations import Tuplet
from musicgen.music.performance import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Part, Score, find_sections
from musicgen.music.theory import Key, Meter, SpelledPitch, signature, spell
from musicgen.music.voices import Chords
from musicgen.notation.clefs import (
    DRUM_SYMBOLS,
    PERCUSSION,
    Clef,
    DrumSymbol,
    HeadShape,
    choose_clef,
)
from musicgen.notation.note_values import NoteValue, TimedNoteValue, notate_bar, number_beams

BARS_PER_LINE: Final = 4
MAX_FIFTHS: Final = 7  # signs in a key signature
LONGEST_BAR: Final = 256 * STEPS_PER_QUARTER  # steps; the time to engrave a bar grows as its square
MAX_CHORDS_PER_BAR: Final = 1_024  # of a bar, in all parts, for the same reason
MAX_WRITTEN_SYMBOLS: Final = 200_000  # written at all, of notes and rests
MAX_ENGRAVED_SYMBOLS: Final = 30_000  # engraved, with the rests of silent bars: some 30 s and 10 MB
_OTHER_OUTPUTS_HINT: Final = "write .wav, .html, .mid, or a picture with --view roll"

BarLineStyle = Literal["single", "double", "final"]


@dataclass(frozen=True, slots=True)
class NoteHead:
    """A note head: the symbol-th of the score's note number `note`.

    place: its line or space; for drums, as if in the treble clef, and a shape of their own. A drum
    that has no place there is written by its pitch.
    sign: the alteration that stands before it, None where it goes without saying.
    """

    note_index: int
    symbol_index: int
    pitch: int
    staff_position: SpelledPitch
    accidental: int | None = None
    is_tied: bool = False  # to the next head of its note
    shape: HeadShape = "normal"
    is_drum: bool = False

    @property
    def element_id(self) -> str:
        """The id by which page and player know it."""
        return f"n{self.note_index}" + (f"-{self.symbol_index}" if self.symbol_index else "")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A note, a chord, or without heads a rest: when it sounds, and how it is written.

    beam: the number of its beam in the layer, 0 for none. is_whole: a rest for a whole measure.
    is_shown: a rest of a further voice only takes place.
    """

    start: int
    stop: int
    value: NoteValue
    heads: tuple[NoteHead, ...] = ()
    tuplet: Tuplet | None = None
    opens_tuplet: bool = False
    closes_tuplet: bool = False
    beam: int = 0
    is_measure_rest: bool = False
    is_shown: bool = True


@dataclass(frozen=True, slots=True)
class Layer:
    """The symbols of one voice (from 0) in a measure."""

    voice: int
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: what changes at its start, its staves, its bar lines.

    number: as players count, the pickup 0. key, meter: where they change, else None.
    marks: chords, tempi, and keys that change inside. opens: passes of the ending that starts here.
    ends_line: four measures of a part of the tune end here.
    """

    bar: Bar
    number: int
    key: Key | None
    meter: Meter | None
    marks: tuple[Mark, ...]
    staves: tuple[tuple[Layer, ...], ...]
    bar_line_style: BarLineStyle
    has_repeat_start: bool = False  # from here
    repeat_plays: int = 0  # a repeat ends here, so often played
    starting_passes: tuple[int, ...] = ()
    stopping_passes: tuple[int, ...] = ()  # passes of the ending that stops here
    is_counted: bool = True
    ends_line: bool = False


@dataclass(frozen=True, slots=True)
class Staff:
    """Who plays a staff, and its clef."""

    part: Part
    clef: Clef


@dataclass(frozen=True, slots=True)
class Sheet:
    """A tune as it is written: the staves, and measure by measure what is on them."""

    title: str
    rhythm: str
    staves: tuple[Staff, ...]
    measures: tuple[Measure, ...]


def build_sheet(score: Score, *, as_strokes: bool = False) -> Sheet:
    """Work out how a score is written, its notes numbered as in score.notes.

    An empty score is a measure of rest. as_strokes: drums are written as drummers read them, each
    stroke to the next one or to the end of its beat, for nobody hears how long they last.
    Raises InvalidValue for music without bars, see `check_bars`.
    """
    check_bars(score)
    if score.end == 0:
        score = replace(score, marks=(*score.marks, Mark(score.meter.steps, "bar")))
    pitches: list[list[int]] = [[] for _ in score.parts]
    for note in score.notes:
        pitches[note.part].append(note.pitch)
    staves = tuple(
        Staff(part, PERCUSSION if part.is_drums else choose_clef(sounding))
        for part, sounding in zip(score.parts, pitches, strict=True)
    )
    return Sheet(score.title, score.rhythm, staves, tuple(_measures(score, as_strokes)))


def check_bars(score: Score) -> None:
    """Raise InvalidValue for music that no bars divide: a performance, or a bar of no end."""
    if is_performance(score):
        raise InvalidValue(
            f"the music keeps to no bars, so no score can be written; {_OTHER_OUTPUTS_HINT}"
        )
    longest = max((bar.steps for bar in find_bars(score)), default=0)
    if longest > LONGEST_BAR:
        raise InvalidValue(
            f"a bar lasts {longest // STEPS_PER_QUARTER:,} quarters, and a score has bars of"
            f" {LONGEST_BAR // STEPS_PER_QUARTER} at most; {_OTHER_OUTPUTS_HINT}"
        )
    _check_count(_count_symbols(score, find_bars(score)), MAX_WRITTEN_SYMBOLS)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise InvalidValue(
            f"its notes, tied from bar to bar, and its rests are {count:,}, and {most:,} are"
            f" written at most; {_OTHER_OUTPUTS_HINT}"
        )


def _count_symbols(score: Score, bars: Sequence[Bar]) -> int:
    """Count the notes, one for each bar that a note sounds in, and the staves of all bars."""
    edges = [bar.start for bar in bars]
    onsets, _, durations, _, _ = score.columns
    first = np.searchsorted(edges, onsets, side="right")
    last = np.searchsorted(edges, onsets + durations, side="left")
    return int((last - first + 1).sum()) + len(edges) * len(score.parts)


def check_engravable(score: Score) -> None:
    """Raise InvalidValue for music that cannot be engraved, or not in reasonable time."""
    check_bars(score)
    found = find_bars(score)
    _check_count(_count_symbols(score, found), MAX_ENGRAVED_SYMBOLS)
    edges = [bar.start for bar in found]
    onsets, _, _, _, parts = score.columns
    chords = np.unique(np.stack([onsets, parts]), axis=1)[0]
    fullest = np.bincount(np.searchsorted(edges, chords, side="right")).max(initial=0)
    if fullest > MAX_CHORDS_PER_BAR:
        raise InvalidValue(
            f"a bar has {fullest:,} notes and chords, and {MAX_CHORDS_PER_BAR:,} are engraved at"
            f" most;"
            f" {_OTHER_OUTPUTS_HINT}"
        )


def to_writable_key(key: Key) -> Key:
    """Return a key by a name whose signature can be written."""
    return key if abs(key.fifths) <= MAX_FIFTHS else Key.of(key.pitch_class, key.mode)


class KeyMap:
    """The keys of a score, as they are written."""

    def __init__(self, score: Score) -> None:
        found = {0: to_writable_key(score.key)}
        found.update({mark.onset: to_writable_key(mark.value) for mark in score.of("key")})
        self.steps = sorted(found)
        self.keys = [found[step] for step in self.steps]

    def key_at(self, step: int) -> Key:
        """Return the key that holds at a step."""
        return self.keys[bisect_right(self.steps, step) - 1]


def _measures(score: Score, as_strokes: bool) -> Iterator[Measure]:
    found, keys = find_bars(score), KeyMap(score)
    pickups = find_pickups(found)
    lines, inside = _BarLines(score, found), _marks_by_bar(score, found)
    chords = list(_chords(score))
    staves = [
        _StaffWriter(score, part, found, keys, [chord for chord in chords if chord.part == part])
        for part in range(len(score.parts))
    ]
    for staff in staves:
        if as_strokes and staff.is_drums:
            staff.write_strokes()
    key: Key | None = None
    meter: Meter | None = None
    part = 0  # the number of the measure before the part of the tune under way
    for index, (bar, number) in enumerate(zip(found, number_bars(found), strict=True)):
        is_pickup = pickups[index]
        lead = bar.meter.steps - bar.steps if is_pickup else 0
        here = keys.key_at(bar.start)
        line = lines.choose_style(index, keys, pickups)
        ends_part = number > 0 and (line != "single" or bar.end in lines.plays_by_repeat_end)
        is_fourth = number > part and (number - part) % BARS_PER_LINE == 0
        ends_line = ends_part or (is_fourth and pickups[index + 1 : index + 2] != [True])
        yield Measure(
            bar=bar,
            number=number,
            key=here if here != key else None,
            meter=bar.meter if bar.meter != meter else None,
            marks=tuple(inside[index]),
            staves=tuple(staff.build_layers(index, lead) for staff in staves),
            bar_line_style=line,
            has_repeat_start=bar.start in lines.repeat_starts,
            repeat_plays=lines.plays_by_repeat_end.get(bar.end, 0),
            starting_passes=lines.passes_by_ending_start.get(bar.start, ()),
            stopping_passes=lines.passes_by_ending_stop.get(bar.end, ()),
            is_counted=not is_pickup,
            ends_line=ends_line and not lines.is_short_ending(index + 1),
        )
        key, meter = here, bar.meter
        part = number if ends_part else part


def _marks_by_bar(score: Score, bars: Sequence[Bar]) -> list[list[Mark]]:
    """Share out what stands above or inside of the bars: chords, tempi, keys; one of a kind."""
    starts = [bar.start for bar in bars]
    inside: list[list[Mark]] = [[] for _ in bars]
    single = {(mark.onset, mark.kind): mark for mark in score.marks}
    qpm = None
    for mark in single.values():
        index = bisect_right(starts, mark.onset) - 1
        if index < 0 or mark.onset >= bars[index].end:
            continue
        is_new = mark.kind == "tempo" and mark.value != qpm
        qpm = mark.value if is_new else qpm
        if mark.kind == "chord" or is_new or (mark.kind == "key" and mark.onset > starts[index]):
            inside[index].append(mark)
    return inside


class _BarLines:
    """What the sections say of the bar lines, by step."""

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
        """Tell whether an ending of one bar stands at a place."""
        bar = self.bars[index] if index < len(self.bars) else None
        return (
            bar is not None
            and bar.start in self.passes_by_ending_start
            and bar.end in self.passes_by_ending_stop
        )

    def choose_style(self, index: int, keys: KeyMap, pickups: Sequence[bool]) -> BarLineStyle:
        """Tell how the line looks that ends a bar: double where a part of the tune ends."""
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
    """The notes of a voice that start and end together, by their numbers in the score."""

    part: int
    voice: int
    onset: int
    end: int
    notes: tuple[int, ...]


class _StaffWriter:
    """Writes the layers of one part, measure after measure."""

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
        self.symbol_counts: defaultdict[int, int] = defaultdict(int)  # of each note, so far

    def write_strokes(self) -> None:
        """Join what is struck together, to the next stroke or the end of the beat."""
        together: defaultdict[int, list[int]] = defaultdict(list)
        for chord in self.chords:
            together[chord.onset] += chord.notes
        onsets = sorted(together)
        starts = [bar.start for bar in self.bars]
        strokes = []
        for onset, following in zip(onsets, [*onsets[1:], self.bars[-1].end], strict=True):
            bar = self.bars[bisect_right(starts, onset) - 1]
            beat = bar.meter.beat_steps
            edge = onset + beat - (onset - bar.start) % beat
            notes = sorted(together[onset], key=lambda note: -self.pitches[note])
            end = min(following, edge, bar.end)
            strokes.append(_SoundingChord(self.chords[0].part, 0, onset, end, tuple(notes)))
        self.voices = _voices_by_bar(strokes, self.bars)

    def build_layers(self, index: int, bar_offset: int) -> tuple[Layer, ...]:
        """Write a measure: the voices that sound in it, the highest first."""
        bar, voices = self.bars[index], self.voices[index]
        if not voices:
            return (Layer(0, tuple(_iter_rests(bar, bar_offset))),)
        main = max(voices, key=lambda voice: (_count_sounding_steps(bar, voices[voice]), -voice))
        order = sorted(voices, key=lambda voice: (-self._mean_pitch(voices[voice]), voice))
        drafts = [_MeasureVoice(bar, bar_offset, voices[voice]) for voice in order]
        heads = self._heads(bar, drafts)
        return tuple(
            Layer(voice, tuple(draft.symbols(found, is_main=voice == main)))
            for voice, draft, found in zip(order, drafts, heads, strict=True)
        )

    def _mean_pitch(self, chords: Sequence[_SoundingChord]) -> float:
        pitches = [self.pitches[note] for chord in chords for note in chord.notes]
        return sum(pitches) / len(pitches)

    def _heads(self, bar: Bar, drafts: Sequence[_MeasureVoice]) -> list[list[tuple[NoteHead, ...]]]:
        """Write the heads of all layers in order of time, so that signs hold across voices."""
        heads: list[list[tuple[NoteHead, ...]]] = [[()] * len(draft.signs) for draft in drafts]
        signs = _AccidentalState()
        for start, layer, place in sorted(
            (sign.start, layer, place)
            for layer, draft in enumerate(drafts)
            for place, sign in enumerate(draft.signs)
        ):
            chord = drafts[layer].chord(place)
            if chord is not None:
                signs.set_key(self.keys.key_at(bar.start + start))
                stop = bar.start + drafts[layer].signs[place].stop
                heads[layer][place] = tuple(self._head(n, chord, stop, signs) for n in chord.notes)
        return heads

    def _head(
        self, note: int, chord: _SoundingChord, stop: int, signs: _AccidentalState
    ) -> NoteHead:
        pitch, symbol, is_tied = self.pitches[note], self.symbol_counts[note], stop < chord.end
        self.symbol_counts[note] += 1
        if self.is_drums:
            drum = DRUM_SYMBOLS.get(pitch, DrumSymbol(spell(pitch, Key("C")), "x"))
            return NoteHead(
                note,
                symbol,
                pitch,
                drum.staff_position,
                None,
                is_tied,
                drum.shape,
                pitch in DRUM_SYMBOLS,
            )
        place = spell(pitch, self.keys.key_at(chord.onset))
        return NoteHead(
            note, symbol, pitch, place, None if symbol else signs.choose_accidental(place), is_tied
        )


def _voices_by_bar(
    chords: Sequence[_SoundingChord], bars: Sequence[Bar]
) -> list[dict[int, list[_SoundingChord]]]:
    """Return for each bar the voices that sound in it, and their chords in order."""
    starts = [bar.start for bar in bars]
    voices: list[dict[int, list[_SoundingChord]]] = [{} for _ in bars]
    for chord in chords:
        first = bisect_right(starts, chord.onset) - 1
        for index in range(first, bisect_left(starts, chord.end)):
            voices[index].setdefault(chord.voice, []).append(chord)
    return voices


def _chords(score: Score) -> Iterator[_SoundingChord]:
    """Yield the chords in order of part and onset."""
    chords = Chords.of(score.columns)
    firsts, places = chords.pitch_starts.tolist(), chords.note_indexes.tolist()
    rows = zip(
        chords.parts.tolist(), chords.assign_voices().tolist(), chords.onsets.tolist(),
        chords.ends.tolist(), pairwise(firsts), strict=True,
    )  # fmt: skip
    for part, voice, onset, end, (start, stop) in rows:
        yield _SoundingChord(part, voice, onset, end, tuple(places[start:stop]))


def _count_sounding_steps(bar: Bar, chords: Sequence[_SoundingChord]) -> int:
    """Return how many steps of a bar a voice sounds."""
    return sum(min(chord.end, bar.end) - max(chord.onset, bar.start) for chord in chords)


def _iter_rests(bar: Bar, bar_offset: int) -> Iterator[Symbol]:
    """Yield the rests of a measure in which a part is silent."""
    if bar.kind == "full":
        yield Symbol(0, bar.steps, NoteValue(1), is_measure_rest=True)
        return
    for sign in notate_bar(bar.meter, (0, bar.steps), frozenset({0}), bar_offset):
        yield _to_symbol(sign)


def _to_symbol(
    sign: TimedNoteValue, heads: tuple[NoteHead, ...] = (), beam: int = 0, *, is_shown: bool = True
) -> Symbol:
    return Symbol(
        sign.start, sign.stop, sign.value, heads,
        sign.tuplet, sign.opens_tuplet, sign.closes_tuplet, beam, is_shown=is_shown,
    )  # fmt: skip


class _MeasureVoice:
    """One voice in one bar: its segments, sounding and silent, and the signs that write them."""

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

    def chord(self, place: int) -> _SoundingChord | None:
        """Return what a sign writes, None for a rest."""
        return self.segments[self.signs[place].segment]

    def symbols(self, heads: Sequence[tuple[NoteHead, ...]], *, is_main: bool) -> Iterator[Symbol]:
        """Yield the symbols; the rests of a further voice only take place."""
        for sign, found, beam in zip(self.signs, heads, self.beams, strict=True):
            yield _to_symbol(sign, found, beam, is_shown=is_main or bool(found))


class _AccidentalState:
    """The alterations that a reader knows of in a measure."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.alterations: dict[tuple[str, int], int] = {}

    def set_key(self, key: Key) -> None:
        """Heed the key of a place; a new one forgets what was altered."""
        if key != self.key:
            self.key, self.alterations = key, {}
            self.signature = signature(key.fifths)

    def choose_accidental(self, position: SpelledPitch) -> int | None:
        """Return the alteration to write; one that another octave has is taken back in words."""
        letter, here = position.letter, (position.letter, position.octave)
        told = self.alterations.get(here, self.signature[letter])
        elsewhere = {known for (name, _), known in self.alterations.items() if name == letter}
        self.alterations[here] = position.alteration
        is_plain = told == position.alteration and elsewhere <= {position.alteration}
        return None if is_plain else position.alteration
