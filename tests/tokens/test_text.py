from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicgen.errors import Refusal
from musicgen.tokens.codec import Decoded, Encoded, Setting, find_first_illegal
from musicgen.tokens.registry import restore_codec
from musicgen.tokens.text import MAX_CHARACTERS, ByteCodec, TextCodec
from tests.random_walks import wander

CHARACTERS, WORDS = (
    ByteCodec("text", is_word_level=False),
    ByteCodec("text-words", is_word_level=True),
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
TUNES = ("X:1\nK:D\nDEF|GAB|", "X:2\nK:G\n|:BAG|AGE:|", "Ó Briain's — a tune\nK:C\nCc|")
SETTING = Setting()


def fitted(words: bool = False, texts: tuple[str, ...] = TUNES) -> TextCodec:
    return (WORDS if words else CHARACTERS).fit(texts)


@settings(max_examples=200)
@given(TEXTS)
def test_bytes_bring_any_text_back(text: str) -> None:
    encoded = CHARACTERS.encode(text)
    assert CHARACTERS.decode(encoded.ids, SETTING) == Decoded(text, 0)
    assert find_first_illegal(encoded.ids, CHARACTERS.create_grammar(strict=False)) is None


@settings(max_examples=200)
@given(st.lists(TEXTS, max_size=4))
def test_characters_of_the_training_part_come_back_exactly(texts: list[str]) -> None:
    codec = CHARACTERS.fit(texts)
    for text in texts:
        encoded = codec.encode(text)
        decoded = codec.decode(encoded.ids, SETTING)
        assert decoded == Decoded(text, encoded.lost)
        assert encoded.lost == text.count("\ufffd")
        assert find_first_illegal(encoded.ids, codec.create_grammar(strict=False)) is None


@settings(max_examples=200)
@given(st.lists(TEXTS, max_size=4))
def test_words_and_ends_of_lines_come_back(texts: list[str]) -> None:
    codec = WORDS.fit(texts)
    for text in texts:
        decoded = codec.decode(codec.encode(text).ids, SETTING)
        lines = [line.split() for line in text.split("\n")]
        assert [line.split() for line in decoded.piece.split("\n")] == lines
        assert decoded.dropped == sum(line.count("\ufffd") for line in lines)


@settings(max_examples=200)
@given(TEXTS, st.booleans())
def test_encoding_what_was_decoded_gives_the_same_ids(text: str, words: bool) -> None:
    codec = fitted(words)
    encoded = codec.encode(text)
    decoded = codec.decode(encoded.ids, SETTING)
    assert decoded.dropped == encoded.lost
    assert codec.encode(decoded.piece) == encoded
    assert find_first_illegal(encoded.ids, codec.create_grammar(strict=False)) is None


@settings(max_examples=200)
@given(st.lists(st.integers(-1, 300), max_size=80), st.booleans())
def test_any_ids_decode(ids: list[int], words: bool) -> None:
    for codec in (fitted(words), CHARACTERS):
        decoded = codec.decode(ids, SETTING)
        assert 0 <= decoded.dropped <= len(ids)
        again = codec.encode(decoded.piece)
        assert codec.decode(again.ids, SETTING).piece == decoded.piece


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.integers(1, 60), st.sampled_from((False, True, None)))
def test_every_walk_ends_in_a_text_that_drops_nothing(
    seed: int, length: int, words: bool | None
) -> None:
    codec = CHARACTERS if words is None else fitted(words)
    ids = wander(codec, random.Random(seed), length)
    decoded = codec.decode(ids, SETTING)
    assert decoded.dropped == 0
    assert decoded.piece
    assert codec.encode(decoded.piece).ids == tuple(ids)


def test_the_vocabulary_is_sorted_by_count_then_name() -> None:
    assert fitted(texts=("banana", "c")).vocabulary.names == (
        "begin", "end", "unknown", "token=a", "token=n", "token=b", "token=c",
    )  # fmt: skip
    words = fitted(words=True, texts=("G A\nG z", "A G"))
    assert words.vocabulary.names[3:] == ("token=G", "token=A", "token=\n", "token=z")


def test_what_the_training_part_does_not_have_is_counted() -> None:
    codec = fitted(texts=("abc",))
    encoded = codec.encode("abxcy")
    assert encoded == Encoded(encoded.ids, Setting(), lost=2)
    assert codec.decode(encoded.ids, SETTING) == Decoded("ab\ufffdc\ufffd", 2)


def test_a_codec_is_made_again_from_its_names() -> None:
    for words in (False, True):
        codec = fitted(words)
        again = restore_codec(codec.name, codec.vocabulary.names, "here")
        assert again.vocabulary.names == codec.vocabulary.names
        assert again.encode(TUNES[0]) == codec.encode(TUNES[0])


def test_paragraphs_are_pieces() -> None:
    texts, refusals = CHARACTERS.read(b"\n\na b\r\nc  \r\n \t\r\n\r\nd\n", ".txt", "x.txt")
    assert texts == ("a b\nc  ", "d")
    assert not refusals
    assert WORDS.read(b"\n a  b\n\tc \n\nd", ".txt")[0] == ("a b\nc", "d")


def test_the_tunes_of_a_book_are_pieces() -> None:
    book = (
        b"%abc\nO: file header\n\nX:1\nT:A\nK:C\nCDE|\nX:2\nK:D\nDEF|\n\nfree text\n\nX:3\nK:G\nG|"
    )
    texts, refusals = CHARACTERS.read(book, ".abc", "book.abc")
    assert texts == ("X:1\nT:A\nK:C\nCDE|", "X:2\nK:D\nDEF|", "X:3\nK:G\nG|")
    assert not refusals


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_encodings_are_not_text(encoding: str) -> None:
    (text,), _ = CHARACTERS.read("Ó Briain\r\nK:C".encode(encoding), ".txt")
    assert text == "Ó Briain\nK:C"


def test_bad_pieces_cost_themselves_only() -> None:
    data = b"good\n\nbad \x1b[2J\n\n" + b"x" * (MAX_CHARACTERS + 1) + b"\n\nfine"
    texts, refusals = CHARACTERS.read(data, ".txt", "x.txt")
    assert texts == ("good", "fine")
    assert [refusal.code for refusal in refusals] == ["damaged", "too-large"]
    assert str(refusals[0]) == (
        "x.txt: text 2: it holds a control character, U+001B; it was left out"
    )
    assert str(refusals[1]).startswith("x.txt: text 3: it has 65,537 characters, over 65,536")


def test_a_file_without_text_is_refused() -> None:
    texts, (refusal,) = CHARACTERS.read(b" \n\n \n", ".txt", "x.txt")
    assert not texts
    assert refusal.code == "empty"


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(Refusal, match="half a surrogate pair"):
        CHARACTERS.encode("\ud800")
