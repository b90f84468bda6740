"""Bounds on numbers in MusicXML and Humdrum, checked before music21 converts them.

music21 builds lists as long as the beats of a time signature or the passes of an ending, and moves
pitches outside of MIDI's range by octaves.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final
from xml.parsers import expat

from musicgen.errors import InvalidValue, Refusal
from musicgen.music.score import FASTEST_QPM, SLOWEST_QPM
from musicgen.number_parsing import parse_decimal, parse_integer, shorten

MAX_BEATS: Final = 256  # of a meter; one of over 64 is read as no meter
_INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    "fifths": (-15, 15),
    "octave": (-1, 9),
    "display-octave": (-1, 9),
    "beat-type": (1, 1_024),
    "actual-notes": (1, 1_000),
    "normal-notes": (1, 1_000),
    "octave-change": (-10, 10),
    "clef-octave-change": (-10, 10),
    "staves": (1, 64),
    "degree-value": (1, 32),
}
_DECIMALS: Final[Mapping[str, tuple[float, float]]] = {
    "divisions": (0.001, 1e7),
    "duration": (0, 1e9),
    "offset": (-1e9, 1e9),
    "chromatic": (-120, 120),
    "alter": (-4, 4),
    "root-alter": (-4, 4),
    "bass-alter": (-4, 4),
    "degree-alter": (-4, 4),
}
_LISTS: Final[Mapping[str, int]] = {"beats": MAX_BEATS, "number": 99}  # largest number in each
# The numbers that music21 accepts, as int and float do: with any Unicode digits and "_".
_NUMBER: Final = re.compile(r"[+-]?(?:[\d._]+(?:e[+-]?[\d_]+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_BEATS: Final = re.compile(r"[0-9]+(?:\s*\+\s*[0-9]+)*")
_DIGITS: Final = re.compile(r"\d+")
_MOST_DIGITS: Final = 6  # of a number in a note of Humdrum
_KERN_METER: Final = re.compile(r"\*M([\d+]*)/(\d*)(?:%\d*)?")
_KERN_TEMPO: Final = re.compile(r"\*MM\[?([^\]\s]*)")
_LONG_NUMBER: Final = re.compile(rf"\d{{{_MOST_DIGITS + 1},}}")


def check_musicxml(data: bytes) -> None:
    """Raise Refusal for a number outside of its bounds, with its line.

    Ignore XML that is not well-formed, which the reader refuses. Like the reader, use the encoding
    that the file declares, and UTF-8 where that fails.
    """
    if _is_well_formed(data):
        return
    with contextlib.suppress(UnicodeError):
        _is_well_formed(data.decode("utf-8"))


def _is_well_formed(data: bytes | str) -> bool:
    """Return whether XML is well-formed; raise Refusal for a number outside of its bounds."""
    parser = expat.ParserCreate()
    checker = _BoundsChecker(parser)
    parser.StartElementHandler = checker.start
    parser.EndElementHandler = checker.end
    parser.CharacterDataHandler = checker.text
    parser.EntityDeclHandler = checker.refuse_entity
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except InvalidValue as fault:
        place = f"line {parser.CurrentLineNumber}"
        raise Refusal(f"{fault}; the file was left out", place=place, code="damaged") from fault
    except (expat.ExpatError, UnicodeError, ValueError, LookupError):
        return False
    return True


class _BoundsChecker:
    """Handlers of an expat parser that check the elements with numbers."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser
        self.number_element = ""  # the current element, if its text is a number
        self.text_parts: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.number_element:
            raise InvalidValue(
                f"{self.number_element} holds the element {shorten(name)!r}: write only a number"
                f" in it"
            )
        self.number_element = name if name in _CHECKED_ELEMENTS else ""
        self.text_parts = []
        if name == "sound" and "tempo" in attributes:
            _check_tempo(attributes["tempo"])
        elif name == "ending":
            _check_list("number", attributes.get("number", ""))
        elif name == "repeat" and "times" in attributes:
            parse_integer(attributes["times"], "times", 0, 1_000)

    def text(self, data: str) -> None:
        if self.number_element:
            self.text_parts.append(data)

    def refuse_entity(self, name: str, *_: object) -> None:
        raise InvalidValue(f"entity {shorten(name)!r} is declared: write the text itself")

    def end(self, name: str) -> None:
        if self.number_element == name:
            _check_text(name, "".join(self.text_parts).strip())
        self.number_element = ""


_CHECKED_ELEMENTS: Final = frozenset({*_INTEGERS, *_DECIMALS, "beats", "per-minute"})


def _check_text(name: str, text: str) -> None:
    """Check the text of an element; accept an empty one."""
    if not text:
        return
    if name in _INTEGERS:
        parse_integer(text, name, *_INTEGERS[name])
    elif name in _DECIMALS:
        parse_decimal(text, name, *_DECIMALS[name])
    elif name == "beats":
        if not _BEATS.fullmatch(text):
            raise InvalidValue(f"beats {shorten(text)!r}: write whole numbers such as 4 or 2+3")
        _check_list(name, text)
    elif _NUMBER.fullmatch(text):  # else words, such as "ca. 120"
        _check_tempo(text)


def _check_list(name: str, text: str) -> None:
    """Check each number of a list such as "2+3" or "1, 2", and the length of the list."""
    most = _LISTS[name]
    numbers = _DIGITS.findall(text[:200])
    if len(text) > 200 or any(len(digits) > 9 or int(digits) > most for digits in numbers):
        raise InvalidValue(f"{name} {shorten(text)!r}: write whole numbers up to {most}")


def _check_tempo(text: str) -> None:
    parse_decimal(text, "tempo", round(SLOWEST_QPM, 6), FASTEST_QPM)


def check_humdrum(text: str) -> None:
    """Check the numbers of a Humdrum file.

    Raises:
        Refusal: a number is outside of its bounds; the refusal names the line.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("!"):
            continue
        try:
            for token in line.split("\t"):
                _check_token(token)
        except InvalidValue as fault:
            place = f"line {number}"
            raise Refusal(f"{fault}; the file was left out", place=place, code="damaged") from fault


def _check_token(token: str) -> None:
    if meter := _KERN_METER.match(token):
        _check_list("beats", meter[1])
        parse_integer(meter[2], "beat unit", 0, 1_024)
        if any(int(beats) == 0 for beats in _DIGITS.findall(meter[1])):
            raise InvalidValue(f"beats {shorten(meter[1])!r}: write whole numbers of 1 or more")
    elif tempo := _KERN_TEMPO.match(token):
        if _NUMBER.fullmatch(tempo[1]):
            _check_tempo(tempo[1])
    elif not token.startswith("*") and (digits := _LONG_NUMBER.search(token)):
        raise InvalidValue(
            f"length {shorten(digits[0])!r}: write a number of at most {_MOST_DIGITS} digits"
        )
