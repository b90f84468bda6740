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
from musicgen.music.bars import Bar, bars, numbers, picked_up
from musicgen.music.durations import Tuplet
from musicgen.music.performance import is_performance
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Part, Score, sections
from musicgen.music.theory import Key, Meter, SpelledPitch, signature, spell
from musicgen.music.voices import Chords
from musicgen.notation.clefs import DRUMS, PERCUSSION, Clef, Drum, HeadShape, clef_of
from musicgen.notation.note_values import NoteValue, Written, beams, written

BARS_A_LINE: Final = 4
MOST_FIFTHS: Final = 7  # signs in a key signature
LONGEST_BAR: Final = 256 * STEPS_PER_QUARTER  # steps; the time to engrave a bar grows as its square
MOST_CHORDS: Final = 1_024  # of a bar, in all parts, for the same reason
MOST_PIECES: Final = 200_000  # written at all, of notes and rests
MOST_NOTES: Final = 30_000  # engraved, with the rests of silent bars: some 30 s and 10 MB
_UNWRITTEN: Final = "write .wav, .html, .mid, or a picture with --view roll"

Line = Literal["single", "double", "final"]


@dataclass(frozen=True, slots=True)
class Head:
    """A note head: the symbol-th of the score's note number `note`.

    place: its line or space; for drums, as if in the treble clef, and a shape of their own. A drum
    that has no place there is written by its pitch.
    sign: the alteration that stands before it, None where it goes without saying.
    """

    note: int
    symbol: int
    pitch: int
    place: SpelledPitch
    sign: int | None = None
    is_tied: bool = False  # to the next head of its note
    shape: HeadShape = "normal"
    is_drum: bool = False

    @property
    def name(self) -> str:
        """The id by which page and player know it."""
        return f"n{self.note}" + (f"-{self.symbol}" if self.symbol else "")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A note, a chord, or without heads a rest: when it sounds, and how it is written.

    beam: the number of its beam in the layer, 0 for none. is_whole: a rest for a whole measure.
    is_shown: a rest of a further voice only takes place.
    """

    start: int
    stop: int
    value: NoteValue
    heads: tuple[Head, ...] = ()
    tuplet: Tuplet | None = None
    opens: bool = False
    closes: bool = False
    beam: int = 0
    is_whole: bool = False
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
    line: Line
    repeats: bool = False  # from here
    plays: int = 0  # a repeat ends here, so often played
    opens: tuple[int, ...] = ()
    closes: tuple[int, ...] = ()  # passes of the ending that stops here
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


def sheet(score: Score, *, as_strokes: bool = False) -> Sheet:
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
        Staff(part, PERCUSSION if part.is_drums else clef_of(sounding))
        for part, sounding in zip(score.parts, pitches, strict=True)
    )
    return Sheet(score.title, score.rhythm, staves, tuple(_measures(score, as_strokes)))


def check_bars(score: Score) -> None:
    """Raise InvalidValue for music that no bars divide: a performance, or a bar of no end."""
    if is_performance(score):
        raise InvalidValue(f"the music keeps to no bars, so no score can be written; {_UNWRITTEN}")
    longest = max((bar.steps for bar in bars(score)), default=0)
    if longest > LONGEST_BAR:
        raise InvalidValue(
            f"a bar lasts {longest // STEPS_PER_QUARTER:,} quarters, and a score has bars of"
            f" {LONGEST_BAR // STEPS_PER_QUARTER} at most; {_UNWRITTEN}"
        )
    _check_count(_pieces(score, bars(score)), MOST_PIECES)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise InvalidValue(
            f"its notes, tied from bar to bar, and its rests are {count:,}, and {most:,} are"
            f" written at most; {_UNWRITTEN}"
        )


def _pieces(score: Score, found: Sequence[Bar]) -> int:
    """Count the notes, one for each bar that a note sounds in, and the staves of all bars."""
    edges = [bar.start for bar in found]
    onsets, _, durations, _, _ = score.columns
    first = np.searchsorted(edges, onsets, side="right")
    last = np.searchsorted(edges, onsets + durations, side="left")
    return int((last - first + 1).sum()) + len(edges) * len(score.parts)


def check_engravable(score: Score) -> None:
    """Raise InvalidValue for music that cannot be engraved, or not in reasonable time."""
    check_bars(score)
    found = bars(score)
    _check_count(_pieces(score, found), MOST_NOTES)
    edges = [bar.start for bar in found]
    onsets, _, _, _, parts = score.columns
    chords = np.unique(np.stack([onsets, parts]), axis=1)[0]
    fullest = np.bincount(np.searchsorted(edges, chords, side="right")).max(initial=0)
    if fullest > MOST_CHORDS:
        raise InvalidValue(
            f"a bar has {fullest:,} notes and chords, and {MOST_CHORDS:,} are engraved at most;"
            f" {_UNWRITTEN}"
        )


def written_key(key: Key) -> Key:
    """Return a key by a name whose signature can be written."""
    return key if abs(key.fifths) <= MOST_FIFTHS else Key.of(key.pitch_class, key.mode)


class Keys:
    """The keys of a score, as they are written."""

    def __init__(self, score: Score) -> None:
        found = {0: written_key(score.key)}
        found.update({mark.onset: written_key(mark.value) for mark in score.of("key")})
        self.steps = sorted(found)
        self.keys = [found[step] for step in self.steps]

    def at(self, step: int) -> Key:
        """Return the key that holds at a step."""
        return self.keys[bisect_right(self.steps, step) - 1]


def _measures(score: Score, as_strokes: bool) -> Iterator[Measure]:
    found, keys = bars(score), Keys(score)
    pickups = picked_up(found)
    lines, inside = _Lines(score, found), _marks_by_bar(score, found)
    chords = list(_chords(score))
    staves = [
        _StaffOf(score, part, found, keys, [chord for chord in chords if chord.part == part])
        for part in range(len(score.parts))
    ]
    for staff in staves:
        if as_strokes and staff.is_drums:
            staff.write_strokes()
    key: Key | None = None
    meter: Meter | None = None
    part = 0  # the number of the measure before the part of the tune under way
    for index, (bar, number) in enumerate(zip(found, numbers(found), strict=True)):
        is_pickup = pickups[index]
        lead = bar.meter.steps - bar.steps if is_pickup else 0
        here = keys.at(bar.start)
        line = lines.kind(index, keys, pickups)
        ends_part = number > 0 and (line != "single" or bar.end in lines.plays)
        is_fourth = number > part and (number - part) % BARS_A_LINE == 0
        ends_line = ends_part or (is_fourth and pickups[index + 1 : index + 2] != [True])
        yield Measure(
            bar=bar,
            number=number,
            key=here if here != key else None,
            meter=bar.meter if bar.meter != meter else None,
            marks=tuple(inside[index]),
            staves=tuple(staff.layers(index, lead) for staff in staves),
            line=line,
            repeats=bar.start in lines.starts,
            plays=lines.plays.get(bar.end, 0),
            opens=lines.opens.get(bar.start, ()),
            closes=lines.closes.get(bar.end, ()),
            is_counted=not is_pickup,
            ends_line=ends_line and not lines.is_short_ending(index + 1),
        )
        key, meter = here, bar.meter
        part = number if ends_part else part


def _marks_by_bar(score: Score, found: Sequence[Bar]) -> list[list[Mark]]:
    """Share out what stands above or inside of the bars: chords, tempi, keys; one of a kind."""
    starts = [bar.start for bar in found]
    inside: list[list[Mark]] = [[] for _ in found]
    single = {(mark.onset, mark.kind): mark for mark in score.marks}
    qpm = None
    for mark in single.values():
        index = bisect_right(starts, mark.onset) - 1
        if index < 0 or mark.onset >= found[index].end:
            continue
        is_new = mark.kind == "tempo" and mark.value != qpm
        qpm = mark.value if is_new else qpm
        if mark.kind == "chord" or is_new or (mark.kind == "key" and mark.onset > starts[index]):
            inside[index].append(mark)
    return inside


class _Lines:
    """What the sections say of the bar lines, by step."""

    def __init__(self, score: Score, found: Sequence[Bar]) -> None:
        self.bars = found
        self.starts: set[int] = set()
        self.plays: dict[int, int] = {}
        self.opens: dict[int, tuple[int, ...]] = {}
        self.closes: dict[int, tuple[int, ...]] = {}
        for section in sections(score):
            self.starts |= {section.start} - {0}
            ends = [mark.value.end for mark in section.endings]
            self.plays.update(dict.fromkeys(ends[:-1] or ends, 2) or {section.stop: section.plays})
            self.opens.update({mark.onset: mark.value.passes for mark in section.endings})
            self.closes.update({mark.value.end: mark.value.passes for mark in section.endings})

    def is_short_ending(self, index: int) -> bool:
        """Tell whether an ending of one bar stands at a place."""
        bar = self.bars[index] if index < len(self.bars) else None
        return bar is not None and bar.start in self.opens and bar.end in self.closes

    def kind(self, index: int, keys: Keys, pickups: Sequence[bool]) -> Line:
        """Tell how the line looks that ends a bar: double where a part of the tune ends."""
        if index == len(self.bars) - 1:
            return "final"
        end = self.bars[index].end
        ends = (end in self.closes and end not in self.opens) or end in self.starts
        changes = keys.at(end) != keys.at(end - 1)
        return "double" if ends or changes or pickups[index + 1] else "single"


@dataclass(frozen=True, slots=True)
class _Sounding:
    """The notes of a voice that start and end together, by their numbers in the score."""

    part: int
    voice: int
    onset: int
    end: int
    notes: tuple[int, ...]


class _StaffOf:
    """Writes the layers of one part, measure after measure."""

    def __init__(
        self,
        score: Score,
        part: int,
        found: Sequence[Bar],
        keys: Keys,
        chords: Sequence[_Sounding],
    ) -> None:
        self.pitches: list[int] = score.columns[1].tolist()
        self.is_drums = score.parts[part].is_drums
        self.bars, self.keys, self.chords = found, keys, chords
        self.voices = _voices_by_bar(chords, found)
        self.symbols: defaultdict[int, int] = defaultdict(int)  # of each note, so far

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
            strokes.append(_Sounding(self.chords[0].part, 0, onset, end, tuple(notes)))
        self.voices = _voices_by_bar(strokes, self.bars)

    def layers(self, index: int, lead: int) -> tuple[Layer, ...]:
        """Write a measure: the voices that sound in it, the highest first."""
        bar, voices = self.bars[index], self.voices[index]
        if not voices:
            return (Layer(0, tuple(_silence(bar, lead))),)
        main = max(voices, key=lambda voice: (_sounding(bar, voices[voice]), -voice))
        order = sorted(voices, key=lambda voice: (-self._height(voices[voice]), voice))
        drafts = [_Draft(bar, lead, voices[voice]) for voice in order]
        heads = self._heads(bar, drafts)
        return tuple(
            Layer(voice, tuple(draft.symbols(found, is_main=voice == main)))
            for voice, draft, found in zip(order, drafts, heads, strict=True)
        )

    def _height(self, chords: Sequence[_Sounding]) -> float:
        pitches = [self.pitches[note] for chord in chords for note in chord.notes]
        return sum(pitches) / len(pitches)

    def _heads(self, bar: Bar, drafts: Sequence[_Draft]) -> list[list[tuple[Head, ...]]]:
        """Write the heads of all layers in order of time, so that signs hold across voices."""
        heads: list[list[tuple[Head, ...]]] = [[()] * len(draft.signs) for draft in drafts]
        signs = _Signs()
        for start, layer, place in sorted(
            (sign.start, layer, place)
            for layer, draft in enumerate(drafts)
            for place, sign in enumerate(draft.signs)
        ):
            chord = drafts[layer].chord(place)
            if chord is not None:
                signs.hold(self.keys.at(bar.start + start))
                stop = bar.start + drafts[layer].signs[place].stop
                heads[layer][place] = tuple(self._head(n, chord, stop, signs) for n in chord.notes)
        return heads

    def _head(self, note: int, chord: _Sounding, stop: int, signs: _Signs) -> Head:
        pitch, symbol, is_tied = self.pitches[note], self.symbols[note], stop < chord.end
        self.symbols[note] += 1
        if self.is_drums:
            drum = DRUMS.get(pitch, Drum(spell(pitch, Key("C")), "x"))
            return Head(note, symbol, pitch, drum.place, None, is_tied, drum.shape, pitch in DRUMS)
        place = spell(pitch, self.keys.at(chord.onset))
        return Head(note, symbol, pitch, place, None if symbol else signs.sign(place), is_tied)


def _voices_by_bar(
    chords: Sequence[_Sounding], found: Sequence[Bar]
) -> list[dict[int, list[_Sounding]]]:
    """Return for each bar the voices that sound in it, and their chords in order."""
    starts = [bar.start for bar in found]
    voices: list[dict[int, list[_Sounding]]] = [{} for _ in found]
    for chord in chords:
        first = bisect_right(starts, chord.onset) - 1
        for index in range(first, bisect_left(starts, chord.end)):
            voices[index].setdefault(chord.voice, []).append(chord)
    return voices


def _chords(score: Score) -> Iterator[_Sounding]:
    """Yield the chords in order of part and onset."""
    chords = Chords.of(score.columns)
    firsts, places = chords.firsts.tolist(), chords.places.tolist()
    rows = zip(
        chords.parts.tolist(), chords.voices().tolist(), chords.onsets.tolist(),
        chords.ends.tolist(), pairwise(firsts), strict=True,
    )  # fmt: skip
    for part, voice, onset, end, (start, stop) in rows:
        yield _Sounding(part, voice, onset, end, tuple(places[start:stop]))


def _sounding(bar: Bar, chords: Sequence[_Sounding]) -> int:
    """Return how many steps of a bar a voice sounds."""
    return sum(min(chord.end, bar.end) - max(chord.onset, bar.start) for chord in chords)


def _silence(bar: Bar, lead: int) -> Iterator[Symbol]:
    """Yield the rests of a measure in which a part is silent."""
    if bar.kind == "full":
        yield Symbol(0, bar.steps, NoteValue(1), is_whole=True)
        return
    for sign in written(bar.meter, (0, bar.steps), frozenset({0}), lead):
        yield _symbol(sign)


def _symbol(
    sign: Written, heads: tuple[Head, ...] = (), beam: int = 0, *, is_shown: bool = True
) -> Symbol:
    return Symbol(
        sign.start, sign.stop, sign.value, heads,
        sign.tuplet, sign.opens, sign.closes, beam, is_shown=is_shown,
    )  # fmt: skip


class _Draft:
    """One voice in one bar: its segments, sounding and silent, and the signs that write them."""

    def __init__(self, bar: Bar, lead: int, chords: Sequence[_Sounding]) -> None:
        self.segments: list[_Sounding | None] = []
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
        self.signs = list(written(bar.meter, offsets, rests, lead))
        self.beams = beams(bar.meter, self.signs, rests, lead)

    def chord(self, place: int) -> _Sounding | None:
        """Return what a sign writes, None for a rest."""
        return self.segments[self.signs[place].segment]

    def symbols(self, heads: Sequence[tuple[Head, ...]], *, is_main: bool) -> Iterator[Symbol]:
        """Yield the symbols; the rests of a further voice only take place."""
        for sign, found, beam in zip(self.signs, heads, self.beams, strict=True):
            yield _symbol(sign, found, beam, is_shown=is_main or bool(found))


class _Signs:
    """The alterations that a reader knows of in a measure."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.known: dict[tuple[str, int], int] = {}

    def hold(self, key: Key) -> None:
        """Heed the key of a place; a new one forgets what was altered."""
        if key != self.key:
            self.key, self.known = key, {}
            self.signature = signature(key.fifths)

    def sign(self, place: SpelledPitch) -> int | None:
        """Return the alteration to write; one that another octave has is taken back in words."""
        letter, here = place.letter, (place.letter, place.octave)
        told = self.known.get(here, self.signature[letter])
        elsewhere = {known for (name, _), known in self.known.items() if name == letter}
        self.known[here] = place.alteration
        is_plain = told == place.alteration and elsewhere <= {place.alteration}
        return None if is_plain else place.alteration
