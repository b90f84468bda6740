"""Note values in a meter: how durations are split into tied values, and which ones beams join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Final

from musicgen.music.durations import (
    PLAIN_DURATIONS,
    SHORTEST_WRITABLE,
    Tuplet,
    WrittenDuration,
    notate_segments,
    split_duration,
)
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.theory import Meter

_QUARTER: Final = STEPS_PER_QUARTER
_VALUE_COST: Final = 100  # fewest values first,
_WEAK_CUT_COST: Final = 4  # then cuts at strong positions,
_DOT_COST: Final = 1  # then fewest dots
_UNEVEN_BEAM_GROUPS: Final = {5: (3, 2), 7: (3, 2, 2)}  # groups of eighths by beats per bar
_REMAINDER_TUPLET: Final = Tuplet(3, 2, SHORTEST_WRITABLE)  # of one note, for lengths of thirds


@dataclass(frozen=True, slots=True)
class NoteValue:
    """A note value with dots."""

    denominator: int  # 4 for a quarter, 8 for an eighth, 0 for a breve
    dots: int = 0

    @property
    def flags(self) -> int:
        """Number of flags or beams."""
        return max(0, self.denominator.bit_length() - 3)

    @property
    def eighths_of_steps(self) -> int:
        """Duration in eighths of a step, a whole number even for a dotted 1/128."""
        whole = 8 * 4 * _QUARTER
        plain = 2 * whole if self.denominator == 0 else whole // self.denominator
        return 2 * plain - (plain >> self.dots)


NOTE_VALUES: Final = {
    value.eighths_of_steps // 8: value
    for value in (NoteValue(d, dots) for d in (0, 1, 2, 4, 8, 16, 32, 64) for dots in (0, 1, 2))
    if value.eighths_of_steps // 8 in PLAIN_DURATIONS and value.eighths_of_steps % 8 == 0
}


@dataclass(frozen=True, slots=True)
class TimedNoteValue:
    """A note value at a position in a bar."""

    segment: int  # index of the segment that it writes all or part of
    start: int  # steps from the start of the bar
    stop: int
    value: NoteValue
    tuplet: Tuplet | None = None
    opens_tuplet: bool = False
    closes_tuplet: bool = False


@cache
def metric_levels(meter: Meter) -> tuple[int, ...]:
    """Return the successive divisions of a bar, in steps: of 6/8 144, 72, 24, 12, 6 and 3."""
    levels = [meter.steps]
    while levels[-1] % (2 * meter.beat_steps) == 0:
        levels.append(levels[-1] // 2)
    for steps in (meter.beat_steps, meter.steps // meter.beats):
        if steps < levels[-1]:
            levels.append(steps)
    while levels[-1] % (2 * SHORTEST_WRITABLE) == 0:
        levels.append(levels[-1] // 2)
    return tuple(levels)


def _level(levels: Sequence[int], step: int) -> int:
    """Return the metric level of a step in a bar: 0 at its start, 1 at its first division."""
    return next((n for n, steps in enumerate(levels) if step % steps == 0), len(levels))


def _strongest_inside(levels: Sequence[int], start: int, stop: int) -> int:
    """Return the strongest (lowest) level strictly between two steps."""
    for n, steps in enumerate(levels):
        if (start // steps + 1) * steps < stop:
            return n
    return len(levels)


@lru_cache(maxsize=65536)
def _is_customary(meter: Meter, start: int, steps: int, is_rest: bool) -> bool:
    """Return whether a single value at a position of a bar does not hide its beats."""
    levels, stop = metric_levels(meter), start + steps
    strongest_inside = _strongest_inside(levels, start, stop)
    if strongest_inside == len(levels):
        return True
    start_level, is_dotted = _level(levels, start), NOTE_VALUES[steps].dots
    half = levels[strongest_inside + 1] if strongest_inside + 1 < len(levels) else 0
    is_compound = meter.beat_steps in levels and meter.beat_steps % 9 == 0
    if is_compound and levels[strongest_inside] >= meter.beat_steps and stop % meter.beat_steps:
        return False  # in compound meter, a value across a beat ends at a beat
    if is_rest:
        return start_level < strongest_inside and (
            not is_dotted or (is_compound and start % steps == 0)
        )
    if start_level <= strongest_inside:
        return True
    if levels[strongest_inside] != 2 * half or start_level != strongest_inside + 1:
        return False  # a customary syncopation starts half a division early
    return steps == 2 * half or _level(levels, stop) <= strongest_inside


@lru_cache(maxsize=65536)
def split_by_meter(meter: Meter, start: int, steps: int, is_rest: bool) -> tuple[int, ...]:
    """Split a duration that starts at a step of a bar into values that show the meter.

    Args:
        meter: the meter in force.
        start: steps from the start of the bar.
        steps: the duration.
        is_rest: rests show the beats more strictly.

    Returns:
        Durations in steps, each a single value.
    """
    if steps % SHORTEST_WRITABLE or start % SHORTEST_WRITABLE:
        return split_duration(steps)
    start, bar_rest = start % meter.steps, meter.steps - start % meter.steps
    if steps > bar_rest:  # a bar longer than its meter
        full_bars, rest = divmod(steps - bar_rest, meter.steps)
        first = split_by_meter(meter, start, bar_rest, is_rest)
        last = split_by_meter(meter, 0, rest, is_rest) if rest else ()
        return first + full_bars * split_by_meter(meter, 0, meter.steps, is_rest) + last
    levels, stop = metric_levels(meter), start + steps
    tie_margin = int(start % meter.beat_steps == 0)  # on a beat, the longer value first wins a tie
    cheapest: dict[int, tuple[int, tuple[int, ...]]] = {start: (0, ())}
    for position in range(start, stop, SHORTEST_WRITABLE):
        if position not in cheapest:
            continue
        cost, values = cheapest[position]
        cost += _VALUE_COST + _WEAK_CUT_COST * _level(levels, position)
        for value in PLAIN_DURATIONS:
            if value % SHORTEST_WRITABLE == 0 and position + value <= stop:
                total = cost + _DOT_COST * NOTE_VALUES[value].dots
                current_best = cheapest.get(position + value)
                if (current_best is None or total < current_best[0] + tie_margin) and _is_customary(
                    meter, position, value, is_rest
                ):
                    cheapest[position + value] = (total, (*values, value))
    return cheapest[stop][1] if stop in cheapest else split_duration(steps)


def notate_bar(
    meter: Meter, offsets: Sequence[int], rests: frozenset[int], bar_offset: int = 0
) -> Iterator[TimedNoteValue]:
    """Yield the note values of a bar.

    Args:
        meter: the meter in force.
        offsets: borders of the segments in steps from the start of the bar, ascending.
        rests: indexes of the silent segments.
        bar_offset: step of a full bar at which the bar starts; of a pickup over 0.
    """
    for window in _windows(offsets, meter.beat_steps, bar_offset):
        yield from _notate_window(meter, offsets, window, rests, bar_offset)


def _windows(offsets: Sequence[int], beat: int, bar_offset: int) -> Iterator[tuple[int, int]]:
    """Yield index ranges of offsets between beats, so that tuplets stay within beats."""
    window_start = 0
    for index, offset in enumerate(offsets[1:], 1):
        if (offset + bar_offset) % beat == 0 or index == len(offsets) - 1:
            yield window_start, index
            window_start = index


def _notate_window(
    meter: Meter,
    offsets: Sequence[int],
    window: tuple[int, int],
    rests: frozenset[int],
    bar_offset: int,
) -> Iterator[TimedNoteValue]:
    first, last = window
    position = offsets[first]
    durations = list(
        notate_segments(tuple(offset - position for offset in offsets[first : last + 1]))
    )
    while durations:
        duration = durations[0]
        segment = first + duration.segment
        if duration.opened_tuplet:
            count = next(n for n, piece in enumerate(durations, 1) if piece.closes_tuplet)
            values = [(first + piece.segment, piece.nominal) for piece in durations[:count]]
            yield from _notate_tuplet(duration.opened_tuplet, values, position)
            position += duration.opened_tuplet.steps
        else:
            count = _count_same_segment(durations)
            length = sum(piece.nominal for piece in durations[:count])
            for value in split_by_meter(meter, position + bar_offset, length, segment in rests):
                yield _to_timed_value(segment, position, value)
                position += value
        del durations[:count]


def _count_same_segment(durations: Sequence[WrittenDuration]) -> int:
    """Count the leading values that belong to one segment, outside of tuplets."""
    for count, piece in enumerate(durations):
        if piece.opened_tuplet or piece.segment != durations[0].segment:
            return count
    return len(durations)


def _to_timed_value(segment: int, start: int, value: int) -> TimedNoteValue:
    if value % SHORTEST_WRITABLE:
        note_value = NoteValue(64 if value == 2 else 128)
        return TimedNoteValue(
            segment,
            start,
            start + value,
            note_value,
            _REMAINDER_TUPLET,
            opens_tuplet=True,
            closes_tuplet=True,
        )
    return TimedNoteValue(segment, start, start + value, NOTE_VALUES[value])


def _notate_tuplet(
    tuplet: Tuplet, values: list[tuple[int, int]], group_start: int
) -> Iterator[TimedNoteValue]:
    """Yield the values of a tuplet, as two tuplets of half the length where a note starts there."""
    half = tuplet.nominal // 2
    value_starts = {0}
    for _, nominal in values:
        value_starts.add(max(value_starts) + nominal)
    if tuplet.p % 2 and tuplet.unit % 12 == 0 and half in value_starts:
        half_tuplet = Tuplet(tuplet.p, tuplet.q, tuplet.unit // 2)
        count = sorted(value_starts).index(half)
        yield from _notate_tuplet(half_tuplet, values[:count], group_start)
        yield from _notate_tuplet(half_tuplet, values[count:], group_start + half_tuplet.steps)
        return
    nominal = 0
    for index, (segment, value) in enumerate(values):
        start = group_start + tuplet.to_sounding(nominal)
        nominal += value
        stop = group_start + tuplet.to_sounding(nominal)
        closes = index == len(values) - 1
        yield TimedNoteValue(segment, start, stop, NOTE_VALUES[value], tuplet, index == 0, closes)


# Beams


def number_beams(
    meter: Meter, signs: Sequence[TimedNoteValue], rests: frozenset[int], bar_offset: int
) -> list[int]:
    """Return the number of each value's beam, from 1; 0 for none.

    Args:
        meter: the meter in force.
        signs: the values of a bar.
        rests: indexes of the silent segments.
        bar_offset: step of a full bar at which the bar starts.
    """
    spans = _spans(meter, signs, rests, bar_offset)
    numbers, number = [0] * len(signs), 0
    for group in _beam_groups(signs, rests, spans):
        if len(group) > 1:
            number += 1
            for index in group:
                numbers[index] = number
    return numbers


def _beam_groups(
    signs: Sequence[TimedNoteValue], rests: frozenset[int], spans: Sequence[object]
) -> Iterator[list[int]]:
    """Yield the indexes of values that a beam may join: neighbors with flags in one span."""
    group: list[int] = []
    for index, sign in enumerate(signs):
        has_flag = sign.value.flags > 0 and sign.segment not in rests
        if group and not (has_flag and spans[group[-1]] == spans[index]):
            yield group
            group = []
        if has_flag:
            group.append(index)
    yield group


def _spans(
    meter: Meter, signs: Sequence[TimedNoteValue], rests: frozenset[int], bar_offset: int
) -> list[object]:
    """Return for each value the span that its beam must not leave: half a bar, beat or tuplet."""
    half_bar = _QUARTER * 2 if metric_levels(meter).count(2 * _QUARTER) else 0
    divided_halves = {
        (sign.start + bar_offset) // half_bar
        for sign in signs
        if half_bar
        and sign.value.flags
        and sign.segment not in rests
        and sign.value != NOTE_VALUES[24]
    } | {(sign.start + bar_offset) // half_bar for sign in signs if half_bar and sign.tuplet}
    spans: list[object] = []
    for sign in signs:
        position = sign.start + bar_offset
        if half_bar and position // half_bar not in divided_halves:
            spans.append(("half", position // half_bar))
        else:
            spans.append(("beat", _beam_beat_number(meter, position)))
    _keep_to_tuplets(signs, rests, spans)
    return spans


def _keep_to_tuplets(
    signs: Sequence[TimedNoteValue], rests: frozenset[int], spans: list[object]
) -> None:
    """Give each tuplet its own span, unless one beam can join all of it."""
    tuplet_start = 0
    for index, sign in enumerate(signs):
        if sign.opens_tuplet:
            tuplet_start = index
        group = slice(tuplet_start, index + 1)
        all_beamed = all(s.value.flags and s.segment not in rests for s in signs[group])
        if sign.closes_tuplet and not (all_beamed and len(set(spans[group])) == 1):
            spans[group] = [("tuplet", tuplet_start)] * (index + 1 - tuplet_start)


def _beam_beat_number(meter: Meter, position: int) -> int:
    """Return the number of the beam group at a position: dotted quarters, or quarters."""
    eighths = meter.steps // 24
    if meter.unit == 8 and meter.beats in _UNEVEN_BEAM_GROUPS:
        group_ends = accumulate(_UNEVEN_BEAM_GROUPS[meter.beats])
        bar_number, remainder = divmod(position, meter.steps)
        return bar_number * eighths + sum(remainder >= 24 * edge for edge in group_ends)
    if meter.steps == 72:
        return position // 72
    is_compound = meter.beat_steps % 9 == 0
    return position // (meter.beat_steps if is_compound else _QUARTER)
