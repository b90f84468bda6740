"""Promise 1: memory that is short while music21 reads is no damage of the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from music21 import converter

from musicgen.errors import is_short_of_memory
from musicgen.formats import musicxml


def plain() -> None:
    raise MemoryError


def wrapped() -> None:
    try:
        plain()
    except MemoryError as fault:
        raise converter.ConverterException("cannot parse") from fault


def met() -> None:
    try:
        plain()
    except MemoryError:
        raise KeyError("while it was cleared away")  # noqa: B904 - as careless code does


def damaged() -> None:
    raise KeyError("no part")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    def install(fail: Callable[[], None]) -> None:
        def parse(*_: Any, **_options: Any) -> None:
            fail()

        monkeypatch.setattr(converter, "parseData", parse)

    return install


@pytest.mark.parametrize("fail", [plain, wrapped, met])
@pytest.mark.parametrize("read", [musicxml.parse, musicxml.parse_humdrum])
def test_short_memory_goes_through(failing: Any, fail: Any, read: Any) -> None:
    failing(fail)
    with pytest.raises(MemoryError):
        read(b"<score-partwise/>", "a.xml")


def test_any_other_fault_is_a_refusal(failing: Any) -> None:
    failing(damaged)
    scores, (refusal,) = musicxml.parse(b"<score-partwise/>", "a.xml")
    assert (scores, refusal.code) == ((), "damaged")
    assert not is_short_of_memory(KeyError())
