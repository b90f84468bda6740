from __future__ import annotations

import pytest

from musicgen.errors import Mismatch
from musicgen.music.score import BAND_ROLES, PART_ROLES
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS, Event


def test_every_kind_is_one_range_but_the_role_which_has_grown() -> None:
    assert sum(len(ids) for ids in MEASURES.ids_by_kind.values()) == len(MEASURES)
    grown = {
        kind for kind, ids in MEASURES.ids_by_kind.items() if len(MEASURES.ranges[kind]) < len(ids)
    }
    assert grown == {"role"}
    assert [str(MEASURES.events[id_].value) for id_ in MEASURES.ids_by_kind["role"]] == [
        *PART_ROLES
    ]


def test_the_tables_of_earlier_formats_are_prefixes_of_this_one() -> None:
    assert MEASURES.events[860:866] == tuple(Event("role", role) for role in BAND_ROLES)
    assert str(MEASURES.events[891]) == "given"
    MEASURES.check(MEASURES.names[:892], "a model of several parts")


def test_another_vocabulary_is_refused_with_the_first_difference() -> None:
    MEASURES.check(MEASURES.names, "here")
    with pytest.raises(Mismatch, match=r"there: its vocabulary of 2 events differs .* event 1 on"):
        MEASURES.check(("begin", "middle"), "there")


def test_rhythms_are_unique() -> None:
    assert len(set(RHYTHMS)) == len(RHYTHMS)
