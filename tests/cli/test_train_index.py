"""`train` and the index of the tunes: kept beside the weights, told of, or left out."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen import checkpoint
from musicgen.cli import commands
from musicgen.cli.train_report import ProgressDisplay
from musicgen.corpus import store
from musicgen.corpus.store import Dataset
from musicgen.errors import Mismatch
from musicgen.similarity.build_index import add_index, build_overlap_index
from musicgen.similarity.note_index import INDEX_FILE
from musicgen.similarity.overlap_report import load_index
from musicgen.training.plan import adjust_split
from musicgen.training.trainer import Progress
from tests import synthetic_tunes
from tests.small_runs import small_dataset

WORDS = ("--hidden", "8", "--layers", "1", "--epochs", "1", "--no-heard")
TOLD = "index of these tunes"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, first in (("tunes", 0), ("others", 30)):
        (tmp_path / name).mkdir()
        for number in range(first, first + 12):
            (tmp_path / name / f"{number}.abc").write_text(synthetic_tunes.tune(number))
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, list(words), prog_name="musicgen")


def train(*words: str) -> Result:
    result = run("train", *words, *WORDS)
    assert result.exit_code == 0, result.output
    return result


def longest(file: str, model: str) -> int:
    result = run("origin", file, "--model", model, "--json")
    assert result.exit_code == 0, result.output
    return int(json.loads(result.stdout)["longest_run"])


def test_the_index_stands_beside_the_weights_and_is_told_of(here: Path) -> None:
    result = train("tunes", "--name", "one")
    assert TOLD in result.stderr
    folder = here / "checkpoints" / "one"
    kept = json.loads((folder / "manifest.json").read_bytes())["sha256"]
    assert INDEX_FILE in kept
    index = load_index(checkpoint.load(folder))
    assert index is not None
    parts = checkpoint.load(folder).manifest.corpus["tunes"]
    assert (index.tune_count, len(index.note_index.longest)) == (parts["train"], parts["valid"])
    label = index.note_index.get_label(0)
    assert label.source in {f"{number}.abc" for number in range(12)}  # no folder is named
    assert longest(f"tunes/{label.source}", "one") == 72


def test_it_is_left_out_if_asked_and_stays_so_when_resumed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ProgressDisplay.__call__

    def stopped(self: ProgressDisplay, progress: Progress) -> None:
        watch(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressDisplay, "__call__", stopped)
        result = run("train", "tunes", "--name", "two", "--no-index", *WORDS)
    assert (result.exit_code, TOLD in result.stderr) == (130, False)
    result = run("train", "--name", "two", "--resume")
    assert result.exit_code == 0, result.output
    assert not (here / "checkpoints" / "two" / INDEX_FILE).exists()


def test_a_model_that_goes_on_knows_the_tunes_of_both(here: Path) -> None:
    train("tunes", "--name", "first")
    train("others", "--name", "second", "--from", "first")
    first, second = (load_index(checkpoint.load(here / "checkpoints" / name))
                     for name in ("first", "second"))  # fmt: skip
    assert first
    assert second
    sources = [second.note_index.get_label(tune).source for tune in range(second.tune_count)]
    assert {first.note_index.get_label(tune).source for tune in range(first.tune_count)} < set(
        sources
    )
    known = next(name for name in sources if int(name.split(".")[0]) >= 30)
    assert longest(f"others/{known}", "second") == 72
    assert longest(f"tunes/{first.note_index.get_label(0).source}", "second") == 72
    groups = second.note_index.groups.tolist()
    assert len(set(groups)) == len(groups)


def test_an_index_is_added_to_a_model_of_the_same_tunes_only(here: Path) -> None:
    assert run("corpus", "build", "tunes", "--out", "set").exit_code == 0
    assert run("corpus", "build", "others", "--out", "other-set").exit_code == 0
    train("set", "--name", "bare", "--no-index")
    folder = here / "checkpoints" / "bare"
    before = checkpoint.load(folder)
    with pytest.raises(Mismatch, match="trained on a data set with fingerprint"):
        add_index(folder, loaded(here / "other-set"))
    assert add_index(folder, loaded(here / "set")) == (folder / INDEX_FILE).stat().st_size
    after = checkpoint.load(folder)
    assert after.manifest == before.manifest
    assert {n: a.tobytes() for n, a in after.weights.items()} == {
        n: a.tobytes() for n, a in before.weights.items()
    }
    assert load_index(after) is not None


def loaded(folder: Path) -> Dataset:
    """Open a data set as `train` does: a small one is divided anew."""
    return adjust_split(store.load(folder))


def test_a_text_has_no_index() -> None:
    assert build_overlap_index(small_dataset()) is None


def test_processes_and_one_process_make_the_same_index(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("corpus", "build", "tunes", "--out", "set").exit_code == 0
    dataset = loaded(here / "set")
    alone = build_overlap_index(dataset, jobs=1)
    monkeypatch.setattr("musicgen.similarity.build_index.SERIAL_LIMIT", 2)
    monkeypatch.setattr("musicgen.similarity.build_index.CHUNK", 3)
    together = build_overlap_index(dataset, jobs=2)
    assert alone
    assert together
    assert together.note_index.to_bytes() == alone.note_index.to_bytes()
