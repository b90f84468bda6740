"""Training on a few files, even one, gives a model that samples valid tunes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from musicgen import formats
from musicgen.checkpoint import load as load_checkpoint
from musicgen.cli import commands
from musicgen.music.bars import count_heard_bars
from musicgen.tokens.vocabulary import MEASURES
from musicgen.trained_model import load
from tests import synthetic_tunes

EXPLANATIONS = {
    1: "1 tune is too few to hold any out: training on all of them",
    2: "2 tunes are too few to hold any out: training on all of them",
    5: "5 tunes are too few to hold any out: training on all of them",
    20: "20 tunes: 3 are held out for early stopping; there is no test split",
}

CORPORA = tuple(zip(sorted(EXPLANATIONS), (".abc", ".mid", ".mid", ".abc"), strict=True))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_TUNES", 1)
    monkeypatch.setattr("musicgen.training.sampled_tunes.COPY_BARS", 1)
    monkeypatch.setattr("musicgen.training.model_card.SEEDS_SHOWN", 1)
    monkeypatch.setattr("musicgen.training.model_card.BARS_SHOWN", 1)


def write_tunes(folder: Path, count: int, suffix: str) -> None:
    folder.mkdir()
    for number in range(1, count + 1):
        path = folder / f"{number}.abc"
        path.write_text(synthetic_tunes.tune(number))
        if suffix == ".mid":
            (score,), _ = formats.read(path)
            formats.write(score, path.with_suffix(suffix))
            path.unlink()


def train(*arguments: str) -> str:
    result = CliRunner().invoke(commands, ["train", "tunes", "--no-heard", *arguments])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def assert_writes_valid_tunes(bars: int = 2) -> None:
    model = load("mine")
    for seed in range(2):
        tune = model.sample(seed=seed, bars=bars)
        assert tune.bars == bars
        path = Path(f"song-{seed}.mid")
        tune.write(path)
        (score,), refusals = formats.read(path)
        assert not refusals
        assert count_heard_bars(score) == bars


@pytest.mark.parametrize(("count", "suffix"), CORPORA)
def test_training_works_with_few_files(tmp_path: Path, count: int, suffix: str) -> None:
    write_tunes(tmp_path / "tunes", count, suffix)
    output = train("--epochs", "0.1")
    assert EXPLANATIONS[count] in output
    assert ("validation:" in output) == (count == 20)
    manifest = load_checkpoint(tmp_path / "checkpoints" / "mine").manifest
    parts = manifest.corpus["tunes"]
    assert parts == {"train": 17 if count == 20 else count, "valid": 3 * (count == 20), "test": 0}
    assert_writes_valid_tunes()


@pytest.mark.promises
@pytest.mark.parametrize(("count", "suffix"), CORPORA)
def test_training_needs_no_flags(tmp_path: Path, count: int, suffix: str) -> None:
    write_tunes(tmp_path / "tunes", count, suffix)
    assert EXPLANATIONS[count] in train()
    assert_writes_valid_tunes(16)


def test_last_weights_are_kept_without_validation_tunes(tmp_path: Path) -> None:
    write_tunes(tmp_path / "tunes", 2, ".abc")
    train("--epochs", "2", "--hidden", "8")
    manifest = load_checkpoint(tmp_path / "checkpoints" / "mine").manifest
    lines = (tmp_path / "checkpoints" / "mine" / "metrics.jsonl").read_text().splitlines()
    assert manifest.training["best_at_tokens"] >= manifest.training["tokens"]
    assert json.loads(lines[-1])["step"] > 0


def test_folk_is_fine_tuned_on_five_tunes(tmp_path: Path) -> None:
    write_tunes(tmp_path / "tunes", 5, ".abc")
    output = train("--from", "folk", "--epochs", "0.3")
    assert "fine-tunes folk 3: its shape and weights" in output
    assert "2 x 400 lstm" in output
    manifest = load_checkpoint(tmp_path / "checkpoints" / "mine").manifest
    assert manifest.corpus["adapted_from"]["name"] == "folk"
    assert manifest.seen[MEASURES.names.index("rhythm=jig")] > 0
    assert_writes_valid_tunes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "no-such-model"], "model 'no-such-model' is unknown"),
        (["--from", "folk", "--hidden", "64"], "--hidden 64: folk has 400"),
        (["--from", "folk", "--codec", "frames"], "its codec is measures, the tunes were encoded"),
    ],
)
def test_unsuitable_base_models_are_refused(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_tunes(tmp_path / "tunes", 1, ".abc")
    result = CliRunner().invoke(commands, ["train", "tunes", *arguments])
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), (
        result.output
    )
    assert not (tmp_path / "checkpoints" / "mine" / "manifest.json").exists()
