"""Where pitches stand on a staff: clefs, and the places of the drums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from musicgen.music.theory import SpelledPitch


@dataclass(frozen=True, slots=True)
class Clef:
    """A clef by its sign and line, and the octaves that it is read higher (1) or lower (-1)."""

    sign: str
    line: int
    octave: int = 0


TREBLE: Final = Clef("G", 2)
BASS: Final = Clef("F", 4)
TREBLE_BELOW: Final = Clef("G", 2, -1)
TREBLE_ABOVE: Final = Clef("G", 2, 1)
BASS_BELOW: Final = Clef("F", 4, -1)
PERCUSSION: Final = Clef("percussion", 3)

# The lowest and highest pitch without ledger lines, and how many ledger lines a note a clef that
# is read in another octave must save.
_RANGES: Final = (
    (TREBLE, 62, 79, 0.0),
    (BASS, 41, 60, 0.0),
    (TREBLE_BELOW, 50, 67, 0.9),
    (BASS_BELOW, 29, 48, 1.5),
    (TREBLE_ABOVE, 74, 91, 1.8),
)
_SEMITONES_A_LINE: Final = 3.5


def clef_of(pitches: Iterable[int]) -> Clef:
    """Choose the clef that needs the fewest ledger lines; the treble clef where nothing sounds."""
    sounding = list(pitches)
    if not sounding:
        return TREBLE

    def cost(row: tuple[Clef, int, int, float]) -> float:
        _, low, high, price = row
        away = sum(max(0, low - pitch, pitch - high) for pitch in sounding)
        return price + away / _SEMITONES_A_LINE / len(sounding)

    return min(_RANGES, key=cost)[0]


@dataclass(frozen=True, slots=True)
class Drum:
    """Where a drum is written, as if in the treble clef, and whether its head is a cross."""

    place: SpelledPitch
    is_cross: bool = False


def _drums(text: str) -> dict[int, Drum]:
    """Read lines of a place, with x for a cross, and the drums that stand there."""
    found = {}
    for line in text.split(";"):
        place, *numbers = line.split()
        pitch = SpelledPitch(place[0], 0, int(place[1]))
        found.update({int(number): Drum(pitch, place.endswith("x")) for number in numbers})
    return found


# General MIDI's drums, as the Percussive Arts Society's guide and drum books place them.
DRUMS: Final = _drums(
    "F4 35 36; C5 38 40; C5x 37 39; A4 43; F4x 64; G4 41; B4 45; D5 47; E5 48; F5 50;"
    "D4x 44; G5x 42 46; A5x 49 52 57; F5x 51 53 59; B5x 55; E5x 56; D5x 54; C5x 75 76 77"
)
_ELSEWHERE: Final = Drum(SpelledPitch("E", 0, 5), is_cross=True)


def drum_of(pitch: int) -> Drum:
    """Return where a drum of General MIDI is written; what it does not name is a cross above."""
    return DRUMS.get(pitch, _ELSEWHERE)
