from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import Refusal
from musicgen.tokens.codec import Decoded, Encoded, Setting, find_first_illegal
from musicgen.tokens.registry import restore_codec
from musicgen.tokens.text import MAX_CHARACTERS, ByteCodec, TextCodec
from tests.random_walks import walk_codec

CHARACTERS, WORDS = (
    ByteCodec("text", is_word_level=False),
    ByteCodec("text-words", is_word_level=True),
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
TUNES = ("X:1\nK:D\nDEF|GAB|", "X:2\nK:G\n|:BAG|AGE:|", "Ó Briain's — a tune\nK:C\nCc|")
SETTING = Setting()


def fitted(words: bool = False, texts: tuple[str, ...] = TUNES) -> TextCodec:
    return (WORDS if words else CHARACTERS).fit(texts)


@given(TEXTS)
def test_byte_codec_round_trips_any_text(text: str) -> None:
    encoded = CHARACTERS.encode(text)
    assert CHARACTERS.decode(encoded.ids, SETTING) == Decoded(text, 0)
    assert find_first_illegal(encoded.ids, CHARACTERS.create_grammar(strict=False)) is None


@given(st.lists(TEXTS, max_size=4))
def test_known_characters_round_trip_exactly(texts: list[str]) -> None:
    codec = CHARACTERS.fit(texts)
    for text in texts:
        encoded = codec.encode(text)
        decoded = codec.decode(encoded.ids, SETTING)
        assert decoded == Decoded(text, encoded.lost)
        assert encoded.lost == text.count("\ufffd")
        assert find_first_illegal(encoded.ids, codec.create_grammar(strict=False)) is None


@given(st.lists(TEXTS, max_size=4))
def test_words_and_line_ends_round_trip(texts: list[str]) -> None:
    codec = WORDS.fit(texts)
    for text in texts:
        decoded = codec.decode(codec.encode(text).ids, SETTING)
        lines = [line.split() for line in text.split("\n")]
        assert [line.split() for line in decoded.piece.split("\n")] == lines
        assert decoded.dropped == sum(line.count("\ufffd") for line in lines)


@given(TEXTS, st.booleans())
def test_encoding_a_decoded_text_gives_the_same_ids(text: str, words: bool) -> None:
    codec = fitted(words)
    encoded = codec.encode(text)
    decoded = codec.decode(encoded.ids, SETTING)
    assert decoded.dropped == encoded.lost
    assert codec.encode(decoded.piece) == encoded
    assert find_first_illegal(encoded.ids, codec.create_grammar(strict=False)) is None


@given(st.lists(st.integers(-1, 300), max_size=80), st.booleans())
def test_decoding_accepts_any_ids(ids: list[int], words: bool) -> None:
    for codec in (fitted(words), CHARACTERS):
        decoded = codec.decode(ids, SETTING)
        assert 0 <= decoded.dropped <= len(ids)
        again = codec.encode(decoded.piece)
        assert codec.decode(again.ids, SETTING).piece == decoded.piece


@given(st.integers(0, 10**9), st.integers(1, 60), st.sampled_from((False, True, None)))
def test_every_walk_yields_a_text_without_dropped_ids(
    seed: int, max_ids: int, words: bool | None
) -> None:
    codec = CHARACTERS if words is None else fitted(words)
    ids = walk_codec(codec, random.Random(seed), max_ids)
    decoded = codec.decode(ids, SETTING)
    assert decoded.dropped == 0
    assert decoded.piece
    assert codec.encode(decoded.piece).ids == tuple(ids)


def test_vocabulary_is_sorted_by_count_then_name() -> None:
    assert fitted(texts=("banana", "c")).vocabulary.names == (
        "begin", "end", "unknown", "token=a", "token=n", "token=b", "token=c",
    )  # fmt: skip
    words = fitted(words=True, texts=("G A\nG z", "A G"))
    assert words.vocabulary.names[3:] == ("token=G", "token=A", "token=\n", "token=z")


def test_unknown_characters_are_counted() -> None:
    codec = fitted(texts=("abc",))
    encoded = codec.encode("abxcy")
    assert encoded == Encoded(encoded.ids, Setting(), lost=2)
    assert codec.decode(encoded.ids, SETTING) == Decoded("ab\ufffdc\ufffd", 2)


def test_codec_is_restored_from_event_names() -> None:
    for words in (False, True):
        codec = fitted(words)
        restored = restore_codec(codec.name, codec.vocabulary.names, "here")
        assert restored.vocabulary.names == codec.vocabulary.names
        assert restored.encode(TUNES[0]) == codec.encode(TUNES[0])


def test_text_files_are_split_into_paragraphs() -> None:
    texts, refusals = CHARACTERS.read(b"\n\na b\r\nc  \r\n \t\r\n\r\nd\n", ".txt", "x.txt")
    assert texts == ("a b\nc  ", "d")
    assert not refusals
    assert WORDS.read(b"\n a  b\n\tc \n\nd", ".txt")[0] == ("a b\nc", "d")


def test_abc_files_are_split_into_tunes() -> None:
    book = (
        b"%abc\nO: file header\n\nX:1\nT:A\nK:C\nCDE|\nX:2\nK:D\nDEF|\n\nfree text\n\nX:3\nK:G\nG|"
    )
    texts, refusals = CHARACTERS.read(book, ".abc", "book.abc")
    assert texts == ("X:1\nT:A\nK:C\nCDE|", "X:2\nK:D\nDEF|", "X:3\nK:G\nG|")
    assert not refusals


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_reading_removes_the_file_encoding(encoding: str) -> None:
    (text,), _ = CHARACTERS.read("Ó Briain\r\nK:C".encode(encoding), ".txt")
    assert text == "Ó Briain\nK:C"


def test_malformed_pieces_are_refused_one_by_one() -> None:
    data = b"good\n\nbad \x1b[2J\n\n" + b"x" * (MAX_CHARACTERS + 1) + b"\n\nfine"
    texts, refusals = CHARACTERS.read(data, ".txt", "x.txt")
    assert texts == ("good", "fine")
    assert [refusal.code for refusal in refusals] == ["damaged", "too-large"]
    assert str(refusals[0]) == (
        "x.txt: text 2: it contains a control character, U+001B; it was left out"
    )
    assert str(refusals[1]).startswith("x.txt: text 3: it has 65,537 characters, over 65,536")


def test_file_without_text_is_refused() -> None:
    texts, (refusal,) = CHARACTERS.read(b" \n\n \n", ".txt", "x.txt")
    assert not texts
    assert refusal.code == "empty"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(Refusal, match="half a surrogate pair"):
        CHARACTERS.encode("\ud800")
