"""Lack of memory while music21 reads is not reported as a damaged file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from music21 import converter

from musicgen.errors import is_short_of_memory
from musicgen.formats import musicxml


def raise_memory_error() -> None:
    raise MemoryError


def raise_wrapped_memory_error() -> None:
    try:
        raise_memory_error()
    except MemoryError as fault:
        raise converter.ConverterException("cannot parse") from fault


def raise_error_while_handling_memory_error() -> None:
    try:
        raise_memory_error()
    except MemoryError:
        raise KeyError("while it was cleared away")  # noqa: B904 - as careless code does


def raise_key_error() -> None:
    raise KeyError("no part")


@pytest.fixture
def failing_music21(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    def install(fail: Callable[[], None]) -> None:
        def parse(*_: Any, **_options: Any) -> None:
            fail()

        monkeypatch.setattr(converter, "parseData", parse)

    return install


@pytest.mark.parametrize(
    "fail",
    [raise_memory_error, raise_wrapped_memory_error, raise_error_while_handling_memory_error],
)
@pytest.mark.parametrize("read", [musicxml.parse, musicxml.parse_humdrum])
def test_memory_error_is_raised(failing_music21: Any, fail: Any, read: Any) -> None:
    failing_music21(fail)
    with pytest.raises(MemoryError):
        read(b"<score-partwise/>", "a.xml")


def test_other_errors_become_refusals(failing_music21: Any) -> None:
    failing_music21(raise_key_error)
    scores, (refusal,) = musicxml.parse(b"<score-partwise/>", "a.xml")
    assert (scores, refusal.code) == ((), "damaged")
    assert not is_short_of_memory(KeyError())
