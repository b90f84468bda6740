"""Figures of voice leading and harmony: ranges, crossings, parallels, cadences, chord symbols.

A tune has the figures of voices if it is for voices, as `musicgen.music.voice_lines` tells. A chord
is what sounds at an onset of any voice; it changes where a voice takes another pitch. Figures per
100 chord changes are sums over all tunes, so that a long tune weighs more than a short one. A tune
has the figures of chord symbols if it has chord symbols.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import combinations, pairwise
from typing import Final

import numpy as np

from musicgen.evaluation.figures import PERCENT, Definition, Ratio
from musicgen.music.arrays import BoolArray, IntArray
from musicgen.music.bars import find_bars
from musicgen.music.instrument_ranges import find_voice_range
from musicgen.music.roles import is_choir
from musicgen.music.score import CHOIR_ROLES
from musicgen.music.theory import ChordSymbol
from musicgen.music.tune_content import TuneContent
from musicgen.music.voice_lines import (
    CADENCES,
    SILENT,
    CadenceKind,
    VoiceLines,
    name_cadence,
    read_voice_lines,
)

PER_HUNDRED: Final = 100
LEAP: Final = 7  # semitones: larger intervals are leaps
_FIFTH, _OCTAVE = 7, 0  # semitones modulo an octave

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


@lru_cache(maxsize=1)  # all figures of a tune are measured before those of the next
def read_voices(content: TuneContent) -> VoiceLines | None:
    """Return the voices of a tune; None if it is not for voices."""
    return read_voice_lines(content.score)


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
