"""Each command through click's runner: exit code, message, output files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from musicgen import formats
from musicgen.cli import COMMANDS
from musicgen.music.score import Mark, Note, Score
from musicgen.music.theory import Key, Meter
from tests.command_runner import assert_refused, run
from tests.fake_models import untrained


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("args", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_shows_usage(args: Sequence[str]) -> None:
    result = run(*args)
    assert "Usage" in result.output
    assert "Traceback" not in result.output
    assert "<=None" not in result.output  # a range without bounds


@pytest.mark.parametrize("args", [[], ["sample", "--help"], ["train", "--help"]])
def test_help_shows_each_example_on_its_own_line(args: list[str]) -> None:
    lines = [line.strip() for line in run(*args).output.splitlines()]
    assert len([line for line in lines if line.startswith("musicgen ")]) >= 2
    assert not any("\\b" in line for line in lines)


def test_sample_applies_its_options(cwd: Path) -> None:
    args = "sample --model model --out song.mid --out song.abc --seed 7 --key Edor --meter 6/8"
    result = run(*args.split(), "--bars", "8", "--program", "flute")
    assert result.exit_code == 0, result.output
    assert "E dorian" in result.output
    (score,), _ = formats.read(cwd / "song.abc")
    assert (score.key, score.meter) == (Key("E", "dorian"), Meter(6, 8))
    (played,), _ = formats.read(cwd / "song.mid")
    assert played.parts[0].program == 73
    assert [n.pitch for n in played.notes] == [n.pitch for n in score.canonical().unfolded().notes]


def test_sample_prints_the_seed_that_repeats_the_tune(cwd: Path) -> None:
    result = run("sample", "--model", "model", "--out", "a.mid", "--bars", "4")
    seed = result.output.split("--seed ")[1].split()[0]
    repeated_run = run(
        "sample", "--model", "model", "--out", "b.mid", "--bars", "4", "--seed", seed
    )
    assert repeated_run.exit_code == 0
    assert (cwd / "a.mid").read_bytes() == (cwd / "b.mid").read_bytes()


def test_count_writes_files_to_a_folder_or_by_a_pattern(cwd: Path) -> None:
    assert run("sample", "--model", "model", "--out", "tunes/", "--count", "3", "--bars", "2",
               "-q").output == ""  # fmt: skip
    assert sorted(p.name for p in (cwd / "tunes").iterdir()) == [
        "tune-1.mid", "tune-2.mid", "tune-3.mid",
    ]  # fmt: skip
    run("sample", "--model", "model", "--out", "t{n}.abc", "--count", "2", "--bars", "2")
    assert {p.name for p in cwd.glob("t?.abc")} == {"t1.abc", "t2.abc"}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--out", "no/song.mid"], 2, "no"),
        (["--out", "song.xyz"], 2, "write one of .abc, .mid"),
        (["--out", "song.mid", "--key", "H"], 2, "write a tonic and a mode"),
        (["--out", "song.mid", "--meter", "7/0"], 2, "write 1 to 64 beats"),
        (["--out", "song.mid", "--bars", "0"], 2, "bars 0: ask for 1 to 512"),
        (["--out", "song.mid", "--rhythm", "tango"], 2, "rhythm 'tango' is unknown"),
        (["--out", "song.mid", "--top-p", "2"], 2, "top-p 2.0"),
        (["--out", "song.mid", "--temperature", "0"], 2, "temperature 0.0"),
        (["--out", "song.mid", "--program", "kazoo"], 2, "program 'kazoo' is unknown"),
        (["--out", "song.mid", "--count", "3"], 2, "name a folder (song.mid/) or a pattern"),
        (["--out", "song.mid", "--model", "nobody"], 2, "model 'nobody' is unknown"),
        (["--out", "song.mid", "--nonsense"], 2, "No such option"),
    ],
)
def test_sample_refuses_bad_options_in_one_line(
    cwd: Path, args: list[str], code: int, message: str
) -> None:
    chosen = [] if "--model" in args else ["--model", "model"]
    assert_refused(run("sample", *chosen, *args), code, message)
    assert {path.name for path in cwd.iterdir()} == {"model"}


def test_sample_overwrites_only_with_force(cwd: Path) -> None:
    (cwd / "song.mid").write_bytes(b"mine")
    arguments = ["sample", "--model", "model", "--out", "song.mid", "--bars", "2"]
    assert_refused(run(*arguments), 2, "song.mid exists; choose another name or add --force")
    assert (cwd / "song.mid").read_bytes() == b"mine"
    assert run(*arguments, "--force").exit_code == 0
    assert (cwd / "song.mid").read_bytes() != b"mine"


def test_sample_refuses_a_truncated_checkpoint(cwd: Path) -> None:
    weights = cwd / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert_refused(run("sample", "--model", "model", "--out", "song.mid"), 1, "weights.safetensors")
    assert not (cwd / "song.mid").exists()


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_full_disk_leaves_no_partial_file(cwd: Path) -> None:
    args = [sys.executable, "-m", "musicgen", "sample", "--model", "model", "--out", "song.mid"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.run(args, cwd=cwd, capture_output=True, text=True, check=False,
                          preexec_fn=limit_file_size,
                          env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    assert process.returncode == 1
    assert "song.mid" in process.stderr
    assert "Traceback" not in process.stderr
    assert {path.name for path in cwd.iterdir()} == {"model"}


def make_score(seed: int) -> Score:
    notes = tuple(Note(i * 24, 60 + (i * 7 + seed * 5) % 12, 24) for i in range(48))
    lines = (Mark(144 * number, "bar") for number in range(1, 9))
    return Score(notes, (Mark(0, "meter", Meter(3, 4)), *lines), title=f"tune {seed}")


def test_train_writes_a_model_that_sample_uses(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicgen.cli.tune_sources.READERS", 2)  # child processes, as for users
    (cwd / "tunes").mkdir()
    for number in range(12):
        formats.write(make_score(number), cwd / "tunes" / f"{number}.mid")
    result = run("train", "tunes", "--name", "tiny", "--hidden", "16", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert "kept 12 of 12 tunes" in result.output
    assert {p.name for p in (cwd / "checkpoints" / "tiny").iterdir()} >= {
        "MODEL_CARD.md", "best", "manifest.json", "metrics.jsonl", "progress",
        "weights.safetensors",
    }  # fmt: skip
    repeated_run = run("train", "tunes", "--name", "tiny")
    assert_refused(repeated_run, 2, "checkpoints/tiny exists; choose another --name")
    sample_result = run("sample", "--model", "tiny", "--out", "song.mid", "--bars", "4")
    assert sample_result.exit_code == 0, sample_result.output


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("nothing", None, 2, "there is no file, folder or corpus 'nothing'"),
        ("empty", {}, 2, "empty"),
        ("wordy", {"a.txt": "no tune"}, 2, "wordy"),
        ("broken", {"a.abc": "X:1\nT:x\nK:C\n[CEG\n"}, 1, "broken"),
    ],
)
def test_train_refuses_bad_sources_in_one_line(
    cwd: Path, name: str, content: dict[str, str] | None, code: int, message: str
) -> None:
    if content is not None:
        (cwd / name).mkdir()
        for file, text in content.items():
            (cwd / name / file).write_text(text)
    assert_refused(run("train", name, "--name", "mine"), code, message)
    assert not (cwd / "checkpoints" / "mine").exists()


def test_train_refuses_a_name_that_is_a_path(cwd: Path) -> None:
    assert_refused(run("train", "model", "--name", "../up"), 2, "use letters, digits, dots")
