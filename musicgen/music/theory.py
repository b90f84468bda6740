"""Keys, meters, chord symbols and the spelling of pitches.

Note names are positions on the line of fifths: ... Bb F C G D A E B F# ..., where C is 0, G is 1
and F is -1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter, mul
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.typed_data import shorten

LETTERS: Final = "CDEFGAB"
_LETTERS_BY_FIFTHS: Final = "FCGDAEB"
LETTER_FIFTHS: Final = {letter: index - 1 for index, letter in enumerate(_LETTERS_BY_FIFTHS)}
LETTER_SEMITONES: Final = dict(zip(LETTERS, (0, 2, 4, 5, 7, 9, 11), strict=True))

# Fifths to add to a tonic for the tonic of the major key with the same signature: D dorian has the
# signature of C major, two fifths below D.
MODES: Final = {
    "lydian": 1,
    "major": 0,
    "mixolydian": -1,
    "dorian": -2,
    "minor": -3,
    "phrygian": -4,
    "locrian": -5,
}
MODE_ALIASES: Final = {"ionian": "major", "aeolian": "minor"}
_MODE_BY_START: Final = {
    "": "major", "m": "minor", "min": "minor",
    **{name[:3]: name for name in MODES},
    **{name[:3]: mode for name, mode in MODE_ALIASES.items()},
}  # fmt: skip
_KEY_TEXT: Final = re.compile(r"([A-Ga-g])([#b♯♭]?)\s*([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Key:
    """A tonic by its name ("F#", "Bb") and one of the seven modes in MODES."""

    tonic: str
    mode: str = "major"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-G](#|b)?", self.tonic) or self.mode not in MODES:
            raise InvalidValue(
                f"key {shorten(self.tonic)!r} {shorten(self.mode)!r}: write a tonic such as D, F#"
                f" or Bb and a mode of {', '.join(MODES)}"
            )

    @classmethod
    def parse(cls, text: str) -> Key:
        """Parse a key such as "D", "Dmix", "F# minor", "Bb dorian" or "Am".

        Raises:
            InvalidValue: the text is not a tonic and a mode.
        """
        match = _KEY_TEXT.fullmatch(text.strip())
        word = match[3] if match else ""
        mode = "major" if word == "M" else _MODE_BY_START.get(word.lower()[:3])
        if match is None or mode is None:
            raise InvalidValue(
                f"key {shorten(text)!r} is unknown: write a tonic and a mode, such as D, Am, Edor,"
                " Dmix"
            )
        accidental = match[2].replace("♯", "#").replace("♭", "b")
        return cls(match[1].upper() + accidental, mode)

    @classmethod
    def of(cls, pitch_class: int, mode: str) -> Key:
        """Return the key with a pitch class as tonic whose signature has the fewest accidentals."""
        names = [name_on_fifths(f) for f in range(-8, 13) if f * 7 % 12 == pitch_class % 12]
        keys = [cls(name, mode) for name in names if len(name) <= 2]
        return min(keys, key=lambda key: (abs(key.fifths), -key.fifths))

    @property
    def pitch_class(self) -> int:
        """Pitch class of the tonic, 0 for C."""
        return tonic_fifths(self.tonic) * 7 % 12

    @property
    def fifths(self) -> int:
        """Sharps in the signature, flats as a negative number, as in MIDI and MusicXML."""
        return tonic_fifths(self.tonic) + MODES[self.mode]

    @property
    def scale(self) -> frozenset[int]:
        """The seven pitch classes of the scale."""
        return frozenset((self.fifths + f) * 7 % 12 for f in range(-1, 6))

    def transpose(self, semitones: int) -> Key:
        """Transpose by semitones; whole octaves keep the tonic's name."""
        return self if semitones % 12 == 0 else Key.of(self.pitch_class + semitones, self.mode)

    def __str__(self) -> str:
        return f"{self.tonic} {self.mode}"


@dataclass(frozen=True, slots=True)
class Meter:
    """A time signature: 6/8 is Meter(6, 8)."""

    beats: int  # per bar
    unit: int  # note value of a beat: 4 for a quarter note

    def __post_init__(self) -> None:
        is_whole = isinstance(self.beats, int) and isinstance(self.unit, int)
        if not (is_whole and 1 <= self.beats <= 64 and self.unit in (1, 2, 4, 8, 16, 32, 64)):
            raise InvalidValue(
                f"meter {self.beats}/{self.unit}: write 1 to 64 beats over 1, 2, 4, 8, 16, 32 or 64"
            )

    @classmethod
    def parse(cls, text: str) -> Meter:
        """Parse a meter such as "6/8", "C", "C|" or "2+3/8".

        Raises:
            InvalidValue: the text is not a meter.
        """
        plain = {"C": "4/4", "C|": "2/2"}.get(text.strip(), text).replace(" ", "")
        match = re.fullmatch(r"\(?([0-9]{1,2}(?:\+[0-9]{1,2}){0,15})\)?/([0-9]{1,2})", plain)
        if match is None:
            raise InvalidValue(f"meter {shorten(text)!r} is unknown: write one such as 4/4 or 6/8")
        return cls(sum(int(beats) for beats in match[1].split("+")), int(match[2]))

    @property
    def steps(self) -> int:
        """Steps per full bar."""
        return self.beats * (192 // self.unit)

    @property
    def beat_steps(self) -> int:
        """Steps per felt beat, which is dotted in compound meters such as 6/8."""
        compound = self.unit >= 8 and self.beats % 3 == 0 and self.beats > 3
        return 192 // self.unit * (3 if compound else 1)

    def __str__(self) -> str:
        return f"{self.beats}/{self.unit}"


@dataclass(frozen=True, slots=True)
class SpelledPitch:
    """A pitch by its name."""

    letter: str
    alteration: int  # semitones, -2..2
    octave: int  # middle C is C4

    @property
    def pitch(self) -> int:
        """The MIDI note number."""
        return 12 * (self.octave + 1) + LETTER_SEMITONES[self.letter] + self.alteration


_PITCH_TEXT: Final = r"([A-Ga-g])([#b♯♭]?)(-?[0-9]{1,2})|([0-9]{1,3})"
_RANGE_TEXT: Final = re.compile(rf"({_PITCH_TEXT})\s*(?:-|\u2013|\.\.)\s*({_PITCH_TEXT})")


def parse_range(text: str) -> tuple[int, int]:
    """Parse a pitch range such as "D4-B5" or "62-83" into its lowest and highest MIDI note number.

    Raises:
        InvalidValue: the text is not a range, or is outside of 0..127.
    """
    match = _RANGE_TEXT.fullmatch(text.strip())
    if match is not None:
        lowest, highest = (_pitch_of(match, first_group) for first_group in (2, 7))
        if 0 <= lowest <= highest <= 127:
            return lowest, highest
    raise InvalidValue(
        f"range {shorten(text)!r} is unknown: write its lowest and highest note, such as D4-B5"
    )


def _pitch_of(match: re.Match[str], first_group: int) -> int:
    """Return the MIDI note number of a pitch, given its first of four groups in a match."""
    letter, accidental, octave, number = match.groups()[first_group - 1 : first_group + 3]
    if number:
        return int(number)
    alteration = {"": 0, "#": 1, "♯": 1}.get(accidental, -1)
    return 12 * (int(octave) + 1) + LETTER_SEMITONES[letter.upper()] + alteration


def pitch_name(pitch: int) -> str:
    """Name a MIDI note number as `parse_range` reads it: 62 is "D4"."""
    spelled = spell(pitch, Key("C"))
    sign = {-1: "b", 1: "#"}.get(spelled.alteration, "")
    return f"{spelled.letter}{sign}{spelled.octave}"


def tonic_fifths(name: str) -> int:
    """Return the position of a note name on the line of fifths."""
    return LETTER_FIFTHS[name[0]] + 7 * (name.count("#") - name.count("b"))


def name_on_fifths(fifths: int) -> str:
    """Return the note name at a position on the line of fifths."""
    letter = _LETTERS_BY_FIFTHS[(fifths + 1) % 7]
    alteration = (fifths + 1) // 7
    return letter + ("#" * alteration if alteration > 0 else "b" * -alteration)


def signature(fifths: int) -> dict[str, int]:
    """Return the alteration in semitones that a key signature of sharps gives each letter."""
    return {letter: (fifths - index + 6) // 7 for index, letter in enumerate(_LETTERS_BY_FIFTHS)}


def spell(pitch: int, key: Key) -> SpelledPitch:
    """Spell a MIDI note number as readers of the key expect.

    The twelve names run from three fifths below the signature's major tonic to eight above it: in
    C major Eb Bb F C G D A E B F# C# G#. So leading notes and the raised sixth and seventh of minor
    are sharps, and the lowered third and seventh are flats.
    """
    lowest = key.fifths - 3
    fifths = lowest + (pitch * 7 - lowest) % 12
    name = name_on_fifths(fifths)
    alteration = name.count("#") - name.count("b")
    octave = (pitch - LETTER_SEMITONES[name[0]] - alteration) // 12 - 1
    return SpelledPitch(name[0], alteration, octave)


# Listeners' ratings of how well each scale degree fits a key: C. L. Krumhansl and E. J. Kessler,
# "Tracing the dynamic changes in perceived tonal organization in a spatial representation of
# musical keys", Psychological Review 89 (1982), 334-368; values as in C. L. Krumhansl, Cognitive
# Foundations of Musical Pitch (1990), table 2.1.
KEY_PROFILES: Final = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def find_key(weights: Sequence[float]) -> Key | None:
    """Estimate the key by the Krumhansl-Schmuckler algorithm.

    Source: C. L. Krumhansl, Cognitive Foundations of Musical Pitch (1990), chapter 4.

    Args:
        weights: 12 total durations, one per pitch class from C.

    Returns:
        The key whose profile has the highest Pearson correlation with the weights, or None where
        all weights are equal.
    """
    if len(set(weights)) == 1:
        return None
    deviations, variation = _deviations(weights)
    _, mode, tonic = max(
        (
            (
                sum(map(mul, deviations, profile)) / (variation * profile_variation) ** 0.5,
                mode,
                tonic,
            )
            for mode, tonic, (profile, profile_variation) in _profiles()
        ),
        key=itemgetter(0),
    )  # Pearson's coefficient
    return Key.of(tonic, mode)


@cache
def _profiles() -> list[tuple[str, int, tuple[list[float], float]]]:
    """Return for each mode and tonic the deviations of its profile, and their sum of squares."""
    return [
        (mode, tonic, _deviations([profile[(pitch - tonic) % 12] for pitch in range(12)]))
        for mode, profile in KEY_PROFILES.items()
        for tonic in range(12)
    ]


def _deviations(values: Sequence[float]) -> tuple[list[float], float]:
    """Return the deviations of twelve values from their mean, and their sum of squares."""
    mean = sum(values) / 12
    deviations = [value - mean for value in values]
    return deviations, sum(value**2 for value in deviations)


# The chord qualities that are distinguished, each with its tones in semitones above the root.
CHORD_TONES: Final[Mapping[str, tuple[int, ...]]] = {
    "": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11), "dim": (0, 3, 6), "aug": (0, 4, 8), "sus4": (0, 5, 7),
    "sus2": (0, 2, 7), "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9), "9": (0, 4, 7, 10, 2),
    "dim7": (0, 3, 6, 9), "m7b5": (0, 3, 6, 10),
}  # fmt: skip
CHORD_QUALITIES: Final = tuple(CHORD_TONES)  # a vocabulary lists them in this order
# Other spellings; a symbol has the longest that it starts with, and the rest is ignored: E7b9 is
# E7. The letters d and a are those of the Nottingham Music Database.
QUALITY_SPELLINGS: Final[Mapping[str, str]] = {
    **{quality: quality for quality in CHORD_QUALITIES},
    "maj": "", "M": "", "Maj": "", "ma": "", "add": "", "5": "",
    "min": "m", "mi": "m", "-": "m", "mmaj": "m", "madd": "m",
    "dom": "7", "alt": "7", "11": "9", "13": "9",
    "min7": "m7", "mi7": "m7", "-7": "m7", "m9": "m7", "min9": "m7", "m11": "m7",
    "M7": "maj7", "Maj7": "maj7", "ma7": "maj7", "maj9": "maj7", "M9": "maj7", "Δ": "maj7",
    "d": "dim", "°": "dim", "o": "dim", "mb5": "dim",
    "a": "aug", "+": "aug", "#5": "aug",
    "sus": "sus4", "4": "sus4", "7sus": "sus4", "9sus": "sus4", "2": "sus2", "7sus2": "sus2",
    "maj11": "maj7", "maj13": "maj7", "M11": "maj7", "M13": "maj7", "min11": "m7", "m13": "m7",
    "M6": "6", "maj6": "6", "69": "6", "min6": "m6", "mi6": "m6", "-6": "m6",
    "d7": "dim7", "°7": "dim7", "o7": "dim7",
    "ø": "m7b5", "min7b5": "m7b5", "mi7b5": "m7b5", "-7b5": "m7b5", "m7-5": "m7b5",
}  # fmt: skip
_CHORD: Final = re.compile(r"([A-G][#b]?)([^/]*)(?:/([A-Ga-g][#b+]?)(?![A-Za-z]))?.*")
_CHORD_SIGNS: Final = str.maketrans({"♯": "#", "♭": "b", " ": None, "(": None, ")": None})


@dataclass(frozen=True, slots=True)
class ChordSymbol:
    """A chord symbol such as "F#m7/C#"."""

    root: int  # pitch class
    quality: str = ""  # one of CHORD_QUALITIES
    bass: int | None = None  # pitch class, where it is not the root

    @classmethod
    def parse(cls, text: str) -> ChordSymbol | None:
        """Parse a chord symbol; ignore text after a known quality. None where there is no root.

        Also read as people write them: "D/f+" (D over F sharp), "Gd" (diminished), "(E7)", "D m".
        """
        match = match_chord(text)
        if match is None:
            return None
        root, bass = (tonic_fifths(name) * 7 % 12 if name else None for name in match[::2])
        assert root is not None
        return cls(root, match[1], None if bass == root else bass)

    @property
    def tones(self) -> tuple[int, ...]:
        """The pitch classes of the chord, from its root up; the bass may be another."""
        return tuple((self.root + tone) % 12 for tone in CHORD_TONES[self.quality])

    @property
    def bass_class(self) -> int:
        """The pitch class of the lowest note."""
        return self.root if self.bass is None else self.bass

    def spell(self, key: Key) -> str:
        """Write the symbol with the note names that readers of a key expect: C#m in A major."""
        # Roots of major chords are rather flats (Ab in C major), those of others rather sharps.
        lowest = key.fifths - (5 if 4 in CHORD_TONES[self.quality] else 3)
        root = lowest + (self.root * 7 - lowest) % 12
        if self.bass is None:
            return _plain_name(root) + self.quality
        bass = root + _FIFTHS_OF_INTERVAL[(self.bass - self.root) % 12]
        return f"{_plain_name(root)}{self.quality}/{_plain_name(bass)}"

    def transpose(self, semitones: int) -> ChordSymbol:
        """Transpose root and bass by semitones."""
        bass = None if self.bass is None else (self.bass + semitones) % 12
        return ChordSymbol((self.root + semitones) % 12, self.quality, bass)

    def __str__(self) -> str:
        bass = "" if self.bass is None else "/" + Key.of(self.bass, "major").tonic
        return Key.of(self.root, "major").tonic + self.quality + bass


# Position on the line of fifths of the note that is some semitones above a root.
_FIFTHS_OF_INTERVAL: Final = (0, -5, 2, -3, 4, -1, -6, 1, -4, 3, -2, 5)


def _plain_name(fifths: int) -> str:
    """Return the name of a root or bass, or a simpler one in place of double accidentals."""
    name = name_on_fifths(fifths)
    return name if len(name) <= 2 else Key.of(fifths * 7 % 12, "major").tonic


def match_chord(text: str) -> tuple[str, str, str] | None:
    """Return the names of root, quality and bass of a chord symbol; None where there is no root.

    Returns:
        The root as written, one of CHORD_QUALITIES, and the bass ("F#"; "" where none is named).
    """
    match = _CHORD.fullmatch(text.translate(_CHORD_SIGNS).replace("6/9", "69"))
    if match is None:
        return None
    spelling = max((name for name in QUALITY_SPELLINGS if _opens(match[2], name)), key=len)
    bass = match[3] or ""
    return match[1], QUALITY_SPELLINGS[spelling], bass.capitalize().replace("+", "#")


def _opens(text: str, spelling: str) -> bool:
    """Return whether a text starts with the spelling of a quality; d, a and o start no word."""
    is_letter = spelling in ("d", "a", "o") and text[1:2].isalpha()
    return text.startswith(spelling) and not is_letter


def normalize_chord(symbol: str) -> str:
    """Return the plainest spelling of a chord symbol; "N.C." (no chord) where it names no root."""
    chord = ChordSymbol.parse(symbol)
    return "N.C." if chord is None else str(chord)


def transpose_chord(symbol: str, semitones: int) -> str:
    """Transpose a chord symbol by semitones: "F#m7/C#" by 1 is "Gm7/D"."""
    chord = ChordSymbol.parse(symbol)
    return symbol if chord is None or semitones % 12 == 0 else str(chord.transpose(semitones))


def spell_chord(symbol: str, key: Key) -> str:
    """Spell a chord symbol as readers of a key expect: "Dbm" in A major is "C#m"."""
    chord = ChordSymbol.parse(symbol)
    return symbol if chord is None else chord.spell(key)
