"""Promise 28: what the program did not write stays, whatever name it has; strays are swept."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musicgen.cli.sample import TABLE_COLUMNS
from musicgen.corpus.build import build
from musicgen.files import is_partial, make_partial_path
from tests.command_runner import done, refused, run
from tests.synthetic_tunes import tune

THESIS = "ten years of work"
PYTHON_PATH = os.pathsep.join(entry for entry in sys.path if entry)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(
    *words: str, folder: Path, file_bytes: int = resource.RLIM_INFINITY
) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    limit = (file_bytes, file_bytes)
    return subprocess.Popen(
        [sys.executable, "-m", "musicgen", *words],
        env=os.environ | {"PYTHONPATH": PYTHON_PATH, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip


def test_what_has_the_name_of_a_recipe_stays(here: Path) -> None:
    (here / "song.wav.recipe.json").write_text(THESIS)
    for words in ([], ["--force"]):
        refused(run("sample", "--out", "song.wav", "--seed", "1", *words), 2, "recipe.json exists")
    (here / "tune.abc").write_text(tune(1))
    done("render", "tune.abc", "--out", "song.wav", "--force")
    assert (here / "song.wav.recipe.json").read_text() == THESIS


def test_the_recipe_of_what_is_replaced_goes(here: Path) -> None:
    (here / "tune.abc").write_text(tune(1))
    done("sample", "--out", "song.svg", "--seed", "1")
    assert (here / "song.svg.recipe.json").exists()
    done("sample", "--out", "song.svg", "--seed", "2", "--force")
    done("render", "tune.abc", "--out", "song.svg", "--force")
    assert not (here / "song.svg.recipe.json").exists()


def test_what_has_the_name_of_the_table_stays(here: Path) -> None:
    (here / "tunes").mkdir()
    (here / "tunes" / "index.tsv").write_text(THESIS)
    words = ("sample", "--out", "tunes/", "--count", "2", "--best", "1", "--seed", "1", "--force")
    refused(run(*words), 2, "index.tsv exists and is not a table of tunes")
    assert [path.name for path in (here / "tunes").iterdir()] == ["index.tsv"]
    (here / "tunes" / "index.tsv").write_text("\t".join(TABLE_COLUMNS) + "\n")
    done(*words)


def test_what_has_the_name_of_a_page_or_of_options_stays(here: Path) -> None:
    foreign = f"<!doctype html><title>{THESIS}</title>"
    (here / "ladder.html").write_text(foreign)
    (here / "pyproject.toml").write_text(THESIS)
    refused(run("compare", "tune.abc", "--force"), 2, "ladder.html exists and is not a page of")
    words = ("train", "tune.abc", "--save-config", "pyproject.toml", "--force")
    refused(run(*words), 2, "pyproject.toml exists and is not a file of options")
    assert (here / "ladder.html").read_text() == foreign
    assert (here / "pyproject.toml").read_text() == THESIS


def test_a_data_set_that_holds_more_is_not_replaced(here: Path) -> None:
    (here / "tune.abc").write_text(tune(1))
    words = ("corpus", "build", "tune.abc", "--out", "data", "--force", "--jobs", "1")
    done(*words)
    whole = {path: path.read_bytes() for path in (here / "data").iterdir()}
    assert len(whole) > 3
    for path in [*whole, here / "data" / "thesis.tex"]:
        path.write_text(THESIS)
        refused(run(*words), 2, "is a folder and not a data set" if path.name == "manifest.json"
                else f"data/{path.name} is not what musicgen wrote")  # fmt: skip
        assert path.read_text() == THESIS
        path.write_bytes(whole[path]) if path in whole else path.unlink()
    next(path for path in whole if path.name.startswith("refusals")).unlink()
    done(*words)
    assert {path: path.read_bytes() for path in (here / "data").iterdir()} == whole


def test_a_link_to_a_data_set_is_not_replaced(here: Path) -> None:
    (here / "tune.abc").write_text(tune(1))
    words = ("corpus", "build", "tune.abc", "--force", "--jobs", "1", "--out")
    done(*words, "data")
    (here / "link").symlink_to("data")
    refused(run(*words, "link"), 2, "link is a folder and not a data set")
    assert sorted(path.name for path in here.iterdir()) == ["data", "link", "tune.abc"]


def test_what_a_killed_writer_left_is_swept_at_the_next_start(here: Path) -> None:
    (here / "tune.abc").write_text(tune(1))
    foreign = here / ".song.mid.0123abcd.partial"
    foreign.write_text(THESIS)
    for words in (("sample", "--out", "song.mid", "--seed", "1"),
                  ("render", "tune.abc", "--out", "other.mid")):  # fmt: skip
        make_partial_path(here / "song.mid").write_text("half")
        done(*words)
        assert not [path for path in here.iterdir() if is_partial(path.name)]
    assert foreign.read_text() == THESIS


def test_ctrl_c_leaves_only_whole_files(here: Path) -> None:
    child = start("sample", "--out", "tunes/", "--count", "2000", "--jobs", "2", folder=here)
    until = time.monotonic() + 100
    while not ((here / "tunes").is_dir() and len(list((here / "tunes").iterdir())) > 0):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=100)
    assert child.returncode == 130
    assert said.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in said
    names = [path.name for path in (here / "tunes").iterdir()]
    assert not [name for name in names if is_partial(name)]
    assert len(names) < 2000


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_under_a_limit_of_size_many_tunes_are_one_line(here: Path, jobs: str) -> None:
    words = ("sample", "--out", "tunes/", "--count", "4", "--jobs", jobs, "--seed", "1")
    child = start(*words, file_bytes=64, folder=here)
    _, said = child.communicate(timeout=100)
    assert child.returncode == 1, said
    assert said.startswith("Error: ")
    assert "File too large" in said
    assert said.count("\n") == 1
    assert list((here / "tunes").iterdir()) == []


BUILD_AND_DIE = """
import os, signal, sys
from musicgen.cli.sample import HEAD
from musicgen.corpus.build import build
kept = build([sys.argv[1]], jobs=0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_build_left_in_the_temporary_folder_is_swept(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tune.abc").write_text(tune(1))
    temporary = here / "tmp"
    foreign = temporary / "musicgen-thesis"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text(THESIS)
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH, "TMPDIR": str(temporary)}
    killed = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, "tune.abc"], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(temporary.iterdir())) == 2
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    first = build([here / "tune.abc"], jobs=0)[0]
    second = build([here / "tune.abc"], jobs=0)[0]
    assert len(list(temporary.iterdir())) == 3, "those in use stay"
    assert len(first) == len(second) == 1
    assert first.train or first.valid or first.test
    del first, second
    assert [path.name for path in temporary.iterdir()] == ["musicgen-thesis"]
    assert (foreign / "thesis.tex").read_text() == THESIS
