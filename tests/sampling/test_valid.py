"""Promise 23: every sampled tune is whole, and every file of one reads everywhere."""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mido
import music21
import numpy as np
import pretty_midi
import pytest
import symusic

from musicgen import load
from musicgen.formats import abc, midi
from musicgen.music.score import Score
from musicgen.music.theory import Meter
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.sampler import Sampler
from musicgen.tokens.vocabulary import MEASURES
from tests.fake_models import SEEN_IDS, RandomEngine, untrained

METERS = [str(MEASURES.events[i].value) for i in MEASURES.ranges["meter"]]
LONGEST = 16 * 192  # steps: bars of 16/1 are many notes each
BARS = (None, 1, 1, 2, 2, 3, 4, 4, 7, 8, 8, 12, 16, 31, 48)


def wishes(rng: random.Random, meters: list[str]) -> SamplingOptions:
    meter, bars = rng.choice(meters), rng.choice(BARS)
    most = max(1, LONGEST // Meter.parse(meter).steps)
    return SamplingOptions.parse(
        meter=meter, bars=bars and min(bars, most), temperature=rng.uniform(0.5, 2)
    )


def random_tunes(numbers: range) -> Iterator[tuple[Score, SamplingOptions]]:
    """Yield tunes from weights that know nothing, over all meters of the vocabulary."""
    for number in numbers:
        options = wishes(random.Random(number), METERS)
        yield Sampler(RandomEngine(number), SEEN_IDS).sample(options, Noise(1, number)), options


def folk_tunes(numbers: range) -> Iterator[tuple[Score, SamplingOptions]]:
    model = load("folk")
    ids = model.sampler.seen_ids
    meters = [str(MEASURES.events[i].value) for i in MEASURES.ranges["meter"] if i in ids]
    for number in numbers:
        options = wishes(random.Random(number), meters)
        yield model.draw(options, 1, number).score, options


def heard_lengths(score: Score) -> list[int]:
    """Return the lengths of the bars as they are heard, by bar lines alone."""
    played = score.unfolded()
    edges = [0, *(mark.onset for mark in played.of("bar"))]
    return [after - before for before, after in pairwise(edges)]


def check_form(score: Score, options: SamplingOptions) -> None:
    """Check a tune without asking the grammar: from the notes and bar lines that are played."""
    full = score.meter.steps
    lengths = heard_lengths(score)
    opening = lengths[0] if lengths[0] < full else 0
    joined: list[int] = []  # bars, with a short one and the pickup after it put together
    for length in lengths[1:] if opening else lengths:
        if joined and joined[-1] < full:
            joined[-1] += length
        else:
            joined.append(length)
    assert all(length == full for length in joined[:-1]), lengths
    assert joined[-1] in (full, full - opening), lengths
    assert options.bars in (None, len(joined))
    assert len(joined) <= max(64, options.bars or 0)
    assert score.notes
    assert max(note.end for note in score.notes) <= score.end


def check_repeats(text: str) -> None:
    """Check in the written tune that repeats open, then close, and endings stand inside."""
    signs = re.findall(r"\|:|:\|+:?|\[\d|\|\d", re.sub(r'"[^"]*"', "", text.split("\nK:")[1]))
    is_open = False
    for sign in signs:
        if sign == "|:":
            assert not is_open
            is_open = True
        elif sign.startswith(":|"):
            assert is_open
            is_open = False
        else:  # a first ending closes with :|, the second follows it at once
            is_open = sign[1] == "1"


def check_file(score: Score) -> None:
    """Read the MIDI file with four programs: the same notes, none silent, hanging or doubled."""
    data = midi.render(score)
    expected = sorted((n.onset, n.pitch, n.duration) for n in score.unfolded().notes)
    assert len({(onset, pitch) for onset, pitch, _ in expected}) == len(expected)
    assert read_mido(data) == expected
    assert read_symusic(data) == expected
    assert read_pretty_midi(data) == expected
    assert read_music21(data) == expected


def read_mido(data: bytes) -> list[tuple[int, int, int]]:
    file = mido.MidiFile(file=io.BytesIO(data))
    notes, sounding, tick = [], {}, 0
    for message in file.tracks[-1]:
        tick += message.time
        if message.type == "note_on" and message.velocity:
            assert message.note not in sounding
            sounding[message.note] = tick
        elif message.type in ("note_on", "note_off"):
            start = sounding.pop(message.note)
            notes.append((start // 10, message.note, (tick - start) // 10))
    assert not sounding
    return sorted(notes)


def read_symusic(data: bytes) -> list[tuple[int, int, int]]:
    score: Any = symusic.Score.from_midi(data)  # its type depends on a default argument
    return sorted((n.time // 10, n.pitch, n.duration // 10) for t in score.tracks for n in t.notes)


def read_pretty_midi(data: bytes) -> list[tuple[int, int, int]]:
    file = pretty_midi.PrettyMIDI(io.BytesIO(data))
    notes = []
    for note in file.instruments[0].notes:
        start, end = (file.time_to_tick(at) for at in (note.start, note.end))
        notes.append((start // 10, note.pitch, (end - start) // 10))
    return sorted(notes)


def read_music21(data: bytes) -> list[tuple[int, int, int]]:
    file = music21.midi.MidiFile()
    file.readstr(data)
    notes: list[tuple[int, int, int]] = []
    sounding: dict[int, int] = {}
    tick = 0
    for event in file.tracks[-1].events:
        tick += event.time if event.isDeltaTime() else 0
        pitch = event.pitch or 0
        if event.isNoteOn():
            sounding[pitch] = tick
        elif event.isNoteOff():
            start = sounding.pop(pitch)
            notes.append((start // 10, pitch, (tick - start) // 10))
    return sorted(notes)


def check_abc(scores: list[Score], folder: Path) -> None:
    """Read the ABC back, ours and abc2midi's, which warns of bars that do not hold their meter."""
    texts = [abc.render(score, number) for number, score in enumerate(scores, 1)]
    for score, text in zip(scores, texts, strict=True):
        check_repeats(text)
        (reread,), refusals = abc.parse(text)
        assert not refusals
        assert replace(reread.canonical(), parts=score.parts) == score, text
    assert shutil.which("abc2midi"), "install abc2midi (Debian: apt-get install abcmidi)"
    book = folder / "tunes.abc"
    book.write_text("\n".join(texts), encoding="utf-8")
    done = subprocess.run(["abc2midi", book.name], cwd=folder, capture_output=True, text=True,
                          errors="replace", check=False)  # fmt: skip
    for midi_file in folder.glob("tunes*.mid"):
        midi_file.unlink()
    output = (done.stdout + done.stderr).splitlines()
    faults = [line for line in output if "time units" in line or line.startswith("Error")]
    assert [line for line in faults if "Hornpipe must be" not in line] == []


def check_all(notes: Iterator[tuple[Score, SamplingOptions]], folder: Path) -> None:
    scores = []
    for score, options in notes:
        check_form(score, options)
        check_file(score)
        scores.append(score)
    for start in range(0, len(scores), 200):
        check_abc(scores[start : start + 200], folder)


def test_tunes_from_random_weights_are_whole(tmp_path: Path) -> None:
    check_all(random_tunes(range(20)), tmp_path)


def test_tunes_from_folk_are_whole(tmp_path: Path) -> None:
    check_all(folk_tunes(range(30)), tmp_path)


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(4))
def test_1000_tunes_from_random_weights_are_whole(tmp_path: Path, chunk: int) -> None:
    check_all(random_tunes(range(250 * chunk, 250 * chunk + 250)), tmp_path)


@pytest.mark.promises
@pytest.mark.parametrize("chunk", range(4))
def test_1000_tunes_from_folk_are_whole(tmp_path: Path, chunk: int) -> None:
    check_all(folk_tunes(range(250 * chunk, 250 * chunk + 250)), tmp_path)


def test_tunes_from_an_untrained_checkpoint_are_whole(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "untrained"))
    tunes = (
        (model.draw(SamplingOptions(bars=8), 3, k).score, SamplingOptions(bars=8))
        for k in range(10)
    )
    check_all(tunes, tmp_path)


def test_noise_of_two_tunes_differs() -> None:
    flat = Sampler(RandomEngine(0, spread=0.0), SEEN_IDS)
    first, second = (flat.draw_ids(SamplingOptions(bars=4), Noise(1, number)) for number in (0, 1))
    assert not np.array_equal(first, second)
