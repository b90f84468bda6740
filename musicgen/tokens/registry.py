"""All codecs by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.frames import SIXTEENTH, FramesCodec
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.text import ByteCodec, restore_text_codec

DEFAULT_CODEC: Final = MeasuresCodec.name
_ALL: Final[tuple[AnyCodec, ...]] = (
    MeasuresCodec(),
    PerformanceCodec(),
    FramesCodec(),
    FramesCodec("frames-16", SIXTEENTH),
    ByteCodec("text", is_word_level=False),
    ByteCodec("text-words", is_word_level=True),
)
CODECS: Final[Mapping[str, AnyCodec]] = {codec.name: codec for codec in _ALL}


def find_codec(name: str) -> AnyCodec:
    """Look up a codec by name.

    Raises:
        InvalidValue: the name is unknown.
    """
    if name not in CODECS:
        raise InvalidValue(f"codec {name!r} is unknown: choose one of {', '.join(CODECS)}")
    return CODECS[name]


def restore_codec(name: str, names: Iterable[str], where: str) -> AnyCodec:
    """Restore the codec that a checkpoint or a data set was made with.

    Args:
        name: of the codec.
        names: of the events of its vocabulary, in the order of their ids.
        where: the checkpoint or data set, for the error message.

    Raises:
        InvalidValue: the name is unknown.
        Mismatch: the vocabulary differs from this program's.
    """
    codec = find_codec(name)
    if isinstance(codec, ByteCodec):
        return restore_text_codec(name, names, is_word_level=codec.is_word_level)
    codec.vocabulary.check(names, where)
    return codec
