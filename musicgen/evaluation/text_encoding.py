"""The same tunes in another codec: ABC text of tunes that are stored as `measures`.

Bits per note can be compared across codecs only if the ids hold the same music. `measures` predicts
neither title nor tempo nor tonic, so the text has no title and no tempo, and is in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from musicgen.corpus.store import EncodedTune
from musicgen.errors import Mismatch
from musicgen.formats import abc
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec, Setting
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.text import ByteCodec, TextCodec


def render_text(codec: AnyCodec, tune: EncodedTune) -> str:
    """Write a tune as ABC, with what its ids hold and nothing else.

    Raises:
        Mismatch: the codec is not `measures`.
    """
    if not isinstance(codec, MeasuresCodec):
        raise Mismatch(f"tunes of the codec {codec.name!r} cannot be written as text: build the"
                       " data set with --codec measures")  # fmt: skip
    setting = Setting.from_json(tune.setting)
    plain = replace(PLAIN_SETTING, parts=setting.parts, velocities=setting.velocities)
    return abc.render(codec.decode(tune.ids.tolist(), plain).score)


def encode_as_text(
    codec: AnyCodec, *parts: Sequence[EncodedTune]
) -> tuple[TextCodec, list[list[EncodedTune]]]:
    """Encode tunes as characters of ABC.

    The vocabulary holds the characters of all parts, as that of `measures` holds all events.

    Args:
        codec: `measures`, in which the tunes are stored.
        parts: the parts of a data set; one that is given twice is encoded once.

    Returns:
        The text codec, and the parts in their order.

    Raises:
        Mismatch: the codec is not `measures`.
    """
    distinct = {id(part): part for part in parts}
    texts = {key: [render_text(codec, tune) for tune in part] for key, part in distinct.items()}
    text_codec = ByteCodec("text", is_word_level=False).fit(chain.from_iterable(texts.values()))
    plain = PLAIN_SETTING.to_json()
    encoded = {
        key: [
            replace(tune, ids=np.array(text_codec.encode(text).ids, np.int16), setting=plain)
            for tune, text in zip(distinct[key], part_texts, strict=True)
        ]
        for key, part_texts in texts.items()
    }
    return text_codec, [encoded[id(part)] for part in parts]
