"""Data from outside, checked before use: numbers in text, and JSON and TOML against typed schemas.

Text becomes a number only after it was matched against a pattern with bounds:
`Fraction("1e-9999999")` computes for seconds, `int("²")` and `int("9" * 5000)` raise unrelated
errors, `float("nan")` is accepted. Options, request fields, recipes, TOML values and corpus cards
therefore go through these functions.

A schema is a `msgspec.Struct`, or any annotation that msgspec supports, with bounds in
`msgspec.Meta`. Data that does not fit raises one `InvalidValue` that names the place and the fault.
"""

from __future__ import annotations

import re
import tomllib
from fractions import Fraction
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from musicgen.errors import InvalidValue

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL: Final = re.compile(
    r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?"
)
_FRACTION: Final = re.compile(r"[+-]?[0-9]{1,9}(?:/[0-9]{1,9}|\.[0-9]{1,9})?")
_SHOWN_CHARACTERS: Final = 40  # of an invalid value in an error message
T = TypeVar("T")
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z")]  # not a path
Count = Annotated[int, Meta(ge=0, le=2**53)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
MOST_KEY_PARTS: Final = 16
_KEY_PART: Final = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_KEY_PART}){{{MOST_KEY_PARTS}}}")
_PLACE: Final = re.compile(r" - at `(?:key` in `)?\$?\.?(.*)`$", re.DOTALL)
_PATTERN: Final = re.compile(r"matching regex .*", re.DOTALL)


def parse_integer(text: str, name: str, low: int, high: int) -> int:
    """Convert ASCII digits to an integer.

    Args:
        text: the number as text; surrounding whitespace is ignored.
        name: the option or field, for the error message.
        low: the smallest value accepted.
        high: the largest value accepted.

    Raises:
        InvalidValue: the text is not an integer of at most 19 digits, or is out of range.
    """
    digits = text.strip()
    if _INTEGER.fullmatch(digits) and low <= (value := int(digits)) <= high:
        return value
    raise InvalidValue(f"{name} {shorten(text)!r}: write a whole number from {low} to {high}")


def parse_decimal(text: str, name: str, low: float, high: float) -> float:
    """Convert a decimal number, with an exponent of at most two digits, to a float.

    Args:
        text: the number as text; surrounding whitespace is ignored.
        name: the option or field, for the error message.
        low: the smallest value accepted.
        high: the largest value accepted.

    Raises:
        InvalidValue: the text is not such a number (`nan` and `inf` are not), or is out of range.
    """
    digits = text.strip()
    if _DECIMAL.fullmatch(digits) and low <= (value := float(digits)) <= high:
        return value
    raise InvalidValue(f"{name} {shorten(text)!r}: write a number from {low:g} to {high:g}")


def parse_fraction(text: str, name: str, low: Fraction | int, high: Fraction | int) -> Fraction:
    """Convert "3", "3/8" or "0.375" to an exact fraction.

    Args:
        text: the number as text; surrounding whitespace is ignored.
        name: the option or field, for the error message.
        low: the smallest value accepted.
        high: the largest value accepted.

    Raises:
        InvalidValue: the text is not such a number, has a zero denominator or more than nine
            digits in either part, or is out of range.
    """
    digits = text.strip()
    if _FRACTION.fullmatch(digits):
        numerator, _, denominator = digits.partition("/")
        if not denominator or int(denominator):
            value = Fraction(numerator) / int(denominator or 1)
            if low <= value <= high:
                return value
    raise InvalidValue(
        f"{name} {shorten(text)!r}: write a number or a fraction from {low} to {high}"
    )


def shorten(text: str) -> str:
    """Cut a value to the length that error messages quote."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


class LargeNumber(InvalidValue):
    """A whole number in TOML does not fit 64 bits."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{shorten(key)} has a whole number of over 64 bits; write less")
        self.key = key  # the dotted path of the key


def decode_json(data: bytes | str, schema: type[T], source: str) -> T:
    """Parse JSON and check it against a schema.

    Args:
        data: UTF-8 bytes or text.
        schema: the type to return; it decides whether unknown fields are refused.
        source: the file or field, for the error message.

    Raises:
        InvalidValue: the data is not JSON, nests too deeply, or does not fit the schema.
    """
    try:
        return msgspec.json.decode(data, type=schema)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as fault:
        raise InvalidValue(f"{source}{describe_fault(fault)}") from fault


def check_schema(value: object, schema: type[T], source: str) -> T:
    """Check parsed values (of TOML, say) against a schema.

    Args:
        value: what a parser returned: dicts, lists, text, numbers, None.
        schema: the type to return.
        source: the file or field, for the error message.

    Raises:
        InvalidValue: the value does not fit the schema.
    """
    try:
        return msgspec.convert(value, type=schema)
    except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
        raise InvalidValue(f"{source}{describe_fault(fault)}") from fault


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML, with bounds on dotted keys and whole numbers.

    tomllib takes time quadratic in the parts of a dotted key (8 KiB of `a.a.a` took 1.3 s), and
    accepts whole numbers of any length, which cannot even be printed if they are long.

    Raises:
        LargeNumber: a whole number does not fit 64 bits.
        ValueError: the text is not TOML, or a key has over 16 parts.
        RecursionError: the text nests too deeply.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key has over {MOST_KEY_PARTS} parts with dots between them")
    table = tomllib.loads(text)
    _refuse_large(table)
    return table


def _refuse_large(table: dict[str, Any]) -> None:
    """Raise LargeNumber for a whole number that does not fit 64 bits."""
    pending: list[tuple[str, Any]] = list(table.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            pending += [(key, inner) for inner in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise LargeNumber(key)


def describe_fault(fault: Exception) -> str:
    """Return ", PLACE: FAULT" for an error of msgspec, or ": FAULT" if it names no place."""
    if isinstance(fault, RecursionError):
        return ": nested too deeply"
    text = str(fault)
    place = _PLACE.search(text)
    message = (text[: place.start()] if place else text).replace("`", "")
    message = _PATTERN.sub("of another form", message)
    message = message.removeprefix("Object contains ").removeprefix("Object ")
    if not message[1:2].isupper():  # else it starts with an acronym, such as JSON
        message = message[:1].lower() + message[1:]
    return f", {place[1]}: {message}" if place and place[1] else f": {message}"
