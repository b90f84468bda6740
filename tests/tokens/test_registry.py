from __future__ import annotations

import pytest

from musicgen.errors import InvalidValue, Mismatch
from musicgen.music.score import Note, Score
from musicgen.render import export
from musicgen.sampling.options import SamplingOptions
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import CODECS, DEFAULT_CODEC, find_codec, restore_codec


def test_codec_is_found_by_name() -> None:
    assert find_codec(DEFAULT_CODEC).name == "measures"
    assert {find_codec(name).name for name in CODECS} == set(CODECS)


def test_unknown_codec_is_refused_with_a_list_of_codecs() -> None:
    with pytest.raises(InvalidValue, match=r"codec 'solfege' is unknown: choose one of measures"):
        find_codec("solfege")


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_ids_and_events_map_to_each_other(codec: AnyCodec) -> None:
    vocabulary = codec.vocabulary
    assert vocabulary.id("begin") == 0
    assert len(set(vocabulary.names)) == len(vocabulary)
    for id_, event in enumerate(vocabulary.events):
        assert vocabulary.id(event.kind, event.value) == vocabulary.ids[event] == id_
        assert id_ in vocabulary.ids_by_kind[event.kind]


@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_codec_attributes_agree_with_its_pieces(codec: AnyCodec) -> None:
    if codec.pitch_range is None:
        assert codec.unit == "character"
        assert codec.encode("a").ids
        return
    assert codec.unit == "note"
    notes = tuple(Note(96 * index, pitch, 48) for index, pitch in enumerate(codec.pitch_range))
    encoded = codec.encode(Score(notes))
    piece = codec.decode(encoded.ids, encoded.setting).piece
    assert tuple(note.pitch for note in piece.notes) == codec.pitch_range
    assert codec.has_bars == ("bar" in codec.vocabulary.ranges)


def test_writable_suffixes_depend_on_bars_and_unit() -> None:
    for codec in CODECS.values():
        if codec.has_bars:
            assert codec.writable_suffixes == export.WRITABLE
        elif codec.unit == "note":
            pictures = {".svg", ".png"} if codec.name == "performance" else set[str]()
            assert set(codec.writable_suffixes) == {".mid", ".midi", ".wav", ".html"} | pictures
        else:
            assert codec.writable_suffixes == codec.suffixes == (".txt", ".abc")


def test_setting_options_are_sampling_options() -> None:
    for codec in CODECS.values():
        assert set(codec.setting_options) <= set(SamplingOptions.__slots__)


def test_codec_with_another_vocabulary_is_refused() -> None:
    assert restore_codec("measures", find_codec("measures").vocabulary.names, "here") is find_codec(
        "measures"
    )
    with pytest.raises(Mismatch, match="there: its vocabulary of 2 events differs"):
        restore_codec("measures", ("begin", "middle"), "there")
