"""Tunes that are moved by semitones as they are drawn, where a codec leaves them in their keys."""

from __future__ import annotations

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
from musicgen.tokens.registry import find
from musicgen.training.batches import HIGHEST, LOWEST, Lanes, moved, room_of
from musicgen.training.plan import Options, Plan, new_trainer, pitches_of, plan
from musicgen.training.run import Run

CHORALE = Path(music21.__file__).parent / "corpus" / "bach" / "bwv66.6.mxl"
KEYED = ("performance", "frames", "frames-16")


@pytest.fixture(scope="module")
def chorale() -> Score:
    scores, _ = musicxml.parse(CHORALE.read_bytes())
    return scores[0]


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("semitones", [-5, -1, 3, 6])
def test_moved_ids_are_the_piece_in_another_key(name: str, semitones: int, chorale: Score) -> None:
    codec = find(name)
    encoded = codec.encode(chorale)
    ids = np.array(encoded.ids)
    piece = codec.decode(encoded.ids, encoded.setting).piece
    other = codec.decode(moved(ids, pitches_of(name), semitones), encoded.setting)
    assert isinstance(piece, Score)
    assert isinstance(other.piece, Score)
    assert other.dropped == 0
    before, after = (
        [(note.onset, note.duration, note.pitch) for note in score.notes]
        for score in (piece, other.piece)
    )
    assert before
    assert after == [(onset, length, pitch + semitones) for onset, length, pitch in before]


def test_no_pitch_leaves_the_midi_range() -> None:
    (pitches,) = pitches_of("frames")
    ids = np.array([2, pitches[2], pitches[60], 2, pitches[126], 1])
    assert room_of(ids, [pitches]) == range(-2, 2)
    assert room_of(np.array([2, 1]), [pitches]) == range(LOWEST, HIGHEST + 1)


@pytest.mark.parametrize("name", ["measures", "text", "text-words"])
def test_tunes_whose_keys_are_normalised_and_texts_stay_as_they_are(name: str) -> None:
    assert pitches_of(name) == ()


def test_each_key_comes_as_often_and_a_tune_keeps_its_own() -> None:
    ids, pitches = np.array([40, 44, 47, 52, 1]), range(3, 131)
    lanes = Lanes([ids], 1, np.random.default_rng(0), [pitches])
    read = np.concatenate([lanes.next(7).targets[0] for _ in range(1700)])
    tunes = read[: len(read) // 5 * 5].reshape(-1, 5)
    by = tunes[:, 0] - 40
    assert np.array_equal(tunes, np.column_stack([*(ids[:4, None] + by), np.ones_like(by)]))
    often = Counter(by.tolist())
    assert sorted(often) == list(range(LOWEST, HIGHEST + 1))
    assert min(often.values()) > 130  # of about 198


def test_the_stream_goes_on_in_the_key_that_it_was_cut_in() -> None:
    tunes = [np.arange(40 + tune, 49 + tune) for tune in range(5)]
    lanes, other = (
        Lanes(tunes, 3, np.random.default_rng(seed), [range(3, 131)]) for seed in (0, 1)
    )
    lanes.next(7)
    other.seek(lanes.position())
    for _ in range(20):
        assert np.array_equal(lanes.next(7).targets, other.next(7).targets)


def moving(found: Plan) -> Plan:
    return replace(found, training=replace(found.training, transposed=True))


@pytest.mark.parametrize("name", KEYED)
def test_a_run_moves_its_tunes_where_it_is_told_to(name: str, chorale: Score) -> None:
    codec = find(name)
    ids = np.array(codec.encode(chorale).ids, np.int16)
    tune = EncodedTune(ids, 9, "T", "x", "g", "C", "4/4", "", "{}")
    dataset = Dataset([tune], [], [], name, codec.vocabulary.names, {})
    found = plan(dataset, Options(hidden=8, layers=1, device="cpu"))
    assert not found.training.transposed  # measured: it does not pay
    trainer = new_trainer(dataset, moving(found))
    keys = set()
    for _ in range(60):
        trainer.next()
        keys.add(trainer.lanes.at[0].semitones)
    assert len(keys) > 1


def test_a_pitch_that_is_only_met_when_moved_can_be_drawn() -> None:
    codec = find("frames")
    white = [60, 62, 64, 65, 67]
    ids = np.array(encode_frames([{pitch} for pitch in white]), np.int16)
    tune = EncodedTune(ids, 5, "T", "x", "g", "C", "4/4", "", "{}")
    dataset = Dataset([tune], [], [], "frames", codec.vocabulary.names, {})
    found = plan(dataset, Options(hidden=8, layers=1, device="cpu"))
    run = Run(dataset, moving(found), "new", Path("new"))
    (pitches,) = pitches_of("frames")
    assert run.seen[pitches[66]] > 0
    assert run.seen[pitches[60]] > 0
    assert run.seen[pitches[60 + HIGHEST + 8]] == 0
