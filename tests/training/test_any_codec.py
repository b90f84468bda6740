"""A small model of each codec memorises a tiny corpus and reproduces it."""

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
from musicgen.trained_model import Model, load, sample_many
from musicgen.training.trainer import Trainer

TUNE = "X:1\nT:By heart\nL:1/8\nM:6/8\nQ:3/8=100\nK:G\nGAB d2e|dBG A3|\n"
PLAIN = sorted(set(CODECS) - {"measures"})


OTHER_FORMS = ("frames-16", "text-words")  # of a codec that is tested


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tune.abc").write_text(TUNE)
    return folder


def load_trained_model(folder: Path, codec: str) -> Model:
    """Return a model of a codec that has memorised one tune; it is trained once."""
    out = folder / codec
    if not out.exists():
        dataset, _ = build([folder / "tune.abc"], codec=find_codec(codec), jobs=0)
        weights, shape = train_until_memorised(dataset.train[0].ids, dataset.vocabulary_size)
        event_counts = np.bincount(dataset.train[0].ids, minlength=dataset.vocabulary_size)
        manifest = Manifest(
            codec, 1, shape, dataset.vocabulary, tuple(event_counts.tolist()), codec
        )
        save(out, weights, manifest)
    return load(out)


def train_until_memorised(
    ids: np.ndarray, size: int
) -> tuple[dict[str, np.ndarray], ModelSettings]:
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


@pytest.mark.parametrize(
    "codec",
    [
        pytest.param(codec, marks=pytest.mark.promises) if codec in OTHER_FORMS else codec
        for codec in sorted(CODECS)
    ],
)
def test_model_memorises_a_tiny_corpus(folder: Path, codec: str) -> None:
    model = load_trained_model(folder, codec)
    dataset, _ = build([folder / "tune.abc"], codec=find_codec(codec), jobs=0)
    drawn = model.sampler.sample_encoded(SamplingOptions(temperature=0.01), Noise(1))
    assert list(drawn.ids) == dataset.train[0].ids.tolist()
    assert load_checkpoint(folder / codec).manifest.codec == codec
    assert load_checkpoint(folder / codec).vocabulary == dataset.vocabulary


def run_sample(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["sample", *map(str, arguments)])


@pytest.mark.parametrize("codec", PLAIN)
def test_sample_writes_the_file_type_of_the_codec(folder: Path, tmp_path: Path, codec: str) -> None:
    load_trained_model(folder, codec)
    suffix = ".txt" if codec.startswith("text") else ".mid"
    out = tmp_path / f"song{suffix}"
    result = run_sample(
        "--model", folder / codec, "--out", out, "--seed", "3", "--temperature", "0.01"
    )
    assert result.exit_code == 0, result.output
    if suffix == ".txt":
        lines = [line.split() for line in out.read_text().splitlines()]
        assert lines == [line.split() for line in TUNE.splitlines()]
        return
    (score,), refusals = formats.read(out, as_performance=True)
    assert not refusals
    assert [note.pitch for note in score.notes][:5] == [67, 69, 71, 74, 76]


@pytest.mark.parametrize(
    ("codec", "arguments", "message"),
    [
        ("performance", ["--key", "D"], "--key means nothing to a model of codec performance"),
        ("performance", ["--tempo", "90"], "it understands --temperature, --top-k, --top-p"),
        ("frames", ["--bars", "8"], "--bars means nothing to a model of codec frames"),
        ("text", ["--meter", "6/8"], "--meter means nothing to a model of codec text"),
        ("text-words", ["--program", "3"], "--program means nothing to a model of codec text-w"),
    ],
)
def test_options_of_other_codecs_are_refused(
    folder: Path, tmp_path: Path, codec: str, arguments: list[str], message: str
) -> None:
    load_trained_model(folder, codec)
    out = tmp_path / ("song.txt" if codec.startswith("text") else "song.mid")
    result = run_sample("--model", folder / codec, "--out", out, *arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output
    assert len(result.output.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(("codec", "name"), [("text", "a.mid"), ("frames", "a.abc")])
def test_other_file_types_are_refused(folder: Path, codec: str, name: str) -> None:
    load_trained_model(folder, codec)
    result = run_sample("--model", folder / codec, "--out", folder / name)
    assert (result.exit_code, "write one of" in result.output) == (2, True), result.output


@pytest.mark.parametrize("codec", PLAIN)
def test_tune_k_does_not_depend_on_the_count(folder: Path, codec: str) -> None:
    model = load_trained_model(folder, codec)
    options = SamplingOptions(temperature=3)
    tunes = list(sample_many(model, GenerationRequest(options, 4), count=3))
    assert tunes[2] == model.draw(options, 4, 2)
    assert tunes[1] != tunes[2]
    with pytest.raises(InvalidValue, match="top-k 0"):
        model.draw(SamplingOptions(top_k=0), 4)


def test_worker_processes_draw_the_same_texts(folder: Path) -> None:
    model = load_trained_model(folder, "text")
    options = SamplingOptions(temperature=1.2)
    texts = list(sample_many(model, GenerationRequest(options, 4), count=9, jobs=2))
    assert texts == [model.draw(options, 4, number) for number in range(9)]


def test_data_set_of_another_codec_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    build([folder / "tune.abc"], out, codec=find_codec("frames"), jobs=0)
    arguments = ["train", str(out), "--codec", "text", "--name", "mine"]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 2
    assert "built with --codec frames, not text; leave --codec out" in result.output


def test_train_accepts_a_codec(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tunes = "\n".join(
        f"X:{n}\nT:{n}\nK:C\n{'CDEFGABc'[n % 7 :]}{'ceg'[n % 3]}|\n" for n in range(9)
    )
    (tmp_path / "book.abc").write_text(tunes)
    arguments = [
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
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    assert "kept 9 of 9" in result.output
    assert "bits per character" in result.output
    assert "song.txt" in result.output
    card = (tmp_path / "checkpoints" / "t" / "MODEL_CARD.md").read_text()
    assert "codec `text`" in card
    assert "| split | model | bits per character" in card
    assert CliRunner().invoke(commands, ["train", "book.abc", "--codec", "no"]).exit_code == 2
