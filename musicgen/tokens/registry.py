"""The codecs by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.frames import SIXTEENTH, FramesCodec
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.text import ByteCodec
from musicgen.tokens.text import restore_text_codec as restored_text

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
    """Return the codec of a name. Raises InvalidValue for one that there is not."""
    if name not in CODECS:
        raise InvalidValue(f"codec {name!r} is unknown: choose one of {', '.join(CODECS)}")
    return CODECS[name]


def restore_codec(name: str, names: Iterable[str], where: str) -> AnyCodec:
    """Return the codec that a checkpoint or a data set was made with, by its vocabulary.

    Raises InvalidValue for an unknown name, Mismatch where the table of events is another one.
    """
    codec = find_codec(name)
    if isinstance(codec, ByteCodec):
        return restored_text(name, names, is_word_level=codec.is_word_level)
    codec.vocabulary.check(names, where)
    return codec
