"""The voices of a score, from the highest to the lowest, and the cadences at its phrase ends.

A score is for voices if it has 2 to MAX_VOICES parts with notes, none of them drums, each of which
sings one note at a time; the highest note stands for a chord in a voice. Voices are ranked from the
highest to the lowest: soprano, alto, tenor and bass by their roles, other parts by their mean
pitch. A chord is what sounds at an onset of any voice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np

from musicgen.music.arrays import BoolArray, IntArray, unique_sorted
from musicgen.music.roles import assign_roles, is_choir
from musicgen.music.score import CHOIR_ROLES, Part, Score
from musicgen.music.theory import Key

MAX_VOICES: Final = 8
SILENT: Final = -1  # in place of a pitch
_MOST_SHARED_NOTES: Final = 0.05  # of a voice that sings one note at a time
_FIFTH: Final = 7  # semitones

CadenceKind = Literal["authentic", "half", "plagal", "deceptive", "other"]
CADENCES: Final[tuple[CadenceKind, ...]] = ("authentic", "half", "plagal", "deceptive", "other")


@dataclass(frozen=True, eq=False)
class VoiceLines:
    """The voices of a tune, from the highest to the lowest, at each onset of any of them."""

    parts: tuple[Part, ...]  # (voice,)
    key: Key
    onsets: IntArray  # (chord,) steps
    pitches: IntArray  # (voice, chord) MIDI note numbers, or SILENT
    starts: BoolArray  # (voice, chord) whether a note starts
    fermatas: IntArray  # (fermata,) indexes of the chords at fermatas

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
        fermatas = _find_fermatas(score, onsets)
        parts = tuple(score.parts[number] for number in numbers)
        return cls(parts, score.key, onsets, pitches, starts, fermatas)

    @property
    def phrase_ends(self) -> IntArray:
        """(phrase,) int64 indexes of the chords at fermatas, and of the last chord."""
        return unique_sorted(np.append(self.fermatas, len(self.onsets) - 1))

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


def _find_fermatas(score: Score, onsets: IntArray) -> IntArray:
    """Return the indexes of the chords at fermatas, (fermata,)."""
    fermatas = np.array([mark.onset for mark in score.of("fermata")], dtype=np.int64)
    chords = np.searchsorted(onsets, fermatas, side="right") - 1
    return chords[chords >= 0]


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


def read_voice_lines(score: Score) -> VoiceLines | None:
    """Return the voices of a score; None if it is not for voices, or has notes in one part only."""
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
