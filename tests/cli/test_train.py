"""`musicgen train`: what a run says and leaves, and what is refused before any work."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import click
import pytest
from click.testing import CliRunner, Result

from musicgen import checkpoint, formats
from musicgen.cli import commands
from musicgen.cli.train import train
from musicgen.cli.train_report import ProgressDisplay
from musicgen.training.trainer import Progress
from tests import synthetic_tunes

ABSENT = "cuda" if sys.platform == "darwin" else "mps"  # a device that no machine of this kind has


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(commands, list(words), env=environment, prog_name="musicgen")


def make_tunes(folder: Path, count: int = 12) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.abc").write_text(synthetic_tunes.tune(number))


@dataclass(frozen=True)
class Done:
    """A run of the command, and the folder that it filled."""

    result: Result
    folder: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    here = tmp_path_factory.mktemp("run")
    make_tunes(here / "tunes", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        words = "train tunes --name tiny --hidden 16 --epochs 3 --tensorboard --precision fp32 -v"
        yield Done(run(*words.split()), here / "checkpoints" / "tiny")


def metrics(done: Done) -> list[dict[str, float]]:
    return [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_does(done: Done) -> None:
    assert (done.result.exit_code, done.result.stdout) == (0, "")
    told = done.result.stderr.splitlines()
    parts = ("kept 20 of 20 tunes", " tunes (", "1 x 16 lstm on ", "model: ", "training: ",
             "versions: ", "epoch ", "time: ", "valid: ", "tiny: done; hear it with")  # fmt: skip
    places = [next(n for n, line in enumerate(told) if part in line) for part in parts]
    assert places == sorted(places)
    assert "in fp32" in done.result.stderr


def test_a_run_says_each_evaluation_as_it_is_noted(done: Done) -> None:
    noted = [f"{row['held_bits_per_note']:.3f}" for row in metrics(done) if "held_loss" in row]
    said = [
        line.split("held-out ")[1].split(" bits a note")[0]
        for line in done.result.stderr.splitlines()
        if line.startswith("epoch ") and "not yet judged" not in line
    ]
    assert list(dict.fromkeys(said)) == list(dict.fromkeys(noted))
    assert noted


def test_a_run_leaves_a_model_tunes_a_curve_and_its_settings(done: Done) -> None:
    found = {path.name for path in done.folder.iterdir()}
    assert {"weights.safetensors", "manifest.json", "MODEL_CARD.md", "metrics.jsonl", "loss.png",
            "config.toml", "heard", "tensorboard"} <= found  # fmt: skip
    assert (done.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.load(done.folder).manifest.name == "tiny"
    assert len(list((done.folder / "tensorboard").iterdir())) == 1
    assert not [path for path in done.folder.rglob("*") if path.name.endswith(".partial")]


def test_every_evaluation_can_be_heard(done: Done) -> None:
    judged = [int(row["step"]) for row in metrics(done) if "held_loss" in row]
    for suffix in (".mid", ".abc"):
        files = sorted((done.folder / "heard").glob(f"*{suffix}"))
        assert [int(path.stem) for path in files] == judged
        for path in files:
            (score,), refusals = formats.read(path)
            assert (bool(score.notes), list(refusals)) == (True, [])


def test_a_run_that_is_there_is_refused_and_keeps_its_files(done: Done) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    result = run("train", "tunes", "--name", "tiny")
    assert result.exit_code == 2
    assert "checkpoints/tiny exists; choose another --name" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tunes(tmp_path / "tunes")
    return tmp_path


def test_a_terminal_shows_one_panel(here: Path) -> None:
    words = "train tunes --name tiny --hidden 8 --epochs 1 --no-heard"
    result = run(*words.split(), FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert "╭─ tiny" in result.stderr
    assert "\nepoch " not in result.stderr
    assert not (here / "checkpoints" / "tiny" / "heard").exists()


class Stopped(ProgressDisplay):
    """Raises the signal of Ctrl-C at the second evaluation; remembers the best of the start."""

    judged = 0
    began_with: ClassVar[list[str]] = []

    def __enter__(self) -> Self:
        self.began_with.append(self.state.best_text)
        super().__enter__()
        return self

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        self.judged += progress.held_out_score is not None
        if self.judged == 2:
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_run_brings_its_best_and_keeps_its_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicgen.cli.train.ProgressDisplay", Stopped)
    first = run(*"train tunes --name tiny --hidden 8 --epochs 9 --no-heard".split())
    assert first.exit_code == 130, first.output
    settings = (here / "checkpoints" / "tiny" / "config.toml").read_bytes()
    assert run(*"train --name tiny --resume --no-heard".split()).exit_code == 130
    best = [line for line in first.stderr.splitlines() if line.startswith("epoch ")][-1]
    assert Stopped.began_with[0] == ""
    assert f"  best {Stopped.began_with[1]}  " in best
    assert (here / "checkpoints" / "tiny" / "config.toml").read_bytes() == settings


def test_quiet_is_silent_and_leaves_the_same(here: Path) -> None:
    result = run(*"train tunes --name tiny --hidden 8 --epochs 1 -q".split())
    assert (result.exit_code, result.output) == (0, "")
    assert (here / "checkpoints" / "tiny" / "loss.png").exists()


def test_too_few_tunes_to_hold_any_out(here: Path) -> None:
    result = run(*"train tunes/1.abc --name tiny --hidden 8 --epochs 2".split())
    assert result.exit_code == 0, result.output
    assert "kept 1 of 1 tune" in result.stderr
    assert "1 tune (" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert ["held-out none" in line for line in lines] == [True]
    assert list((here / "checkpoints" / "tiny" / "heard").glob("*.mid"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"train tunes --device {ABSENT}", f"--device {ABSENT}: this machine has none; here is"),
        ("train nothing", "there is no file, folder or corpus 'nothing'"),
        ("train tunes --name ../up", "use letters, digits, dots"),
        ("train tunes --resume --force", "--resume goes on, --force begins again"),
        ("train tunes --epochs inf", "'inf' is not a number such as"),
        ("train tunes --minutes nan", "'nan' is not a number such as"),
        ("train tunes --learning-rate 2", "2.0 is not in the range 0<x<=1"),
        ("train tunes --precision fp8", "'fp8' is not one of 'auto', 'fp32', 'bf16'"),
        ("train tunes --codec no", "codec 'no' is unknown"),
        ("train tunes --save-config no/a.toml", "there is no folder no; make it first"),
    ],
)
def test_what_is_refused_is_one_line_and_makes_nothing(here: Path, words: str, said: str) -> None:
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert said in result.stderr
    assert (result.stderr.count("\n"), result.stderr.startswith("Error: ")) == (1, True)
    assert [path.name for path in here.iterdir()] == ["tunes"]


def test_tensorboard_is_missed_before_any_work(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.cli.train.find_spec", lambda _: None)
    result = run("train", "tunes", "--tensorboard")
    assert result.exit_code == 2
    assert "pip install 'musicgen[tensorboard]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["tunes"]


def test_a_name_of_a_source_is_no_markup(here: Path) -> None:
    result = run("train", "[red]\x1b[31m", FORCE_COLOR="1")
    assert result.exit_code == 2
    assert "'[red]\\x1b[31m'" in result.stderr


def test_help_teaches_every_option_under_a_heading() -> None:
    told = run("train", "--help").output
    assert "\nOther:" not in told, "name the new option in GROUPS"
    assert len([line for line in told.splitlines() if line.strip().startswith("musicgen ")]) >= 5
    options = [param for param in train.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert all(f"  {option.opts[-1]}" in told or f", {option.opts[-1]}" in told
               for option in options)  # fmt: skip
