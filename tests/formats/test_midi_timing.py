"""Played MIDI files: offset, drift, swing, articulation and doubled parts of known size."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mido
import numpy as np
import pytest

from musicgen.formats.midi import Inspection, inspect, parse, parse_performance, render
from musicgen.formats.midi.note_ends import infer_ends
from musicgen.formats.midi.quantise import BeatGrids
from musicgen.formats.midi.tempo_map import average_tempos
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.swing import Swing
from musicgen.music.theory import Meter
from musicgen.render.timeline import timeline
from tests.formats.test_midi import mido_file, off, on

TICKS_PER_STEP = 20  # at 960 ticks per quarter
Clock = Callable[[float, int], float]  # when a step of a part is played, in steps


def make_song(bars: int = 24) -> list[Note]:
    """Make a melody in eighths and sixteenths over long chords, which start bars."""
    rng = random.Random(5)
    notes = []
    for bar in range(bars):
        at = 0
        while at < 192:
            length = rng.choice((12, 12, 24, 24, 24, 48))
            length = min(length, 24 - at % 24) if at % 24 else length
            notes.append(Note(192 * bar + at, 67 + rng.randrange(12), min(length, 192 - at)))
            at += length
        notes += [Note(192 * bar, pitch, 192, part=1) for pitch in (48, 52 + bar % 3, 55)]
    return notes


SONG = make_song()
PARTS = ("Lead", "Keys")


def play(
    notes: Sequence[Note],
    clock: Clock,
    *,
    spread: float = 0.3,
    held: Callable[[Note], float] = lambda note: note.duration,
    meter: tuple[int, int] = (4, 4),
    channels: Sequence[int] = (0, 1, 2, 3),
    programs: Sequence[int] = (0, 0, 0, 0),
) -> bytes:
    """Render a performance: each note when the clock says so, with normal errors of `spread`."""
    rng = random.Random(3)
    tracks: list[list[Any]] = [
        [mido.MetaMessage("time_signature", numerator=meter[0], denominator=meter[1])]
    ]
    for part in sorted({note.part for note in notes}):
        channel = channels[part]
        events = []
        for note in (n for n in notes if n.part == part):
            start = clock(note.onset, part) + rng.gauss(0, spread)
            stop = max(start + 1, clock(note.onset + held(note), part))
            events.append((round(start * TICKS_PER_STEP), 1, on(note.pitch, channel=channel)))
            events.append((round(stop * TICKS_PER_STEP), 0, off(note.pitch, channel=channel)))
        track: list[Any] = [mido.Message("program_change", channel=channel, program=programs[part])]
        tick = 0
        for at, _, message in sorted(events, key=lambda event: event[:2]):
            track.append(message.copy(time=at - tick))
            tick = at
        tracks.append(track)
    return mido_file(*tracks, ticks=48 * TICKS_PER_STEP)


def note_rows(notes: Sequence[Note]) -> list[tuple[int, int, int, int]]:
    return sorted((n.part, n.onset, n.pitch, n.duration) for n in notes)


def read(data: bytes) -> tuple[Score, Inspection]:
    inspection = inspect(data)
    assert inspection.refusals == ()
    return inspection.scores[0], inspection


def shift_bars(notes: Sequence[Note], steps: int) -> list[Note]:
    return [replace(note, onset=note.onset + steps) for note in notes]


# Offset


@pytest.mark.parametrize("offset", [-3.3, 1.7, 4.0, 8.25, -7.5, 13.0, 22.0, -18.5])
def test_constant_offset_is_recovered_and_every_note_is_in_place(offset: float) -> None:
    data = play(shift_bars(SONG, 192), lambda step, _: step + offset)
    score, inspection = read(data)
    (record,) = inspection.records
    assert record.timing.offset == pytest.approx(offset, abs=0.3)
    moved = {
        row[1] - note[1] for row, note in zip(note_rows(score.notes), note_rows(SONG), strict=True)
    }
    assert moved in ({0}, {192})
    first = min(note.onset for note in score.notes)
    assert note_rows(shift_bars(list(score.notes), -first)) == note_rows(SONG)
    assert record.far_onsets == 0


def test_late_part_is_recovered() -> None:
    score, inspection = read(play(SONG, lambda step, part: step + 30 + 3.5 * (part == 0) - 24))
    (timing,) = (record.timing for record in inspection.records)
    lateness = timing.part_offsets.get(0, 0.0) - timing.part_offsets.get(1, 0.0)
    assert lateness == pytest.approx(3.5, abs=0.5)
    assert note_rows(score.notes) == note_rows(SONG)


def test_offset_that_changes_inside_the_file_is_followed() -> None:
    score, inspection = read(play(SONG, lambda step, _: step + (2 if step < 12 * 192 else 6)))
    drifts = inspection.records[0].timing.drifts
    assert max(drifts) - min(drifts) == pytest.approx(4, abs=0.3)
    assert note_rows(score.notes) == note_rows(SONG)


def test_bars_that_are_only_beats_get_a_meter_and_a_first_beat() -> None:
    late = shift_bars(SONG, 48)
    score, _ = read(play(late, lambda step, _: step + 1.3, meter=(1, 4)))
    assert score.meter == Meter(4, 4)
    assert {note.onset % 192 for note in score.notes if note.part == 1} == {0}
    assert note_rows(
        shift_bars(list(score.notes), -min(n.onset for n in score.notes))
    ) == note_rows(SONG)


def test_notes_that_follow_the_ticks_keep_their_bars() -> None:
    melody = shift_bars([note for note in SONG if note.part == 0], 48)
    score, inspection = read(play(melody, lambda step, _: step - 1.3))
    assert inspection.records[0].timing.added_steps == 0
    assert [n.onset for n in score.notes] == [n.onset for n in melody]


# Swing


@pytest.mark.parametrize(
    ("ratio", "unit"), [(0.58, 24), (0.62, 24), (0.667, 24), (0.7, 24), (0.6, 12)]
)
def test_swing_is_straightened_and_kept(ratio: float, unit: int) -> None:
    swing = Swing(ratio, unit)
    notes = [n for n in SONG if unit == 12 or n.part == 1 or n.onset % 24 == 0]
    score, _ = read(play(notes, lambda step, _: float(swing.to_played(np.array([step]))[0]) + 2))
    assert score.swing is not None
    assert score.swing.unit == unit
    assert score.swing.ratio == pytest.approx(ratio, abs=0.015)
    assert [row[:3] for row in note_rows(score.notes)] == [row[:3] for row in note_rows(notes)]


def test_triplets_are_not_swing() -> None:
    notes = [Note(16 * n, 60 + n % 12, 16) for n in range(300)]
    score, inspection = read(play(notes, lambda step, _: step + 1))
    assert score.swing is None
    assert inspection.grids[0].name == "triplet"
    assert note_rows(score.notes) == note_rows(notes)


SWUNG = Score(
    tuple(Note(24 * n, 60 + n % 5, 24 if n % 3 else 12) for n in range(16)),
    (Mark(0, "tempo", 60.0), Mark(24, "bar"), Mark(216, "bar"), Mark(408, "bar")),
    swing=Swing(0.62),
)


def test_swing_round_trips_through_midi() -> None:
    unfolded = SWUNG.unfolded()
    assert parse(render(SWUNG))[0][0].notes == unfolded.notes
    assert parse(render(SWUNG))[0][0].swing == SWUNG.swing


@pytest.mark.parametrize("ratio", [0.5, 0.5312, 0.6667, 0.75])
@pytest.mark.parametrize("unit", [12, 24])
def test_every_step_of_a_swung_score_round_trips(ratio: float, unit: int) -> None:
    notes = tuple(Note(n, n % 128, 1 + n % 7) for n in range(500))
    score = Score(notes, (Mark(36, "bar"), Mark(228, "bar")), swing=Swing(ratio, unit))
    assert parse(render(score))[0][0].notes == notes


def test_swing_is_heard_in_sound_and_in_performances() -> None:
    starts = [note.start for note in timeline(SWUNG)]
    assert starts[1] - starts[0] == pytest.approx(0.38, abs=1e-6)  # the pickup is a short note
    assert starts[2] - starts[1] == pytest.approx(0.62, abs=1e-6)
    performance = to_performance(SWUNG)
    assert [1000 * start for start in starts] == pytest.approx(
        [note.onset for note in performance.notes], abs=2
    )
    assert note_rows(parse_performance(render(SWUNG))[0][0].notes) == note_rows(performance.notes)


def test_malformed_swing_text_is_ignored() -> None:
    data = render(SWUNG).replace(b"swing 0.6200 24", b"swing 0.9900 24")
    assert parse(data)[0][0].swing is None


# Articulation

ARTICULATIONS: dict[str, Callable[[Note], float]] = {
    "staccato": lambda note: max(4.0, 0.55 * note.duration),
    "short": lambda note: note.duration - 3,
    "legato": lambda note: note.duration + 1.5,
    "over-legato": lambda note: note.duration * 1.1,
}


@pytest.mark.parametrize("name", ARTICULATIONS)
def test_articulated_notes_have_their_written_durations(name: str) -> None:
    melody = [note for note in SONG if note.part == 0]
    score, inspection = read(play(melody, lambda step, _: step + 3.1, held=ARTICULATIONS[name]))
    assert note_rows(score.notes)[:-1] == note_rows(melody)[:-1]
    assert inspection.records[0].moved_ends > 0


@pytest.mark.parametrize(
    ("held", "written"),
    [(10, 24), (22, 24), (26, 24)],
)
def test_eighth_held_for_some_steps_is_an_eighth(held: float, written: int) -> None:
    starts = np.array([0, 24])
    ends = infer_ends(starts, np.array([held, 48.0]), np.array([12, 48]), np.array([12, 12]))
    assert ends.tolist() == [written, 48]


def test_rest_that_is_as_long_as_its_note_stays_a_rest() -> None:
    starts = np.array([0, 192])
    ends = infer_ends(starts, np.array([90.0, 240.0]), np.array([96, 240]), np.array([24, 24]))
    assert ends.tolist() == [96, 240]


def test_drum_hits_last_until_the_next_hit_of_their_beat() -> None:
    hits = [Note(12 * n, 36 + n % 2, 12) for n in range(64) if n % 4 != 3]
    score, inspection = read(
        play(hits, lambda step, _: step - 1.1 + 48, held=lambda _: 0.5, channels=(9,))
    )
    assert {(n.onset % 48, n.duration) for n in score.notes} == {(0, 12), (12, 12), (24, 24)}
    assert inspection.records[0].hits == len(hits)


def test_repeated_pitch_on_a_fine_grid_stays_two_notes() -> None:
    roll = [Note(6 * n, 60, 6) for n in range(8)]
    notes = [*roll, *(replace(note, onset=note.onset + 192) for note in SONG if note.part == 0)]
    score, inspection = read(play(notes, lambda step, _: step + 2.2, spread=0.1))
    assert len(score.notes) == len(notes)
    assert len({(n.onset, n.pitch) for n in score.notes}) == len(notes)
    assert inspection.records[0].merged_notes == 0


# Doubled parts and counts


def doubled(programs: tuple[int, int]) -> tuple[Score, Inspection]:
    melody = [note for note in SONG if note.part == 0]
    notes = [*melody, *(replace(note, part=1) for note in melody)]
    return read(play(notes, lambda step, _: step + 2.7, spread=0.0, programs=programs))


def test_doubled_track_is_left_out_and_counted() -> None:
    score, inspection = doubled((5, 5))
    (record,) = inspection.records
    assert len(score.parts) == 1
    assert record.dropped_notes == len(score.notes) == record.notes - len(score.notes)
    assert (inspection.repairs or {})["doubled-part"] == record.dropped_notes


def test_track_doubled_by_another_instrument_is_kept_and_counted() -> None:
    score, inspection = doubled((5, 40))
    (record,) = inspection.records
    assert len(score.parts) == 2
    assert (record.dropped_notes, dict(record.doubled_parts)) == (0, {1: 0})


def test_doubled_part_of_a_written_file_is_kept() -> None:
    notes = [replace(note, part=part) for note in SONG if note.part == 0 for part in (0, 1)]
    score = Score(tuple(notes), (Mark(192, "bar"),), (Part("a"), Part("b")))
    assert len(parse(render(score))[0][0].notes) == len(notes)


def test_record_describes_what_was_taken_out() -> None:
    _, inspection = read(play(SONG, lambda step, _: step + 1.5))
    assert list(inspection.records[0].describe_timing()) == ["notes are 1.5 steps late"]


# Grids and tempos


def test_each_beat_gets_the_grid_of_the_shortest_description() -> None:
    sixteenths = [48.0 * beat + 12 * n + 0.4 for beat in range(20) for n in range(4)]
    triplets = [48.0 * beat + 16 * n - 0.4 for beat in range(20, 24) for n in range(3)]
    grids = BeatGrids.choose(np.array(sixteenths + triplets))
    assert set(grids.find_units(np.array(sixteenths)).tolist()) == {12}
    assert set(grids.find_units(np.array(triplets)).tolist()) == {16}


def test_one_note_off_the_grid_does_not_change_the_grid_of_its_beat() -> None:
    onsets = np.array([48.0 * beat + 12 * n for beat in range(20) for n in range(4)])
    onsets[5] += 3.0
    assert BeatGrids.choose(onsets).snap(onsets).tolist() == [12 * n for n in range(80)]


def test_tempos_of_a_played_file_are_averaged_over_bars() -> None:
    tempos = [(0, 120.0), (96, 60.0), (192, 90.0), (240, 91.0)]
    # bar 1 lasts 1 + 2 seconds for 4 quarter notes: 80; the changes of bar 2 are under 3 %
    assert average_tempos(tempos, [192, 384]) == [(0, 80.0), (192, 90.7)]


def test_tempos_after_the_last_bar_are_left_out() -> None:
    assert average_tempos([(0, 100.0), (900, 50.0)], [192, 384]) == [(0, 100.0)]
