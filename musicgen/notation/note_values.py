"""Note values as a player reads them: where a length is cut, and what one beam joins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from musicgen.music.durations import (
    PLAIN_DURATIONS,
    SHORTEST_WRITABLE,
    Tuplet,
    WrittenDuration,
    notate_segments,
    split_duration,
)
from musicgen.music.theory import Meter

QUARTER: Final = 48
_DOT_COST: Final = 1  # of two ways with as many signs, the one with fewer dots
_WEAK_CUT_COST: Final = 4  # and above all the one that is cut at the stronger place
_SIGN_COST: Final = 100
_UNEVEN_BEAM_GROUPS: Final = {5: (3, 2), 7: (3, 2, 2)}  # how beams part the eighths of such bars
_REMAINDER_TUPLET: Final = Tuplet(
    3, 2, SHORTEST_WRITABLE
)  # a bracket about one note, for lengths of thirds


@dataclass(frozen=True, slots=True)
class NoteValue:
    """A sign: 4 is a quarter, 8 an eighth, 0 a breve; and its dots."""

    denominator: int
    dots: int = 0

    @property
    def flags(self) -> int:
        """Flags at its stem, or beams in their stead."""
        return max(0, self.denominator.bit_length() - 3)

    @property
    def eighths_of_steps(self) -> int:
        """How long it is as written, in eighths of a step, which even a dotted 1/128 fills."""
        whole = 8 * 4 * QUARTER
        plain = 2 * whole if self.denominator == 0 else whole // self.denominator
        return 2 * plain - (plain >> self.dots)


NOTE_VALUES: Final = {
    value.eighths_of_steps // 8: value
    for value in (NoteValue(d, dots) for d in (0, 1, 2, 4, 8, 16, 32, 64) for dots in (0, 1, 2))
    if value.eighths_of_steps // 8 in PLAIN_DURATIONS and value.eighths_of_steps % 8 == 0
}


@dataclass(frozen=True, slots=True)
class TimedNoteValue:
    """One sign of a bar: of which segment, when it sounds, and the tuplet that it is in.

    start, stop: steps from the start of the bar. opens, closes: the tuplet's bracket.
    """

    segment: int
    start: int
    stop: int
    value: NoteValue
    tuplet: Tuplet | None = None
    opens_tuplet: bool = False
    closes_tuplet: bool = False


@cache
def metric_levels(meter: Meter) -> tuple[int, ...]:
    """Return how a bar is parted and parted again, in steps: 6/8 is 144, 72, 24, 12, 6, 3."""
    found = [meter.steps]
    while found[-1] % (2 * meter.beat_steps) == 0:
        found.append(found[-1] // 2)
    for steps in (meter.beat_steps, meter.steps // meter.beats):
        if steps < found[-1]:
            found.append(steps)
    while found[-1] % (2 * SHORTEST_WRITABLE) == 0:
        found.append(found[-1] // 2)
    return tuple(found)


def _level(parts: Sequence[int], place: int) -> int:
    """Tell how weak a place in a bar is: 0 at its start, 1 at its first division."""
    return next((n for n, part in enumerate(parts) if place % part == 0), len(parts))


def _strongest_inside(parts: Sequence[int], start: int, stop: int) -> int:
    """Return the level of the strongest place between two."""
    for n, part in enumerate(parts):
        if (start // part + 1) * part < stop:
            return n
    return len(parts)


@lru_cache(maxsize=65536)
def _is_customary(meter: Meter, start: int, steps: int, is_rest: bool) -> bool:
    """Tell whether one sign may stand at a place of a bar without hiding its beats."""
    parts, stop = metric_levels(meter), start + steps
    inside = _strongest_inside(parts, start, stop)
    if inside == len(parts):
        return True
    first, dotted = _level(parts, start), NOTE_VALUES[steps].dots
    half = parts[inside + 1] if inside + 1 < len(parts) else 0
    compound = meter.beat_steps in parts and meter.beat_steps % 9 == 0
    if compound and parts[inside] >= meter.beat_steps and stop % meter.beat_steps:
        return False  # where beats come in threes, what passes one ends at one
    if is_rest:
        return first < inside and (not dotted or (compound and start % steps == 0))
    if first <= inside:
        return True
    if parts[inside] != 2 * half or first != inside + 1:
        return False  # a syncopation that shows the beat comes a half early
    return steps == 2 * half or _level(parts, stop) <= inside


@lru_cache(maxsize=65536)
def split_by_meter(meter: Meter, start: int, steps: int, is_rest: bool) -> tuple[int, ...]:
    """Cut a length that starts at a step of a bar into the signs that show the meter."""
    if steps % SHORTEST_WRITABLE or start % SHORTEST_WRITABLE:
        return split_duration(steps)
    start, room = start % meter.steps, meter.steps - start % meter.steps
    if steps > room:  # a measure longer than its meter
        whole, rest = divmod(steps - room, meter.steps)
        first = split_by_meter(meter, start, room, is_rest)
        last = split_by_meter(meter, 0, rest, is_rest) if rest else ()
        return first + whole * split_by_meter(meter, 0, meter.steps, is_rest) + last
    parts, stop = metric_levels(meter), start + steps
    least = int(start % meter.beat_steps == 0)  # a tie goes to the longer sign first, on a beat
    best: dict[int, tuple[int, tuple[int, ...]]] = {start: (0, ())}
    for here in range(start, stop, SHORTEST_WRITABLE):
        if here not in best:
            continue
        cost, signs = best[here]
        cost += _SIGN_COST + _WEAK_CUT_COST * _level(parts, here)
        for value in PLAIN_DURATIONS:
            if value % SHORTEST_WRITABLE == 0 and here + value <= stop:
                total = cost + _DOT_COST * NOTE_VALUES[value].dots
                known = best.get(here + value)
                if (known is None or total < known[0] + least) and _is_customary(
                    meter, here, value, is_rest
                ):
                    best[here + value] = (total, (*signs, value))
    return best[stop][1] if stop in best else split_duration(steps)


def notate_bar(
    meter: Meter, offsets: Sequence[int], rests: frozenset[int], bar_offset: int = 0
) -> Iterator[TimedNoteValue]:
    """Yield the signs of a bar whose segments lie between offsets.

    rests: the segments that are silent. lead: where in a full bar it begins; a pickup ends one.
    """
    for window in _windows(offsets, meter.beat_steps, bar_offset):
        yield from _notate_window(meter, offsets, window, rests, bar_offset)


def _windows(offsets: Sequence[int], beat: int, bar_offset: int) -> Iterator[tuple[int, int]]:
    """Cut the places in a list of offsets where a beat begins, so that tuplets keep to beats."""
    last = 0
    for index, offset in enumerate(offsets[1:], 1):
        if (offset + bar_offset) % beat == 0 or index == len(offsets) - 1:
            yield last, index
            last = index


def _notate_window(
    meter: Meter,
    offsets: Sequence[int],
    window: tuple[int, int],
    rests: frozenset[int],
    bar_offset: int,
) -> Iterator[TimedNoteValue]:
    first, last = window
    here = offsets[first]
    found = list(notate_segments(tuple(offset - here for offset in offsets[first : last + 1])))
    while found:
        one = found[0]
        segment = first + one.segment
        if one.opened_tuplet:
            count = next(n for n, piece in enumerate(found, 1) if piece.closes_tuplet)
            signs = [(first + piece.segment, piece.nominal) for piece in found[:count]]
            yield from _notate_tuplet(one.opened_tuplet, signs, here)
            here += one.opened_tuplet.steps
        else:
            count = _count_same_segment(found)
            length = sum(piece.nominal for piece in found[:count])
            for value in split_by_meter(meter, here + bar_offset, length, segment in rests):
                yield _to_timed_value(segment, here, value)
                here += value
        del found[:count]


def _count_same_segment(durations: Sequence[WrittenDuration]) -> int:
    """Count the pieces from the first on that are of one segment, and in no tuplet."""
    for count, piece in enumerate(durations):
        if piece.opened_tuplet or piece.segment != durations[0].segment:
            return count
    return len(durations)


def _to_timed_value(segment: int, here: int, value: int) -> TimedNoteValue:
    if value % SHORTEST_WRITABLE:
        sign = NoteValue(64 if value == 2 else 128)
        return TimedNoteValue(
            segment,
            here,
            here + value,
            sign,
            _REMAINDER_TUPLET,
            opens_tuplet=True,
            closes_tuplet=True,
        )
    return TimedNoteValue(segment, here, here + value, NOTE_VALUES[value])


def _notate_tuplet(
    tuplet: Tuplet, signs: list[tuple[int, int]], here: int
) -> Iterator[TimedNoteValue]:
    """Write a tuplet, as several shorter ones where notes begin at their edges."""
    half = tuplet.nominal // 2
    edges = {0}
    for _, nominal in signs:
        edges.add(max(edges) + nominal)
    if tuplet.p % 2 and tuplet.unit % 12 == 0 and half in edges:
        part = Tuplet(tuplet.p, tuplet.q, tuplet.unit // 2)
        count = sorted(edges).index(half)
        yield from _notate_tuplet(part, signs[:count], here)
        yield from _notate_tuplet(part, signs[count:], here + part.steps)
        return
    nominal = 0
    for index, (segment, value) in enumerate(signs):
        start = here + tuplet.to_sounding(nominal)
        nominal += value
        stop = here + tuplet.to_sounding(nominal)
        closes = index == len(signs) - 1
        yield TimedNoteValue(segment, start, stop, NOTE_VALUES[value], tuplet, index == 0, closes)


# Beams


def number_beams(
    meter: Meter, signs: Sequence[TimedNoteValue], rests: frozenset[int], bar_offset: int
) -> list[int]:
    """Number the beam of each sign from 1 up; 0 has none."""
    spans = _spans(meter, signs, rests, bar_offset)
    numbers, number = [0] * len(signs), 0
    for run in _beam_groups(signs, rests, spans):
        if len(run) > 1:
            number += 1
            for index in run:
                numbers[index] = number
    return numbers


def _beam_groups(
    signs: Sequence[TimedNoteValue], rests: frozenset[int], spans: Sequence[object]
) -> Iterator[list[int]]:
    """Yield the signs that one beam may join: neighbours with flags in one span."""
    run: list[int] = []
    for index, sign in enumerate(signs):
        has_flag = sign.value.flags > 0 and sign.segment not in rests
        if run and not (has_flag and spans[run[-1]] == spans[index]):
            yield run
            run = []
        if has_flag:
            run.append(index)
    yield run


def _spans(
    meter: Meter, signs: Sequence[TimedNoteValue], rests: frozenset[int], bar_offset: int
) -> list[object]:
    """Return for each sign what its beam may not leave: half a bar, a beat, or its tuplet."""
    wide = QUARTER * 2 if metric_levels(meter).count(2 * QUARTER) else 0
    busy = {
        (sign.start + bar_offset) // wide
        for sign in signs
        if wide and sign.value.flags and sign.segment not in rests and sign.value != NOTE_VALUES[24]
    } | {(sign.start + bar_offset) // wide for sign in signs if wide and sign.tuplet}
    spans: list[object] = []
    for sign in signs:
        place = sign.start + bar_offset
        if wide and place // wide not in busy:
            spans.append(("half", place // wide))
        else:
            spans.append(("beat", _beam_beat_number(meter, place)))
    _keep_to_tuplets(signs, rests, spans)
    return spans


def _keep_to_tuplets(
    signs: Sequence[TimedNoteValue], rests: frozenset[int], spans: list[object]
) -> None:
    """Give a tuplet a span of its own, unless one beam may join it all, and more."""
    opened = 0
    for index, sign in enumerate(signs):
        if sign.opens_tuplet:
            opened = index
        group = slice(opened, index + 1)
        whole = all(s.value.flags and s.segment not in rests for s in signs[group])
        if sign.closes_tuplet and not (whole and len(set(spans[group])) == 1):
            spans[group] = [("tuplet", opened)] * (index + 1 - opened)


def _beam_beat_number(meter: Meter, place: int) -> int:
    """Return the number of the beat, for beams: eighths in threes, else a quarter's worth."""
    eighths = meter.steps // 24
    if meter.unit == 8 and meter.beats in _UNEVEN_BEAM_GROUPS:
        edges = _sums(_UNEVEN_BEAM_GROUPS[meter.beats])
        bar, rest = divmod(place, meter.steps)
        return bar * eighths + sum(rest >= 24 * edge for edge in edges)
    if meter.steps == 72:
        return place // 72
    compound = meter.beat_steps % 9 == 0
    return place // (meter.beat_steps if compound else QUARTER)


def _sums(numbers: Iterable[int]) -> list[int]:
    found: list[int] = []
    for number in numbers:
        found.append(number + (found[-1] if found else 0))
    return found
