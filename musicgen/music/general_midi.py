"""General MIDI instruments and drums by name.

Source: MIDI Manufacturers Association, General MIDI level 1, 1991.
"""

from __future__ import annotations

from typing import Final

from musicgen.errors import InvalidValue
from musicgen.typed_data import parse_integer, shorten

PROGRAMS: Final = tuple(
    name.strip()
    for name in """
    acoustic grand piano, bright acoustic piano, electric grand piano, honky-tonk piano,
    electric piano 1, electric piano 2, harpsichord, clavinet, celesta, glockenspiel, music box,
    vibraphone, marimba, xylophone, tubular bells, dulcimer, drawbar organ, percussive organ,
    rock organ, church organ, reed organ, accordion, harmonica, tango accordion,
    acoustic guitar (nylon), acoustic guitar (steel), electric guitar (jazz),
    electric guitar (clean), electric guitar (muted), overdriven guitar, distortion guitar,
    guitar harmonics, acoustic bass, electric bass (finger), electric bass (pick), fretless bass,
    slap bass 1, slap bass 2, synth bass 1, synth bass 2, violin, viola, cello, contrabass,
    tremolo strings, pizzicato strings, orchestral harp, timpani, string ensemble 1,
    string ensemble 2, synth strings 1, synth strings 2, choir aahs, voice oohs, synth voice,
    orchestra hit, trumpet, trombone, tuba, muted trumpet, french horn, brass section,
    synth brass 1, synth brass 2, soprano sax, alto sax, tenor sax, baritone sax, oboe,
    english horn, bassoon, clarinet, piccolo, flute, recorder, pan flute, blown bottle, shakuhachi,
    whistle, ocarina, lead 1 (square), lead 2 (sawtooth), lead 3 (calliope), lead 4 (chiff),
    lead 5 (charang), lead 6 (voice), lead 7 (fifths), lead 8 (bass + lead), pad 1 (new age),
    pad 2 (warm), pad 3 (polysynth), pad 4 (choir), pad 5 (bowed), pad 6 (metallic), pad 7 (halo),
    pad 8 (sweep), fx 1 (rain), fx 2 (soundtrack), fx 3 (crystal), fx 4 (atmosphere),
    fx 5 (brightness), fx 6 (goblins), fx 7 (echoes), fx 8 (sci-fi), sitar, banjo, shamisen, koto,
    kalimba, bagpipe, fiddle, shanai, tinkle bell, agogo, steel drums, woodblock, taiko drum,
    melodic tom, synth drum, reverse cymbal, guitar fret noise, breath noise, seashore, bird tweet,
    telephone ring, helicopter, applause, gunshot""".split(",")
)
FAMILIES: Final = (  # of eight programs each
    "piano", "chromatic percussion", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "synth lead", "synth pad", "synth effects", "ethnic", "percussive",
    "sound effects",
)  # fmt: skip
PROGRAMS_PER_FAMILY: Final = 8
# The program of each family that a part gets if only its family is known
TYPICAL_PROGRAMS: Final = (0, 11, 16, 25, 33, 40, 48, 61, 65, 73, 81, 89, 99, 105, 114, 122)

# Percussion keys of the groups of a drum kit; KIT_GROUPS[-1] is all other keys. Keys 22 and 26 are
# free in General MIDI; on electronic kits they are the edge of the hi-hat. Source: Gillick et al.,
# "Learning to Groove with Inverse Sequence Transformations", 2019.
_KIT_KEYS: Final = {
    "kick": (35, 36),
    "snare": (37, 38, 39, 40),  # with side stick and clap
    "closed hat": (22, 42, 44),  # with the pedal
    "open hat": (26, 46),
    "toms": (41, 43, 45, 47, 48, 50),
    "ride": (51, 53, 59),
    "crash": (49, 52, 55, 57),  # with splash and Chinese cymbal
}
HI_HAT_EDGES: Final = {22: 42, 26: 46}  # keys of electronic kits, and those that sound alike
KIT_GROUPS: Final = (*_KIT_KEYS, "other")
KIT_GROUP_BY_KEY: Final = tuple(  # of each percussion key, 0..127, an index of KIT_GROUPS
    next((n for n, keys in enumerate(_KIT_KEYS.values()) if key in keys), len(_KIT_KEYS))
    for key in range(128)
)


def find_family(program: int) -> str:
    """Return the name of the family of a program, 0..127."""
    return FAMILIES[program // PROGRAMS_PER_FAMILY]


def find_typical_program(family: str) -> int:
    """Return the program that stands for a family, 0..127."""
    return TYPICAL_PROGRAMS[FAMILIES.index(family)]


def parse_program(text: str) -> int:
    """Parse a General MIDI program given by name or number, such as "flute" or "73".

    Part of a name selects the first program whose name starts with it, or else contains it.

    Raises:
        InvalidValue: no program has such a name or number.
    """
    query = text.strip().lower()
    if query[:1].isdigit() or query[:1] in ("+", "-"):
        return parse_integer(query, "program", 0, 127)
    if query in PROGRAMS:
        return PROGRAMS.index(query)
    matches = [n for n in PROGRAMS if n.startswith(query)] or [n for n in PROGRAMS if query in n]
    if not query or not matches:
        raise InvalidValue(
            f"program {shorten(text)!r} is unknown: write 0 to 127, or a General MIDI name"
            " such as flute, violin or accordion"
        )
    return PROGRAMS.index(matches[0])
