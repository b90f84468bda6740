"""The constraints on a tune, and the tables that the grammar derives from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.bars import PARTIAL_BAR_STEPS
from musicgen.music.durations import PLAIN_DURATIONS, SHORTEST_WRITABLE, TUPLETS, Tuplet
from musicgen.music.theory import Meter
from musicgen.tokens.song_form import FormLayout
from musicgen.tokens.vocabulary import DRUM_KIT, MEASURES, Event, Value

DEFAULT_MAX_BARS: Final = 64  # bars heard, if no number is given
DRUM_KIT_ID: Final = MEASURES.id("family", DRUM_KIT)
_UNBOUNDED: Final = 10**9
_LONGEST_TUPLET: Final = max(tuplet.nominal for tuplet in TUPLETS)
_REQUIRED_KINDS: Final = (("end",), ("mode",), ("rhythm",), ("parts", "lineup"), ("bar",),
                  ("duration",), ("pitch", "drum"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class PartRule:
    """What one part of a line-up may be: ids of its role and of its family; empty: any."""

    role_ids: frozenset[int] = frozenset()
    family_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Rules:
    """The constraints on a tune.

    Strict rules are for sampling: no irregular bars, no change of meter, no rest before the first
    note. Without `strict`, every canonical tune that the codec can write is legal. With a layout
    there are no variant endings and no changes of key.
    """

    allowed_ids: frozenset[int] = frozenset(range(len(MEASURES)))
    min_bars: int = 1  # bars heard
    max_bars: int = DEFAULT_MAX_BARS  # bars heard
    strict: bool = True
    drum_parts: frozenset[int] | None = frozenset()  # None: the first note of each part decides
    layout: FormLayout | None = None
    pickup: int | None = None  # steps; 0: no pickup; None: free
    final_pitch_ids: frozenset[int] = frozenset()  # pitches that the tune may end on; empty: any
    # whether only final pitches sound from the start of one on a beat to the end of the last bar
    requires_cadence: bool = False
    landing_part: int | None = None  # the part that ends on them; None: the first of pitches
    opens_with_all_parts: bool = False  # whether each part of a line-up has a note in the first bar
    part_pitch_ids: tuple[frozenset[int], ...] = ()  # pitches of each part; empty: any
    lineup: tuple[PartRule, ...] = ()  # what each part of a line-up may be; (): anything
    families_by_role: tuple[tuple[str, frozenset[int]], ...] = ()  # where a role has only some
    needs_pitches: bool = False  # whether a line-up must have a part that is not of drums
    first_part_is_pitched: bool = False  # and whether this is the first
    longest_given_bar: int = 0  # steps, of bars of any length that are given
    _fitting_cache: dict[int | None, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _pickup_cache: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.min_bars <= self.max_bars:
            raise InvalidValue(f"bars {self.min_bars}..{self.max_bars}: ask for 1 bar or more")
        for kinds in _REQUIRED_KINDS:
            if not any(map(self.ids_of_kind, kinds)):
                raise InvalidValue(
                    f"the model knows no event {kinds[0]!r}; train it on complete tunes"
                )
        if not self.meter_ids and self.pickup:
            pickups = ", ".join(map(str, self.possible_pickups)) or "no pickups"
            raise InvalidValue(
                f"pickup of {self.pickup} steps: the model knows {pickups} (48 steps per quarter"
                " note)"
            )
        if not self.meter_ids:
            raise InvalidValue(
                "the model knows no meter whose bars its note values fill; train it on complete"
                " tunes"
            )

    @cached_property
    def cache_key(self) -> tuple[object, ...]:
        """A key that equal rules share."""
        return tuple(getattr(self, item.name) for item in fields(self) if item.repr)

    @classmethod
    def permissive(cls, drum_parts: Iterable[int] = ()) -> Rules:
        """Return rules that every canonical tune obeys."""
        return cls(max_bars=_UNBOUNDED, strict=False, drum_parts=frozenset(drum_parts))

    def allows(self, kind: str, value: Value = None) -> bool:
        """Tell whether an event exists and is allowed."""
        return MEASURES.ids.get(Event(kind, value), -1) in self.allowed_ids

    def ids_of_kind(self, kind: str) -> tuple[int, ...]:
        """Return the allowed ids of a kind, ascending."""
        return self._by_kind[kind]

    @cached_property
    def _by_kind(self) -> dict[str, tuple[int, ...]]:
        return {
            kind: tuple(id_ for id_ in ids if id_ in self.allowed_ids)
            for kind, ids in MEASURES.ids_by_kind.items()
        }

    @cached_property
    def part_count_ids(self) -> tuple[int, ...]:
        """The ids of the number of parts, without and with a line-up, ascending."""
        return (*self.ids_of_kind("parts"), *self._lineup_ids)

    @property
    def _lineup_ids(self) -> tuple[int, ...]:
        """The ids that open a line-up, if its parts can be described and played."""
        families = set(self.ids_of_kind("family"))
        can_play = (
            not self.strict
            or (DRUM_KIT_ID in families and self.ids_of_kind("drum"))
            or (families - {DRUM_KIT_ID} and self.ids_of_kind("pitch"))
        )
        return self.ids_of_kind("lineup") if can_play and self.ids_of_kind("role") else ()

    @cached_property
    def can_repeat(self) -> bool:
        """Whether a repeated section can be opened and closed."""
        return self.allows("repeat_start") and self.allows("repeat_end", 2)

    @cached_property
    def chooses_drums(self) -> bool:
        """Whether a part may become one of drums or one of pitches."""
        return (
            self.drum_parts is None
            and bool(self.ids_of_kind("drum"))
            and bool(self.ids_of_kind("pitch"))
        )

    @cached_property
    def durations(self) -> tuple[int, ...]:
        """The allowed durations in steps."""
        return tuple(value for value in PLAIN_DURATIONS if self.allows("duration", value))

    @cached_property
    def longest_gap(self) -> int:
        """The longest gap in steps that occurs: a bar of the longest meter, or a tuplet."""
        meters = map(_bar_steps, self.ids_of_kind("meter"))
        return max(_LONGEST_TUPLET, *meters, self.longest_given_bar)

    @cached_property
    def plain_fillable(self) -> list[bool]:
        """By length in steps: whether the durations that ABC can write fill it exactly."""
        return _fill(
            [value for value in self.durations if value % SHORTEST_WRITABLE == 0], self.longest_gap
        )

    @cached_property
    def tuplets(self) -> tuple[Tuplet, ...]:
        """The allowed tuplets that the allowed durations can fill."""
        return tuple(
            tuplet
            for tuplet in TUPLETS
            if MEASURES.ids.get(_tuplet_event(tuplet), -1) in self.allowed_ids
            and self.plain_fillable[tuplet.nominal]
        )

    @cached_property
    def fillable(self) -> list[bool]:
        """By length in steps: whether allowed durations and tuplets fill it exactly."""
        values = [*self.durations, *(tuplet.steps for tuplet in self.tuplets)]
        return _fill(values, self.longest_gap)

    @cached_property
    def meter_ids(self) -> tuple[int, ...]:
        """The ids of the meters whose bars can be filled, and that allow the required pickup."""
        return tuple(
            id_
            for id_ in self.ids_of_kind("meter")
            if self.fillable[_bar_steps(id_)]
            and (not self.pickup or self.pickup_lengths(_bar_steps(id_)))
        )

    @property
    def possible_pickups(self) -> tuple[int, ...]:
        """The lengths in steps of the pickups that some allowed meter has, ascending."""
        free = replace(self, pickup=None, _fitting_cache={}, _pickup_cache={})
        lengths = (free.pickup_lengths(_bar_steps(id_)) for id_ in free.meter_ids)
        return tuple(sorted(set(chain.from_iterable(lengths))))

    def fitting_value_ids(self, gap_steps: int | None) -> tuple[int, ...]:
        """Return the durations and tuplets after which the rest of a gap can be filled.

        Args:
            gap_steps: length of the gap; None: unbounded, so that every value fits.
        """
        if gap_steps not in self._fitting_cache:
            self._fitting_cache[gap_steps] = tuple(
                id_
                for id_, steps in self._steps_by_value_id.items()
                if gap_steps is None
                or gap_steps > self.longest_gap
                or (steps <= gap_steps and self.fillable[gap_steps - steps])
            )
        return self._fitting_cache[gap_steps]

    @cached_property
    def _steps_by_value_id(self) -> dict[int, int]:
        """The sounding steps of the allowed durations and tuplets, by id."""
        durations = {MEASURES.id("duration", steps): steps for steps in self.durations}
        tuplets = {MEASURES.ids[_tuplet_event(tuplet)]: tuplet.steps for tuplet in self.tuplets}
        return durations | tuplets

    def can_split_at_beat(self, position: int, bar_steps: int, beat_steps: int) -> bool:
        """Tell whether values can fill the rest of a bar so that one starts on a beat.

        Args:
            position: steps from the start of the bar.
            bar_steps: length of the bar in steps.
            beat_steps: steps per beat.
        """
        first_beat = -(-position // beat_steps) * beat_steps
        return any(
            self.fillable[beat - position] and self.fillable[bar_steps - beat]
            for beat in range(first_beat, bar_steps, beat_steps)
        )

    def tuplet_duration_ids(self, nominal_left: int) -> tuple[int, ...]:
        """Return the durations that may come next in a tuplet with some nominal steps left."""
        return tuple(
            MEASURES.id("duration", value)
            for value in self.durations
            if value % SHORTEST_WRITABLE == 0
            and value <= nominal_left
            and self.plain_fillable[nominal_left - value]
        )

    def pickup_lengths(self, bar_steps: int) -> tuple[int, ...]:
        """Return the lengths in steps of pickups that a short bar can complete to a full one."""
        if bar_steps not in self._pickup_cache:
            candidates: Sequence[int] = PARTIAL_BAR_STEPS if self.pickup is None else (self.pickup,)
            if self.layout is not None and not self.layout.allows_pickup:
                candidates = ()
            self._pickup_cache[bar_steps] = tuple(
                steps
                for steps in candidates
                if steps in PARTIAL_BAR_STEPS
                and steps < bar_steps
                and self._allows_short_bar(steps)
                and self._allows_short_bar(bar_steps - steps)
            )
        return self._pickup_cache[bar_steps]

    def _allows_short_bar(self, steps: int) -> bool:
        return self.allows("partial", steps) and self.fillable[steps]


def _bar_steps(id_: int) -> int:
    return Meter.parse(str(MEASURES.events[id_].value)).steps


def _tuplet_event(tuplet: Tuplet) -> Event:
    return Event("tuplet", f"{tuplet.p} {tuplet.q} {tuplet.unit}")


def _fill(values: Sequence[int], longest: int) -> list[bool]:
    """Tell for each length up to the longest whether a sum of values equals it.

    The bits of an integer are the lengths; a shift by a value adds the value to all of them.
    """
    lengths, mask = 1, (1 << longest + 1) - 1  # only the empty sum
    for value in values:
        step = value
        while step <= longest:  # once, twice, four times the value: then any number of times
            lengths |= lengths << step & mask
            step *= 2
    return [bit == "1" for bit in reversed(f"{lengths:0{longest + 1}b}")]
