from __future__ import annotations

import pytest

from musicgen.errors import Mismatch
from musicgen.tokens.vocabulary import MEASURES, RHYTHMS


def test_every_kind_is_one_range() -> None:
    assert sum(len(ids) for ids in MEASURES.ranges.values()) == len(MEASURES)


def test_another_vocabulary_is_refused_with_the_first_difference() -> None:
    MEASURES.check(MEASURES.names, "here")
    with pytest.raises(Mismatch, match=r"there: its vocabulary of 2 events differs .* event 1 on"):
        MEASURES.check(("begin", "middle"), "there")


def test_rhythms_are_unique() -> None:
    assert len(set(RHYTHMS)) == len(RHYTHMS)
