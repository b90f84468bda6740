from __future__ import annotations

import pytest

from musicgen.errors import InvalidValue, Mismatch
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import CODECS, DEFAULT_CODEC, find_codec, restore_codec


def test_a_codec_is_found_by_its_name() -> None:
    assert find_codec(DEFAULT_CODEC).name == "measures"
    assert {find_codec(name).name for name in CODECS} == set(CODECS)


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidValue, match=r"codec 'solfege' is unknown: choose one of measures"):
        find_codec("solfege")


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_every_id_is_an_event_and_back(codec: AnyCodec) -> None:
    vocabulary = codec.vocabulary
    assert vocabulary.id("begin") == 0
    assert len(set(vocabulary.names)) == len(vocabulary)
    for id_, event in enumerate(vocabulary.events):
        assert vocabulary.id(event.kind, event.value) == id_
        assert id_ in vocabulary.ranges[event.kind]


def test_a_codec_with_another_table_is_refused() -> None:
    assert restore_codec("measures", find_codec("measures").vocabulary.names, "here") is find_codec(
        "measures"
    )
    with pytest.raises(Mismatch, match="there: its vocabulary of 2 events differs"):
        restore_codec("measures", ("begin", "middle"), "there")
