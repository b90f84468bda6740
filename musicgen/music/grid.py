"""From steps to what is written: bars, note values, tuplets and voices.

Both the token codec and the ABC writer write a bar from here, so that they agree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from itertools import accumulate, groupby, pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from musicgen.music.columns import each_once
from musicgen.music.notes import Columns, Note, Notes
from musicgen.music.score import STEPS_PER_QUARTER, Score, jumps, passages
from musicgen.music.theory import Meter

# Note values that one sign writes: 1/64 to the breve, dotted, doubly dotted; 1 and 2 are crumbs
# that only an odd remainder needs.
PLAIN: Final = (1, 2, 3, 6, 9, 12, 18, 21, 24, 36, 42, 48, 72, 84, 96, 144, 168, 192, 288, 384)
GRAIN: Final = 3  # a 1/64 note; inside a tuplet every value is a multiple of it
_BEATS: Final = (48, 72, 96, 24, 144, 12)  # in which a tempo may be counted
_SIGN_COST: Final = 100  # a written value, or a tuplet's bracket
_CRUMB_SIGNS: Final = 20  # a crumb counts as so many


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

    def sounding(self, nominal: int) -> int:
        """Return the step, from the group's start, of a written offset; halves upward."""
        return (2 * nominal * self.q + self.p) // (2 * self.p)

    def written(self, sounding: int) -> int | None:
        """Return the written offset that sounds at a step, None if there is none on the grain."""
        about = round(sounding * self.p / self.q / GRAIN) * GRAIN
        return about if self.sounding(about) == sounding else None


TUPLETS: Final = tuple(
    Tuplet(p, q, unit)
    for p, q in ((3, 2), (2, 3), (4, 3), (5, 4), (5, 3), (5, 6), (7, 4), (7, 6), (7, 8), (9, 8))
    for unit in (6, 12, 24, 48, 96)
)
_WIDEST: Final = max(tuplet.steps for tuplet in TUPLETS)


@dataclass(frozen=True, slots=True)
class Piece:
    """One written value: of which segment, how long as written, and the tuplet's brackets."""

    segment: int
    nominal: int
    opens: Tuplet | None = None
    closes: bool = False


@lru_cache(maxsize=4096)
def pieces(offsets: tuple[int, ...]) -> tuple[Piece, ...]:
    """Say how the segments between offsets (ascending, in steps) are written.

    A segment that one value cannot write is cut in several, tied. Where every length is a multiple
    of the grain, plain values do; else the fewest signs win, a tuplet's bracket counting as one.
    """
    lengths = [after - before for before, after in pairwise(offsets)]
    if all(length % GRAIN == 0 for length in lengths):
        return tuple(Piece(i, value) for i, length in enumerate(lengths) for value in split(length))
    best: dict[int, tuple[int, int, Tuplet | None]] = {offsets[0]: (0, -1, None)}
    places = _bits(offsets)
    for here in range(offsets[0], offsets[-1]):
        if here not in best:
            continue
        for stop, cost, tuplet in _next_pieces(offsets, here, _ahead(places, here - offsets[0])):
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


def _ahead(places: bytes, at: int) -> int:
    """Return the bits from a step on, as far as a tuplet may reach; the first is bit 0."""
    byte, bit = divmod(at, 8)
    window = int.from_bytes(places[byte : byte + _WIDEST // 8 + 2], "little") >> bit
    return window & ((1 << _WIDEST) - 1)


def _walk_back(
    offsets: tuple[int, ...], ways: dict[int, tuple[int, Tuplet | None]]
) -> Iterator[Piece]:
    """Yield the pieces of the way that leads to the last offset."""
    stops = [offsets[-1]]
    while stops[-1] != offsets[0]:
        stops.append(ways[stops[-1]][0])
    for here, stop in pairwise(reversed(stops)):
        tuplet = ways[stop][1]
        if tuplet is None:
            yield Piece(bisect_right(offsets, here) - 1, stop - here)
        else:
            yield from _group(offsets, here, tuplet)


def _next_pieces(
    offsets: tuple[int, ...], here: int, ahead: int
) -> Iterator[tuple[int, int, Tuplet | None]]:
    """Yield (stop, cost, tuplet) for each plain value and each tuplet that may start here.

    Of the plain values: the first of the segment's own split, and those that reach a half beat.
    Of the tuplets: those that some offset ahead (bit n: n steps from here) needs and all allow.
    """
    segment = bisect_right(offsets, here) - 1
    room = offsets[segment + 1] - here
    longest, into = split(room)[0], here - offsets[0]
    for value in PLAIN[: bisect_right(PLAIN, room)]:
        if value == longest or (into + value) % 24 == 0:
            signs = _CRUMB_SIGNS if value < GRAIN else 1
            yield here + value, _SIGN_COST * signs, None
    if not ahead & _off_grain(_WIDEST):
        return
    for rank, (tuplet, steps, needing, denying) in enumerate(_tuplet_masks()):
        if ahead & needing and not ahead & denying and here + steps <= offsets[-1]:
            inner = offsets[segment + 1 : bisect_left(offsets, here + steps)]
            signs = 1 + sum(len(split(value)) for value in _values(inner, here, tuplet))
            yield here + steps, _SIGN_COST * signs + rank, tuplet


@cache
def _off_grain(steps: int) -> int:
    """Return the bits of the offsets that plain values do not reach."""
    return sum(1 << step for step in range(1, steps) if step % GRAIN)


@cache
def _tuplet_masks() -> tuple[tuple[Tuplet, int, int, int], ...]:
    """Return each tuplet, its steps, the offsets that need it, and those that it cannot write."""
    return tuple(
        (t, t.steps, _off_grain(t.steps), sum(1 << n for n, at in enumerate(_written(t)) if at < 0))
        for t in TUPLETS
    )


@cache
def _written(tuplet: Tuplet) -> tuple[int, ...]:
    """Return the written offset for each step of a tuplet, -1 where there is none."""
    found = map(tuplet.written, range(tuplet.steps))
    return tuple(-1 if nominal is None else nominal for nominal in found)


def _values(inner: Sequence[int], here: int, tuplet: Tuplet) -> Iterator[int]:
    """Yield what is written between the offsets inside of a tuplet that starts here."""
    written, before = _written(tuplet), 0
    for offset in inner:
        nominal = written[offset - here]
        yield nominal - before
        before = nominal
    yield tuplet.nominal - before


def _group(offsets: tuple[int, ...], here: int, tuplet: Tuplet) -> Iterator[Piece]:
    """Write what lies in a tuplet that starts here, and that it can write."""
    first = bisect_right(offsets, here) - 1
    inner = offsets[first + 1 : bisect_left(offsets, here + tuplet.steps)]
    values = [
        (first + index, value)
        for index, nominal in enumerate(_values(inner, here, tuplet))
        for value in split(nominal)
    ]
    for index, (segment, value) in enumerate(values):
        yield Piece(segment, value, None if index else tuplet, index == len(values) - 1)


@lru_cache(maxsize=4096)
def split(steps: int) -> tuple[int, ...]:
    """Cut a length into the fewest plain values, the longest first; no crumbs unless it must."""
    fewest = _fewest(GRAIN if steps % GRAIN == 0 else 1)
    whole, rest = divmod(steps, 768) if steps > 768 else (0, steps)
    return tuple([384] * (2 * whole) + sorted(fewest[rest], reverse=True))


@cache
def _fewest(least: int) -> list[tuple[int, ...]]:
    """Return the fewest plain values, none under the least, for each length to 768 steps."""
    values = [value for value in PLAIN if value >= least]
    fewest: list[tuple[int, ...]] = [()]
    for length in range(1, 769):
        ends = [v for v in values if v <= length and (v == length or fewest[length - v])]
        fewest.append(min(((*fewest[length - v], v) for v in ends), key=len, default=()))
    return fewest


PARTIALS: Final = range(6, 288, 6)  # lengths of pickups and of the short bars that balance them

BarKind = Literal["full", "partial", "irregular"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A written bar: where it lies, the meter that holds, and how it fills it.

    partial: a pickup, or the short bar that balances one where the playing joins them.
    irregular: neither full nor balanced.
    """

    start: int
    end: int
    meter: Meter
    kind: BarKind

    @property
    def steps(self) -> int:
        """Length in steps."""
        return self.end - self.start


def bars(score: Score) -> tuple[Bar, ...]:
    """Cut a score into its bars. Bar lines, jumps and the tune's end all end a bar."""
    edges = sorted({0, score.end, *jumps(score), *(mark.onset for mark in score.of("bar"))})
    meters = [(mark.onset, mark.value) for mark in score.of("meter")] or [(0, Meter(4, 4))]
    onsets = [onset for onset, _ in meters]
    found = []
    for start, end in pairwise(edges):
        meter = meters[max(0, bisect_right(onsets, start) - 1)][1]
        kind: BarKind = "full" if end - start == meter.steps else "irregular"
        found.append(Bar(start, end, meter, kind))
    return _with_balanced(score, found)


def _with_balanced(score: Score, found: list[Bar]) -> tuple[Bar, ...]:
    """Call partial what is balanced wherever it is heard: before it, or after it."""
    short = {i for i, b in enumerate(found) if b.steps < b.meter.steps and b.steps in PARTIALS}
    if not short:
        return tuple(found)
    heard = list(_heard(score, found))
    borders = set(jumps(score))
    opening, closing = set(short), set(short)
    for before, after in zip([None, *heard], [*heard, None], strict=True):
        if after in short and not _joins(found, borders, before, after):
            opening.discard(after)
        if before in short:
            other = after if after is not None else _opening_of(heard, short)
            if after is None and not _complete(found, before, other):
                closing.discard(before)
            if after is not None and not _joins(found, borders, before, after):
                closing.discard(before)
    balanced = opening | closing
    return tuple(
        Bar(b.start, b.end, b.meter, "partial") if i in balanced else b for i, b in enumerate(found)
    )


def _opening_of(heard: list[int], short: set[int]) -> int | None:
    return heard[0] if heard and heard[0] in short else None


def _joins(found: list[Bar], borders: set[int], before: int | None, after: int | None) -> bool:
    """Tell whether two bars heard one after the other make one full bar across a border."""
    if after is None or before is None:
        return True  # a tune may start with a pickup
    at_border = found[before].end in borders and found[after].start in borders
    return at_border and _complete(found, before, after)


def _complete(found: list[Bar], first: int, second: int | None) -> bool:
    if second is None:
        return False
    a, b = found[first], found[second]
    return a.meter == b.meter and a.steps + b.steps == a.meter.steps and b.steps in PARTIALS


def _heard(score: Score, found: Sequence[Bar]) -> Iterator[int]:
    """Yield the indexes of the bars in the order in which they sound."""
    starts = [bar.start for bar in found]
    for start, stop in passages(score):
        yield from range(bisect_left(starts, start), bisect_left(starts, stop))


def picked_up(found: Sequence[Bar]) -> list[bool]:
    """Tell of each bar whether it ends a full one: the first, or the second of two halves."""
    pickups: list[bool] = []
    for index, bar in enumerate(found):
        before = found[index - 1] if index else None
        ends = before is None or (
            before.kind == "partial"
            and not pickups[-1]
            and before.steps + bar.steps == bar.meter.steps
        )
        is_short = bar.kind == "partial" or (before is None and bar.steps < bar.meter.steps)
        pickups.append(is_short and ends)
    return pickups


def numbers(found: Sequence[Bar]) -> list[int]:
    """Number bars as players count, from 1: a pickup goes with the bar after it, the first is 0."""
    pickups = picked_up(found)
    counts = accumulate(int(not is_pickup) for is_pickup in pickups)
    return [n + (n > 0 and is_pickup) for n, is_pickup in zip(counts, pickups, strict=True)]


def heard_bars(score: Score) -> int:
    """Count the bars as heard; a pickup and its partner are one bar."""
    found = bars(score)
    order = list(_heard(score, found))
    count = 0
    owed = 0  # steps that the bar under way still lacks
    for place, index in enumerate(order):
        bar = found[index]
        if bar.kind != "partial":
            count, owed = count + 1, 0
        elif place == 0 or owed:
            owed = 0
        else:
            count, owed = count + 1, bar.meter.steps - bar.steps
    return max(count, 1) if order else 0


class Chord(NamedTuple):
    """Notes of one voice that start and end together; pitches from the highest down."""

    onset: int
    duration: int
    pitches: tuple[int, ...]

    @property
    def end(self) -> int:
        """The first step at which it no longer sounds."""
        return self.onset + self.duration


@dataclass(frozen=True, eq=False)
class Chords:
    """The chords of a tune as columns: by part, then in order of onset, the shortest first."""

    parts: Any
    onsets: Any
    ends: Any
    pitches: Any  # of all notes, those of a chord from the highest down
    firsts: Any  # where each chord's pitches start; one more, where the last chord's stop
    places: Any  # where in the columns the note of each pitch stands

    @classmethod
    def of(cls, columns: Columns) -> Chords:
        """Join the notes of a part that start and end together."""
        onsets, pitches, durations, _, parts = columns
        order = np.lexsort((durations << 7 | 127 - pitches, onsets, parts))
        same = np.stack([parts, onsets, durations])[:, order]
        begins = np.append(True, (np.diff(same) != 0).any(axis=0))[: len(order)]
        firsts = np.flatnonzero(begins)
        parts, onsets, durations = same[:, firsts]
        stops = np.append(firsts, len(order))
        return cls(parts, onsets, onsets + durations, pitches[order], stops, order)

    def voices(self) -> Any:
        """Return the number of each chord's voice in its part: in a voice nothing overlaps.

        There are no more voices than notes of different lengths sound at once. A chord goes to the
        free voice whose last chord is nearest in pitch, one that has just ended before one that
        rests; what finds none free opens a new voice, higher notes first.
        """
        numbers = np.zeros(len(self.parts), dtype=np.int64)
        overlaps = (np.diff(self.parts) == 0) & (self.onsets[1:] < self.ends[:-1])
        for part in each_once(self.parts[1:][overlaps]).tolist():
            here = slice(*np.searchsorted(self.parts, [part, part + 1]))
            numbers[here] = _voices_of_part(
                self.onsets[here].tolist(),
                self.ends[here].tolist(),
                self.pitches[self.firsts[:-1][here]].tolist(),
                self.pitches[self.firsts[1:][here] - 1].tolist(),
            )
        return numbers


def voices(notes: Iterable[Note]) -> tuple[tuple[Chord, ...], ...]:
    """Share the notes of one part out to voices, see Chords.voices."""
    chords = Chords.of(Notes.of(notes).columns)
    numbers = chords.voices().tolist()
    found: list[list[Chord]] = [[] for _ in range(max(numbers, default=-1) + 1)]
    pitches, firsts = chords.pitches.tolist(), chords.firsts.tolist()
    durations = (chords.ends - chords.onsets).tolist()
    for number, onset, duration, (start, stop) in zip(
        numbers, chords.onsets.tolist(), durations, pairwise(firsts), strict=True
    ):
        found[number].append(Chord(onset, duration, tuple(pitches[start:stop])))
    return tuple(map(tuple, found))


_GAP_COST: Final = 5  # a voice that rests before a note is as good as one so many semitones off


class _Voice:
    """What a voice sounded last."""

    __slots__ = ("bottom", "end", "number", "top")

    def __init__(self, number: int) -> None:
        self.number = number
        self.end = self.top = self.bottom = 0

    def cost(self, onset: int, top: int, bottom: int) -> int:
        """Tell how ill a chord follows the last one: semitones, and a gap between them."""
        away = abs(self.top - top) + abs(self.bottom - bottom)
        return away + (2 * _GAP_COST if self.end < onset else 0)


def _voices_of_part(
    onsets: Sequence[int], ends: Sequence[int], tops: Sequence[int], bottoms: Sequence[int]
) -> list[int]:
    """Return the number of each chord's voice; the chords are given by column."""
    numbers = [0] * len(onsets)
    found: list[_Voice] = []
    for onset, same in groupby(range(len(onsets)), key=onsets.__getitem__):
        together = list(same)
        free = [voice for voice in found if voice.end <= onset]
        chosen: Sequence[_Voice | None] = free
        if not len(together) == len(free) == 1:
            together.sort(key=lambda chord: (-tops[chord], ends[chord]))
            chosen = _nearest([(onset, tops[chord], bottoms[chord]) for chord in together], free)
        for chord, known in zip(together, chosen, strict=True):
            voice = known or _Voice(len(found))
            if known is None:
                found.append(voice)
            numbers[chord] = voice.number
            voice.end, voice.top, voice.bottom = ends[chord], tops[chord], bottoms[chord]
    return numbers


def _nearest(
    chords: Sequence[tuple[int, int, int]], free: Sequence[_Voice]
) -> Sequence[_Voice | None]:
    """Pair chords with voices, the nearest first; of equals the higher chord, the earlier voice."""
    costs = sorted(
        (voice.cost(*chord), i, j) for i, chord in enumerate(chords) for j, voice in enumerate(free)
    )
    pairs: dict[int, _Voice] = {}
    taken: set[int] = set()
    for _, i, j in costs:
        if i not in pairs and j not in taken:
            pairs[i] = free[j]
            taken.add(j)
    return list(map(pairs.get, range(len(chords))))


def counted(qpm: float, meter: Meter) -> tuple[int, Fraction]:
    """Return a beat in steps, and how many a minute has: the meter's, or one that is whole.

    A quarter where none is.
    """
    exact = Fraction(qpm) * STEPS_PER_QUARTER
    for steps in (meter.beat_steps, *_BEATS):
        if steps in PLAIN and (exact / steps).denominator == 1:
            return steps, exact / steps
    return STEPS_PER_QUARTER, Fraction(qpm)


def to_steps(ticks: int, ticks_per_quarter: int, steps_per_quarter: int) -> int:
    """Round a tick count to the nearest step, halves upward."""
    return (2 * ticks * steps_per_quarter + ticks_per_quarter) // (2 * ticks_per_quarter)
