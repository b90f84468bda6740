"""Part writing of choirs: rules that a voice keeps where it is drawn, as it keeps its range.

A voice sings one note at a time. It does not cross another one that is written before it in the
bar, does not move with it in parallel fifths, octaves or unisons, and does not leap by a seventh or
by more than an octave. So nothing is drawn and thrown away. Where no note is left, a voice may
leap; where none is left then, it may move in parallel; after that, the rules are silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from musicgen.music.score import CHOIR_ROLES, DEFAULT_VELOCITY, Part
from musicgen.sampling.generation_state import GenerationState
from musicgen.tokens.codec import PLAIN_SETTING, Setting
from musicgen.tokens.measures import SoundingChord, read_chords
from musicgen.tokens.vocabulary import MEASURES

FORBIDDEN_PARALLELS: Final = (0, 7)  # semitones modulo an octave
SEVENTHS: Final = (10, 11)  # semitones
OCTAVE: Final = 12
_HOLD: Final = MEASURES.id("hold")
_PITCHES, _VOICES = MEASURES.ranges["pitch"], MEASURES.ranges["voice"]
_TONIC: Final = PLAIN_SETTING.tonic_pitch - MEASURES.id("pitch", 0)  # added to an id: its pitch


@dataclass(frozen=True, slots=True)
class PartWriting:
    """The rules of part writing for the voices of a choir."""

    setting: Setting  # with the parts, in any key
    ranks: tuple[int, ...]  # by part: 0 for the highest voice

    @classmethod
    def of(cls, parts: Sequence[Part]) -> PartWriting:
        """Return the rules for parts that are all voices."""
        velocities = (DEFAULT_VELOCITY,) * len(parts)
        setting = replace(PLAIN_SETTING, parts=tuple(parts), velocities=velocities)
        return cls(setting, tuple(CHOIR_ROLES.index(part.role) for part in parts))

    def restrict(self, generation: GenerationState, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return the legal ids that keep the rules."""
        walk = generation.walk
        part, voice = walk.voice
        if not walk.in_bar:
            return legal
        if walk.duration is None:
            return (
                tuple(id_ for id_ in legal if id_ not in _PITCHES and id_ not in _VOICES) or legal
            )
        if voice:
            return legal
        chords, start = self._read_bar(generation)
        span = start, start + walk.duration_steps
        own = _find_before(chords, part, start)
        others = [
            _Neighbor.find(chords, number, span, is_above=self.ranks[number] < self.ranks[part])
            for number in range(part)
            if self.ranks[number] != self.ranks[part]
        ]
        pitches = {id_: _to_pitch(id_, own) for id_ in legal}
        uncrossed = [i for i in legal if not any(o.is_crossed(pitches[i]) for o in others)]
        kept = [i for i in uncrossed if not any(o.is_parallel(own, pitches[i]) for o in others)]
        near = [i for i in kept if not _is_forbidden_leap(own, pitches[i])]
        return next(
            (tuple(ids) for ids in (near, kept, uncrossed) if any(map(_sounds, ids))), legal
        )

    def _read_bar(self, generation: GenerationState) -> tuple[list[SoundingChord], int]:
        """Return the chords of the bar, and the last ones before it, in steps from its start."""
        first = generation.bar_start
        held = _find_last_chords(tuple(generation.ids[1:first]), self.setting)
        return read_chords(generation.ids[first - 1 :], self.setting, map(copy, held))


@lru_cache(maxsize=64)
def _find_last_chords(ids: tuple[int, ...], setting: Setting) -> tuple[SoundingChord, ...]:
    """Return the chords that end where a bar starts, in steps from there; ids up to its opening."""
    chords, start = read_chords(ids, setting)
    return tuple(
        replace(chord, onset=chord.onset - start, end=0) for chord in chords if chord.end == start
    )


@dataclass(frozen=True, slots=True)
class _Neighbor:
    """What another voice sings while a note of the drawn voice would sound."""

    is_above: bool
    before: int | None  # pitch just before the note
    now: int | None  # pitch at its start
    lowest: int | None  # pitches while it lasts
    highest: int | None

    @classmethod
    def find(
        cls, chords: Sequence[SoundingChord], part: int, span: tuple[int, int], *, is_above: bool
    ) -> _Neighbor:
        """Find it in the chords so far, at a span of steps."""
        start, end = span
        heard = [c for c in chords if c.part == part and c.onset < end and c.end > start]
        now = next((c.pitches[0] for c in heard if c.onset <= start), None)
        pitches = [c.pitches[0] for c in heard]
        before = _find_before(chords, part, start)
        return cls(is_above, before, now, min(pitches, default=None), max(pitches, default=None))

    def is_crossed(self, pitch: int | None) -> bool:
        """Return whether a note of the drawn voice crosses the voice."""
        if pitch is None or self.lowest is None or self.highest is None:
            return False
        return pitch > self.lowest if self.is_above else pitch < self.highest

    def is_parallel(self, before: int | None, pitch: int | None) -> bool:
        """Return whether both voices move in parallel, the drawn one from `before` to a pitch."""
        if before is None or pitch is None or self.before is None or self.now is None:
            return False
        if (pitch - before) * (self.now - self.before) <= 0:
            return False
        sign = 1 if self.is_above else -1
        interval = sign * (self.now - pitch) % 12
        return interval in FORBIDDEN_PARALLELS and interval == sign * (self.before - before) % 12


def _find_before(chords: Sequence[SoundingChord], part: int, step: int) -> int | None:
    """Return the pitch of a part just before a step; None after a rest."""
    return next(
        (c.pitches[0] for c in reversed(chords) if c.part == part and c.onset < step <= c.end), None
    )


def _is_forbidden_leap(before: int | None, pitch: int | None) -> bool:
    """Return whether a voice leaps by a seventh or by more than an octave between two pitches."""
    if before is None or pitch is None:
        return False
    leap = abs(pitch - before)
    return leap in SEVENTHS or leap > OCTAVE


def _to_pitch(id_: int, held: int | None) -> int | None:
    """Return the MIDI note number that an id sings; None for a rest."""
    return held if id_ == _HOLD else id_ + _TONIC if id_ in _PITCHES else None


def _sounds(id_: int) -> bool:
    return id_ == _HOLD or id_ in _PITCHES
