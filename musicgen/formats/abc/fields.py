"""Parsers of the fields of a tune: K:, M:, L:, Q:, V:, T:, R:, and the macros of m:.

Time is in ticks. A whole note has enough of them that every ABC length down to 1/512, in broken
rhythm and in tuplets up to 9, is a whole number, so the reader never rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, NoReturn

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.score import STEPS_PER_WHOLE
from musicgen.music.theory import LETTERS, Key, Meter, signature

TICKS_PER_WHOLE: Final = 945 << 24  # 945 = 3 * 5 * 7 * 9
TICKS_PER_STEP: Final = TICKS_PER_WHOLE // STEPS_PER_WHOLE

MIN_ABC_QPM: Final = 5  # quarter notes per minute
MAX_ABC_QPM: Final = 1250
MAX_FIELD_TEXT: Final = 500  # characters of a title that are kept

_MODE: Final = r"(?:(?:maj|min|mix|dor|phr|lyd|loc|ion|aeo)[a-z]*|m)?"
_KEY: Final = re.compile(rf"([A-Ga-g][#b♯♭]?)\s*({_MODE})(?![a-z])(.*)", re.IGNORECASE)
ALTERED: Final = re.compile(r"(\^\^?|__?|=)([A-Ga-g])")
_ALL_ALTERED: Final = re.compile(r"(?:(?:\^\^?|__?|=)[A-Ga-g])+")
_OCTAVE: Final = re.compile(r"octave=\s*([+-]?[0-9])(?![0-9])")
_TRANSPOSE: Final = re.compile(r"(?:transpose|(?<!\S)t)=\s*([+-]?[0-9]{1,2})(?![0-9])")
_CLEF_EIGHTH: Final = re.compile(r"[a-z][1-5]?([+-])8(?!\S)")
_UNIT: Final = re.compile(r"([0-9]{1,2})(?:/([0-9]{1,3}))?")
_BEAT: Final = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")
_BEATS_PER_MINUTE: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,17})?")
_KEY_SETTINGS: Final = ("clef", "octave", "transpose", "t", "middle", "m", "stafflines", "style")
ALTERATIONS: Final = {"": None, "^": 1, "^^": 2, "_": -1, "__": -2, "=": 0}
PIPES: Final = Key("A", "mixolydian")  # key of Highland bagpipes, K:HP


def refuse(code: str, message: str) -> NoReturn:
    """Refuse the current tune; the caller that catches the refusal adds the place.

    Raises:
        Refusal: always.
    """
    raise Refusal(message, code=code)


@dataclass(frozen=True)
class KeyField:
    """The contents of a K: field."""

    key: Key  # as it sounds
    alterations: dict[str, int]  # semitones, by letter
    transposition: int = 0  # semitones from written to sounding pitch


@lru_cache(maxsize=1024)
def parse_key(text: str) -> KeyField:
    """Parse the text of a K: field: "D", "A mix", "D exp ^f", "HP", "none", "G octave=-1"."""
    key, alterations, rest = _split_key_field(text.strip())
    for word in filter(_ALL_ALTERED.fullmatch, rest.split()):
        for sign, letter in ALTERED.findall(word):
            alterations[letter.upper()] = ALTERATIONS[sign] or 0
    shift = parse_transposition(rest)
    return KeyField(key.transpose(shift), alterations, shift)


def _split_key_field(text: str) -> tuple[Key, dict[str, int], str]:
    """Return the key, its signature, and the rest of the field."""
    word, _, rest = text.partition(" ")
    if word.lower() in ("", "none", "exp") or word.lower().partition("=")[0] in _KEY_SETTINGS:
        return Key("C"), signature(0), text
    if _ALL_ALTERED.fullmatch(word):  # no tonic: "^f _b"
        return Key("C"), signature(0), text
    if word.lower() == "hp":
        return PIPES, signature(PIPES.fifths), rest
    match = _KEY.fullmatch(text)
    # The case of a mode has no meaning: "EM" is E minor.
    key = _parse_key_name(match[1] + match[2].lower() if match else text)
    rest = match[3] if match else ""
    explicit = rest.split()[:1] == ["exp"]
    return key, signature(0 if explicit else key.fifths), rest


def _parse_key_name(text: str) -> Key:
    try:
        key = Key.parse(text)
    except InvalidValue as error:
        refuse("field", f"K: {_quote_excerpt(text)}: {error}")
    if abs(key.fifths) > 7:
        refuse("field", f"K:{key} has {abs(key.fifths)} sharps or flats; write a key of at most 7")
    return key


def parse_transposition(text: str) -> int:
    """Return the transposition in semitones by octave=, transpose= and clefs such as treble-8."""
    octaves = sum(int(number) for number in _OCTAVE.findall(text))
    octaves += sum(int(sign + "1") for sign in _CLEF_EIGHTH.findall(text))
    return 12 * octaves + sum(int(number) for number in _TRANSPOSE.findall(text))


@lru_cache(maxsize=1024)
def parse_meter(text: str) -> tuple[Meter, ...]:
    """Parse the text of an M: field: a meter, several alternating ones ("3/4 2/4"), or none."""
    text = text.strip()
    if text.lower() in ("", "none") or text.lower().startswith("fre"):  # free, Essen's "FREI4/4"
        return ()
    try:
        return (Meter.parse(text),)
    except InvalidValue as error:
        fault = str(error)
    try:
        return tuple(map(Meter.parse, text.split()))
    except InvalidValue:
        refuse("field", f"M: {_quote_excerpt(text)}: {fault}")


def parse_unit(text: str) -> int:
    """Parse the text of an L: field into ticks."""
    match = _UNIT.fullmatch(text.replace(" ", ""))
    numerator, denominator = (int(match[1]), int(match[2] or 1)) if match else (0, 1)
    if numerator == 0 or denominator not in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
        refuse("length", f"L: {_quote_excerpt(text)} is not a length; write one such as L:1/8")
    return numerator * TICKS_PER_WHOLE // denominator


def default_unit(meters: tuple[Meter, ...]) -> int:
    """Return the default of L: for a meter, in ticks."""
    short = bool(meters) and 4 * meters[0].beats < 3 * meters[0].unit
    return TICKS_PER_WHOLE // (16 if short else 8)


@lru_cache(maxsize=1024)
def parse_tempo(text: str, unit: int) -> float | None:
    """Parse the text of a Q: field into quarter notes per minute; None where it has only words.

    `Q:120`, from older versions of the standard, counts quarter notes, as in abc2midi.

    Args:
        text: the field without its name.
        unit: note length L: in ticks, the beat of `Q:C=120`.
    """
    beat, _, pace = "".join(text.split('"')[::2]).rpartition("=")
    length = _beat(beat.strip(), unit)
    match = _BEATS_PER_MINUTE.match(pace.strip())
    if match is None or length is None:
        return None
    qpm = Fraction(match[0]) * length * 4
    if not MIN_ABC_QPM <= qpm <= MAX_ABC_QPM:
        refuse(
            "field",
            f"Q: {_quote_excerpt(text)} is outside of {MIN_ABC_QPM} to {MAX_ABC_QPM}"
            " quarter notes per minute",
        )
    return float(qpm)


def _beat(text: str, unit: int) -> Fraction | None:
    """Parse the length of a beat in whole notes: "1/4", "1/4 1/8", "C"; "" is a quarter."""
    if text == "C":
        return Fraction(unit, TICKS_PER_WHOLE)
    matches = [_BEAT.fullmatch(word) for word in text.split() or ["1/4"]]
    lengths = [Fraction(int(m[1]), int(m[2])) for m in matches if m and int(m[2])]
    return sum(lengths, Fraction()) if len(lengths) == len(matches) else None


_VOICE: Final = re.compile(r"\s*(\S*)(.*)", re.DOTALL)
_NAME: Final = re.compile(r"(?<!\S)(?:name|nm)=\s*(?:\"([^\"]{0,500})\"|([^\s\"]+))")
_IN_QUOTES: Final = re.compile(r"\"[^\"]*\"?")


@dataclass(frozen=True)
class VoiceField:
    """The contents of a V: field."""

    id: str
    name: str  # "" where it has none
    transposition: int  # semitones from written to sounding pitch


def parse_voice(text: str) -> VoiceField:
    """Parse the text of a V: field: "1", `T2 name="Tenor" clef=treble-8`."""
    match = _VOICE.match(text)
    assert match is not None
    name_match = _NAME.search(match[2])
    name_text = (name_match[1] or name_match[2] or "") if name_match else ""
    shift = parse_transposition(_IN_QUOTES.sub("", match[2]))
    return VoiceField(match[1], clean_text(name_text.replace("&quot;", '"')), shift)


def clean_text(text: str) -> str:
    r"""Return the text of a field without control characters, with \% and \\ resolved."""
    visible = text if text.isprintable() else "".join(_visible(text))
    if "\\" in visible:
        visible = re.sub(r"\\([\\%])", r"\1", visible)
    return visible.strip()[:MAX_FIELD_TEXT].rstrip()


def _visible(text: str) -> Iterator[str]:
    return (char for char in text if char.isprintable())


def strip_comment(line: str) -> str:
    r"""Remove the comment of a line, which starts at a % without a backslash before it."""
    index = line.find("%")
    while index > 0 and _is_escaped(line, index):
        index = line.find("%", index + 1)
    return line if index < 0 else line[:index]


def _is_escaped(line: str, index: int) -> bool:
    """Return whether an odd number of backslashes precedes an index."""
    start = index
    while start and line[start - 1] == "\\":
        start -= 1
    return (index - start) % 2 == 1


def _quote_excerpt(text: str) -> str:
    """Quote an excerpt of a tune for a message: short, without control characters."""
    return repr("".join(_visible(text.strip()))[:24])


MAX_MACROS: Final = 32  # definitions in a tune
MAX_MACRO_NAME: Final = 32  # characters
MAX_MACRO_MUSIC: Final = 200

_NOTE_LETTERS: Final = LETTERS + LETTERS.lower()  # two octaves
_NOTE_NAME: Final = "([A-Ga-g][,']{0,9})"
_STEP_LETTER: Final = re.compile("[h-z]")  # n is the note itself, o the next degree, m the previous


class Macros:
    """The macros of a tune."""

    def __init__(self) -> None:
        self._definitions: list[tuple[str, str]] = []
        self._pattern: re.Pattern[str] | None = None

    def define(self, text: str) -> None:
        """Define a macro from an m: field: "~G3 = G{A}G{F}G", "~n3 = n{o}n{m}n"."""
        name, sign, music = (part.strip() for part in text.partition("="))
        if not name or not sign:
            return
        if (
            len(self._definitions) >= MAX_MACROS
            or len(name) > MAX_MACRO_NAME
            or len(music) > MAX_MACRO_MUSIC
        ):
            refuse(
                "too-large",
                f"over {MAX_MACROS} macros, or one that is too long; write the notes out",
            )
        self._definitions.insert(0, (name, music))  # the last definition wins
        self._pattern = re.compile(
            "|".join(f"({_macro_pattern(name)})" for name, _ in self._definitions)
        )

    def expand(self, line: str) -> str:
        """Return a line of music with its macros replaced by their notes."""
        return line if self._pattern is None else self._pattern.sub(self._replace_match, line)

    def _replace_match(self, match: re.Match[str]) -> str:
        group = 1
        for name, music in self._definitions:
            transposing = _is_transposing(name)
            if match[group] is not None:
                return _transpose_macro(music, match[group + 1]) if transposing else music
            group += 1 + transposing
        return match[0]


def _is_transposing(name: str) -> bool:
    return name.count("n") == 1


def _macro_pattern(name: str) -> str:
    prefix, placeholder, suffix = name.partition("n") if _is_transposing(name) else (name, "", "")
    return re.escape(prefix) + (_NOTE_NAME if placeholder else "") + re.escape(suffix)


def _transpose_macro(music: str, note: str) -> str:
    """Transpose the music of a macro to a note; its letters h to z are degrees relative to n."""
    octave = note.count("'") - note.count(",")
    degree = _NOTE_LETTERS.index(note[0]) + 7 * octave
    return _STEP_LETTER.sub(lambda match: _name_degree(degree + ord(match[0]) - ord("n")), music)


def _name_degree(degree: int) -> str:
    """Name a note by its scale degrees above middle C."""
    octave, step = divmod(degree, 7)
    if octave >= 1:
        return _NOTE_LETTERS[7 + step] + "'" * (octave - 1)
    return _NOTE_LETTERS[step] + "," * -octave
