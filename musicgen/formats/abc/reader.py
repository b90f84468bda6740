"""ABC text to Scores: books, headers, tunes.

Reading takes time in proportion to the text, whatever it says, and never raises: one bad tune
costs one tune.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from musicgen.errors import Refusal
from musicgen.files import open_regular
from musicgen.formats.abc.fields import (
    default_unit,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    plain_text,
    refuse,
    without_comment,
)
from musicgen.formats.abc.music import Music
from musicgen.music.score import Score

MAX_LINE: Final = 16 * 1024  # characters
MAX_TUNE: Final = 64 * 1024

_HEADER_FIELD: Final = re.compile(r"([A-Za-z+]):(.*)", re.DOTALL)
_FIELD: Final = re.compile(r"([A-Za-z+]):(?![|:])(.*)", re.DOTALL)  # "G:|" is music
_BOOK_FIELDS: Final = "LMR"  # what a book may say once for all its tunes

Read = tuple[tuple[Score, ...], tuple[Refusal, ...]]


def decode_bytes(data: bytes) -> str:
    """Decode a book: UTF-8, UTF-16 with a byte order mark, else Latin-1; line ends become LF."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return _with_line_feeds(text)


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(path: str | Path) -> Read:
    """Read every tune of a file. Raises NotFound; what is no regular file is refused unread."""
    try:
        data = open_regular(Path(path))
    except Refusal as refusal:
        return (), (refusal,)
    return parse(decode_bytes(data), str(path))


def parse(text: str, source: str = "") -> Read:
    """Read every tune of a book; return the scores, and why the other tunes were left out."""
    scores: list[Score] = []
    refusals: list[Refusal] = []
    for tune in tunes(_with_line_feeds(text).split("\n")):
        try:
            scores.append(tune.score())
        except Refusal as fault:
            message = f"{fault.message}; the tune was left out"
            refusals.append(Refusal(message, source=source, place=tune.place, code=fault.code))
    return tuple(scores), tuple(refusals)


def tunes(lines: Iterable[str]) -> Iterator[Tune]:
    """Cut a book into its tunes: from X: to an empty line or the next X:."""
    book: dict[str, str] = {}
    tune: Tune | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith("X:"):
            if tune is not None:
                yield tune
            tune = Tune(line[2:], number, book)
        elif tune is not None and line and not line.isspace():
            tune.lines.append((number, line))
        elif tune is not None:
            yield tune
            tune = None
        elif line[:1] in _BOOK_FIELDS and line[1:2] == ":":
            book[line[0]] = without_comment(line[2:])
    if tune is not None:
        yield tune


class Tune:
    """The lines of one tune, and how far they have been read."""

    def __init__(self, number: str, line: int, book: dict[str, str]) -> None:
        match = re.match(r"\s*([0-9]{1,9})", number)
        self.name = f"tune X:{match[1] if match else '?'}"
        self.lines: list[tuple[int, str]] = []  # with their numbers in the book
        self._line = line
        self._fields = dict(book)
        self._music: Music | None = None

    @property
    def place(self) -> str:
        """Where the reading is: "tune X:42, line 9: bar 7"."""
        bar = f": bar {self._music.bars + 1}" if self._music else ""
        return f"{self.name}, line {self._line}{bar}"

    def score(self) -> Score:
        """Read the tune. Raises Refusal, without the place."""
        self._check_size()
        for number, text in _without_directives(self.lines):
            self._line = number
            self._read_line(text)
        notes, marks = self._body().finish()
        return Score(
            tuple(notes),
            tuple(marks),
            title=plain_text(self._fields.get("T", "")),
            rhythm=plain_text(self._fields.get("R", "")).lower(),
        )

    def _read_line(self, text: str) -> None:
        match = (_FIELD if self._music else _HEADER_FIELD).match(text)
        if match is None:
            self._body().line(text)
        elif self._music is None:
            self._header_field(match[1], match[2])
        else:
            self._music.field(match[1], match[2])

    def _check_size(self) -> None:
        if sum(len(text) + 1 for _, text in self.lines) > MAX_TUNE:
            refuse("too-long", f"the tune has over {MAX_TUNE} characters; split it")
        for number, text in self.lines:
            if len(text) > MAX_LINE:
                self._line = number
                refuse("too-long", f"the line has over {MAX_LINE} characters; break it")

    def _header_field(self, name: str, text: str) -> None:
        """Keep a field; the first title and rhythm count, of the others the last."""
        if name == "K":
            self._start(text)
        elif name != "T" or not plain_text(self._fields.get("T", "")):
            self._fields[name] = text

    def _start(self, key: str) -> None:
        """Start the music: the key is the last field of the header."""
        fields = self._fields
        meter = parse_meter(fields.get("M", ""))
        unit = parse_unit(fields["L"]) if "L" in fields else default_unit(meter)
        tempo = parse_tempo(fields.get("Q", ""), unit)
        self._music = Music(parse_key(key), meter, unit, tempo)

    def _body(self) -> Music:
        if self._music is None:
            refuse("no-key", "the tune has no K: before its music; write one such as K:D")
        return self._music


def _without_directives(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines without comments, directives and blocks of typeset text."""
    inside = False
    for number, line in lines:
        if line.startswith("%"):
            inside = line.startswith("%%begin") or (inside and not line.startswith("%%end"))
        elif not inside:
            yield number, without_comment(line)
