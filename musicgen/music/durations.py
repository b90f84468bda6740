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
from typing import Final, TypeAlias

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
_INFINITE_COST: Final = 2**62
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
_EIGHTH: Final = STEPS_PER_QUARTER // 2
# The bits of the offsets that plain values cannot reach, as far as a tuplet can reach
_OFF_GRID_BITS: Final = sum(1 << n for n in range(1, _MAX_TUPLET_STEPS) if n % SHORTEST_WRITABLE)


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
    paths = _CheapestPaths(offsets)
    for position in range(offsets[0], offsets[-1]):
        if position in paths.costs:
            paths.extend(position)
    return tuple(_walk_back(offsets, paths.steps))


class _CheapestPaths:
    """The cheapest path to each position that is reached so far."""

    def __init__(self, offsets: tuple[int, ...]) -> None:
        self.offsets = offsets
        self.bits = _bits(offsets)
        self.segment = 0  # that the position is in
        self.costs = {offsets[0]: 0}  # by position
        self.steps: dict[int, _PathStep] = {}  # last of the path, by the position where it ends

    def extend(self, position: int) -> None:
        """Extend the path to a position, after those before it, by each value and tuplet.

        A path is not extended if it cannot beat the best one to the end: each segment left costs at
        least a symbol, and offsets off the grid of plain values cost one more.
        """
        while self.offsets[self.segment + 1] <= position:
            self.segment += 1
        cost, elapsed = self.costs[position], position - self.offsets[0]
        bits = _bits_from(self.bits, elapsed)
        is_off_grid = bool(bits & _OFF_GRID_BITS)
        least_cost = cost + _SYMBOL_COST * (len(self.offsets) - 1 - self.segment + is_off_grid)
        if least_cost >= self.costs.get(self.offsets[-1], _INFINITE_COST):
            return
        steps_left = self.offsets[self.segment + 1] - position
        for steps, value_cost in _list_plain_values(steps_left, elapsed % _EIGHTH):
            self.offer(position + steps, cost + value_cost, (position, None))
        if is_off_grid:
            self.extend_by_tuplets(position, cost, bits)

    def extend_by_tuplets(self, position: int, cost: int, bits: int) -> None:
        """Offer the tuplets that some offset ahead requires, and that can write all they span.

        Args:
            position: in steps.
            cost: of the path to it.
            bits: of the offsets ahead; bit n: in n steps.
        """
        off_grid = bits & _OFF_GRID_BITS
        first_off_grid = (off_grid & -off_grid).bit_length() - 1
        for rank, steps, inner, unwritable in _list_tuplets_across(first_off_grid):
            stop = position + steps
            if bits & unwritable or stop > self.offsets[-1]:
                continue
            inner_bits = bits & inner
            least_cost = cost + _SYMBOL_COST * (2 + inner_bits.bit_count()) + rank
            if stop not in self.costs or least_cost < self.costs[stop]:
                symbols = 1 + _count_tuplet_values(rank, inner_bits)
                self.offer(stop, cost + _SYMBOL_COST * symbols + rank, (position, TUPLETS[rank]))

    def offer(self, stop: int, cost: int, step: _PathStep) -> None:
        """Keep a path if it is cheaper than that to the same position."""
        if stop not in self.costs or cost < self.costs[stop]:
            self.costs[stop] = cost
            self.steps[stop] = step


_PathStep: TypeAlias = tuple[int, Tuplet | None]  # where a value or tuplet starts; the tuplet


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


def _walk_back(offsets: tuple[int, ...], steps: dict[int, _PathStep]) -> Iterator[WrittenDuration]:
    """Yield the written values of the path to the last offset."""
    stops = [offsets[-1]]
    while stops[-1] != offsets[0]:
        stops.append(steps[stops[-1]][0])
    for position, stop in pairwise(reversed(stops)):
        tuplet = steps[stop][1]
        if tuplet is None:
            yield WrittenDuration(bisect_right(offsets, position) - 1, stop - position)
        else:
            yield from _notate_tuplet(offsets, position, tuplet)


@lru_cache(maxsize=4096)
def _list_plain_values(steps_left: int, elapsed: int) -> tuple[tuple[int, int], ...]:
    """Return steps and cost of the plain values that may come next.

    They are the first of the segment's own split, and those that end on an eighth note.

    Args:
        steps_left: in the segment.
        elapsed: steps since an eighth note.
    """
    first_value = split_duration(steps_left)[0]
    return tuple(
        (value, _SYMBOL_COST * (_REMAINDER_SYMBOLS if value < SHORTEST_WRITABLE else 1))
        for value in PLAIN_DURATIONS[: bisect_right(PLAIN_DURATIONS, steps_left)]
        if value == first_value or (elapsed + value) % _EIGHTH == 0
    )


@lru_cache(maxsize=65536)
def _count_tuplet_values(rank: int, inner_bits: int) -> int:
    """Return the number of note values in a tuplet with the given offsets (bit n: at step n)."""
    inner = []
    while inner_bits:
        inner.append((inner_bits & -inner_bits).bit_length() - 1)
        inner_bits &= inner_bits - 1
    return sum(len(split_duration(n)) for n in _iter_written_lengths(inner, 0, TUPLETS[rank]))


@cache
def _list_tuplets_across(step: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return the tuplets that can write an offset at a step from their start.

    Returns:
        For each its index in TUPLETS, steps, the bits of its inner steps, and those of the steps
        that it cannot write.
    """
    return tuple(
        (
            rank,
            t.steps,
            (1 << t.steps) - 2,
            sum(1 << n for n, written in enumerate(_written_offsets(t)) if written < 0),
        )
        for rank, t in enumerate(TUPLETS)
        if step < t.steps and _written_offsets(t)[step] >= 0
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
