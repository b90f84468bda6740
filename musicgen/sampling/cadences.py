"""The value of the option `cadence`: how phrases of a choir end, by bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.voice_lines import CADENCES
from musicgen.typed_data import parse_integer, shorten

CADENCE_KINDS: Final = CADENCES[:-1]  # those with a name
MAX_BAR: Final = 512


@dataclass(frozen=True, slots=True)
class CadencePoints:
    """The kinds of cadences by the numbers of their bars, as written; a pickup is bar 0.

    An authentic one leads to the tonic of the tune.
    """

    by_bar: tuple[tuple[int, str], ...] = ()  # in order

    @property
    def last_bar(self) -> int:
        """The last bar with a cadence."""
        return self.by_bar[-1][0]

    def __str__(self) -> str:
        return ",".join(f"{bar}={kind}" for bar, kind in self.by_bar)


def parse_cadences(text: str) -> CadencePoints:
    """Parse cadences by bar: "8=half,16=authentic".

    Raises:
        InvalidValue: a bar or a kind is unknown, or a bar is given twice.
    """
    by_bar: dict[int, str] = {}
    for word in text.split(","):
        number, _, kind = (field.strip().lower() for field in word.partition("="))
        if kind not in CADENCE_KINDS:
            raise InvalidValue(
                f"cadence {shorten(word.strip())!r}: write a bar and a kind, such as 8=half; the"
                f" kinds are {', '.join(CADENCE_KINDS)}"
            )
        bar = parse_integer(number, "cadence", 1, MAX_BAR)
        if bar in by_bar:
            raise InvalidValue(f"cadence: bar {bar} is given twice; write each bar once")
        by_bar[bar] = kind
    return CadencePoints(tuple(sorted(by_bar.items())))
