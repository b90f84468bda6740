"""Promise 28: foreign files are kept under every name; leftover partial files are removed."""

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
from tests.cli.test_origin import save_indexed_model
from tests.command_runner import assert_refused, run, run_ok
from tests.synthetic_tunes import tune

THESIS = "ten years of work"
PYTHON_PATH = os.pathsep.join(entry for entry in sys.path if entry)


@pytest.fixture(scope="module")
def sample_args(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return arguments that sample short tunes from a small model with an index."""
    folder = tmp_path_factory.mktemp("indexed")
    (folder / "book.abc").write_text("".join(tune(number) for number in range(1, 6)))
    model = save_indexed_model(folder / "model", folder / "book.abc")
    return ("sample", "--model", str(model), "--bars", "4", "--seed", "1")


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(
    *args: str, folder: Path, file_bytes: int = resource.RLIM_INFINITY
) -> subprocess.Popen[str]:
    """Start a command in its own process group."""
    limit = (file_bytes, file_bytes)
    return subprocess.Popen(
        [sys.executable, "-m", "musicgen", *args],
        env=os.environ | {"PYTHONPATH": PYTHON_PATH, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip


def test_foreign_recipe_file_is_kept(cwd: Path, sample_args: tuple[str, ...]) -> None:
    (cwd / "song.wav.recipe.json").write_text(THESIS)
    for args in ([], ["--force"]):
        assert_refused(run(*sample_args, "--out", "song.wav", *args), 2, "recipe.json exists")
    (cwd / "tune.abc").write_text(tune(1))
    run_ok("render", "tune.abc", "--out", "song.wav", "--force")
    assert (cwd / "song.wav.recipe.json").read_text() == THESIS


def test_recipe_of_a_replaced_file_is_removed(cwd: Path, sample_args: tuple[str, ...]) -> None:
    (cwd / "tune.abc").write_text(tune(1))
    run_ok(*sample_args, "--out", "song.svg")
    assert (cwd / "song.svg.recipe.json").exists()
    run_ok(*sample_args, "--out", "song.svg", "--seed", "2", "--force")
    run_ok("render", "tune.abc", "--out", "song.svg", "--force")
    assert not (cwd / "song.svg.recipe.json").exists()


def test_foreign_table_file_is_kept(cwd: Path, sample_args: tuple[str, ...]) -> None:
    (cwd / "tunes").mkdir()
    (cwd / "tunes" / "index.tsv").write_text(THESIS)
    args = (*sample_args, "--out", "tunes/", "--count", "2", "--best", "1", "--force")
    assert_refused(run(*args), 2, "index.tsv exists and is not a table of tunes")
    assert [path.name for path in (cwd / "tunes").iterdir()] == ["index.tsv"]
    (cwd / "tunes" / "index.tsv").write_text("\t".join(TABLE_COLUMNS) + "\n")
    run_ok(*args)


def test_foreign_report_and_options_files_are_kept(cwd: Path) -> None:
    foreign = f"<!doctype html><title>{THESIS}</title>"
    (cwd / "ladder.html").write_text(foreign)
    (cwd / "pyproject.toml").write_text(THESIS)
    assert_refused(
        run("compare", "tune.abc", "--force"), 2, "ladder.html exists and is not a page of"
    )
    args = ("train", "tune.abc", "--save-config", "pyproject.toml", "--force")
    assert_refused(run(*args), 2, "pyproject.toml exists and is not an options file")
    assert (cwd / "ladder.html").read_text() == foreign
    assert (cwd / "pyproject.toml").read_text() == THESIS


def test_data_set_with_foreign_files_is_not_replaced(cwd: Path) -> None:
    (cwd / "tune.abc").write_text(tune(1))
    args = ("corpus", "build", "tune.abc", "--out", "data", "--force")
    run_ok(*args)
    original_files = {path: path.read_bytes() for path in (cwd / "data").iterdir()}
    assert len(original_files) > 3
    for path in [*original_files, cwd / "data" / "thesis.tex"]:
        path.write_text(THESIS)
        is_manifest = path.name == "manifest.json"
        not_ours = f"data/{path.name} is not what musicgen wrote"
        assert_refused(run(*args), 2, "is a folder and not a data set" if is_manifest else not_ours)
        assert path.read_text() == THESIS
        path.write_bytes(original_files[path]) if path in original_files else path.unlink()
    next(path for path in original_files if path.name.startswith("refusals")).unlink()
    run_ok(*args)
    assert {path: path.read_bytes() for path in (cwd / "data").iterdir()} == original_files


def test_link_to_a_data_set_is_not_replaced(cwd: Path) -> None:
    (cwd / "tune.abc").write_text(tune(1))
    args = ("corpus", "build", "tune.abc", "--force", "--out")
    run_ok(*args, "data")
    (cwd / "link").symlink_to("data")
    assert_refused(run(*args, "link"), 2, "link is a folder and not a data set")
    assert sorted(path.name for path in cwd.iterdir()) == ["data", "link", "tune.abc"]


def test_partial_files_of_a_killed_process_are_removed_at_the_next_start(
    cwd: Path, sample_args: tuple[str, ...]
) -> None:
    (cwd / "tune.abc").write_text(tune(1))
    foreign = cwd / ".song.mid.0123abcd.partial"
    foreign.write_text(THESIS)
    for args in ((*sample_args, "--out", "song.mid"), ("render", "tune.abc", "--out", "other.mid")):
        make_partial_path(cwd / "song.mid").write_text("half")
        run_ok(*args)
        assert not [path for path in cwd.iterdir() if is_partial(path.name)]
    assert foreign.read_text() == THESIS


def test_interrupt_leaves_only_complete_files(cwd: Path, sample_args: tuple[str, ...]) -> None:
    process = start(*sample_args, "--out", "tunes/", "--count", "2000", "--jobs", "2", folder=cwd)
    deadline = time.monotonic() + 100
    while not ((cwd / "tunes").is_dir() and len(list((cwd / "tunes").iterdir())) > 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 130
    assert message.splitlines()[-1] == "Error: interrupted"
    assert "Traceback" not in message
    names = [path.name for path in (cwd / "tunes").iterdir()]
    assert not [name for name in names if is_partial(name)]
    assert len(names) < 2000


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_file_size_limit_is_reported_in_one_line(
    cwd: Path, sample_args: tuple[str, ...], jobs: str
) -> None:
    args = (*sample_args, "--out", "tunes/", "--count", "4", "--jobs", jobs)
    process = start(*args, file_bytes=64, folder=cwd)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 1, message
    assert message.startswith("Error: ")
    assert "File too large" in message
    assert message.count("\n") == 1
    assert list((cwd / "tunes").iterdir()) == []


BUILD_AND_DIE = """
import os, signal, sys
from musicgen.corpus.build import build
data_set = build([sys.argv[1]], jobs=0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_folders_of_a_killed_build_are_removed(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cwd / "tune.abc").write_text(tune(1))
    temporary = cwd / "tmp"
    foreign = temporary / "musicgen-thesis"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text(THESIS)
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH, "TMPDIR": str(temporary)}
    killed = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, "tune.abc"], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(temporary.iterdir())) == 2
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    first = build([cwd / "tune.abc"], jobs=0)[0]
    second = build([cwd / "tune.abc"], jobs=0)[0]
    assert len(list(temporary.iterdir())) == 3, "those in use stay"
    assert len(first) == len(second) == 1
    assert first.train or first.valid or first.test
    del first, second
    assert [path.name for path in temporary.iterdir()] == ["musicgen-thesis"]
    assert (foreign / "thesis.tex").read_text() == THESIS
