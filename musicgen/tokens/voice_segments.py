"""A tune cut where its chords start and end: bar by bar and, inside a bar, voice by voice.

One voice in one bar is a line. The first voice of part 0 has a line in each bar, other voices have
one where they sound. A line is cut in segments, which fill its bar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from musicgen.music.arrays import ragged_arange, unique_sorted
from musicgen.music.bars import Bar
from musicgen.music.voices import Chords

HOLD: Final = -1
REST: Final = -2


@dataclass(frozen=True, eq=False)
class BarVoices:
    """Lines as columns, bar by bar."""

    bars: Any  # the number of its bar
    parts: Any
    voices: Any  # the number of its voice in its part
    firsts: Any  # its first segment
    stops: Any  # the segment after its last

    def rows(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield the lines one by one."""
        columns = self.bars, self.parts, self.voices, self.firsts, self.stops
        return zip(*(column.tolist() for column in columns), strict=True)


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments as columns, voice by voice."""

    starts: Any  # steps, where those of a voice count on from the end of the voice before
    offsets: Any  # steps from the start of the bar
    lengths: Any  # steps
    bar_steps: Any  # how long the bar is
    sounds: Any  # the chord that starts there, or HOLD, or REST


def cut_into_segments(
    chords: Chords, bars: Sequence[Bar], changes: Sequence[int]
) -> tuple[BarVoices, Segments]:
    """Cut chords in lines and segments; the first voice is cut at the steps of changes too."""
    starts, ends = np.array([(bar.start, bar.end) for bar in bars], dtype=np.int64).T
    numbers = chords.assign_voices()
    most = numbers.max(initial=0) + 1  # voices in a part
    known, voice = np.unique(np.append(0, chords.parts * most + numbers), return_inverse=True)
    voice = voice[1:]
    place, bar = np.divmod(_number_bar_voices(chords, voice, ends), len(bars))
    # Each voice starts where the one before it ends: one number says where in which voice.
    shift = ends[-1]
    begins, stops = place * shift + starts[bar], place * shift + ends[bar]
    onsets, chord_ends = voice * shift + chords.onsets, voice * shift + chords.ends
    at = unique_sorted(np.concatenate([begins, onsets, chord_ends, changes]).astype(np.int64))
    line = np.searchsorted(begins, at, side="right") - 1
    at, line = at[inside := at < stops[line]], line[inside]
    segments = Segments(
        at,
        at - begins[line],
        np.minimum(np.append(at[1:], stops[-1]), stops[line]) - at,
        (ends - starts)[bar[line]],
        _find_sounds(onsets, chord_ends, at),
    )
    firsts = np.searchsorted(at, begins)
    order = np.lexsort((place, bar))
    columns = bar, known[place] // most, known[place] % most, firsts, np.append(firsts[1:], len(at))
    return BarVoices(*(column[order] for column in columns)), segments


def _number_bar_voices(chords: Chords, voices: Any, bar_ends: Any) -> Any:
    """Return the number of each line, voice by voice: those of the first voice, and what sounds."""
    first = np.searchsorted(bar_ends, chords.onsets, side="right")
    count = np.searchsorted(bar_ends, chords.ends) - first + 1
    sounding = np.repeat(voices * len(bar_ends) + first, count) + ragged_arange(count)
    return unique_sorted(np.append(np.arange(len(bar_ends)), sounding))


def _find_sounds(onsets: Any, ends: Any, at: Any) -> Any:
    """Return which chord starts at each of the times, or what goes on there."""
    if not len(onsets):
        return np.full(len(at), REST)
    order = np.argsort(onsets)
    onsets, ends = onsets[order], ends[order]
    last = np.searchsorted(onsets, at, side="right") - 1  # -1: before the first, which is no end
    going_on = np.where((last >= 0) & (at < ends[last]), HOLD, REST)
    return np.where(onsets[last] == at, order[last], going_on)
