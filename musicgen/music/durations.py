"""Durations as notation writes them: plain and dotted values, ties, tuplets.

`notate_segments` writes the segments between offsets as note values and tuplets; `split_duration`
writes one duration as tied values. The token codec and the ABC writer share them and so agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.theory import Meter

# Durations in steps that a single symbol writes: 1/64 to the breve, also dotted and double-dotted;
# 1 and 2 only fill a remainder off the grid of 1/64 notes.
PLAIN_DURATIONS: Final = (
    1, 2, 3, 6, 9, 12, 18, 21, 24, 36, 42, 48, 72, 84, 96, 144, 168, 192, 288, 384,
)  # fmt: skip
SHORTEST_WRITABLE: Final = 3  # steps of a 1/64 note; values inside a tuplet are multiples of it
_BEATS: Final = (48, 72, 96, 24, 144, 12)  # steps; beats that a tempo may be written in
_SYMBOL_COST: Final = 100  # of a written value or a tuplet bracket
_REMAINDER_SYMBOLS: Final = 20  # symbols that a remainder of 1 or 2 steps counts as
_LONGEST_TABULATED: Final = 768  # steps; longer durations start with breves


@dataclass(frozen=True, slots=True, order=True)
class Tuplet:
    """p units in the time of q units, as in (p:q in ABC."""

    p: int
    q: int
    unit: int  # steps; a plain duration

    @property
    def steps(self) -> int:
        """Sounding length in steps."""
        return self.q * self.unit

    @property
    def nominal(self) -> int:
        """Written length in steps: the sum of its note values."""
        return self.p * self.unit

    def to_sounding(self, nominal: int) -> int:
        """Convert a written offset to a sounding one, in steps; round halves up."""
        return (2 * nominal * self.q + self.p) // (2 * self.p)

    def to_written(self, sounding: int) -> int | None:
        """Return the written offset on the 1/64 grid that sounds at a step, or None."""
        nominal = round(sounding * self.p / self.q / SHORTEST_WRITABLE) * SHORTEST_WRITABLE
        return nominal if self.to_sounding(nominal) == sounding else None


TUPLETS: Final = tuple(
    Tuplet(p, q, unit)
    for p, q in ((3, 2), (2, 3), (4, 3), (5, 4), (5, 3), (5, 6), (7, 4), (7, 6), (7, 8), (9, 8))
    for unit in (6, 12, 24, 48, 96)
)
_MAX_TUPLET_STEPS: Final = max(tuplet.steps for tuplet in TUPLETS)


@dataclass(frozen=True, slots=True)
class WrittenDuration:
    """One written note value, and the tuplet brackets before and after it."""

    segment: int  # index of the segment that it writes all or part of
    nominal: int  # written length in steps
    opened_tuplet: Tuplet | None = None
    closes_tuplet: bool = False


@lru_cache(maxsize=4096)
def notate_segments(offsets: tuple[int, ...]) -> tuple[WrittenDuration, ...]:
    """Write the segments between offsets as note values and tuplets.

    A segment that no single value can write becomes several tied values. Where every length is a
    multiple of a 1/64 note, plain values suffice. Otherwise a shortest-path search over the steps
    finds the writing with the fewest symbols; a tuplet bracket counts as one symbol.

    Args:
        offsets: ascending, in steps.
    """
    lengths = [after - before for before, after in pairwise(offsets)]
    if all(length % SHORTEST_WRITABLE == 0 for length in lengths):
        return tuple(
            WrittenDuration(i, value)
            for i, length in enumerate(lengths)
            for value in split_duration(length)
        )
    cheapest = {offsets[0]: _PathEnd(0, -1)}  # by position
    offset_bits = _bits(offsets)
    for position in range(offsets[0], offsets[-1]):
        if position not in cheapest:
            continue
        for stop, cost, tuplet in _iter_next_candidates(
            offsets, position, _bits_from(offset_bits, position - offsets[0])
        ):
            total = cheapest[position].cost + cost
            if stop not in cheapest or total < cheapest[stop].cost:
                cheapest[stop] = _PathEnd(total, position, tuplet)
    return tuple(_walk_back(offsets, cheapest))


class _PathEnd(NamedTuple):
    """The last value or tuplet of the cheapest path to a position."""

    cost: int  # of the whole path
    start: int  # position at which the value or tuplet starts
    tuplet: Tuplet | None = None


def _bits(offsets: tuple[int, ...]) -> bytes:
    """Return one bit per step from the first offset: whether an offset lies there."""
    bits = bytearray((offsets[-1] - offsets[0]) // 8 + 1)
    for offset in offsets:
        byte, bit = divmod(offset - offsets[0], 8)
        bits[byte] |= 1 << bit
    return bytes(bits)


def _bits_from(bits: bytes, at: int) -> int:
    """Return the bits from a step as far as a tuplet can reach, the first as bit 0."""
    byte, bit = divmod(at, 8)
    window = int.from_bytes(bits[byte : byte + _MAX_TUPLET_STEPS // 8 + 2], "little") >> bit
    return window & ((1 << _MAX_TUPLET_STEPS) - 1)


def _walk_back(
    offsets: tuple[int, ...], cheapest: dict[int, _PathEnd]
) -> Iterator[WrittenDuration]:
    """Yield the written values of the path to the last offset."""
    stops = [offsets[-1]]
    while stops[-1] != offsets[0]:
        stops.append(cheapest[stops[-1]].start)
    for position, stop in pairwise(reversed(stops)):
        tuplet = cheapest[stop].tuplet
        if tuplet is None:
            yield WrittenDuration(bisect_right(offsets, position) - 1, stop - position)
        else:
            yield from _notate_tuplet(offsets, position, tuplet)


def _iter_next_candidates(
    offsets: tuple[int, ...], position: int, offset_bits: int
) -> Iterator[tuple[int, int, Tuplet | None]]:
    """Yield (stop, cost, tuplet) for each plain value and tuplet that may start at a position.

    Plain values: the first of the segment's own split, and those that end on an eighth note.
    Tuplets: those that some offset ahead (bit n: in n steps) requires and that can write them all.
    """
    segment = bisect_right(offsets, position) - 1
    steps_left = offsets[segment + 1] - position
    first_value, elapsed = split_duration(steps_left)[0], position - offsets[0]
    for value in PLAIN_DURATIONS[: bisect_right(PLAIN_DURATIONS, steps_left)]:
        if value == first_value or (elapsed + value) % 24 == 0:
            symbols = _REMAINDER_SYMBOLS if value < SHORTEST_WRITABLE else 1
            yield position + value, _SYMBOL_COST * symbols, None
    if not offset_bits & _off_grid_bits(_MAX_TUPLET_STEPS):
        return
    for rank, (tuplet, steps, required, unwritable) in enumerate(_tuplet_masks()):
        if (
            offset_bits & required
            and not offset_bits & unwritable
            and position + steps <= offsets[-1]
        ):
            symbols = 1 + _count_tuplet_values(tuplet, offset_bits & ((1 << steps) - 1))
            yield position + steps, _SYMBOL_COST * symbols + rank, tuplet


@lru_cache(maxsize=65536)
def _count_tuplet_values(tuplet: Tuplet, offset_bits: int) -> int:
    """Return the number of note values in a tuplet with the given offsets (bit n: at step n)."""
    inner = [step for step in range(1, tuplet.steps) if offset_bits >> step & 1]
    return sum(len(split_duration(value)) for value in _iter_written_lengths(inner, 0, tuplet))


@cache
def _off_grid_bits(steps: int) -> int:
    """Return the bits of the offsets that plain values cannot reach."""
    return sum(1 << step for step in range(1, steps) if step % SHORTEST_WRITABLE)


@cache
def _tuplet_masks() -> tuple[tuple[Tuplet, int, int, int], ...]:
    """Return (tuplet, steps, bits of offsets that need it, bits of those it cannot write)."""
    return tuple(
        (
            t,
            t.steps,
            _off_grid_bits(t.steps),
            sum(1 << n for n, at in enumerate(_written_offsets(t)) if at < 0),
        )
        for t in TUPLETS
    )


@cache
def _written_offsets(tuplet: Tuplet) -> tuple[int, ...]:
    """Return the written offset for each step of a tuplet, -1 where there is none."""
    offsets = map(tuplet.to_written, range(tuplet.steps))
    return tuple(-1 if nominal is None else nominal for nominal in offsets)


def _iter_written_lengths(inner: Sequence[int], position: int, tuplet: Tuplet) -> Iterator[int]:
    """Yield the written lengths between the offsets inside a tuplet that starts at a position."""
    written, previous = _written_offsets(tuplet), 0
    for offset in inner:
        nominal = written[offset - position]
        yield nominal - previous
        previous = nominal
    yield tuplet.nominal - previous


def _notate_tuplet(
    offsets: tuple[int, ...], position: int, tuplet: Tuplet
) -> Iterator[WrittenDuration]:
    """Yield the values of a tuplet that starts at a position."""
    first = bisect_right(offsets, position) - 1
    inner = offsets[first + 1 : bisect_left(offsets, position + tuplet.steps)]
    values = [
        (first + index, value)
        for index, nominal in enumerate(_iter_written_lengths(inner, position, tuplet))
        for value in split_duration(nominal)
    ]
    for index, (segment, value) in enumerate(values):
        yield WrittenDuration(segment, value, None if index else tuplet, index == len(values) - 1)


@lru_cache(maxsize=4096)
def split_duration(steps: int) -> tuple[int, ...]:
    """Split a duration into the fewest plain durations, the longest first.

    Values under a 1/64 note occur only where the duration is not a multiple of one.

    Args:
        steps: a duration in steps.
    """
    fewest = _fewest_values(SHORTEST_WRITABLE if steps % SHORTEST_WRITABLE == 0 else 1)
    whole, rest = divmod(steps, _LONGEST_TABULATED) if steps > _LONGEST_TABULATED else (0, steps)
    return tuple([384] * (2 * whole) + sorted(fewest[rest], reverse=True))


@cache
def _fewest_values(least: int) -> list[tuple[int, ...]]:
    """Return for each duration up to 768 steps its fewest plain durations, none under `least`."""
    values = [value for value in PLAIN_DURATIONS if value >= least]
    fewest: list[tuple[int, ...]] = [()]
    for length in range(1, _LONGEST_TABULATED + 1):
        ends = [v for v in values if v <= length and (v == length or fewest[length - v])]
        fewest.append(min(((*fewest[length - v], v) for v in ends), key=len, default=()))
    return fewest


def choose_tempo_beat(qpm: float, meter: Meter) -> tuple[int, Fraction]:
    """Choose the beat in which a tempo is written: (steps per beat, beats per minute).

    Prefer the meter's beat, then others, for a whole number of beats per minute; fall back to
    quarter notes.

    Args:
        qpm: quarter notes per minute.
        meter: the meter in force.
    """
    exact = Fraction(qpm) * STEPS_PER_QUARTER
    for steps in (meter.beat_steps, *_BEATS):
        if steps in PLAIN_DURATIONS and (exact / steps).denominator == 1:
            return steps, exact / steps
    return STEPS_PER_QUARTER, Fraction(qpm)


def to_steps(ticks: int, ticks_per_quarter: int, steps_per_quarter: int) -> int:
    """Convert ticks to the nearest step; round halves up."""
    return (2 * ticks * steps_per_quarter + ticks_per_quarter) // (2 * ticks_per_quarter)
