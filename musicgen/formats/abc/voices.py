"""The voices of one tune: which line belongs to which, and how they become one score."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Final

from musicgen.formats.abc.fields import (
    parse_key,
    parse_meter,
    parse_tempo,
    parse_unit,
    parse_voice,
    plain_text,
    refuse,
)
from musicgen.formats.abc.music import MAX_NOTES, Settings, Voice
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Part

MAX_VOICES: Final = 16
MAX_WORDS: Final = 9  # of a directive that are read

_SWITCH: Final = re.compile(r"\[([VI]):([^\[\]]*)\]")
_NUMBER: Final = re.compile(r"-?[0-9]{1,3}")
_FREE: Final = ("chord", "tempo")  # what any voice may say; the rest is said by the first
_DRUM_CHANNEL: Final = 10


@dataclass
class Player:
    """A voice: who plays it, how loud, how far from what is written, and its music so far."""

    name: str = ""
    program: int = 0
    is_drums: bool = False
    velocity: int = DEFAULT_VELOCITY
    shift: int = 0  # semitones by clef, octave= and transpose=
    transposition: int = 0  # semitones by directive
    voice: Voice | None = None

    @property
    def part(self) -> Part:
        """The player as a part of a score."""
        return Part(self.name, self.program, self.is_drums)

    def move(self) -> None:
        """Let the music that follows sound where it now should."""
        if self.voice is not None:
            self.voice.shift = self.shift + self.transposition

    def direct(self, said: str, numbers: Sequence[int]) -> None:
        """Heed what a %%MIDI directive says: its word, its numbers."""
        last = numbers[-1] if numbers else -1
        if said == "program" and 0 <= last <= 127:
            self.program = last
        elif said == "channel":
            self.is_drums = last == _DRUM_CHANNEL
        elif said == "transpose" and numbers:
            self.transposition = last
            self.move()
        elif said == "beat" and len(set(numbers[:3])) == 1 and 1 <= numbers[0] <= 127:
            self.velocity = numbers[0]


class Voices:
    """What has been read of a tune's voices so far."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._players: dict[str, Player] = {}
        self._current: Player | None = None
        self._default = Player()  # what directives say before any V:

    @property
    def bars(self) -> int:
        """The bars that the current voice has come to."""
        voice = self._current.voice if self._current else None
        return voice.bars if voice else 0

    # The header

    def start(self, settings: Settings) -> None:
        """Start the music; the voices named so far are known, none is chosen."""
        self._settings = settings
        self._current = None

    @property
    def is_started(self) -> bool:
        """Tell whether the header is over."""
        return self._settings is not None

    def choose(self, text: str) -> None:
        """Read the text of a V: field: what follows belongs to that voice."""
        said = parse_voice(text)
        if said.id not in self._players:
            if len(self._players) == MAX_VOICES:
                refuse("too-large", f"over {MAX_VOICES} voices; leave some out")
            self._players[said.id] = replace(self._default)
        player = self._current = self._players[said.id]
        player.name = said.name or player.name
        player.shift = said.shift or player.shift
        player.move()

    def direct(self, text: str) -> None:
        """Read a directive such as "MIDI program 40"; most say nothing about notes."""
        said, *rest = text.replace("MIDI=", "MIDI ", 1).split()[:MAX_WORDS] or [""]
        if said not in ("player", "MIDI"):
            return
        numbers = [int(number) for number in takewhile(_NUMBER.fullmatch, rest[1:])]
        for player in (
            (self._current,) if self._current else (self._default, *self._players.values())
        ):
            if said == "player":
                player.name = plain_text(text.partition(" ")[2])
            elif rest:
                player.direct(rest[0], numbers)

    # The music

    def field(self, name: str, text: str) -> None:
        """Read a field between lines of music; before any voice is chosen, it is for all."""
        if name == "V":
            self.choose(text)
        elif name == "I":
            self.direct(text)
        elif self._current is not None:
            self._voice().field(name, text)
        elif self._settings is not None:
            self._settings = _changed(self._settings, name, text)

    def line(self, text: str) -> None:
        """Read a line of music."""
        if "[V:" not in text and "[I:" not in text:
            self._voice().line(text)
            return
        music, *rest = _SWITCH.split(text)
        if music and not music.isspace():
            self._voice().line(music)
        for name, said, music in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            self.field(name, said)
            self._voice().line(music)

    def _voice(self) -> Voice:
        """Return the voice that is being read; without any V: there is one, called 1."""
        if self._current is None:
            self.choose(next(iter(self._players), "1"))
        player = self._current
        assert player is not None
        assert self._settings is not None
        if player.voice is None:
            player.voice = Voice(replace(self._settings, shift=player.shift + player.transposition))
        return player.voice

    def finish(self) -> tuple[list[Note], list[Mark], tuple[Part, ...]]:
        """End the tune; voices in which no time passes are no parts."""
        players = [p for p in self._players.values() if p.voice and p.voice.is_used]
        notes: list[Note] = []
        marks: list[list[Mark]] = []
        for index, player in enumerate(players):
            assert player.voice is not None
            found, said = player.voice.finish(index, player.velocity)
            notes += found
            marks.append(said)
        if not notes:
            refuse("empty", "the tune has no notes; write some after K:")
        if len(notes) > MAX_NOTES:
            refuse("too-large", f"over {MAX_NOTES} notes; split the tune")
        return notes, list(_together(marks)), tuple(player.part for player in players)


def _changed(settings: Settings, name: str, text: str) -> Settings:
    """Return the settings as a field changes them for all voices."""
    if name == "K":
        return replace(settings, key=parse_key(text))
    if name == "M":
        return replace(settings, meters=parse_meter(text))
    if name == "L":
        return replace(settings, unit=parse_unit(text))
    if name == "Q":
        return replace(settings, tempo=parse_tempo(text, settings.unit) or settings.tempo)
    return settings


def _together(marks: Sequence[list[Mark]]) -> Iterator[Mark]:
    """Yield the marks of all voices: bars, repeats, keys and meters once, as far as each goes."""
    covered = -1
    for voice in marks:
        yield from (mark for mark in voice if mark.onset > covered or mark.kind in _FREE)
        covered = max(covered, *(mark.onset for mark in voice))
