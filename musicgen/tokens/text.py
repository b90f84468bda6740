"""Text: the characters, or the white-space tokens, of a corpus.

A piece is a paragraph of a text file, between blank lines, or a tune of an ABC file, as it stands.
What its vocabulary is only the training part can say, so there are two codecs of one name: a corpus
is read with `ByteCodec`, which writes any text as UTF-8; when its parts are decided, `fit` learns
the vocabulary from the training part and gives the `TextCodec` with which all parts are written.

===========  ================================================================
event        meaning
===========  ================================================================
begin, end   before the first token; after the last
unknown      a token that the training part does not have; reads as U+FFFD
token t      the character or the word t, the most frequent first
byte b       of UTF-8, while no vocabulary is known
===========  ================================================================

Characters come back exactly. Of white-space tokens come back the words and the ends of lines, with
one space between two words. What is unknown is counted, on the way in and on the way out.
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
MAX_TOKENS: Final = 16_384  # of a vocabulary; rarer ones are unknown
MAX_CHARACTERS: Final = 65_536  # of a piece
MAX_IDS: Final = 8192  # of a sampled piece

_TOKEN: Final = re.compile(r"\n|\S+")
_BLANK: Final = re.compile(r"\n[^\S\n]*\n\s*")
_TUNE: Final = re.compile(r"^X:", re.MULTILINE)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _TextCodecBase:
    """What both codecs of text share: how a file is cut into pieces, and pieces into tokens."""

    suffixes = (".txt", ".abc")
    writable_suffixes = (".txt", ".abc")
    unit: Unit = "character"
    has_bars = False
    pitch_range = None
    setting_options: tuple[str, ...] = ()

    def __init__(self, name: str, *, is_word_level: bool) -> None:
        self.name = name
        self.is_word_level = is_word_level

    def read(self, data: bytes, suffix: str, source: str = "") -> PieceParseResult[str]:
        """Read all paragraphs of a text, or all tunes of an ABC book, each as it stands."""
        return separate_refusals(self.iter_pieces(data, suffix, source))

    def iter_pieces(self, data: bytes, suffix: str, source: str = "") -> Iterator[str | Refusal]:
        """Read them one by one."""
        text = decode_bytes(data)
        number = 0
        for number, piece in enumerate(_tunes(text) if suffix == ".abc" else _paragraphs(text), 1):
            fault = _fault(piece)
            if fault is None:
                yield self.join(self.tokens(piece))
            else:
                yield _refusal(*fault, source, number)
        if not number:
            yield Refusal("it holds no text", source=source, code="empty")

    def tokens(self, text: str) -> list[str]:
        """Cut a text into characters, or into words and ends of lines."""
        return _TOKEN.findall(text) if self.is_word_level else list(text)

    def join(self, tokens: Sequence[str]) -> str:
        """Put tokens together, words with a space between two of a line."""
        if not self.is_word_level:
            return "".join(tokens)
        return " ".join(tokens).replace(" \n", "\n").replace("\n ", "\n")


class ByteCodec(_TextCodecBase):
    """Any text to ids and back, as UTF-8."""

    vocabulary = Vocabulary((("begin", (None,)), ("end", (None,)), ("byte", range(256))))

    def fit(self, texts: Iterable[str]) -> TextCodec:
        """Learn a vocabulary: the tokens of the texts, by count and then by name."""
        counts = Counter(token for text in texts for token in self.tokens(text))
        del counts[UNKNOWN_TEXT]
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return TextCodec(self.name, ranked[:MAX_TOKENS], is_word_level=self.is_word_level)

    def encode(self, piece: str) -> Encoded:
        """Write a text as ids. Raises Refusal for half a surrogate pair, which is no character."""
        try:
            data = piece.encode("utf-8")
        except UnicodeEncodeError as fault:
            message = "it holds half a surrogate pair; the text was left out"
            raise Refusal(message, code="damaged") from fault
        first = self.vocabulary.ranges["byte"].start
        return Encoded((*(first + byte for byte in data), self.vocabulary.id("end")), PLAIN_SETTING)

    def decode(self, ids: Iterable[int], setting: Setting) -> Decoded[str]:
        """Read any ids at all as a text; bytes that make no character are counted."""
        del setting
        data, dropped = _read_until_end(ids, self.vocabulary, "byte")
        whole = bytes(int(value) for value in data if isinstance(value, int))
        text = whole.decode("utf-8", "ignore")
        return Decoded(text, dropped + len(whole) - len(text.encode("utf-8")))

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> ByteGrammar:
        """Start a text."""
        del setting
        return ByteGrammar(MAX_IDS if strict else None)


class TextCodec(_TextCodecBase):
    """Text to ids of a vocabulary that was learnt, and back."""

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
        """Read any ids at all as a text; unknown tokens, and what has no place, are counted."""
        del setting
        values, dropped = _read_until_end(ids, self.vocabulary, "token", "unknown")
        tokens = [UNKNOWN_TEXT if value is None else str(value) for value in values]
        return Decoded(self.join(tokens), dropped + values.count(None))

    def create_grammar(
        self, setting: Setting = PLAIN_SETTING, *, strict: bool = True
    ) -> TextGrammar:
        """Start a text."""
        del setting
        return TextGrammar(self.vocabulary, MAX_IDS if strict else None)


def restore_text_codec(name: str, names: Iterable[str], *, is_word_level: bool) -> TextCodec:
    """Make a codec again from the names of its events, as a manifest keeps them."""
    tokens = (text.removeprefix("token=") for text in names if text.startswith("token="))
    return TextCodec(name, tokens, is_word_level=is_word_level)


def _read_until_end(
    ids: Iterable[int], vocabulary: Vocabulary, *kinds: str
) -> tuple[list[Value], int]:
    """Return the values of some kinds of events before the end, and count all others."""
    found: list[Value] = []
    dropped = 0
    ended = False
    for id_ in ids:
        event = vocabulary.event(id_)
        if ended or event.kind not in (*kinds, "end"):
            dropped += 1
        elif event.kind == "end":
            ended = True
        else:
            found.append(event.value)
    return found, dropped


def _paragraphs(text: str) -> Iterator[str]:
    return (piece for piece in _BLANK.split(text.strip()) if piece.strip())


def _tunes(text: str) -> Iterator[str]:
    """Yield from each X: field to the next, or to a blank line."""
    starts = [match.start() for match in _TUNE.finditer(text)]
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        yield _BLANK.split(text[start:stop], maxsplit=1)[0].strip()


def _fault(piece: str) -> tuple[str, str] | None:
    """Return what is wrong with a piece, and its reason code."""
    if len(piece) > MAX_CHARACTERS:
        return f"it has {len(piece):,} characters, over {MAX_CHARACTERS:,}", "too-large"
    found = _CONTROL.search(piece)
    if found:
        return f"it holds a control character, U+{ord(found[0]):04X}", "damaged"
    return None


def _refusal(fault: str, code: str, source: str, number: int) -> Refusal:
    return Refusal(f"{fault}; it was left out", source=source, place=f"text {number}", code=code)


class TextGrammar(LengthLimitedGrammar):
    """Any token may follow any other; where this is for sampling, all but the unknown one."""

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
        """Follow a legal id."""
        self.id_count += 1
        self.is_done = id_ == self.end


class ByteGrammar(LengthLimitedGrammar):
    """Which byte may come next, so that all bytes are well-formed UTF-8."""

    def __init__(self, max_ids: int | None) -> None:
        super().__init__(max_ids)
        self.missing_bytes = 0  # bytes that the character under way still lacks
        self.low, self.high = 0x80, 0xBF  # between which the next of them is

    def legal_ids(self) -> tuple[int, ...]:
        """Return the ids that may come next; none once the text is done."""
        if self.is_done:
            return ()
        if self.missing_bytes:
            return tuple(range(_BYTES[self.low], _BYTES[self.high] + 1))
        starts = () if self.is_closing else (*_BYTES[:0x80], *_BYTES[0xC2:0xF5])
        return (*(() if self.is_strict and not self.id_count else (_END,)), *starts)

    def take(self, id_: int) -> None:
        """Follow a legal id."""
        self.id_count += 1
        self.is_done = id_ == _END
        byte = id_ - _BYTES.start
        if self.missing_bytes:
            self.missing_bytes -= 1
            self.low, self.high = 0x80, 0xBF
        elif byte >= 0xC2:
            self.missing_bytes = 1 + (byte >= 0xE0) + (byte >= 0xF0)
            self.low, self.high = _SECOND.get(byte, (0x80, 0xBF))


_BYTES: Final = ByteCodec.vocabulary.ranges["byte"]
_END: Final = ByteCodec.vocabulary.ids[Event("end")]
# After some first bytes the second has less room: no long forms, no surrogates, no end beyond.
_SECOND: Final = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
