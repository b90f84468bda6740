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
