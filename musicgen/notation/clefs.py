"""Positions of pitches on a staff: clefs, and the notation of drums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from musicgen.music.theory import SpelledPitch


@dataclass(frozen=True, slots=True)
class Clef:
    """A clef."""

    sign: str  # "G", "F" or "percussion"
    line: int  # of the staff, from the bottom
    octave: int = 0  # octaves that it sounds higher (1) or lower (-1) than written


TREBLE: Final = Clef("G", 2)
BASS: Final = Clef("F", 4)
TREBLE_8VB: Final = Clef("G", 2, -1)
TREBLE_8VA: Final = Clef("G", 2, 1)
BASS_8VB: Final = Clef("F", 4, -1)
PERCUSSION: Final = Clef("percussion", 3)

# Clef, lowest and highest pitch without ledger lines, and how many ledger lines per note an octave
# clef must save to be chosen.
_RANGES: Final = (
    (TREBLE, 62, 79, 0.0),
    (BASS, 41, 60, 0.0),
    (TREBLE_8VB, 50, 67, 0.9),
    (BASS_8VB, 29, 48, 1.5),
    (TREBLE_8VA, 74, 91, 1.8),
)
_SEMITONES_PER_LEDGER_LINE: Final = 3.5


def choose_clef(pitches: Iterable[int]) -> Clef:
    """Choose the clef that needs the fewest ledger lines; treble if there are no pitches."""
    sounding = list(pitches)
    if not sounding:
        return TREBLE

    def cost(row: tuple[Clef, int, int, float]) -> float:
        _, lowest, highest, penalty = row
        distance = sum(max(0, lowest - pitch, pitch - highest) for pitch in sounding)
        return penalty + distance / _SEMITONES_PER_LEDGER_LINE / len(sounding)

    return min(_RANGES, key=cost)[0]


HeadShape = Literal["normal", "x", "circle-x", "diamond", "triangle", "square"]


@dataclass(frozen=True, slots=True)
class DrumSymbol:
    """The notation of a drum."""

    staff_position: SpelledPitch  # as in the treble clef
    shape: HeadShape


def _drums(text: str) -> dict[int, DrumSymbol]:
    """Parse one line per HeadShape, of positions with their drums: "F4=36"."""
    symbols = {}
    for shape, line in zip(get_args(HeadShape), text.strip().split(";"), strict=True):
        for word in line.split():
            position, _, number = word.partition("=")
            symbols[int(number)] = DrumSymbol(SpelledPitch(position[0], 0, int(position[1])), shape)
    return symbols


# General MIDI drums, and the hi-hat edges of electronic kits (22, 26), in customary notation. No
# two share position and shape, so that reading undoes writing.
DRUM_SYMBOLS: Final = _drums("""
    E4=35 F4=36 C5=38 G4=41 A4=43 B4=45 D5=47 E5=48 F5=50;
    D4=44 C5=37 G5=42 A5=49 B5=57 F5=51 D5=54 E5=75;
    G5=46 F5=59 A5=58 B5=26;
    C5=40 A5=52 B5=55 F5=53 D5=65 B4=66 E5=62 A4=64 G4=63 G5=22;
    C5=39 E5=56 D5=60 B4=61 G5=67 A4=68 A5=81 B5=80 F5=70;
    C5=76 A4=77 G5=69 E5=73 D5=74 F5=71 B5=72
""")
PITCH_BY_DRUM_SYMBOL: Final = {drum: pitch for pitch, drum in DRUM_SYMBOLS.items()}
