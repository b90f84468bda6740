"""What a tune may hold: the settings of the grammar, and what follows from them once for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Final

from musicgen.errors import InvalidValue
from musicgen.music.bars import PARTIAL_BAR_STEPS
from musicgen.music.durations import PLAIN_DURATIONS, SHORTEST_WRITABLE, TUPLETS, Tuplet
from musicgen.music.theory import Meter
from musicgen.tokens.song_form import FormLayout
from musicgen.tokens.vocabulary import MEASURES, Event, Value

DEFAULT_MAX_BARS: Final = 64  # bars heard, where no number is asked for
_UNBOUNDED: Final = 10**9
_LONGEST_TUPLET: Final = max(tuplet.nominal for tuplet in TUPLETS)
_REQUIRED_KINDS: Final = (("end",), ("mode",), ("rhythm",), ("parts",), ("bar",), ("duration",),
                  ("pitch", "drum"))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rules:
    """What a tune may hold: the allowed events and the number of bars as heard.

    strict: for sampling. No irregular bars, no change of meter, no rest before the first note.
    Without it every canonical tune that the codec can write is legal.
    drum_parts: the parts that drums play; None: each part is what its first note makes it.
    layout, pickup, closing: what else is asked of a tune that is sampled. With a layout there are
    no variant endings and no changes of key.
    """

    allowed_ids: frozenset[int] = frozenset(range(len(MEASURES)))
    min_bars: int = 1
    max_bars: int = DEFAULT_MAX_BARS
    strict: bool = True
    drum_parts: frozenset[int] | None = frozenset()
    layout: FormLayout | None = None
    pickup: int | None = None  # steps; 0: none; None: as it comes
    final_pitch_ids: frozenset[int] = frozenset()  # pitch ids that the tune may end on; none: any
    _fitting_cache: dict[int | None, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _pickup_cache: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.min_bars <= self.max_bars:
            raise InvalidValue(f"bars {self.min_bars}..{self.max_bars}: ask for 1 bar or more")
        missing = [kinds[0] for kinds in _REQUIRED_KINDS if not any(map(self.ids_of_kind, kinds))]
        if not missing and not self.meter_ids and self.pickup:
            raise InvalidValue(
                f"pickup of {self.pickup} steps: the model has none such; it knows"
                f" {', '.join(map(str, self.possible_pickups)) or 'no pickups'} (48 to the quarter)"
            )
        if missing or not self.meter_ids:
            what = f"no event {missing[0]!r}" if missing else "no meter that can be filled"
            raise InvalidValue(f"the model knows {what}; train it on whole tunes")

    @cached_property
    def cache_key(self) -> tuple[object, ...]:
        """What tells these rules from others: everything that they were given."""
        return tuple(getattr(self, one.name) for one in fields(self) if one.repr)

    @classmethod
    def permissive(cls, drum_parts: Iterable[int] = ()) -> Rules:
        """Rules that every canonical tune obeys."""
        return cls(max_bars=_UNBOUNDED, strict=False, drum_parts=frozenset(drum_parts))

    def allows(self, kind: str, value: Value = None) -> bool:
        """Tell whether an event is in the table and allowed."""
        return MEASURES.ids.get(Event(kind, value), -1) in self.allowed_ids

    def ids_of_kind(self, kind: str) -> tuple[int, ...]:
        """Return the allowed ids of a kind, ascending."""
        return self._by_kind[kind]

    @cached_property
    def _by_kind(self) -> dict[str, tuple[int, ...]]:
        return {
            kind: tuple(id_ for id_ in ids if id_ in self.allowed_ids)
            for kind, ids in MEASURES.ranges.items()
        }

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
        """The allowed plain values."""
        return tuple(value for value in PLAIN_DURATIONS if self.allows("duration", value))

    @cached_property
    def longest_gap(self) -> int:
        """The longest gap that is asked about: a bar of the longest meter, or a tuplet."""
        meters = map(_bar_steps, self.ids_of_kind("meter"))
        return max(_LONGEST_TUPLET, *meters, 0)

    @cached_property
    def plain_fillable(self) -> list[bool]:
        """Whether plain values on the grain can fill a length exactly, by length."""
        return _fill(
            [value for value in self.durations if value % SHORTEST_WRITABLE == 0], self.longest_gap
        )

    @cached_property
    def tuplets(self) -> tuple[Tuplet, ...]:
        """The allowed tuplets that the allowed values can fill."""
        return tuple(
            t for t in TUPLETS
            if self.allows("tuplet", f"{t.p} {t.q} {t.unit}") and self.plain_fillable[t.nominal]
        )  # fmt: skip

    @cached_property
    def fillable(self) -> list[bool]:
        """Whether allowed values and tuplets can fill a length exactly, by length."""
        return _fill([*self.durations, *(t.steps for t in self.tuplets)], self.longest_gap)

    @cached_property
    def meter_ids(self) -> tuple[int, ...]:
        """The ids of the meters whose bars can be filled, and that have the pickup asked for."""
        return tuple(
            i
            for i in self.ids_of_kind("meter")
            if self.fillable[_bar_steps(i)]
            and (not self.pickup or self.pickup_lengths(_bar_steps(i)))
        )

    @property
    def possible_pickups(self) -> tuple[int, ...]:
        """The pickups that would do in some allowed meter."""
        free = replace(self, pickup=None, _fitting_cache={}, _pickup_cache={})
        return tuple(
            sorted({n for i in free.meter_ids for n in free.pickup_lengths(_bar_steps(i))})
        )

    def fitting_value_ids(self, gap_steps: int | None) -> tuple[int, ...]:
        """Return durations and tuplets after which a gap can be filled; None: any will do."""
        if gap_steps not in self._fitting_cache:
            free = gap_steps is None or gap_steps > self.longest_gap
            room_ = self.longest_gap if gap_steps is None else gap_steps
            plain = [(MEASURES.id("duration", v), v) for v in self.durations]
            groups = [
                (MEASURES.id("tuplet", f"{t.p} {t.q} {t.unit}"), t.steps) for t in self.tuplets
            ]
            self._fitting_cache[gap_steps] = tuple(
                id_
                for id_, steps in (*plain, *groups)
                if free or (steps <= room_ and self.fillable[room_ - steps])
            )
        return self._fitting_cache[gap_steps]

    def tuplet_duration_ids(self, nominal_left: int) -> tuple[int, ...]:
        """Return the durations that may come next in a tuplet, by what is left of it as written."""
        return tuple(
            MEASURES.id("duration", value)
            for value in self.durations
            if value % SHORTEST_WRITABLE == 0
            and value <= nominal_left
            and self.plain_fillable[nominal_left - value]
        )

    def pickup_lengths(self, bar_steps: int) -> tuple[int, ...]:
        """Return the lengths of pickups that have a partner, both allowed and fillable."""
        if bar_steps not in self._pickup_cache:
            asked = PARTIAL_BAR_STEPS if self.pickup is None else (self.pickup,)
            free = self.layout is None or self.layout.allows_pickup
            lengths = (n for n in asked if free and n in PARTIAL_BAR_STEPS and n < bar_steps)
            self._pickup_cache[bar_steps] = tuple(
                n
                for n in lengths
                if self._allows_short_bar(n) and self._allows_short_bar(bar_steps - n)
            )
        return self._pickup_cache[bar_steps]

    def _allows_short_bar(self, steps: int) -> bool:
        return self.allows("partial", steps) and self.fillable[steps]


def _bar_steps(id_: int) -> int:
    return Meter.parse(str(MEASURES.events[id_].value)).steps


def _fill(values: Sequence[int], longest: int) -> list[bool]:
    filled = [True] + [False] * longest
    for length in range(1, longest + 1):
        filled[length] = any(v <= length and filled[length - v] for v in values)
    return filled
