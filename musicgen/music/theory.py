"""Keys, meters and the spelling of pitches.

Spelling works on the line of fifths: ... Bb F C G D A E B F# ..., where C is 0, G is 1, F is -1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter, mul
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.number_parsing import shorten

LETTERS: Final = "CDEFGAB"
LETTER_FIFTHS: Final = {letter: index - 1 for index, letter in enumerate("FCGDAEB")}
LETTER_SEMITONES: Final = dict(zip(LETTERS, (0, 2, 4, 5, 7, 9, 11), strict=True))

# Fifths from the tonic to the tonic of the major key with the same signature, sign turned:
# D dorian has the signature of C, two fifths below D.
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
        """Read "D", "Dmix", "F# minor", "Bb dorian", "Am". Raises InvalidValue."""
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
        """Return the key on a pitch class whose signature has the fewest accidentals."""
        names = [name_on_fifths(f) for f in range(-8, 13) if f * 7 % 12 == pitch_class % 12]
        keys = [cls(name, mode) for name in names if len(name) <= 2]
        return min(keys, key=lambda key: (abs(key.fifths), -key.fifths))

    @property
    def pitch_class(self) -> int:
        """The tonic's pitch class, C = 0."""
        return tonic_fifths(self.tonic) * 7 % 12

    @property
    def fifths(self) -> int:
        """The signature: sharps positive, flats negative, as in MIDI and MusicXML."""
        return tonic_fifths(self.tonic) + MODES[self.mode]

    @property
    def scale(self) -> frozenset[int]:
        """The seven pitch classes of the key."""
        return frozenset((self.fifths + f) * 7 % 12 for f in range(-1, 6))

    def transpose(self, semitones: int) -> Key:
        """Move the tonic; zero semitones keep its name."""
        return self if semitones % 12 == 0 else Key.of(self.pitch_class + semitones, self.mode)

    def __str__(self) -> str:
        return f"{self.tonic} {self.mode}"


@dataclass(frozen=True, slots=True)
class Meter:
    """Beats in a bar, and the note value of a beat: 6/8 is Meter(6, 8)."""

    beats: int
    unit: int

    def __post_init__(self) -> None:
        is_whole = isinstance(self.beats, int) and isinstance(self.unit, int)
        if not (is_whole and 1 <= self.beats <= 64 and self.unit in (1, 2, 4, 8, 16, 32, 64)):
            raise InvalidValue(
                f"meter {self.beats}/{self.unit}: write 1 to 64 beats over 1, 2, 4, 8, 16, 32 or 64"
            )

    @classmethod
    def parse(cls, text: str) -> Meter:
        """Read "6/8", "C", "C|" or "2+3/8". Raises InvalidValue."""
        plain = {"C": "4/4", "C|": "2/2"}.get(text.strip(), text).replace(" ", "")
        match = re.fullmatch(r"\(?([0-9]{1,2}(?:\+[0-9]{1,2}){0,15})\)?/([0-9]{1,2})", plain)
        if match is None:
            raise InvalidValue(f"meter {shorten(text)!r} is unknown: write one such as 4/4 or 6/8")
        return cls(sum(int(beats) for beats in match[1].split("+")), int(match[2]))

    @property
    def steps(self) -> int:
        """Steps in a full bar."""
        return self.beats * (192 // self.unit)

    @property
    def beat_steps(self) -> int:
        """Steps of the felt beat: a dotted one where eighths or shorter come in threes."""
        compound = self.unit >= 8 and self.beats % 3 == 0 and self.beats > 3
        return 192 // self.unit * (3 if compound else 1)

    def __str__(self) -> str:
        return f"{self.beats}/{self.unit}"


@dataclass(frozen=True, slots=True)
class SpelledPitch:
    """A pitch by its name: letter, alteration (-2..2) and octave (middle C is C4)."""

    letter: str
    alteration: int
    octave: int

    @property
    def pitch(self) -> int:
        """The MIDI note number."""
        return 12 * (self.octave + 1) + LETTER_SEMITONES[self.letter] + self.alteration


_PITCH_TEXT: Final = r"([A-Ga-g])([#b♯♭]?)(-?[0-9]{1,2})|([0-9]{1,3})"
_RANGE_TEXT: Final = re.compile(rf"({_PITCH_TEXT})\s*(?:-|\u2013|\.\.)\s*({_PITCH_TEXT})")


def parse_range(text: str) -> tuple[int, int]:
    """Read "D4-B5", or MIDI numbers "62-83": the lowest and the highest pitch.

    Raises InvalidValue for what is no range, or is outside of 0..127.
    """
    match = _RANGE_TEXT.fullmatch(text.strip())
    if match is not None:
        lowest, highest = (_pitch_of(match, first) for first in (2, 7))
        if 0 <= lowest <= highest <= 127:
            return lowest, highest
    raise InvalidValue(
        f"range {shorten(text)!r} is unknown: write its lowest and highest note, such as D4-B5"
    )


def _pitch_of(match: re.Match[str], first: int) -> int:
    """Return the MIDI number of a pitch in a match, whose groups start at a number."""
    letter, accidental, octave, number = match.group(first, first + 1, first + 2, first + 3)
    if number:
        return int(number)
    alteration = {"": 0, "#": 1, "♯": 1}.get(accidental, -1)
    return 12 * (int(octave) + 1) + LETTER_SEMITONES[letter.upper()] + alteration


def pitch_name(pitch: int) -> str:
    """Name a MIDI number as `parse_range` reads it: 62 is "D4"."""
    spelled = spell(pitch, Key("C"))
    sign = {-1: "b", 1: "#"}.get(spelled.alteration, "")
    return f"{spelled.letter}{sign}{spelled.octave}"


def tonic_fifths(name: str) -> int:
    """Return the place of a note name on the line of fifths."""
    return LETTER_FIFTHS[name[0]] + 7 * (name.count("#") - name.count("b"))


def name_on_fifths(fifths: int) -> str:
    """Return the note name at a place on the line of fifths."""
    letter = "FCGDAEB"[(fifths + 1) % 7]
    alteration = (fifths + 1) // 7
    return letter + ("#" * alteration if alteration > 0 else "b" * -alteration)


def signature(fifths: int) -> dict[str, int]:
    """Return the alteration that a key signature gives to each letter."""
    return {letter: (fifths - index + 6) // 7 for index, letter in enumerate("FCGDAEB")}


def spell(pitch: int, key: Key) -> SpelledPitch:
    """Spell a pitch as a reader of the key expects it.

    The twelve names run from three fifths below the signature's major tonic to eight above:
    in C major Eb Bb F C G D A E B F# C# G#, so that leading notes and minor's raised sixth and
    seventh are sharps, and the lowered third and seventh are flats.
    """
    lowest = key.fifths - 3
    fifths = lowest + (pitch * 7 - lowest) % 12
    name = name_on_fifths(fifths)
    alteration = name.count("#") - name.count("b")
    octave = (pitch - LETTER_SEMITONES[name[0]] - alteration) // 12 - 1
    return SpelledPitch(name[0], alteration, octave)


# How well each degree fits a key, as listeners judged: C. L. Krumhansl and E. J. Kessler, "Tracing
# the dynamic changes in perceived tonal organization in a spatial representation of musical keys",
# Psychological Review 89 (1982), 334-368; the values as in C. L. Krumhansl, Cognitive Foundations
# of Musical Pitch (1990), table 2.1.
KEY_PROFILES: Final = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def find_key(weights: Sequence[float]) -> Key | None:
    """Return the key whose profile correlates best with how long each pitch class sounds.

    weights: twelve, from C up. None where they tell nothing: no notes, or all sound as long.
    """
    if len(set(weights)) == 1:
        return None
    away, spread = _deviations(weights)
    _, mode, tonic = max(
        (
            (sum(map(mul, away, other)) / (spread * others) ** 0.5, mode, tonic)
            for mode, tonic, (other, others) in _profiles()
        ),
        key=itemgetter(0),
    )  # Pearson's coefficient
    return Key.of(tonic, mode)


@cache
def _profiles() -> list[tuple[str, int, tuple[list[float], float]]]:
    """Return for each mode and tonic how its profile lies about its mean."""
    return [
        (mode, tonic, _deviations([profile[(pitch - tonic) % 12] for pitch in range(12)]))
        for mode, profile in KEY_PROFILES.items()
        for tonic in range(12)
    ]


def _deviations(row: Sequence[float]) -> tuple[list[float], float]:
    """Return how far each of twelve lies from their mean, and the sum of the squares of that."""
    mean = sum(row) / 12
    away = [value - mean for value in row]
    return away, sum(value**2 for value in away)


# The qualities of chord symbols that are told apart; the longest that a symbol starts with counts.
CHORD_QUALITIES: Final = (
    "", "m", "7", "m7", "maj7", "dim", "aug", "sus4", "sus2", "6", "m6", "9", "dim7", "m7b5",
)  # fmt: skip
_CHORD: Final = re.compile(r"([A-G][#b]?)([^/\s]*)(?:/([A-G][#b]?))?.*")


@dataclass(frozen=True, slots=True)
class ChordSymbol:
    """Root and bass as pitch classes (no bass: None), and a quality of CHORD_QUALITIES."""

    root: int
    quality: str = ""
    bass: int | None = None

    @classmethod
    def parse(cls, text: str) -> ChordSymbol | None:
        """Read "F#m7/C#"; what follows a known quality is left out. None where there is no root."""
        match = _CHORD.fullmatch(text.replace("♯", "#").replace("♭", "b").replace("min", "m"))
        if match is None:
            return None
        quality = max((q for q in CHORD_QUALITIES if match[2].startswith(q)), key=len)
        bass = tonic_fifths(match[3]) * 7 % 12 if match[3] else None
        return cls(tonic_fifths(match[1]) * 7 % 12, quality, bass)

    def transpose(self, semitones: int) -> ChordSymbol:
        """Move root and bass."""
        bass = None if self.bass is None else (self.bass + semitones) % 12
        return ChordSymbol((self.root + semitones) % 12, self.quality, bass)

    def __str__(self) -> str:
        bass = "" if self.bass is None else "/" + Key.of(self.bass, "major").tonic
        return Key.of(self.root, "major").tonic + self.quality + bass


def normalize_chord(symbol: str) -> str:
    """Spell a chord symbol in its plainest form; "N.C." where it names no root."""
    chord = ChordSymbol.parse(symbol)
    return "N.C." if chord is None else str(chord)


def transpose_chord(symbol: str, semitones: int) -> str:
    """Transpose the root and the bass of a chord symbol: "F#m7/C#" by 1 is "Gm7/D"."""
    chord = ChordSymbol.parse(symbol)
    return symbol if chord is None or semitones % 12 == 0 else str(chord.transpose(semitones))
