"""Accompaniment: the chord symbols of a tune as parts that are played, a bass and chords.

A pattern says where in a bar the bass and the chord are struck; `PATTERNS` lists them by name, and
"auto" chooses by the meter. All notes lie inside their bar and inside the span of their chord
symbol. Each span starts with the bass note of its chord and has every tone of the chord, however
short it is. Pickups are accompanied only from a chord symbol in them on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import Final, Literal

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.bars import Bar, find_bars, find_pickups
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import DEFAULT_VELOCITY, Mark, Note, Part, Score
from musicgen.music.theory import ChordSymbol, Meter

AUTO: Final = "auto"
NONE: Final = "none"
BASS_PART: Final = Part("Accompaniment bass", program=32, role="bass")
CHORD_PART: Final = Part("Accompaniment chords", program=25, role="chords")
LOWEST_BASS: Final = 40  # MIDI note number; the bass has the octave above it
LOWEST_TONE: Final = 52  # of the chords, which have the octave above it
SHORTEST_STROKE: Final = 24  # steps: an eighth, and half of it in arpeggios
BASS_LOUDNESS, CHORD_LOUDNESS = 0.7, 0.6  # velocities, relative to the melody's
_MAX_PARTS: Final = 2  # of a tune that "auto" accompanies
_ONSET: Final = attrgetter("onset")
_STEP: Final = attrgetter("step")

StrokeKind = Literal["bass", "chord", "tone"]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A place in a bar at which a pattern is struck."""

    step: int  # from the start of the bar
    kind: StrokeKind


def _list_pulses(meter: Meter) -> range:
    """Return the steps of the pulses of a bar: its beats, or halves of at most two plain beats."""
    is_compound = meter.beat_steps % 3 == 0 and meter.beat_steps > 192 // meter.unit
    is_short = meter.steps <= 2 * meter.beat_steps and meter.beat_steps % 2 == 0
    pulse = meter.beat_steps // 2 if is_short and not is_compound else meter.beat_steps
    return range(0, meter.steps, pulse)


def _boom_chick(meter: Meter) -> Iterator[Stroke]:
    """Bass and chord in turn; an odd last pulse is a chord."""
    pulses = _list_pulses(meter)
    for number, step in enumerate(pulses):
        is_last_of_odd = len(pulses) % 2 and len(pulses) > 1 and number == len(pulses) - 1
        yield Stroke(step, "chord" if number % 2 or is_last_of_odd else "bass")


def _waltz(meter: Meter) -> Iterator[Stroke]:
    """Bass on the first beat, chords on the others."""
    for step in range(0, meter.steps, meter.beat_steps):
        yield Stroke(step, "chord" if step else "bass")


def _jig(meter: Meter) -> Iterator[Stroke]:
    """Bass on each beat, and the chord on its last third; of plain beats, on the second half."""
    for beat in range(0, meter.steps, meter.beat_steps):
        yield Stroke(beat, "bass")
        part = meter.beat_steps * 2 // 3 if meter.beat_steps % 72 == 0 else meter.beat_steps // 2
        if beat + part < meter.steps:
            yield Stroke(beat + part, "chord")


def _arpeggio(meter: Meter) -> Iterator[Stroke]:
    """The tones of the chord one after the other, in eighths or faster, over a long bass note."""
    yield Stroke(0, "bass")
    step = min(meter.beat_steps // 3 if meter.beat_steps % 9 == 0 else meter.beat_steps // 2, 24)
    for start in range(0, meter.steps, max(step, SHORTEST_STROKE // 2)):
        yield Stroke(start, "tone")


PATTERNS: Final[Mapping[str, Callable[[Meter], Iterator[Stroke]]]] = {
    "boom-chick": _boom_chick,
    "jig": _jig,
    "waltz": _waltz,
    "arpeggio": _arpeggio,
}
ACCOMPANIMENTS: Final = (AUTO, NONE, *PATTERNS)


def choose_pattern(meter: Meter) -> str:
    """Return the name of the pattern that "auto" plays in a meter."""
    beats = meter.steps / meter.beat_steps
    if meter.beat_steps > 192 // meter.unit:  # compound
        return "jig"
    return "waltz" if beats == 3 else "boom-chick"


def accompany(score: Score, name: str = AUTO) -> Score:
    """Return a score with its chord symbols played by two further parts.

    Parts that were added before are replaced. "auto" leaves alone music without bars, and music of
    more than two parts or with parts that accompany.

    Args:
        score: as written, with repeats.
        name: one of ACCOMPANIMENTS; "none" only takes away what was added before.

    Raises:
        InvalidValue: the name is unknown.
    """
    if name not in ACCOMPANIMENTS:
        raise InvalidValue(f"accompaniment {name[:40]!r}: choose {', '.join(ACCOMPANIMENTS)}")
    base, _ = split_accompaniment(score)
    if name == NONE or is_performance(base) or (name == AUTO and not _needs_accompaniment(base)):
        return base
    notes = list(_iter_notes(base, name))
    if not notes:
        return base
    return replace(base, notes=(*base.notes, *notes), parts=(*base.parts, BASS_PART, CHORD_PART))


def split_accompaniment(score: Score) -> tuple[Score, Score | None]:
    """Return a score without the parts that `accompany` adds, and those parts; None without any."""
    numbers = range(len(score.parts))
    added = [number for number in numbers if is_accompaniment(score.parts[number])]
    if not added or len(added) == len(score.parts):
        return score, None
    others = [number for number in numbers if number not in added]
    return score.select_parts(others), score.select_parts(added)


def is_accompaniment(part: Part) -> bool:
    """Return whether `accompany` adds such a part."""
    return part.name in (BASS_PART.name, CHORD_PART.name)


def has_chord_symbols(score: Score) -> bool:
    """Return whether a score has a chord symbol that can be played."""
    return any(ChordSymbol.parse(mark.value) is not None for mark in score.of("chord"))


def _needs_accompaniment(score: Score) -> bool:
    has_rhythm_section = any(part.is_drums or part.role not in ("", "melody")
                             for part in score.parts)  # fmt: skip
    return len(score.parts) <= _MAX_PARTS and not has_rhythm_section


@dataclass(frozen=True, slots=True)
class _ChordSpan:
    """What a chord symbol sounds for in one bar."""

    chord: ChordSymbol
    start: int  # steps
    stop: int


def _iter_notes(score: Score, name: str) -> Iterator[Note]:
    """Yield the notes of the accompaniment; its parts follow those of the score."""
    bars = find_bars(score)
    velocity = _find_velocity(score)
    marks = tuple(score.of("chord"))
    for bar, offset in zip(bars, _list_offsets(bars), strict=True):
        meter = _lengthen(bar.meter)
        pattern = PATTERNS[choose_pattern(meter) if name == AUTO else name]
        strokes = _place_strokes(list(pattern(meter)), meter.steps, bar, offset)
        for span in _iter_spans(marks, bar, is_pickup=offset > 0):
            inside = _select_strokes(strokes, span)
            played = _play_span(span, inside, velocity, alternates=bar.end < score.end)
            yield from (replace(note, part=note.part + len(score.parts)) for note in played)


def _find_velocity(score: Score) -> int:
    velocities = score.columns[3]
    return int(np.median(velocities)) if velocities.size else DEFAULT_VELOCITY


def _list_offsets(bars: Sequence[Bar]) -> list[int]:
    """Return for each bar the steps of its full bar that are missing before it: of a pickup."""
    offsets: list[int] = []
    previous: Bar | None = None
    for bar, is_pickup in zip(bars, find_pickups(bars), strict=True):
        missing = bar.meter.steps - bar.steps
        completes = (
            previous is not None and previous.steps == missing and previous.meter == bar.meter
            and offsets[-1] == 0
        )  # fmt: skip
        offsets.append(missing if missing > 0 and (is_pickup or completes) else 0)
        previous = bar
    return offsets


def _iter_spans(marks: Sequence[Mark], bar: Bar, *, is_pickup: bool) -> Iterator[_ChordSpan]:
    """Yield the chords of a bar; a chord from before the bar does not sound in a pickup."""
    first = bisect_left(marks, bar.start, key=_ONSET)
    last = bisect_left(marks, bar.end, key=_ONSET)
    opening = () if is_pickup else marks[max(first - 1, 0) : first]
    changes = [(max(mark.onset, bar.start), mark.value) for mark in (*opening, *marks[first:last])]
    for (start, symbol), (stop, _) in pairwise([*changes, (bar.end, "")]):
        chord = ChordSymbol.parse(symbol)
        if chord is not None and start < stop:
            yield _ChordSpan(chord, start, stop)


def _lengthen(meter: Meter) -> Meter:
    """Return a meter of at least an eighth: bars of 1/64 are played several at a time."""
    times = -(-SHORTEST_STROKE // meter.steps)
    return Meter(meter.beats * times, meter.unit) if times > 1 else meter


def _place_strokes(strokes: Sequence[Stroke], length: int, bar: Bar, offset: int) -> list[Stroke]:
    """Return the strokes of a bar at steps of the tune; one longer than the pattern goes on.

    Args:
        strokes: of the pattern.
        length: of the pattern, in steps.
        bar: where it is played.
        offset: steps of the full bar that are missing before the bar.
    """
    cycles = 1 + (offset + bar.steps - 1) // length
    return [
        Stroke(bar.start - offset + cycle * length + stroke.step, stroke.kind)
        for cycle in range(cycles)
        for stroke in strokes
    ]


def _select_strokes(strokes: Sequence[Stroke], span: _ChordSpan) -> list[Stroke]:
    """Return the strokes of a span, with a bass at its start and all tones of its chord."""
    first, last = (bisect_left(strokes, step, key=_STEP) for step in (span.start, span.stop))
    inside = list(strokes[first:last])
    if Stroke(span.start, "bass") not in inside[:2]:
        inside.insert(0, Stroke(span.start, "bass"))
    kinds = [stroke.kind for stroke in inside]
    if "chord" not in kinds and kinds.count("tone") < len(_voice_chord(span.chord)):
        basses = [stroke for stroke in inside if stroke.kind == "bass"]
        inside = [basses[0], Stroke(span.start, "chord"), *basses[1:]]
    return inside


def _play_span(
    span: _ChordSpan, strokes: Sequence[Stroke], velocity: int, *, alternates: bool
) -> Iterator[Note]:
    """Yield the notes of a chord, in part 0 for the bass and 1 for the chords.

    Args:
        span: the chord and its place.
        strokes: of the pattern in this place.
        velocity: of the melody.
        alternates: whether each second bass note is the fifth; a tune ends on its root.
    """
    bass_velocity = max(1, round(velocity * BASS_LOUDNESS))
    chord_velocity = max(1, round(velocity * CHORD_LOUDNESS))
    voicing = _voice_chord(span.chord)
    tones = _choose_tones(voicing, sum(stroke.kind == "tone" for stroke in strokes))
    is_broken = any(stroke.kind == "tone" for stroke in strokes)
    bass_count = tone_count = 0
    for stroke in strokes:
        if stroke.kind == "bass":
            end = span.stop if is_broken else _next_step(strokes, stroke, span.stop)
            pitch = _bass_pitch(span.chord, is_fifth=alternates and bass_count % 2 == 1)
            yield Note(stroke.step, pitch, end - stroke.step, bass_velocity)
            bass_count += 1
            continue
        end = _next_step(strokes, stroke, span.stop)
        pitches = voicing if stroke.kind == "chord" else [tones[tone_count % len(tones)]]
        tone_count += stroke.kind == "tone"
        for pitch in pitches:
            yield Note(stroke.step, pitch, end - stroke.step, chord_velocity, 1)


def _choose_tones(voicing: list[int], stroke_count: int) -> list[int]:
    """Return the order of the tones of a broken chord: up and down where that comes out even."""
    up_and_down = [*voicing, *voicing[-2:0:-1]]
    return voicing if stroke_count % len(up_and_down) else up_and_down


def _next_step(strokes: Sequence[Stroke], stroke: Stroke, stop: int) -> int:
    """Return the step of the next stroke, or the stop."""
    index = bisect_right(strokes, stroke.step, key=_STEP)
    return strokes[index].step if index < len(strokes) else stop


def _bass_pitch(chord: ChordSymbol, *, is_fifth: bool) -> int:
    """Return the bass note: the root, its fifth, or the bass that the symbol names."""
    pitch_class = chord.tones[2] if is_fifth and chord.bass is None else chord.bass_class
    return LOWEST_BASS + (pitch_class - LOWEST_BASS) % 12


def _voice_chord(chord: ChordSymbol) -> list[int]:
    """Return the pitches of a chord in close position; one of five tones lacks its fifth."""
    tones = chord.tones if len(chord.tones) < 5 else (*chord.tones[:2], *chord.tones[3:])
    return sorted(LOWEST_TONE + (tone - LOWEST_TONE) % 12 for tone in tones)
