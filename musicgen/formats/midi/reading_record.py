"""How a tune of a MIDI file was read: what its notes agreed on, and what was moved or left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from musicgen.formats.midi.quantise import Grid
from musicgen.formats.midi.timing import Timing


@dataclass(frozen=True)
class ReadingRecord:
    """How one tune was read; notes = notes of the score + dropped_notes."""

    grid: Grid
    timing: Timing = field(default_factory=Timing)
    notes: int = 0  # in the file
    far_onsets: int = 0  # notes that moved over 1/24 of a beat, apart from the timing
    moved_ends: int = 0  # ends that moved over a step: articulation, or overlaps
    hits: int = 0  # drum notes that got a length
    merged_notes: int = 0  # notes on the step of another one with their pitch and part; kept
    dropped_parts: tuple[int, ...] = ()  # parts of the file, from 0
    dropped_notes: int = 0  # notes of parts that repeat a part of the same instrument; left out
    doubled_parts: Mapping[int, int] = field(default_factory=dict)  # played by another instrument

    def describe_timing(self) -> Iterator[str]:
        """Yield phrases about what was taken out of the timing of a file that was played."""
        timing = self.timing
        if timing.offset:
            direction = "late" if timing.offset > 0 else "early"
            yield f"notes are {abs(timing.offset):g} steps {direction}"
        if len(timing.drifts) > 1:
            low, high = min(timing.drifts), max(timing.drifts)
            yield f"drifting by {high - low:g} steps"
        if timing.part_offsets:
            yield f"{len(timing.part_offsets)} of the parts late or early against the others"
        if timing.swing is not None:
            value = "eighths" if timing.swing.unit == 24 else "sixteenths"
            yield f"{value} swing at {timing.swing.ratio:.2f}"
        if timing.beats_per_bar is not None:
            yield f"bars of {timing.beats_per_bar} beats inferred"
        if timing.added_steps:
            yield f"moved by {timing.added_steps:+d} steps to the bar lines"
        if self.far_onsets:
            yield f"{self.far_onsets:,} of {self.notes:,} notes moved over 1/24 of a beat"
        if self.hits:
            yield f"{self.hits:,} drum hits without a length"
        if self.dropped_notes:
            yield f"{self.dropped_notes:,} notes of doubled parts left out"
        if self.doubled_parts:
            yield f"{len(self.doubled_parts)} parts double another instrument"
