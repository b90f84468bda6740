"""`train --resume`, and what stops a run: signals, other options, other tunes, another run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen import checkpoint
from musicgen.checkpoint import render_manifest
from musicgen.cli import commands
from musicgen.cli.train_report import ProgressDisplay
from musicgen.cli.train_setup import StopSignals
from musicgen.training.resume import load_saved_run
from musicgen.training.run import TrainingRun
from musicgen.training.run_folder import RunLock, lock_run
from musicgen.training.trainer import Progress

TUNES = "".join(f"X:{n}\nT:{n}\nL:1/8\nM:2/4\nK:C\nCDEF|{'CDEFGAB'[n % 7]}4|\n\n" for n in range(9))
TRAIN_ARGS = ("tunes.abc", "--codec", "text", "--hidden", "8", "--layers", "1", "--batch", "2",
         "--bptt", "16", "--epochs", "4", "--no-heard")  # fmt: skip


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tunes.abc").write_text(TUNES)
    return tmp_path


def train(*args: str, name: str = "mine") -> Result:
    return CliRunner().invoke(commands, ["train", *args, "--name", name])


def send_signals_at(
    monkeypatch: pytest.MonkeyPatch, step: int, *signals: signal.Signals
) -> pytest.MonkeyPatch:
    """Make the display send signals to this process at an update."""
    display_update = ProgressDisplay.__call__

    def display_then_signal(self: ProgressDisplay, progress: Progress) -> None:
        display_update(self, progress)
        if progress.step == step:
            for number in signals:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressDisplay, "__call__", display_then_signal)
    return monkeypatch


def assert_refused(result: Result, code: int, args: str) -> None:
    assert result.exit_code == code, result.output
    assert args in result.output
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1


def stop_at_seventh_update() -> None:
    """Train a run "mine" in the current folder, and stop it at its seventh update."""
    with pytest.MonkeyPatch.context() as patch:
        send_signals_at(patch, 7, signal.SIGINT)
        result = train(*TRAIN_ARGS)
    assert_refused(
        result, 130, "stopped after update 7, all saved; musicgen train --name mine --resume"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a whole run and one that is stopped, of which tests take copies; return the folder."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tunes.abc").write_text(TUNES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(*TRAIN_ARGS, name="whole").exit_code == 0
        stop_at_seventh_update()
    return folder


@pytest.fixture
def stopped_run(trained: Path, cwd: Path) -> Path:
    """Return the folder of a copy of the stopped run, which resumes with the same tunes."""
    return shutil.copytree(trained / "checkpoints" / "mine", cwd / "checkpoints" / "mine")


def has_weights_of_the_whole_run(trained: Path, run: Path) -> bool:
    name = "weights.safetensors"
    return (run / name).read_bytes() == (trained / "checkpoints" / "whole" / name).read_bytes()


def test_resumed_run_ends_with_the_same_weights(trained: Path, stopped_run: Path) -> None:
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "checkpoints/mine: resumed after update 7" in result.output
    assert has_weights_of_the_whole_run(trained, stopped_run)
    again = train("--resume")
    assert (again.exit_code, "the run is finished" in again.output) == (0, True)
    assert [path.name for path in Path("checkpoints").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],  # Ctrl-C under torchrun
    ],
)
def test_signal_saves_state(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, signals: list[signal.Signals]
) -> None:
    with monkeypatch.context() as patch:
        result = train(*TRAIN_ARGS, name=send_signals_at(patch, 5, *signals) and "mine")
    assert_refused(
        result, 130, "stopped after update 5, all saved; musicgen train --name mine --resume"
    )
    assert "stopping after this update, which is saved first" in result.output
    assert ("still saving; a third signal" in result.output) == (len(signals) == 2)
    saved_run = load_saved_run(cwd / "checkpoints" / "mine")
    assert saved_run is not None
    assert saved_run.step == 5


def test_third_signal_stops_immediately(stopped_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        send_signals_at(patch, 9, signal.SIGINT, signal.SIGINT, signal.SIGINT)
        result = train("--resume")
    assert_refused(result, 130, "interrupted; the last saved state")
    assert "resume from it with musicgen train --name mine --resume" in result.output
    assert train("--resume").exit_code == 0


def test_state_is_saved_before_the_display_fails(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed terminal raises an error in the display."""
    handle_progress = TrainingRun._handle_progress

    def signal_then_handle(self: TrainingRun, progress: Progress, lock: RunLock) -> None:
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGHUP)
        handle_progress(self, progress, lock)

    def display_then_signal(self: ProgressDisplay, progress: Progress) -> None:
        if progress.step == 4:
            raise OSError(errno.EIO, "the terminal is gone")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_handle_progress", signal_then_handle)
        patch.setattr(ProgressDisplay, "__call__", display_then_signal)
        assert train(*TRAIN_ARGS).exit_code != 0
    saved_run = load_saved_run(cwd / "checkpoints" / "mine")
    assert saved_run is not None
    assert saved_run.step == 4


def test_ignored_sighup_stays_ignored() -> None:
    handler_before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler_before)


def test_signal_before_training_interrupts() -> None:
    handler_before = signal.getsignal(signal.SIGTERM)
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
    with StopSignals() as stopping:
        stopping.stop_callback = lambda: calls.append("stop")
        os.kill(os.getpid(), signal.SIGINT)
        assert calls == ["stop"]
    assert signal.getsignal(signal.SIGTERM) == handler_before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden", "16"], "--hidden 16: the run that is resumed has 8"),
        (["--epochs", "9"], "--epochs 9.0: the run that is resumed has 4.0"),
        (["--codec", "measures"], "--codec measures: the run that is resumed has text"),
        (["--force"], "--resume and --force exclude each other"),
    ],
)
def test_resume_refuses_other_options(stopped_run: Path, args: list[str], message: str) -> None:
    assert_refused(train("--resume", *args), 2, message)


def test_resume_accepts_the_same_options(stopped_run: Path) -> None:
    assert train("--resume", *TRAIN_ARGS).exit_code == 0


def test_resume_refuses_other_tunes(cwd: Path) -> None:
    stop_at_seventh_update()
    (cwd / "tunes.abc").write_text(TUNES.replace("CDEF|", "EFGA|"))
    result = train("--resume")
    assert_refused(result, 2, "resume with the same tunes")
    assert "now it is" in result.output


def test_resume_refuses_another_state_format(stopped_run: Path) -> None:
    (folder,) = checkpoint.list_numbered_folders(stopped_run / "progress")
    body = json.loads((folder / "manifest.json").read_bytes()) | {"format": 7}
    (folder / "manifest.json").write_bytes(render_manifest(body))
    assert_refused(train("--resume"), 2, "its format is 7, this musicgen reads format 3; update")


def test_resume_accepts_and_reports_a_lower_learning_rate(stopped_run: Path) -> None:
    result = train("--resume", "--learning-rate", "1e-4")
    assert result.exit_code == 0
    assert "0.0001 from here on" in result.output


def test_locked_run_refuses_other_processes(stopped_run: Path) -> None:
    with lock_run(stopped_run, exists=True):
        for args in (["--resume"], ["--force", *TRAIN_ARGS], TRAIN_ARGS):
            assert_refused(
                train(*args), 2, f"another run is at work here (process {os.getpid()} on "
            )


def kill_before_first_save(*args: str) -> None:
    """Train in another process that is killed after its first update, before it saves a state."""
    code = (
        "import os, signal, sys\n"
        "from musicgen.training.run import TrainingRun\n"
        "TrainingRun.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from musicgen.cli import commands\n"
        "commands(sys.argv[1:])\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.run(
        [sys.executable, "-c", code, "train", *args],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.promises
def test_run_killed_before_its_first_save_starts_again(trained: Path, cwd: Path) -> None:
    kill_before_first_save(*TRAIN_ARGS, "--name", "mine")
    assert_refused(
        train("--resume", "--hidden", "16"), 2, "--hidden 16: the run that is resumed has 8"
    )
    assert_refused(
        train("--resume", "other.abc"), 2, "SOURCE other.abc: the run that is resumed has tune"
    )
    assert_refused(
        train("--resume", "--minutes", "5"), 2, "--minutes 5.0: the run that is resumed has a"
    )
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "no saved state; the run starts from the beginning" in result.output
    assert has_weights_of_the_whole_run(trained, cwd / "checkpoints" / "mine")


@pytest.mark.parametrize("args", [[], ["--hidden", "8"], ["--codec", "text"]])
def test_resume_of_a_missing_run_suggests_others(stopped_run: Path, args: list[str]) -> None:
    result = train("--resume", *args, name="mien")
    assert_refused(result, 2, "--resume: there is no run 'mien' in checkpoints; did you mean mine?")
    result = train("--resume", *args, name="x")
    assert_refused(result, 2, "--resume: there is no run 'x' in checkpoints; the runs are mine")
    assert [path.name for path in Path("checkpoints").iterdir()] == ["mine"]


def test_resume_without_any_run_is_refused(cwd: Path) -> None:
    assert_refused(train("--resume"), 2, "there is no run 'mine' in checkpoints; there are no runs")
    assert not Path("checkpoints").exists()
    Path("checkpoints", "mine").mkdir(parents=True)
    assert_refused(train("--resume"), 2, "contains no saved state and no config.toml; give SOURCEs")


def test_foreign_folder_is_not_replaced(cwd: Path) -> None:
    Path("checkpoints", "mine").mkdir(parents=True)
    thesis_file = Path("checkpoints", "mine", "thesis.tex")
    thesis_file.write_text("ten years of work")
    args = "checkpoints/mine is a folder and not the folder of a training run; it is not replaced"
    assert_refused(train("--force", *TRAIN_ARGS), 2, args)
    assert_refused(train("--resume", *TRAIN_ARGS), 2, args)
    assert thesis_file.read_text() == "ten years of work"
    assert [path.name for path in Path("checkpoints").iterdir()] == ["mine"]


def test_resume_without_saved_state_starts_a_run(cwd: Path) -> None:
    result = train("--resume", *TRAIN_ARGS)
    assert result.exit_code == 0, result.output
    assert "no saved state; the run starts" in result.output


def test_new_run_does_not_replace_a_stopped_one(stopped_run: Path) -> None:
    assert_refused(train(*TRAIN_ARGS), 2, "go on with --resume, or replace it with --force")
    assert train("--force", *TRAIN_ARGS).exit_code == 0


def test_sample_requires_an_evaluated_model(stopped_run: Path) -> None:
    args = ["sample", "--model", "mine", "--out", "song.txt", "--seed", "1"]
    assert_refused(CliRunner().invoke(commands, args), 2, "the run has no checkpoint yet")
    assert train("--resume").exit_code == 0
    assert CliRunner().invoke(commands, args).exit_code == 0


def test_damaged_state_falls_back_to_the_one_before(
    stopped_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        send_signals_at(patch, 11, signal.SIGINT)
        assert train("--resume").exit_code == 130
    newest = checkpoint.list_numbered_folders(stopped_run / "progress")[-1] / "values.json"
    newest.write_bytes(newest.read_bytes()[:-1])
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "its bytes changed since it was written; using the previous one" in result.output


def start_train(*args: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-m", "musicgen", "train", *args, "--name", "mine", "-v"],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_after_lines(args: tuple[str, ...], lines: int) -> bool:
    """Train in another process and kill it after some lines of output, if it still runs."""
    with start_train(*args) as child:
        assert child.stderr
        for _ in range(lines):
            child.stderr.readline()
        child.kill()
    return child.returncode == -signal.SIGKILL


@pytest.mark.promises
def test_run_killed_at_each_printed_line_resumes(trained: Path, cwd: Path) -> None:
    """Killed after any line of its output, the resumed run ends with the same weights."""
    kill_count = sum(kill_after_lines((*TRAIN_ARGS, "--resume"), lines) for lines in range(1, 9))
    assert kill_count >= 3
    with start_train("--resume", *TRAIN_ARGS) as child:
        assert child.wait() == 0
    assert has_weights_of_the_whole_run(trained, cwd / "checkpoints" / "mine")
