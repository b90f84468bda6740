"""Roles of parts: melody, bass, chords, pad or drums, from names, instruments and notes.

The voices of a choir are known by their names alone: soprano, alto, tenor, bass.

A part scores points for each role by RULES, a table of features and ranges, by NAME_WORDS and by
PROGRAM_POINTS. The confidence in a role is the share of its exponentiated points (softmax).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Final, Literal

import numpy as np

from musicgen.music.arrays import IntArray, find_median, unique_sorted
from musicgen.music.notes import NoteColumns
from musicgen.music.score import (
    CHOIR_ROLES,
    STEPS_PER_QUARTER,
    UPPER_VOICE_ROLES,
    Part,
    Score,
)

RoleName = Literal["melody", "bass", "chords", "pad", "drums"]
ROLES: Final[tuple[RoleName, ...]] = ("melody", "bass", "chords", "pad", "drums")
FeatureName = Literal[
    "pitch", "chord_size", "voices", "density", "duration", "steps", "leaps", "coverage"
]

CHOIR_PROGRAM: Final = 52  # choir aahs, of voices without an instrument
# Mean MIDI note numbers of the voices in 365 chorales by Bach
_VOICE_PITCHES: Final = {"soprano": 70.5, "alto": 65.0, "tenor": 59.4, "bass": 50.9}
_SOFTNESS: Final = 1.5  # points that make a role e times as likely
_DRUM_POINTS: Final = 30.0
_STEP, _LEAP = 2, 7  # semitones: intervals up to a step, and over a fifth
_MAX_VOICES: Final = 20.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Points for a role if a feature of a part is in a range."""

    role: RoleName
    feature: FeatureName
    low: float
    high: float
    points: float


RULES: Final = (
    # one note at a time, in the range of a voice, mostly in steps, with rests between phrases
    Rule("melody", "chord_size", 1, 1.05, 2),
    Rule("melody", "voices", 1, 1.15, 1),
    Rule("melody", "pitch", 60, 84, 2),
    Rule("melody", "steps", 0.45, 1, 2),
    Rule("melody", "leaps", 0, 0.1, 1),
    Rule("melody", "coverage", 0.4, 0.9, 1),
    Rule("melody", "density", 0.5, 4, 1),
    # one low note at a time
    Rule("bass", "pitch", 0, 47, 5),
    Rule("bass", "pitch", 47, 52, 2),
    Rule("bass", "chord_size", 1, 1.15, 2),
    Rule("bass", "voices", 1, 1.3, 1),
    # several notes at once, or broken chords that sound together, below a melody
    Rule("chords", "chord_size", 1.3, _MAX_VOICES, 2),
    Rule("chords", "voices", 1.7, _MAX_VOICES, 2),
    Rule("chords", "pitch", 46, 72, 1),
    Rule("chords", "density", 0.6, 16, 2),
    Rule("chords", "duration", 0, 95, 1),
    Rule("chords", "leaps", 0.2, 1, 1),
    # long notes, mostly several at once
    Rule("pad", "duration", 96, 10**6, 4),
    Rule("pad", "density", 0, 0.6, 2),
    Rule("pad", "voices", 1.5, _MAX_VOICES, 2),
    Rule("pad", "coverage", 0.5, 1, 1),
)
# Beginnings of words in the names of parts.
NAME_WORDS: Final[Mapping[str, tuple[RoleName, float]]] = {
    "melod": ("melody", 12), "lead": ("melody", 12), "vocal": ("melody", 12),
    "voice": ("melody", 12), "vox": ("melody", 12), "sing": ("melody", 8),
    "bridge": ("melody", -8), "harmon": ("melody", -4), "backing": ("melody", -8),
    "bass": ("bass", 12), "contrabass": ("bass", 12), "chord": ("chords", 8),
    "piano": ("chords", 3), "guitar": ("chords", 2), "rhythm": ("chords", 4),
    "keys": ("chords", 3), "organ": ("chords", 2), "pad": ("pad", 8), "string": ("pad", 4),
    "choir": ("pad", 3), "drum": ("drums", 10), "percussion": ("drums", 10), "kit": ("drums", 6),
}  # fmt: skip
# First and last General MIDI program, and the points of its part.
PROGRAM_POINTS: Final[Sequence[tuple[int, int, RoleName, float]]] = (
    (0, 7, "chords", 1), (16, 20, "chords", 1), (24, 31, "chords", 1), (32, 39, "bass", 8),
    (40, 41, "melody", 1), (43, 43, "bass", 3), (48, 52, "pad", 2), (53, 54, "melody", 1),
    (56, 56, "melody", 1), (58, 58, "bass", 3), (64, 79, "melody", 1), (80, 87, "melody", 1),
    (88, 95, "pad", 3), (113, 119, "drums", 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Role:
    """The likeliest role of a part."""

    name: RoleName
    confidence: float  # 0..1
    melody: float  # confidence that the part is the melody, 0..1


def measure_features(notes: NoteColumns, end: int) -> dict[FeatureName, float]:
    """Measure what the rules look at.

    Args:
        notes: (5, note) int64 columns of one part, in order of onset; at least one note.
        end: step at which the score ends.

    Returns:
        pitch: mean MIDI note number. chord_size: notes per onset. voices: mean number of notes
        that sound together. density: onsets per quarter note in which the part sounds. duration:
        median, in steps. steps, leaps: shares of the intervals of the top line of up to 2, and of
        over 7 semitones. coverage: share of the score in which the part sounds.
    """
    onsets, pitches, durations = notes[0], notes[1], notes[2]
    starts = unique_sorted(onsets)
    sounding = _count_sounding_steps(onsets, onsets + durations)
    top = np.maximum.reduceat(pitches, np.searchsorted(onsets, starts))
    intervals = np.abs(np.diff(top)) if len(top) > 1 else np.array([_STEP + 1])
    return {
        "pitch": float(pitches.mean()),
        "chord_size": len(onsets) / len(starts),
        "voices": float(durations.sum() / sounding),
        "density": len(starts) * STEPS_PER_QUARTER / sounding,
        "duration": find_median(durations),
        "steps": float((intervals <= _STEP).mean()),
        "leaps": float((intervals > _LEAP).mean()),
        "coverage": sounding / max(end, 1),
    }


def _count_sounding_steps(starts: IntArray, ends: IntArray) -> int:
    """Return in how many steps at least one note sounds; starts ascend."""
    covered = np.maximum.accumulate(ends)
    return int(np.maximum(ends - np.maximum(starts, np.append(0, covered[:-1])), 0).sum())


def find_role(part: Part, notes: NoteColumns, end: int) -> Role:
    """Find the role of a part.

    Args:
        part: its name and instrument.
        notes: (5, note) int64 columns of its notes, in order of onset.
        end: step at which the score ends.
    """
    points = dict.fromkeys(ROLES, 0.0)
    if notes.shape[1]:
        features = measure_features(notes, end)
        for rule in RULES:
            points[rule.role] += rule.points * (rule.low <= features[rule.feature] <= rule.high)
    for role, bonus in _iter_bonuses(part):
        points[role] += bonus
    weights = np.exp((np.array(list(points.values())) - max(points.values())) / _SOFTNESS)
    shares = dict(zip(ROLES, (weights / weights.sum()).tolist(), strict=True))
    best = max(ROLES, key=shares.__getitem__)
    return Role(best, shares[best], shares["melody"])


def _iter_bonuses(part: Part) -> list[tuple[RoleName, float]]:
    """Return the points of an instrument and of the words of a name."""
    if part.is_drums:
        return [("drums", _DRUM_POINTS)]
    programs = [
        (role, n) for first, last, role, n in PROGRAM_POINTS if first <= part.program <= last
    ]
    return [*_find_name_bonuses(part.name), *programs]


@lru_cache(maxsize=1024)
def _find_name_bonuses(name: str) -> tuple[tuple[RoleName, float], ...]:
    words = re.findall("[a-z]+", name.lower())
    return tuple(
        bonus for start, bonus in NAME_WORDS.items() if any(w.startswith(start) for w in words)
    )


def is_named_melody(part: Part) -> bool:
    """Return whether the name of a part says that it is the melody, more than anything else."""
    points = dict.fromkeys(ROLES, 0.0)
    for role, bonus in _find_name_bonuses(part.name):
        points[role] += bonus
    return not part.is_drums and points["melody"] > max(0.0, *list(points.values())[1:])


def find_roles(score: Score) -> tuple[Role, ...]:
    """Find the role of each part of a score."""
    columns = score.columns
    return tuple(
        find_role(part, columns[:, columns[4] == index], score.end)
        for index, part in enumerate(score.parts)
    )


def assign_roles(score: Score) -> Score:
    """Return a score of several parts, or of drums, with the likeliest role of each part.

    A role that a part has stays. The only part of a score needs none, unless it is drums. Parts
    without names, instruments and drums, such as the voices of an ABC tune, have none either.
    """
    if not has_described_parts(score.parts):
        return score
    if is_choir(score.parts):
        return replace(score, parts=tuple(map(_assign_voice_role, score.parts)))
    parts = zip(score.parts, find_roles(score), strict=True)
    return replace(
        score, parts=tuple(replace(part, role=part.role or role.name) for part, role in parts)
    )


def is_choir(parts: Sequence[Part]) -> bool:
    """Return whether all parts are voices of a choir, by role or else by name."""
    names = list(map(get_voice_role, parts))
    is_voiced = len(parts) > 1 and all(name in CHOIR_ROLES for name in names)
    return is_voiced and any(name in UPPER_VOICE_ROLES for name in names)


def get_voice_role(part: Part) -> str:
    """Return the role that a part of a choir has, or that its name says."""
    return part.role or part.name.strip().lower()


def _assign_voice_role(part: Part) -> Part:
    return replace(part, role=get_voice_role(part), program=part.program or CHOIR_PROGRAM)


def assign_voices(score: Score) -> Score:
    """Return a score whose parts are voices of a choir: by their roles or names, else by pitch.

    Voices without such a role or name get those that are left and fit their mean pitches best, the
    higher one the higher role. More than four parts, or drums, are no choir, and stay.
    """
    parts, columns = score.parts, score.columns
    numbers = [n for n, part in enumerate(parts) if get_voice_role(part) not in CHOIR_ROLES]
    left = [role for role in CHOIR_ROLES if role not in map(get_voice_role, parts)]
    if len(numbers) > len(left) or any(part.is_drums for part in parts):
        return score
    pitches = {n: float(columns[1][columns[4] == n].mean()) for n in numbers if n in columns[4]}
    ranked = sorted(numbers, key=lambda n: -pitches.get(n, 0.0))

    def measure_misfit(roles: Sequence[str]) -> float:
        usual = [_VOICE_PITCHES[role] for role in roles]
        return sum(abs(pitches.get(n, u) - u) for n, u in zip(ranked, usual, strict=True))

    chosen_roles = min(combinations(left, len(ranked)), key=measure_misfit)
    chosen = dict(zip(ranked, chosen_roles, strict=True))
    return replace(
        score,
        parts=tuple(
            replace(part, role=chosen.get(n, get_voice_role(part)), program=CHOIR_PROGRAM)
            for n, part in enumerate(parts)
        ),
    )


def has_described_parts(parts: Sequence[Part]) -> bool:
    """Tell whether parts differ in more than their notes: by role, name, instrument or drums."""
    if len(parts) == 1:
        return parts[0].is_drums
    return any(part.role or part.name or part.program or part.is_drums for part in parts)


def find_melody_part(score: Score) -> int | None:
    """Return the part that is most likely the melody; None if no part but drums has notes.

    A part that is named so comes first. Of equally likely parts, the one with the highest mean
    pitch is returned.
    """
    columns = score.columns
    candidates = [
        index for index in np.unique(columns[4]).tolist() if not score.parts[index].is_drums
    ]
    if not candidates:
        return None
    roles = find_roles(score)
    pitches = {part: float(columns[1][columns[4] == part].mean()) for part in candidates}
    ranked = {
        part: (
            is_named_melody(score.parts[part]),
            round(roles[part].melody, 6),
            pitches[part],
            -part,
        )
        for part in candidates
    }
    return int(max(ranked, key=ranked.__getitem__))
