"""Judges the end of a tune by its notes and bar lines alone, without asking the grammar."""

from __future__ import annotations

from collections.abc import Sequence

from musicgen.music.bars import find_bars
from musicgen.music.score import Score
from musicgen.music.theory import Meter
from musicgen.tokens.bar_split import BarSplit, split_by_voice
from musicgen.tokens.codec import Setting
from musicgen.tokens.measures import MeasuresCodec
from musicgen.tokens.vocabulary import MEASURES


def ends_with_cadence(score: Score) -> bool:
    """Tell whether the last tonic starts on a beat of the last bar and lasts to its end.

    The first part has a single voice; of a chord the highest note counts.
    """
    bars = find_bars(score)
    start, end = bars[-1].start, bars[-1].end
    pickup = bars[0].steps if bars[0].kind == "partial" else 0
    melody: dict[int, tuple[int, int]] = {}
    for note in score.notes:
        if note.part == 0 and note.onset >= start:
            melody[note.onset] = max(melody.get(note.onset, (0, 0)), (note.pitch, note.duration))
    onsets: list[int] = []  # of the tonics at the end, the last first
    for onset in sorted(melody, reverse=True):
        pitch, duration = melody[onset]
        if onset + duration != (onsets[-1] if onsets else end):
            break
        if (pitch - score.key.pitch_class) % 12:
            break
        onsets.append(onset)
    beat = beat_length(score.meter)
    return any((at - start) % beat == 0 and end - at >= beat - pickup for at in onsets)


def beat_length(meter: Meter) -> int:
    """Return the steps of a beat: three units in 6/8, 9/8, 12/8 and such, else one."""
    is_compound = meter.unit in (8, 16, 32, 64) and meter.beats in range(6, 65, 3)
    return (3 if is_compound else 1) * 192 // meter.unit


def decode_first_voice(ids: Sequence[int]) -> Score:
    """Decode the first voice of a tune in C."""
    split = BarSplit.of(ids)
    melody = [*split.header[:3], MEASURES.id("parts", 1)]
    for bar in split.bars:
        melody += [*bar.opening, *split_by_voice(bar.content)[0, 0]]
    decoded = MeasuresCodec().decode([*melody, *split.closing], Setting())
    assert decoded.dropped == 0
    return decoded.score
