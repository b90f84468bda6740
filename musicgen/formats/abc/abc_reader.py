"""Reader of ABC text: books, headers, tunes and their voices.

Reading takes time linear in the text. It never raises: a tune that cannot be read is refused, and
the other tunes of its book are still read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Final, NoReturn

from musicgen.errors import Refusal
from musicgen.files import read_regular_file
from musicgen.formats.abc.body import MAX_NOTES, VoiceReader, VoiceSettings
from musicgen.formats.abc.fields import (
    Macros,
    clean_text,
    default_unit,
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    parse_voice,
    refuse,
    strip_comment,
)
from musicgen.formats.abc.part_order import arrange
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Part, Score

MAX_VOICES: Final = 16
MAX_WORDS: Final = 9  # of a directive; further words are ignored

_VOICE_SWITCH: Final = re.compile(r"\[([VI]):([^\[\]]*)\]")
_NUMBER: Final = re.compile(r"-?[0-9]{1,3}")
_PER_VOICE_KINDS: Final = ("chord", "tempo")  # kept from every voice; others only from the first
_DRUM_CHANNEL: Final = 10


@dataclass
class Player:
    """A voice: its instrument, loudness and transposition, and its music so far."""

    name: str = ""
    program: int = 0  # General MIDI
    is_drums: bool = False
    velocity: int = DEFAULT_VELOCITY
    field_transposition: int = 0  # semitones, by clef, octave= and transpose=
    midi_transposition: int = 0  # semitones, by %%MIDI transpose
    voice: VoiceReader | None = None

    @property
    def part(self) -> Part:
        """The player as a part of a score."""
        return Part(self.name, self.program, self.is_drums)

    @property
    def transposition(self) -> int:
        """Semitones from written to sounding pitch."""
        return self.field_transposition + self.midi_transposition

    def update_transposition(self) -> None:
        """Apply the current transposition to the music that follows."""
        if self.voice is not None:
            self.voice.transposition = self.transposition

    def apply_directive(self, word: str, numbers: Sequence[int]) -> None:
        """Apply a %%MIDI directive, given as its name and numbers."""
        last = numbers[-1] if numbers else -1
        if word == "program" and 0 <= last <= 127:
            self.program = last
        elif word == "channel":
            self.is_drums = last == _DRUM_CHANNEL
        elif word == "transpose" and numbers:
            self.midi_transposition = last
            self.update_transposition()
        elif word == "beat" and len(set(numbers[:3])) == 1 and 1 <= numbers[0] <= 127:
            self.velocity = numbers[0]


class TuneVoices:
    """The voices of a tune, as far as it has been read."""

    def __init__(self) -> None:
        self._settings: VoiceSettings | None = None
        self._players: dict[str, Player] = {}
        self._current_player: Player | None = None
        self._default_player = Player()  # settings of directives before any V:
        self._opening_label = ""  # of the section that the music starts with

    @property
    def bars(self) -> int:
        """Number of complete bars in the current voice."""
        voice = self._current_player.voice if self._current_player else None
        return voice.bars if voice else 0

    @property
    def labels(self) -> list[tuple[str, int]]:
        """Letter and step of the labels of sections, in the first voice that has any."""
        voices = [player.voice for player in self._players.values() if player.voice is not None]
        return next((voice.labels for voice in voices if voice.labels), [])

    # The header

    def start_music(self, settings: VoiceSettings) -> None:
        """End the header; keep the voices that it defines, but select none."""
        self._settings = settings
        self._current_player = None

    @property
    def is_started(self) -> bool:
        """Whether the music has started."""
        return self._settings is not None

    def select_voice(self, text: str) -> None:
        """Select the voice of a V: field for the music that follows."""
        voice_field = parse_voice(text)
        if voice_field.id not in self._players:
            if len(self._players) == MAX_VOICES:
                refuse("too-large", f"over {MAX_VOICES} voices; leave some out")
            self._players[voice_field.id] = replace(self._default_player)
        player = self._current_player = self._players[voice_field.id]
        player.name = voice_field.name or player.name
        player.field_transposition = voice_field.transposition or player.field_transposition
        player.update_transposition()

    def read_directive(self, text: str) -> None:
        """Read a directive such as "MIDI program 40"; ignore those that do not affect notes."""
        directive, *arguments = text.replace("MIDI=", "MIDI ", 1).split()[:MAX_WORDS] or [""]
        if directive not in ("player", "MIDI"):
            return
        numbers = [int(number) for number in takewhile(_NUMBER.fullmatch, arguments[1:])]
        players = (
            [self._current_player]
            if self._current_player
            else [self._default_player, *self._players.values()]
        )
        for player in players:
            if directive == "player":
                player.name = clean_text(text.partition(" ")[2])
            elif arguments:
                player.apply_directive(arguments[0], numbers)

    # The music

    def read_field(self, name: str, text: str) -> None:
        """Read a field between lines of music; before a voice is selected, it applies to all."""
        if name == "V":
            self.select_voice(text)
        elif name == "I":
            self.read_directive(text)
        elif self._current_player is not None:
            self._current_reader().read_field(name, text)
        elif self._settings is not None:
            self._opening_label = text if name == "P" else self._opening_label
            self._settings = _update_settings(self._settings, name, text)

    def read_line(self, text: str) -> None:
        """Read a line of music."""
        if "[V:" not in text and "[I:" not in text:
            self._current_reader().read_line(text)
            return
        music, *switches = _VOICE_SWITCH.split(text)
        if music and not music.isspace():
            self._current_reader().read_line(music)
        for name, field_text, music in zip(
            switches[::3], switches[1::3], switches[2::3], strict=True
        ):
            self.read_field(name, field_text)
            self._current_reader().read_line(music)

    def _current_reader(self) -> VoiceReader:
        """Return the reader of the current voice; without any V: there is one voice, 1."""
        if self._current_player is None:
            self.select_voice(next(iter(self._players), "1"))
        player = self._current_player
        assert player is not None
        assert self._settings is not None
        if player.voice is None:
            settings = replace(self._settings, transposition=player.transposition)
            player.voice = VoiceReader(settings)
            if self._opening_label:
                player.voice.read_field("P", self._opening_label)
        return player.voice

    def finish(self) -> tuple[list[Note], list[Mark], tuple[Part, ...]]:
        """End the tune and return its notes, marks and parts; drop voices without duration."""
        players = [p for p in self._players.values() if p.voice and p.voice.is_used]
        notes: list[Note] = []
        marks: list[list[Mark]] = []
        for index, player in enumerate(players):
            assert player.voice is not None
            voice_notes, voice_marks = player.voice.finish(index, player.velocity)
            notes += voice_notes
            marks.append(voice_marks)
        if (
            len(players) == 1
        ):  # in tunes for dancing, a fermata marks a last note, not the end of a phrase
            marks = [[mark for mark in voice if mark.kind != "fermata"] for voice in marks]
        if not notes:
            refuse("empty", "the tune has no notes; write some after K:")
        if len(notes) > MAX_NOTES:
            refuse("too-large", f"over {MAX_NOTES} notes; split the tune")
        return notes, list(_merge_marks(marks)), tuple(player.part for player in players)


def _update_settings(settings: VoiceSettings, name: str, text: str) -> VoiceSettings:
    """Return the settings of all voices as changed by a field."""
    if name == "K":
        return replace(settings, key=parse_key(text))
    if name == "M":
        return replace(settings, meters=parse_meter(text))
    if name == "L":
        return replace(settings, unit=parse_unit(text))
    if name == "Q":
        return replace(settings, tempo=parse_tempo(text, settings.unit) or settings.tempo)
    return settings


def _merge_marks(marks: Sequence[list[Mark]]) -> Iterator[Mark]:
    """Yield the marks of all voices; bars, repeats, keys and meters come from the first voice.

    Later voices add them only after the end of the voices before.
    """
    covered = -1
    for voice in marks:
        yield from (mark for mark in voice if mark.onset > covered or mark.kind in _PER_VOICE_KINDS)
        covered = max(covered, *(mark.onset for mark in voice))


MAX_LINE: Final = 16 * 1024  # characters
MAX_TUNE: Final = 64 * 1024

_HEADER_FIELD: Final = re.compile(r"([A-Za-z+]):(.*)", re.DOTALL)
_FIELD: Final = re.compile(r"([A-Za-z+]):(?![|:])(.*)", re.DOTALL)  # "G:|" is music
_BOOK_FIELDS: Final = "LMRm"  # fields that a book may set for all its tunes

ParseResult = tuple[tuple[Score, ...], tuple[Refusal, ...]]


def decode_bytes(data: bytes) -> str:
    """Decode UTF-8, UTF-16 with a byte order mark, or Latin-1; convert line ends to LF."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return _with_line_feeds(text)


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(path: str | Path) -> ParseResult:
    """Read every tune of a file; refuse a path that is not a regular file.

    Raises:
        NotFound: there is no such file.
    """
    try:
        data = read_regular_file(Path(path))
    except Refusal as refusal:
        return (), (refusal,)
    return parse(decode_bytes(data), str(path))


def parse(text: str, source: str = "") -> ParseResult:
    """Read every tune of a book; return the scores, and a refusal for each of the other tunes."""
    outcomes = list(iter_tunes(text, source))
    scores = tuple(outcome for outcome in outcomes if isinstance(outcome, Score))
    return scores, tuple(outcome for outcome in outcomes if isinstance(outcome, Refusal))


def iter_tunes(text: str, source: str = "") -> Iterator[Score | Refusal]:
    """Yield the tunes of a book in order, each parsed on demand, so that each can be timed."""
    for tune in split_tunes(_lines(_with_line_feeds(text))):
        try:
            yield tune.read_score()
        except Refusal as fault:
            message = f"{fault.message}; the tune was left out"
            yield Refusal(message, source=source, place=tune.place, code=fault.code)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text without building a list of them."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def split_tunes(lines: Iterable[str]) -> Iterator[TuneReader]:
    """Divide a book into tunes, each from X: to an empty line or the next X:."""
    book: dict[str, str] = {}
    tune: TuneReader | None = None
    for number, line in enumerate(lines, 1):
        if line.startswith("X:"):
            if tune is not None:
                yield tune
            tune = TuneReader(line[2:], number, book)
        elif tune is not None and line and not line.isspace():
            tune.lines.append((number, line))
        elif tune is not None:
            yield tune
            tune = None
        elif line[1:2] == ":" and line[0] in _BOOK_FIELDS:
            book[_book_key(line)] = line
    if tune is not None:
        yield tune


def _book_key(line: str) -> str:
    """Return the key under which a later line of a book's header replaces an earlier one."""
    return line[0] if line[0] != "m" else line.partition("=")[0]


class TuneReader:
    """Reads the lines of one tune."""

    def __init__(self, number: str, line: int, book: Mapping[str, str]) -> None:
        match = re.match(r"\s*([0-9]{1,9})", number)
        self.name = f"tune X:{match[1] if match else '?'}"
        self.lines: list[tuple[int, str]] = []  # with their numbers in the book
        self._line_number = line
        self._book = tuple(book.values())
        self._fields: dict[str, str] = {}
        self._last_field = ""  # the field that +: continues
        self._first_line_without_key = 0  # number of the first line of music before any K:
        self._voices = TuneVoices()
        self._macros = Macros()
        self._expanded_length = 0  # characters of lines with macros, expanded
        self._has_bang_line_breaks = False  # ! ends a printed line; it does not start a decoration

    @property
    def place(self) -> str:
        """Current position: "tune X:42, line 9: bar 7"."""
        bar = f": bar {self._voices.bars + 1}" if self._voices.is_started else ""
        return f"{self.name}, line {self._line_number}{bar}"

    def read_score(self) -> Score:
        """Read the tune.

        Raises:
            Refusal: the tune cannot be read; `place` names the position.
        """
        self._check_size()
        for line in self._book:
            self._header_line(strip_comment(line))
        for number, text in _without_blocks(self.lines):
            self._line_number = number
            self._read_line(text)
        if not self._voices.is_started:
            self._line_number = self._first_line_without_key or self._line_number
            refuse("no-key", "the tune has no K: before its music; write one such as K:D")
        notes, marks, parts = self._voices.finish()
        score = Score(
            tuple(notes),
            tuple(marks),
            parts,
            title=clean_text(self._fields.get("T", "")),
            rhythm=clean_text(self._fields.get("R", "")).lower(),
        )
        return arrange(score, self._voices.labels, self._fields.get("Y", ""))

    def _check_size(self) -> None:
        if sum(len(text) + 1 for _, text in self.lines) > MAX_TUNE:
            refuse("too-large", f"the tune has over {MAX_TUNE} characters; split it")
        for number, text in self.lines:
            if len(text) > MAX_LINE:
                self._line_number = number
                _refuse_long_line()

    def _read_line(self, line: str) -> None:
        if line.startswith("%"):
            self._directive(line[2:] if line.startswith("%%") else "")
        elif self._voices.is_started:
            self._body_line(strip_comment(line) if "%" in line else line)
        else:
            self._header_line(strip_comment(line))

    def _directive(self, text: str) -> None:
        if text.split() == ["linebreak", "!"]:
            self._has_bang_line_breaks = True
        self._voices.read_directive(text)

    # The header

    def _header_line(self, text: str) -> None:
        match = _HEADER_FIELD.match(text)
        if match is None:
            self._first_line_without_key = self._first_line_without_key or self._line_number
        else:
            self._header_field(match[1], match[2])

    def _header_field(self, name: str, text: str) -> None:
        """Store a field; keep the first title, and of other fields the last."""
        if name == "K":
            self._start_music(text)
        elif name == "V":
            self._voices.select_voice(text)
        elif name == "I":
            self._directive(text.strip())
        elif name == "m":
            self._macros.define(text)
        elif name == "+":
            self._fields[self._last_field] = (
                f"{self._fields.get(self._last_field, '')} {text.strip()}"
            )
        elif name != "T" or not clean_text(self._fields.get("T", "")):
            self._fields[name] = text
            self._last_field = name
        else:
            self._last_field = ""

    def _start_music(self, key: str) -> None:
        """Start the music at the key, which is the last field of the header."""
        fields = self._fields
        meters = parse_meter(fields.get("M", ""))
        unit = parse_unit(fields["L"]) if "L" in fields else default_unit(meters)
        tempo = parse_tempo(fields.get("Q", ""), unit)
        self._voices.start_music(VoiceSettings(parse_key(key), meters, unit, tempo))

    # The body

    def _body_line(self, text: str) -> None:
        match = _FIELD.match(text)
        if match is None:
            self._voices.read_line(self._expand_macros(text))
        elif match[1] == "m":
            self._macros.define(match[2])
        elif match[1] == "I":
            self._directive(match[2].strip())
        else:
            self._voices.read_field(match[1], match[2])

    def _expand_macros(self, text: str) -> str:
        """Return a line of music with its macros expanded."""
        if self._has_bang_line_breaks:
            text = text.replace("!", "")
        music = self._macros.expand(text)
        if music is not text:
            self._expanded_length += len(music)
            if len(music) > MAX_LINE or self._expanded_length > MAX_TUNE:
                _refuse_long_line()
        return music


def _refuse_long_line() -> NoReturn:
    refuse("too-large", f"the line has over {MAX_LINE} characters; break it")


def _without_blocks(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines outside of blocks of typeset text, %%begin... to %%end..."""
    inside = False
    for number, line in lines:
        if line.startswith("%%begin"):
            inside = True
        elif not inside:
            yield number, line
        elif line.startswith("%%end"):
            inside = False
