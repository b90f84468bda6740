"""Real tunes round-trip through ids, ABC and MIDI, and held-out tunes are not in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from musicgen.corpus.build import build
from musicgen.corpus.sources import list_files
from musicgen.corpus.store import EncodedTune
from musicgen.formats import abc, midi
from musicgen.music.melodic_runs import Move, list_moves
from musicgen.music.score import Score
from musicgen.tokens.codec import Decoded, Setting, find_first_illegal
from musicgen.tokens.measures import MeasuresCodec

CODEC = MeasuresCodec()
SHARED = 32  # consecutive moves that make two tunes near-duplicates


def read(source: str, stride: int = 1) -> Iterator[Score]:
    """Yield the tunes of every stride-th file of a corpus in canonical form."""
    for file in list_files(source)[::stride]:
        yield from (score.canonical() for score in file.read()[0])


def describe_performance(score: Score) -> tuple[object, ...]:
    """Return what is audible or named: notes, marks, tempo, program, title."""
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
        assert describe_performance(heard) == describe_performance(score.unfolded())
        count += 1
    assert count >= at_least


def test_tunes_round_trip_through_ids_abc_and_midi() -> None:
    check_round_trips(read("ryan", 12), 80)


@pytest.mark.promises
def test_all_tunes_round_trip_through_ids_abc_and_midi() -> None:
    check_round_trips(read("dance-tunes"), 4163)  # 98 % of 4,248


def decode_moves(tune: EncodedTune) -> list[Move]:
    return list_moves(CODEC.decode(tune.ids.tolist(), Setting.from_json(tune.setting)).score)


def iter_runs(tune: EncodedTune) -> Iterator[tuple[Move, ...]]:
    moves = decode_moves(tune)
    return (tuple(moves[i : i + SHARED]) for i in range(len(moves) - SHARED + 1))


def check_no_shared_runs(sources: Sequence[str | Path]) -> None:
    """Check that no held-out tune shares 32 consecutive moves with a training tune."""
    dataset, _ = build(sources)
    learnt = {run for tune in dataset.train for run in iter_runs(tune)}
    assert len(learnt) > 10_000
    assert dataset.test
    assert dataset.valid
    for tune in (*dataset.test, *dataset.valid):
        assert not [run for run in iter_runs(tune) if run in learnt], tune.title


def test_held_out_tunes_share_no_run_with_training() -> None:
    check_no_shared_runs([file.path for file in list_files("ryan")[::3]])


@pytest.mark.promises
def test_held_out_dance_tunes_share_no_run_with_training() -> None:
    check_no_shared_runs(["dance-tunes"])
