"""What the fields of a tune say: K:, M:, L:, Q:, T: and R:.

Time is counted in ticks: the whole note has so many that every length which ABC can write inside
a tuplet to 9, in broken rhythm, down to 1/512, is a whole number. Nothing is rounded while reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NoReturn

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.score import STEPS_PER_WHOLE
from musicgen.music.theory import Key, Meter, signature

TICKS_PER_WHOLE: Final = 945 << 24  # 945 = 3 * 5 * 7 * 9
TICKS_PER_STEP: Final = TICKS_PER_WHOLE // STEPS_PER_WHOLE

CODES: Final = {
    "too-long": "a line, a tune, its number of notes or its time is over the limit",
    "no-key": "music comes before any K: field",
    "no-notes": "the tune has no notes",
    "key": "a K: field cannot be read",
    "meter": "an M: field cannot be read",
    "tempo": "a Q: field is outside of what is played",
    "length": "a note, a rest or L: has no length, one that is absurd, or under a step",
    "pitch": "a note is outside of MIDI's 0..127",
    "tuplet": "a tuplet is not one of 2 to 9",
    "ending": "an ending is for a pass that is never played",
    "syntax": "a chord, grace notes or a text stay open, or ^ _ = < > stand at no note",
    "voices": "the music is in several voices",
    "overlay": "a bar is overlaid with a second voice by &",
}  # code: meaning

SLOWEST_QPM: Final = 5
FASTEST_QPM: Final = 1250
MAX_TEXT: Final = 500  # characters of a title that are kept

_MODE: Final = r"(?:(?:maj|min|mix|dor|phr|lyd|loc|ion|aeo)[a-z]*|m)?"
_KEY: Final = re.compile(rf"([A-Ga-g][#b♯♭]?)\s*({_MODE})(?![a-z])(.*)", re.IGNORECASE)
_ALTERED: Final = re.compile(r"(?<!\S)(\^\^?|__?|=)([A-Ga-g])(?!\S)")
_OCTAVE: Final = re.compile(r"octave=\s*([+-]?[0-9])(?![0-9])")
_TRANSPOSE: Final = re.compile(r"(?:transpose|(?<!\S)t)=\s*([+-]?[0-9]{1,2})(?![0-9])")
_CLEF_EIGHTH: Final = re.compile(r"[a-z][1-5]?([+-])8(?!\S)")
_UNIT: Final = re.compile(r"([0-9]{1,2})(?:/([0-9]{1,3}))?")
_BEAT: Final = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")
_BEATS_A_MINUTE: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,17})?")
_KEY_SETTINGS: Final = ("clef", "octave", "transpose", "t", "middle", "m", "stafflines", "style")
ALTERATIONS: Final = {"": None, "^": 1, "^^": 2, "_": -1, "__": -2, "=": 0}
PIPES: Final = Key("A", "mixolydian")  # what Highland pipes play where K:HP writes no signature


def refuse(code: str, message: str) -> NoReturn:
    """Refuse the tune that is being read; whoever catches it knows the place."""
    raise Refusal(message, code=code)


@dataclass(frozen=True)
class Signature:
    """What a K: field says: the key, how it alters each letter, semitones that it sounds off."""

    key: Key
    alterations: dict[str, int]
    shift: int = 0


def parse_key(text: str) -> Signature:
    """Read the text of a K: field: "D", "A mix", "D exp ^f", "HP", "none", "G octave=-1"."""
    key, alterations, rest = _tonic(text.strip())
    for sign, letter in _ALTERED.findall(rest):
        alterations[letter.upper()] = ALTERATIONS[sign] or 0
    shift = _shift(rest)
    return Signature(key.transposed(shift), alterations, shift)


def _tonic(text: str) -> tuple[Key, dict[str, int], str]:
    """Return the key, its signature, and what the field says besides."""
    word, _, rest = text.partition(" ")
    if word.lower() in ("", "none") or word.lower().partition("=")[0] in _KEY_SETTINGS:
        return Key("C"), signature(0), text
    if word.lower() == "hp":
        return PIPES, signature(PIPES.fifths), rest
    match = _KEY.fullmatch(text)
    key = _key(match[1] + match[2].lower() if match else text)  # "EM" is E minor: case says nothing
    rest = match[3] if match else ""
    explicit = rest.split()[:1] == ["exp"]
    return key, signature(0 if explicit else key.fifths), rest


def _key(text: str) -> Key:
    try:
        key = Key.parse(text)
    except InvalidValue as error:
        refuse("key", f"K: {_quoted(text)}: {error}")
    if abs(key.fifths) > 7:
        refuse("key", f"K:{key} has {abs(key.fifths)} sharps or flats; write a key of at most 7")
    return key


def _shift(text: str) -> int:
    """Return the semitones that octave=, transpose= and clefs such as treble-8 ask for."""
    octaves = sum(int(number) for number in _OCTAVE.findall(text))
    octaves += sum(int(sign + "1") for sign in _CLEF_EIGHTH.findall(text))
    return 12 * octaves + sum(int(number) for number in _TRANSPOSE.findall(text))


def parse_meter(text: str) -> Meter | None:
    """Read the text of an M: field; None where it says that there is no meter."""
    if text.strip().lower() in ("", "none", "free"):
        return None
    try:
        return Meter.parse(text.strip())
    except InvalidValue as error:
        refuse("meter", f"M: {_quoted(text)}: {error}")


def parse_unit(text: str) -> int:
    """Read the text of an L: field; in ticks."""
    match = _UNIT.fullmatch(text.replace(" ", ""))
    over, under = (int(match[1]), int(match[2] or 1)) if match else (0, 1)
    if over == 0 or under not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        refuse("length", f"L: {_quoted(text)} is no length; write one such as L:1/8")
    return over * TICKS_PER_WHOLE // under


def default_unit(meter: Meter | None) -> int:
    """Return the length that L: has where none is written; in ticks."""
    short = meter is not None and 4 * meter.beats < 3 * meter.unit
    return TICKS_PER_WHOLE // (16 if short else 8)


def parse_tempo(text: str, unit: int) -> float | None:
    """Read the text of a Q: field, in quarters a minute; None where it has only words.

    `Q:120`, of older books, counts quarters, as abc2midi plays it; `Q:C=120` notes of the length
    L:, here in ticks.
    """
    beat, _, pace = "".join(text.split('"')[::2]).rpartition("=")
    length = _beat(beat.strip(), unit)
    match = _BEATS_A_MINUTE.match(pace.strip())
    if match is None or length is None:
        return None
    qpm = Fraction(match[0]) * length * 4
    if not SLOWEST_QPM <= qpm <= FASTEST_QPM:
        refuse("tempo", f"Q: {_quoted(text)} is outside of {SLOWEST_QPM} to {FASTEST_QPM} quarters")
    return float(qpm)


def _beat(text: str, unit: int) -> Fraction | None:
    """Return the length of a beat in whole notes: "1/4", "3/8", "1/4 1/8", "C"; "" is a quarter."""
    if text == "C":
        return Fraction(unit, TICKS_PER_WHOLE)
    matches = [_BEAT.fullmatch(word) for word in text.split() or ["1/4"]]
    lengths = [Fraction(int(m[1]), int(m[2])) for m in matches if m and int(m[2])]
    return sum(lengths, Fraction()) if len(lengths) == len(matches) else None


def plain_text(text: str) -> str:
    r"""Return the text of a field without control characters, with \% and \\ resolved."""
    kept = "".join(_visible(text))
    return re.sub(r"\\([\\%])", r"\1", kept).strip()[:MAX_TEXT].rstrip()


def _visible(text: str) -> Iterator[str]:
    return (char for char in text if char.isprintable())


def without_comment(line: str) -> str:
    r"""Cut a line at its comment: a % that no backslash stands before."""
    at = line.find("%")
    while at > 0 and _escaped(line, at):
        at = line.find("%", at + 1)
    return line if at < 0 else line[:at]


def _escaped(line: str, at: int) -> bool:
    """Tell whether an odd number of backslashes stands before a place."""
    before = at
    while before and line[before - 1] == "\\":
        before -= 1
    return (at - before) % 2 == 1


def _quoted(text: str) -> str:
    """Return a piece of a tune as a message shows it: short, without control characters."""
    return repr("".join(_visible(text.strip()))[:24])
