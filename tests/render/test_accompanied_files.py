"""The accompaniment is in sound, MIDI and the page, and not in notation and pictures."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from musicgen import formats
from musicgen.music.accompaniment import PATTERNS, accompany, split_accompaniment
from musicgen.music.score import Score
from musicgen.render import synth
from musicgen.render.export import PLAYED_SUFFIXES, write
from musicgen.render.html_page import render_page
from musicgen.render.piano_roll import draw_pianoroll_png, draw_pianoroll_svg
from musicgen.render.synth_voice import RATE
from musicgen.render.timeline import chord_timeline, duration, timeline, with_program
from musicgen.render.tune_json import score_to_json

TUNE = """X:1
T:A jig with chords
R:jig
M:6/8
L:1/8
Q:3/8=100
K:A
|:e|"A"ecA "C#m"ABc|"D"dcB "E7/G#"B2e|"A"ecA "F#m"ABc|"Bm"dcB "A"A2:|
"""


@pytest.fixture
def score() -> Score:
    return formats.parse(TUNE.encode(), ".abc")[0][0]


@pytest.mark.parametrize("suffix", [".mid", ".abc", ".musicxml"])
def test_only_midi_has_the_parts(score: Score, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"tune{suffix}"
    write(accompany(score), path)
    (read,), _ = formats.read(path)
    assert len(read.parts) == (3 if suffix in PLAYED_SUFFIXES else 1)
    assert len(list(read.of("chord"))) == (16 if suffix == ".mid" else 8)


def test_pictures_do_not_depend_on_the_accompaniment(score: Score, tmp_path: Path) -> None:
    for name, view in (("sheet.svg", "score"), ("roll.svg", "roll")):
        for folder, music in (("a", score), ("b", accompany(score))):
            (tmp_path / folder).mkdir(exist_ok=True)
            write(music, tmp_path / folder / name, view=view)  # type: ignore[arg-type]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_chord_symbols_stand_above_the_sheet_and_the_roll(score: Score, tmp_path: Path) -> None:
    write(score, tmp_path / "sheet.svg")
    sheet, roll = (tmp_path / "sheet.svg").read_text(), draw_pianoroll_svg(score)
    for symbol in ("C#m", "E7/G#", "F#m"):
        assert symbol in sheet
        assert roll.count(f">{symbol}</text>") == 2  # the repeat is played out
    assert draw_pianoroll_png(score).startswith(b"\x89PNG")


def test_chord_symbols_are_timed_as_heard(score: Score) -> None:
    chords = chord_timeline(score)
    assert [symbol for _, symbol in chords[:4]] == ["A", "C#m", "D", "E7/G#"]
    eighth = 0.2
    assert [round(seconds / eighth) for seconds, _ in chords] == [
        *range(1, 24, 3), *range(25, 48, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("program", [0, 40, 73])
def test_accompaniment_is_six_to_ten_decibels_below(score: Score, name: str, program: int) -> None:
    played = accompany(with_program(score, program), name)
    groups = synth._limit_lengths(synth._group_by_key(timeline(played), played.parts))
    gains = synth._balance_accompaniment(
        groups, played.parts, synth._balance_parts(groups, played.parts)
    )
    samples = round(duration(played) * RATE)
    melody, added = (
        float(np.square(synth._mix_notes(groups, 0.0, gains * mask)[:, :samples]).mean())
        for mask in (np.array([1, 0, 0]), np.array([0, 1, 1]))
    )
    assert 6 <= 10 * np.log10(melody / added) <= 10


def test_instrument_of_the_tune_leaves_the_accompaniment(score: Score) -> None:
    assert [part.program for part in with_program(accompany(score), 73).parts] == [73, 32, 25]


def test_page_plays_and_does_not_write_the_accompaniment(score: Score) -> None:
    plain, data = score_to_json(score), score_to_json(accompany(score))
    assert plain["accompaniment"] == []
    assert data["accompaniment"] == [1, 2]
    assert data["programs"] == [0, 32, 25]
    assert data["svg"] == plain["svg"]
    assert data["abc"] == plain["abc"]
    written = [sound for sound in data["sounds"] if sound[5] >= 0]
    assert written == plain["sounds"]
    added = [sound for sound in data["sounds"] if sound[5] < 0]
    assert {sound[4] for sound in added} == {1, 2}
    assert all(sound[0] + sound[1] <= data["seconds"] + 1e-6 for sound in added)
    (read,), _ = formats.parse(base64.b64decode(data["midi"]), ".mid")
    assert split_accompaniment(read)[1] is not None
    assert 'id="tune"' in render_page(accompany(score))
