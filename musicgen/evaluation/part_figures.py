"""Figures of music of several parts: instruments, bass and drums, consonance, density.

A tune has them if two or more of its parts have notes, and not all of these are drums. The role of
a part is the one that it has, or else the likeliest (`music.roles`). Each tune weighs the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Final

import numpy as np

from musicgen.evaluation.figures import PERCENT, Definition, Ratio
from musicgen.music.arrays import BoolArray, IntArray, ragged_arange, unique_sorted
from musicgen.music.general_midi import KIT_GROUP_BY_KEY, KIT_GROUPS
from musicgen.music.instrument_ranges import find_range
from musicgen.music.notes import NoteColumns
from musicgen.music.roles import assign_roles
from musicgen.music.score import Part
from musicgen.music.tune_content import TuneContent

PITCHED_ROLES: Final = ("melody", "bass", "chords", "pad")
KICK: Final = KIT_GROUPS.index("kick")
KIT_GROUP_TABLE: Final[IntArray] = np.array(KIT_GROUP_BY_KEY)  # (128,) indexes of KIT_GROUPS
CONSONANT_INTERVALS: Final = (0, 3, 4, 7, 8, 9)  # semitones modulo an octave
_IS_CONSONANT: Final[BoolArray] = np.isin(np.arange(12), CONSONANT_INTERVALS)
_NO_PITCH: Final = 128  # above all pitches


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The notes of a tune by part; pitched notes as they sound together."""

    parts: tuple[Part, ...]  # with roles
    notes: NoteColumns  # (5, note) int64, of the parts that are not drums
    hits: NoteColumns  # (5, hit) int64, of drums
    end: int  # steps

    @classmethod
    def of(cls, content: TuneContent) -> Arrangement:
        """Read the parts of a tune."""
        score = content.score
        if not all(part.role for part in score.parts):
            score = assign_roles(score)
        is_drums = np.array([part.is_drums for part in score.parts])[score.columns[4]]
        return cls(score.parts, score.columns[:, ~is_drums], score.columns[:, is_drums], score.end)

    def has_role(self, role: str) -> BoolArray:
        """Return which of the pitched notes belong to parts of a role, (note,) bool."""
        is_in_role = np.array([part.role == role for part in self.parts])
        mask: BoolArray = is_in_role[self.notes[4]]
        return mask

    @cached_property
    def sounding(self) -> SoundingNotes:
        """Which pitched notes sound when."""
        return SoundingNotes.of(self.notes)


@dataclass(frozen=True, eq=False)
class SoundingNotes:
    """The notes that sound in each span of time in which no note starts or ends."""

    lengths: IntArray  # (span,) steps
    spans: IntArray  # (pair,) indexes of spans
    rows: IntArray  # (pair,) indexes of the notes that sound in them

    @classmethod
    def of(cls, notes: NoteColumns) -> SoundingNotes:
        """Divide the time of notes, (5, note) int64, where they start and end."""
        onsets, ends = notes[0], notes[0] + notes[2]
        edges = unique_sorted(np.concatenate([onsets, ends]))
        firsts = np.searchsorted(edges, onsets)
        counts = np.searchsorted(edges, ends) - firsts
        rows = np.repeat(np.arange(len(onsets)), counts)
        return cls(np.diff(edges), firsts[rows] + ragged_arange(counts), rows)


@lru_cache(maxsize=1)  # all figures of a tune are measured before those of the next
def read_arrangement(content: TuneContent) -> Arrangement | None:
    """Return the parts of a tune; None if only one part, or only drums, have notes."""
    if len(content.score.parts) < 2 or not content.has_melody:
        return None
    part_count = len(unique_sorted(content.score.columns[4]))
    return Arrangement.of(content) if part_count > 1 else None


def count_bars(content: TuneContent) -> float:
    """Return the length of a tune in bars of its meters."""
    return sum(bar.bar.steps / bar.bar.meter.steps for bar in content.bars)


def measure_part_count(content: TuneContent) -> Ratio | None:
    """Count the parts that have notes."""
    arrangement = read_arrangement(content)
    return Ratio(len(unique_sorted(content.score.columns[4]))) if arrangement else None


def measure_notes_in_range(content: TuneContent) -> Ratio | None:
    """Measure the share of notes within the sounding range of their instrument.

    Formula: notes in range over the notes of instruments that have one (`find_range`).
    """
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    ranges = [find_range(part.program) for part in arrangement.parts]
    limits = np.array([span or (_NO_PITCH, -1) for span in ranges])
    lows, highs = limits[arrangement.notes[4]].T
    has_range, pitches = lows <= highs, arrangement.notes[1]
    is_inside = (lows <= pitches) & (pitches <= highs)
    return Ratio(float(is_inside[has_range].mean())) if has_range.any() else None


def measure_exact_bars(content: TuneContent) -> Ratio | None:
    """Measure the share of bars as long as their meter; bar lines are those of all parts.

    A pickup, and the short bar that completes it, are exact.
    """
    if read_arrangement(content) is None or not content.bars:
        return None
    return Ratio(sum(bar.bar.kind != "irregular" for bar in content.bars) / len(content.bars))


def measure_bass_with_drums(content: TuneContent, *, kick_only: bool) -> Ratio | None:
    """Measure the share of bass onsets at which a drum is hit.

    Formula: distinct onsets of the bass at which a drum (or a kick drum) starts, over distinct
    onsets of the bass; None for tunes without bass, or without such a drum.
    """
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    is_counted = KIT_GROUP_TABLE[arrangement.hits[1]] == KICK
    drums = arrangement.hits[0][is_counted] if kick_only else arrangement.hits[0]
    bass = unique_sorted(arrangement.notes[0][arrangement.has_role("bass")])
    return Ratio(float(np.isin(bass, drums).mean())) if len(bass) and len(drums) else None


def measure_consonance(content: TuneContent) -> Ratio | None:
    """Measure the share of sounding time in which notes are consonant with the bass below them.

    Formula: time of the notes of the other pitched parts at a unison, third, fifth or sixth (or
    octaves more) above the lowest bass note that sounds, over the time of those at any interval
    above it. A fourth above the bass is a dissonance, as in counterpoint (Fux, "Gradus ad
    Parnassum", 1725).
    """
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    sounding, pitches = arrangement.sounding, arrangement.notes[1]
    is_bass = arrangement.has_role("bass")[sounding.rows]
    bass_line = np.full(len(sounding.lengths), _NO_PITCH)
    np.minimum.at(bass_line, sounding.spans[is_bass], pitches[sounding.rows[is_bass]])
    spans, rows = sounding.spans[~is_bass], sounding.rows[~is_bass]
    intervals = pitches[rows] - bass_line[spans]
    is_above = intervals >= 0
    times = sounding.lengths[spans[is_above]]
    consonant_time = times[_IS_CONSONANT[intervals[is_above] % 12]].sum()
    return Ratio(float(consonant_time / times.sum())) if len(times) else None


def measure_polyphony(content: TuneContent) -> Ratio | None:
    """Measure the mean number of pitches that sound at once, while any does; without drums.

    Source: polyphony of MusPy (Dong et al., 2020).
    """
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    sounding = arrangement.sounding
    pitches = arrangement.notes[1][sounding.rows]
    spans = unique_sorted(sounding.spans * _NO_PITCH + pitches) // _NO_PITCH
    time = sounding.lengths[unique_sorted(spans)].sum()
    return Ratio(float(sounding.lengths[spans].sum() / time)) if time else None


def measure_silence(content: TuneContent) -> Ratio | None:
    """Measure the share of the tune in which a pitched part is silent, mean over its parts."""
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    sounding, count = arrangement.sounding, len(arrangement.parts)
    keys = unique_sorted(sounding.spans * count + arrangement.notes[4][sounding.rows])
    times = np.bincount(keys % count, sounding.lengths[keys // count])
    heard = times[unique_sorted(arrangement.notes[4])]
    return Ratio(float(1 - heard.mean() / arrangement.end)) if len(heard) else None


def measure_density(content: TuneContent, *, role: str) -> Ratio | None:
    """Measure the notes per bar of all parts of a role; None where no part has it."""
    arrangement = read_arrangement(content)
    if arrangement is None:
        return None
    count, bars = int(arrangement.has_role(role).sum()), count_bars(content)
    return Ratio(count / bars) if count and bars else None


PART_FIGURES: Final = (
    Definition("parts_per_tune", "parts per tune", "", measure_part_count),
    Definition("notes_in_range", "notes in instrument range", PERCENT, measure_notes_in_range),
    Definition("exact_bars", "bars as long as the meter", PERCENT, measure_exact_bars),
    Definition("bass_with_kick", "bass notes with a kick drum", PERCENT,
               partial(measure_bass_with_drums, kick_only=True)),
    Definition("bass_with_drums", "bass notes with any drum", PERCENT,
               partial(measure_bass_with_drums, kick_only=False)),
    Definition("consonance_with_bass", "consonance with the bass", PERCENT, measure_consonance),
    Definition("polyphony", "pitches at once", "", measure_polyphony),
    Definition("silence_per_part", "silence of a part", PERCENT, measure_silence),
    *(Definition(f"notes_per_bar.{role}", f"notes per bar, {role}", "",
                 partial(measure_density, role=role))
      for role in PITCHED_ROLES),
)  # fmt: skip
