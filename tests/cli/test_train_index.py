"""`train` and the similarity index: written beside the weights, announced, or omitted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen import checkpoint
from musicgen.cli import commands
from musicgen.cli.train_report import ProgressDisplay
from musicgen.corpus import store
from musicgen.corpus.build import build
from musicgen.corpus.store import Dataset
from musicgen.errors import Mismatch
from musicgen.similarity.build_index import add_index, build_overlap_index
from musicgen.similarity.note_index import INDEX_FILE
from musicgen.similarity.overlap_report import load_index
from musicgen.training.plan import adjust_split
from musicgen.training.trainer import Progress
from tests import synthetic_tunes
from tests.small_runs import small_dataset

OPTIONS = ("--hidden", "8", "--layers", "1", "--epochs", "1", "--no-heard")
INDEX_NOTICE = "index of the titles and notes of these tunes"


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder of two corpora, one of which is built as a data set `set`."""
    folder = tmp_path_factory.mktemp("index")
    for name, base_index in (("tunes", 0), ("others", 30)):
        (folder / name).mkdir()
        for number in range(base_index, base_index + 12):
            (folder / name / f"{number}.abc").write_text(synthetic_tunes.tune(number))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build(["tunes"], Path("set"), jobs=0)
        yield folder


@pytest.fixture(scope="module")
def first_run(cwd: Path) -> Result:
    return train("tunes", "--name", "first")


def run(*args: str) -> Result:
    return CliRunner().invoke(commands, list(args), prog_name="musicgen")


def train(*args: str) -> Result:
    result = run("train", *args, *OPTIONS)
    assert result.exit_code == 0, result.output
    return result


def get_longest_run(file: str, model: str) -> int:
    result = run("origin", file, "--model", model, "--json")
    assert result.exit_code == 0, result.output
    return int(json.loads(result.stdout)["longest_run"])


def test_index_is_written_and_announced(cwd: Path, first_run: Result) -> None:
    assert INDEX_NOTICE in first_run.stderr
    folder = cwd / "checkpoints" / "first"
    hashes = json.loads((folder / "manifest.json").read_bytes())["sha256"]
    assert INDEX_FILE in hashes
    index = load_index(checkpoint.load(folder))
    assert index is not None
    parts = checkpoint.load(folder).manifest.corpus["tunes"]
    assert (index.tune_count, len(index.note_index.longest)) == (parts["train"], parts["valid"])
    label = index.note_index.get_label(0)
    assert label.source in {f"{number}.abc" for number in range(12)}  # no folder is named
    assert get_longest_run(f"tunes/{label.source}", "first") == 72


def test_no_index_holds_for_a_resumed_run(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display_update = ProgressDisplay.__call__

    def interrupt_at_second_update(self: ProgressDisplay, progress: Progress) -> None:
        display_update(self, progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressDisplay, "__call__", interrupt_at_second_update)
        result = run("train", "tunes", "--name", "two", "--no-index", *OPTIONS)
    assert (result.exit_code, INDEX_NOTICE in result.stderr) == (130, False)
    result = run("train", "--name", "two", "--resume")
    assert result.exit_code == 0, result.output
    assert not (cwd / "checkpoints" / "two" / INDEX_FILE).exists()


def test_fine_tuned_model_has_the_index_of_both_corpora(cwd: Path, first_run: Result) -> None:
    train("others", "--name", "second", "--from", "first")
    base_index, tuned_index = (load_index(checkpoint.load(cwd / "checkpoints" / name))
                     for name in ("first", "second"))  # fmt: skip
    assert base_index
    assert tuned_index
    sources = [
        tuned_index.note_index.get_label(tune).source for tune in range(tuned_index.tune_count)
    ]
    assert {
        base_index.note_index.get_label(tune).source for tune in range(base_index.tune_count)
    } < set(sources)
    new_source = next(name for name in sources if int(name.split(".")[0]) >= 30)
    assert get_longest_run(f"others/{new_source}", "second") == 72
    assert get_longest_run(f"tunes/{base_index.note_index.get_label(0).source}", "second") == 72
    groups = tuned_index.note_index.groups.tolist()
    assert len(set(groups)) == len(groups)


def test_add_index_requires_the_training_tunes(cwd: Path) -> None:
    build(["others"], Path("other-set"), jobs=0)
    train("set", "--name", "bare", "--no-index")
    folder = cwd / "checkpoints" / "bare"
    checkpoint_before = checkpoint.load(folder)
    with pytest.raises(Mismatch, match="trained on a data set with fingerprint"):
        add_index(folder, load_split(cwd / "other-set"))
    assert add_index(folder, load_split(cwd / "set")) == (folder / INDEX_FILE).stat().st_size
    checkpoint_after = checkpoint.load(folder)
    assert checkpoint_after.manifest == checkpoint_before.manifest
    assert {n: a.tobytes() for n, a in checkpoint_after.weights.items()} == {
        n: a.tobytes() for n, a in checkpoint_before.weights.items()
    }
    assert load_index(checkpoint_after) is not None


def load_split(folder: Path) -> Dataset:
    """Load a data set as `train` does, with the split adjusted to its size."""
    return adjust_split(store.load(folder))


def test_text_data_set_has_no_index() -> None:
    assert build_overlap_index(small_dataset()) is None


def test_index_does_not_depend_on_the_number_of_processes(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_split(cwd / "set")
    serial_index = build_overlap_index(dataset, jobs=1)
    monkeypatch.setattr("musicgen.similarity.build_index.SERIAL_LIMIT", 2)
    monkeypatch.setattr("musicgen.similarity.build_index.CHUNK", 3)
    parallel_index = build_overlap_index(dataset, jobs=2)
    assert serial_index
    assert parallel_index
    assert parallel_index.note_index.to_bytes() == serial_index.note_index.to_bytes()
