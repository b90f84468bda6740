"""Convert text to numbers: each text is matched against a pattern with bounds first.

`Fraction("1e-9999999")` computes for seconds, `int("²")` and `int("9" * 5000)` raise unrelated
errors, `float("nan")` is accepted. Options, request fields, recipes, TOML values and corpus cards
therefore go through these functions.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from musicgen.errors import InvalidValue

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL: Final = re.compile(
    r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?"
)
_FRACTION: Final = re.compile(r"[+-]?[0-9]{1,9}(?:/[0-9]{1,9}|\.[0-9]{1,9})?")
_SHOWN_CHARACTERS: Final = 40  # of an invalid value in an error message


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
