"""The report of a build: which tunes were kept, and why the others were left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from musicgen.errors import Refusal


@dataclass(frozen=True)
class Report:
    """The counts of a build: found = kept + refused."""

    kept: int
    codes: Mapping[str, int]  # number of refusals by reason code, most frequent first
    remarks: Mapping[str, int]  # number of kept tunes by kind of remark
    relations: Mapping[str, int]  # number of kept tunes by relation to an earlier tune
    files: int = 0
    skipped_files: int = 0  # files whose suffix is not that of a tune
    reused_files: int = 0  # unchanged files taken from the read cache of the replaced build
    refusals: Sequence[Refusal] = field(default=(), compare=False)

    @property
    def refused(self) -> int:
        """The number of refusals; an unreadable file counts as one."""
        return sum(self.codes.values())

    @property
    def found(self) -> int:
        """The number of tunes in the sources; an unreadable file counts as one."""
        return self.kept + self.refused

    def with_refusals(self, refusals: Sequence[Refusal]) -> Report:
        """Return a copy with the refusals themselves."""
        return replace(self, refusals=refusals)

    def to_json(self) -> str:
        """Serialize what a data set stores: the counts that depend on the tunes alone."""
        stored = {key: value for key, value in asdict(self).items() if key not in _NOT_STORED}
        return json.dumps({"found": self.found, "refused": self.refused, **stored}, indent=1)


_NOT_STORED = ("skipped_files", "reused_files", "refusals")


def make_duplicate_refusal(
    row: Mapping[str, Any], first: Mapping[str, Any], semitones: int
) -> Refusal:
    """Make the refusal of a tune with the same ids as an earlier one.

    Args:
        row: the duplicate.
        first: the earlier tune.
        semitones: how much higher the duplicate is.
    """
    direction = "higher" if semitones > 0 else "lower"
    transposition = f", {abs(semitones)} semitones {direction}" if semitones else ""
    return Refusal(
        f"its notes are those of {first['title']!r} in {first['source']}{transposition};"
        " it was left out",
        source=row["source"],
        place=format_place(row["number"], row["title"]),
        code="duplicate",
    )


def format_place(number: int, title: str) -> str:
    """Name a tune in a file by its number and title."""
    return f"tune {number} {title!r}"
