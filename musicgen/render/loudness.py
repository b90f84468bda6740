"""The loudness of parts: gains that bring each part to the level of its role.

The level of a part is the root mean square of its notes while they sound, estimated from the first
second of each note. A part alone keeps its level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from musicgen.music.accompaniment import is_accompaniment
from musicgen.music.arrays import FloatArray
from musicgen.music.score import UPPER_VOICE_ROLES, Part
from musicgen.render.timeline import SoundingNote

ROLE_DECIBELS: Final[Mapping[str, float]] = {  # relative to the melody
    "melody": 0.0, "": -2.0, "bass": -3.0, "drums": -4.0, "chords": -6.0, "pad": -9.0,
    **dict.fromkeys(UPPER_VOICE_ROLES, 0.0),
}  # fmt: skip
ACCOMPANIMENT_DECIBELS: Final = -8.0  # of the parts that `accompany` adds, to all other parts
MEASURED_SECONDS: Final = 1.0  # of a note
_WIDEST_GAIN: Final = 8.0  # between a part and the geometric mean of all: 18 dB
_SILENCE: Final = 1e-12


def find_part_gains(parts: Sequence[Part], energies: FloatArray, seconds: FloatArray) -> FloatArray:
    """Return the gain of each part; all are 1 if at most one part sounds.

    Args:
        parts: of a score.
        energies: (part,) float64 sum of squares of the samples of its notes, per channel.
        seconds: (part,) float64 time in which the part sounds.

    Returns:
        (part,) float64 amplitude factors, whose geometric mean over the sounding parts is about 1.
    """
    gains = np.ones(len(parts))
    sounding = np.flatnonzero((energies > _SILENCE) & (seconds > 0))
    if len(sounding) < 2:
        return gains
    levels = np.sqrt(energies[sounding] / seconds[sounding])
    decibels = np.array([_find_decibels(parts[number]) for number in sounding.tolist()])
    wanted = 10 ** (decibels / 20) / levels
    wanted /= np.exp(np.log(wanted).mean())
    gains[sounding] = np.clip(wanted, 1 / _WIDEST_GAIN, _WIDEST_GAIN)
    return gains


def _find_decibels(part: Part) -> float:
    if is_accompaniment(part):
        return ACCOMPANIMENT_DECIBELS
    return ROLE_DECIBELS["drums" if part.is_drums and not part.role else part.role]


def count_sounding_seconds(sounds: Iterable[SoundingNote]) -> float:
    """Return for how long at least one of some notes sounds, each counted to MEASURED_SECONDS."""
    total, reached = 0.0, 0.0
    for sound in sorted(sounds, key=lambda sound: sound.start):
        stop = sound.start + min(sound.length, MEASURED_SECONDS)
        total += max(0.0, stop - max(sound.start, reached))
        reached = max(reached, stop)
    return total
