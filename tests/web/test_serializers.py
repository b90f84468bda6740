"""Downloads that would block a worker for long are refused."""

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


def make_performance(seconds: int) -> Score:
    """Return a performance of ten notes per second over the whole keyboard."""
    return Score(tuple(Note(10 * k, 24 + 7 * k % 73, 10) for k in range(10 * seconds)))


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    sampled = load(untrained(tmp_path / "model")).sample(seed=1, bars=2)
    return replace(sampled, model=load(untrained(tmp_path / "played", codec="performance")))


def test_png_of_a_long_performance_is_refused(tune: Tune) -> None:
    """The PNG of ten minutes took 18 seconds."""
    long = replace(tune, score=make_performance(300))
    assert count_pixels(long.score) > MAX_PNG_PIXELS
    with pytest.raises(
        InvalidValue, match="over 16 million pixels; choose svg, or use musicgen render"
    ):
        render_tune_file(long, "png")
    assert render_tune_file(long, "svg").startswith(b"<svg")


def test_png_of_a_short_performance(tune: Tune) -> None:
    short = replace(tune, score=make_performance(3))
    data = render_tune_file(short, "png")
    assert data == draw_pianoroll_png(short.score)
    width, height = (int.from_bytes(data[offset : offset + 4]) for offset in (16, 20))
    assert count_pixels(short.score) == pytest.approx(width * height, rel=0.01)
