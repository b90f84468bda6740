"""Figures of performances, minute by minute."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.evaluation.live_figures import (
    LIVE_FIGURES,
    LiveCard,
    Minute,
    MinuteSet,
    compare_minutes,
    cut_minutes,
    measure_shares_inside,
)
from musicgen.music.milliseconds import PERFORMANCE_QPM
from musicgen.music.score import Mark, Note, Score

TEMPO = Mark(0, "tempo", PERFORMANCE_QPM)


def play(*notes: Note) -> Score:
    return Score(notes, (TEMPO,))


def improvise(seed: int, milliseconds: int, apart: int = 250) -> Score:
    rng = random.Random(seed)
    return play(
        *(
            Note(onset + rng.randrange(20), rng.randrange(40, 90), rng.randrange(100, 600),
                 rng.randrange(40, 90))
            for onset in range(0, milliseconds, apart)
        )
    )  # fmt: skip


def measure(minute: Minute) -> dict[str, float]:
    return {
        definition.key: ratio.part
        for definition, function in LIVE_FIGURES
        if (ratio := function(minute)) is not None
    }


def test_figures_of_a_known_minute() -> None:
    """A chord of three notes, a second of silence in between, and one note to the end."""
    notes = [Note(0, pitch, 2_000, 60) for pitch in (60, 64, 67)] + [Note(3_000, 72, 57_000, 80)]
    (minute,) = cut_minutes(play(*notes))
    figures = measure(minute)
    assert figures["notes_per_second"] == pytest.approx(4 / 60)
    assert figures["notes_per_strike"] == 2
    assert figures["polyphony"] == pytest.approx((3 * 2 + 57) / 59)
    assert figures["velocity"] == 65
    assert figures["dynamics"] == pytest.approx(np.std([60, 60, 60, 80]))
    assert (figures["lowest_pitch"], figures["highest_pitch"]) == (60, 72)
    assert figures["pitch_range"] == 12
    assert figures["note_length"] == 2
    assert figures["longest_silence"] == 1


def test_last_minute_counts_if_it_lasts_half_of_one() -> None:
    assert len(list(cut_minutes(improvise(1, 89_000)))) == 1
    assert len(list(cut_minutes(improvise(1, 95_000)))) == 2
    assert not list(cut_minutes(improvise(1, 20_000)))
    assert not list(cut_minutes(play()))


def test_silence_at_the_ends_of_a_minute_counts() -> None:
    notes = (Note(0, 60, 58_000), Note(62_500, 60, 58_000))
    silences = [measure(minute)["longest_silence"] for minute in cut_minutes(play(*notes))]
    assert silences == [2, 2.5]


@given(st.integers(0, 100))
def test_longest_silence_equals_a_search_through_each_step(seed: int) -> None:
    rng = random.Random(seed)
    notes = [Note(rng.randrange(58_000), 60, rng.randrange(1, 9_000)) for _ in range(12)]
    (minute, *_) = cut_minutes(play(Note(0, 60, 1), Note(59_999, 60, 1), *notes))
    is_silent = np.ones(minute.length + 1, bool)
    for onset, duration in zip(minute.notes[0].tolist(), minute.notes[2].tolist(), strict=True):
        is_silent[onset : onset + duration] = False
    is_silent[-1] = False
    edges = np.flatnonzero(~is_silent)
    longest = int(np.diff(np.append(-1, edges)).max()) - 1
    assert measure(minute)["longest_silence"] == pytest.approx(longest / 1_000)


def test_sampled_minutes_like_the_real_ones_are_inside() -> None:
    real = MinuteSet.of("real", [improvise(seed, 180_000) for seed in range(8)])
    alike = MinuteSet.of("sampled", [improvise(seed, 180_000) for seed in range(20, 24)])
    dense = MinuteSet.of("dense", [improvise(seed, 180_000, 100) for seed in range(20, 24)])
    verdicts = {figure.key: figure.verdict for figure in compare_minutes(alike, real)}
    assert verdicts["notes_per_second"] == verdicts["polyphony"] == "inside"
    denser = {figure.key: figure.verdict for figure in compare_minutes(dense, real)}
    assert denser["notes_per_second"].startswith("above by")
    assert measure_shares_inside(alike, real)["notes_per_second"] > 0.9
    assert measure_shares_inside(dense, real)["notes_per_second"] == 0
    assert min(measure_shares_inside(real, real).values()) >= 0.9


def test_card_without_held_out_performances_is_written_as_json() -> None:
    minutes = MinuteSet.of("real", [improvise(1, 300_000)])
    data = json.loads(json.dumps(LiveCard.of(minutes, minutes, None).to_json()))
    assert data["likelihood"] is None
    assert data["minutes"] == data["real"]["minutes"] == 5
    assert data["notes_per_second"]["verdict"] == "inside"
    silence = f"{minutes.longest_silence:.1f} s"
    words = f"longest silence of all minutes: {silence}, of the real ones {silence}"
    assert data["notes"] == [words]


def test_few_minutes_are_refused() -> None:
    with pytest.raises(InvalidValue, match="needs 4 minutes or more, not 1; name more"):
        MinuteSet.of("short", [improvise(1, 70_000)])
