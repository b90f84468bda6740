"""Durations as notation writes them: plain and dotted values, ties, tuplets.

`pieces` cuts a row of onsets into written values and tuplets; `split` ties one duration together.
The token codec and the ABC writer both use them, so that they agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.theory import Meter

# Note values that one sign writes: 1/64 to the breve, dotted, doubly dotted; 1 and 2 are crumbs
# that only an odd remainder needs.
PLAIN_DURATIONS: Final = (
    1,
    2,
    3,
    6,
    9,
    12,
    18,
    21,
    24,
    36,
    42,
    48,
    72,
    84,
    96,
    144,
    168,
    192,
    288,
    384,
)
SHORTEST_WRITABLE: Final = 3  # a 1/64 note; inside a tuplet every value is a multiple of it
_BEATS: Final = (48, 72, 96, 24, 144, 12)  # in which a tempo may be counted
_SIGN_COST: Final = 100  # a written value, or a tuplet's bracket
_REMAINDER_SIGNS: Final = 20  # a crumb counts as so many


@dataclass(frozen=True, slots=True, order=True)
class Tuplet:
    """Write p units in the time of q units; a unit is a plain value in steps."""

    p: int
    q: int
    unit: int

    @property
    def steps(self) -> int:
        """Steps that the group lasts."""
        return self.q * self.unit

    @property
    def nominal(self) -> int:
        """Steps that its values add up to as written."""
        return self.p * self.unit

    def to_sounding(self, nominal: int) -> int:
        """Return the step, from the group's start, of a written offset; halves upward."""
        return (2 * nominal * self.q + self.p) // (2 * self.p)

    def to_written(self, sounding: int) -> int | None:
        """Return the written offset that sounds at a step, None if there is none on the grain."""
        about = round(sounding * self.p / self.q / SHORTEST_WRITABLE) * SHORTEST_WRITABLE
        return about if self.to_sounding(about) == sounding else None


TUPLETS: Final = tuple(
    Tuplet(p, q, unit)
    for p, q in ((3, 2), (2, 3), (4, 3), (5, 4), (5, 3), (5, 6), (7, 4), (7, 6), (7, 8), (9, 8))
    for unit in (6, 12, 24, 48, 96)
)
_MAX_TUPLET_STEPS: Final = max(tuplet.steps for tuplet in TUPLETS)


@dataclass(frozen=True, slots=True)
class WrittenDuration:
    """One written value: of which segment, how long as written, and the tuplet's brackets."""

    segment: int
    nominal: int
    opened_tuplet: Tuplet | None = None
    closes_tuplet: bool = False


@lru_cache(maxsize=4096)
def notate_segments(offsets: tuple[int, ...]) -> tuple[WrittenDuration, ...]:
    """Say how the segments between offsets (ascending, in steps) are written.

    A segment that one value cannot write is cut in several, tied. Where every length is a multiple
    of the grain, plain values do; else the fewest signs win, a tuplet's bracket counting as one.
    """
    lengths = [after - before for before, after in pairwise(offsets)]
    if all(length % SHORTEST_WRITABLE == 0 for length in lengths):
        return tuple(
            WrittenDuration(i, value)
            for i, length in enumerate(lengths)
            for value in split_duration(length)
        )
    best: dict[int, tuple[int, int, Tuplet | None]] = {offsets[0]: (0, -1, None)}
    places = _bits(offsets)
    for here in range(offsets[0], offsets[-1]):
        if here not in best:
            continue
        for stop, cost, tuplet in _iter_next_candidates(
            offsets, here, _bits_from(places, here - offsets[0])
        ):
            total = best[here][0] + cost
            if stop not in best or total < best[stop][0]:
                best[stop] = (total, here, tuplet)
    return tuple(_walk_back(offsets, {stop: (here, t) for stop, (_, here, t) in best.items()}))


def _bits(offsets: tuple[int, ...]) -> bytes:
    """Return one bit a step, from the first offset on: whether an offset is there."""
    bits = bytearray((offsets[-1] - offsets[0]) // 8 + 1)
    for offset in offsets:
        byte, bit = divmod(offset - offsets[0], 8)
        bits[byte] |= 1 << bit
    return bytes(bits)


def _bits_from(bits: bytes, at: int) -> int:
    """Return the bits from a step on, as far as a tuplet may reach; the first is bit 0."""
    byte, bit = divmod(at, 8)
    window = int.from_bytes(bits[byte : byte + _MAX_TUPLET_STEPS // 8 + 2], "little") >> bit
    return window & ((1 << _MAX_TUPLET_STEPS) - 1)


def _walk_back(
    offsets: tuple[int, ...], ways: dict[int, tuple[int, Tuplet | None]]
) -> Iterator[WrittenDuration]:
    """Yield the pieces of the way that leads to the last offset."""
    stops = [offsets[-1]]
    while stops[-1] != offsets[0]:
        stops.append(ways[stops[-1]][0])
    for here, stop in pairwise(reversed(stops)):
        tuplet = ways[stop][1]
        if tuplet is None:
            yield WrittenDuration(bisect_right(offsets, here) - 1, stop - here)
        else:
            yield from _notate_tuplet(offsets, here, tuplet)


def _iter_next_candidates(
    offsets: tuple[int, ...], here: int, ahead: int
) -> Iterator[tuple[int, int, Tuplet | None]]:
    """Yield (stop, cost, tuplet) for each plain value and each tuplet that may start here.

    Of the plain values: the first of the segment's own split, and those that reach a half beat.
    Of the tuplets: those that some offset ahead (bit n: n steps from here) needs and all allow.
    """
    segment = bisect_right(offsets, here) - 1
    room = offsets[segment + 1] - here
    longest, into = split_duration(room)[0], here - offsets[0]
    for value in PLAIN_DURATIONS[: bisect_right(PLAIN_DURATIONS, room)]:
        if value == longest or (into + value) % 24 == 0:
            signs = _REMAINDER_SIGNS if value < SHORTEST_WRITABLE else 1
            yield here + value, _SIGN_COST * signs, None
    if not ahead & _off_grid_bits(_MAX_TUPLET_STEPS):
        return
    for rank, (tuplet, steps, needing, denying) in enumerate(_tuplet_masks()):
        if ahead & needing and not ahead & denying and here + steps <= offsets[-1]:
            inner = offsets[segment + 1 : bisect_left(offsets, here + steps)]
            signs = 1 + sum(
                len(split_duration(value)) for value in _iter_written_lengths(inner, here, tuplet)
            )
            yield here + steps, _SIGN_COST * signs + rank, tuplet


@cache
def _off_grid_bits(steps: int) -> int:
    """Return the bits of the offsets that plain values do not reach."""
    return sum(1 << step for step in range(1, steps) if step % SHORTEST_WRITABLE)


@cache
def _tuplet_masks() -> tuple[tuple[Tuplet, int, int, int], ...]:
    """Return each tuplet, its steps, the offsets that need it, and those that it cannot write."""
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
    found = map(tuplet.to_written, range(tuplet.steps))
    return tuple(-1 if nominal is None else nominal for nominal in found)


def _iter_written_lengths(inner: Sequence[int], here: int, tuplet: Tuplet) -> Iterator[int]:
    """Yield what is written between the offsets inside of a tuplet that starts here."""
    written, before = _written_offsets(tuplet), 0
    for offset in inner:
        nominal = written[offset - here]
        yield nominal - before
        before = nominal
    yield tuplet.nominal - before


def _notate_tuplet(
    offsets: tuple[int, ...], here: int, tuplet: Tuplet
) -> Iterator[WrittenDuration]:
    """Write what lies in a tuplet that starts here, and that it can write."""
    first = bisect_right(offsets, here) - 1
    inner = offsets[first + 1 : bisect_left(offsets, here + tuplet.steps)]
    values = [
        (first + index, value)
        for index, nominal in enumerate(_iter_written_lengths(inner, here, tuplet))
        for value in split_duration(nominal)
    ]
    for index, (segment, value) in enumerate(values):
        yield WrittenDuration(segment, value, None if index else tuplet, index == len(values) - 1)


@lru_cache(maxsize=4096)
def split_duration(steps: int) -> tuple[int, ...]:
    """Cut a length into the fewest plain values, the longest first; no crumbs unless it must."""
    fewest = _fewest_values(SHORTEST_WRITABLE if steps % SHORTEST_WRITABLE == 0 else 1)
    whole, rest = divmod(steps, 768) if steps > 768 else (0, steps)
    return tuple([384] * (2 * whole) + sorted(fewest[rest], reverse=True))


@cache
def _fewest_values(least: int) -> list[tuple[int, ...]]:
    """Return the fewest plain values, none under the least, for each length to 768 steps."""
    values = [value for value in PLAIN_DURATIONS if value >= least]
    fewest: list[tuple[int, ...]] = [()]
    for length in range(1, 769):
        ends = [v for v in values if v <= length and (v == length or fewest[length - v])]
        fewest.append(min(((*fewest[length - v], v) for v in ends), key=len, default=()))
    return fewest


def choose_tempo_beat(qpm: float, meter: Meter) -> tuple[int, Fraction]:
    """Return a beat in steps, and how many a minute has: the meter's, or one that is whole.

    A quarter where none is.
    """
    exact = Fraction(qpm) * STEPS_PER_QUARTER
    for steps in (meter.beat_steps, *_BEATS):
        if steps in PLAIN_DURATIONS and (exact / steps).denominator == 1:
            return steps, exact / steps
    return STEPS_PER_QUARTER, Fraction(qpm)


def to_steps(ticks: int, ticks_per_quarter: int, steps_per_quarter: int) -> int:
    """Round a tick count to the nearest step, halves upward."""
    return (2 * ticks * steps_per_quarter + ticks_per_quarter) // (2 * ticks_per_quarter)
