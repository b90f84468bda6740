"""The line-up: the part of the header that describes each part, in the order of the parts.

A part is its role, its level of dynamics where that is not mf, whether it is given, and last its
family of instruments, which says whether it is of drums:

    lineup=2 role=melody family=reed role=drums level=5 family=drum kit

A tune with one part of pitches without a role and no change of dynamics has no line-up, but the
event `parts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from musicgen.music.dynamics import DEFAULT_LEVEL, find_level
from musicgen.music.general_midi import find_family
from musicgen.music.score import SYMBOLS_ROLE, UPPER_VOICE_ROLES, Part
from musicgen.tokens.constraints import DRUM_KIT_ID, PartRule, Rules
from musicgen.tokens.vocabulary import DRUM_KIT, MEASURES, Value

HEADER_LENGTH: Final = 4  # events before the line-up: meter, mode, rhythm, and parts or lineup
LINEUP_KINDS: Final = ("role", "level", "given", "family")  # of a part, in this order
_ROLE, _LEVEL, _GIVEN, _FAMILY = range(len(LINEUP_KINDS))
_DRUM_ROLE: Final = "drums"
_PITCHED_ROLES: Final = ("melody", "bass", "chords", "pad", *UPPER_VOICE_ROLES, SYMBOLS_ROLE)


@dataclass(frozen=True, slots=True)
class LineupState:
    """A line-up as far as it is read."""

    part_count: int
    described: int = 0  # parts whose description is complete
    rank: int = _ROLE  # index in LINEUP_KINDS of the first kind that may come next
    role: str = ""  # of the part under description
    drum_parts: frozenset[int] = frozenset()
    symbols_part: int | None = None  # the first part of chord symbols

    @property
    def is_complete(self) -> bool:
        """Whether all parts are described."""
        return self.described >= self.part_count

    @property
    def first_pitched_part(self) -> int:
        """The number of the first part of pitches; 0 if there is none."""
        without_pitches = {*self.drum_parts, self.symbols_part}
        return next((n for n in range(self.described) if n not in without_pitches), 0)

    @property
    def decision(self) -> str:
        """The name of what is drawn next."""
        return "role" if self.rank == _ROLE else f"family {self.rank}"

    def take(self, kind: str, value: Value) -> LineupState:
        """Return the state after an event; one of another kind changes nothing."""
        if kind == "family":
            drums = {self.described} if value == DRUM_KIT else set()
            is_first_symbols = self.role == SYMBOLS_ROLE and self.symbols_part is None
            return LineupState(
                self.part_count,
                self.described + 1,
                drum_parts=self.drum_parts | drums,
                symbols_part=self.described
                if is_first_symbols and not drums
                else self.symbols_part,
            )
        if kind not in LINEUP_KINDS:
            return self
        role = str(value or "") if kind == "role" else self.role
        return replace(self, role=role, rank=LINEUP_KINDS.index(kind) + 1)

    def legal_ids(self, rules: Rules) -> tuple[int, ...]:
        """Return the ids that may come next under some rules."""
        if self.rank == _ROLE:
            return self._role_ids(rules)
        optional = (kind for kind in LINEUP_KINDS[self.rank : _FAMILY])
        ids = tuple(id_ for kind in optional for id_ in rules.ids_of_kind(kind))
        return (*ids, *self._family_ids(rules, self.role))

    def _role_ids(self, rules: Rules) -> tuple[int, ...]:
        """Return the roles that the part may have; drums only where there is a drum kit."""
        ids = _intersect(rules.ids_of_kind("role"), self._get_rule(rules).role_ids)
        if not rules.strict:
            return ids
        families = self._possible_family_ids(rules)
        has_kit, has_pitches = DRUM_KIT_ID in families, families != (DRUM_KIT_ID,)
        fitting = {"": True, _DRUM_ROLE: has_kit, **dict.fromkeys(_PITCHED_ROLES, has_pitches)}
        fitting[SYMBOLS_ROLE] &= self.symbols_part is None and not self._must_be_pitched(rules)
        for role, wanted in rules.families_by_role:
            fitting[role] = fitting[role] and not wanted.isdisjoint(families)
        return tuple(id_ for id_ in ids if fitting[str(MEASURES.events[id_].value or "")]) or ids

    def _family_ids(self, rules: Rules, role: str) -> tuple[int, ...]:
        """Return the families that a part of a role may have."""
        families = self._possible_family_ids(rules)
        if not rules.strict or not role:
            return families
        families = _intersect(families, dict(rules.families_by_role).get(role, frozenset()))
        is_drums = role == _DRUM_ROLE
        return tuple(id_ for id_ in families if (id_ == DRUM_KIT_ID) == is_drums) or families

    def _possible_family_ids(self, rules: Rules) -> tuple[int, ...]:
        """Return the families that the part may have, whatever its role."""
        families = _intersect(rules.ids_of_kind("family"), self._get_rule(rules).family_ids)
        if not rules.strict:
            return families
        is_playable = {True: rules.ids_of_kind("drum"), False: rules.ids_of_kind("pitch")}
        families = tuple(id_ for id_ in families if is_playable[id_ == DRUM_KIT_ID])
        if not self._must_be_pitched(rules):
            return families
        return tuple(id_ for id_ in families if id_ != DRUM_KIT_ID) or families

    def _must_be_pitched(self, rules: Rules) -> bool:
        if rules.first_part_is_pitched and self.described == 0:
            return True
        silent_count = len(self.drum_parts) + (self.symbols_part is not None)
        has_only_drums = silent_count == self.described
        return rules.needs_pitches and has_only_drums and self.described == self.part_count - 1

    def _get_rule(self, rules: Rules) -> PartRule:
        return rules.lineup[self.described] if self.described < len(rules.lineup) else PartRule()


def _intersect(ids: Sequence[int], wanted: frozenset[int]) -> tuple[int, ...]:
    return tuple(id_ for id_ in ids if id_ in wanted) if wanted else tuple(ids)


def iter_lineup_events(
    parts: Sequence[Part], velocities: Sequence[int]
) -> Iterator[tuple[str, Value]]:
    """Yield kind and value of the events that describe parts.

    Args:
        parts: of a tune.
        velocities: MIDI velocity of each part at its default level.
    """
    for part, velocity in zip(parts, velocities, strict=True):
        yield "role", part.role
        if (level := find_level(velocity)) != DEFAULT_LEVEL:
            yield "level", level
        yield "family", DRUM_KIT if part.is_drums else find_family(part.program)


def measure_header(ids: Sequence[int]) -> int:
    """Return the number of ids in the header of a tune."""
    length = HEADER_LENGTH
    while length < len(ids) and MEASURES.event(ids[length]).kind in LINEUP_KINDS:
        length += 1
    return length


@dataclass(frozen=True, slots=True)
class PartDescription:
    """What the header says of a part."""

    role: str = ""
    family: str = ""
    level: int = DEFAULT_LEVEL

    @property
    def is_drums(self) -> bool:
        """Whether the part is of drums."""
        return self.family == DRUM_KIT


def read_lineup(ids: Sequence[int]) -> tuple[PartDescription, ...]:
    """Return what a header says of each part; () without a line-up."""
    parts: list[PartDescription] = []
    current = PartDescription()
    for id_ in ids[HEADER_LENGTH : measure_header(ids)]:
        event = MEASURES.events[id_]
        if event.kind == "role":
            current = PartDescription(role=str(event.value or ""))
        elif event.kind == "level":
            current = replace(current, level=int(event.value or 0))
        elif event.kind == "family":
            parts.append(replace(current, family=str(event.value)))
            current = PartDescription()
    return tuple(parts)
