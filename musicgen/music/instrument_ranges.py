"""Sounding ranges of the instruments of General MIDI, and of the voices of a choir.

The ranges are those of orchestration books (Adler, "The Study of Orchestration", 3rd edition, 2002;
Piston, "Orchestration", 1955) and of the makers of instruments that those leave out. They are
generous: where players or models of an instrument differ, the widest range counts, such as that of
a bass of five strings or of a saxophone with altissimo. An ensemble has the range of all its
instruments. Synthesizers, sound effects and percussion without a definite pitch have none.

The ranges of voices are those of Bach's four-voice chorales as they come with music21: all
84,910 notes of 365 of them but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class PitchRange(NamedTuple):
    """The lowest and the highest sounding pitch of an instrument, as MIDI note numbers."""

    low: int
    high: int


# First and last program, lowest and highest sounding MIDI note number; 60 is middle C.
_RANGES: Final[Sequence[tuple[int, int, int, int]]] = (
    (0, 5, 21, 108),  # pianos, electric pianos
    (6, 7, 28, 91),  # harpsichord, clavinet
    (8, 8, 60, 108),  # celesta
    (9, 9, 72, 108),  # glockenspiel
    (10, 10, 60, 108),  # music box
    (11, 11, 48, 89),  # vibraphone of four octaves
    (12, 12, 36, 96),  # marimba of five octaves
    (13, 13, 65, 108),  # xylophone
    (14, 14, 60, 79),  # tubular bells
    (15, 15, 36, 88),  # dulcimer, to the concert cimbalom
    (16, 19, 24, 108),  # organs, with stops of 16 feet
    (20, 20, 29, 101),  # reed organ
    (21, 21, 29, 105),  # accordion, with its bass buttons
    (22, 22, 48, 98),  # harmonica
    (23, 23, 35, 96),  # bandoneon
    (24, 30, 35, 90),  # guitars of six and of seven strings
    (31, 31, 40, 100),  # guitar harmonics
    (32, 37, 23, 67),  # basses of four and of five strings
    (40, 40, 55, 105),  # violin
    (41, 41, 48, 91),  # viola
    (42, 42, 36, 84),  # cello
    (43, 43, 24, 67),  # double bass
    (44, 45, 24, 105),  # strings
    (46, 46, 23, 104),  # harp
    (47, 47, 36, 60),  # timpani
    (48, 49, 24, 105),  # strings
    (52, 53, 36, 86),  # choir, from bass to soprano
    (56, 56, 52, 88),  # trumpet
    (57, 57, 28, 77),  # trombone
    (58, 58, 24, 67),  # tuba
    (59, 59, 52, 88),  # trumpet
    (60, 60, 31, 79),  # horn
    (61, 61, 24, 88),  # brass
    (64, 64, 56, 91),  # soprano saxophone
    (65, 65, 49, 87),  # alto saxophone
    (66, 66, 44, 82),  # tenor saxophone
    (67, 67, 36, 75),  # baritone saxophone
    (68, 68, 58, 93),  # oboe
    (69, 69, 52, 84),  # English horn
    (70, 70, 34, 77),  # bassoon
    (71, 71, 49, 96),  # clarinets in A and B flat
    (72, 72, 74, 108),  # piccolo
    (73, 73, 59, 98),  # flute
    (74, 74, 53, 103),  # recorders, from bass to sopranino
    (75, 75, 55, 98),  # pan flute
    (77, 77, 50, 93),  # shakuhachi
    (78, 78, 60, 103),  # whistle, from low to tin
    (79, 79, 57, 91),  # ocarina
    (104, 104, 36, 86),  # sitar
    (105, 105, 48, 88),  # banjo
    (106, 106, 45, 84),  # shamisen
    (107, 107, 36, 91),  # koto of 13 and of 17 strings
    (108, 108, 48, 91),  # kalimba
    (109, 109, 36, 86),  # bagpipe, with its drones
    (110, 110, 55, 105),  # fiddle
    (111, 111, 53, 88),  # shanai
    (114, 114, 28, 91),  # steel drums, from bass to tenor
)
_RANGE_BY_PROGRAM: Final = {
    program: PitchRange(low, high)
    for first, last, low, high in _RANGES
    for program in range(first, last + 1)
}


def find_range(program: int) -> PitchRange | None:
    """Return the sounding range of a General MIDI program, 0..127; None if it has none."""
    return _RANGE_BY_PROGRAM.get(program)


_VOICE_RANGES: Final = {
    "soprano": PitchRange(60, 81),
    "alto": PitchRange(53, 74),
    "tenor": PitchRange(48, 69),
    "bass": PitchRange(36, 64),
}


def find_voice_range(role: str) -> PitchRange | None:
    """Return the range of a voice of a choir: soprano, alto, tenor or bass; None for others."""
    return _VOICE_RANGES.get(role)
