"""What a file leaves to its reader: where bars lie, and which key the notes are in.

The reader and the writer both ask here, so that the writer knows what it need not say. What MIDI
has no event for stands in text events of the first track, which other programs pass over:

====================  =====================================================
musicgen:key          tonic and mode, where the signature does not say both; none
musicgen:bars         the lengths of the bars, where the meters do not say them
musicgen:chord        a chord symbol
musicgen:rhythm       the kind of tune
====================  =====================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from musicgen.errors import InvalidValue
from musicgen.formats.midi.parser import MAX_QUARTERS
from musicgen.music.score import STEPS_PER_QUARTER
from musicgen.music.theory import Key, Meter

TEXT_PREFIX: Final = "musicgen:"
NO_KEY: Final = "none"
MAX_BARS: Final = 65_536
MAX_STEPS: Final = MAX_QUARTERS * STEPS_PER_QUARTER

StepEvent = tuple[int, Any]  # steps, and what happens there


def infer_bar_lines(end: int, meters: Sequence[StepEvent]) -> list[int]:
    """Return where the meters put bar lines; the last at or after the last note's end.

    A meter that starts inside a bar, the same again too, ends the bar.
    """
    starts = [] if meters and meters[0][0] == 0 else [(0, Meter(4, 4))]
    starts += [(onset, meter) for onset, meter in meters if onset < end]
    lines: list[int] = []
    for (start, meter), (stop, _) in zip(starts, [*starts[1:], (None, None)], strict=True):
        last = end + meter.steps if stop is None else stop
        lines += range(start + meter.steps, last, meter.steps)
        if stop is not None:
            lines.append(stop)
    return lines


def has_pickup(meters: Sequence[StepEvent]) -> bool:
    """Tell whether the first meter is the length of a pickup: one bar of it, then a longer one."""
    if len(meters) < 2 or meters[0][0]:
        return False
    (_, first), (start, second) = meters[:2]
    return bool(start == first.steps < second.steps)


def without_pickup_meter(meters: Sequence[StepEvent]) -> list[StepEvent]:
    """Let the meter of the first whole bar hold from the start."""
    if not has_pickup(meters):
        return list(meters)
    return [(0, meters[1][1]), *meters[2:]]


def format_bar_lengths(lines: Sequence[int]) -> str:
    """Write the lengths between bar lines; "144*8" is eight bars of 144 steps."""
    lengths = [after - before for before, after in zip([0, *lines], lines, strict=False)]
    counted = [(length, len(list(same))) for length, same in groupby(lengths)]
    return " ".join(f"{length}*{count}" if count > 1 else str(length) for length, count in counted)


def parse_bar_lengths(text: str) -> list[int] | None:
    """Read bar lines from their lengths, or None where the text makes no sense."""
    lines: list[int] = []
    now = 0
    for word in text.split():
        match = re.fullmatch(r"([0-9]{1,6})(?:\*([0-9]{1,6}))?", word)
        length, count = (int(match[1]), int(match[2] or 1)) if match else (0, MAX_BARS + 1)
        if count + len(lines) > MAX_BARS or now + length * count > MAX_STEPS:
            return None
        lines += [now + length * n for n in range(1, count + 1)]
        now += length * count
    return lines


def parse_key_or_none(text: str) -> Key | None:
    """Read a key in words, or None where they name none."""
    try:
        return Key.parse(text)
    except InvalidValue:
        return None


def drop_unchanged(events: Sequence[StepEvent]) -> list[StepEvent]:
    """Drop events that say what already holds."""
    before = [None, *(value for _, value in events)]
    return [event for event, held in zip(events, before, strict=False) if event[1] != held]
