"""What real MIDI files do: repairs that are counted, grids that are chosen, bars that lack."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import mido
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musicgen import formats
from musicgen.formats.midi import REPAIRS, Inspection, inspect, parse, parse_performance, render
from musicgen.formats.midi.parser import key_of_signature
from musicgen.music.performance import to_performance
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.tokens.codec import Decoded
from musicgen.tokens.measures import MeasuresCodec
from tests.formats.test_midi import END, NOTE, file_of, h, off, on, raw
from tests.strategies import scores

CODEC = MeasuresCodec()


def rows(score: Score) -> list[tuple[int, int, int]]:
    return [(note.onset, note.pitch, note.duration) for note in score.notes]


def only(found: Inspection) -> Score:
    (score,) = found.scores
    return score


def meter(beats: int, time: int = 0, unit: int = 4) -> Any:
    return mido.MetaMessage("time_signature", numerator=beats, denominator=unit, time=time)


# Repairs

REPAIRED = {
    "hanging-note": (raw(h("00 90 3c 40  83 60 90 3e 40  83 60 80 3e 00") + END), [(0, 60, 96),
                                                                                  (48, 62, 48)]),
    "zero-length": (raw(h("00 90 3c 40  00 80 3c 00") + NOTE + END), [(0, 60, 48)]),
    "stray-off": (raw(h("00 80 3e 00") + NOTE + END), [(0, 60, 48)]),
    "overlap": (raw(h("00 90 3c 40  83 60 90 3c 40  83 60 80 3c 00  83 60 80 3c 00") + END),
                [(0, 60, 96), (48, 60, 96)]),
    "no-track-end": (raw(NOTE), [(0, 60, 48)]),
    "missing-track": (raw(NOTE + END).replace(b"\0\1\0\1", b"\0\1\xff\xff"), [(0, 60, 48)]),
    "extra-track": (raw(NOTE + END, END).replace(b"\0\1\0\2", b"\0\1\0\1"), [(0, 60, 48)]),
    "odd-meter": (raw(h("00 ff 58 04 63 02 18 08") + NOTE + END), [(0, 60, 48)]),
    "odd-tempo": (raw(h("00 ff 51 03 00 00 00") + NOTE + END), [(0, 60, 48)]),
    "odd-key": (raw(h("00 ff 59 02 09 00") + NOTE + END), [(0, 60, 48)]),
    "tail": (raw(NOTE + END) + b"\0\0\0", [(0, 60, 48)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_repair_is_counted_once_and_the_notes_are_whole(kind: str) -> None:
    data, expected = REPAIRED[kind]
    found = inspect(data)
    assert found.repairs == {kind: 65_534 if kind == "missing-track" else 1}
    assert rows(only(found)) == expected
    assert kind in REPAIRS


def test_a_grace_note_that_ends_before_it_starts_shifts_no_later_note() -> None:
    later = [on(69, 480), off(69, 480)] * 3
    data = file_of([on(72), off(72, 480), off(69), on(69), on(74), off(74, 480), *later])
    found = inspect(data)
    assert found.repairs == {"stray-off": 1, "zero-length": 1}
    assert [row for row in rows(only(found)) if row[1] == 69] == [
        (144, 69, 48), (240, 69, 48), (336, 69, 48)
    ]  # fmt: skip


def test_what_is_not_a_grace_note_keeps_its_end() -> None:
    found = inspect(file_of([off(69), on(69), off(69, 480), on(69), off(69, 480)]))
    assert rows(only(found)) == [(0, 69, 48), (48, 69, 48)]


def test_a_file_of_ours_needs_no_repair() -> None:
    data = render(Score((Note(0, 60, 48), Note(48, 60, 24)), (Mark(0, "key", Key("C")),)))
    assert inspect(data).repairs == {}


# Format 2, film frames, meters, keys


def test_the_tracks_of_format_2_are_tunes_of_their_own() -> None:
    names = [mido.MetaMessage("track_name", name=name) for name in ("One", "Two")]
    data = file_of([names[0], on(60), off(60, 480)], [names[1], on(64), off(64, 960)], [], kind=2)
    one, two = parse(data)[0]
    assert (one.title, rows(one)) == ("One", [(0, 60, 48)])
    assert (two.title, rows(two)) == ("Two", [(0, 64, 96)])


@pytest.mark.parametrize("division", ["e7 28", "e2 50", "e8 64"])  # 25, 30 and 24 frames a second
def test_film_frames_become_quarters_by_the_tempo(division: str) -> None:
    frames, ticks = (256 - h(division)[0]), h(division)[1]
    half = (frames * ticks // 2).to_bytes(2, "big")  # half a second: a quarter at 120
    delta = bytes([half[0] << 1 | half[1] >> 7 | 0x80, half[1] & 0x7F])
    data = raw(h("00 90 3c 40") + delta + h("80 3c 00 00 90 3e 40") + delta + h("80 3e 00") + END,
               division=h(division))  # fmt: skip
    ((score,), refusals) = parse(data)
    assert refusals == ()
    assert rows(score) == [(0, 60, 48), (48, 62, 48)]
    assert rows(parse_performance(data)[0][0]) == [(0, 60, 500), (500, 62, 500)]


def test_a_first_meter_of_a_pickups_length_makes_a_pickup() -> None:
    notes = [m for n in range(9) for m in (on(60 + n), off(60 + n, 480))]
    score = only(inspect(file_of([meter(1), meter(4, 480)], notes)))
    assert [(m.onset, m.value) for m in score.of("meter")] == [(0, Meter(4, 4))]
    assert [m.onset for m in score.of("bar")] == [48, 240, 432]


def test_our_own_short_first_meter_stays_a_meter() -> None:
    marks = (Mark(0, "meter", Meter(1, 4)), Mark(48, "meter", Meter(4, 4)), Mark(48, "bar"),
             Mark(240, "bar"))  # fmt: skip
    score = Score((Note(0, 60, 48), Note(48, 62, 192)), marks)
    assert parse(render(score))[0] == (score,)


def test_the_same_meter_again_ends_the_bar() -> None:
    notes = [m for n in range(6) for m in (on(60 + n), off(60 + n, 480))]
    score = only(inspect(file_of([meter(4), meter(4, 960)], notes)))
    assert [m.onset for m in score.of("bar")] == [96, 288]
    assert len(list(score.of("meter"))) == 1


def test_a_key_is_found_where_none_is_given_and_only_there() -> None:
    scale = [m for p in (62, 64, 66, 67, 69, 71, 73, 74) for m in (on(p), off(p, 480))]
    assert only(inspect(file_of([*scale]))).key == Key("D", "major")
    given = mido.MetaMessage("key_signature", key="C")
    assert only(inspect(file_of([given, *scale]))).key == Key("C", "major")
    silent = Score((Note(0, 62, 48), Note(48, 69, 48)))
    assert list(parse(render(silent))[0][0].of("key")) == []


# Grids

REEL = tuple(Note(24 * n + 12 * (n % 5 == 0), 60 + (7 * n) % 19, 24) for n in range(120))
JIG = tuple(Note(16 * n, 60 + (5 * n) % 17, 16) for n in range(120))


def played(notes: tuple[Note, ...], seed: int, spread: float, shorter: float = 1.0) -> bytes:
    """Play notes to ticks of 960 a quarter, each away by a normal error of some steps."""
    chance = random.Random(seed)
    events = []
    for note in notes:
        start = max(0, round((note.onset + chance.gauss(0, spread)) * 20))
        stop = start + max(20, round(note.duration * 20 * shorter))
        events += [(start, 1, on(note.pitch)), (stop, 0, off(note.pitch))]
    now, track = 0, []
    for at, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=at - now))
        now = at
    return file_of(track, ticks=960)


@pytest.mark.parametrize(("notes", "name"), [(REEL, "straight"), (JIG, "triplet")])
def test_notes_that_are_a_little_off_go_to_the_grid(notes: tuple[Note, ...], name: str) -> None:
    found = inspect(played(notes, seed=3, spread=1.0, shorter=0.9))
    (grid,) = found.grids
    assert grid.name == name
    assert 0.4 < grid.mean_error < 1.5
    assert grid.max_error < 6
    onsets = sorted((note.onset, note.pitch) for note in only(found).notes)
    assert onsets == sorted((note.onset, note.pitch) for note in notes)


def test_notes_of_both_kinds_are_mixed_beat_by_beat() -> None:
    bars = [Note(192 * bar + at, 60 + at % 11, 12) for bar in range(24)
            for at in (0, 12, 24, 36, 48, 64, 80, 96, 108, 120, 132, 144, 160, 176)]  # fmt: skip
    found = inspect(played(tuple(bars), seed=4, spread=0.7))
    assert found.grids[0].name == "mixed"
    ours = Counter((note.onset, note.pitch) for note in only(found).notes)
    right = sum((ours & Counter((note.onset, note.pitch) for note in bars)).values())
    assert right >= 0.95 * len(bars)


def test_notes_cut_short_by_a_program_end_where_they_are_written() -> None:
    found = inspect(played(REEL, seed=1, spread=0.0, shorter=0.93))
    assert found.grids[0].name == "exact"
    straight = [note for note in only(found).notes if note.onset % 24 == 0]
    assert {note.duration % 12 for note in straight} == {0}
    assert (found.repairs or {})["moved-end"] > 100


def test_what_is_on_the_grid_is_taken_as_it_is() -> None:
    chance = random.Random(5)
    notes = tuple(Note(chance.randrange(5_000), 40 + n % 50, chance.randrange(1, 99))
                  for n in range(60))  # fmt: skip
    found = inspect(render(Score(notes)))
    assert (found.grids[0].name, found.grids[0].max_error) == ("exact", 0.0)
    assert sorted(rows(only(found))) == sorted(rows(Score(notes)))


@pytest.mark.parametrize("seed", range(5))
def test_a_live_performance_without_bars_is_refused_with_figures(seed: int) -> None:
    chance = random.Random(seed)
    now, notes = 0.0, []
    for note in REEL:
        now += chance.uniform(9, 40)  # no tempo at all
        notes.append(replace(note, onset=round(now)))
    data = played(tuple(notes), seed, spread=2.0)
    assert parse(data)[0] == ()
    (refusal,) = inspect(data, "live.mid").refusals
    assert refusal.code == "no-bars"
    assert "live.mid: its 1" in str(refusal)
    assert "onsets keep to no bars" in str(refusal)
    assert "--codec performance" in str(refusal)
    assert len(parse_performance(data)[0][0].notes) == len(notes)


def test_a_performance_at_another_tempo_than_its_map_is_refused() -> None:
    notes = tuple(replace(n, onset=round(n.onset * 1.0873 + 5)) for n in REEL)
    assert [r.code for r in inspect(played(notes, seed=2, spread=1.5)).refusals] == ["no-bars"]


def test_a_few_notes_are_kept_whatever_they_keep_to() -> None:
    data = file_of([m for n in range(8) for m in (on(60 + n, 37 * n), off(60 + n, 111))])
    assert len(only(inspect(data)).notes) == 8


# Performances


def test_a_performance_keeps_velocities_and_folds_the_pedal_in() -> None:
    def pedal(value: int, time: int) -> Any:
        return mido.Message("control_change", control=64, value=value, time=time)

    data = file_of([
        mido.MetaMessage("set_tempo", tempo=1_000_000),
        on(60, velocity=33), pedal(127, 240), off(60, 240), on(64, 480, velocity=77),
        off(64, 240), on(60, 240), off(60, 120), pedal(0, 360), on(62, 0), off(62, 480),
    ])  # fmt: skip
    ((score,), _) = parse_performance(data)
    assert [(n.onset, n.pitch, n.duration, n.velocity) for n in score.notes] == [
        (0, 60, 3000, 33), (2000, 64, 2000, 77), (3000, 60, 1000, 64), (4000, 62, 1000, 64)
    ]  # fmt: skip
    assert score.qpm == 1_250


def test_every_format_is_read_as_it_sounds() -> None:
    tune = b"X:1\nM:2/4\nL:1/4\nQ:1/4=60\nK:C\n|:CD:|\n"
    ((score,), _) = formats.parse(tune, ".abc", as_performance=True)
    assert rows(score) == [(0, 60, 1000), (1000, 62, 1000), (2000, 60, 1000), (3000, 62, 1000)]
    assert score.marks == (Mark(0, "tempo", 1_250.0),)


def test_changes_of_tempo_are_heard_by_both_ways() -> None:
    marks = (Mark(0, "tempo", 60.0), Mark(48, "tempo", 240.0))
    score = Score((Note(0, 60, 48), Note(48, 62, 48), Note(96, 64, 24)), marks)
    assert rows(to_performance(score)) == [(0, 60, 1000), (1000, 62, 250), (1250, 64, 125)]
    assert rows(parse_performance(render(score))[0][0]) == rows(to_performance(score))


# Several parts through MIDI and ids

PARTS = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check_both_ways(score: Score) -> None:
    canonical = score.canonical()
    encoded = CODEC.encode(canonical)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)


@settings(PARTS, max_examples=100)
@given(scores(most_parts=8))
def test_scores_of_many_parts_come_back_from_ids(score: Score) -> None:
    check_both_ways(score)


@pytest.mark.promises
@settings(PARTS, max_examples=2_000)
@given(scores(most_parts=16))
def test_2000_scores_of_many_parts_come_back_from_ids(score: Score) -> None:
    check_both_ways(score)


@settings(PARTS, max_examples=200)
@given(st.binary(max_size=400))
def test_bytes_after_a_header_are_read_or_refused(body: bytes) -> None:
    found = inspect(raw(body))
    assert len(found.scores) + len(found.refusals) == 1
    for score in found.scores:
        assert all(0 <= n.onset < n.end and 1 <= n.velocity <= 127 for n in score.notes)


def test_signatures_name_keys() -> None:
    assert key_of_signature(2, is_minor=False) == Key("D", "major")
    assert key_of_signature(-1, is_minor=True) == Key("D", "minor")


def test_a_part_may_have_drums_and_programs() -> None:
    parts = (Part("Flute", 73), Part("Kit", 8, is_drums=True))
    score = Score((Note(0, 60, 48), Note(0, 36, 24, part=1)), (Mark(0, "key", Key("C")),), parts)
    check_both_ways(parse(render(score))[0][0])
