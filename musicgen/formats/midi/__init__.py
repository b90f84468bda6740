"""Standard MIDI files: `parse` reads what `render` writes, equal as played."""

from musicgen.formats.midi.bar_key_inference import MAX_STEPS
from musicgen.formats.midi.midi_reader import (
    Inspection,
    inspect,
    parse,
    parse_performance,
    parse_score_or_performance,
    read_text_events,
)
from musicgen.formats.midi.midi_writer import TICKS_PER_QUARTER, render, to_pretty_midi
from musicgen.formats.midi.parser import (
    DRUM_CHANNEL,
    MAX_BYTES,
    MAX_EVENTS,
    MAX_QUARTERS,
    MAX_TRACKS,
    REPAIRS,
)
from musicgen.formats.midi.quantise import Grid
from musicgen.formats.midi.reading_record import ReadingRecord
from musicgen.formats.midi.timing import Timing

__all__ = [
    "DRUM_CHANNEL",
    "MAX_BYTES",
    "MAX_EVENTS",
    "MAX_QUARTERS",
    "MAX_STEPS",
    "MAX_TRACKS",
    "REPAIRS",
    "TICKS_PER_QUARTER",
    "Grid",
    "Inspection",
    "ReadingRecord",
    "Timing",
    "inspect",
    "parse",
    "parse_performance",
    "parse_score_or_performance",
    "read_text_events",
    "render",
    "to_pretty_midi",
]
