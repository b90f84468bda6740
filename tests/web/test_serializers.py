"""What is handed out of a tune does not hold a worker for long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from musicgen import Tune, load
from musicgen.errors import InvalidValue
from musicgen.music.score import Note, Score
from musicgen.render.piano_roll import count_pixels, draw_pianoroll_png
from musicgen.web.serializers import MAX_PNG_PIXELS, render_tune_file
from tests.fake_models import untrained


def scattered(seconds: int) -> Score:
    """Return notes all over the keyboard, ten of them a second."""
    return Score(tuple(Note(10 * k, 24 + 7 * k % 73, 10) for k in range(10 * seconds)))


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    made = load(untrained(tmp_path / "model")).sample(seed=1, bars=2)
    return replace(made, model=load(untrained(tmp_path / "played", codec="performance")))


def test_the_png_of_a_long_performance_is_refused(tune: Tune) -> None:
    """That of ten minutes took 18 seconds."""
    long = replace(tune, score=scattered(300))
    assert count_pixels(long.score) > MAX_PNG_PIXELS
    with pytest.raises(InvalidValue, match="over 16 million pixels; take svg, or write it with"):
        render_tune_file(long, "png")
    assert render_tune_file(long, "svg").startswith(b"<svg")


def test_the_png_of_a_short_performance_is_handed_out(tune: Tune) -> None:
    short = replace(tune, score=scattered(3))
    data = render_tune_file(short, "png")
    assert data == draw_pianoroll_png(short.score)
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert count_pixels(short.score) == pytest.approx(width * height, rel=0.01)
