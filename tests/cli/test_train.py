"""`musicgen train`: messages, files of a run, and refusals before any work."""

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
from musicgen.corpus import store
from musicgen.corpus.build import build
from musicgen.training.trainer import Progress
from tests import synthetic_tunes

MISSING_DEVICE = (
    "cuda" if sys.platform == "darwin" else "mps"
)  # a device that no machine of this kind has


def run(*args: str, **environment: str) -> Result:
    return CliRunner().invoke(commands, list(args), env=environment, prog_name="musicgen")


def make_tunes(folder: Path, count: int = 12) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.abc").write_text(synthetic_tunes.tune(number))


@dataclass(frozen=True)
class FinishedRun:
    """The result of the command and the folder of its run."""

    result: Result
    folder: Path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    cwd = tmp_path_factory.mktemp("run")
    make_tunes(cwd / "tunes", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        args = "train tunes --name tiny --hidden 16 --epochs 3 --tensorboard --precision fp32 -v"
        yield FinishedRun(run(*args.split()), cwd / "checkpoints" / "tiny")


def read_metrics(finished_run: FinishedRun) -> list[dict[str, float]]:
    return [
        json.loads(line)
        for line in (finished_run.folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_train_prints_its_stages_in_order(finished_run: FinishedRun) -> None:
    assert (finished_run.result.exit_code, finished_run.result.stdout) == (0, "")
    output = finished_run.result.stderr.splitlines()
    expected = (
        "kept 20 of 20 tunes", "train 17 tunes (", "1 x 16 lstm on ", "model: ", "training: ",
        "versions: ", "epoch ", "time: ", "validation: ", "tiny: done; generate a tune with",
    )  # fmt: skip
    line_numbers = [next(n for n, line in enumerate(output) if part in line) for part in expected]
    assert line_numbers == sorted(line_numbers)
    assert "in fp32" in finished_run.result.stderr


def test_train_prints_each_recorded_evaluation(finished_run: FinishedRun) -> None:
    recorded_scores = [
        f"{row['held_bits_per_note']:.3f}"
        for row in read_metrics(finished_run)
        if "held_loss" in row
    ]
    printed_scores = [
        line.split("held-out ")[1].split(" bits per note")[0]
        for line in finished_run.result.stderr.splitlines()
        if line.startswith("epoch ") and "not evaluated yet" not in line
    ]
    assert list(dict.fromkeys(printed_scores)) == list(dict.fromkeys(recorded_scores))
    assert recorded_scores


def test_train_writes_model_tunes_plot_and_settings(finished_run: FinishedRun) -> None:
    files = {path.name for path in finished_run.folder.iterdir()}
    assert {"weights.safetensors", "manifest.json", "MODEL_CARD.md", "metrics.jsonl", "loss.png",
            "config.toml", "heard", "tensorboard"} <= files  # fmt: skip
    assert (finished_run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.load(finished_run.folder).manifest.name == "tiny"
    assert len(list((finished_run.folder / "tensorboard").iterdir())) == 1
    assert not [path for path in finished_run.folder.rglob("*") if path.name.endswith(".partial")]


def test_each_evaluation_writes_an_example_tune(finished_run: FinishedRun) -> None:
    evaluation_steps = [
        int(row["step"]) for row in read_metrics(finished_run) if "held_loss" in row
    ]
    for suffix in (".mid", ".abc"):
        files = sorted((finished_run.folder / "heard").glob(f"*{suffix}"))
        assert [int(path.stem) for path in files] == evaluation_steps
        for path in files:
            (score,), refusals = formats.read(path)
            assert (bool(score.notes), list(refusals)) == (True, [])


def test_existing_run_is_refused_and_unchanged(finished_run: FinishedRun) -> None:
    times_before = {path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")}
    result = run("train", "tunes", "--name", "tiny")
    assert result.exit_code == 2
    assert "checkpoints/tiny exists; choose another --name" in result.stderr
    assert {
        path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")
    } == times_before


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tunes(tmp_path / "tunes")
    return tmp_path


def test_terminal_shows_a_panel(cwd: Path) -> None:
    args = "train tunes --name tiny --hidden 8 --epochs 1 --no-heard"
    result = run(*args.split(), FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert "╭─ tiny" in result.stderr
    assert "\nepoch " not in result.stderr
    assert not (cwd / "checkpoints" / "tiny" / "heard").exists()


class InterruptedDisplay(ProgressDisplay):
    """A display that raises SIGINT at the second evaluation and records the initial best score."""

    evaluation_count = 0
    initial_best_texts: ClassVar[list[str]] = []

    def __enter__(self) -> Self:
        self.initial_best_texts.append(self.state.best_text)
        super().__enter__()
        return self

    def __call__(self, progress: Progress) -> None:
        super().__call__(progress)
        self.evaluation_count += progress.held_out_score is not None
        if self.evaluation_count == 2:
            signal.raise_signal(signal.SIGINT)


def test_resumed_run_keeps_best_score_and_settings(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicgen.cli.train.ProgressDisplay", InterruptedDisplay)
    first = run(*"train tunes --name tiny --hidden 8 --epochs 9 --no-heard".split())
    assert first.exit_code == 130, first.output
    settings = (cwd / "checkpoints" / "tiny" / "config.toml").read_bytes()
    assert run(*"train --name tiny --resume --no-heard".split()).exit_code == 130
    best = [line for line in first.stderr.splitlines() if line.startswith("epoch ")][-1]
    assert InterruptedDisplay.initial_best_texts[0] == ""
    assert f"  best {InterruptedDisplay.initial_best_texts[1]}  " in best
    assert (cwd / "checkpoints" / "tiny" / "config.toml").read_bytes() == settings


def test_quiet_prints_nothing_and_writes_the_plot(cwd: Path) -> None:
    result = run(*"train tunes --name tiny --hidden 8 --epochs 1 -q".split())
    assert (result.exit_code, result.output) == (0, "")
    assert (cwd / "checkpoints" / "tiny" / "loss.png").exists()


def test_single_tune_trains_without_validation(cwd: Path) -> None:
    result = run(*"train tunes/1.abc --name tiny --hidden 8 --epochs 2".split())
    assert result.exit_code == 0, result.output
    assert "kept 1 of 1 tune" in result.stderr
    assert "1 tune (" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert ["held-out none" in line for line in lines] == [True]
    assert list((cwd / "checkpoints" / "tiny" / "heard").glob("*.mid"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            f"train tunes --device {MISSING_DEVICE}",
            f"--device {MISSING_DEVICE}: this machine has",
        ),
        ("train nothing", "there is no file, folder or corpus 'nothing'"),
        ("train tunes --name ../up", "use letters, digits, dots"),
        ("train tunes --resume --force", "--resume and --force exclude each other"),
        ("train tunes --epochs inf", "'inf' is not a number such as"),
        ("train tunes --minutes nan", "'nan' is not a number such as"),
        ("train tunes --learning-rate 2", "2.0 is not in the range 0<x<=1"),
        ("train tunes --precision fp8", "'fp8' is not one of 'auto', 'fp32', 'bf16'"),
        ("train tunes --codec no", "codec 'no' is unknown"),
        ("train tunes --save-config no/a.toml", "there is no folder no; make it first"),
    ],
)
def test_train_refuses_bad_options_in_one_line_without_output(
    cwd: Path, args: str, message: str
) -> None:
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message in result.stderr
    assert (result.stderr.count("\n"), result.stderr.startswith("Error: ")) == (1, True)
    assert [path.name for path in cwd.iterdir()] == ["tunes"]


def test_missing_tensorboard_is_refused_before_any_work(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicgen.cli.train.find_spec", lambda _: None)
    result = run("train", "tunes", "--tensorboard")
    assert result.exit_code == 2
    assert "pip install 'musicgen[tensorboard]'" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in cwd.iterdir()] == ["tunes"]


def test_small_data_set_that_is_split_anew_is_named(cwd: Path) -> None:
    make_tunes(cwd / "many", 40)
    build(["many"], Path("set"), jobs=0)
    assert store.load(Path("set")).test
    result = run(*"train set --hidden 8 --layers 1 --epochs 1 --no-heard --no-index".split())
    assert result.exit_code == 0, result.output
    assert "set: with fewer than 50 different tunes there is no test part" in result.stderr


def test_source_name_is_printed_without_markup(cwd: Path) -> None:
    result = run("train", "[red]\x1b[31m", FORCE_COLOR="1")
    assert result.exit_code == 2
    assert "'[red]\\x1b[31m'" in result.stderr


def test_help_lists_every_option_under_a_heading() -> None:
    output = run("train", "--help").output
    assert "\nOther:" not in output, "name the new option in OPTION_GROUPS"
    assert len([line for line in output.splitlines() if line.strip().startswith("musicgen ")]) >= 5
    options = [param for param in train.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert all(f"  {option.opts[-1]}" in output or f", {option.opts[-1]}" in output
               for option in options)  # fmt: skip
