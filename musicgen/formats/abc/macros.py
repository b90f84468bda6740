"""Macros, m: fields: a few signs that stand for notes."""

from __future__ import annotations

import re
from typing import Final

from musicgen.formats.abc.fields import refuse

MAX_MACROS: Final = 32  # definitions in a tune
MAX_NAME: Final = 32  # characters
MAX_MUSIC: Final = 200

_LETTERS: Final = "CDEFGABcdefgab"
_NOTE_NAME: Final = "([A-Ga-g][,']{0,9})"
_STEP_LETTER: Final = re.compile("[h-z]")  # n is the note itself, o a step above it, m one below


class Macros:
    """The macros of a tune."""

    def __init__(self) -> None:
        self._defined: list[tuple[str, str]] = []
        self._pattern: re.Pattern[str] | None = None

    def define(self, text: str) -> None:
        """Read the text of an m: field: "~G3 = G{A}G{F}G", "~n3 = n{o}n{m}n"."""
        name, sign, music = (part.strip() for part in text.partition("="))
        if not name or not sign:
            return
        if len(self._defined) >= MAX_MACROS or len(name) > MAX_NAME or len(music) > MAX_MUSIC:
            refuse("too-large", f"over {MAX_MACROS} macros, or a long one; write the notes out")
        self._defined.insert(0, (name, music))  # the last definition counts
        self._pattern = re.compile("|".join(f"({_source(name)})" for name, _ in self._defined))

    def expand(self, line: str) -> str:
        """Return a line of music with the notes that its macros stand for."""
        return line if self._pattern is None else self._pattern.sub(self._expanded, line)

    def _expanded(self, match: re.Match[str]) -> str:
        group = 1
        for name, music in self._defined:
            transposing = _is_transposing(name)
            if match[group] is not None:
                return _transposed(music, match[group + 1]) if transposing else music
            group += 1 + transposing
        return match[0]


def _is_transposing(name: str) -> bool:
    return name.count("n") == 1


def _source(name: str) -> str:
    before, note, after = name.partition("n") if _is_transposing(name) else (name, "", "")
    return re.escape(before) + (_NOTE_NAME if note else "") + re.escape(after)


def _transposed(music: str, note: str) -> str:
    """Write the music of a macro from a note on: its letters h to z count steps from n."""
    octave = note.count("'") - note.count(",")
    degree = _LETTERS.index(note[0]) + 7 * octave
    return _STEP_LETTER.sub(lambda match: _named(degree + ord(match[0]) - ord("n")), music)


def _named(degree: int) -> str:
    """Return the name of a note by its steps above middle C."""
    octave, step = divmod(degree, 7)
    if octave >= 1:
        return _LETTERS[7 + step] + "'" * (octave - 1)
    return _LETTERS[step] + "," * -octave
