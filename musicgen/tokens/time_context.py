"""The context by time: what a performance without bars did a moment ago, from its ids so far.

A network that reads the ids of a performance alone must add up the shifts to know how long ago a
note started, and remember each note that is held. The context by time tells it, before each id, and
is a function of the ids before it and of nothing else. A strike is a group of onsets that start
within 40 ms of the first; times are in units of 10 ms:

=============  =====================================================================================
field          value
=============  =====================================================================================
since          how long ago the last strike was; 0 before the first
interval n     how long before the strike after it the strike n + 1 from the last was
due n          interval n less `since`: when the next strike would come if interval n came again
held_count     number of pitches that are held
age n          how long the n-th oldest pitch that may end now has been held
low, high      the lowest and highest pitch that is held, + 1; 0 if none is
until t        how long after t ms ago the next onset was
repeat_run     for how many onsets the pitches have been those of an earlier passage
motif_run      the same for their intervals, in any key
ago t          the id + 1 of the onset t ms ago that has not come again by now
repeat         the id + 1 of the onset that followed where the last three pitches came before
motif          the same for the last three intervals, continued from the last pitch
oldest n       the id + 1 that ends the n-th oldest pitch that may end now
lowest_off     the id + 1 that ends the lowest pitch that may end now
newest         the id + 1 that ends the pitch that started last
held n         bit k: pitch 12 n + k is held
tones t        bit k: a pitch of class k started in the span of time that ends t ms ago; the spans
               lie side by side
=============  =====================================================================================

A field that looks up an id is 0 where there is none, or where the grammar does not allow it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from musicgen.config import HELD_FIELDS, TIME_FIELDS, TIME_LOOK_UPS, TONES_FIELDS
from musicgen.music.arrays import TokenIds
from musicgen.music.milliseconds import STRIKE_MILLISECONDS
from musicgen.tokens.context_source import ContextFields, OneByOneLanes, compute_one_by_one
from musicgen.tokens.performance import OFF, ON, SHIFT, UNIT_MILLISECONDS, VELOCITY

LAGS: Final = (50, 100, 200, 400)  # units
STRIKE_UNITS: Final = STRIKE_MILLISECONDS // UNIT_MILLISECONDS
TOLERANCE: Final = 5  # units by which an onset may be early or late, to be the same
MATCHED: Final = 3  # pitches or intervals that must come again for a passage to be looked up
MOST_UNITS: Final = 400  # longer times are counted as this one
_EXACT_UNITS: Final = 24  # times up to this one have a value of their own
_VALUES_PER_OCTAVE: Final = 6  # of longer times
_EARLIEST_DUE, _LATEST_DUE = -20, 40  # units
_MOST_UNTIL: Final = 40  # units
_MOST_HELD: Final = 15
_MOST_RUN_LEVELS: Final = 7
_RANKS: Final = 3  # pitches held longest that are told
_KEPT_UNITS: Final = LAGS[-1] + TOLERANCE  # onsets that are remembered with their times
_OCTAVES: Final = 11
_NONE: Final = -1


def _make_levels() -> tuple[int, ...]:
    """Return the value of each time in units: exact ones, then six per doubling."""
    units = np.arange(MOST_UNITS + 1)
    octaves = np.log2(np.maximum(units, _EXACT_UNITS) / _EXACT_UNITS)
    later = np.floor(octaves * _VALUES_PER_OCTAVE).astype(int)
    return tuple((np.minimum(units, _EXACT_UNITS) + later).tolist())


_LEVELS: Final = _make_levels()
_LEVEL_COUNT: Final = _LEVELS[-1] + 1
FIELD_SIZES: Final = {  # of the fields that are neither bits nor ids
    "since": _LEVEL_COUNT,
    **{f"interval{n}": _LEVEL_COUNT for n in range(1, _RANKS + 1)},
    **{f"due{n}": _LATEST_DUE - _EARLIEST_DUE + 2 for n in (1, 2)},
    "held_count": _MOST_HELD + 1,
    **{f"age{n}": _LEVEL_COUNT + 1 for n in range(1, _RANKS + 1)},
    "low": 129,
    "high": 129,
    **{f"until{lag * UNIT_MILLISECONDS}": _MOST_UNTIL + 2 for lag in LAGS},
    "repeat_run": _MOST_RUN_LEVELS + 2,
    "motif_run": _MOST_RUN_LEVELS + 2,
}


def _level(units: int) -> int:
    return _LEVELS[min(units, MOST_UNITS)]


class Onset(NamedTuple):
    """The start of a note."""

    time: int  # units
    pitch: int


class Passage(NamedTuple):
    """Where the last onsets, or their intervals, came before."""

    next: int = _NONE  # index of what followed there; _NONE if they are new
    run: int = 0  # for how many onsets they have been the same

    def take(self, history: bytes) -> Passage:
        """Return the passage after one more value, the last of the history."""
        if self.next != _NONE and history[self.next] == history[-1]:
            return Passage(self.next + 1, self.run + 1)
        if len(history) <= MATCHED:
            return _NEW
        start = history.rfind(history[-MATCHED:], 0, len(history) - 1)
        return Passage(start + MATCHED) if start >= 0 else _NEW

    @property
    def level(self) -> int:
        """The value of a field of runs."""
        if self.next == _NONE:
            return 0
        return 1 + min(self.run.bit_length(), _MOST_RUN_LEVELS)


_NEW: Final = Passage()
_NO_LOOK_BACK: Final = ([0] * len(LAGS),) * 2


class TimeContext(NamedTuple):
    """The context by time of one performance, before its next id: a frozen value."""

    now: int = 0  # units
    held: tuple[Onset, ...] = ()  # the notes that sound, the oldest first
    onsets: tuple[Onset, ...] = ()  # the last ones, the latest last
    strikes: tuple[int, ...] = ()  # times of the last four, the latest first
    last_off: int = _NONE  # the highest pitch that ended now
    last_on: int = _NONE  # the highest pitch that started now
    awaits_on: bool = False  # whether a velocity was read, and a note follows
    pitches: bytes = b""  # of all onsets
    steps: bytes = b""  # the intervals between them in semitones, modulo 256
    repeat: Passage = _NEW  # in pitches
    motif: Passage = _NEW  # in steps

    def take(self, id_: int) -> TimeContext:
        """Return the context after an id; what means nothing here changes nothing."""
        if id_ in SHIFT:
            units = id_ - SHIFT.start + 1
            return self._replace(now=self.now + units, last_off=_NONE, last_on=_NONE)
        if id_ in ON:
            return self._start_note(id_ - ON.start)
        if id_ in OFF:
            pitch = id_ - OFF.start
            held = tuple([note for note in self.held if note.pitch != pitch])
            return self._replace(held=held, last_off=pitch)
        return self._replace(awaits_on=True) if id_ in VELOCITY else self

    def _start_note(self, pitch: int) -> TimeContext:
        onset, steps, motif = Onset(self.now, pitch), self.steps, self.motif
        if self.pitches:
            steps += bytes([(pitch - self.pitches[-1]) % 256])
            motif = motif.take(steps)
        pitches = self.pitches + bytes([pitch])
        first = next(
            (n for n, old in enumerate(self.onsets) if old.time >= self.now - _KEPT_UNITS),
            len(self.onsets),
        )
        is_strike = not self.strikes or self.now - self.strikes[0] >= STRIKE_UNITS
        return TimeContext(
            self.now,
            (*[note for note in self.held if note.pitch != pitch], onset),
            (*self.onsets[first:], onset),
            (self.now, *self.strikes[:_RANKS]) if is_strike else self.strikes,
            self.last_off, pitch, False, pitches, steps, self.repeat.take(pitches), motif,
        )  # fmt: skip

    def compute_fields(self) -> tuple[int, ...]:
        """Return the value of each field, in the order of TIME_FIELDS."""
        may_end = self._list_ending_notes()
        until, ago = self._look_back() if self.onsets else _NO_LOOK_BACK
        return (
            *self._measure_strikes(),
            min(len(self.held), _MOST_HELD),
            *_pad([_level(self.now - note.time) + 1 for note in may_end[:_RANKS]]),
            min([note.pitch + 1 for note in self.held], default=0),
            max([note.pitch + 1 for note in self.held], default=0),
            *until,
            self.repeat.level,
            self.motif.level,
            *ago,
            self._look_up_on(self._continue_repeat()),
            self._look_up_on(self._continue_motif()),
            *_pad([_look_up_off(note.pitch) for note in may_end[:_RANKS]]),
            min([_look_up_off(note.pitch) for note in may_end], default=0),
            _look_up_off(may_end[-1].pitch) if may_end else 0,
            *self._collect_held(),
            *self._collect_tones(),
        )

    def _list_ending_notes(self) -> list[Onset]:
        """Return the notes that may end now, the oldest first."""
        if self.last_on != _NONE or self.awaits_on:
            return []
        return [note for note in self.held if note.pitch > self.last_off]

    def _measure_strikes(self) -> Iterator[int]:
        """Yield the fields since, interval and due."""
        since = self.now - self.strikes[0] if self.strikes else 0
        intervals = [after - before for after, before in pairwise(self.strikes)]
        yield _level(since)
        yield from _pad([_level(interval) for interval in intervals])
        dues = [min(max(i - since, _EARLIEST_DUE), _LATEST_DUE) for i in intervals[:2]]
        yield from _pad([due - _EARLIEST_DUE + 1 for due in dues], 2)

    def _look_back(self) -> tuple[list[int], list[int]]:
        """Return the fields until and ago."""
        times = [onset.time for onset in self.onsets]
        recent = {onset.pitch for onset in self.onsets if onset.time >= self.now - TOLERANCE}
        until, ago = [], []
        for lag in LAGS:
            then = self.now - lag
            after = bisect_right(times, then)
            until.append(min(times[after] - then, _MOST_UNTIL + 1) if after < len(times) else 0)
            first, last = (
                bisect_left(times, then - TOLERANCE),
                bisect_right(times, then + TOLERANCE),
            )
            candidates = (self._look_up_on(onset.pitch) for onset in self.onsets[first:last]
                          if onset.pitch not in recent)  # fmt: skip
            ago.append(next(filter(None, candidates), 0))
        return until, ago

    def _look_up_on(self, pitch: int) -> int:
        """Return the id + 1 that starts a pitch; 0 if it cannot start now."""
        is_held = any(note.pitch == pitch for note in self.held)
        if not self.last_on < pitch < len(ON) or is_held:
            return 0
        return ON.start + pitch + 1

    def _continue_repeat(self) -> int:
        return self.pitches[self.repeat.next] if self.repeat.next != _NONE else _NONE

    def _continue_motif(self) -> int:
        if self.motif.next == _NONE:
            return _NONE
        step = self.steps[self.motif.next]
        return self.pitches[-1] + (step - 256 if step >= 128 else step)

    def _collect_held(self) -> list[int]:
        """Return the held pitches as bits, an octave per field."""
        octaves = [0] * _OCTAVES
        for note in self.held:
            octaves[note.pitch // 12] |= 1 << note.pitch % 12
        return octaves

    def _collect_tones(self) -> list[int]:
        """Return the pitch classes that started in each span of time, as bits."""
        spans = [0] * len(LAGS)
        for onset in self.onsets:
            ago = self.now - onset.time
            if ago < LAGS[-1]:
                spans[bisect_right(LAGS, ago)] |= 1 << onset.pitch % 12
        return spans


def _look_up_off(pitch: int) -> int:
    return OFF.start + pitch + 1


def _pad(values: Sequence[int], length: int = _RANKS) -> list[int]:
    return [*values, *[0] * (length - len(values))]


class TimeContextSource:
    """Computes the contexts by time of the ids of `performance`."""

    fields = TIME_FIELDS

    def start(self) -> TimeContext:
        """Return the context before a tune."""
        return TimeContext()

    def start_lanes(self, count: int) -> OneByOneLanes:
        """Return the contexts of some tunes, each before its first id."""
        return OneByOneLanes(self.start(), count)

    def compute(self, tunes: Sequence[TokenIds]) -> list[ContextFields]:
        """Compute the context before each id of some tunes, (token, field) int16 each."""
        return compute_one_by_one(self.start(), tunes, len(self.fields))

    def transpose(self, context: ContextFields, semitones: int) -> ContextFields:
        """Return the fields of the transposed ids; no pitch may leave 0 to 127.

        Args:
            context: (token, field) int16.
            semitones: up, or down if negative.
        """
        if not semitones:
            return context
        transposed = context.copy()
        transposed[:, _PITCHES] += semitones * (context[:, _PITCHES] > 0)
        tones = _unpack_bits(context[:, _TONES])  # (token, span, pitch class)
        transposed[:, _TONES] = _pack_bits(np.roll(tones, semitones, axis=2))
        held = _unpack_bits(context[:, _HELD])  # (token, octave, pitch class)
        keys = np.roll(held.reshape(len(context), -1), semitones, axis=1)
        transposed[:, _HELD] = _pack_bits(keys.reshape(held.shape))
        return transposed


_PITCHES: Final = [TIME_FIELDS.index(name) for name in ("low", "high", *TIME_LOOK_UPS)]
_HELD: Final = [n for n, name in enumerate(TIME_FIELDS) if name in HELD_FIELDS]
_TONES: Final = [n for n, name in enumerate(TIME_FIELDS) if name in TONES_FIELDS]


def _unpack_bits(sets: ContextFields) -> ContextFields:
    """Return sets of twelve bits, (...) int16, as (..., 12) of 0 or 1."""
    return (sets[..., np.newaxis] >> np.arange(12, dtype=np.int16)) & 1


def _pack_bits(bits: ContextFields) -> ContextFields:
    sets: ContextFields = (bits << np.arange(12, dtype=np.int16)).sum(-1, dtype=np.int16)
    return sets
