"""`musicgen corpus`: exit codes, words, files made or not, no strays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import commands
from musicgen.corpus.store import load
from tests import made_up

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tunes(tmp_path: Path) -> Path:
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(4):
        book = "".join(made_up.tune(10 * number + n) for n in range(5))
        (folder / f"{number}.abc").write_text(book)
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, ["corpus", *map(str, words)])


def build(folder: Path, *words: str) -> Result:
    return run("build", folder, "--out", folder.parent / "data", "--jobs", "1", *words)


@pytest.mark.parametrize("command", ["build", "check"])
def test_help_teaches_by_example(command: str) -> None:
    lines = [line.strip() for line in run(command, "--help").output.splitlines()]
    assert len([line for line in lines if line.startswith(f"musicgen corpus {command} ")]) >= 3


def test_files_that_are_no_tunes_are_counted(tunes: Path) -> None:
    (tunes / "cover.jpg").touch()
    assert "passed over: 1 other file" in build(tunes).stderr
    assert "passed over: 1 other file" in run("check", tunes, "--jobs", "1").stdout
    (tunes / "words.txt").touch()
    assert "passed over: 2 other files" in build(tunes, "--force").stderr


def test_a_performance_is_not_asked_for_key_and_meter(tmp_path: Path) -> None:
    (tmp_path / "plain.abc").write_text(made_up.tune(1))
    found = run("check", tmp_path, "--jobs", "1", "--codec", "performance")
    assert "kept 1, refused 0" in found.stdout
    assert "none is given" not in found.stdout


def test_a_rebuild_says_what_it_took_over(tunes: Path) -> None:
    assert "kept 20 of 20 tunes" in build(tunes).stderr
    refused = build(tunes)
    assert refused.exit_code == 2
    assert "add --force" in refused.output
    (tunes / "0.abc").write_text(made_up.tune(99))
    again = build(tunes, "--force")
    assert again.exit_code == 0, again.output
    assert "kept 16 of 16 tunes" in again.stderr
    assert "read 1 files, took over 3 that did not change" in again.stderr


@pytest.mark.parametrize("codec", ["performance", "frames", "text", "text-words"])
def test_a_codec_is_built_and_recorded(tunes: Path, codec: str) -> None:
    result = build(tunes, "--codec", codec)
    assert result.exit_code == 0, result.output
    dataset = load(tunes.parent / "data")
    assert (dataset.codec, len(dataset)) == (codec, 20)
    assert len(dataset.vocabulary) > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--codec", "nothing"], "codec 'nothing' is unknown"),
        (["--dask", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),
        (["--memory", "1"], "192"),
        (["--seconds", "0"], "0"),
    ],
)
def test_a_wrong_option_is_one_line(tunes: Path, words: list[str], said: str) -> None:
    result = build(tunes, *words)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert [path.name for path in tunes.parent.iterdir()] == ["tunes"]


def test_the_account_lies_beside_the_data(tunes: Path) -> None:
    (tunes / "bad.abc").write_text(made_up.tune(99, K=""))
    (tunes / "readme.txt").write_text("no tune")
    build(tunes)
    data = tunes.parent / "data"
    report = json.loads((data / "report.json").read_text())
    assert (report["found"], report["kept"], report["refused"]) == (21, 20, 1)
    assert report["codes"] == {"no-key": 1}
    manifest = json.loads((data / "manifest.json").read_text())
    assert set(manifest["sha256"]) | {"manifest.json"} == {path.name for path in data.iterdir()}


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_an_interrupt_ends_in_130_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tunes"
    folder.mkdir()
    for number in range(20):
        book = "".join(made_up.tune(1000 * number + n) for n in range(300))
        (folder / f"{number}.abc").write_text(book)
    words = [sys.executable, "-m", "musicgen", "corpus", "build", str(folder), "--out",
             str(tmp_path / "data"), "--jobs", "2"]  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None:
        workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert (process.returncode, told.strip()) == (130, "Error: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["tunes"]
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert os.getpid() not in workers
