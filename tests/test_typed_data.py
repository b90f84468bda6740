"""Numbers as text and data for a schema: what is accepted; the rest is refused in one line."""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction
from typing import Annotated

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.typed_data import (
    FileName,
    check_schema,
    decode_json,
    parse_decimal,
    parse_fraction,
    parse_integer,
    parse_toml,
)

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


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bars: Annotated[int, msgspec.Meta(ge=1, le=10)]
    share: float = 0.5


class Files(msgspec.Struct):
    sha256: dict[FileName, str]


class Book(msgspec.Struct, frozen=True):
    sizes: tuple[Size, ...]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"sizes": [{"bars": 256.0}]}', r"f.json, sizes\[0\].bars: expected int, got float"),
        ('{"sizes": [{"bars": true}]}', "expected int, got bool"),
        ('{"sizes": [{"bars": 11}]}', "expected int <= 10"),
        ('{"sizes": [{"bars": 1, "share": 1e999}]}', r"sizes\[0\].share: number out of range"),
        ('{"sizes": [{"bars": 1, "share": NaN}]}', "malformed"),
        ('{"sizes": [{"bars": 1, "odd": 1}]}', "unknown field odd"),
        ('{"sizes": [{"bars": 1' + "0" * 5000 + "}]}", "out of range"),
        ("{}", "missing required field sizes"),
        ("[" * 100_000, "f.json: "),
    ],
)
def test_error_names_the_place(data: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        decode_json(data, Book, "f.json")


def test_error_for_key_names_the_table() -> None:
    body = {"sha256": {"../a": "0"}}
    with pytest.raises(InvalidValue, match=r"^f.json, sha256: expected str of another form$"):
        check_schema(body, Files, "f.json")


@pytest.mark.parametrize("part", ["a.", '"a".', "'a' . ", "a.b"])
def test_refuses_long_dotted_keys_quickly(part: str) -> None:
    """tomllib takes time quadratic in the parts: 8 KiB took 1.3 s."""
    began = time.perf_counter()
    for text in (part * 10_000 + "=1", f"[{part * 10_000}]", "a={" + part * 10_000 + "=1}"):
        with pytest.raises(ValueError, match="a key has over 16 parts"):
            parse_toml(text)
    with pytest.raises(ValueError, match="Expected"):
        parse_toml("a" * 60_000)
    assert time.perf_counter() - began < 2


def test_accepts_dots_in_text() -> None:
    assert parse_toml('a.b = "x...y. z. https://a.b.c/d.e"') == {
        "a": {"b": "x...y. z. https://a.b.c/d.e"}
    }


@pytest.mark.parametrize("number", ["0x" + "f" * 60_000, "0o" + "7" * 60_000, "0b1" + "0" * 63,
                                    "9223372036854775808", "-9223372036854775809"])  # fmt: skip
@pytest.mark.parametrize("text", ["a = {}", "a = [1, [{}]]", "a = {{b = {}}}", "[[a]]\nb = {}"])
def test_refuses_integers_over_64_bits(text: str, number: str) -> None:
    with pytest.raises(InvalidValue, match=r"^a(\.b)? has a whole number of over 64 bits"):
        parse_toml(text.format(number))


def test_accepts_64_bit_integers() -> None:
    assert parse_toml("a = [0x7fffffffffffffff, -9223372036854775808, true]") == {
        "a": [2**63 - 1, -(2**63), True]
    }


def test_error_keeps_capitals_of_acronym() -> None:
    with pytest.raises(InvalidValue, match=r"^f.json: JSON is malformed"):
        decode_json("{!", Book, "f.json")


def test_refuses_deep_nesting() -> None:
    with pytest.raises(InvalidValue, match="nested too deeply"):
        decode_json("[" * 100_000, object, "f.json")


def test_checks_parsed_values() -> None:
    assert check_schema({"sizes": [{"bars": 3}]}, Book, "f.toml") == Book((Size(3),))
    with pytest.raises(InvalidValue, match=r"f.toml, sizes\[0\].bars: expected int, got str"):
        check_schema({"sizes": [{"bars": "3"}]}, Book, "f.toml")


@given(st.binary())
def test_refuses_any_bytes(data: bytes) -> None:
    with pytest.raises(InvalidValue, match=r"^f\.json"):
        decode_json(data, Book, "f.json")
