"""The error family, with its exit codes and the reasons for refusing a file.

    MusicgenError            exit code 1: the work began and failed
    ├── Refusal              one tune or file cannot be used; the others can
    ├── DamagedCheckpoint    a checkpoint is incomplete or its bytes changed
    ├── WriteFailed          an output could not be written; nothing is left of it
    ├── Interrupted          exit code 130: stopped on request, progress saved
    └── UsageRefused         exit code 2: refused before any work
        ├── InvalidValue     a value outside its range: a note, a key, a meter, an option
        ├── OutputExists     an existing file would be overwritten
        ├── InUse            another process is using the folder
        ├── NotFound         a named file, folder, model or corpus does not exist
        └── Mismatch         two things do not belong together

Every message names the place, the fault and the way out, in one line.
"""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "not-regular": "not a regular file but a link, folder, pipe or device",
    "unreadable": "the file could not be opened or read",
    "too-large": "over a limit on bytes, lines, events, notes, tracks or time",
    "too-slow": "reading took longer than its limit",
    "memory": "reading took more memory than its limit",
    "crashed": "the reader process crashed",
    "format": "the file is not in the format of its suffix",
    "truncated": "the file, or a part of it, ends too early",
    "damaged": "the file contradicts itself",
    "empty": "there are no notes",
    "no-key": "ABC: there is music before the first K: field",
    "field": "ABC: a K:, M: or Q: field cannot be read",
    "length": "ABC: the length of a note, a rest or L: is invalid or shorter than a step",
    "pitch": "a note is outside MIDI pitches 0..127",
    "tuplet": "ABC: a tuplet is not one of 2 to 9",
    "syntax": "ABC: an unclosed bracket, or ^ _ = < > without a note",
    "ending": "an ending belongs to a repeat that is never played",
    "no-bars": "a live performance: its notes do not follow bars",
    "no-event": "the codec cannot encode something in it",
    "parts": "it has other parts than those that the corpus card names",
    "duplicate": "it has the same notes as another tune",
    "left-out": "the corpus card leaves the tune out, so that it can judge what is learned",
}  # every code of a Refusal
_MAX_WORD_CHARACTERS: Final = 300
_OUT_OF_MEMORY_WORDS: Final = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "not enough memory", "can't start new thread", "failed to map segment",
    "could not execute a primitive",  # of oneDNN
)  # fmt: skip


class MusicgenError(Exception):
    """Base class of all errors that musicgen raises itself."""

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
    """Cut the middle out of a very long word, such as a file name of thousands of letters."""
    return f"{word[: _MAX_WORD_CHARACTERS - 60]}...{word[-40:]}"


def is_short_of_memory(fault: BaseException | None) -> bool:
    """Tell whether an error, or an error that it was raised from, means that memory ran out."""
    while fault is not None and not _says_out_of_memory(fault):
        fault = fault.__cause__ or fault.__context__
    return fault is not None


def _says_out_of_memory(fault: BaseException) -> bool:
    """Tell whether an error is a MemoryError, or how torch or the system words one."""
    if not isinstance(fault, RuntimeError | ImportError | OSError):
        return isinstance(fault, MemoryError)
    text = str(fault).lower()
    return any(words in text for words in _OUT_OF_MEMORY_WORDS)


def to_one_line(fault: BaseException) -> str:
    """Return the message of an error on one line, or the name of its class if it has none."""
    return escape_unprintable(" ".join(str(fault).split())) or type(fault).__name__


def escape_unprintable(text: str) -> str:
    r"""Escape control characters (as \x1b) and undecodable bytes, which names in files may hold."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape_character(c) for c in text)


def _escape_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Refusal(MusicgenError):
    """One tune or one file cannot be used; the rest of the work goes on.

    A reader raises it; the list of refusals of a file keeps it as a value.
    """

    def __init__(self, message: str, *, source: str = "", place: str = "", code: str = "") -> None:
        super().__init__(": ".join(part for part in (source, place, message) if part))
        self.message = message  # the fault and the way out
        self.source = source  # the file's path, or a name for a text without a file
        self.place = place  # "tune X:42, line 9: bar 7", "byte 118"
        self.code = code  # one of REASONS; reports count by code

    def with_source(self, source: str) -> Refusal:
        """Return the same refusal with the file named."""
        return Refusal(self.message, source=source, place=self.place, code=self.code)


class DamagedCheckpoint(MusicgenError):
    """A checkpoint is incomplete, or its bytes changed since it was written."""


class WriteFailed(MusicgenError):
    """An output could not be written; nothing is left under its name."""


class Interrupted(MusicgenError):
    """The work stopped on request; its progress is saved."""

    exit_code = 130


class UsageRefused(MusicgenError):
    """Refused before any work was done."""

    exit_code = 2


class InvalidValue(UsageRefused, ValueError):
    """A value is outside its range or malformed."""


class OutputExists(UsageRefused):
    """An existing output would be overwritten."""


class InUse(UsageRefused):
    """Another process is using the named folder."""


class NotFound(UsageRefused):
    """A file, folder, model or corpus that was named does not exist."""


class Mismatch(UsageRefused):
    """Two named things do not belong together, such as a checkpoint and a corpus."""
