"""Figures of voice leading and harmony: ranges, crossings, parallels, cadences, chord symbols.

A tune has the figures of voices if it has 2 to MAX_VOICES parts with notes, none of them drums,
each of which sings one note at a time; the highest note stands for a chord in a voice. Voices are
ranked from the highest to the lowest: soprano, alto, tenor and bass by their roles, other parts by
their mean pitch. A chord is what sounds at an onset of any voice; the chord changes where a voice
takes another pitch. Figures per 100 chord changes are sums over all tunes, so that a long tune
weighs more than a short one. A tune has the figures of chord symbols if it has chord symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import combinations, pairwise
from typing import Final, Literal

import numpy as np

from musicgen.evaluation.figures import PERCENT, Definition, Ratio
from musicgen.music.arrays import BoolArray, IntArray, unique_sorted
from musicgen.music.bars import find_bars
from musicgen.music.instrument_ranges import find_voice_range
from musicgen.music.roles import assign_roles, is_choir
from musicgen.music.score import CHOIR_ROLES, Part, Score
from musicgen.music.theory import ChordSymbol, Key
from musicgen.music.tune_content import TuneContent

MAX_VOICES: Final = 8
SILENT: Final = -1  # in place of a pitch
PER_HUNDRED: Final = 100
LEAP: Final = 7  # semitones: larger intervals are leaps
_MOST_SHARED_NOTES: Final = 0.05  # of a voice that sings one note at a time
_FIFTH, _OCTAVE = 7, 0  # semitones modulo an octave

CadenceKind = Literal["authentic", "half", "plagal", "deceptive", "other"]
CADENCES: Final[tuple[CadenceKind, ...]] = ("authentic", "half", "plagal", "deceptive", "other")

# Semitones above the root of the chords that have a name; a third alone stands for its triad.
_CHORD_TONES: Final = {
    "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "aug": (0, 4, 8),
    "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10), "maj7": (0, 4, 7, 11),
    "m7b5": (0, 3, 6, 10), "dim7": (0, 3, 6, 9),
}  # fmt: skip
_INCOMPLETE_CHORDS: Final = {
    "": ((0, 4),), "m": ((0, 3),), "7": ((0, 4, 10),), "m7": ((0, 3, 10),), "maj7": ((0, 4, 11),),
}  # fmt: skip
_SYMBOL_TONES: Final = _CHORD_TONES | {
    "sus4": (0, 5, 7), "sus2": (0, 2, 7), "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9),
    "9": (0, 2, 4, 7, 10),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class VoiceLines:
    """The voices of a tune, from the highest to the lowest, at each onset of any of them."""

    parts: tuple[Part, ...]  # (voice,)
    key: Key
    onsets: IntArray  # (chord,) steps
    pitches: IntArray  # (voice, chord) MIDI note numbers, or SILENT
    starts: BoolArray  # (voice, chord) whether a note starts
    phrase_ends: IntArray  # (phrase,) indexes of the chords at fermatas, and of the last chord

    @classmethod
    def of(cls, score: Score, numbers: list[int]) -> VoiceLines:
        """Read the voices of a score.

        Args:
            score: with roles.
            numbers: of the parts, from the highest to the lowest.
        """
        lines = [_find_line(score, number) for number in numbers]
        onsets = unique_sorted(np.concatenate([line[0] for line in lines]))
        pitches = np.array([_sample_line(*line, onsets) for line in lines])
        starts = np.array([np.isin(onsets, line[0]) for line in lines])
        fermatas = np.array([mark.onset for mark in score.of("fermata")], dtype=np.int64)
        at_fermatas = np.searchsorted(onsets, fermatas, side="right") - 1
        ends = unique_sorted(np.append(at_fermatas[at_fermatas >= 0], len(onsets) - 1))
        parts = tuple(score.parts[number] for number in numbers)
        return cls(parts, score.key, onsets, pitches, starts, ends)

    @cached_property
    def changes(self) -> int:
        """How many times the chord changes."""
        return int((np.diff(self.pitches, axis=1) != 0).any(axis=0).sum())

    @cached_property
    def tones(self) -> list[frozenset[int]]:
        """(chord,) pitch classes that sound."""
        return [
            frozenset(pitch % 12 for pitch in column if pitch != SILENT)
            for column in self.pitches.T.tolist()
        ]


def _find_line(score: Score, number: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return onsets, ends and pitches of a part, (note,) int64 each: the highest at each onset."""
    columns = score.columns[:, score.columns[4] == number]
    order = np.lexsort((-columns[1], columns[0]))
    rows = order[np.diff(columns[0][order], prepend=-1) > 0]
    onsets, pitches, durations = columns[0][rows], columns[1][rows], columns[2][rows]
    ends = onsets + durations
    ends[:-1] = np.minimum(ends[:-1], onsets[1:])
    return onsets, ends, pitches


def _sample_line(onsets: IntArray, ends: IntArray, pitches: IntArray, steps: IntArray) -> IntArray:
    """Return the pitch that a line sings at each of some steps, (step,) int64, or SILENT."""
    last = np.searchsorted(onsets, steps, side="right") - 1
    return np.where((last >= 0) & (steps < ends[last]), pitches[last], SILENT)


@lru_cache(maxsize=1)  # all figures of a tune are measured before those of the next
def read_voices(content: TuneContent) -> VoiceLines | None:
    """Return the voices of a tune; None if it is not for voices."""
    score = content.score
    if not 2 <= len(score.parts) <= MAX_VOICES or any(part.is_drums for part in score.parts):
        return None
    numbers = np.unique(score.columns[4]).tolist()
    if len(numbers) < 2 or not all(_sings_single_notes(score, number) for number in numbers):
        return None
    score = assign_roles(score)
    if is_choir(score.parts):
        ranks = {number: float(CHOIR_ROLES.index(score.parts[number].role)) for number in numbers}
    else:
        columns = score.columns
        ranks = {n: -float(columns[1][columns[4] == n].mean()) for n in numbers}
    return VoiceLines.of(score, sorted(numbers, key=ranks.__getitem__))


def _sings_single_notes(score: Score, number: int) -> bool:
    """Return whether a part has one note at a time, with few exceptions."""
    onsets, _, durations = score.columns[:3, score.columns[4] == number]
    order = np.argsort(onsets, kind="stable")
    overlaps = (onsets + durations)[order][:-1] > onsets[order][1:]
    return int(overlaps.sum()) <= _MOST_SHARED_NOTES * len(onsets)


def measure_vocal_range(content: TuneContent) -> Ratio | None:
    """Measure the share of notes within the range of their voice; of choirs alone.

    Formula: notes in `find_voice_range` of the role over all notes.
    """
    voices = read_voices(content)
    ranges = [find_voice_range(part.role) for part in voices.parts] if voices else []
    if voices is None or not all(ranges) or not is_choir(voices.parts):
        return None
    lows, highs = np.array(ranges).T[:, :, None]
    is_inside = (lows <= voices.pitches) & (voices.pitches <= highs)
    return Ratio(float(is_inside[voices.starts].sum()), int(voices.starts.sum()))


def measure_crossings(content: TuneContent) -> Ratio | None:
    """Count the chords with crossed voices per 100 chord changes.

    Voices are crossed where a voice is below the one that ranks next below it. A chord counts once,
    however many of its voices are crossed, and again if it changes while they are.
    """
    if (voices := read_voices(content)) is None:
        return None
    is_crossed = _find_crossed(voices)
    return Ratio(PER_HUNDRED * int(is_crossed.sum()), voices.changes)


def _find_crossed(voices: VoiceLines) -> BoolArray:
    """Return which chords have crossed voices, (chord,) bool."""
    upper, lower = voices.pitches[:-1], voices.pitches[1:]
    is_crossed: BoolArray = ((upper < lower) & (upper != SILENT)).any(axis=0)
    return is_crossed


def measure_overlaps(content: TuneContent) -> Ratio | None:
    """Count the overlaps of neighbouring voices per 100 chord changes.

    Voices overlap where a voice moves above the note that the next higher voice has just left, or
    below that which the next lower voice has just left, without being crossed before or after.
    """
    if (voices := read_voices(content)) is None:
        return None
    upper, lower = voices.pitches[:-1], voices.pitches[1:]
    sings = ((upper != SILENT) & (lower != SILENT))[:, :-1] & ((upper >= lower)[:, :-1])
    sings &= (upper[:, 1:] != SILENT) & (lower[:, 1:] != SILENT) & (upper >= lower)[:, 1:]
    is_overlap = (lower[:, 1:] > upper[:, :-1]) | (upper[:, 1:] < lower[:, :-1])
    return Ratio(PER_HUNDRED * int((is_overlap & sings).sum()), voices.changes)


def measure_parallels(content: TuneContent, *, interval: int) -> Ratio | None:
    """Count the parallel fifths, or octaves and unisons, per 100 chord changes.

    Two voices are parallel where both move in the same direction from one chord to the next and are
    a perfect fifth apart (or an octave; or octaves more) before and after. Each pair of voices
    counts. Fifths and octaves by contrary motion, and by repeated notes, are not counted.
    """
    if (voices := read_voices(content)) is None:
        return None
    pitches, count = voices.pitches, 0
    for high, low in combinations(pitches, 2):
        both_sing = (high != SILENT) & (low != SILENT)
        is_apart = both_sing & ((high - low) % 12 == interval)
        moves = np.diff(high), np.diff(low)
        is_similar = moves[0] * moves[1] > 0
        count += int((is_apart[:-1] & is_apart[1:] & is_similar).sum())
    return Ratio(PER_HUNDRED * count, voices.changes)


def measure_leaps(content: TuneContent, *, rank: int | None = None) -> Ratio | None:
    """Measure the share of melodic intervals over a fifth; of all voices, or of one.

    Formula: intervals of more than LEAP semitones over intervals between the notes of a voice that
    follow each other without a rest.
    """
    voices = read_voices(content)
    if voices is None or (rank is not None and (rank >= len(voices.parts))):
        return None
    leaps, intervals = 0, 0
    ranks = range(len(voices.parts)) if rank is None else (rank,)
    for number in ranks:
        for before, after in _iter_moves(voices, number):
            leaps += abs(after - before) > LEAP
            intervals += 1
    return Ratio(leaps, intervals) if intervals else None


def _iter_moves(voices: VoiceLines, number: int) -> list[tuple[int, int]]:
    """Return the pitches before and after each note of a voice that follows another."""
    line, starts = voices.pitches[number], voices.starts[number]
    rows = np.flatnonzero(starts)
    rows = rows[(rows > 0)]
    before, after = line[rows - 1], line[rows]
    is_sung = before != SILENT
    return list(zip(before[is_sung].tolist(), after[is_sung].tolist(), strict=True))


def measure_doubled_leading_notes(content: TuneContent) -> Ratio | None:
    """Measure the share of leading notes that are doubled.

    Formula: chords in which the note a semitone below the tonic of the tune's key sounds in two or
    more voices, over chords in which it sounds.
    """
    if (voices := read_voices(content)) is None:
        return None
    leading_note = (voices.key.pitch_class - 1) % 12
    is_sung = (voices.pitches % 12 == leading_note) & (voices.pitches != SILENT)
    counts = is_sung.sum(axis=0)
    sounding = int((counts > 0).sum())
    return Ratio(int((counts > 1).sum()), sounding) if sounding else None


def measure_cadence(content: TuneContent, *, kind: CadenceKind) -> Ratio | None:
    """Measure the share of phrase ends that are cadences of a kind, as `name_cadence` tells them.

    A phrase ends at each fermata, and at the end of the tune.
    """
    if (voices := read_voices(content)) is None:
        return None
    kinds = [name_cadence(voices, index) for index in voices.phrase_ends.tolist()]
    return Ratio(kinds.count(kind), len(kinds))


def name_cadence(voices: VoiceLines, index: int) -> CadenceKind:
    """Name the cadence that ends on a chord, by the motion of the lowest voice.

    =========  ===================================================================================
    authentic  the bass rises a fourth or falls a fifth, from a chord with a major third above it,
               to the root of the chord: in any key
    half       the chord is the major triad on the fifth degree of the tune's key
    plagal     the bass rises a fifth or falls a fourth to the tonic of the tune's key
    deceptive  the bass rises a semitone or a tone, from a chord with a major third above it, to
               the root of the chord
    other      anything else
    =========  ===================================================================================

    Earlier rows come first. The chord before is all that sounds over the bass note before.
    """
    bass_line = voices.pitches[-1]
    bass = int(bass_line[index])
    earlier = [n for n in range(index) if bass_line[n] not in (SILENT, bass)]
    if bass == SILENT or not earlier:
        return "other"
    last = earlier[-1]
    before, first = int(bass_line[last]), last
    while first > 0 and bass_line[first - 1] == before:
        first -= 1
    had_third = any((before + 4) % 12 in voices.tones[n] for n in range(first, last + 1))
    tones, tonic = voices.tones[index], voices.key.pitch_class
    has_root = bool({(bass + 3) % 12, (bass + 4) % 12} & tones) or tones == {bass % 12}
    motion = (bass - before) % 12
    if motion == 5 and had_third and has_root:
        return "authentic"
    if bass % 12 == (tonic + 7) % 12 and (bass + 4) % 12 in tones:
        return "half"
    if motion == _FIFTH and bass % 12 == tonic:
        return "plagal"
    is_deceptive = motion in (1, 2) and bass > before and had_third and has_root
    return "deceptive" if is_deceptive else "other"


def measure_final_tonic(content: TuneContent) -> Ratio | None:
    """Measure the share of tunes that end on a chord over the tonic of their key."""
    if (voices := read_voices(content)) is None:
        return None
    return Ratio(int(voices.pitches[-1, -1] % 12 == voices.key.pitch_class))


@lru_cache(maxsize=4096)
def name_chord(tones: frozenset[int], bass: int) -> tuple[int, str] | None:
    """Name a chord by its pitch classes.

    Args:
        tones: pitch classes that sound.
        bass: the lowest of them, which is the root where several notes could be.

    Returns:
        Root and quality: a triad, a seventh chord, or one of them without its fifth; None for
        other sets of pitch classes.
    """
    for root in sorted(tones, key=lambda tone: (tone - bass) % 12):
        intervals = tuple(sorted((tone - root) % 12 for tone in tones))
        for quality, complete in _CHORD_TONES.items():
            if intervals in (complete, *_INCOMPLETE_CHORDS.get(quality, ())):
                return root, quality
    return None


@lru_cache(maxsize=1)
def _name_beats(content: TuneContent) -> tuple[list[tuple[int, str] | None], float] | None:
    """Return the chord on each beat, and the length of the tune in bars; None without voices."""
    if (voices := read_voices(content)) is None:
        return None
    bars = find_bars(content.score)
    beats = [step for bar in bars for step in range(bar.start, bar.end, bar.meter.beat_steps)]
    rows = np.searchsorted(voices.onsets, beats, side="right") - 1
    names = [
        name_chord(voices.tones[row], int(voices.pitches[-1, row]) % 12)
        for row in rows[rows >= 0].tolist()
        if voices.tones[row]
    ]
    return names, sum(bar.steps / bar.meter.steps for bar in bars)


def measure_named_chords(content: TuneContent) -> Ratio | None:
    """Measure the share of beats on which a triad or a seventh chord sounds (`name_chord`)."""
    beats = _name_beats(content)
    if beats is None or not beats[0]:
        return None
    return Ratio(sum(name is not None for name in beats[0]), len(beats[0]))


def measure_distinct_chords(content: TuneContent) -> Ratio | None:
    """Count the distinct named chords on the beats of a tune: root and quality; mean over tunes."""
    beats = _name_beats(content)
    return None if beats is None else Ratio(len(set(beats[0]) - {None}))


def measure_harmonic_rhythm(content: TuneContent) -> Ratio | None:
    """Measure the changes of the named chord from beat to beat, per bar; mean over tunes."""
    beats = _name_beats(content)
    if beats is None or not beats[1]:
        return None
    named = [name for name in beats[0] if name is not None]
    return Ratio(sum(before != after for before, after in pairwise(named)) / beats[1])


@lru_cache(maxsize=1)
def _read_symbols(content: TuneContent) -> tuple[IntArray, list[ChordSymbol | None]] | None:
    """Return the steps of the chord symbols, and the symbols; None without any."""
    marks = list(content.score.of("chord"))
    if not marks:
        return None
    steps = np.array([mark.onset for mark in marks], dtype=np.int64)
    return steps, [ChordSymbol.parse(mark.value) for mark in marks]


def measure_melody_in_chord(content: TuneContent) -> Ratio | None:
    """Measure the share of melody notes that belong to the chord symbol at their onset."""
    if (symbols := _read_symbols(content)) is None:
        return None
    rows = np.searchsorted(symbols[0], content.onsets, side="right") - 1
    fits, notes = 0, 0
    for row, pitch in zip(rows.tolist(), content.pitches.tolist(), strict=True):
        chord = symbols[1][row] if row >= 0 else None
        if chord is not None:
            notes += 1
            fits += (pitch - chord.root) % 12 in _SYMBOL_TONES[chord.quality]
    return Ratio(fits, notes) if notes else None


def measure_symbol_rhythm(content: TuneContent) -> Ratio | None:
    """Measure the chord symbols per bar that differ from the one before; mean over tunes."""
    if (symbols := _read_symbols(content)) is None:
        return None
    changes = 1 + sum(before != after for before, after in pairwise(symbols[1]))
    bars = sum(bar.bar.steps / bar.bar.meter.steps for bar in content.bars)
    return Ratio(changes / bars) if bars else None


def measure_distinct_symbols(content: TuneContent) -> Ratio | None:
    """Count the distinct chord symbols of a tune, without their bass; mean over tunes."""
    if (symbols := _read_symbols(content)) is None:
        return None
    return Ratio(len({(chord.root, chord.quality) for chord in symbols[1] if chord is not None}))


_PER_CHANGE: Final = "per 100 chord changes"
VOICE_LEADING_FIGURES: Final = (
    Definition("vocal_range", "notes in vocal range", PERCENT, measure_vocal_range),
    Definition("crossings", "voice crossings", _PER_CHANGE, measure_crossings),
    Definition("voice_overlaps", "voice overlaps", _PER_CHANGE, measure_overlaps),
    Definition("parallel_fifths", "parallel fifths", _PER_CHANGE,
               partial(measure_parallels, interval=_FIFTH)),
    Definition("parallel_octaves", "parallel octaves", _PER_CHANGE,
               partial(measure_parallels, interval=_OCTAVE)),
    Definition("leaps", "leaps over a fifth", PERCENT, measure_leaps),
    *(Definition(f"leaps_by_voice.{rank + 1}", f"leaps over a fifth, voice {rank + 1}", PERCENT,
                 partial(measure_leaps, rank=rank), is_detail=True)
      for rank in range(len(CHOIR_ROLES))),
    Definition("doubled_leading_notes", "doubled leading notes", PERCENT,
               measure_doubled_leading_notes),
    *(Definition(f"cadences.{kind}", f"cadences, {kind}", PERCENT,
                 partial(measure_cadence, kind=kind))
      for kind in CADENCES),
    Definition("final_tonic", "last chord over the tonic", PERCENT, measure_final_tonic),
    Definition("named_chords", "triads and sevenths on beats", PERCENT, measure_named_chords),
    Definition("distinct_chords", "distinct chords per tune", "", measure_distinct_chords),
    Definition("harmonic_rhythm", "chord changes per bar", "", measure_harmonic_rhythm),
    Definition("melody_in_chord", "melody notes in their chord", PERCENT, measure_melody_in_chord),
    Definition("symbol_rhythm", "chord symbols per bar", "", measure_symbol_rhythm),
    Definition("distinct_symbols", "distinct chord symbols per tune", "",
               measure_distinct_symbols),
)  # fmt: skip
