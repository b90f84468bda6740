"""MIDI: exact round trips, files that other programs read and write, refusals."""

from __future__ import annotations

import importlib.util
import io
import random
import threading
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import mido
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musicgen.errors import InvalidValue
from musicgen.formats import midi
from musicgen.formats.midi import inspect, parse, read_text_events, render, to_pretty_midi
from musicgen.music.score import Ending, Mark, Note, Part, Score
from musicgen.music.theory import MODES, Key, Meter

KEYS = tuple(
    Key(letter + sign, mode) for letter in "CDEFGAB" for sign in ("", "#", "b") for mode in MODES
)
METERS = st.builds(Meter, st.integers(1, 64), st.sampled_from((1, 2, 4, 8, 16, 32, 64)))
TEMPOS = st.one_of(
    st.integers(4, 7_000).map(float), st.integers(400, 77_000).map(lambda n: n / 100)
)
CHORDS = st.sampled_from(("Am7", "D/F#", "N.C.", "Bbmaj7", "c☃"))
PARTS = st.builds(Part, st.text(max_size=12), st.integers(0, 127), st.booleans())
NOTES = st.tuples(
    st.integers(0, 2_000), st.integers(0, 127), st.integers(1, 400), st.integers(1, 127)
)


@st.composite
def scores(draw: st.DrawFn, drums: bool = True) -> Score:
    """Draw a score of many parts with bars of any length, repeats and changes."""
    parts = draw(st.lists(PARTS, min_size=1, max_size=20))
    parts = [replace(part, is_drums=part.is_drums and drums) for part in parts]
    part_numbers = st.integers(0, len(parts) - 1)
    drawn_notes = draw(st.lists(st.tuples(NOTES, part_numbers), min_size=1, max_size=40))
    notes = without_overlaps([Note(*values, part=part) for values, part in drawn_notes])
    end = max(note.end for note in notes)
    lines = draw(bar_lines(end))
    marks = [Mark(line, "bar") for line in lines]
    repeated = draw(st.booleans())
    if lines and repeated:
        marks += draw(repeats(lines))
    for kind, values in (
        ("key", st.sampled_from(KEYS)), ("meter", METERS), ("tempo", TEMPOS), ("chord", CHORDS)
    ):  # fmt: skip
        onset = st.one_of(st.just(0), st.integers(0, end - 1))
        values_by_step = draw(st.dictionaries(onset, values, max_size=4))
        marks += [Mark(at, kind, value) for at, value in values_by_step.items()]  # type: ignore[arg-type]
    title, rhythm = draw(st.text(max_size=30)), draw(st.sampled_from(("", "jig", "slip jig", "ö")))
    return Score(tuple(notes), tuple(marks), tuple(parts), title, rhythm)


def without_overlaps(notes: list[Note]) -> list[Note]:
    """Keep the notes whose pitch does not sound already in their part."""
    separate_notes: list[Note] = []
    ends: dict[tuple[int, int], int] = {}
    for note in sorted(notes):
        if note.onset >= ends.get((note.part, note.pitch), 0):
            ends[note.part, note.pitch] = note.end
            separate_notes.append(note)
    return separate_notes


@st.composite
def bar_lines(draw: st.DrawFn, end: int) -> list[int]:
    lengths = draw(st.lists(st.integers(1, 700), max_size=8))
    lines = list(accumulate(lengths))
    regular = draw(st.sampled_from((48, 144, 192)))
    return lines + list(range(lines[-1] if lines else 0, end + regular, regular))[1:]


@st.composite
def repeats(draw: st.DrawFn, lines: list[int]) -> list[Mark]:
    chosen = sorted(draw(st.sets(st.sampled_from([0, *lines]), min_size=2, max_size=4)))
    start, stop, *endings = chosen if len(chosen) != 3 else chosen[:2]
    marks = [Mark(start, "repeat_start"), Mark(stop, "repeat_end", draw(st.integers(2, 4)))]
    if endings:
        first, last = stop, endings[0]
        marks.append(Mark(first, "ending", Ending((1,), last)))
    return marks


def expected_from_midi(score: Score) -> Score:
    """Return what a MIDI file of a score stores: all but marks after the last bar line and note."""
    unfolded = score.unfolded()
    ends = [note.end for note in unfolded.notes] + [mark.onset for mark in unfolded.of("bar")]
    marks = (m for m in unfolded.marks if m.kind == "bar" or m.onset < max(ends))
    return replace(unfolded, marks=tuple(marks))


def check_round_trip(score: Score) -> None:
    data = render(score)
    parsed, refusals = parse(data)
    expected = expected_from_midi(score)
    if not expected.notes:
        assert (parsed, [refusal.code for refusal in refusals]) == ((), ["empty"])
        return
    assert refusals == ()
    assert parsed == (expected,)
    assert render(parsed[0]) == data
    assert render(score) == data


def examples(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )


@examples(100)
@given(scores())
def test_reading_undoes_writing(score: Score) -> None:
    check_round_trip(score)


@pytest.mark.promises
@examples(10_000)
@given(scores())
def test_reading_undoes_writing_10000_times(score: Score) -> None:
    check_round_trip(score)


JIG = Score(
    notes=(Note(0, 62, 24), Note(24, 66, 72, 90), Note(96, 69, 72), Note(168, 62, 144)),
    marks=(
        Mark(0, "key", Key("D", "mixolydian")),
        Mark(0, "meter", Meter(6, 8)),
        Mark(0, "tempo", 112.0),
        Mark(24, "bar"),
        Mark(168, "bar"),
        Mark(312, "bar"),
    ),
    parts=(Part("Fiddle", 40),),
    title="Róisín ☘ “Dubh”",
    rhythm="jig",
)


def test_pickup_and_the_exact_meter_come_back() -> None:
    ((score,), _) = parse(render(JIG))
    assert score.meter == Meter(6, 8)
    assert [mark.onset for mark in score.of("bar")] == [24, 168, 312]
    assert score == JIG


def test_regular_bars_need_no_text_event() -> None:
    marks = (Mark(0, "meter", Meter(3, 4)), Mark(0, "key", Key("C")), Mark(144, "bar"),
             Mark(288, "bar"))  # fmt: skip
    assert read_text_events(render(Score((Note(0, 60, 150),), marks))) == ()


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_every_key_round_trips_with_its_signature(key: Key) -> None:
    score = Score((Note(0, 60, 48),), (Mark(0, "key", key),))
    data = render(score)
    assert parse(data)[0][0].key == key
    (signature,) = to_pretty_midi(score).key_signature_changes
    if key.mode in ("major", "minor"):
        assert signature.key_number % 12 == key.pitch_class
        assert (signature.key_number >= 12) == (key.mode == "minor")


def test_key_text_event_is_ignored_without_matching_signature() -> None:
    data = render(JIG).replace(b"musicgen:key D mix", b"musicgen:key E mix")
    assert parse(data)[0][0].key == Key("G", "major")


@pytest.mark.parametrize("words", [b"24 1*x 1", b"24 9**9 ", b"9999*999", b"9999999 "])
def test_malformed_bar_text_events_are_ignored(words: bytes) -> None:
    old = b"musicgen:bars 24 144*2"
    data = render(JIG)
    assert old in data
    new = b"musicgen:bars " + words
    ((score,), _) = parse(data.replace(old, new))
    assert [mark.onset for mark in score.of("bar")] == [144, 288, 432]


def test_tempos_round_trip_exactly() -> None:
    tempos = [*map(float, range(4, 1_300)), 66.6, 92.25, 133.33, 7_000.0]
    marks = tuple(Mark(step, "tempo", qpm) for step, qpm in enumerate(tempos))
    ((score,), _) = parse(render(Score((Note(0, 60, len(tempos)),), marks)))
    assert [mark.value for mark in score.of("tempo")] == tempos


@pytest.mark.parametrize("qpm", [0.0, -3.0, 3.0, 1e9])
def test_tempo_outside_of_the_midi_range_is_refused(qpm: float) -> None:
    with pytest.raises(InvalidValue, match=r"tempo .* is outside of 3\.6 to 60,000,000"):
        render(Score((Note(0, 60, 48),), (Mark(0, "tempo", qpm),)))


def test_tune_over_the_limit_of_the_reader_is_refused() -> None:
    with pytest.raises(InvalidValue, match="lasts over 20,000 quarter notes"):
        render(Score((Note(48 * 20_000, 60, 1),)))


def test_overlapping_and_doubled_pitches_are_separated() -> None:
    score = Score((Note(0, 60, 100), Note(0, 60, 20), Note(48, 60, 10), Note(48, 64, 10)))
    ((parsed,), _) = parse(render(score))
    assert [(n.onset, n.pitch, n.duration) for n in parsed.notes] == [
        (0, 60, 48), (48, 60, 10), (48, 64, 10)
    ]  # fmt: skip


def test_text_events_are_stored_in_order() -> None:
    data = render(JIG, text_events=['musicgen:recipe {"seed": 7}', "ö☃"])
    assert read_text_events(data)[2:4] == ('musicgen:recipe {"seed": 7}', "ö☃")
    assert parse(data)[0] == (JIG,)


def test_file_lasts_as_long_as_the_score() -> None:
    score = Score((Note(0, 60, 48),), (Mark(768, "bar"),))
    file = mido.MidiFile(file=io.BytesIO(render(score)))
    assert {sum(message.time for message in track) for track in file.tracks} == {7_680}
    assert file.ticks_per_beat == 480


def test_only_drums_use_channel_ten_and_further_parts_share_channels() -> None:
    parts = tuple(Part(str(n), n, is_drums=n == 3) for n in range(20))
    notes = tuple(Note(n, 60 + n, 48, part=n) for n in range(20))
    file = mido.MidiFile(file=io.BytesIO(render(Score(notes, parts=parts))))
    channels = [{m.channel for m in track if m.type == "note_on"} for track in file.tracks[1:]]
    assert channels[3] == {9}
    assert channels[9:13] == [{8}, {10}, {11}, {12}]
    assert channels[16] == {0}
    assert all(len(used) == 1 for used in channels)


def test_writing_titles_is_thread_safe() -> None:
    outcomes: list[str] = []

    def write(number: int) -> None:
        for _ in range(30):
            title = f"☘ {number}"
            outcomes.append(
                "" if parse(render(replace(JIG, title=title)))[0][0].title == title else "x"
            )

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [""] * 120


# Other programs as readers


def count_played_notes(score: Score) -> Counter[tuple[int, int, int]]:
    return Counter((n.onset, n.pitch, n.duration) for n in score.unfolded().notes)


def by_mido(data: bytes) -> Counter[tuple[int, int, int]]:
    notes: Counter[tuple[int, int, int]] = Counter()
    for track in mido.MidiFile(file=io.BytesIO(data)).tracks:
        tick, sounding = 0, {}
        for message in track:
            tick += message.time
            if message.type == "note_on":
                assert message.note not in sounding
                sounding[message.note] = tick
            elif message.type == "note_off":
                start = sounding.pop(message.note)
                notes[start // 10, message.note, (tick - start) // 10] += 1
        assert not sounding
    return notes


def by_symusic(data: bytes) -> Counter[tuple[int, int, int]]:
    import symusic

    tracks = symusic.core.ScoreTick.from_midi(data).tracks
    notes = (note for track in tracks for note in track.notes)
    return Counter((n.time // 10, n.pitch, n.duration // 10) for n in notes)


def by_pretty_midi(data: bytes) -> Counter[tuple[int, int, int]]:
    from pretty_midi import PrettyMIDI

    song = PrettyMIDI(io.BytesIO(data))
    counts: Counter[tuple[int, int, int]] = Counter()
    for note in (note for instrument in song.instruments for note in instrument.notes):
        start, end = song.time_to_tick(note.start) // 10, song.time_to_tick(note.end) // 10
        counts[start, note.pitch, end - start] += 1
    return counts


def by_music21(data: bytes) -> Counter[tuple[int, int, int]]:
    from music21 import converter

    stream: Any = converter.parseData(data, format="midi", quantizePost=False)
    counts: Counter[tuple[int, int, int]] = Counter()
    for part in stream.parts:
        for note in part.stripTies().flatten().notes:
            for pitch in note.pitches:
                onset, length = round(note.offset * 48), round(note.quarterLength * 48)
                counts[onset, pitch.midi, length] += 1
    return counts


@examples(60)
@given(scores())
def test_mido_and_symusic_read_the_same_notes(score: Score) -> None:
    data = render(score)
    assert by_mido(data) == count_played_notes(score)
    assert by_symusic(data) == count_played_notes(score)


BAND = Score(
    notes=tuple(
        Note(24 * i, 40 + (7 * i + 5 * part) % 40, 24 + 12 * part, 50 + part, part)
        for part in range(3)
        for i in range(0, 32, 1 + part)
    ),
    marks=(
        Mark(0, "key", Key("E", "minor")),
        Mark(0, "meter", Meter(3, 4)),
        Mark(0, "tempo", 97.0),
    ),
    parts=(Part("Flute", 73), Part("Bass", 32), Part("Harp", 46)),
    title="Båtlåt",
)


@pytest.mark.parametrize("score", [JIG, BAND], ids=["jig", "band"])
@pytest.mark.parametrize("reader", [by_mido, by_symusic, by_pretty_midi, by_music21])
def test_four_programs_read_the_same_notes(score: Score, reader: Any) -> None:
    assert reader(render(score)) == count_played_notes(score)


def test_pretty_midi_shows_names_programs_meter_key_and_tempo() -> None:
    song = to_pretty_midi(BAND)
    assert [(i.name, i.program, i.is_drum) for i in song.instruments] == [
        ("Flute", 73, False), ("Bass", 32, False), ("Harp", 46, False)
    ]  # fmt: skip
    (meter,) = song.time_signature_changes
    assert (meter.numerator, meter.denominator) == (3, 4)
    assert song.key_signature_changes[0].key_number == 12 + 4
    assert song.get_tempo_changes()[1] == pytest.approx([97.0], rel=1e-5)


# Files of other programs


def mido_file(*tracks: list[Any], kind: int = 1, ticks: int = 480) -> bytes:
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    file.tracks += [mido.MidiTrack(track) for track in tracks]
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def on(note: int, time: int = 0, channel: int = 0, velocity: int = 64) -> Any:
    return mido.Message("note_on", note=note, time=time, channel=channel, velocity=velocity)


def off(note: int, time: int = 0, channel: int = 0) -> Any:
    return mido.Message("note_off", note=note, time=time, channel=channel)


def test_one_track_with_several_channels_becomes_several_parts() -> None:
    program = mido.Message("program_change", channel=1, program=19)
    data = mido_file([program, on(60), on(64, channel=1), on(36, channel=9), off(60, 480),
                    off(64, channel=1), off(36, channel=9)], kind=0)  # fmt: skip
    ((score,), _) = parse(data)
    assert {(p.program, p.is_drums) for p in score.parts} == {(0, False), (19, False), (0, True)}
    assert {(score.parts[n.part].program, n.pitch) for n in score.notes} == {
        (0, 60), (19, 64), (0, 36)
    }  # fmt: skip


def test_shortened_notes_get_a_written_duration() -> None:
    data = mido_file([on(60), off(60, 7), on(62, 93), off(62, 1), on(64, 0), off(64, 0)], ticks=100)
    ((score,), _) = parse(data)
    assert [(n.onset, n.pitch, n.duration) for n in score.notes] == [(0, 60, 12), (48, 62, 12)]


def test_silent_tracks_without_a_program_are_dropped() -> None:
    text = mido.MetaMessage("track_name", name="© 1999 A. Composer")
    ((score,), _) = parse(mido_file([], [text], [on(60), off(60, 480)]))
    assert len(score.parts) == 1


def test_names_in_latin_1_are_read() -> None:
    name = mido.MetaMessage("track_name", name="Béla")
    assert parse(mido_file([name], [on(60), off(60, 480)]))[0][0].title == "Béla"


def test_change_of_meter_inside_a_bar_ends_it() -> None:
    def meter(beats: int, time: int) -> Any:
        return mido.MetaMessage("time_signature", numerator=beats, denominator=4, time=time)

    data = mido_file([meter(4, 0), meter(3, 480 * 6)], [on(60), off(60, 480 * 8)])
    ((score,), _) = parse(data)
    assert [mark.onset for mark in score.of("bar")] == [192, 288, 432]
    assert [str(mark.value) for mark in score.of("meter")] == ["4/4", "3/4"]


def test_invalid_tempos_and_meters_are_ignored() -> None:
    data = mido_file([
        mido.MetaMessage("set_tempo", tempo=0),
        mido.MetaMessage("time_signature", numerator=99, denominator=128),
    ], [on(60), off(60, 480)])  # fmt: skip
    ((score,), _) = parse(data)
    assert [mark.kind for mark in score.marks] == ["key", "bar"]  # estimated and inferred


# Refusals


def file_bytes(*chunks: bytes, division: bytes = b"\x01\xe0") -> bytes:
    header = b"MThd" + bytes((0, 0, 0, 6, 0, 1)) + len(chunks).to_bytes(2, "big") + division
    return header + b"".join(b"MTrk" + len(c).to_bytes(4, "big") + c for c in chunks)


NOTE = bytes.fromhex("00 90 3c 40  83 60 80 3c 00")
END = bytes.fromhex("00 ff 2f 00")
LATER = bytes.fromhex("ff ff ff 7f")  # 268,435,455 ticks


from_hex = bytes.fromhex


HOSTILE = {
    "no header": (b"RIFF" + bytes(40), "format", "byte 0: it is not a MIDI file: MThd is missing"),
    "nothing": (b"", "format", "byte 0: it is not a MIDI file"),
    "half a header": (b"MThd\0\0\0\6\0\1", "truncated", "byte 8: the header is cut off"),
    "a header of 4 GiB": (b"MThd" + b"\xff" * 20, "truncated", "the header is cut off"),
    "film without ticks": (
        file_bytes(NOTE + END, division=from_hex("e7 00")),
        "damaged",
        "byte 12: it has 0 ticks per SMPTE frame",
    ),
    "an unknown speed of film": (
        file_bytes(NOTE + END, division=from_hex("f0 28")),
        "damaged",
        "byte 12: .* 16 frames per second",
    ),
    "division 0": (
        file_bytes(NOTE + END, division=from_hex("00 00")),
        "damaged",
        "byte 12: it has 0 ticks",
    ),
    "a chunk too long": (
        file_bytes(NOTE + END)[:-3],
        "truncated",
        "byte 14: a chunk of 13 bytes has only",
    ),
    "an event cut off": (file_bytes(NOTE[:-1]), "truncated", "byte 30: an event runs past"),
    "a text too long": (
        file_bytes(NOTE + from_hex("00 ff 01 7f")),
        "truncated",
        "an event runs past the end",
    ),
    "a long number": (
        file_bytes(from_hex("ff ff ff ff 7f") + NOTE),
        "damaged",
        "byte 22: a number has more than",
    ),
    "ticks past 2^31": (
        file_bytes((LATER + NOTE[1:4]) * 9 + END),
        "too-large",
        "over 20,000 quarter notes",
    ),
    "data over 127": (
        file_bytes(from_hex("00 90 3c ff") + END),
        "damaged",
        "a data byte is over 127",
    ),
    "no status": (file_bytes(from_hex("00 3c 40") + END), "damaged", "an event has no status"),
    "an unknown status": (file_bytes(from_hex("00 f4 00") + END), "damaged", "has the status 244"),
    "no notes": (file_bytes(END), "empty", "it has no notes"),
    "no tracks": (file_bytes(), "empty", "it has no notes"),
    "too many tracks": (file_bytes(*[END] * 1_025), "too-large", "more than 1,024 tracks"),
    "too many events": (
        file_bytes(from_hex("00 90 3c 40") * 500_001),
        "too-large",
        "500,000 events",
    ),
    "too many bytes": (
        file_bytes(NOTE + END) + bytes(2**23),
        "too-large",
        "larger than 8,388,608 bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_files_are_refused(name: str) -> None:
    data, code, words = HOSTILE[name]
    scores, refusals = parse(data, "x.mid")
    assert scores == ()
    assert [refusal.code for refusal in refusals] == [code]
    assert str(refusals[0]).startswith("x.mid: ")
    with pytest.raises(type(refusals[0]), match=words):
        raise refusals[0]


def test_files_at_the_limits_are_read() -> None:
    late = file_bytes((LATER + b"\x90\x3c\x40") + NOTE + END, division=b"\x7f\xff")
    assert len(parse(late)[0]) == 1
    many = file_bytes(NOTE + END, *[END] * 1_023)
    assert len(parse(many)[0]) == 1


def test_unknown_chunks_and_trailing_bytes_are_ignored() -> None:
    data = file_bytes(NOTE + END)
    odd = data[:14] + b"XFIH\0\0\0\2ab" + data[14:] + bytes(5)
    assert parse(odd)[0] == parse(data)[0]


def test_running_status_continues_after_a_text_event() -> None:
    data = file_bytes(bytes.fromhex("00 90 3c 40  00 ff 01 01 41  83 60 3c 00") + END)
    assert parse(data)[0][0].notes == (Note(0, 60, 48, 64),)


def check_mutants(count: int, seed: int) -> None:
    """Check that random changes to a file give legal scores or refusals."""
    rng = random.Random(seed)
    originals = [render(JIG), render(BAND), mido_file([on(60), off(60, 480)], kind=0)]
    for _ in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 8)):
            position = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[position] = rng.randrange(256)
                case 1:
                    data[position] ^= 1 << rng.randrange(8)
                case 2:
                    del data[position : position + rng.randint(1, 9)]
                case 3:
                    data[position:position] = data[rng.randrange(len(data)) :][:9]
            data = data or bytearray(b"MThd")
        check_legal(bytes(data))


def check_legal(data: bytes) -> None:
    scores, refusals = parse(data, "x.mid")
    assert len(scores) + len(refusals) == 1
    for score in scores:
        assert all(note.end <= midi.MAX_STEPS + 1 for note in score.notes)
        assert Counter(mark.kind for mark in score.marks)["bar"] <= midi.MAX_STEPS
        assert parse(render(score))[0]


def test_mutants_are_read_or_refused() -> None:
    check_mutants(500, seed=5)


@pytest.mark.promises
def test_10000_mutants_are_read_or_refused() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    check_mutants(10_000, seed)


def test_file_cut_at_any_byte_is_read_or_refused() -> None:
    data = render(JIG)
    for length in range(len(data)):
        check_legal(data[:length])


def test_writing_needs_no_slow_import() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from musicgen.formats.midi import render; from musicgen.music.score import *;"
        "render(Score((Note(0, 60, 48),)));"
        "print([m for m in ('torch', 'pretty_midi', 'symusic', 'music21') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Real files, from the tests of music21

MUSIC21 = Path(importlib.util.find_spec("music21").origin or "").parent  # type: ignore[union-attr]
REAL = sorted((MUSIC21 / "midi" / "testPrimitive").glob("*.mid"))


def test_real_files_exist() -> None:
    assert len(REAL) > 15


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_file_is_read_as_by_symusic_and_round_trips(path: Path) -> None:
    from symusic.core import ScoreTick

    reading: Any = ScoreTick.from_midi(path.read_bytes())
    expected = sorted(
        (note.pitch, note.time * 48 / reading.tpq, note.velocity)
        for track in reading.tracks
        for note in track.notes
        if note.duration > 0
    )
    inspection = inspect(path.read_bytes(), path.name)
    ((score,), (record,)) = inspection.scores, inspection.records
    grid, offset = record.grid, record.timing.offset
    assert inspection.refusals == ()
    our_notes = sorted((note.pitch, note.onset, note.velocity) for note in score.notes)
    assert [(pitch, velocity) for pitch, _, velocity in our_notes] == [
        (pitch, velocity) for pitch, _, velocity in expected
    ]
    error = max(
        abs(a - b + offset) for (_, a, _), (_, b, _) in zip(our_notes, expected, strict=True)
    )
    assert error <= (0.5 if grid.name in ("exact", "steps") else grid.max_error)
    canonical = score.canonical()
    assert parse(render(canonical))[0] == (canonical.unfolded(),)


@given(scores())
def test_bytes_are_those_that_mido_writes(score: Score) -> None:
    data = midi.render(score, text_events=["a remark"])
    again = io.BytesIO()
    mido.MidiFile(file=io.BytesIO(data)).save(file=again)
    assert again.getvalue() == data
