"""Random scores, keys and meters for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from musicgen.music.score import Ending, Mark, Note, Part, Score
from musicgen.music.theory import MODES, Key, Meter

GRIDS = (1, 3, 6, 8, 12, 16, 24, 48)


def keys() -> st.SearchStrategy[Key]:
    return st.builds(Key.of, st.integers(0, 11), st.sampled_from(sorted(MODES)))


def meters() -> st.SearchStrategy[Meter]:
    return st.builds(Meter, st.integers(1, 12), st.sampled_from((2, 4, 8)))


@st.composite
def notes(draw: st.DrawFn, parts: int) -> Note:
    grid = draw(st.sampled_from(GRIDS))
    return Note(
        onset=draw(st.integers(0, 40)) * grid,
        pitch=draw(st.integers(30, 100)),
        duration=draw(st.integers(1, 20)) * grid,
        velocity=draw(st.integers(1, 127)),
        part=draw(st.integers(0, parts - 1)),
    )


@st.composite
def marks(draw: st.DrawFn) -> Mark:
    step = draw(st.integers(0, 40)) * draw(st.sampled_from((24, 48, 96)))
    match draw(st.sampled_from(("bar", "repeat_start", "repeat_end", "ending", "key", "meter",
                                "tempo", "chord"))):  # fmt: skip
        case "repeat_end":
            return Mark(step, "repeat_end", draw(st.integers(2, 4)))
        case "ending":
            passes = tuple(sorted(draw(st.sets(st.integers(1, 4), min_size=1, max_size=2))))
            return Mark(step, "ending", Ending(passes, step + 48 * draw(st.integers(1, 6))))
        case "key":
            return Mark(step, "key", draw(keys()))
        case "meter":
            return Mark(step, "meter", draw(meters()))
        case "tempo":
            return Mark(step, "tempo", float(draw(st.integers(40, 240))))
        case "chord":
            return Mark(step, "chord", draw(st.sampled_from(("Am", "F#7/C#", "N.C.", "Bbmaj7"))))
        case "repeat_start":
            return Mark(step, "repeat_start")
        case _:
            return Mark(step, "bar")


@st.composite
def scores(draw: st.DrawFn, most_parts: int = 3, *, drums: bool = True) -> Score:
    count = draw(st.integers(1, most_parts))
    parts = tuple(
        Part(f"part {i}", draw(st.integers(0, 127)), drums and draw(st.booleans()) and i > 0)
        for i in range(count)
    )
    return Score(
        notes=tuple(draw(st.lists(notes(count), max_size=40))),
        marks=tuple(draw(st.lists(marks(), max_size=16))),
        parts=parts,
        title=draw(st.sampled_from(("", "A tune", "Ó Briain's"))),
        rhythm=draw(st.sampled_from(("", "jig", "slipjig", "unheard of"))),
    )


@st.composite
def bands(draw: st.DrawFn, most_parts: int = 5) -> Score:
    """Draw music of a band: full bars with chords, held bass notes, rests, drums and repeats."""
    meter = draw(st.sampled_from((Meter(4, 4), Meter(3, 4), Meter(6, 8), Meter(2, 2))))
    count, bars = draw(st.integers(1, most_parts)), draw(st.integers(2, 6))
    drums = draw(st.integers(1, 5))
    parts = tuple(
        Part(f"part {i}", draw(st.integers(0, 127)), is_drums=i == drums) for i in range(count)
    )
    band_notes = [
        note
        for part in range(count)
        for bar in range(bars)
        for note in draw(_bar_of_notes(bar * meter.steps, meter.steps, part))
    ]
    marks = [Mark(0, "key", draw(keys())), Mark(0, "meter", meter), Mark(0, "tempo", 90.0)]
    marks += [Mark(bar * meter.steps, "bar") for bar in range(1, bars + 1)]
    if draw(st.booleans()):
        marks.append(Mark(draw(st.integers(1, bars)) * meter.steps, "repeat_end", 2))
    if draw(st.booleans()):
        marks.append(Mark(0, "chord", draw(st.sampled_from(("Am", "G7", "F#m", "N.C.")))))
    band_notes.append(Note(0, 60, meter.steps))
    return Score(tuple(band_notes), tuple(marks), parts, draw(st.sampled_from(("", "A band"))))


@st.composite
def _bar_of_notes(draw: st.DrawFn, start: int, steps: int, part: int) -> list[Note]:
    notes: list[Note] = []
    onset = 0
    velocity = 60 + part
    if draw(st.booleans()):
        notes.append(Note(start, draw(st.integers(36, 50)), steps, velocity, part))
    while onset < steps:
        length = min(draw(st.sampled_from((12, 16, 24, 36, 48, 72, 96))), steps - onset)
        pitches = draw(st.sets(st.integers(51, 90), max_size=3))
        notes += [Note(start + onset, pitch, length, velocity, part) for pitch in sorted(pitches)]
        onset += length
    return notes
