"""A small model of each codec: learns a tiny corpus by heart, and writes it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from musicgen import formats
from musicgen.checkpoint import Manifest, save
from musicgen.checkpoint import load as load_checkpoint
from musicgen.cli import commands
from musicgen.config import ModelSettings, TrainingSettings
from musicgen.corpus.build import build
from musicgen.errors import InvalidValue
from musicgen.model.network import LanguageModel
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import GenerationRequest
from musicgen.tokens.registry import CODECS, find_codec
from musicgen.trained_model import Model, load
from musicgen.training.trainer import Trainer
from musicgen.tune_batch import sample_many

TUNE = "X:1\nT:By heart\nL:1/8\nM:6/8\nQ:3/8=100\nK:G\nGAB d2e|dBG A3|\n"
PLAIN = sorted(set(CODECS) - {"measures"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tune.abc").write_text(TUNE)
    return folder


def trained(folder: Path, codec: str) -> Model:
    """Train a model of a codec on one tune until it knows it, once."""
    out = folder / codec
    if not out.exists():
        dataset, _ = build([folder / "tune.abc"], codec=find_codec(codec), jobs=0)
        weights, shape = by_heart(dataset.train[0].ids, dataset.vocabulary_size)
        seen = np.bincount(dataset.train[0].ids, minlength=dataset.vocabulary_size)
        manifest = Manifest(codec, 1, shape, dataset.vocabulary, tuple(seen.tolist()), codec)
        save(out, weights, manifest)
    return load(out)


def by_heart(ids: np.ndarray, size: int) -> tuple[dict[str, np.ndarray], ModelSettings]:
    shape = ModelSettings(size, layers=1, hidden=64, embedding=64, dropout=0, embedding_dropout=0)
    settings = TrainingSettings(tokens=200_000, lanes=4, bptt=32, learning_rate=0.02)
    trainer = Trainer(LanguageModel(shape, torch.Generator().manual_seed(2)), [ids], [], settings)
    losses = [1.0] * 12
    for progress in trainer.run():
        losses = [*losses[1:], progress.loss]
        if max(losses) < 0.02:
            break
    assert max(losses) < 0.02
    return trainer.model.copy_weights(), shape


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_tiny_corpus_is_learnt_by_heart(folder: Path, codec: str) -> None:
    model = trained(folder, codec)
    dataset, _ = build([folder / "tune.abc"], codec=find_codec(codec), jobs=0)
    drawn = model.sampler.sample_encoded(SamplingOptions(temperature=0.01), Noise(1))
    assert list(drawn.ids) == dataset.train[0].ids.tolist()
    assert load_checkpoint(folder / codec).manifest.codec == codec
    assert load_checkpoint(folder / codec).vocabulary == dataset.vocabulary


def sample(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, ["sample", *map(str, words)])


@pytest.mark.parametrize("codec", PLAIN)
def test_sample_writes_what_the_codec_can(folder: Path, tmp_path: Path, codec: str) -> None:
    trained(folder, codec)
    suffix = ".txt" if codec.startswith("text") else ".mid"
    out = tmp_path / f"song{suffix}"
    done = sample("--model", folder / codec, "--out", out, "--seed", "3", "--temperature", "0.01")
    assert done.exit_code == 0, done.output
    if suffix == ".txt":
        lines = [line.split() for line in out.read_text().splitlines()]
        assert lines == [line.split() for line in TUNE.splitlines()]
        return
    (score,), refusals = formats.read(out, as_performance=True)
    assert not refusals
    assert [note.pitch for note in score.notes][:5] == [67, 69, 71, 74, 76]


@pytest.mark.parametrize(
    ("codec", "words", "said"),
    [
        ("performance", ["--key", "D"], "--key means nothing to a model of codec performance"),
        ("performance", ["--tempo", "90"], "it understands --temperature, --top-k, --top-p"),
        ("frames", ["--bars", "8"], "--bars means nothing to a model of codec frames"),
        ("text", ["--meter", "6/8"], "--meter means nothing to a model of codec text"),
        ("text-words", ["--program", "3"], "--program means nothing to a model of codec text-w"),
    ],
)
def test_what_only_measures_understands_is_refused(
    folder: Path, tmp_path: Path, codec: str, words: list[str], said: str
) -> None:
    trained(folder, codec)
    out = tmp_path / ("song.txt" if codec.startswith("text") else "song.mid")
    done = sample("--model", folder / codec, "--out", out, *words)
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert len(done.output.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(("codec", "name"), [("text", "a.mid"), ("frames", "a.abc")])
def test_what_the_codec_cannot_write_is_refused(folder: Path, codec: str, name: str) -> None:
    trained(folder, codec)
    done = sample("--model", folder / codec, "--out", folder / name)
    assert (done.exit_code, "write one of" in done.output) == (2, True), done.output


@pytest.mark.parametrize("codec", PLAIN)
def test_tune_k_is_the_same_however_many_are_asked_for(folder: Path, codec: str) -> None:
    model = trained(folder, codec)
    wishes = SamplingOptions(temperature=3)
    many = list(sample_many(model, GenerationRequest(wishes, 4), count=3))
    assert many[2] == model.draw(wishes, 4, 2)
    assert many[1] != many[2]
    with pytest.raises(InvalidValue, match="top-k 0"):
        model.draw(SamplingOptions(top_k=0), 4)


def test_processes_draw_the_same_texts(folder: Path) -> None:
    model = trained(folder, "text")
    wishes = SamplingOptions(temperature=1.2)
    apart = list(sample_many(model, GenerationRequest(wishes, 4), count=9, jobs=2))
    assert apart == [model.draw(wishes, 4, number) for number in range(9)]


def test_a_data_set_of_another_codec_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    build([folder / "tune.abc"], out, codec=find_codec("frames"), jobs=0)
    words = ["train", str(out), "--codec", "text", "--name", "mine"]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 2
    assert "built with --codec frames, not text; leave --codec out" in done.output


def test_train_takes_a_codec(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tunes = "\n".join(
        f"X:{n}\nT:{n}\nK:C\n{'CDEFGABc'[n % 7 :]}{'ceg'[n % 3]}|\n" for n in range(9)
    )
    (tmp_path / "book.abc").write_text(tunes)
    words = [
        "train",
        "book.abc",
        "--codec",
        "text",
        "--name",
        "t",
        "--hidden",
        "8",
        "--epochs",
        "1",
    ]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 0, done.output
    assert "kept 9 of 9" in done.output
    assert "bits per character" in done.output
    assert "song.txt" in done.output
    card = (tmp_path / "checkpoints" / "t" / "MODEL_CARD.md").read_text()
    assert "codec `text`" in card
    assert "| part | model | bits a character" in card
    assert CliRunner().invoke(commands, ["train", "book.abc", "--codec", "no"]).exit_code == 2
