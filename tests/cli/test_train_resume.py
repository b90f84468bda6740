"""`train --resume`, and what stops a run: signals, other flags, other tunes, another run."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen import checkpoint
from musicgen.checkpoint import render_manifest
from musicgen.cli import commands
from musicgen.cli.signals import StopSignals
from musicgen.cli.train_report import ProgressDisplay
from musicgen.training.resume import load_saved_run
from musicgen.training.run import TrainingRun
from musicgen.training.run_folder import RunLock, lock_run
from musicgen.training.trainer import Progress

TUNES = "".join(f"X:{n}\nT:{n}\nL:1/8\nM:2/4\nK:C\nCDEF|{'CDEFGAB'[n % 7]}4|\n\n" for n in range(9))
WORDS = ("tunes.abc", "--codec", "text", "--hidden", "8", "--layers", "1", "--batch", "2",
         "--bptt", "16", "--epochs", "4", "--no-heard")  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tunes.abc").write_text(TUNES)
    return tmp_path


def train(*words: str, name: str = "mine") -> Result:
    return CliRunner().invoke(commands, ["train", *words, "--name", name])


def at_update(
    monkeypatch: pytest.MonkeyPatch, step: int, *numbers: signal.Signals
) -> pytest.MonkeyPatch:
    """Send this process signals at an update."""
    watch = ProgressDisplay.__call__

    def watched(self: ProgressDisplay, progress: Progress) -> None:
        watch(self, progress)
        if progress.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressDisplay, "__call__", watched)
    return monkeypatch


def refused(result: Result, code: int, words: str) -> None:
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("Error")]) == 1


@pytest.fixture
def stopped(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was stopped at its seventh update."""
    with monkeypatch.context() as patch:
        result = train(*WORDS, name=at_update(patch, 7, signal.SIGINT) and "mine")
    refused(result, 130, "stopped after update 7, all saved; musicgen train --name mine --resume")
    return here / "checkpoints" / "mine"


def weights(name: str) -> bytes:
    return Path("checkpoints", name, "weights.safetensors").read_bytes()


def test_stopped_and_resumed_without_a_flag_it_ends_as_if_never_stopped(stopped: Path) -> None:
    assert train(*WORDS, name="whole").exit_code == 0
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "checkpoints/mine: goes on after update 7" in result.output
    assert weights("mine") == weights("whole")
    again = train("--resume")
    assert (again.exit_code, "the run is finished" in again.output) == (0, True)
    assert sorted(path.name for path in Path("checkpoints").iterdir()) == ["mine", "whole"]


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        [signal.SIGHUP],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGINT, signal.SIGTERM],  # Ctrl-C under torchrun
    ],
)
def test_whatever_signal_comes_the_state_is_saved_and_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[signal.Signals]
) -> None:
    with monkeypatch.context() as patch:
        result = train(*WORDS, name=at_update(patch, 5, *numbers) and "mine")
    refused(result, 130, "stopped after update 5, all saved; musicgen train --name mine --resume")
    assert "stopping: this update is finished and saved first" in result.output
    assert ("still saving; a third signal" in result.output) == (len(numbers) == 2)
    found = load_saved_run(here / "checkpoints" / "mine")
    assert found is not None
    assert found.step == 5


def test_a_third_signal_ends_at_once_and_says_what_is_saved(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_update(patch, 9, signal.SIGINT, signal.SIGINT, signal.SIGINT)
        result = train("--resume")
    refused(result, 130, "interrupted; what was saved last")
    assert "musicgen train --name mine --resume goes on from there" in result.output
    assert train("--resume").exit_code == 0


def test_the_state_is_saved_before_the_update_is_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal that is gone cannot be written to."""
    take = TrainingRun._handle_progress

    def taken(self: TrainingRun, progress: Progress, claim: RunLock) -> None:
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGHUP)
        take(self, progress, claim)

    def watched(self: ProgressDisplay, progress: Progress) -> None:
        if progress.step == 4:
            raise OSError(errno.EIO, "the terminal is gone")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_handle_progress", taken)
        patch.setattr(ProgressDisplay, "__call__", watched)
        assert train(*WORDS).exit_code != 0
    found = load_saved_run(here / "checkpoints" / "mine")
    assert found is not None
    assert found.step == 4


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_there_is_anything_to_save_a_signal_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked: list[str] = []
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
    with StopSignals() as stopping:
        stopping.stop_callback = lambda: asked.append("stop")
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == ["stop"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hidden", "16"], "--hidden 16: the run that is resumed has 8"),
        (["--epochs", "9"], "--epochs 9.0: the run that is resumed has 4.0"),
        (["--codec", "measures"], "--codec measures: the run that is resumed has text"),
        (["--force"], "--resume goes on, --force begins again"),
    ],
)
def test_other_flags_are_refused_by_name(stopped: Path, words: list[str], said: str) -> None:
    refused(train("--resume", *words), 2, said)


def test_the_same_flags_are_not_refused(stopped: Path) -> None:
    assert train("--resume", *WORDS).exit_code == 0


def test_other_tunes_are_refused(stopped: Path, here: Path) -> None:
    (here / "tunes.abc").write_text(TUNES.replace("CDEF|", "EFGA|"))
    result = train("--resume")
    refused(result, 2, "resume with the same tunes")
    assert "now it is" in result.output


def test_another_format_is_refused(stopped: Path) -> None:
    (folder,) = checkpoint.list_numbered_folders(stopped / "progress")
    body = json.loads((folder / "manifest.json").read_bytes()) | {"format": 7}
    (folder / "manifest.json").write_bytes(render_manifest(body))
    refused(train("--resume"), 2, "its format is 7, this musicgen reads format 2")


def test_a_lower_rate_may_be_asked_for_and_is_spoken_of(stopped: Path) -> None:
    result = train("--resume", "--learning-rate", "1e-4")
    assert result.exit_code == 0
    assert "0.0001 from here on" in result.output


def test_a_run_under_way_keeps_others_out_before_any_work(stopped: Path) -> None:
    with lock_run(stopped, exists=True):
        for words in (["--resume"], ["--force", *WORDS], WORDS):
            refused(train(*words), 2, f"another run is at work here (process {os.getpid()} on ")


def begin_and_kill(*words: str) -> None:
    """Train in a process of its own, killed between its first update and its first state."""
    code = (
        "import os, signal, sys\n"
        "from musicgen.training.run import TrainingRun\n"
        "TrainingRun.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from musicgen.cli import commands\n"
        "commands(sys.argv[1:])\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *words],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_that_was_killed_before_it_saved_is_the_one_that_starts(here: Path) -> None:
    assert train(*WORDS, name="whole").exit_code == 0
    begin_and_kill(*WORDS, "--name", "mine")
    refused(train("--resume", "--hidden", "16"), 2, "--hidden 16: the run that is resumed has 8")
    refused(train("--resume", "other.abc"), 2, "SOURCE other.abc: the run that is resumed has tune")
    refused(train("--resume", "--minutes", "5"), 2, "--minutes 5.0: the run that is resumed has a")
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "nothing was saved here yet; the run starts" in result.output
    assert weights("mine") == weights("whole")


@pytest.mark.parametrize("words", [[], ["--hidden", "8"], ["--codec", "text"]])
def test_without_a_run_and_a_source_there_is_nothing_to_resume(
    stopped: Path, words: list[str]
) -> None:
    result = train("--resume", *words, name="mien")
    refused(result, 2, "--resume: there is no run 'mien' in checkpoints; did you mean mine?")
    result = train("--resume", *words, name="x")
    refused(result, 2, "--resume: there is no run 'x' in checkpoints; there are mine")
    assert [path.name for path in Path("checkpoints").iterdir()] == ["mine"]


def test_where_there_is_no_run_at_all_none_is_resumed(here: Path) -> None:
    refused(train("--resume"), 2, "there is no run 'mine' in checkpoints; there is none at all")
    assert not Path("checkpoints").exists()
    Path("checkpoints", "mine").mkdir(parents=True)
    refused(train("--resume"), 2, "holds no saved state and no config.toml; name the SOURCEs")


def test_a_folder_of_something_else_is_not_replaced(here: Path) -> None:
    Path("checkpoints", "mine").mkdir(parents=True)
    thesis = Path("checkpoints", "mine", "thesis.tex")
    thesis.write_text("ten years of work")
    words = "checkpoints/mine is a folder and not the folder of a training run; it is not replaced"
    refused(train("--force", *WORDS), 2, words)
    refused(train("--resume", *WORDS), 2, words)
    assert thesis.read_text() == "ten years of work"
    assert [path.name for path in Path("checkpoints").iterdir()] == ["mine"]


def test_a_run_that_saved_nothing_is_begun(here: Path) -> None:
    result = train("--resume", *WORDS)
    assert result.exit_code == 0, result.output
    assert "nothing was saved here yet" in result.output


def test_a_stopped_run_stands_in_the_way_of_a_new_one(stopped: Path) -> None:
    refused(train(*WORDS), 2, "go on with --resume, or replace it with --force")
    assert train("--force", *WORDS).exit_code == 0


def test_there_is_nothing_to_sample_from_before_a_model_was_judged(stopped: Path) -> None:
    words = ["sample", "--model", "mine", "--out", "song.txt", "--seed", "1"]
    refused(CliRunner().invoke(commands, words), 2, "the run has no checkpoint yet")
    assert train("--resume").exit_code == 0
    assert CliRunner().invoke(commands, words).exit_code == 0


def test_a_damaged_state_is_spoken_of(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_update(patch, 11, signal.SIGINT)
        assert train("--resume").exit_code == 130
    newest = checkpoint.list_numbered_folders(stopped / "progress")[-1] / "values.json"
    newest.write_bytes(newest.read_bytes()[:-1])
    result = train("--resume")
    assert result.exit_code == 0, result.output
    assert "its bytes changed since it was written; using the previous one" in result.output


def command(*words: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-m", "musicgen", "train", *words, "--name", "mine", "-v"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def killed(words: tuple[str, ...], lines: int) -> bool:
    """Train in a process of its own; kill it when it has said so many lines, if it still lives."""
    with command(*words) as child:
        assert child.stderr
        for _ in range(lines):
            child.stderr.readline()
        child.kill()
    return child.returncode == -signal.SIGKILL


@pytest.mark.promises
def test_the_command_itself_is_killed_and_resumed(here: Path) -> None:
    """From the first line it says to its last: wherever it dies, --resume ends in the same bits."""
    assert train(*WORDS, name="whole").exit_code == 0
    kills = sum(killed((*WORDS, "--resume"), lines) for lines in range(1, 9))
    assert kills >= 3
    with command("--resume", *WORDS) as child:
        assert child.wait() == 0
    assert weights("mine") == weights("whole")
