"""Numbers as text: which are accepted, and that malformed ones are refused quickly."""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.number_parsing import parse_decimal, parse_fraction, parse_integer

HOSTILE = ("1e-9999999", "1e9999999", "²", "٣", "9" * 4000, "1/" + "9" * 4000, "nan", "inf", "-inf",
           "", " ", "+", "1_000", "0x10", "1/0", "1/-2", "--1", "1e", "1\x00", "½")  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_refuses_malformed_numbers_quickly(text: str) -> None:
    began = time.perf_counter()
    for parse in (parse_integer, parse_decimal, parse_fraction):
        with pytest.raises(InvalidValue, match=r"size .*: write a"):
            parse(text, "size", -10, 10)
    assert time.perf_counter() - began < 1


@given(st.text())
@example("1e-99999999")
def test_text_is_number_in_range_or_refused(text: str) -> None:
    for parse in (parse_integer, parse_decimal, parse_fraction):
        with suppress(InvalidValue):
            assert 0 <= parse(text, "size", 0, 100) <= 100


@given(st.integers(-(10**6), 10**6))
def test_integer_round_trips(number: int) -> None:
    assert parse_integer(f" {number} ", "size", -(10**6), 10**6) == number


@given(st.floats(-1e6, 1e6))
def test_decimal_round_trips(number: float) -> None:
    assert parse_decimal(f"{number:.12f}", "size", -1e6, 1e6) == pytest.approx(number, abs=1e-9)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_fraction_round_trips(over: int, under: int) -> None:
    assert parse_fraction(f"{over}/{under}", "size", -999, 999) == Fraction(over, under)


def test_error_names_the_range() -> None:
    with pytest.raises(InvalidValue, match="bars '11': write a whole number from 1 to 10"):
        parse_integer("11", "bars", 1, 10)
