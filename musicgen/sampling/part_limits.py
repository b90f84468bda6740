"""Density and polyphony of parts as requested: bar by bar, of a part that is drawn.

A bar of a part is first drawn freely, some times over, until the number of its onsets is in the
requested third. If it never is, it is drawn once more, and only what leads to such a number is
possible. So the bars are those that the model would draw, where these exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.sampling.generation_state import GenerationState
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.role_values import DENSITIES, RoleValues, Thirds, get_role_ranges
from musicgen.tokens.bar_split import BETWEEN_BAR_IDS
from musicgen.tokens.constraints import Rules
from musicgen.tokens.grammar import MeasuresGrammar
from musicgen.tokens.lineup import read_lineup
from musicgen.tokens.vocabulary import MEASURES

FREE_DRAWS: Final = 12
_DRAW_NOISE_OFFSET: Final = 2**44  # between the noise keys of two draws of a bar
_SHORTEST_PLAIN: Final = 12  # steps: sixteenths, where these are short enough
_UNLIMITED: Final = 10**9
_PARTS, _VOICES = MEASURES.ranges["part"], MEASURES.ranges["voice"]
_VOICE_IDS: Final = frozenset(_VOICES)
_LEVELS: Final = frozenset(MEASURES.ranges["level"])
_NOTES: Final = frozenset((*MEASURES.ranges["pitch"], *MEASURES.ranges["drum"]))
_DURATIONS: Final = MEASURES.ranges["duration"]
_TUPLETS: Final = frozenset(MEASURES.ranges["tuplet"])


@dataclass(frozen=True, slots=True)
class OnsetRange:
    """The least and the most onsets of a part in a bar in which it plays."""

    least: int
    most: int


@dataclass(slots=True)
class PartLimits:
    """What is requested of the parts of a tune, by the number of the part."""

    onsets: Mapping[int, OnsetRange] = field(default_factory=dict)
    notes_at_once: Mapping[int, int] = field(default_factory=dict)
    is_enforced: bool = False  # whether only ids are possible that lead to the requested onsets

    def restrict(self, generation: GenerationState, legal: tuple[int, ...]) -> tuple[int, ...]:
        """Return the legal ids that keep the limits."""
        walk = generation.walk
        if not walk.in_bar:
            return legal
        part = walk.voice[0]
        if part in self.notes_at_once:
            legal = _limit_notes_at_once(generation, legal, self.notes_at_once[part])
        if self.is_enforced and part in self.onsets:
            return _limit_onsets(generation, legal, self.onsets[part])
        return legal


def make_part_limits(
    options: SamplingOptions, header: Sequence[int], places: Sequence[int], thirds: Thirds
) -> PartLimits | None:
    """Return the limits that the options set; None if they set none.

    Args:
        options: of the tune.
        header: its ids, with its line-up.
        places: of the parts that are drawn, at least in some bars.
        thirds: of the training data.

    Raises:
        InvalidValue: no drawn part has a role, or the training data does not know its density.
    """
    roles = [part.role or ("drums" if part.is_drums else "") for part in read_lineup(header)]
    densities, notes_at_once = _by_role(options.density), _by_role(options.polyphony)
    drawn_roles = {roles[place] for place in places if place < len(roles)}
    requested = {"density": densities, "polyphony": notes_at_once,
                 "range": get_role_ranges(options.range)}  # fmt: skip
    for name, role in ((name, role) for name, by_role in requested.items() for role in by_role):
        if role not in drawn_roles:
            raise InvalidValue(
                f"{name} {role}: no part with this role is drawn; name the parts with --parts, such"
                " as melody,bass,drums"
            )
    if not densities and not notes_at_once:
        return None
    onsets = {role: _find_onsets(role, str(level), thirds) for role, level in densities.items()}
    return PartLimits(
        {place: onsets[roles[place]] for place in places if roles[place] in onsets},
        {p: int(notes_at_once[roles[p]]) for p in places if roles[p] in notes_at_once},
    )


def _by_role(values: RoleValues | None) -> Mapping[str, str | int]:
    return {} if values is None else dict(values.by_role)


def _find_onsets(role: str, level: str, thirds: Thirds) -> OnsetRange:
    """Return the onsets of a third. Raises InvalidValue where the training data has none."""
    if role not in thirds:
        known = ", ".join(sorted(thirds))
        raise InvalidValue(
            f"density {role}: the training data says nothing of it"
            + (f"; it knows {known}" if known else "; train the model again with this version")
        )
    first, second = thirds[role]
    thirds_of_role = (
        OnsetRange(1, first), OnsetRange(first + 1, second), OnsetRange(second + 1, _UNLIMITED)
    )  # fmt: skip
    onsets = dict(zip(DENSITIES, thirds_of_role, strict=True))[level]
    if onsets.least > onsets.most:
        raise InvalidValue(
            f"density {role}={level}: two thirds of the training data's bars have {first} notes;"
            " ask for low or high"
        )
    return onsets


def check_room(limits: PartLimits, rules: Rules, bar_steps: int) -> None:
    """Check that a bar has room for the requested onsets. Raises InvalidValue."""
    for onsets in limits.onsets.values():
        room = _count_most_notes(rules.durations, bar_steps)
        if onsets.least > room:
            raise InvalidValue(
                f"density: a bar of this meter has room for {room} notes, and at least"
                f" {onsets.least} are requested; ask for less"
            )


def draw_id_or_cell(generation: GenerationState) -> GenerationState:
    """Append the next id, or a whole bar of a part whose onsets are limited.

    Returns:
        The generation to go on with: the one given, or a copy.

    Raises:
        InvalidValue: a bar cannot have the requested onsets under the other options.
    """
    limits = next((r for r in generation.restrictions if isinstance(r, PartLimits)), None)
    if limits is None or limits.is_enforced or not _starts_drawn_cell(generation, limits):
        generation.step()
        return generation
    onsets, noise = limits.onsets[generation.walk.voice[0]], generation.noise
    for number in range(FREE_DRAWS):
        fork = _fork(generation, noise, number)
        count = _draw_cell(fork)
        if count == 0 or onsets.least <= count <= onsets.most:
            break
    else:
        fork = _fork(generation, noise, FREE_DRAWS)
        enforced = PartLimits(limits.onsets, limits.notes_at_once, is_enforced=True)
        fork.restrictions = tuple(
            enforced if each is limits else each for each in generation.restrictions
        )
        count, is_full = _draw_cell(fork), _is_in_full_bar(generation)
        if count > onsets.most or (is_full and count and count < onsets.least):
            raise InvalidValue(
                f"density: bar {generation.walk.form.bars_written} got {count} notes in a part,"
                " since the other options leave no other ending; leave --end or --density out"
            )
    fork.noise, fork.restrictions = noise, generation.restrictions
    return fork


def _is_in_full_bar(generation: GenerationState) -> bool:
    """Return whether the bar under way was not opened as a short one."""
    return generation.ids[generation.bar_start - 1] not in MEASURES.ranges["partial"]


def _fork(generation: GenerationState, noise: Noise, number: int) -> GenerationState:
    """Return a copy with noise of its own; the first has that of the tune."""
    fork = generation.copy()
    fork.noise = Noise(noise.seed, noise.tune_number + number * _DRAW_NOISE_OFFSET)
    return fork


def _starts_drawn_cell(generation: GenerationState, limits: PartLimits) -> bool:
    """Return whether a part with limited onsets is about to be drawn from the start of a bar."""
    walk, last = generation.walk, generation.ids[-1]
    if not walk.in_bar or walk.voice[0] not in limits.onsets or walk.voice[1]:
        return False
    is_start = last in _PARTS if walk.voice[0] else len(generation.ids) == generation.bar_start
    return is_start and not generation.is_forced


def _draw_cell(generation: GenerationState) -> int:
    """Draw a part as far as the bar goes; return the number of places at which notes start."""
    walk = generation.walk
    bar, part = walk.form.bars_written, walk.voice[0]
    onsets: set[int] = set()
    while not walk.is_done and walk.in_bar:
        cursor = walk.cursor
        generation.step()
        if walk.voice[0] != part or walk.form.bars_written != bar:
            break
        if generation.ids[-1] in _NOTES and generation.ids[-2] in _DURATIONS:
            onsets.add(cursor)
    return len(onsets)


def _limit_notes_at_once(
    generation: GenerationState, legal: tuple[int, ...], most: int
) -> tuple[int, ...]:
    """Return the ids that leave a part in one voice, with chords of at most so many notes."""
    size = 0
    for id_ in reversed(generation.ids):
        if id_ in _DURATIONS or id_ in _PARTS or id_ in BETWEEN_BAR_IDS:
            break
        size += id_ in _NOTES
    walk, excluded = generation.walk, _VOICE_IDS
    if walk.duration is None and size >= most:
        excluded |= _NOTES
        excluded |= _LEVELS if walk.is_full else frozenset()  # only a note could follow
    return tuple(id_ for id_ in legal if id_ not in excluded)


def _limit_onsets(
    generation: GenerationState, legal: tuple[int, ...], onsets: OnsetRange
) -> tuple[int, ...]:
    """Return the ids after which a bar can have the requested onsets, in one voice."""
    walk = generation.walk
    count = _count_heads(generation)
    legal = tuple(id_ for id_ in legal if id_ not in _VOICES)
    needed = onsets.least - count if walk.bar_length == walk.form.meter_steps else 0
    if walk.duration is None:
        return _limit_values(walk, legal, needed) if needed > 0 and walk.tuplet is None else legal
    notes = tuple(id_ for id_ in legal if id_ in _NOTES)
    if walk.must_land and count == onsets.most - 1:  # the last note is one to end on
        final_ids = walk.rules.final_pitch_ids
        return tuple(id_ for id_ in legal if id_ not in _NOTES or id_ in final_ids) or legal
    if count >= onsets.most:
        return tuple(id_ for id_ in legal if id_ not in _NOTES) or legal
    room = _count_most_notes(walk.rules.durations, _steps_left(walk, walk.duration_steps))
    return notes or legal if needed > room else legal


def _count_heads(generation: GenerationState) -> int:
    """Return the number of notes and chords in the bar so far, of a part with one voice."""
    ids, count = generation.ids, 0
    for index in range(len(ids) - 1, generation.bar_start - 1, -1):
        if ids[index] in _PARTS:
            break
        count += ids[index] in _NOTES and ids[index - 1] in _DURATIONS
    return count


def _limit_values(walk: MeasuresGrammar, legal: tuple[int, ...], needed: int) -> tuple[int, ...]:
    """Return the values after which the rest of the bar has room for the notes still needed."""
    durations = walk.rules.durations
    fitting = tuple(
        id_ for id_ in legal
        if (id_ not in _DURATIONS and id_ not in _TUPLETS)
        or (id_ in _DURATIONS
        and _count_most_notes(durations, _steps_left(walk, int(MEASURES.events[id_].value or 0)))
        >= needed - 1)
    )  # fmt: skip
    return fitting if any(id_ in _DURATIONS for id_ in fitting) else legal


def _steps_left(walk: MeasuresGrammar, taken: int) -> int:
    """Return the steps of the bar that are left after some more."""
    return max((walk.bar_length or 0) - walk.cursor - taken, 0)


@lru_cache(maxsize=4096)
def _count_most_notes(durations: tuple[int, ...], steps: int) -> int:
    """Return the most values that fill some steps exactly, of sixteenths or longer if possible."""
    plain = _fill_with_most(tuple(d for d in durations if d >= _SHORTEST_PLAIN), steps)
    return plain if plain >= 0 else max(_fill_with_most(durations, steps), 0)


def _fill_with_most(durations: tuple[int, ...], steps: int) -> int:
    """Return the most values whose sum is exactly some steps; -1 if there are none."""
    most = [0, *[-1] * steps]
    for total in range(1, steps + 1):
        counts = [most[total - d] for d in durations if d <= total and most[total - d] >= 0]
        most[total] = max(counts) + 1 if counts else -1
    return most[steps]
