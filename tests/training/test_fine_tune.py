"""Fine-tuning: codec, shape, vocabulary and weights of the base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musicgen.checkpoint import Checkpoint, Manifest, save
from musicgen.checkpoint import load as load_checkpoint
from musicgen.config import CONTEXTS, ModelSettings
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


def make_base(
    folder: Path,
    names: tuple[str, ...],
    codec: str,
    event_counts: tuple[int, ...] = (),
    **shape: int | str,
) -> Checkpoint:
    """Save and load a base model with random weights."""
    settings = ModelSettings(len(names), **{"layers": 1, "hidden": 8, "embedding": 8, **shape})  # type: ignore[arg-type]
    corpus = {
        "cards": [{"name": "old", "title": "Old Book", "source": "S", "terms": "T"}],
        "fingerprint": "f" * 64,
        "tonics": {"dorian": {"D": 3}, "major": {"A": 9}},
    }
    manifest = Manifest(
        "base", 3, settings, names, event_counts or (50,) * len(names), codec, corpus
    )
    save(folder, LanguageModel(settings).copy_weights(), manifest)
    return load_checkpoint(folder)


def texts(codec: TextCodec, *written: str) -> Dataset:
    tunes = [
        EncodedTune(np.array(codec.encode(text).ids, np.int16), len(text), text, "", text,
                    "", "", "", "{}")
        for text in written
    ]  # fmt: skip
    return Dataset(tunes, tunes[:1], tunes[1:], codec.name, codec.vocabulary.names, {})


def test_other_codec_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    with pytest.raises(Mismatch, match="its codec is measures, the tunes were encoded with text"):
        remap_dataset(texts(OTHER, "dad"), base)


def test_other_vocabulary_of_notes_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    dataset = Dataset([], [], [], "measures", (*MEASURES.names[1:-1], "another"), {})
    with pytest.raises(Mismatch, match=f"it has {len(MEASURES)} events.*{len(MEASURES) - 1}"):
        remap_dataset(dataset, base)


def test_model_of_an_older_table_learns_the_events_that_were_appended(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", MEASURES.names[:844], "measures", context=CONTEXTS["all"])
    dataset = remap_dataset(Dataset([], [], [], "measures", MEASURES.names, {}), base)
    assert dataset.vocabulary == MEASURES.names
    settings = adapt_model_settings(base, dataset.vocabulary_size, {})
    model = LanguageModel(settings)
    model.load_weights(extend_embeddings(base, dataset.vocabulary_size))
    weights = model.copy_weights()
    for name, array in base.weights.items():
        assert np.array_equal(weights[name][: len(array)], array)
    assert len(weights["context.lag4.weight"]) == len(MEASURES) + 1


def test_model_without_vertical_context_is_fine_tuned_without_it(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures", context=CONTEXTS["all"])
    for requested in ({}, {"context": "all"}):
        settings = adapt_model_settings(base, len(MEASURES), requested)
        assert settings.context == CONTEXTS["all"]
    with pytest.raises(Mismatch, match=r"--context all\+vertical: base has all, and"):
        adapt_model_settings(base, len(MEASURES), {"context": "all+vertical"})


def test_data_set_of_an_older_table_gets_the_events_of_the_model(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    older = Dataset([], [], [], "measures", MEASURES.names[:844], {})
    assert remap_dataset(older, base).vocabulary == MEASURES.names


def test_same_vocabulary_returns_the_data_set(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", OTHER.vocabulary.names, "text")
    dataset = texts(OTHER, "dad", "x")
    assert remap_dataset(dataset, base) is dataset


def test_text_is_remapped_to_the_merged_vocabulary(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text")
    remapped = remap_dataset(texts(OTHER, "dad", "xxc"), base)
    assert remapped.vocabulary == (*KNOWN.vocabulary.names, "token=d", "token=x")
    both = TextCodec("text", "abcdx", is_word_level=False)
    assert remapped.vocabulary == both.vocabulary.names
    for part in (remapped.train, remapped.valid, remapped.test):
        for tune in part:
            assert both.encode(tune.title).ids == tuple(tune.ids.tolist())
            assert tune.ids.dtype == np.int16


def test_too_large_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text")
    monkeypatch.setattr("musicgen.training.fine_tune.MAX_VOCABULARY_SIZE", 7)
    with pytest.raises(Mismatch, match="there would be 8 events, over 7"):
        remap_dataset(texts(OTHER, "dad"), base)


def test_merged_vocabulary_keeps_ids() -> None:
    assert merge_vocabularies(("a", "b"), ("c", "b", "d")) == ("a", "b", "c", "d")


@pytest.mark.parametrize("shape", [{"tied": True}, {"tied": False}, {"embedding": 6}])
def test_new_rows_are_near_the_mean_of_known_rows(tmp_path: Path, shape: dict[str, int]) -> None:
    event_counts = (0, 50, 50, 50, 50, 1)
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text", event_counts, **shape)
    weights = extend_embeddings(base, 9)
    LanguageModel(adapt_model_settings(base, 9, {})).load_weights(weights)
    for name, array in base.weights.items():
        assert np.array_equal(weights[name][: len(array)], array), name
    known_rows = base.weights["embedding.weight"][1:5]
    new_rows = weights["embedding.weight"][6:]
    assert np.abs(new_rows - known_rows.mean(0)).max() < known_rows.std(0).max()
    assert len({row.tobytes() for row in new_rows}) == 3
    assert weights["head.bias"][6:].tolist() == [base.weights["head.bias"][1:5].min()] * 3
    assert all(array.dtype == np.float32 for array in weights.values())


@pytest.mark.parametrize(("name", "value"), [("cell", "gru"), ("layers", 2), ("hidden", 9)])
def test_other_shape_is_refused(tmp_path: Path, name: str, value: object) -> None:
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text")
    with pytest.raises(Mismatch, match=f"--{name} {value}: base has"):
        adapt_model_settings(base, 6, {name: value})
    base_value = getattr(base.settings, name)
    assert getattr(adapt_model_settings(base, 6, {name: base_value}), name) == base_value


def test_counts_of_the_base_model_are_kept(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text", (0, 1, 2, 3, 4, 5))
    assert merge_event_counts(base, [0, 0, 0, 1, 0, 1, 7, 0]) == (0, 1, 2, 4, 4, 6, 7, 0)
    assert merge_tonic_counts(base, {"major": {"C": 1}}) == {"dorian": {"D": 3}, "major": {"C": 1}}


def test_dance_counts_are_added_to_those_of_the_base_model(tmp_path: Path) -> None:
    base = make_base(tmp_path / "m", KNOWN.vocabulary.names, "text")
    new_counts = {"jig": {"6/8": 2, "9/8": 1}, "reel": {"2/2": 1}}
    assert merge_dance_counts(base, new_counts) == {}, "the dances of the base model are unknown"
    manifest = replace(base.manifest, corpus={"dances": {"jig": {"6/8": 5}, "waltz": {"3/4": 1}}})
    assert merge_dance_counts(replace(base, manifest=manifest), new_counts) == {
        "jig": {"6/8": 7, "9/8": 1}, "reel": {"2/2": 1}, "waltz": {"3/4": 1},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _cheap_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_TUNES", 1)
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_BARS", 1)
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


def test_count_dances_counts_meters(tmp_path: Path) -> None:
    fields = [("reel", "2/2"), ("reel", "2/2"), ("reel", "4/4"), ("jig", "6/8"), ("", "6/8")]
    music = {"2/2": "CDEF GABc|", "4/4": "CDEF GABc|", "6/8": "CDE FGA|"}
    book = [
        f"X:{number}\nT:{number}\nR:{rhythm}\nM:{meter}\nL:1/8\nK:C\n"
        f"{music[meter] * (number + 4)}\n\n"
        for number, (rhythm, meter) in enumerate(fields, 1)
    ]
    (tmp_path / "book.abc").write_text("".join(book))
    dataset, _ = build([tmp_path / "book.abc"], jobs=0)
    tunes = [*dataset.train, *dataset.valid, *dataset.test]
    assert count_dances(tunes) == {
        "": {"6/8": 1}, "jig": {"6/8": 1}, "reel": {"2/2": 2, "4/4": 1},
    }  # fmt: skip


def test_run_starts_from_the_base_weights(tmp_path: Path, tunes: Dataset) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    plan = make_plan(tunes, TrainingOptions(epochs=1, bptt=64), base)
    assert (plan.model.hidden, plan.origin, plan.guarded) == (8, "base 3", True)
    assert any(line.startswith("fine-tunes base 3") for line in plan.lines)
    trainer = make_trainer(tunes, plan, base)
    assert np.array_equal(trainer.model.copy_weights()["embedding.weight"],
                          base.weights["embedding.weight"])  # fmt: skip
    run = TrainingRun(tunes, plan, "mine", tmp_path / "mine", base=base)
    steps = list(run.train())
    assert any(step.copied_share is not None for step in steps)
    assert "copied" in (tmp_path / "mine" / "metrics.jsonl").read_text()
    manifest = load(tmp_path / "mine").checkpoint.manifest
    assert manifest.corpus["adapted_from"]["name"] == "base"
    assert manifest.corpus["tonics"]["dorian"] == {"D": 3}
    assert min(manifest.seen) >= 50
    assert "dances" not in manifest.corpus, "the base model has no counts"
    card = (tmp_path / "mine" / "MODEL_CARD.md").read_text()
    assert "Fine-tuned from base 3, which was trained on:\n\n- **Old Book**" in card


def test_base_weights_stay_if_training_does_not_improve_them(
    tmp_path: Path, tunes: Dataset
) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    plan = make_plan(tunes, TrainingOptions(epochs=1, bptt=64, learning_rate=1e-12), base)
    run = TrainingRun(tunes, plan, "mine", tmp_path / "mine", base=base)
    run.trainer.best.loss = -1.0  # lower than any loss
    for _ in run.train():
        pass
    assert np.array_equal(
        load(tmp_path / "mine").checkpoint.weights["head.bias"], base.weights["head.bias"]
    )


def stop_after(run: TrainingRun, step: int) -> None:
    for progress in run.train():
        if progress.step == step:
            run.stop()


def test_interrupted_run_resumes_bit_for_bit(tmp_path: Path, tunes: Dataset) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    plan = make_plan(tunes, TrainingOptions(epochs=2, bptt=64, batch=2), base)
    uninterrupted = TrainingRun(tunes, plan, "whole", tmp_path / "whole", base=base)
    for _ in uninterrupted.train():
        pass
    interrupted = TrainingRun(tunes, plan, "cut", tmp_path / "cut", base=base)
    with pytest.raises(Interrupted):
        stop_after(interrupted, 4)
    saved = load_saved_run(tmp_path / "cut")
    assert saved is not None
    resumed = TrainingRun.resume(saved, tunes, tmp_path / "cut", base=base)
    assert resumed.plan.guarded
    for _ in resumed.train():
        pass
    expected, actual = (load(tmp_path / name).checkpoint for name in ("whole", "cut"))
    assert all(
        np.array_equal(expected.weights[name], actual.weights[name]) for name in expected.weights
    )
    assert expected.manifest.seen == actual.manifest.seen
    assert expected.manifest.corpus == actual.manifest.corpus


def test_other_shape_is_refused_by_the_plan(tmp_path: Path, tunes: Dataset) -> None:
    base = make_base(tmp_path / "m", MEASURES.names, "measures")
    with pytest.raises(Mismatch, match="--hidden 64"):
        make_plan(tunes, TrainingOptions(hidden=64), base)
