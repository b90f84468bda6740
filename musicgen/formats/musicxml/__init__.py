"""MusicXML, read with music21 like Humdrum, and written from the sheet that is also engraved."""

from __future__ import annotations

from collections.abc import Sequence

from musicgen.formats.musicxml.musicxml_reader import (
    MAX_XML_BYTES,
    parse,
    parse_humdrum,
    read_remarks,
)
from musicgen.music.score import Score

__all__ = ["MAX_XML_BYTES", "parse", "parse_humdrum", "read_remarks", "render"]


def render(score: Score, *, remarks: Sequence[str] = ()) -> bytes:
    """Write a tune as MusicXML, with remarks in its header; see `writer.render`."""
    from musicgen.formats.musicxml import musicxml_writer  # slow to import, with all of notation

    return musicxml_writer.render(score, remarks=remarks)
