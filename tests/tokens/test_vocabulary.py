from __future__ import annotations

import pytest

from musicgen.errors import Mismatch
from musicgen.tokens.codec import Setting
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS


def test_every_id_is_an_event_and_back() -> None:
    for id_, event in enumerate(MEASURES.events):
        assert MEASURES.ids[event] == id_
        assert MEASURES.id(event.kind, event.value) == id_
        assert id_ in MEASURES.ranges[event.kind]


def test_every_kind_is_one_range() -> None:
    assert sum(len(ids) for ids in MEASURES.ranges.values()) == len(MEASURES)
    assert len(set(MEASURES.names)) == len(MEASURES)


def test_begin_is_the_first_id() -> None:
    assert MEASURES.id("begin") == 0


def test_every_event_decodes_to_something() -> None:
    codec = MeasuresCodec()
    for id_ in range(len(MEASURES)):
        assert codec.decode([id_], Setting()).dropped in (0, 1)


def test_another_table_is_refused_with_the_first_difference() -> None:
    MEASURES.check(MEASURES.names, "here")
    with pytest.raises(Mismatch, match=r"there: its vocabulary of 2 events differs .* event 1 on"):
        MEASURES.check(("begin", "middle"), "there")


def test_rhythms_are_named_once() -> None:
    assert len(set(RHYTHMS)) == len(RHYTHMS)
