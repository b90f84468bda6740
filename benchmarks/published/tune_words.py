"""Tunes as white-space-separated tokens of ABC, and their score context.

The tokens of folkwiki are notes, lengths, bar lines, brackets and fields: `[L:1/8] [M:3/4] [K:DMaj]
D F |: A 2 A B A G | ...`. `TuneContexts` derives from the bar lines and lengths so far what
`musicgen.tokens.score_context` derives for its own codec, under the same names: position and steps
left in the bar, bar, section, and the tokens that stood at the same place 1, 2, 4 and 8 bars ago;
and the echo, the token that followed the longest repetition of the tokens so far.

A length follows its note, so a note counts as one unit until its length is read. A place is a
position, whether a length may follow, and the number of tokens there already. A bar shorter than
the meter at the start of a section is a pickup, which is not counted; a second ending takes the
numbers of the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from musicgen.errors import Refusal
from musicgen.files import read_regular_file
from musicgen.music.arrays import IntArray, TokenIds, find_repetitions
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.tokens.context_families import count_field_values
from musicgen.tokens.context_source import ContextFields
from musicgen.tokens.score_context import (
    FIELDS,
    LAGS,
    MOST_STEPS,
    UNKNOWN_LEFT,
    number_bar,
)
from musicgen.tokens.text import TextCodec

MOST_BYTES: Final = 2**26
WHOLE: Final = 4 * STEPS_PER_QUARTER  # steps
_NOTE: Final = re.compile(r"[_^=]*[A-Ga-gz][,']*")
_LENGTH: Final = re.compile(r"([0-9]{1,3})?(?:/([0-9]{1,3}))?")
_FIELD: Final = re.compile(r"\[([LM]):([0-9]{1,3})/([0-9]{1,3})\]")
_IS_FIELD: Final = re.compile(r"\[[A-Z]:[^]]*\]")
_TUPLETS: Final = {2: (3, 2), 3: (2, 3), 4: (3, 4), 5: (2, 5), 6: (2, 6), 7: (2, 7), 9: (2, 9)}
_BROKEN: Final = {">": (3, 2), ">>": (7, 4), "<": (1, 2), "<<": (1, 4)}  # factor of the note before
_BAR_LINES: Final = ("|", ":|", "|:", "|1", "|2", "::", "||", "|]", ":||")
_MOST_ECHO: Final = 255  # tokens
_MATCH_LEVELS: Final = 7  # runs of 1, 2, 4, ... tokens; longer ones count whole bars

Place = tuple[Fraction, bool, int]


def read_tunes(path: Path) -> list[str]:
    """Read the tunes of a file, tokens separated by one space.

    Raises:
        NotFound: there is no such file.
        Refusal: it is not text, or holds no tune.
    """
    data = read_regular_file(path, limit=MOST_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Refusal(f"{path}: not valid UTF-8 ({fault}); name a file of tokens") from fault
    tunes = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    tunes = [tune for tune in tunes if tune]
    if not any("[K:" in tune for tune in tunes):
        raise Refusal(f"{path}: no tune has a [K:...] token; name a file of tokens of ABC")
    return tunes


@dataclass
class TunePosition:
    """Where a tune is, from its tokens so far."""

    unit: Fraction = Fraction(WHOLE, 8)  # steps of a note without a length
    meter: Fraction = Fraction(WHOLE)  # steps of a bar
    start: Fraction = Fraction(0)  # of the last note or chord, in steps of the bar
    length: Fraction = Fraction(0)  # of it, so far
    factor: Fraction = Fraction(1)  # of the next note, after > or <
    tuplet: tuple[Fraction, int] = (Fraction(1), 0)  # factor, notes left
    chord: Fraction | None = None  # in a chord: the length of its first note so far
    is_chord_member: bool = False  # the last token was a note of a chord, or its length
    may_have_length: bool = False

    @property
    def position(self) -> Fraction:
        """Steps from the start of the bar."""
        return self.start + self.length

    def take_music(self, token: str) -> None:
        """Advance by a note, a length, a bracket or another token that is not a bar line."""
        had_note, self.may_have_length = self.may_have_length, False
        if match := _FIELD.fullmatch(token):
            steps = Fraction(WHOLE * int(match[2]), max(1, int(match[3])))
            if match[1] == "L":
                self.unit = steps
            else:
                self.meter = steps
        elif _NOTE.fullmatch(token):
            self._take_note()
        elif token == "[":
            self.chord, self.is_chord_member = Fraction(0), True
        elif token == "]" and self.chord is not None:
            self._open_note(self.chord or Fraction(1))
            self.chord, self.is_chord_member = None, False
        elif token in _BROKEN and not self.is_chord_member:
            numerator, denominator = _BROKEN[token]
            share = Fraction(numerator, denominator)
            self.length *= share
            self.factor = 2 - share
        elif token.startswith("(") and token[1:].isdecimal():
            time, notes = _TUPLETS.get(int(token[1:]), (1, 0))
            self.tuplet = Fraction(time, max(1, notes)), notes
        elif had_note and (match := _LENGTH.fullmatch(token)):
            self._take_length(Fraction(int(match[1] or 1), max(1, int(match[2] or 1))))

    def _take_note(self) -> None:
        self.may_have_length = True
        if self.chord is None:
            self._open_note(Fraction(1))

    def _open_note(self, units: Fraction) -> None:
        """Start a note or chord where the last one ends."""
        share, left = self.tuplet
        self.start += self.length
        self.length = self.unit * units * self.factor * (share if left else 1)
        self.factor = Fraction(1)
        self.tuplet = (share, left - 1) if left else (Fraction(1), 0)
        self.may_have_length = True

    def _take_length(self, units: Fraction) -> None:
        if self.chord is None:
            self.length *= units
        elif not self.chord:
            self.chord = units

    def open_bar(self) -> None:
        """Go to the start of a new bar."""
        self.start = self.length = Fraction(0)
        self.factor, self.tuplet, self.chord = Fraction(1), (Fraction(1), 0), None
        self.is_chord_member = self.may_have_length = False


@dataclass
class TuneFollower:
    """The score context of one tune, before its next token."""

    at: TunePosition = field(default_factory=TunePosition)
    bar: int = 0
    section: int = 0
    section_start: int = 0  # number of its first bar
    fork: tuple[int, int, int] = (0, 0, 0)  # bar, section and its start at the first ending
    bars: dict[int, dict[Place, int]] = field(default_factory=dict)  # by number: ids + 1 by place
    runs: list[int] = field(default_factory=lambda: [0] * len(LAGS))
    run_bars: list[int] = field(default_factory=lambda: [0] * len(LAGS))
    bar_tokens: int = 0  # tokens of the bar so far
    place: Place = (Fraction(0), False, 0)

    def look_back(self) -> list[int]:
        """Return for each lag the id + 1 that stood at this place, 0 if none did."""
        return [self.bars.get(self.bar - lag, {}).get(self.place, 0) for lag in LAGS]

    def describe(self, seen: Sequence[int]) -> list[int]:
        """Return the values of position, left, bar, section, the lags and the matches.

        Args:
            seen: by lag, from `look_back`.
        """
        position = min(round(self.at.position), MOST_STEPS)
        left = round(self.at.meter - self.at.position)
        return [
            position,
            min(left, MOST_STEPS) if left >= 0 else UNKNOWN_LEFT,
            number_bar(self.bar - self.section_start),
            min(self.section, count_field_values("section", 0) - 1),
            *seen,
            *(
                _MATCH_LEVELS + min(bars, 16) if bars else min(run.bit_length(), _MATCH_LEVELS)
                for run, bars in zip(self.runs, self.run_bars, strict=True)
            ),
        ]

    def take(self, token: str, id_: int, seen: Sequence[int]) -> None:
        """Advance by a token, of an id, where `seen` was looked up."""
        is_same = [value == id_ + 1 for value in seen]
        self.runs = [(run + 1) * same for run, same in zip(self.runs, is_same, strict=True)]
        self.run_bars = [bars * same for bars, same in zip(self.run_bars, is_same, strict=True)]
        self.bar_tokens += 1
        if _IS_FIELD.fullmatch(token):  # takes no place: bars with and without it are alike
            self.at.take_music(token)
            return
        self.bars.setdefault(self.bar, {})[self.place] = id_ + 1
        if token in _BAR_LINES:
            self._take_bar_line(token)
            return
        self.at.take_music(token)
        here = self.at.position, self.at.may_have_length
        self.place = (*here, self.place[2] + 1 if here == self.place[:2] else 0)

    def _take_bar_line(self, token: str) -> None:
        length = self.at.position
        is_pickup = self.bar == self.section_start and length < self.at.meter
        if length and not is_pickup:
            self.bar += 1
            self.run_bars = [
                bars + (run >= self.bar_tokens)
                for bars, run in zip(self.run_bars, self.runs, strict=True)
            ]
        if token.endswith(":") or token.startswith(":"):
            self._open_section()
        elif token == "|1":
            self.fork = self.bar, self.section, self.section_start
        elif token == "|2":
            self.bar, self.section, self.section_start = self.fork
        self.at.open_bar()
        self.bars[self.bar] = {}
        self.bar_tokens = 0
        self.place = (Fraction(0), False, 0)

    def _open_section(self) -> None:
        if self.bar > self.section_start:
            self.section += 1
            self.section_start = self.bar


class TuneContexts:
    """Computes the score contexts of tunes as tokens.

    Args:
        codec: of words, with the vocabulary of the tunes.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.tokens = [str(event.value) for event in codec.vocabulary.events]

    def compute(self, tunes: Sequence[TokenIds]) -> list[ContextFields]:
        """Compute the fields before each id of some tunes.

        Args:
            tunes: (token,) int16 or int64 each.

        Returns:
            (token, field) int16 each, in the order of FIELDS; 0 in fields of several voices.
        """
        return [self._compute_fields(ids) for ids in tunes]

    def _compute_fields(self, ids: TokenIds) -> ContextFields:
        fields = np.zeros((len(ids), len(FIELDS)), np.int16)
        follower = TuneFollower()
        for row, id_ in zip(fields, ids.tolist(), strict=True):
            seen = follower.look_back()
            values = follower.describe(seen)
            row[: len(values)] = values
            follower.take(self.tokens[id_], id_, seen)
        fields[:, _ECHO_COLUMNS] = np.transpose(_compute_echo(ids))
        return fields

    def transpose(self, fields: ContextFields, semitones: int) -> ContextFields:
        """Return fields (token, field) int16 as they are: letters are not transposed."""
        del semitones
        return fields


_ECHO_COLUMNS: Final = [FIELDS.index(name) for name in ("echo", "alike", "echoed")]
_MOST_ALIKE, _MOST_ECHOED = (count_field_values(name, 0) - 1 for name in ("alike", "echoed"))


def _compute_echo(ids: TokenIds) -> list[IntArray]:
    """Return the echo, how long it is alike, and how often it was right in a row, (token,) each."""
    codes = ids.astype(np.int64)
    earlier, lengths = find_repetitions(codes, _MOST_ECHO)
    echo = np.where(earlier < 0, 0, codes[earlier] + 1)
    alike = np.ceil(np.log2(lengths + 1) * 1.25).astype(np.int64)
    is_right = echo == codes + 1
    numbers = np.arange(1, len(codes) + 1)
    runs = numbers - np.maximum.accumulate(np.where(is_right, 0, numbers))
    echoed = np.ceil(np.log2(np.concatenate([[0], runs[:-1]]) + 1)).astype(np.int64)
    return [echo, np.minimum(alike, _MOST_ALIKE), np.minimum(echoed, _MOST_ECHOED)]
