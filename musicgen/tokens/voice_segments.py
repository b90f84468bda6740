"""Cut a tune where its chords start and end: bar by bar and, inside a bar, voice by voice.

A line is one voice in one bar. The first voice of part 0 has a line in every bar, other voices only
where they sound. A line is cut into segments, which fill its bar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from musicgen.music.arrays import IntArray, ragged_arange, unique_sorted
from musicgen.music.bars import Bar
from musicgen.music.voices import Chords

HOLD: Final = -1
REST: Final = -2


@dataclass(frozen=True, eq=False)
class BarVoices:
    """Lines as columns, bar by bar."""

    bars: IntArray  # (line,) index of the bar
    parts: IntArray  # (line,) number of the part
    voices: IntArray  # (line,) number of the voice in its part
    firsts: IntArray  # (line,) its first segment
    stops: IntArray  # (line,) the segment after its last

    def rows(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield bar, part, voice, first segment and stop of each line."""
        columns = self.bars, self.parts, self.voices, self.firsts, self.stops
        return zip(*(column.tolist() for column in columns), strict=True)


@dataclass(frozen=True, eq=False)
class Segments:
    """Segments as columns, voice by voice."""

    starts: IntArray  # (segment,) steps; each voice starts at the end of the voice before
    offsets: IntArray  # (segment,) steps from the start of the bar
    lengths: IntArray  # (segment,) steps
    bar_steps: IntArray  # (segment,) steps of the bar
    sounds: IntArray  # (segment,) the chord that starts, or HOLD, or REST


def cut_into_segments(
    chords: Chords, bars: Sequence[Bar], changes: Sequence[int]
) -> tuple[BarVoices, Segments]:
    """Cut chords into lines and segments.

    Args:
        chords: of all parts.
        bars: of the tune.
        changes: steps at which the first voice is cut too.
    """
    starts, ends = np.array([(bar.start, bar.end) for bar in bars], dtype=np.int64).T
    numbers = chords.assign_voices()
    voice_limit = numbers.max(initial=0) + 1  # voices in a part
    # part and number of each voice as one key; the first voice of part 0 always exists
    voice_keys, voice = np.unique(
        np.append(0, chords.parts * voice_limit + numbers), return_inverse=True
    )
    voice = voice[1:]
    line_voice, line_bar = np.divmod(_number_lines(chords, voice, ends), len(bars))
    # Each voice starts where the voice before it ends, so one number states voice and step.
    tune_steps = ends[-1]
    line_starts = line_voice * tune_steps + starts[line_bar]
    line_ends = line_voice * tune_steps + ends[line_bar]
    onsets, chord_ends = voice * tune_steps + chords.onsets, voice * tune_steps + chords.ends
    cuts = unique_sorted(
        np.concatenate([line_starts, onsets, chord_ends, changes]).astype(np.int64)
    )
    line = np.searchsorted(line_starts, cuts, side="right") - 1
    is_inside = cuts < line_ends[line]
    cuts, line = cuts[is_inside], line[is_inside]
    segments = Segments(
        cuts,
        cuts - line_starts[line],
        np.minimum(np.append(cuts[1:], line_ends[-1]), line_ends[line]) - cuts,
        (ends - starts)[line_bar[line]],
        _find_sounds(onsets, chord_ends, cuts),
    )
    firsts = np.searchsorted(cuts, line_starts)
    parts, voices = np.divmod(voice_keys[line_voice], voice_limit)
    order = np.lexsort((line_voice, line_bar))
    columns = line_bar, parts, voices, firsts, np.append(firsts[1:], len(cuts))
    return BarVoices(*(column[order] for column in columns)), segments


def _number_lines(chords: Chords, voices: IntArray, bar_ends: IntArray) -> IntArray:
    """Return voice * bars + bar of each line, ascending: all of the first voice, and sounding ones.

    Args:
        chords: of all parts.
        voices: (chord,) int64 voice of each chord.
        bar_ends: (bar,) int64 steps.
    """
    first = np.searchsorted(bar_ends, chords.onsets, side="right")
    count = np.searchsorted(bar_ends, chords.ends) - first + 1
    sounding = np.repeat(voices * len(bar_ends) + first, count) + ragged_arange(count)
    return unique_sorted(np.append(np.arange(len(bar_ends)), sounding))


def _find_sounds(onsets: IntArray, ends: IntArray, steps: IntArray) -> IntArray:
    """Return the chord that starts at each step, else HOLD if one sounds, else REST."""
    if not len(onsets):
        return np.full(len(steps), REST)
    order = np.argsort(onsets)
    onsets, ends = onsets[order], ends[order]
    last = np.searchsorted(onsets, steps, side="right") - 1  # -1: before the first onset
    held_or_rest = np.where((last >= 0) & (steps < ends[last]), HOLD, REST)
    return np.where(onsets[last] == steps, order[last], held_or_rest)
