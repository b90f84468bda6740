"""The echo: what a part played when the parts written above it last played what they play now.

Lags of 1, 2, 4 and 8 bars do not reach a chorus that returns after 30 bars, and say nothing of the
accompaniment of a melody that returns somewhere else. The echo looks for the earlier bar that is
most like the present one, and reads there what stood at the same place:

=========  =========================================================================================
field      value
=========  =========================================================================================
echo       the id + 1 that stood at this place in the bar that was found; 0 if none did
alike      how much alike the bars are, in tenths; 0 if no bar is alike enough
echoed     for how long the ids have been those of the bar, in logarithmic steps
=========  =========================================================================================

A bar is looked for each time a voice starts in a bar. Two bars are compared by what was written
before that: by the notes of the earlier voices of both bars, and by the bars before them; if the
earlier voices have fewer than MIN_NOTES notes, by the two bars before. The notes of a bar are
compared as a sketch, a set of SKETCH_BITS bits into which each note is hashed with its sixteenth;
the likeness of two sketches is the Dice coefficient, 2 |A and B| / (|A| + |B|).

`EchoContext` is that of one tune, a frozen value; `EchoLanes` computes the same for many tunes side
by side. They are parts of `ScoreContext` and `ContextLanes`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from musicgen.music.arrays import FloatArray, IntArray
from musicgen.tokens.vocabulary import MAX_PARTS, MAX_VOICES, MEASURES

SKETCH_BITS: Final = 256
MIN_NOTES: Final = 2  # of earlier voices, to compare bars by them
MIN_ALIKE: Final = 3  # tenths, for a bar to be found
SEARCHED_BARS: Final = 128  # the latest ones
SHARE_OF_NEARER: Final = 0.7  # in the likeness; the rest is that of the bars before
_SLOT_STEPS: Final = 12  # a sixteenth note
_SLOT_FACTOR: Final = 37  # coprime to SKETCH_BITS: one note at two places sets two bits
_MOST_LEVEL: Final = 7
_WORDS: Final = SKETCH_BITS // 64

ECHO_FIELD_SIZES: Final = {"alike": 11, "echoed": _MOST_LEVEL + 1}

_NOTHING, _NOTE, _VOICE, _BAR = range(4)
_ACTIONS_BY_KIND: Final = {
    "pitch": _NOTE, "drum": _NOTE, "part": _VOICE, "voice": _VOICE, "bar": _BAR, "partial": _BAR,
}  # fmt: skip
_ACTIONS: Final = [_ACTIONS_BY_KIND.get(event.kind, _NOTHING) for event in MEASURES.events]

BarIds: TypeAlias = dict[int, int]  # by place: the id + 1; never changed
VoiceSketches: TypeAlias = dict[int, int]  # by voice: the notes of earlier voices; never changed
_NO_IDS: Final = BarIds()
_NO_SKETCHES: Final = VoiceSketches()


class Step(NamedTuple):
    """An id of a tune, and where the tune stands before and after it."""

    id_: int
    position: int  # steps from the start of the bar, before the id
    place: int  # before the id
    next_voice: int
    next_place: int


class Bar(NamedTuple):
    """A bar that was left."""

    ids: BarIds
    before: int  # sketch of the bar before it
    before_that: int
    entries: VoiceSketches


class EchoContext(NamedTuple):
    """The echo of one tune, before its next id: a frozen value."""

    bars: tuple[Bar, ...] = ()  # the latest SEARCHED_BARS
    before: int = 0  # sketch of the bar before
    before_that: int = 0
    ids: BarIds = _NO_IDS  # of the bar
    sketch: int = 0  # of the bar
    entries: VoiceSketches = _NO_SKETCHES
    found: BarIds = _NO_IDS  # of the bar that was found
    alike: int = 0
    run: int = 0  # for how many ids the tune has followed the bar that was found
    seen: int = 0  # value of the field "echo"

    def compute_fields(self) -> tuple[int, int, int]:
        """Return the value of each field."""
        return self.seen, self.alike, min(self.run.bit_length(), _MOST_LEVEL)

    def take(self, step: Step) -> EchoContext:
        """Return the echo after an id."""
        id_, action = step.id_, _ACTIONS[step.id_]
        sketch = self.sketch
        if action == _NOTE:
            sketch |= 1 << _hash_note(step.position, id_)
        after = EchoContext(
            self.bars, self.before, self.before_that, {**self.ids, step.place: id_ + 1}, sketch,
            self.entries, self.found, self.alike, self.run + 1 if self.seen == id_ + 1 else 0,
            self.found.get(step.next_place, 0),
        )  # fmt: skip
        if action == _BAR:
            after = after._leave_bar()
        if action in (_BAR, _VOICE):
            after = after._start_voice(step.next_voice, step.next_place)
        return after

    def _leave_bar(self) -> EchoContext:
        bar = Bar(self.ids, self.before, self.before_that, self.entries)
        bars = (*self.bars[1 - SEARCHED_BARS :], bar)
        return EchoContext(bars, before=self.sketch, before_that=self.before)

    def _start_voice(self, voice: int, place: int) -> EchoContext:
        """Look for the bar that is most like this one; of several, the latest."""
        is_by_voices = self.sketch.bit_count() >= MIN_NOTES
        best, found = 0.0, _NO_IDS
        for bar in self.bars:
            if voice not in bar.entries:
                continue
            nearer = farther = compare_sketches(self.before, bar.before)
            if is_by_voices:
                nearer = compare_sketches(self.sketch, bar.entries[voice])
            else:
                farther = compare_sketches(self.before_that, bar.before_that)
            likeness = SHARE_OF_NEARER * nearer + (1 - SHARE_OF_NEARER) * farther
            if likeness >= best:
                best, found = likeness, bar.ids
        alike = int(10 * best)
        if alike < MIN_ALIKE:
            alike, found = 0, _NO_IDS
        entries = {**self.entries, voice: self.sketch}
        return self._replace(
            entries=entries, found=found, alike=alike, run=0, seen=found.get(place, 0)
        )


def compare_sketches(first: int, second: int) -> float:
    """Return the Dice coefficient of two sets of bits; 0 if both are empty."""
    count = first.bit_count() + second.bit_count()
    return 2 * (first & second).bit_count() / count if count else 0.0


def _hash_note(position: int, id_: int) -> int:
    """Return the bit of a note in a sketch."""
    return (position // _SLOT_STEPS * _SLOT_FACTOR + id_) % SKETCH_BITS


_ACTION_ARRAY: Final = np.array(_ACTIONS, np.int8)
_ALL_VOICES: Final = MAX_PARTS * MAX_VOICES
Sketches: TypeAlias = npt.NDArray[np.uint64]  # (..., word)


class Steps(NamedTuple):
    """The ids of several tunes, and where the tunes stand before and after them, (lane,) each."""

    ids: IntArray
    positions: IntArray
    places: IntArray
    next_voices: IntArray
    next_places: IntArray


class EchoLanes:
    """The echoes of many tunes side by side, as arrays: those of `EchoContext`.

    Args:
        lanes: the number of tunes, each before its first id.
    """

    def __init__(self, lanes: int) -> None:
        bars = lanes, SEARCHED_BARS
        # all ids + 1 so far and their places, one after another; a bar is a slice of them
        self.places: npt.NDArray[np.int32] = np.zeros((lanes, 1024), np.int32)
        self.ids: npt.NDArray[np.int16] = np.zeros((lanes, 1024), np.int16)
        self.counts: IntArray = np.zeros(lanes, np.int64)
        self.bar_counts: IntArray = np.zeros(lanes, np.int64)  # of bars that were left
        # by bar; bar n is in column n % SEARCHED_BARS, and the bar under way is there already
        self.starts: IntArray = np.zeros(bars, np.int64)
        self.ends: IntArray = np.zeros(bars, np.int64)
        self.before: Sketches = np.zeros((*bars, 2, _WORDS), np.uint64)  # the last bar first
        self.entries: Sketches = np.zeros((*bars, 0, _WORDS), np.uint64)  # by voice, as a column
        self.has_entry: npt.NDArray[np.bool_] = np.zeros((*bars, 0), np.bool_)
        self.sketch: Sketches = np.zeros((lanes, _WORDS), np.uint64)  # of the bar under way
        self.found: npt.NDArray[np.int16] = np.zeros((lanes, 256), np.int16)  # ids + 1 by place
        self.alike: IntArray = np.zeros(lanes, np.int64)
        self.run: IntArray = np.zeros(lanes, np.int64)
        self.seen: IntArray = np.zeros(lanes, np.int64)
        self.columns: IntArray = np.full(_ALL_VOICES, -1)  # by voice, of `entries`

    def set_context(self, lane: int, context: EchoContext) -> None:
        """Set a lane to the echo of one tune."""
        self.counts[lane] = self.starts[lane] = self.ends[lane] = self.bar_counts[lane] = 0
        self.before[lane], self.entries[lane], self.has_entry[lane] = 0, 0, False
        under_way = Bar(context.ids, context.before, context.before_that, context.entries)
        for number, bar in enumerate((*context.bars, under_way)):
            if number:
                self._open_bars(np.array([lane]))
            row = number % SEARCHED_BARS
            self.before[lane, row] = [_split_words(bar.before), _split_words(bar.before_that)]
            for voice, sketch in bar.entries.items():
                column = self._find_columns(np.array([voice]))[0]
                self.entries[lane, row, column] = _split_words(sketch)
                self.has_entry[lane, row, column] = True
            for place, stored in bar.ids.items():
                self._add_ids(np.array([lane]), np.array([place]), np.array([stored]))
        self.sketch[lane] = _split_words(context.sketch)
        self._make_room(max(context.found, default=0))
        self.found[lane] = 0
        self.found[lane, [*context.found]] = [*context.found.values()]
        self.alike[lane], self.run[lane], self.seen[lane] = context[7:]

    def select_lanes(self, lanes: IntArray) -> None:
        """Keep some of the lanes, by index: (lane,) int64."""
        for name, array in vars(self).items():
            if name != "columns":
                setattr(self, name, array[lanes])

    def compute_fields(self) -> IntArray:
        """Return the value of each field of each lane, (lane, field) int64."""
        levels = np.frexp(self.run)[1]  # the number of bits
        return np.stack([self.seen, self.alike, np.minimum(levels, _MOST_LEVEL)], axis=1)

    def take(self, steps: Steps) -> None:
        """Advance each lane by its id."""
        ids, actions = steps.ids, _ACTION_ARRAY[steps.ids]
        self._add_ids(np.arange(len(ids)), steps.places, ids + 1)
        self.run = (self.run + 1) * (self.seen == ids + 1)
        if len(lanes := np.flatnonzero(actions == _NOTE)):
            bits = _hash_notes(steps.positions[lanes], ids[lanes])
            self.sketch[lanes, bits // 64] |= np.uint64(1) << (bits % 64).astype(np.uint64)
        if len(lanes := np.flatnonzero(actions == _BAR)):
            self._leave_bars(lanes)
        if len(lanes := np.flatnonzero((actions == _BAR) | (actions == _VOICE))):
            self._start_voices(lanes, steps.next_voices[lanes])
        self._make_room(int(steps.next_places.max()))
        self.seen = self.found[np.arange(len(ids)), steps.next_places].astype(np.int64)

    def _add_ids(self, lanes: IntArray, places: IntArray, stored: IntArray) -> None:
        """Add an id + 1 at a place to each of some lanes, (lane,) all."""
        counts = self.counts[lanes]
        while counts.max(initial=0) >= self.ids.shape[1]:
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)], axis=1)
            self.places = np.concatenate([self.places, np.zeros_like(self.places)], axis=1)
        self.ids[lanes, counts], self.places[lanes, counts] = stored, places
        self.counts[lanes] += 1
        self.ends[lanes, self.bar_counts[lanes] % SEARCHED_BARS] = self.counts[lanes]

    def _leave_bars(self, lanes: IntArray) -> None:
        """Do what `EchoContext._leave_bar` does in some lanes, by index: (lane,) int64."""
        before = self.before[lanes, self.bar_counts[lanes] % SEARCHED_BARS, 0]
        self._open_bars(lanes)
        rows = self.bar_counts[lanes] % SEARCHED_BARS
        self.before[lanes, rows, 0], self.before[lanes, rows, 1] = self.sketch[lanes], before
        self.sketch[lanes] = 0

    def _open_bars(self, lanes: IntArray) -> None:
        """Open an empty bar in each of some lanes, by index: (lane,) int64."""
        self.bar_counts[lanes] += 1
        rows = self.bar_counts[lanes] % SEARCHED_BARS
        self.starts[lanes, rows] = self.ends[lanes, rows] = self.counts[lanes]
        self.has_entry[lanes, rows] = False

    def _start_voices(self, lanes: IntArray, voices: IntArray) -> None:
        """Look for the bars that are most like those of some lanes, by index: (lane,) both."""
        columns, rows = self._find_columns(voices), self.bar_counts[lanes] % SEARCHED_BARS
        sketches, before = self.sketch[lanes], self.before[lanes, rows]
        is_by_voices = count_bits(sketches) >= MIN_NOTES
        last = compare_sketch_arrays(before[:, None, 0], self.before[lanes, :, 0])
        by_voices = compare_sketch_arrays(sketches[:, None], self.entries[lanes, :, columns])
        before_that = compare_sketch_arrays(before[:, None, 1], self.before[lanes, :, 1])
        nearer = np.where(is_by_voices[:, None], by_voices, last)
        farther = np.where(is_by_voices[:, None], last, before_that)
        likeness = SHARE_OF_NEARER * nearer + (1 - SHARE_OF_NEARER) * farther
        age = (rows[:, None] - np.arange(SEARCHED_BARS)) % SEARCHED_BARS  # 0: the bar under way
        is_searched = self.has_entry[lanes, :, columns] & (age > 0)
        likeness = np.where(is_searched, likeness, -1.0)
        best = likeness.max(1)
        found = np.where(likeness == best[:, None], age, SEARCHED_BARS).argmin(1)
        alike = (10 * np.maximum(best, 0.0)).astype(np.int64)
        alike[alike < MIN_ALIKE] = 0
        self.entries[lanes, rows, columns], self.has_entry[lanes, rows, columns] = sketches, True
        self.alike[lanes], self.run[lanes], self.found[lanes] = alike, 0, 0
        self._read_bars(lanes[alike > 0], found[alike > 0])

    def _read_bars(self, lanes: IntArray, rows: IntArray) -> None:
        """Read the ids of the bars that were found: indices of lanes and bars, (lane,) both."""
        starts, ends = self.starts[lanes, rows], self.ends[lanes, rows]
        lengths = ends - starts
        owners = np.repeat(lanes, lengths)
        first = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
        indices = first + np.arange(len(owners))
        places = self.places[owners, indices]
        self._make_room(int(places.max(initial=0)))
        self.found[owners, places] = self.ids[owners, indices]

    def _find_columns(self, voices: IntArray) -> IntArray:
        """Return the columns of voices in `entries`, (lane,) both."""
        for voice in voices[self.columns[voices] < 0].tolist():
            if self.columns[voice] < 0:
                self.columns[voice] = self.entries.shape[2]
                new = np.zeros((*self.entries.shape[:2], 1, _WORDS), np.uint64)
                self.entries = np.concatenate([self.entries, new], axis=2)
                self.has_entry = np.concatenate([self.has_entry, new[..., 0] > 0], axis=2)
        return self.columns[voices]

    def _make_room(self, place: int) -> None:
        while place >= self.found.shape[1]:
            self.found = np.concatenate([self.found, np.zeros_like(self.found)], axis=1)


def _split_words(sketch: int) -> Sketches:
    """Return a sketch as an array (word,)."""
    return np.frombuffer(sketch.to_bytes(SKETCH_BITS // 8, "little"), np.dtype("<u8")).astype(
        np.uint64
    )


def _hash_notes(positions: IntArray, ids: IntArray) -> IntArray:
    """Return the bits of notes in a sketch; see `_hash_note`."""
    bits: IntArray = (positions // _SLOT_STEPS * _SLOT_FACTOR + ids) % SKETCH_BITS
    return bits


def count_bits(sketches: Sketches) -> IntArray:
    """Return the number of bits of sketches (..., word): (...) int64."""
    counts: IntArray = np.bitwise_count(sketches).sum(-1, dtype=np.int64)
    return counts


def compare_sketch_arrays(first: Sketches, second: Sketches) -> FloatArray:
    """Return the Dice coefficients of sketches (..., word), (...) float64."""
    count = count_bits(first) + count_bits(second)
    likeness: FloatArray = 2 * count_bits(first & second) / np.maximum(count, 1)
    return likeness
