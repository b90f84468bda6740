"""Real tunes: what is read comes back from ids, ABC and MIDI, and no test tune was learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from musicgen.corpus.build import build
from musicgen.corpus.sources import iter_tunes
from musicgen.corpus.store import EncodedTune
from musicgen.formats import abc, midi
from musicgen.music.melodic_runs import Move, list_moves
from musicgen.music.score import Score
from musicgen.tokens.codec import Decoded, Setting, find_first_illegal
from musicgen.tokens.measures import MeasuresCodec

CODEC = MeasuresCodec()
SHARED = 32  # consecutive moves that make two tunes near-duplicates


def read(source: str, stride: int = 1) -> Iterator[Score]:
    """Yield every stride-th tune of a corpus, canonical."""
    found = [score for score, _ in iter_tunes(source) if isinstance(score, Score)]
    return (score.canonical() for score in found[::stride])


def played(score: Score) -> tuple[object, ...]:
    """Return what is played: notes, tempos, meter, key, program, title."""
    marks = {(m.onset, m.kind, str(m.value)) for m in score.marks if m.kind in ("key", "meter")}
    return score.notes, marks, score.qpm, score.parts[0].program, score.title


def check_round_trips(scores: Iterator[Score], at_least: int) -> None:
    count = 0
    for score in scores:
        encoded = CODEC.encode(score)
        assert CODEC.decode(encoded.ids, encoded.setting) == Decoded(score, dropped=0)
        assert find_first_illegal(encoded.ids, CODEC.create_grammar(strict=False)) is None
        (back,), refusals = abc.parse(abc.render(score))
        assert not refusals
        assert replace(back.canonical(), parts=score.parts) == score
        (heard,), refusals = midi.parse(midi.render(score))
        assert not refusals
        assert played(heard) == played(score.unfolded())
        count += 1
    assert count >= at_least


def test_tunes_come_back_from_ids_abc_and_midi() -> None:
    check_round_trips(read("ryan", 12), 80)


@pytest.mark.promises
def test_all_tunes_come_back_from_ids_abc_and_midi() -> None:
    check_round_trips(read("dance-tunes"), 4163)  # 98 % of 4,248


def line(tune: EncodedTune) -> list[Move]:
    return list_moves(CODEC.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score)


def runs_of(tune: EncodedTune) -> Iterator[tuple[Move, ...]]:
    moves = line(tune)
    return (tuple(moves[i : i + SHARED]) for i in range(len(moves) - SHARED + 1))


def check_no_memory(source: str) -> None:
    """No held-out tune shares 32 moves with one that was learnt from: compared run by run."""
    dataset, _ = build([source])
    learnt = {run for tune in dataset.train for run in runs_of(tune)}
    assert len(learnt) > 10_000
    assert dataset.test
    assert dataset.valid
    for tune in (*dataset.test, *dataset.valid):
        assert not [run for run in runs_of(tune) if run in learnt], tune.title


def test_no_held_out_tune_was_learnt_from() -> None:
    check_no_memory("ryan")


@pytest.mark.promises
def test_no_held_out_dance_tune_was_learnt_from() -> None:
    check_no_memory("dance-tunes")
