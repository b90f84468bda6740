"""What became of every tune: kept, or left out for a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from musicgen.errors import Refusal


@dataclass(frozen=True)
class Report:
    """The account of a build: found = kept + refused."""

    kept: int
    codes: Mapping[str, int]  # how many were refused, by reason code, the most frequent first
    remarks: Mapping[str, int]  # how many kept tunes have something odd, by its kind
    relations: Mapping[str, int]  # how many kept tunes are like an earlier one, by how
    files: int = 0
    skipped_files: int = 0  # other files, which are no tunes by their names
    reused_files: int = 0  # files that did not change since the build that this one replaces
    refusals: Sequence[Refusal] = field(default=(), compare=False)

    @property
    def refused(self) -> int:
        """How many were left out, a file that cannot be read as one."""
        return sum(self.codes.values())

    @property
    def found(self) -> int:
        """How many tunes the sources hold, those of a file that cannot be read as one."""
        return self.kept + self.refused

    def with_refusals(self, refusals: Sequence[Refusal]) -> Report:
        """Return the report with the refusals themselves."""
        return replace(self, refusals=refusals)

    def to_json(self) -> str:
        """Write what a data set keeps of it: what follows from the tunes alone."""
        told = {key: value for key, value in asdict(self).items() if key not in _NOT_STORED}
        return json.dumps({"found": self.found, "refused": self.refused, **told}, indent=1)


_NOT_STORED = ("skipped_files", "reused_files", "refusals")


def make_duplicate_refusal(
    row: Mapping[str, Any], first: Mapping[str, Any], semitones: int
) -> Refusal:
    """Refuse a tune whose ids are those of another, so many semitones higher than it."""
    moved = (
        f", {abs(semitones)} semitones {'higher' if semitones > 0 else 'lower'}"
        if semitones
        else ""
    )
    return Refusal(
        f"its notes are those of {first['title']!r} in {first['source']}{moved}; it was left out",
        source=row["source"],
        place=format_place(row["number"], row["title"]),
        code="duplicate",
    )


def format_place(number: int, title: str) -> str:
    """Name a tune of a file."""
    return f"tune {number} {title!r}"
