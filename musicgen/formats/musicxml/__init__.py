"""MusicXML: music21 reads it, and Humdrum; what is written is the sheet that verovio engraves."""

from __future__ import annotations

from musicgen.formats.musicxml.reader import MAX_XML_BYTES, parse, parse_humdrum, remarks
from musicgen.formats.musicxml.writer import render

__all__ = ["MAX_XML_BYTES", "parse", "parse_humdrum", "remarks", "render"]
