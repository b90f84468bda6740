"""Times of the notes and bars as heard."""

from __future__ import annotations

import io

import pretty_midi
import pytest
from hypothesis import given

from musicgen import formats
from musicgen.music.bars import find_bars
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Note, Score, iter_passages
from musicgen.music.theory import Meter
from musicgen.render.timeline import (
    SoundingNote,
    bar_timeline,
    count_in_steps,
    duration,
    timeline,
)
from tests.strategies import scores

JIG = """X:1
T:A jig
M:6/8
L:1/8
Q:3/8=60
K:D
d|:ABA DED|1 FGF E2d:|2 FGF D3||[Q:3/8=120] ABA DED|A3- A3|]
"""


def parse_abc(text: str) -> Score:
    return formats.parse(text.encode(), ".abc")[0][0]


def test_repeats_and_endings_are_unfolded() -> None:
    heard = [bar for _, _, bar in bar_timeline(parse_abc(JIG))]
    assert heard == [0, 1, 2, 1, 3, 4, 5]


def test_pickup_is_a_bar_that_starts_at_0() -> None:
    first, second, *_ = bar_timeline(parse_abc(JIG))
    assert (first[2], second[2]) == (0, 1)
    assert [*first[:2], *second[:2]] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3 + 2])


def test_tempo_mark_is_applied() -> None:
    lengths = {bar: end - start for start, end, bar in bar_timeline(parse_abc(JIG))}
    assert lengths[1] == pytest.approx(2)
    assert lengths[4] == lengths[5] == pytest.approx(1)
    assert duration(parse_abc(JIG)) == pytest.approx(1 / 3 + 2 + 2 + 2 + 2 + 1 + 1)


def test_tied_note_sounds_once() -> None:
    last = timeline(parse_abc(JIG))[-1]
    assert last.length == pytest.approx(1)
    assert last.bar == 5


def test_sound_refers_to_its_written_note_and_bar() -> None:
    score = parse_abc(JIG)
    sounds = timeline(score)
    for sound in sounds:
        note, bar = score.notes[sound.note], find_bars(score)[sound.bar]
        assert (sound.pitch, sound.velocity, sound.part) == (note.pitch, note.velocity, note.part)
        assert bar.start <= note.onset < bar.end
    twice = [sound.start for sound in sounds if sound.bar == 1 and sound.note == 1]
    assert twice == pytest.approx([1 / 3, 1 / 3 + 4])


def test_note_held_across_a_jump_is_split() -> None:
    score = Score(
        (Note(0, 60, 192),), (Mark(96, "repeat_start"), Mark(192, "repeat_end", 2)), title="held"
    )
    assert timeline(score) == (
        SoundingNote(0.0, 1.0, 60, 80, 0, 0, 0),
        SoundingNote(1.0, 1.0, 60, 80, 0, 0, 1),
        SoundingNote(2.0, 1.0, 60, 80, 0, 0, 1),
    )


def test_empty_score() -> None:
    assert timeline(Score()) == ()
    assert bar_timeline(Score()) == ()
    assert duration(Score()) == 0


@given(scores())
def test_timeline_equals_the_unfolded_score(score: Score) -> None:
    heard = [(s.start, s.length, s.pitch, s.velocity, s.part) for s in timeline(score)]
    unfolded = score.unfolded()
    assert [sound[2:] for sound in heard] == [(n.pitch, n.velocity, n.part) for n in unfolded.notes]
    assert [sound[0] for sound in heard] == pytest.approx(
        step_times(unfolded, [n.onset for n in unfolded.notes])
    )
    ends = [start + length for start, length, *_ in heard]
    assert ends == pytest.approx(step_times(unfolded, [n.end for n in unfolded.notes]))
    steps = sum(stop - start for start, stop in iter_passages(score))
    assert duration(score) == pytest.approx(step_times(unfolded, [steps])[0])


@given(scores())
def test_bars_have_no_gaps(score: Score) -> None:
    now = 0.0
    for start, end, bar in bar_timeline(score):
        assert start == pytest.approx(now)
        assert end > start
        assert 0 <= bar < len(find_bars(score))
        now = end
    assert now == pytest.approx(duration(score))


@pytest.mark.parametrize("tempo", [40.0, 120.0, 171.0])
def test_timeline_agrees_with_pretty_midi(tempo: float) -> None:
    score = parse_abc(JIG.replace("3/8=60", f"1/4={tempo:g}"))
    file = pretty_midi.PrettyMIDI(io.BytesIO(formats.midi.render(score)))
    notes = sorted((n.start, n.pitch, n.end) for part in file.instruments for n in part.notes)
    heard = [(s.start, s.pitch, s.start + s.length) for s in timeline(score)]
    assert [pitch for _, pitch, _ in heard] == [pitch for _, pitch, _ in notes]
    for sound, note in zip(heard, notes, strict=True):
        assert sound == pytest.approx(note, abs=1e-4)


@pytest.mark.parametrize(
    ("meter", "pickup_steps", "clicks", "length"),
    [
        (Meter(4, 4), 0, 4, 192),
        (Meter(3, 4), 0, 3, 144),
        (Meter(6, 8), 0, 4, 288),  # two bars, since one has two beats
        (Meter(2, 2), 0, 4, 384),
        (Meter(3, 8), 24, 5, 120),  # a bar, and the two beats that complete the pickup
        (Meter(4, 4), 24, 8, 360),  # a pickup on the half beat starts between two clicks
    ],
)
def test_count_in_clicks_bars_and_completes_the_pickup(
    meter: Meter, pickup_steps: int, clicks: int, length: int
) -> None:
    steps = count_in_steps(meter, pickup_steps=pickup_steps)
    assert (len(steps), steps.start, steps.stop) == (clicks, 0, length)


def step_times(score: Score, steps: list[int]) -> list[float]:
    """Return the time of each step, added up one step at a time."""
    tempos = {mark.onset: mark.value for mark in score.of("tempo")}
    times, qpm = [0.0], 120.0
    for step in range(max(steps, default=0)):
        qpm = tempos.get(step, qpm)
        times.append(times[-1] + 60 / qpm / STEPS_PER_QUARTER)
    return [times[step] for step in steps]
