"""What is heard, and when."""

from __future__ import annotations

import io

import pretty_midi
import pytest
from hypothesis import given

from musicgen import formats
from musicgen.music.bars import find_bars
from musicgen.music.score import STEPS_PER_QUARTER, Mark, Note, Score, iter_passages
from musicgen.render.timeline import SoundingNote, bar_timeline, duration, timeline
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
    plain = score.unfolded()
    assert [one[2:] for one in heard] == [(n.pitch, n.velocity, n.part) for n in plain.notes]
    assert [one[0] for one in heard] == pytest.approx(
        step_times(plain, [n.onset for n in plain.notes])
    )
    ends = [start + length for start, length, *_ in heard]
    assert ends == pytest.approx(step_times(plain, [n.end for n in plain.notes]))
    steps = sum(stop - start for start, stop in iter_passages(score))
    assert duration(score) == pytest.approx(step_times(plain, [steps])[0])


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
    for ours, theirs in zip(heard, notes, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def step_times(score: Score, steps: list[int]) -> list[float]:
    """Add up the time to each step, one step at a time."""
    tempos = {mark.onset: mark.value for mark in score.of("tempo")}
    passed, qpm = [0.0], 120.0
    for step in range(max(steps, default=0)):
        qpm = tempos.get(step, qpm)
        passed.append(passed[-1] + 60 / qpm / STEPS_PER_QUARTER)
    return [passed[step] for step in steps]
