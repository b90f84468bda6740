"""The grammar's rules for a requested line-up, from what a model has met in training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.general_midi import find_family, find_typical_program
from musicgen.music.roles import CHOIR_PROGRAM, is_choir
from musicgen.music.score import Part
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.part_requests import (
    DRUM_ROLE,
    PartRequest,
    PartRequests,
    describe_program,
    format_parts,
    get_default_program,
    get_role_programs,
)
from musicgen.tokens.constraints import DRUM_KIT_ID, PartRule
from musicgen.tokens.lineup import PartDescription
from musicgen.tokens.vocabulary import MEASURES

_PART_COUNTS: Final = ("parts", "lineup")


@dataclass(frozen=True, slots=True)
class LineupRules:
    """What the options require of the parts of a tune."""

    unwanted_ids: frozenset[int]  # numbers of parts that are not drawn
    parts: tuple[PartRule, ...] = ()
    families_by_role: tuple[tuple[str, frozenset[int]], ...] = ()


def make_lineup_rules(options: SamplingOptions, known_ids: Collection[int]) -> LineupRules:
    """Return the rules for the parts that the options request.

    Args:
        options: of the tune.
        known_ids: of the events that the model has met.

    Raises:
        InvalidValue: the model has not met a number of parts, a role or a family.
    """
    known = _KnownParts(known_ids)
    requests, programs = options.requested_parts, get_role_programs(options.program)
    if requests is None:
        by_role = tuple(
            (role, known.find_families(role, program)) for role, program in programs.items()
        )
        return LineupRules(known.find_unwanted_counts(options), families_by_role=by_role)
    _check_requests(requests, options, programs)
    count_id = known.find_count(requests)
    return LineupRules(
        frozenset(known.count_ids - {count_id}),
        tuple(known.make_rule(request, programs.get(request.role)) for request in requests),
    )


def _check_requests(
    requests: PartRequests, options: SamplingOptions, roles: Collection[str]
) -> None:
    """Check that the options agree with each other."""
    if options.max_copy is not None and len(requests) > 1:
        raise InvalidValue(
            "max-copy: the runs of a tune of one part are checked; leave --max-copy or --parts out"
        )
    missing = [role for role in roles if role not in {request.role for request in requests}]
    if missing:
        raise InvalidValue(
            f"program {missing[0]}: the parts {format_parts(requests)} have no {missing[0]}; add it"
            " to --parts, or leave its program out"
        )


class _KnownParts:
    """The numbers of parts, roles and families that a model has met."""

    def __init__(self, known_ids: Collection[int]) -> None:
        self.count_ids = _select(known_ids, *_PART_COUNTS)
        self.lineup_ids = _select(known_ids, "lineup")
        self.role_ids = _select(known_ids, "role")
        self.family_ids = _select(known_ids, "family")

    def find_unwanted_counts(self, options: SamplingOptions) -> frozenset[int]:
        """Return the numbers of parts that are not drawn where none is requested.

        A model without line-ups that knows tunes of one part draws these; so does one that must
        not copy runs, since the runs of one part are followed.
        """
        single = {id_ for id_ in self.count_ids if MEASURES.events[id_].value == 1}
        wants_one = options.max_copy is not None or not self.lineup_ids
        return frozenset(self.count_ids - single if wants_one and single else ())

    def find_count(self, requests: PartRequests) -> int:
        """Return the id of the number of parts. Raises InvalidValue if it is not known."""
        self._check_lineups("parts")
        id_ = MEASURES.id("lineup", len(requests))
        if id_ not in self.lineup_ids:
            raise InvalidValue(
                f"parts {format_parts(requests)}: the training data has no tune of"
                f" {len(requests)} parts, but of {_list_values(self.lineup_ids)}"
            )
        return id_

    def make_rule(self, request: PartRequest, role_program: int | None) -> PartRule:
        """Return the rule of a part. Raises InvalidValue if the model has not met such a part."""
        program = role_program if request.program is None else request.program
        role_id = MEASURES.id("role", request.role)
        if request.role == DRUM_ROLE and DRUM_KIT_ID in self.family_ids:
            return PartRule(frozenset({role_id} & self.role_ids), frozenset({DRUM_KIT_ID}))
        if request.role and role_id not in self.role_ids:
            raise InvalidValue(
                f"parts: the role {request.role} is not in the training data, which has"
                f" {_list_values(self.role_ids)}"
            )
        role_ids = frozenset({role_id}) if request.role else frozenset[int]()
        pitched = frozenset(self.family_ids - {DRUM_KIT_ID})
        return PartRule(role_ids, pitched if program is None else self.find_family_ids(program))

    def find_families(self, role: str, program: int) -> frozenset[int]:
        """Return the families that a role has with a program. Raises InvalidValue if unknown."""
        self._check_lineups(f"program {role}={program}")
        if MEASURES.id("role", role) not in self.role_ids:
            raise InvalidValue(
                f"program {role}={program}: the role is not in the training data, which has"
                f" {_list_values(self.role_ids)}"
            )
        return frozenset({DRUM_KIT_ID}) if role == DRUM_ROLE else self.find_family_ids(program)

    def find_family_ids(self, program: int) -> frozenset[int]:
        """Return the family of a program. Raises InvalidValue if the model has not met it."""
        family = find_family(program)
        id_ = MEASURES.id("family", family)
        if id_ not in self.family_ids:
            raise InvalidValue(
                f"{describe_program(program)}: the family {family} is not in the training data,"
                f" which has {_list_values(self.family_ids)}"
            )
        return frozenset({id_})

    def _check_lineups(self, option: str) -> None:
        if not self.lineup_ids or not self.role_ids:
            raise InvalidValue(
                f"{option}: the training data has no parts with roles; leave it out, or train on"
                " music of several parts"
            )


def _select(ids: Collection[int], *kinds: str) -> set[int]:
    return {id_ for kind in kinds for id_ in MEASURES.ids_by_kind[kind] if id_ in ids}


def _list_values(ids: Collection[int]) -> str:
    values = [str(MEASURES.events[id_].value) for id_ in sorted(ids)]
    return ", ".join(value for value in values if value) or "none"


def make_parts(lineup: Sequence[PartDescription], options: SamplingOptions) -> tuple[Part, ...]:
    """Return the parts of a line-up with their programs: those requested, or the typical ones."""
    requests = options.requested_parts or (PartRequest(""),) * len(lineup)
    by_role, default = get_role_programs(options.program), get_default_program(options.program)
    has_voices = is_choir([Part(role=description.role) for description in lineup])
    parts: list[Part] = []
    for description, request in zip(lineup, requests, strict=True):
        program = by_role.get(description.role) if request.program is None else request.program
        is_first = not description.is_drums and all(part.is_drums for part in parts)
        if program is None and is_first and default:
            program = default
        if program is None:
            program = _choose_program(description, has_voices=has_voices)
        name = _number_name(description.role or description.family, [part.name for part in parts])
        parts.append(Part(name, program, description.is_drums, description.role))
    return tuple(parts)


def _choose_program(description: PartDescription, *, has_voices: bool) -> int:
    """Return the program of a part that none is requested for; a choir sings, if it may."""
    if description.is_drums:
        return 0
    if has_voices and description.family == find_family(CHOIR_PROGRAM):
        return CHOIR_PROGRAM
    return find_typical_program(description.family)


def _number_name(name: str, names: Collection[str]) -> str:
    """Return a name, with a number where other parts have it."""
    count = sum(other == name or other.startswith(f"{name} no. ") for other in names)
    return f"{name} no. {count + 1}" if count else name
