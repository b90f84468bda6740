"""MusicXML: music21 reads it, and Humdrum; what is written is the sheet that verovio engraves."""

from __future__ import annotations

from collections.abc import Sequence

from musicgen.formats.musicxml.reader import MAX_XML_BYTES, parse, parse_humdrum, read_remarks
from musicgen.music.score import Score

__all__ = ["MAX_XML_BYTES", "parse", "parse_humdrum", "read_remarks", "render"]


def render(score: Score, *, remarks: Sequence[str] = ()) -> bytes:
    """Write a tune as MusicXML; remarks travel with it. Raises InvalidValue for odd remarks."""
    from musicgen.formats.musicxml import writer  # with the whole sheet: not for every start

    return writer.render(score, remarks=remarks)
