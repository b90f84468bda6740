"""Transposition of tunes as they are drawn, for codecs that do not normalise keys."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import music21
import numpy as np
import pytest

from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.formats import musicxml
from musicgen.music.score import Score
from musicgen.tokens.frames import encode_frames
from musicgen.tokens.performance import PerformanceCodec
from musicgen.tokens.registry import find_codec
from musicgen.tokens.time_context import TimeContextSource
from musicgen.training.batches import (
    MAX_TRANSPOSITION,
    MIN_TRANSPOSITION,
    ContextCache,
    WindowStream,
    find_transposition_range,
    transpose_ids,
)
from musicgen.training.plan import Plan, TrainingOptions, find_pitch_ranges, make_plan, make_trainer
from musicgen.training.run import TrainingRun
from tests.random_walks import walk_codec

CHORALE = Path(music21.__file__).parent / "corpus" / "bach" / "bwv66.6.mxl"
KEYED = ("performance", "frames", "frames-16")


@pytest.fixture(scope="module")
def chorale() -> Score:
    scores, _ = musicxml.parse(CHORALE.read_bytes())
    return scores[0]


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("semitones", [-5, -1, 3, 6])
def test_transposed_ids_are_the_piece_in_another_key(
    name: str, semitones: int, chorale: Score
) -> None:
    codec = find_codec(name)
    encoded = codec.encode(chorale)
    ids = np.array(encoded.ids)
    piece = codec.decode(encoded.ids, encoded.setting).piece
    transposed = codec.decode(
        transpose_ids(ids, find_pitch_ranges(name), semitones), encoded.setting
    )
    assert isinstance(piece, Score)
    assert isinstance(transposed.piece, Score)
    assert transposed.dropped == 0
    notes, transposed_notes = (
        [(note.onset, note.duration, note.pitch) for note in score.notes]
        for score in (piece, transposed.piece)
    )
    assert notes
    assert transposed_notes == [
        (onset, length, pitch + semitones) for onset, length, pitch in notes
    ]


def test_transposition_stays_in_the_midi_range() -> None:
    (pitches,) = find_pitch_ranges("frames")
    ids = np.array([2, pitches[2], pitches[60], 2, pitches[126], 1])
    assert find_transposition_range(ids, [pitches]) == range(-2, 2)
    assert find_transposition_range(np.array([2, 1]), [pitches]) == range(
        MIN_TRANSPOSITION, MAX_TRANSPOSITION + 1
    )


@pytest.mark.parametrize("name", ["measures", "text", "text-words"])
def test_texts_and_normalised_keys_are_not_transposed(name: str) -> None:
    assert find_pitch_ranges(name) == ()


def test_transpositions_are_uniform_and_constant_within_a_tune() -> None:
    ids, pitches = np.array([40, 44, 47, 52, 1]), range(3, 131)
    lanes = WindowStream([ids], 1, np.random.default_rng(0), [pitches])
    tunes = np.stack([lanes.next_window(7).targets[0] for _ in range(2400)])
    semitones = tunes[:, 0] - 40
    assert np.array_equal(
        tunes, np.column_stack([*(ids[:4, None] + semitones), np.ones_like(semitones)])
    )
    counts = Counter(semitones.tolist())
    assert sorted(counts) == list(range(MIN_TRANSPOSITION, MAX_TRANSPOSITION + 1))
    assert min(counts.values()) > 130  # of about 198


def test_seek_restores_the_transposition() -> None:
    tunes = [np.arange(40 + tune, 49 + tune) for tune in range(5)]
    stream, restored = (
        WindowStream(tunes, 3, np.random.default_rng(seed), [range(3, 131)]) for seed in (0, 1)
    )
    stream.next_window(7)
    restored.seek(stream.get_position())
    for _ in range(20):
        assert np.array_equal(stream.next_window(7).targets, restored.next_window(7).targets)


def with_transposition(plan: Plan) -> Plan:
    return replace(plan, training=replace(plan.training, transposed=True))


@pytest.mark.parametrize("name", KEYED)
def test_transposed_setting_transposes_tunes(name: str, chorale: Score) -> None:
    codec = find_codec(name)
    ids = np.array(codec.encode(chorale).ids, np.int16)
    tune = EncodedTune(ids, 9, "T", "x", "g", "C", "4/4", "", "{}")
    dataset = Dataset([tune], [], [], name, codec.vocabulary.names, {})
    plan = make_plan(dataset, TrainingOptions(hidden=8, layers=1, device="cpu"))
    assert plan.training.transposed == (name == "performance")  # of chorales: measured no gain
    plan = replace(plan, training=replace(plan.training, transposed=False))
    trainer = make_trainer(dataset, with_transposition(plan))
    keys = set()
    for _ in range(60):
        trainer.next_window()
        keys.add(trainer.window_stream.positions[0].semitones)
    assert len(keys) > 1


def test_event_counts_include_transposed_pitches() -> None:
    codec = find_codec("frames")
    white = [60, 62, 64, 65, 67]
    ids = np.array(encode_frames([{pitch} for pitch in white]), np.int16)
    tune = EncodedTune(ids, 5, "T", "x", "g", "C", "4/4", "", "{}")
    dataset = Dataset([tune], [], [], "frames", codec.vocabulary.names, {})
    plan = make_plan(dataset, TrainingOptions(hidden=8, layers=1, device="cpu"))
    run = TrainingRun(dataset, with_transposition(plan), "new", Path("new"))
    (pitches,) = find_pitch_ranges("frames")
    assert run.event_counts[pitches[66]] > 0
    assert run.event_counts[pitches[60]] > 0
    assert run.event_counts[pitches[60 + MAX_TRANSPOSITION + 8]] == 0


def test_context_of_a_window_is_that_of_the_transposed_ids() -> None:
    codec, source = PerformanceCodec(), TimeContextSource()
    tunes = [np.array(walk_codec(codec, random.Random(seed))) for seed in range(3)]
    ranges = find_pitch_ranges(codec.name)
    stream = WindowStream(tunes, 1, np.random.default_rng(1), ranges, ContextCache(tunes, source))
    seen: list[int] = []
    for _ in range(3):
        window = stream.next_window(1000)
        assert window.starts.all()
        (fields,) = source.compute([window.targets[0]])
        assert window.context is not None
        assert (window.context[0] == fields).all()
        seen.append(stream.positions[0].semitones)
    assert any(seen)
