"""Values that hold for parts by role: pitch ranges, densities, the most notes at once.

range      D4-B5, or bass=E1-G2,melody=D4-B5   of all parts, and of roles
density    drums=low,bass=high                 low, medium, high: thirds of the training data
polyphony  chords=3,melody=1                   the most notes of a part at once
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.score import PART_ROLES
from musicgen.music.theory import parse_range, pitch_name
from musicgen.typed_data import parse_integer, shorten

ROLES: Final = PART_ROLES[1:]
DENSITIES: Final = ("low", "medium", "high")
MOST_NOTES_AT_ONCE: Final = 16

Thirds = Mapping[str, Sequence[int]]  # by role: onsets per bar that end the first two thirds


def split_by_role(text: str, option: str, example: str) -> tuple[list[str], dict[str, str]]:
    """Split "40,bass=33" into values for all parts and the value of each role.

    Raises:
        InvalidValue: a role is unknown, or given twice.
    """
    by_role: dict[str, str] = {}
    default: list[str] = []
    for word in text.split(","):
        role, equals, value = word.partition("=")
        name = role.strip().lower() if equals else ""
        if equals and (name not in ROLES or name in by_role):
            fault = "is given twice" if name in by_role else "is unknown"
            raise InvalidValue(
                f"{option} {shorten(word.strip())!r}: the role {fault}; write each once, such as"
                f" {example}; the roles are {', '.join(ROLES)}"
            )
        if equals:
            by_role[name] = value
        else:
            default.append(word)
    return default, by_role


@dataclass(frozen=True, slots=True)
class RoleRanges:
    """The pitch ranges of some roles, and of the other parts."""

    by_role: tuple[tuple[str, tuple[int, int]], ...]
    default: tuple[int, int] | None = None

    def __str__(self) -> str:
        default = [format_range(self.default)] if self.default else []
        by_role = (f"{role}={format_range(bounds)}" for role, bounds in self.by_role)
        return ",".join([*default, *by_role])


def format_range(lowest_and_highest: tuple[int, int]) -> str:
    """Write a range of MIDI note numbers the way `parse_range` reads it: "D4-B5"."""
    return "-".join(map(pitch_name, lowest_and_highest))


def parse_ranges(text: str) -> tuple[int, int] | RoleRanges:
    """Parse a range ("D4-B5"), or ranges of roles ("bass=E1-G2,melody=D4-B5"), or both.

    Raises:
        InvalidValue: a role or a range is unknown, or given twice.
    """
    if "=" not in text:
        return parse_range(text)
    default, by_role = split_by_role(text, "range", "bass=E1-G2")
    if "drums" in by_role:
        raise InvalidValue("range drums: drums have no pitches; leave their range out")
    return RoleRanges(
        tuple((role, parse_range(value)) for role, value in by_role.items()),
        parse_range(",".join(default)) if default else None,
    )


def format_ranges(ranges: tuple[int, int] | RoleRanges) -> str:
    """Write ranges the way `parse_ranges` reads them."""
    return str(ranges) if isinstance(ranges, RoleRanges) else format_range(ranges)


@dataclass(frozen=True, slots=True)
class RoleValues:
    """A word or a number for each of some roles, such as `drums=low`."""

    by_role: tuple[tuple[str, str | int], ...]

    def __str__(self) -> str:
        return ",".join(f"{role}={value}" for role, value in self.by_role)


def parse_densities(text: str) -> RoleValues:
    """Parse densities of roles: "drums=low,bass=high". Raises InvalidValue."""
    return RoleValues(
        tuple((role, _parse_density(role, value)) for role, value in _split_values(text, "density"))
    )


def _parse_density(role: str, text: str) -> str:
    level = text.strip().lower()
    if level not in DENSITIES:
        raise InvalidValue(f"density {role}={shorten(level)}: choose one of {', '.join(DENSITIES)}")
    return level


def parse_polyphony(text: str) -> RoleValues:
    """Parse the most notes at once of roles: "chords=3,melody=1". Raises InvalidValue."""
    return RoleValues(
        tuple(
            (role, parse_integer(value, f"polyphony {role}", 1, MOST_NOTES_AT_ONCE))
            for role, value in _split_values(text, "polyphony")
        )
    )


def _split_values(text: str, option: str) -> Iterable[tuple[str, str]]:
    example = {"density": "drums=low", "polyphony": "chords=3"}[option]
    default, by_role = split_by_role(text, option, example)
    if default:
        raise InvalidValue(
            f"{option} {shorten(default[0])!r}: name the role, such as {example}; the roles are"
            f" {', '.join(ROLES)}"
        )
    return by_role.items()


def get_role_ranges(ranges: tuple[int, int] | RoleRanges | None) -> Mapping[str, tuple[int, int]]:
    """Return the requested range of each role."""
    return dict(ranges.by_role) if isinstance(ranges, RoleRanges) else {}


def get_common_range(ranges: tuple[int, int] | RoleRanges | None) -> tuple[int, int] | None:
    """Return the requested range of all parts without a range of their own."""
    return ranges.default if isinstance(ranges, RoleRanges) else ranges


def select_roles(values: RoleValues | None, roles: Collection[str]) -> RoleValues | None:
    """Return the values of some roles; None if there are none."""
    kept = tuple(pair for pair in (values.by_role if values else ()) if pair[0] in roles)
    return RoleValues(kept) if kept else None


def select_range_roles(
    ranges: tuple[int, int] | RoleRanges | None, roles: Collection[str]
) -> tuple[int, int] | RoleRanges | None:
    """Return the ranges of some roles, and that of all parts."""
    if not isinstance(ranges, RoleRanges):
        return ranges
    kept = tuple(pair for pair in ranges.by_role if pair[0] in roles)
    return replace(ranges, by_role=kept) if kept else ranges.default
