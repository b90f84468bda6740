"""Chord symbols in the spines of a Humdrum file, which music21 does not read.

**mxhm   symbols as MusicXML has them: "G", "D7/F#", "C major-seventh", "B- minor"
**harm   Roman numerals in the key of the last *G: or *g:, such as "V7b" or "viio/V"

A symbol starts with the note of **kern on its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from musicgen.formats.musicxml.musicxml_writer import HARMONY_KINDS
from musicgen.music.theory import CHORD_TONES, ChordSymbol, Key, match_chord

CHORD_SPINES: Final = ("**mxhm", "**harm")
_KERN: Final = "**kern"
_RECIPROCAL: Final = re.compile(r"([0-9]{1,6})(?:%([0-9]{1,6}))?(\.{0,6})")
_KEY: Final = re.compile(r"\*([A-Ga-g])([#-]?):")
_MXHM: Final = re.compile(r"([A-G])([#b-]?)\s+([a-z-]+)(?:/([A-G])([#b-]?))?")
_NUMERAL: Final = re.compile(r"([#-]?)([ivIV]{1,3})([o+]?)(7?)([abcd]?)(?:/([#-]?[ivIV]{1,3}))?")
_DEGREES: Final = ("i", "ii", "iii", "iv", "v", "vi", "vii")
_MAX_SPINES: Final = 256
_QUALITIES: Final = {kind: quality for quality, kind in HARMONY_KINDS.items()}
_ACCIDENTALS: Final = {"#": 1, "-": -1, "b": -1, "": 0}


@dataclass
class _Reader:
    """The spines of the current line, and how far the notes have come."""

    kinds: list[str] = field(default_factory=list)  # of each column
    ends: list[Fraction] = field(default_factory=list)  # of the last note of each, in quarters
    key: Key = field(default_factory=lambda: Key("C"))

    def read_line(self, tokens: Sequence[str]) -> Iterator[tuple[Fraction, str]]:
        """Read the tokens of a line; yield onset in quarter notes and text of each symbol."""
        if tokens[0].startswith("**"):
            self.kinds, self.ends = list(tokens), [Fraction(0)] * len(tokens)
        elif len(tokens) != len(self.kinds):
            return
        elif tokens[0].startswith("*"):
            self._interpret(tokens)
        elif not tokens[0].startswith(("!", "=")):
            yield from self._read_data(tokens)

    def _interpret(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            if match := _KEY.match(token):
                tonic = match[1].upper() + match[2].replace("-", "b")
                self.key = Key(tonic, "minor" if match[1].islower() else "major")
        columns: list[tuple[str, Fraction]] = []
        is_joining = False
        for cell, column in zip(tokens, zip(self.kinds, self.ends, strict=True), strict=True):
            if cell == "*v" and is_joining:
                columns[-1] = (column[0], max(column[1], columns[-1][1]))
            elif cell != "*-":
                columns += [column] * (1 + (cell in ("*^", "*+")))
            is_joining = cell == "*v"
        self.kinds = [kind for kind, _ in columns[:_MAX_SPINES]]
        self.ends = [end for _, end in columns[:_MAX_SPINES]]

    def _read_data(self, tokens: Sequence[str]) -> Iterator[tuple[Fraction, str]]:
        onset = None
        for index, (kind, cell) in enumerate(zip(self.kinds, tokens, strict=True)):
            if kind == _KERN and cell != ".":
                onset = self.ends[index]
                self.ends[index] += _read_quarters(cell)
        for kind, cell in zip(self.kinds, tokens, strict=True):
            symbol = self._read_symbol(kind, cell) if cell != "." else None
            if onset is not None and symbol is not None:
                yield onset, symbol

    def _read_symbol(self, kind: str, token: str) -> str | None:
        if kind == "**harm":
            chord = read_numeral(token, self.key)
            return None if chord is None else chord.spell(self.key)
        return _read_mxhm(token) if kind == "**mxhm" else None


def iter_humdrum_chords(text: str) -> Iterator[tuple[Fraction, str]]:
    """Yield onset in quarter notes and text of each chord symbol of a Humdrum file."""
    if not any(name in text for name in CHORD_SPINES):
        return
    reader = _Reader()
    for line in text.splitlines():
        if line and not line.startswith("!!"):
            yield from reader.read_line(line.split("\t"))


def _read_quarters(token: str) -> Fraction:
    """Return the duration of a note or rest of **kern in quarter notes; grace notes have none."""
    match = _RECIPROCAL.search(token)
    if match is None or "q" in token.lower():
        return Fraction(0)
    number = int(match[1])
    whole = Fraction(int(match[2] or 1), number) if number else Fraction(2)
    return 4 * whole * (2 - Fraction(1, 2 ** len(match[3])))


def _read_mxhm(token: str) -> str | None:
    """Return a chord symbol of **mxhm in our spelling; None for one that names no root."""
    match = _MXHM.fullmatch(token.strip())
    if match is not None and match[3] in _QUALITIES:
        bass = f"/{match[4]}{_flat(match[5])}" if match[4] else ""
        return f"{match[1]}{_flat(match[2])}{_QUALITIES[match[3]]}{bass}"
    parts = match_chord(re.sub(r"(?<![A-Za-z0-9])([A-G])-", r"\1b", token))
    if parts is None:
        return None
    root, quality, bass = parts
    return f"{root}{quality}" + (f"/{bass}" if bass else "")


def _flat(accidental: str) -> str:
    return accidental.replace("-", "b")


def read_numeral(text: str, key: Key) -> ChordSymbol | None:
    """Read a Roman numeral of **harm in a key: V7b in G is D7/F#. None for other texts.

    Upper case is major, lower case minor; o is diminished, + augmented; 7 adds the seventh of the
    scale; a to d are the inversions; after / stands the degree whose key it is in.
    """
    match = _NUMERAL.fullmatch(text)
    if match is None or match[2].lower() not in _DEGREES:
        return None
    if match[6] is not None:
        local = read_numeral(match[6], key)
        if local is None:
            return None
        mode = "minor" if local.quality in ("m", "dim") else "major"
        return read_numeral(text.partition("/")[0], Key.of(local.root, mode))
    degree = _DEGREES.index(match[2].lower())
    scale = _list_scale(key, raises_leading_note=degree == 6 and match[3] == "o")
    root = (scale[degree] + _ACCIDENTALS[match[1]]) % 12
    quality = {"o": "dim", "+": "aug"}.get(match[3], "m" if match[2].islower() else "")
    if match[4]:
        quality = _add_seventh(quality, (scale[(degree + 6) % 7] - root) % 12)
    tones = CHORD_TONES[quality]
    inversion = "abcd".index(match[5]) if match[5] else 0
    bass = (root + tones[inversion]) % 12 if 0 < inversion < len(tones) else None
    return ChordSymbol(root, quality, bass)


def _list_scale(key: Key, *, raises_leading_note: bool) -> list[int]:
    """Return the pitch classes of the seven degrees."""
    tonic = key.pitch_class
    scale = sorted(key.scale, key=lambda pitch_class: (pitch_class - tonic) % 12)
    if raises_leading_note:
        scale[6] = (tonic - 1) % 12
    return scale


def _add_seventh(quality: str, seventh: int) -> str:
    """Return a triad's quality with a seventh in semitones; the triad's where there is no name."""
    tones = (*CHORD_TONES[quality], seventh)
    return next((name for name, other in CHORD_TONES.items() if other == tones), quality)
