"""What is taken of a score as a primer: one part, the melody or as chosen, and some bars."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.bars import find_bars, number_bars
from musicgen.music.general_midi import PROGRAMS
from musicgen.music.notes import Notes
from musicgen.music.roles import find_melody_part
from musicgen.music.score import Score
from musicgen.sampling.kept_bars import match_bar_range
from musicgen.typed_data import parse_integer, shorten

_MAX_NAMED_PARTS = 8  # parts that a message names


@dataclass(frozen=True, slots=True)
class PrimerChoice:
    """What the user wants of a primer's file."""

    part: str = ""  # name or number, from 1, of a part; "" for the melody
    bars: tuple[int, int] | None = None  # first and last bar, as played; a pickup goes with bar 1
    seconds: tuple[float, float] | None = None  # of a performance: from and to

    @classmethod
    def parse(cls, part: str | None, bars: str | None, seconds: str | None = None) -> PrimerChoice:
        """Parse a part, and bars such as "1-8" or seconds such as "0-15"; None is all.

        Raises:
            InvalidValue: the bars or the seconds are malformed.
        """
        return cls(
            (part or "").strip(),
            None if bars is None else parse_bar_range(bars),
            None if seconds is None else parse_seconds(seconds),
        )

    @property
    def bars_text(self) -> str:
        """The bars as `parse_bar_range` reads them; "" for all."""
        return "" if self.bars is None else "-".join(map(str, self.bars))


def parse_bar_range(text: str) -> tuple[int, int]:
    """Parse the first and the last bar of a range: "1-8", or "5" for one bar.

    Raises:
        InvalidValue: the text is not a range of bars.
    """
    bars = match_bar_range(text)
    if bars is None:
        raise InvalidValue(f"primer-bars {shorten(text)!r}: write bars such as 1-8")
    return bars


def parse_seconds(text: str) -> tuple[float, float]:
    """Parse a span of seconds: "0-15", or "15" for the first fifteen.

    Raises:
        InvalidValue: the text is not a span of seconds.
    """
    match = re.fullmatch(
        r"\s*(?:([0-9]{1,5}(?:\.[0-9]+)?)\s*-)?\s*([0-9]{1,5}(?:\.[0-9]+)?)\s*", text
    )
    first, last = (float(match[1] or 0), float(match[2])) if match else (0.0, 0.0)
    if not first < last:
        raise InvalidValue(f"primer-seconds {shorten(text)!r}: write seconds such as 0-15")
    return first, last


def take_melody(score: Score, choice: PrimerChoice, name: str) -> tuple[Score, list[str]]:
    """Return one part of a score, without repeats and chord symbols, and messages.

    Args:
        score: a score without repeat signs.
        choice: which part and bars to take.
        name: of the primer, for messages.

    Raises:
        InvalidValue: there is no such part, or no such bar.
    """
    part = _find_part(score, choice.part, name)
    if part is None:
        return score, []
    messages = [message] if (message := _describe_choice(score, part)) else []
    columns = score.columns[:, score.columns[4] == part].copy()
    columns[4] = 0
    marks = tuple(mark for mark in score.marks if mark.kind != "chord")
    melody = replace(score, notes=Notes(columns), marks=marks, parts=(score.parts[part],))
    if choice.bars is not None:
        melody = take_bars(melody, score, choice.bars, name)
        first, last = choice.bars
        messages.append(
            f"bar {first} of it is taken"
            if first == last
            else f"bars {first}-{last} of it are taken"
        )
    return melody, messages


def _find_part(score: Score, text: str, name: str) -> int | None:
    """Return the part that a text names, or the melody; None for a score without a melody."""
    if not text:
        return find_melody_part(score)
    names = [part.name.strip().lower() for part in score.parts]
    query = text.lower()
    if query in names:
        part = names.index(query)
    elif text.isdecimal():
        number = parse_integer(text, "primer-part", 0, 10**6)
        part = number - 1 if number else len(names)
    else:
        matches = [index for index, each in enumerate(names) if query in each]
        part = matches[0] if len(matches) == 1 else len(names)
    if part >= len(names):
        raise InvalidValue(
            f"{name}: it has no part {shorten(text)!r}; choose one of {_list_parts(score)}"
        )
    if score.parts[part].is_drums or not (score.columns[4] == part).any():
        fault = "is drums" if score.parts[part].is_drums else "has no notes"
        raise InvalidValue(f"{name}: part {part + 1} {fault}; choose one of {_list_parts(score)}")
    return part


def _list_parts(score: Score) -> str:
    """Return numbers and names of the parts that a primer can be taken from."""
    usable = [
        f"{index + 1} {shorten(score.parts[index].name)}".strip()
        for index in np.unique(score.columns[4]).tolist()
        if not score.parts[index].is_drums
    ]
    more = f" and {len(usable) - _MAX_NAMED_PARTS} more" if len(usable) > _MAX_NAMED_PARTS else ""
    return ", ".join(usable[:_MAX_NAMED_PARTS]) + more


def _describe_choice(score: Score, part: int) -> str:
    """Say what is left out of a score; "" for nothing."""
    left_out = list(_iter_left_out(score, part))
    if not left_out:
        return ""
    chosen = ""
    if len(score.parts) > 1:
        label = shorten(score.parts[part].name)
        chosen = f"of its {len(score.parts)} parts part {part + 1}{f' {label}' if label else ''} is"
        chosen += " taken; "
    return f"{chosen}left out: {', '.join(left_out)}"


def _iter_left_out(score: Score, part: int) -> Iterator[str]:
    others = [index for index in range(len(score.parts)) if index != part]
    for index in others[:_MAX_NAMED_PARTS]:
        yield f"part {index + 1} {shorten(score.parts[index].name)}".strip()
    if len(others) > _MAX_NAMED_PARTS:
        yield f"{len(others) - _MAX_NAMED_PARTS} more parts"
    program = score.parts[part].program
    if program:
        yield f"its program, {PROGRAMS[program]}"
    if count := sum(1 for _ in score.of("chord")):
        yield f"{count} chord symbol{'s' * (count > 1)}"


def take_bars(melody: Score, score: Score, bars: tuple[int, int], name: str) -> Score:
    """Return the bars of a melody whose numbers are in a range; a first pickup goes with bar 1.

    Args:
        melody: the notes to cut, of `score` or of a part of it.
        score: has the bars.
        bars: first and last.
        name: of the primer, for messages.

    Raises:
        InvalidValue: there are no such bars, or no notes in them.
    """
    written_bars = find_bars(score)
    numbers = number_bars(written_bars)
    first, last = bars
    chosen = [
        bar
        for bar, number in zip(written_bars, numbers, strict=True)
        if first <= max(number, 1) <= last
    ]
    if not chosen or last > max(numbers):
        raise InvalidValue(
            f"{name}: it has no bars {first}-{last}; it has {max(numbers, default=0)}"
        )
    cut = melody.join_passages([(chosen[0].start, chosen[-1].end)])
    if not cut.notes:
        onset = melody.notes[0].onset
        bar = max(n for n, each in zip(numbers, written_bars, strict=True) if each.start <= onset)
        raise InvalidValue(
            f"{name}: the part has no notes in bars {first}-{last}; it starts in bar {max(bar, 1)}"
        )
    return cut
