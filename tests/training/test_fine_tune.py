"""A model goes on with other tunes: its codec, shape, events and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musicgen.checkpoint import Checkpoint, Manifest, save
from musicgen.checkpoint import load as load_checkpoint
from musicgen.config import ModelSettings
from musicgen.corpus.build import build
from musicgen.corpus.store import Dataset, EncodedTune
from musicgen.errors import Interrupted, Mismatch
from musicgen.model.network import LanguageModel
from musicgen.tokens.text import TextCodec
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import load
from musicgen.training.fine_tune import (
    adapt_model_settings,
    extend_embeddings,
    merge_dance_counts,
    merge_event_counts,
    merge_tonic_counts,
    merge_vocabularies,
    remap_dataset,
)
from musicgen.training.plan import TrainingOptions, adjust_split, make_plan, make_trainer
from musicgen.training.resume import load_saved_run
from musicgen.training.run import TrainingRun, count_dances
from tests import synthetic_tunes

KNOWN = TextCodec("text", "abc", is_word_level=False)
OTHER = TextCodec("text", "dacx", is_word_level=False)


def a_model(
    folder: Path, names: tuple[str, ...], codec: str, seen: tuple[int, ...] = (), **shape: int
) -> Checkpoint:
    """Write a model with weights that are drawn."""
    settings = ModelSettings(len(names), **{"layers": 1, "hidden": 8, "embedding": 8, **shape})  # type: ignore[arg-type]
    corpus = {
        "cards": [{"name": "old", "title": "Old Book", "source": "S", "terms": "T"}],
        "fingerprint": "f" * 64,
        "tonics": {"dorian": {"D": 3}, "major": {"A": 9}},
    }
    manifest = Manifest("base", 3, settings, names, seen or (50,) * len(names), codec, corpus)
    save(folder, LanguageModel(settings).copy_weights(), manifest)
    return load_checkpoint(folder)


def texts(codec: TextCodec, *written: str) -> Dataset:
    tunes = [
        EncodedTune(np.array(codec.encode(text).ids, np.int16), len(text), text, "", text,
                    "", "", "", "{}")
        for text in written
    ]  # fmt: skip
    return Dataset(tunes, tunes[:1], tunes[1:], codec.name, codec.vocabulary.names, {})


def test_another_codec_is_refused_and_both_are_named(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    with pytest.raises(Mismatch, match="its codec is measures, the tunes were encoded with text"):
        remap_dataset(texts(OTHER, "dad"), start)


def test_another_table_of_notes_is_refused(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    dataset = Dataset([], [], [], "measures", MEASURES.names[:-1], {})
    with pytest.raises(Mismatch, match=f"it has {len(MEASURES)} events.*{len(MEASURES) - 1}"):
        remap_dataset(dataset, start)


def test_the_same_table_changes_nothing(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", OTHER.vocabulary.names, "text")
    dataset = texts(OTHER, "dad", "x")
    assert remap_dataset(dataset, start) is dataset


def test_a_text_reads_the_same_in_the_vocabulary_of_both(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text")
    found = remap_dataset(texts(OTHER, "dad", "xxc"), start)
    assert found.vocabulary == (*KNOWN.vocabulary.names, "token=d", "token=x")
    both = TextCodec("text", "abcdx", is_word_level=False)
    assert found.vocabulary == both.vocabulary.names
    for part in (found.train, found.valid, found.test):
        for tune in part:
            assert both.encode(tune.title).ids == tuple(tune.ids.tolist())
            assert tune.ids.dtype == np.int16


def test_too_many_events_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text")
    monkeypatch.setattr("musicgen.training.fine_tune.MAX_VOCABULARY_SIZE", 7)
    with pytest.raises(Mismatch, match="there would be 8 events, over 7"):
        remap_dataset(texts(OTHER, "dad"), start)


def test_joined_keeps_places() -> None:
    assert merge_vocabularies(("a", "b"), ("c", "b", "d")) == ("a", "b", "c", "d")


@pytest.mark.parametrize("shape", [{"tied": True}, {"tied": False}, {"embedding": 6}])
def test_new_rows_are_near_the_mean_and_old_ones_as_they_were(
    tmp_path: Path, shape: dict[str, int]
) -> None:
    seen = (0, 50, 50, 50, 50, 1)
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text", seen, **shape)
    weights = extend_embeddings(start, 9)
    LanguageModel(adapt_model_settings(start, 9, {})).load_weights(weights)
    for name, array in start.weights.items():
        assert np.array_equal(weights[name][: len(array)], array), name
    known = start.weights["embedding.weight"][1:5]
    fresh = weights["embedding.weight"][6:]
    assert np.abs(fresh - known.mean(0)).max() < known.std(0).max()
    assert len({row.tobytes() for row in fresh}) == 3
    assert weights["head.bias"][6:].tolist() == [start.weights["head.bias"][1:5].min()] * 3
    assert all(array.dtype == np.float32 for array in weights.values())


@pytest.mark.parametrize(("name", "value"), [("cell", "gru"), ("layers", 2), ("hidden", 9)])
def test_another_shape_is_refused(tmp_path: Path, name: str, value: object) -> None:
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text")
    with pytest.raises(Mismatch, match=f"--{name} {value}: base has"):
        adapt_model_settings(start, 6, {name: value})
    known = getattr(start.settings, name)
    assert getattr(adapt_model_settings(start, 6, {name: known}), name) == known


def test_what_was_met_before_may_still_be_drawn(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text", (0, 1, 2, 3, 4, 5))
    assert merge_event_counts(start, [0, 0, 0, 1, 0, 1, 7, 0]) == (0, 1, 2, 4, 4, 6, 7, 0)
    assert merge_tonic_counts(start, {"major": {"C": 1}}) == {"dorian": {"D": 3}, "major": {"C": 1}}


def test_dances_are_added_to_those_of_a_model_that_says_its_own(tmp_path: Path) -> None:
    start = a_model(tmp_path / "m", KNOWN.vocabulary.names, "text")
    new = {"jig": {"6/8": 2, "9/8": 1}, "reel": {"2/2": 1}}
    assert merge_dance_counts(start, new) == {}, "it may have learnt from others"
    said = replace(start.manifest, corpus={"dances": {"jig": {"6/8": 5}, "waltz": {"3/4": 1}}})
    assert merge_dance_counts(replace(start, manifest=said), new) == {
        "jig": {"6/8": 7, "9/8": 1}, "reel": {"2/2": 1}, "waltz": {"3/4": 1},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _judged_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.training.memorisation.SAMPLED_TUNES", 1)
    monkeypatch.setattr("musicgen.training.memorisation.SAMPLED_BARS", 1)
    monkeypatch.setattr("musicgen.training.plan.SMALL_RUN_EVALUATIONS", 1)
    monkeypatch.setattr("musicgen.training.model_card.SEEDS_SHOWN", 1)
    monkeypatch.setattr("musicgen.training.model_card.BARS_SHOWN", 1)


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("tunes")
    (folder / "book.abc").write_text(
        "".join(synthetic_tunes.tune(number) for number in range(1, 13))
    )
    return adjust_split(build([folder], jobs=0)[0])


def test_the_meters_of_each_dance_are_counted(tmp_path: Path) -> None:
    fields = [("reel", "2/2"), ("reel", "2/2"), ("reel", "4/4"), ("jig", "6/8"), ("", "6/8")]
    music = {"2/2": "CDEF GABc|", "4/4": "CDEF GABc|", "6/8": "CDE FGA|"}
    book = [
        f"X:{number}\nT:{number}\nR:{rhythm}\nM:{meter}\nL:1/8\nK:C\n"
        f"{music[meter] * (number + 4)}\n\n"
        for number, (rhythm, meter) in enumerate(fields, 1)
    ]
    (tmp_path / "book.abc").write_text("".join(book))
    dataset, _ = build([tmp_path / "book.abc"], jobs=0)
    every = [*dataset.train, *dataset.valid, *dataset.test]
    assert count_dances(every) == {
        "": {"6/8": 1}, "jig": {"6/8": 1}, "reel": {"2/2": 2, "4/4": 1},
    }  # fmt: skip


def test_a_run_starts_from_the_weights_and_says_so(tmp_path: Path, tunes: Dataset) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    found = make_plan(tunes, TrainingOptions(epochs=1, bptt=64), start)
    assert (found.model.hidden, found.origin, found.guarded) == (8, "base 3", True)
    assert any(line.startswith("goes on from base 3") for line in found.lines)
    trainer = make_trainer(tunes, found, start)
    assert np.array_equal(trainer.model.copy_weights()["embedding.weight"],
                          start.weights["embedding.weight"])  # fmt: skip
    run = TrainingRun(tunes, found, "mine", tmp_path / "mine", base=start)
    steps = list(run.train())
    assert any(step.copied_share is not None for step in steps)
    assert "copied" in (tmp_path / "mine" / "metrics.jsonl").read_text()
    manifest = load(tmp_path / "mine").checkpoint.manifest
    assert manifest.corpus["adapted_from"]["name"] == "base"
    assert manifest.corpus["tonics"]["dorian"] == {"D": 3}
    assert min(manifest.seen) >= 50
    assert "dances" not in manifest.corpus, "its start does not say its own"
    card = (tmp_path / "mine" / "MODEL_CARD.md").read_text()
    assert "went on from the weights of base 3, which learnt from:\n\n- **Old Book**" in card


def test_where_nothing_is_better_the_model_stays_as_it_was(tmp_path: Path, tunes: Dataset) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    found = make_plan(tunes, TrainingOptions(epochs=1, bptt=64, learning_rate=1e-12), start)
    run = TrainingRun(tunes, found, "mine", tmp_path / "mine", base=start)
    run.trainer.best.loss = -1.0  # lower than any loss
    for _ in run.train():
        pass
    assert np.array_equal(
        load(tmp_path / "mine").checkpoint.weights["head.bias"], start.weights["head.bias"]
    )


def stop_after(run: TrainingRun, step: int) -> None:
    for progress in run.train():
        if progress.step == step:
            run.stop()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path, tunes: Dataset) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    found = make_plan(tunes, TrainingOptions(epochs=2, bptt=64, batch=2), start)
    whole = TrainingRun(tunes, found, "whole", tmp_path / "whole", base=start)
    for _ in whole.train():
        pass
    cut = TrainingRun(tunes, found, "cut", tmp_path / "cut", base=start)
    with pytest.raises(Interrupted):
        stop_after(cut, 4)
    saved = load_saved_run(tmp_path / "cut")
    assert saved is not None
    again = TrainingRun.resume(saved, tunes, tmp_path / "cut", start=start)
    assert again.plan.guarded
    for _ in again.train():
        pass
    one, other = (load(tmp_path / name).checkpoint for name in ("whole", "cut"))
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.manifest.seen == other.manifest.seen
    assert one.manifest.corpus == other.manifest.corpus


def test_a_shape_that_is_asked_for_is_refused_before_any_work(
    tmp_path: Path, tunes: Dataset
) -> None:
    start = a_model(tmp_path / "m", MEASURES.names, "measures")
    with pytest.raises(Mismatch, match="--hidden 64"):
        make_plan(tunes, TrainingOptions(hidden=64), start)
