"""The project's one error family.

    MusicgenError            exit code 1: the work began and failed
    ├── Refusal              one tune or file cannot be used; the others can
    ├── DamagedCheckpoint    a checkpoint is incomplete or its bytes changed
    ├── WriteFailed          an output could not be written; nothing is left of it
    ├── Interrupted          exit code 130: stopped as it was told to, with all of it saved
    └── UsageRefused         exit code 2: refused before any work
        ├── InvalidValue     a value outside its range: a note, a key, a meter, an option
        ├── OutputExists     an existing file would be overwritten
        ├── InUse            somebody else is at work in that place
        ├── NotFound         a named file, folder, model or corpus does not exist
        └── Mismatch         two things do not belong together

Every message says the place, the fault and the way out, in one line.
"""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "not-regular": "no regular file: a link, a folder, a pipe or a device",
    "unreadable": "the file could not be opened or read",
    "too-large": "over a limit on bytes, lines, events, notes, tracks or time",
    "too-slow": "reading took longer than its limit",
    "memory": "reading took more memory than its limit",
    "crashed": "the program that reads it died",
    "format": "the file is not of the format that its suffix names",
    "truncated": "the file ends, or a part of it runs on, where it should not",
    "damaged": "the file contradicts itself",
    "empty": "there are no notes",
    "no-key": "ABC: music comes before any K: field",
    "field": "ABC: a K:, M: or Q: field cannot be read",
    "length": "ABC: a note, a rest or L: has no length, an absurd one, or one under a step",
    "pitch": "a note is outside of MIDI's 0..127",
    "tuplet": "ABC: a tuplet is not one of 2 to 9",
    "syntax": "ABC: a bracket stays open, or ^ _ = < > stand at no note",
    "ending": "an ending is for a pass that is never played",
    "no-bars": "a live performance, without bars that its notes keep to",
    "no-event": "the codec has no event for something in it",
    "duplicate": "its notes are those of another tune",
}  # every code that a Refusal may have


_MAX_WORD_CHARACTERS: Final = 300  # characters of a word


class MusicgenError(Exception):
    """Anything that musicgen itself refuses or fails at."""

    exit_code = 1

    def __str__(self) -> str:
        words = super().__str__().split()
        return escape_unprintable(
            " ".join(
                word if len(word) <= _MAX_WORD_CHARACTERS else _truncate_word(word)
                for word in words
            )
        )


def _truncate_word(word: str) -> str:
    """Leave out the middle of a word that would fill the screen: a name of thousands of letters."""
    return f"{word[: _MAX_WORD_CHARACTERS - 60]}...{word[-40:]}"


def is_short_of_memory(fault: BaseException | None) -> bool:
    """Tell whether a fault is a MemoryError, or what a library made of one."""
    while fault is not None and not isinstance(fault, MemoryError):
        fault = fault.__cause__ or fault.__context__
    return fault is not None


def to_one_line(fault: BaseException) -> str:
    """Say a fault on one line, by the name of its class where it has no words."""
    return escape_unprintable(" ".join(str(fault).split())) or type(fault).__name__


def escape_unprintable(text: str) -> str:
    r"""Write what could steer a terminal, or is no text, as \x1b; names come out of files."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Refusal(MusicgenError):
    """One tune or one file cannot be used; the rest of the work goes on.

    It is raised where the fault is found and kept as a value in the list of refusals of a book.
    """

    def __init__(self, message: str, *, source: str = "", place: str = "", code: str = "") -> None:
        super().__init__(": ".join(part for part in (source, place, message) if part))
        self.message = message  # the fault and the way out
        self.source = source  # the file's path, or a name for a text without a file
        self.place = place  # "tune X:42, line 9: bar 7", "byte 118"
        self.code = code  # one of REASONS, which reports count by

    def with_source(self, source: str) -> Refusal:
        """Return the same refusal with the file named."""
        return Refusal(self.message, source=source, place=self.place, code=self.code)


class DamagedCheckpoint(MusicgenError):
    """A checkpoint is incomplete, or its bytes are not the ones that were written."""


class WriteFailed(MusicgenError):
    """An output could not be written; nothing is left under its name."""


class Interrupted(MusicgenError):
    """The work stopped as it was told to; what was done of it is saved."""

    exit_code = 130


class UsageRefused(MusicgenError):
    """Refused before any work was done."""

    exit_code = 2


class InvalidValue(UsageRefused, ValueError):
    """A value is outside of what it may be."""


class OutputExists(UsageRefused):
    """An existing output would be overwritten."""


class InUse(UsageRefused):
    """Somebody else is at work in the place that was named."""


class NotFound(UsageRefused):
    """A file, folder, model or corpus that was named does not exist."""


class Mismatch(UsageRefused):
    """Two things that were named do not belong together."""
