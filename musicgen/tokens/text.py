"""Text codecs: the characters, or the whitespace-separated words, of a corpus.

A piece is a paragraph of a text file, between blank lines, or the text of a tune in an ABC file.
The vocabulary depends on the training split, so there are two codecs per name: a corpus is read
with `ByteCodec`, which encodes any text as UTF-8; after the split, `fit` learns the vocabulary of
the training tunes and returns the `TextCodec` that encodes all splits.

===========  ================================================================
event        meaning
===========  ================================================================
begin, end   before the first token; after the last
unknown      a token that does not occur in the training split; decodes to U+FFFD
token t      the character or the word t, the most frequent first
byte b       of UTF-8, before a vocabulary is learned
===========  ================================================================

Character codecs restore texts exactly. Word codecs restore words and line ends, with one space
between words. Encoding and decoding count unknown tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from musicgen.errors import Refusal
from musicgen.formats.abc import decode_bytes
from musicgen.tokens.codec import (
    PLAIN_SETTING,
    Decoded,
    Encoded,
    LengthLimitedGrammar,
    PieceParseResult,
    Setting,
    Unit,
    separate_refusals,
)
from musicgen.tokens.vocabulary import Event, Value, Vocabulary

UNKNOWN_TEXT: Final = "\N{REPLACEMENT CHARACTER}"
MAX_TOKENS: Final = 16_384  # in a vocabulary; rarer tokens are unknown
MAX_CHARACTERS: Final = 65_536  # in a piece
MAX_IDS: Final = 8192  # in a sampled piece

_TOKEN: Final = re.compile(r"\n|\S+")
_BLANK: Final = re.compile(r"\n[^\S\n]*\n\s*")
_TUNE: Final = re.compile(r"^X:", re.MULTILINE)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _TextCodecBase:
    """Base class of the text codecs: splits files into pieces, and pieces into tokens."""

    suffixes = (".txt", ".abc")
    writable_suffixes = (".txt", ".abc")
    unit: Unit = "character"
    has_bars = False
    contexts = ("none",)
    pitch_range = None
    setting_options: tuple[str, ...] = ()

    def __init__(self, name: str, *, is_word_level: bool) -> None:
        self.name = name
        self.is_word_level = is_word_level

    def read(self, data: bytes, suffix: str, source: str = "") -> PieceParseResult[str]:
        """Read all paragraphs of a text, or the texts of all tunes of an ABC file."""
        return separate_refusals(self.iter_pieces(data, suffix, source))

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[str | Refusal]:
        """Yield the pieces of a file, and refusals."""
        text = decode_bytes(data)
        number = 0
        pieces = _iter_tunes(text) if suffix == ".abc" else _iter_paragraphs(text)
        for number, piece in enumerate(pieces, 1):
            refusal = _check_piece(piece, source, number)
            yield self.join(self.tokens(piece)) if refusal is None else refusal
        if not number:
            yield Refusal("the file contains no text", source=source, code="empty")

    def tokens(self, text: str) -> list[str]:
        """Split a text into characters, or into words and line ends."""
        return _TOKEN.findall(text) if self.is_word_level else list(text)

    def join(self, tokens: Sequence[str]) -> str:
        """Join tokens, with a space between two words of a line."""
        if not self.is_word_level:
            return "".join(tokens)
        return " ".join(tokens).replace(" \n", "\n").replace("\n ", "\n")


class ByteCodec(_TextCodecBase):
    """Converts any text to UTF-8 bytes as ids, and back."""

    vocabulary = Vocabulary((("begin", (None,)), ("end", (None,)), ("byte", range(256))))

    def fit(self, texts: Iterable[str]) -> TextCodec:
        """Learn a vocabulary: the most frequent tokens of the texts, ties in alphabetical order."""
        counts = Counter(token for text in texts for token in self.tokens(text))
        del counts[UNKNOWN_TEXT]
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return TextCodec(self.name, ranked[:MAX_TOKENS], is_word_level=self.is_word_level)

    def encode(self, piece: str) -> Encoded:
        """Encode a text.

        Raises:
            Refusal: the text contains a lone surrogate.
        """
        try:
            data = piece.encode("utf-8")
        except UnicodeEncodeError as fault:
            message = "the text contains half a surrogate pair; it was left out"
            raise Refusal(message, code="damaged") from fault
        first = self.vocabulary.ranges["byte"].start
        return Encoded((*(first + byte for byte in data), self.vocabulary.id("end")), PLAIN_SETTING)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[str]:
        """Decode any ids to a text; count the bytes that are not valid UTF-8."""
        del setting
        values, dropped = _read_until_end(ids, self.vocabulary, "byte")
        data = bytes(value for value in values if isinstance(value, int))
        text = data.decode("utf-8", "ignore")
        return Decoded(text, dropped + len(data) - len(text.encode("utf-8")))

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> ByteGrammar:
        """Create the grammar of a new text."""
        del setting
        return ByteGrammar(MAX_IDS if strict else None)


class TextCodec(_TextCodecBase):
    """Converts text to ids of a learned vocabulary, and back."""

    def __init__(self, name: str, tokens: Iterable[str], *, is_word_level: bool) -> None:
        super().__init__(name, is_word_level=is_word_level)
        single: tuple[Value, ...] = (None,)
        self.vocabulary = Vocabulary(
            (("begin", single), ("end", single), ("unknown", single), ("token", tuple(tokens)))
        )
        self._ids = {event.value: id_ for event, id_ in self.vocabulary.ids.items() if event.value}
        self._unknown = self.vocabulary.id("unknown")

    def encode(self, piece: str) -> Encoded:
        """Write a text as ids; tokens that the vocabulary does not have are counted as lost."""
        ids = [self._ids.get(token, self._unknown) for token in self.tokens(piece)]
        end = self.vocabulary.id("end")
        return Encoded((*ids, end), PLAIN_SETTING, ids.count(self._unknown))

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[str]:
        """Decode any ids to a text; count unknown tokens, and ids that could not be used."""
        del setting
        values, dropped = _read_until_end(ids, self.vocabulary, "token", "unknown")
        tokens = [UNKNOWN_TEXT if value is None else str(value) for value in values]
        return Decoded(self.join(tokens), dropped + values.count(None))

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> TextGrammar:
        """Create the grammar of a new text."""
        del setting
        return TextGrammar(self.vocabulary, MAX_IDS if strict else None)


def restore_text_codec(name: str, names: Iterable[str], *, is_word_level: bool) -> TextCodec:
    """Restore a codec from the names of its events, as a manifest stores them."""
    tokens = (text.removeprefix("token=") for text in names if text.startswith("token="))
    return TextCodec(name, tokens, is_word_level=is_word_level)


def _read_until_end(
    ids: Iterable[int], vocabulary: Vocabulary, *kinds: str
) -> tuple[list[Value], int]:
    """Return the values of the events of some kinds before the end, and count all other ids."""
    values: list[Value] = []
    dropped = 0
    has_ended = False
    for id_ in ids:
        event = vocabulary.event(id_)
        if has_ended or event.kind not in (*kinds, "end"):
            dropped += 1
        elif event.kind == "end":
            has_ended = True
        else:
            values.append(event.value)
    return values, dropped


def _iter_paragraphs(text: str) -> Iterator[str]:
    return (piece for piece in _BLANK.split(text.strip()) if piece.strip())


def _iter_tunes(text: str) -> Iterator[str]:
    """Yield the text from each X: field to the next one, or to a blank line."""
    starts = [match.start() for match in _TUNE.finditer(text)]
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        yield _BLANK.split(text[start:stop], maxsplit=1)[0].strip()


def _check_piece(piece: str, source: str, number: int) -> Refusal | None:
    """Return why a piece is refused; None if it is not."""
    if len(piece) > MAX_CHARACTERS:
        fault = f"it has {len(piece):,} characters, over {MAX_CHARACTERS:,}"
        code = "too-large"
    elif control := _CONTROL.search(piece):
        fault = f"it contains a control character, U+{ord(control[0]):04X}"
        code = "damaged"
    else:
        return None
    return Refusal(f"{fault}; it was left out", source=source, place=f"text {number}", code=code)


class TextGrammar(LengthLimitedGrammar):
    """Allows any token after any other; if strict, all but the unknown one."""

    def __init__(self, vocabulary: Vocabulary, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.end = vocabulary.id("end")
        self.tokens = tuple(vocabulary.ranges.get("token", range(0)))
        self.all_ids = (
            self.end,
            *(() if self.is_strict else (vocabulary.id("unknown"),)),
            *self.tokens,
        )

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the text is done."""
        if self.is_done:
            return ()
        if self.is_closing:
            return (self.end,)
        return self.tokens if self.is_strict and not self.id_count and self.tokens else self.all_ids

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        self.id_count += 1
        self.is_done = id_ == self.end


class ByteGrammar(LengthLimitedGrammar):
    """Allows the bytes that keep a text well-formed UTF-8."""

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.missing_bytes = 0  # of the current character
        self.low, self.high = 0x80, 0xBF  # range of the next of them

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the text is done."""
        if self.is_done:
            return ()
        if self.missing_bytes:
            return tuple(range(_BYTES[self.low], _BYTES[self.high] + 1))
        starts = () if self.is_closing else (*_BYTES[:0x80], *_BYTES[0xC2:0xF5])
        return (*(() if self.is_strict and not self.id_count else (_END,)), *starts)

    def take(self, id_: int) -> None:
        """Advance by a legal id."""
        self.id_count += 1
        self.is_done = id_ == _END
        byte = id_ - _BYTES.start
        if self.missing_bytes:
            self.missing_bytes -= 1
            self.low, self.high = 0x80, 0xBF
        elif byte >= 0xC2:
            self.missing_bytes = 1 + (byte >= 0xE0) + (byte >= 0xF0)
            self.low, self.high = _SECOND_BYTE_RANGES.get(byte, (0x80, 0xBF))


_BYTES: Final = ByteCodec.vocabulary.ranges["byte"]
_END: Final = ByteCodec.vocabulary.ids[Event("end")]
# After some first bytes, the range of the second excludes overlong forms, surrogates and values
# beyond U+10FFFF.
_SECOND_BYTE_RANGES: Final = {
    0xE0: (0xA0, 0xBF),
    0xED: (0x80, 0x9F),
    0xF0: (0x90, 0xBF),
    0xF4: (0x80, 0x8F),
}
