"""Which parts a tune is to have: their roles, and the programs of roles and parts.

    parts     melody,bass:33,drums      a role each, with a program where one is requested
    program   40, or bass=33,melody=73  of the first part of pitches, and of roles

"any" is a part whose role is left to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.general_midi import PROGRAMS, parse_program
from musicgen.music.score import Score
from musicgen.sampling.role_values import ROLES, split_by_role
from musicgen.tokens.vocabulary import MAX_PARTS
from musicgen.typed_data import shorten

ANY_ROLE: Final = "any"
DRUM_ROLE: Final = "drums"


@dataclass(frozen=True, slots=True)
class PartRequest:
    """One part of a requested line-up."""

    role: str  # one of PARTROLES; "": any
    program: int | None = None  # General MIDI, 0..127

    def __str__(self) -> str:
        name = self.role or ANY_ROLE
        return name if self.program is None else f"{name}:{self.program}"


PartRequests = tuple[PartRequest, ...]


@dataclass(frozen=True, slots=True)
class RolePrograms:
    """The programs of some roles, and of the first part of pitches."""

    by_role: tuple[tuple[str, int], ...]
    default: int = 0

    def __str__(self) -> str:
        default = [str(self.default)] if self.default else []
        return ",".join([*default, *(f"{role}={program}" for role, program in self.by_role)])


def parse_parts(text: str) -> PartRequests:
    """Parse a line-up: "melody,bass:33,drums".

    Raises:
        InvalidValue: a role or a program is unknown, or there are too many parts.
    """
    requests = tuple(_parse_part(word) for word in text.split(","))
    if len(requests) > MAX_PARTS:
        raise InvalidValue(f"parts: {len(requests)} are too many; name up to {MAX_PARTS}")
    return requests


def _parse_part(word: str) -> PartRequest:
    role, colon, program = word.partition(":")
    name = role.strip().lower()
    if name not in (*ROLES, ANY_ROLE):
        raise InvalidValue(
            f"parts {shorten(word.strip())!r} is unknown: write roles such as"
            f" melody,bass,drums; there are {', '.join(ROLES)} and {ANY_ROLE}"
        )
    return PartRequest("" if name == ANY_ROLE else name, parse_program(program) if colon else None)


def format_parts(requests: PartRequests) -> str:
    """Write a line-up the way `parse_parts` reads it."""
    return ",".join(map(str, requests))


def parse_programs(text: str) -> int | RolePrograms:
    """Parse a program ("flute", "40"), or programs of roles ("bass=33,melody=flute"), or both.

    Raises:
        InvalidValue: a role or a program is unknown, or given twice.
    """
    if "=" not in text:
        return parse_program(text)
    default, by_role = split_by_role(text, "program", "bass=33")
    return RolePrograms(
        tuple((role, parse_program(value)) for role, value in by_role.items()),
        parse_program(default[-1]) if default else 0,
    )


def format_programs(programs: int | RolePrograms) -> int | str:
    """Write programs the way `parse_programs` reads them; one program alone as a number."""
    return str(programs) if isinstance(programs, RolePrograms) else programs


def get_default_program(programs: int | RolePrograms) -> int:
    """Return the program of the first part of pitches."""
    return programs.default if isinstance(programs, RolePrograms) else programs


def get_role_programs(programs: int | RolePrograms) -> Mapping[str, int]:
    """Return the requested program of each role."""
    return dict(programs.by_role) if isinstance(programs, RolePrograms) else {}


def copy_lineup(score: Score) -> PartRequests:
    """Return the line-up of a score: the roles and programs of its parts."""
    return tuple(
        PartRequest(DRUM_ROLE, part.program or None)
        if part.is_drums
        else PartRequest(part.role, part.program)
        for part in score.parts
    )


def describe_program(program: int) -> str:
    """Write a program with its name, for a message."""
    return f"program {program} ({PROGRAMS[program]})"
