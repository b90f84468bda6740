"""Codecs whose vocabulary only the training part can teach: those of text.

While a corpus is read, its texts are bytes. Once the parts are decided, `taught` learns from the
training part, and `rewritten` writes each text with what was learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from musicgen.corpus.store import EncodedTune, tune_of
from musicgen.tokens.codec import PLAIN_SETTING, AnyCodec
from musicgen.tokens.text import ByteCodec


def taught(codec: AnyCodec, rows: Iterable[Mapping[str, Any]]) -> AnyCodec:
    """Return the codec that the training part's rows teach; one that needs no teaching, as it is.

    Rows are as `encode_file` wrote them.
    """
    if not isinstance(codec, ByteCodec):
        return codec
    return codec.fit(_text(codec, tune_of(row, group="")) for row in rows)


def rewritten(tune: EncodedTune, read_with: AnyCodec, codec: AnyCodec) -> EncodedTune:
    """Write a tune's ids with the codec of its data set, where that is not what read it."""
    if codec is read_with:
        return tune
    encoded = codec.encode(_text(read_with, tune))
    lost = (f"lost: {encoded.lost} tokens are not in the training part",) if encoded.lost else ()
    ids = np.array(encoded.ids, dtype=np.int16)
    return replace(tune, ids=ids, remarks=(*tune.remarks, *lost))


def _text(codec: AnyCodec, tune: EncodedTune) -> str:
    return str(codec.decode(tune.ids.tolist(), PLAIN_SETTING).piece)
