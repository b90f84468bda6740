"""Real MIDI files: counted repairs, quantisation grids, and music without bars."""

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
from musicgen.formats.midi.parser import TickNotes, key_of_signature, parse_midi
from musicgen.music.milliseconds import to_performance
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key, Meter
from musicgen.tokens.codec import Decoded
from musicgen.tokens.measures import MeasuresCodec
from tests.formats.test_midi import END, NOTE, file_bytes, from_hex, mido_file, off, on
from tests.strategies import scores

CODEC = MeasuresCodec()


def note_rows(score: Score) -> list[tuple[int, int, int]]:
    return [(note.onset, note.pitch, note.duration) for note in score.notes]


def only_score(inspection: Inspection) -> Score:
    (score,) = inspection.scores
    return score


def meter(beats: int, time: int = 0, unit: int = 4) -> Any:
    return mido.MetaMessage("time_signature", numerator=beats, denominator=unit, time=time)


# Repairs

REPAIRED = {
    "hanging-note": (
        file_bytes(from_hex("00 90 3c 40  83 60 90 3e 40  83 60 80 3e 00") + END),
        [(0, 60, 96), (48, 62, 48)],
    ),
    "zero-length": (file_bytes(from_hex("00 90 3c 40  00 80 3c 00") + NOTE + END), [(0, 60, 48)]),
    "stray-off": (file_bytes(from_hex("00 80 3e 00") + NOTE + END), [(0, 60, 48)]),
    "overlap": (
        file_bytes(from_hex("00 90 3c 40  83 60 90 3c 40  83 60 80 3c 00  83 60 80 3c 00") + END),
        [(0, 60, 96), (48, 60, 96)],
    ),
    "no-track-end": (file_bytes(NOTE), [(0, 60, 48)]),
    "missing-track": (file_bytes(NOTE + END).replace(b"\0\1\0\1", b"\0\1\xff\xff"), [(0, 60, 48)]),
    "extra-track": (file_bytes(NOTE + END, END).replace(b"\0\1\0\2", b"\0\1\0\1"), [(0, 60, 48)]),
    "odd-meter": (file_bytes(from_hex("00 ff 58 04 63 02 18 08") + NOTE + END), [(0, 60, 48)]),
    "odd-tempo": (file_bytes(from_hex("00 ff 51 03 00 00 00") + NOTE + END), [(0, 60, 48)]),
    "odd-key": (file_bytes(from_hex("00 ff 59 02 09 00") + NOTE + END), [(0, 60, 48)]),
    "tail": (file_bytes(NOTE + END) + b"\0\0\0", [(0, 60, 48)]),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_repair_is_counted_and_notes_are_complete(kind: str) -> None:
    data, expected = REPAIRED[kind]
    inspection = inspect(data)
    assert inspection.repairs == {kind: 65_534 if kind == "missing-track" else 1}
    assert note_rows(only_score(inspection)) == expected
    assert kind in REPAIRS


def test_grace_note_that_ends_before_its_start_does_not_affect_later_notes() -> None:
    later = [on(69, 480), off(69, 480)] * 3
    data = mido_file([on(72), off(72, 480), off(69), on(69), on(74), off(74, 480), *later])
    inspection = inspect(data)
    assert inspection.repairs == {"stray-off": 1, "zero-length": 1}
    assert [row for row in note_rows(only_score(inspection)) if row[1] == 69] == [
        (144, 69, 48), (240, 69, 48), (336, 69, 48)
    ]  # fmt: skip


def test_note_after_a_stray_end_keeps_its_own_end() -> None:
    inspection = inspect(mido_file([off(69), on(69), off(69, 480), on(69), off(69, 480)]))
    assert note_rows(only_score(inspection)) == [(0, 69, 48), (48, 69, 48)]


def test_file_of_ours_needs_no_repair() -> None:
    data = render(Score((Note(0, 60, 48), Note(48, 60, 24)), (Mark(0, "key", Key("C")),)))
    assert inspect(data).repairs == {}


# Format 2, film frames, meters, keys


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_events_are_read_as_single_events_are(seed: int) -> None:
    rng = random.Random(seed)
    events = []
    for _ in range(400):
        delta = rng.choice(["00", "01", "60", "83 00", "81 80 00"])
        status = rng.choice(["90", "90", "80", "91", "B0"])
        first = rng.randrange(60, 64) if status != "B0" else 64
        events.append(f"{delta} {status} {first:02x} {rng.choice([0, 64, 100]):02x}")
    in_runs = parse_midi(file_bytes(from_hex(" ".join(events)) + END))
    text_events = " 00 FF 01 00 ".join(events)  # an empty text event ends a run
    one_by_one = parse_midi(file_bytes(from_hex(text_events) + END))
    assert in_runs.repairs == one_by_one.repairs
    for track, other in zip(in_runs.tracks, one_by_one.tracks, strict=True):
        assert (track.end, track.pedals) == (other.end, other.pedals)
        for name in TickNotes.__dataclass_fields__:
            assert getattr(track.notes, name).tolist() == getattr(other.notes, name).tolist()


def test_tracks_of_format_2_are_separate_tunes() -> None:
    names = [mido.MetaMessage("track_name", name=name) for name in ("One", "Two")]
    data = mido_file([names[0], on(60), off(60, 480)], [names[1], on(64), off(64, 960)], [], kind=2)
    one, two = parse(data)[0]
    assert (one.title, note_rows(one)) == ("One", [(0, 60, 48)])
    assert (two.title, note_rows(two)) == ("Two", [(0, 64, 96)])


@pytest.mark.parametrize("division", ["e7 28", "e2 50", "e8 64"])  # 25, 30 and 24 frames a second
def test_smpte_frames_are_converted_by_the_tempo(division: str) -> None:
    frames, ticks = (256 - from_hex(division)[0]), from_hex(division)[1]
    half = (frames * ticks // 2).to_bytes(2, "big")  # half a second: a quarter at 120
    delta = bytes([half[0] << 1 | half[1] >> 7 | 0x80, half[1] & 0x7F])
    first_note = from_hex("00 90 3c 40") + delta + from_hex("80 3c 00")
    second_note = from_hex("00 90 3e 40") + delta + from_hex("80 3e 00")
    data = file_bytes(first_note + second_note + END, division=from_hex(division))
    ((score,), refusals) = parse(data)
    assert refusals == ()
    assert note_rows(score) == [(0, 60, 48), (48, 62, 48)]
    assert note_rows(parse_performance(data)[0][0]) == [(0, 60, 500), (500, 62, 500)]


def test_first_meter_of_a_pickup_length_gives_a_pickup() -> None:
    notes = [m for n in range(9) for m in (on(60 + n), off(60 + n, 480))]
    score = only_score(inspect(mido_file([meter(1), meter(4, 480)], notes)))
    assert [(m.onset, m.value) for m in score.of("meter")] == [(0, Meter(4, 4))]
    assert [m.onset for m in score.of("bar")] == [48, 240, 432]


def test_short_first_meter_of_our_own_files_round_trips() -> None:
    marks = (Mark(0, "meter", Meter(1, 4)), Mark(48, "meter", Meter(4, 4)), Mark(48, "bar"),
             Mark(240, "bar"))  # fmt: skip
    score = Score((Note(0, 60, 48), Note(48, 62, 192)), marks)
    assert parse(render(score))[0] == (score,)


def test_same_meter_again_ends_the_bar() -> None:
    notes = [m for n in range(6) for m in (on(60 + n), off(60 + n, 480))]
    score = only_score(inspect(mido_file([meter(4), meter(4, 960)], notes)))
    assert [m.onset for m in score.of("bar")] == [96, 288]
    assert len(list(score.of("meter"))) == 1


def test_key_is_estimated_only_without_a_signature() -> None:
    scale = [m for p in (62, 64, 66, 67, 69, 71, 73, 74) for m in (on(p), off(p, 480))]
    assert only_score(inspect(mido_file([*scale]))).key == Key("D", "major")
    given = mido.MetaMessage("key_signature", key="C")
    assert only_score(inspect(mido_file([given, *scale]))).key == Key("C", "major")
    silent = Score((Note(0, 62, 48), Note(48, 69, 48)))
    assert list(parse(render(silent))[0][0].of("key")) == []


# Grids

REEL = tuple(Note(24 * n + 12 * (n % 5 == 0), 60 + (7 * n) % 19, 24) for n in range(120))
JIG = tuple(Note(16 * n, 60 + (5 * n) % 17, 16) for n in range(120))


def perform(notes: tuple[Note, ...], seed: int, spread: float, shorter: float = 1.0) -> bytes:
    """Render notes at 960 ticks per quarter with normal timing errors of `spread` steps."""
    rng = random.Random(seed)
    events = []
    for note in notes:
        start = max(0, round((note.onset + rng.gauss(0, spread)) * 20))
        stop = start + max(20, round(note.duration * 20 * shorter))
        events += [(start, 1, on(note.pitch)), (stop, 0, off(note.pitch))]
    last_tick, track = 0, []
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - last_tick))
        last_tick = tick
    return mido_file(track, ticks=960)


@pytest.mark.parametrize(("notes", "name"), [(REEL, "straight"), (JIG, "triplet")])
def test_played_notes_are_moved_to_the_grid(notes: tuple[Note, ...], name: str) -> None:
    inspection = inspect(perform(notes, seed=3, spread=1.0, shorter=0.9))
    (grid,) = inspection.grids
    assert grid.name == name
    assert 0.4 < grid.mean_error < 1.5
    assert grid.max_error < 6
    onsets = sorted((note.onset, note.pitch) for note in only_score(inspection).notes)
    assert onsets == sorted((note.onset, note.pitch) for note in notes)


def test_straight_and_triplet_beats_give_a_mixed_grid() -> None:
    bars = [Note(192 * bar + at, 60 + at % 11, 12) for bar in range(24)
            for at in (0, 12, 24, 36, 48, 64, 80, 96, 108, 120, 132, 144, 160, 176)]  # fmt: skip
    inspection = inspect(perform(tuple(bars), seed=4, spread=0.7))
    assert inspection.grids[0].name == "mixed"
    quantised = Counter((note.onset, note.pitch) for note in only_score(inspection).notes)
    correct_count = sum((quantised & Counter((note.onset, note.pitch) for note in bars)).values())
    assert correct_count >= 0.95 * len(bars)


def test_shortened_notes_end_at_written_values() -> None:
    inspection = inspect(perform(REEL, seed=1, spread=0.0, shorter=0.93))
    assert inspection.grids[0].name == "exact"
    straight = [note for note in only_score(inspection).notes if note.onset % 24 == 0]
    assert {note.duration % 12 for note in straight} == {0}
    assert (inspection.repairs or {})["moved-end"] > 100


def test_notes_on_the_grid_are_unchanged() -> None:
    rng = random.Random(5)
    notes = tuple(Note(rng.randrange(5_000), 40 + n % 50, rng.randrange(1, 99))
                  for n in range(60))  # fmt: skip
    inspection = inspect(render(Score(notes)))
    assert (inspection.grids[0].name, inspection.grids[0].max_error) == ("exact", 0.0)
    assert sorted(note_rows(only_score(inspection))) == sorted(note_rows(Score(notes)))


@pytest.mark.parametrize("seed", range(5))
def test_performance_without_bars_is_refused_with_statistics(seed: int) -> None:
    rng = random.Random(seed)
    onset, notes = 0.0, []
    for note in REEL:
        onset += rng.uniform(9, 40)  # no tempo at all
        notes.append(replace(note, onset=round(onset)))
    data = perform(tuple(notes), seed, spread=2.0)
    assert parse(data)[0] == ()
    (refusal,) = inspect(data, "live.mid").refusals
    assert refusal.code == "no-bars"
    assert "live.mid: its 1" in str(refusal)
    assert "onsets keep to no bars" in str(refusal)
    assert "--codec performance" in str(refusal)
    assert len(parse_performance(data)[0][0].notes) == len(notes)


def test_performance_off_its_tempo_map_is_refused() -> None:
    notes = tuple(replace(n, onset=round(n.onset * 1.0873 + 5)) for n in REEL)
    assert [r.code for r in inspect(perform(notes, seed=2, spread=1.5)).refusals] == ["no-bars"]


def test_few_notes_are_read_without_a_beat() -> None:
    data = mido_file([m for n in range(8) for m in (on(60 + n, 37 * n), off(60 + n, 111))])
    assert len(only_score(inspect(data)).notes) == 8


# Performances


def test_performance_keeps_velocities_and_applies_the_pedal() -> None:
    def pedal(value: int, time: int) -> Any:
        return mido.Message("control_change", control=64, value=value, time=time)

    data = mido_file([
        mido.MetaMessage("set_tempo", tempo=1_000_000),
        on(60, velocity=33), pedal(127, 240), off(60, 240), on(64, 480, velocity=77),
        off(64, 240), on(60, 240), off(60, 120), pedal(0, 360), on(62, 0), off(62, 480),
    ])  # fmt: skip
    ((score,), _) = parse_performance(data)
    assert [(n.onset, n.pitch, n.duration, n.velocity) for n in score.notes] == [
        (0, 60, 3000, 33), (2000, 64, 2000, 77), (3000, 60, 1000, 64), (4000, 62, 1000, 64)
    ]  # fmt: skip
    assert score.qpm == 1_250


def test_abc_is_read_as_a_performance() -> None:
    tune = b"X:1\nM:2/4\nL:1/4\nQ:1/4=60\nK:C\n|:CD:|\n"
    ((score,), _) = formats.parse(tune, ".abc", as_performance=True)
    assert note_rows(score) == [(0, 60, 1000), (1000, 62, 1000), (2000, 60, 1000), (3000, 62, 1000)]
    assert score.marks == (Mark(0, "tempo", 1_250.0),)


def test_performances_agree_on_tempo_changes() -> None:
    marks = (Mark(0, "tempo", 60.0), Mark(48, "tempo", 240.0))
    score = Score((Note(0, 60, 48), Note(48, 62, 48), Note(96, 64, 24)), marks)
    assert note_rows(to_performance(score)) == [(0, 60, 1000), (1000, 62, 250), (1250, 64, 125)]
    assert note_rows(parse_performance(render(score))[0][0]) == note_rows(to_performance(score))


# Several parts through MIDI and ids

PARTS = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check_codec_round_trip(score: Score) -> None:
    canonical = score.canonical()
    encoded = CODEC.encode(canonical)
    assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(canonical, dropped=0)


@settings(PARTS)
@given(scores(most_parts=8))
def test_scores_of_many_parts_round_trip_through_ids(score: Score) -> None:
    check_codec_round_trip(score)


@pytest.mark.promises
@settings(PARTS, max_examples=2_000)
@given(scores(most_parts=16))
def test_2000_scores_of_many_parts_round_trip_through_ids(score: Score) -> None:
    check_codec_round_trip(score)


@settings(PARTS)
@given(st.binary(max_size=400))
def test_bytes_after_a_header_are_read_or_refused(body: bytes) -> None:
    inspection = inspect(file_bytes(body))
    assert len(inspection.scores) + len(inspection.refusals) == 1
    for score in inspection.scores:
        assert all(0 <= n.onset < n.end and 1 <= n.velocity <= 127 for n in score.notes)


def test_signatures_give_keys() -> None:
    assert key_of_signature(2, is_minor=False) == Key("D", "major")
    assert key_of_signature(-1, is_minor=True) == Key("D", "minor")


def test_drums_with_a_program_round_trip() -> None:
    parts = (Part("Flute", 73), Part("Kit", 8, is_drums=True))
    score = Score((Note(0, 60, 48), Note(0, 36, 24, part=1)), (Mark(0, "key", Key("C")),), parts)
    check_codec_round_trip(parse(render(score))[0][0])
