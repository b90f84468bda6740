"""The bits of each note: they add up to what evaluation measures, and each is its own note's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from musicgen.errors import Refusal
from musicgen.formats import abc
from musicgen.model.network import LanguageModel
from musicgen.music.score import Note, Score
from musicgen.sampling.surprisal import locate_notes, measure_bits, measure_surprise
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import find_codec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import Model, load
from musicgen.training.heldout_loss import evaluate
from tests.fake_models import FixedEngine, RandomEngine, untrained
from tests.strategies import bands, scores

TUNE = "X:1\nT:Small\nR:jig\nM:6/8\nL:1/8\nK:G\n|:D|G2A B2c-|c(3ABA G-G2|[GB]3 z2:|\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(untrained(tmp_path_factory.mktemp("models") / "random"))


def tune(text: str = TUNE) -> Score:
    (score,), refusals = abc.parse(text)
    assert not refusals
    return score


def test_the_bits_are_those_that_evaluation_measures(model: Model) -> None:
    network = LanguageModel(model.checkpoint.settings)
    network.load_weights(model.checkpoint.weights)
    for text in (TUNE, TUNE.replace("K:G", "K:Em").replace("B2c", "d2e")):
        ids = np.array(model.codec.encode(tune(text)).ids)
        heldout = evaluate(network, [ids], [len(tune(text).canonical().notes)])
        surprise = model.measure_surprise(tune(text))
        assert surprise.bits_per_note == pytest.approx(heldout.bits_per_note, rel=1e-4)


def test_every_id_has_the_bits_of_its_share() -> None:
    logits = np.zeros(len(MEASURES))
    logits[MEASURES.id("bar")] = 2.0
    total = math.log2(len(MEASURES) - 1 + math.e**2)
    surprise = measure_surprise(FixedEngine(logits), find_codec("measures"), tune())
    first = surprise.notes[0]
    assert (first.bar, first.pitch) == (0, 62)
    assert first.bits == pytest.approx(2 * total)
    assert surprise.other_bits["bar"] == pytest.approx(2 * (total - 2 / math.log(2)))
    assert surprise.other_bits["partial"] == pytest.approx(2 * total)
    assert surprise.other_bits["meter"] == pytest.approx(total)
    heldout = next(note for note in surprise.notes if note.pitch == 72)
    assert heldout.duration == 48
    assert heldout.bits == pytest.approx(4 * total)  # tied over the bar
    triplet = next(note for note in surprise.notes if note.duration == 16)
    assert triplet.bits == pytest.approx(3 * total)  # its bracket is its own
    upper, lower = (note for note in surprise.notes if note.bar == 3)
    assert (upper.pitch, lower.pitch) == (71, 67)
    assert upper.bits == pytest.approx(2 * total)
    assert lower.bits == pytest.approx(total)
    assert surprise.other_bits["duration"] == pytest.approx(total)  # of the silence at the end


def test_the_most_surprising_notes_are_marked() -> None:
    surprise = measure_surprise(RandomEngine(3), find_codec("measures"), tune())
    marked = [note for note in surprise.notes if note in surprise.marked_notes]
    assert len(marked) == math.ceil(len(surprise.notes) / 10)
    assert min(n.bits for n in marked) >= max(
        n.bits for n in surprise.notes if n not in surprise.marked_notes
    )
    assert sum("*" in line for line in surprise.format_lines()) >= 1


def test_report_lists_bits_bar_by_bar() -> None:
    surprise = measure_surprise(RandomEngine(3), find_codec("measures"), tune())
    lines = list(surprise.format_lines())
    assert [line.split(":")[0] for line in lines[:-1]] == ["bar 0", "bar 1", "bar 2", "bar 3"]
    assert f"{surprise.bits_per_note:.2f} a note" in lines[-1]
    told = json.loads(json.dumps(surprise.to_json()))
    bits = sum(note["bits"] for note in told["notes"]) + sum(told["rest"].values())
    assert bits == pytest.approx(told["bits"], abs=0.01)


@pytest.mark.parametrize("name", ["measures", "performance", "frames", "frames-16"])
@settings(max_examples=30)
@given(score=bands(2))
def test_each_note_has_ids_of_its_own(name: str, score: Score) -> None:
    codec: AnyCodec = find_codec(name)
    if name != "measures" and any(part.is_drums for part in score.parts):
        return
    check_ownership(codec, score)


@given(scores())
def test_each_note_of_any_score_has_ids_of_its_own(score: Score) -> None:
    check_ownership(find_codec("measures"), score)


def check_ownership(codec: AnyCodec, score: Score) -> None:
    try:
        encoded = codec.encode(score)
    except Refusal:  # it has no event for something: another test's
        return
    notes = locate_notes(codec, encoded.ids, encoded.setting)
    positions = codec.decode(encoded.ids, encoded.setting).piece
    lines = sorted((n.onset, n.pitch, n.end - n.onset, n.part) for n in notes)
    assert lines == sorted((n.onset, n.pitch, n.duration, n.part) for n in positions.notes)
    places = [position for note in notes for position in note.positions]
    assert len(set(places)) == len(places)
    assert all(note.positions for note in notes)
    kinds = {codec.vocabulary.event(encoded.ids[position]).kind for position in places}
    assert kinds <= {"tuplet", "duration", "pitch", "drum", "hold", "on", "off", "velocity"}


def test_a_text_has_bits_per_character() -> None:
    codec = find_codec("text")
    surprise = measure_surprise(FixedEngine(np.zeros(len(codec.vocabulary))), codec, "abc")
    assert (surprise.notes, surprise.count) == ((), 3)
    assert surprise.bits == pytest.approx(4 * math.log2(len(codec.vocabulary)))
    assert "a character" in next(surprise.format_lines())


def test_without_notes_there_are_still_bits() -> None:
    surprise = measure_surprise(
        FixedEngine(np.zeros(len(MEASURES))), find_codec("measures"), Score()
    )
    assert (surprise.notes, surprise.count) == ((), 0)
    assert surprise.bits_per_note == surprise.bits > 0


def test_a_note_alone_is_asked_after_all_before_it(tmp_path: Path) -> None:
    """The bits of an id do not know what comes after it."""
    engine = load(untrained(tmp_path / "m")).sampler.engine
    score = Score((Note(0, 60, 48), Note(48, 64, 48)))
    ids = find_codec("measures").encode(score).ids
    assert measure_bits(engine, ids)[:7].tolist() == measure_bits(engine, ids[:7]).tolist()
