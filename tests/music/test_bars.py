from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.music.bars import count_heard_bars, find_bars
from musicgen.music.durations import (
    PLAIN_DURATIONS,
    SHORTEST_WRITABLE,
    TUPLETS,
    Tuplet,
    WrittenDuration,
    notate_segments,
    split_duration,
    to_steps,
)
from musicgen.music.score import Mark, Note, Score
from musicgen.music.theory import Meter
from musicgen.music.voices import separate_voices


def segment_ends(written: tuple[WrittenDuration, ...]) -> list[tuple[int, int]]:
    """Return (segment, sounding end in steps) of each written value."""
    step, group, ends = 0, None, []
    for piece in written:
        if piece.opened_tuplet:
            group = (piece.opened_tuplet, step, 0)
        if group is None:
            step += piece.nominal
        else:
            tuplet, start, nominal = group
            nominal += piece.nominal
            step = start + tuplet.to_sounding(nominal)
            group = None if piece.closes_tuplet else (tuplet, start, nominal)
        ends.append((piece.segment, step))
    return ends


def write_and_check(offsets: tuple[int, ...]) -> tuple[WrittenDuration, ...]:
    written = notate_segments(offsets)
    ends = dict(segment_ends(written))
    assert [ends[i] + offsets[0] for i in range(len(offsets) - 1)] == list(offsets[1:])
    assert all(piece.nominal in PLAIN_DURATIONS for piece in written)
    return written


@given(st.sets(st.integers(0, 288), min_size=2, max_size=14))
def test_written_durations_sound_as_their_segments(offsets: set[int]) -> None:
    first = min(offsets)
    write_and_check(tuple(sorted(offset - first for offset in offsets)))


def test_long_bar_off_the_grid_is_written_in_linear_time() -> None:
    """A mutant of a MIDI file had such bars, on which the search was quadratic."""
    write_and_check((5, 6, 20_000, 20_016, 40_001, 100_000))


@pytest.mark.parametrize(
    ("offsets", "tuplet", "count"),
    [
        ((0, 16, 32, 48, 96), Tuplet(3, 2, 24), 4),
        ((0, 8, 16, 24, 48), Tuplet(3, 2, 12), 4),
        ((0, 10, 19, 29, 38, 48), Tuplet(5, 4, 12), 5),
        ((0, 32, 48), Tuplet(3, 2, 24), 2),
    ],
)
def test_tuplets_are_found(offsets: tuple[int, ...], tuplet: Tuplet, count: int) -> None:
    written = write_and_check(offsets)
    assert [piece.opened_tuplet for piece in written if piece.opened_tuplet] == [tuplet]
    assert len(written) == count


def test_every_tuplet_is_found_where_all_its_units_sound() -> None:
    for tuplet in TUPLETS:
        offsets = tuple(tuplet.to_sounding(i * tuplet.unit) for i in range(tuplet.p + 1))
        write_and_check(offsets)


def test_split_duration_uses_fewest_values() -> None:
    assert split_duration(120) == (96, 24)
    assert split_duration(60) == (48, 12)
    assert split_duration(5) == (3, 2)
    assert sum(split_duration(10_000)) == 10_000


@given(st.integers(1, 3000))
def test_split_duration_keeps_the_sum_without_needless_remainders(steps: int) -> None:
    assert sum(split_duration(steps)) == steps
    assert steps % SHORTEST_WRITABLE or min(split_duration(steps)) >= SHORTEST_WRITABLE


def tune(lengths: list[int], *marks: Mark) -> Score:
    edges = [0]
    for length in lengths:
        edges.append(edges[-1] + length)
    notes = tuple(Note(a, 60, b - a) for a, b in pairwise(edges))
    lines = tuple(Mark(edge, "bar") for edge in edges[1:])
    return Score(notes, (Mark(0, "meter", Meter(6, 8)), *lines, *marks))


def kinds(score: Score) -> list[str]:
    return [bar.kind for bar in find_bars(score)]


def test_pickup_and_short_last_bar_count_as_one_bar() -> None:
    score = tune([24, 144, 144, 120])
    assert kinds(score) == ["partial", "full", "full", "partial"]
    assert count_heard_bars(score) == 3


def test_short_last_bar_without_matching_pickup_is_irregular() -> None:
    assert kinds(tune([24, 144, 96])) == ["partial", "full", "irregular"]
    assert kinds(tune([144, 96])) == ["full", "irregular"]


def test_short_bar_inside_is_irregular() -> None:
    assert kinds(tune([144, 24, 120, 144])) == ["full", "irregular", "irregular", "full"]


def test_repeat_completes_its_pickup_with_its_last_bar() -> None:
    score = tune([24, 144, 120, 144], Mark(0, "repeat_start"), Mark(288, "repeat_end", 2))
    assert kinds(score) == ["partial", "full", "irregular", "full"]  # the second pass ends short
    both = tune([24, 144, 120, 24, 144, 120], Mark(288, "repeat_end", 2),
                Mark(576, "repeat_end", 2))  # fmt: skip
    assert kinds(both) == ["partial", "full", "partial"] * 2
    assert count_heard_bars(both) == 8


def test_bar_too_long_is_irregular() -> None:
    assert kinds(tune([144, 168, 144])) == ["full", "irregular", "full"]


def test_voices_hold_nothing_that_overlaps() -> None:
    notes = [Note(0, 60, 96), Note(0, 64, 96), Note(48, 72, 48), Note(96, 60, 48)]
    found = separate_voices(notes)
    assert [[c.pitches for c in voice] for voice in found] == [[(64, 60), (60,)], [(72,)]]


@pytest.mark.parametrize(("ticks", "steps"), [(0, 0), (480, 48), (5, 1), (4, 0), (485, 49)])
def test_ticks_round_to_the_nearest_step(ticks: int, steps: int) -> None:
    assert to_steps(ticks, 480, 48) == steps


def voice_pitches(notes: list[Note]) -> list[list[int]]:
    return [[chord.pitches[0] for chord in voice] for voice in separate_voices(notes)]


def test_bass_goes_on_in_its_voice_while_the_melody_leaps() -> None:
    treble = [Note(0, 76, 24), Note(24, 79, 24), Note(48, 72, 48), Note(96, 74, 96)]
    bass = [Note(0, 48, 36), Note(36, 50, 60), Note(96, 47, 48), Note(144, 43, 48)]
    assert voice_pitches(treble + bass) == [[76, 79, 72, 74], [48, 50, 47, 43]]


def test_melody_returns_to_its_voice_after_a_rest() -> None:
    notes = [Note(0, 79, 48), Note(0, 55, 96), Note(96, 53, 48), Note(144, 52, 96),
             Note(168, 77, 72)]  # fmt: skip
    assert voice_pitches(notes) == [[79, 77], [55, 53, 52]]


def test_monophonic_part_is_one_voice_despite_leaps_and_rests() -> None:
    notes = [Note(30 * n, 30 + (37 * n) % 80, 24) for n in range(50)]
    assert len(separate_voices(notes)) == 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(40, 80), st.integers(1, 30)), max_size=60)
)
def test_voices_contain_all_notes_and_are_minimal(
    drawn: list[tuple[int, int, int]],
) -> None:
    notes = [Note(onset, pitch, duration) for onset, pitch, duration in set(drawn)]
    voices = separate_voices(notes)
    voiced_notes = [
        (c.onset, pitch, c.duration) for voice in voices for c in voice for pitch in c.pitches
    ]
    assert sorted(voiced_notes) == sorted((n.onset, n.pitch, n.duration) for n in notes)
    for voice in voices:
        assert all(before.end <= after.onset for before, after in pairwise(voice))
    sounding = ({(n.onset, n.duration) for n in notes if n.onset <= step < n.end}
                for step in range(100))  # fmt: skip
    assert len(voices) == max(map(len, sounding))
    assert separate_voices(reversed(notes)) == voices
