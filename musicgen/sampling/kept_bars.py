"""Which bars stay, of a tune or of its parts: "1-8,13-16", "bass", "melody:1-8,drums"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from musicgen.errors import InvalidValue
from musicgen.music.score import Part
from musicgen.tokens.vocabulary import MAX_PARTS
from musicgen.typed_data import parse_integer, shorten

MOST_RANGES: Final = 10**6
BarRanges = tuple[tuple[int, int], ...]
KeepText = str | Mapping[str, str]  # "melody:1-8,drums", or {"melody": "1-8", "drums": "all"}
_BAR_RANGE: Final = re.compile(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?")
_ALL_BARS: Final = "all"
_NAMED_PARTS: Final = 8  # parts that a message lists


@dataclass(frozen=True, slots=True)
class KeptPart:
    """The bars of one part that stay, numbered as written, a pickup with the bar after it."""

    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    bars: Annotated[BarRanges, Meta(max_length=MOST_RANGES)] = ()  # (): all

    def includes(self, bar: int) -> bool:
        """Return whether a bar stays."""
        return not self.bars or any(first <= bar <= last for first, last in self.bars)


@dataclass(frozen=True, slots=True)
class KeepRequest:
    """What a user wants to keep: bars of all parts, and parts by name."""

    bars: BarRanges = ()  # of all parts
    parts: tuple[tuple[str, BarRanges], ...] = ()  # name or number of a part, and its bars; (): all
    option: str = "keep"  # that asks for it, for messages

    @classmethod
    def parse(cls, text: KeepText, option: str = "keep") -> KeepRequest:
        """Parse "1-8", "bass", "melody:1-8,13-16,drums", or {"melody": "1-8", "drums": "all"}.

        Bars that follow the bars of a part belong to it; others are bars of all parts.

        Args:
            text: what a user wrote.
            option: that it was given for, for messages.

        Raises:
            InvalidValue: a range of bars is malformed.
        """
        if isinstance(text, Mapping):
            text = ",".join(f"{name}:{bars}" for name, bars in text.items())
        bars: list[tuple[int, int]] = []
        parts: list[tuple[str, list[tuple[int, int]]]] = []
        for word in text.split(","):
            name, colon, ranges = word.rpartition(":")
            if not colon and _BAR_RANGE.fullmatch(word):
                ranges_so_far = parts[-1][1] if parts and parts[-1][1] else bars
                ranges_so_far.append(_parse_range(word, text, option))
                continue
            name = (name if colon else word).strip().lower()
            if not name.isdecimal() and not any(map(str.isalpha, name)):
                raise _malformed(text, option)
            has_all = not colon or ranges.strip().lower() == _ALL_BARS
            parts.append((name, [] if has_all else [_parse_range(ranges, text, option)]))
        return cls(tuple(bars), tuple((name, tuple(ranges)) for name, ranges in parts), option)

    def find_bars(self, part: Part) -> BarRanges:
        """Return what stays of a tune of one part.

        Raises:
            InvalidValue: there is no such part, or all of it is kept.
        """
        (kept,) = self.find_parts([part], "the tune")
        if not kept.bars:
            raise InvalidValue("keep: all of the only part stays; name its bars, such as 1-8")
        return kept.bars

    def find_parts(self, parts: Sequence[Part], source: str) -> tuple[KeptPart, ...]:
        """Return what stays of the parts of a tune.

        Args:
            parts: of the tune.
            source: the tune, for messages.

        Raises:
            InvalidValue: there is no such part.
        """
        kept: dict[int, BarRanges] = dict.fromkeys(range(len(parts)), self.bars)
        kept = kept if self.bars else {}
        for name, ranges in self.parts:
            for number in self._find_numbers(parts, name, source):
                is_whole = not ranges or (number in kept and not kept[number])
                kept[number] = () if is_whole else (*kept.get(number, ()), *ranges)
        return tuple(KeptPart(number, bars) for number, bars in sorted(kept.items()))

    def _find_numbers(self, parts: Sequence[Part], name: str, source: str) -> list[int]:
        """Return the parts of a name or a role, or the part of a number from 1."""
        names = [part.name.strip().lower() for part in parts]
        roles = ["drums" if part.is_drums else part.role for part in parts]
        if name.isdecimal():
            number = parse_integer(name, self.option, 0, 10**6)
            numbers = [number - 1] if 1 <= number <= len(parts) else []
        else:
            numbers = [n for n, other in enumerate(names) if other == name] or [
                n for n, role in enumerate(roles) if role == name
            ]
        if not numbers:
            raise InvalidValue(
                f"{self.option} {shorten(name)!r}: {source} has no such part, but"
                f" {list_parts(parts)}"
            )
        return numbers


def match_bar_range(text: str) -> tuple[int, int] | None:
    """Return the first and the last bar of "1-8" or "5"; None for any other text."""
    match = _BAR_RANGE.fullmatch(text)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    return (first, last) if 1 <= first <= last else None


def _parse_range(text: str, whole: str, option: str) -> tuple[int, int]:
    bars = match_bar_range(text)
    if bars is None:
        raise _malformed(whole, option)
    return bars


def _malformed(text: str, option: str) -> InvalidValue:
    return InvalidValue(
        f"{option} {shorten(text)!r}: write bars such as 1-8 or 1-8,13-16, or parts such as"
        " melody:1-8,drums"
    )


def list_parts(parts: Sequence[Part]) -> str:
    """List the numbers and names of parts, for a message."""
    labels = [f"{n} {shorten(part.name or part.role)}".strip() for n, part in enumerate(parts, 1)]
    more = f" and {len(labels) - _NAMED_PARTS} more" if len(labels) > _NAMED_PARTS else ""
    return ", ".join(labels[:_NAMED_PARTS]) + more
