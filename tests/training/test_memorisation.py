"""What is copied is found in any key, and a run stops before it keeps what copies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from musicgen.config import ModelSettings
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.model.network import LanguageModel
from musicgen.music.score import Note, Score
from musicgen.tokens.registry import find_codec
from musicgen.training.memorisation import (
    NGRAM_NOTES,
    CopyCounts,
    MemorisationCheck,
    count_copied,
    count_shared,
    extract_ngrams,
    merge_ngrams,
    stop_on_memorisation,
)
from musicgen.training.trainer import BestWeights, Progress, Trainer


def drawn(seed: int, count: int = 30) -> Score:
    chance = random.Random(seed)
    return Score(tuple(Note(24 * i, chance.randint(60, 80), 24) for i in range(count)))


def slower(score: Score) -> Score:
    return Score(tuple(Note(2 * n.onset, n.pitch, 2 * n.duration) for n in score.notes))


def test_a_tune_of_n_notes_has_n_minus_7_stretches() -> None:
    assert NGRAM_NOTES == 8
    assert [len(extract_ngrams(drawn(1, count))) for count in (7, 8, 9, 30)] == [0, 1, 2, 23]


def test_a_rest_ends_a_stretch() -> None:
    notes = drawn(1, 16).notes
    apart = Score((*notes[:8], *(Note(n.onset + 24, n.pitch, n.duration) for n in notes[8:])))
    assert len(extract_ngrams(apart)) == 2


def test_a_copy_is_found_in_any_key_and_in_the_same_durations_only() -> None:
    known = merge_ngrams([extract_ngrams(drawn(1)), extract_ngrams(drawn(2))])
    higher = drawn(1).transpose(5)
    assert count_copied([extract_ngrams(higher)], known).share == 1
    assert (
        count_copied([extract_ngrams(slower(higher)), extract_ngrams(drawn(3))], known).share == 0
    )


def test_the_first_duration_counts() -> None:
    first, *rest = drawn(1, 8).notes
    longer = Score((Note(first.onset - 24 + 24, first.pitch, first.duration), *rest))
    assert extract_ngrams(longer) == extract_ngrams(drawn(1, 8))
    other = Score((Note(0, first.pitch, 48), *(Note(n.onset + 24, n.pitch, 24) for n in rest)))
    assert extract_ngrams(other) != extract_ngrams(drawn(1, 8))


def test_half_a_copy_is_half_a_rate() -> None:
    found = count_copied(
        [extract_ngrams(drawn(1)), extract_ngrams(drawn(2))],
        merge_ngrams([extract_ngrams(drawn(1))]),
    )
    assert (found.copied_counts, found.total_counts, found.share) == ((23, 0), (23, 23), 0.5)


def test_people_share_what_stands_in_another_group() -> None:
    tunes = [extract_ngrams(drawn(number)) for number in (1, 1, 2)]
    assert count_shared(tunes, ["a", "b", "c"]).copied_counts == (23, 23, 0)
    assert count_shared(tunes, ["a", "a", "c"]).share == 0
    assert count_shared(tunes[:1], ["a"]).share == 0


def test_clearly_more_is_more_than_luck() -> None:
    human = CopyCounts((0, 3, 1, 0, 2, 0), (40,) * 6)
    assert CopyCounts((20, 24, 18, 30, 22, 25), (40,) * 6).clearly_exceeds(human)
    assert not CopyCounts((0, 12, 0, 0, 0, 0), (40,) * 6).clearly_exceeds(human)
    assert not human.clearly_exceeds(human)
    assert not CopyCounts((), ()).clearly_exceeds(human)
    assert CopyCounts((2, 3), (40, 40)).standard_error == pytest.approx(1 / 80)


class Learning:
    """A trainer that keeps each of its weights, and copies a tenth more at each evaluation."""

    def __init__(self) -> None:
        self.best = BestWeights()
        self.model = SimpleNamespace(number=0)

    def run(self) -> Iterator[Progress]:
        for number in range(1, 8):
            self.model.number = number
            model: Any = SimpleNamespace(arrays=lambda number=number: {"w": np.array([number])})
            self.best.keep_if_better(-float(number), number, model)
            yield Progress(
                number, number, 7, 1.0, 1.0, 1.0, 0.0, 0.1, 1.0, 0,
                is_best=number % 2 == 0, is_last=number == 7,
            )  # fmt: skip


class Counting(MemorisationCheck):
    def judged(self, model: Any) -> CopyCounts:
        return CopyCounts((model.number * 2,) * 6, (20,) * 6)


def a_judge(human: float) -> MemorisationCheck:
    of = CopyCounts((round(20 * human),) * 6, (20,) * 6)
    return Counting(find_codec("measures"), frozenset(), of, frozenset())


class Failing(MemorisationCheck):
    def judged(self, model: Any) -> CopyCounts:
        raise IndexError("no velocity\nof part 2")


def refuse(line: str) -> None:
    pytest.fail(line)


def test_a_judge_that_fails_is_told_once_and_ends_no_run() -> None:
    trainer, told = Learning(), list[str]()
    judge = Failing(find_codec("measures"), frozenset(), CopyCounts((), ()), frozenset())
    steps = list(stop_on_memorisation(cast(Trainer, trainer), judge, told.append))
    assert [step.copied_share for step in steps] == [None] * 7
    assert steps[-1].is_last
    assert trainer.best.weights["w"].tolist() == [7]
    assert told == [
        "copies: no tune could be drawn (no velocity of part 2); not judged from here on"
    ]


def test_a_run_stops_where_it_copies_and_keeps_what_it_had() -> None:
    trainer = Learning()
    steps = list(stop_on_memorisation(cast(Trainer, trainer), a_judge(0.45), refuse))
    assert [step.copied_share for step in steps] == [None, 0.2, None, 0.4, None, 0.6]
    assert (steps[-1].is_best, steps[-1].is_last) == (False, True)
    assert trainer.best.weights["w"].tolist() == [4]


def test_a_run_that_copies_no_more_than_people_goes_on() -> None:
    trainer = Learning()
    steps = list(stop_on_memorisation(cast(Trainer, trainer), a_judge(0.7), refuse))
    assert len(steps) == 7
    assert trainer.best.weights["w"].tolist() == [7]


def encoded(score: Score, group: str) -> EncodedTune:
    found = find_codec("measures").encode(score)
    ids = np.array(found.ids, np.int16)
    return EncodedTune(
        ids, len(score.notes), "", "", group, "C major", "4/4", "", found.setting.to_json()
    )


def test_a_judge_reads_the_tunes_and_lets_the_model_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.training.memorisation.SAMPLED_TUNES", 2)
    monkeypatch.setattr("musicgen.training.memorisation.SAMPLED_BARS", 1)
    codec = find_codec("measures")
    tunes = [encoded(drawn(number), str(number)) for number in (1, 1, 2)]
    held = encoded(drawn(2), "held")
    dataset = Dataset(tunes, [held], [], "measures", codec.vocabulary.names, {})
    seen = [1] * dataset.vocabulary_size
    judge = MemorisationCheck.of(dataset, seen)
    assert judge.human_counts.share == pytest.approx(0.5)  # the third and the one held out
    settings = ModelSettings(dataset.vocabulary_size, layers=1, hidden=8, embedding=8)
    model = LanguageModel(settings)
    found = judge.measure(model)
    assert len(found.total_counts) == 2
    assert found == judge.measure(model)
