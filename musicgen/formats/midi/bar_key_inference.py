"""Bar lines and keys that a MIDI file implies, and the text events for those that it does not.

The reader and the writer share these functions, so the writer knows what it can omit. What MIDI
has no event for is stored in text events of the first track, which other programs ignore:

====================  =====================================================
musicgen:key          tonic and mode, where the signature does not give both; none
musicgen:bars         the lengths of the bars, where the meters do not imply them
musicgen:chord        a chord symbol
musicgen:rhythm       the kind of tune
musicgen:swing        ratio, unit and phase of the swing that was applied to the notes
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
from musicgen.music.swing import Swing
from musicgen.music.theory import Key, Meter

TEXT_PREFIX: Final = "musicgen:"
NO_KEY: Final = "none"
MAX_BARS: Final = 65_536
MAX_STEPS: Final = MAX_QUARTERS * STEPS_PER_QUARTER

StepEvent = tuple[int, Any]  # step, value


def infer_bar_lines(end: int, meters: Sequence[StepEvent]) -> list[int]:
    """Return the steps of the bar lines that meters imply, up to the first at or after the end.

    A meter event inside a bar ends the bar, even if it repeats the current meter.

    Args:
        end: step at which the last note ends.
        meters: meter events in order.
    """
    meter_changes = [] if meters and meters[0][0] == 0 else [(0, Meter(4, 4))]
    meter_changes += [(onset, meter) for onset, meter in meters if onset < end]
    lines: list[int] = []
    for (start, meter), (stop, _) in zip(
        meter_changes, [*meter_changes[1:], (None, None)], strict=True
    ):
        limit = end + meter.steps if stop is None else stop
        lines += range(start + meter.steps, limit, meter.steps)
        if stop is not None:
            lines.append(stop)
    return lines


def has_pickup(meters: Sequence[StepEvent]) -> bool:
    """Return whether the first meter holds for one bar, which is shorter than those that follow."""
    if len(meters) < 2 or meters[0][0]:
        return False
    (_, first), (start, second) = meters[:2]
    return bool(start == first.steps < second.steps)


def without_pickup_meter(meters: Sequence[StepEvent]) -> list[StepEvent]:
    """Replace the meter of a pickup by that of the first whole bar."""
    if not has_pickup(meters):
        return list(meters)
    return [(0, meters[1][1]), *meters[2:]]


def format_bar_lengths(lines: Sequence[int]) -> str:
    """Write the lengths in steps between bar lines; "144*8" is eight bars of 144 steps."""
    lengths = [after - before for before, after in zip([0, *lines], lines, strict=False)]
    run_lengths = [(length, len(list(group))) for length, group in groupby(lengths)]
    return " ".join(
        f"{length}*{count}" if count > 1 else str(length) for length, count in run_lengths
    )


def parse_bar_lengths(text: str) -> list[int] | None:
    """Parse the text of `format_bar_lengths` into the steps of bar lines; None if malformed."""
    lines: list[int] = []
    position = 0
    for word in text.split():
        match = re.fullmatch(r"([0-9]{1,6})(?:\*([0-9]{1,6}))?", word)
        length, count = (int(match[1]), int(match[2] or 1)) if match else (0, MAX_BARS + 1)
        if count + len(lines) > MAX_BARS or position + length * count > MAX_STEPS:
            return None
        lines += [position + length * n for n in range(1, count + 1)]
        position += length * count
    return lines


def format_swing(swing: Swing, phase: int) -> str:
    """Write a swing and a step at which a pair of swung notes starts."""
    return f"{swing.ratio:.4f} {swing.unit} {phase}"


def parse_swing(text: str) -> tuple[Swing, int] | None:
    """Parse the text of `format_swing`; None if malformed."""
    match = re.fullmatch(r"(0\.[0-9]{4}) ([0-9]{2}) ([0-9]{1,2})", text)
    if match is None:
        return None
    try:
        return Swing(float(match[1]), int(match[2])), int(match[3])
    except InvalidValue:
        return None


def parse_key_or_none(text: str) -> Key | None:
    """Parse a key; None if malformed."""
    try:
        return Key.parse(text)
    except InvalidValue:
        return None


def drop_unchanged(events: Sequence[StepEvent]) -> list[StepEvent]:
    """Drop events that repeat the value of the previous one."""
    previous = [None, *(value for _, value in events)]
    return [event for event, current in zip(events, previous, strict=False) if event[1] != current]
