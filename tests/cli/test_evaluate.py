"""`musicgen evaluate`: models and folders of any program's files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from musicgen import checkpoint, formats
from musicgen.corpus import store
from musicgen.corpus.build import build
from musicgen.evaluation import likelihood
from musicgen.formats import abc
from musicgen.tokens.vocabulary import MEASURES
from tests.command_runner import assert_refused, run, run_ok
from tests.fake_models import untrained
from tests.toy_tunes import make_dances


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tunes, a data set of other tunes, and an untrained model of that data set."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "mine").mkdir()
    write_book(folder / "mine" / "book.abc", 6, 0)
    write_book(folder / "real.abc", 80, 100)
    dataset, _ = build([folder / "real.abc"], folder / "data", jobs=0)
    describe_model(untrained(folder / "model"), dataset)
    return folder


def write_book(path: Path, count: int, first_seed: int) -> None:
    path.write_text("\n".join(abc.render(dance) for dance in make_dances(count, first_seed)))


def describe_model(folder: Path, dataset: store.Dataset, **corpus: object) -> None:
    """Write into a model's manifest which data set it learnt from, and let its tunes be short."""
    model = checkpoint.load(folder)
    model.weights["head.bias"][MEASURES.id("end")] = 20.0
    parts = {part: len(getattr(dataset, part)) for part in ("train", "valid", "test")}
    facts = {"tunes": parts, "fingerprint": dataset.fingerprint, "sources": ["real.abc"], **corpus}
    checkpoint.publish(folder, model.weights, replace(model.manifest, corpus=facts))


def test_folder_is_compared_with_a_data_set(place: Path) -> None:
    output = run_ok("evaluate", str(place / "mine"), "--against", str(place / "data"))
    assert "kept 6 of 6 tunes" in output
    for words in ("sections of 8 bars", "8-note runs copied", "100.0 %", "inside"):
        assert words in output
    assert "judge: there are 6 tunes of each kind" in output
    assert "…" not in output  # no cell is cut in 80 columns
    table = [line for line in output.splitlines() if not line.startswith(str(place))]
    assert max(map(len, table)) <= 80


def test_json_is_all_that_goes_to_stdout(place: Path) -> None:
    result = run("evaluate", str(place / "mine"), "--against", str(place / "real.abc"), "--json")
    data = json.loads(result.stdout)
    assert data["sections_8"]["value"] == 1
    assert data["real"]["tunes"] == 80
    assert "copied_8" not in data  # files have no training part
    real, mine = place / "real.abc", place / "mine"
    options = f"--against {real} --split valid --count 500 --seed 1"
    assert data["command"] == f"musicgen evaluate {mine} {options}"


def test_midi_files_have_no_sections(place: Path, tmp_path: Path) -> None:
    for number, dance in enumerate(make_dances(5)):
        formats.write(dance, tmp_path / f"{number}.mid")
    output = run_ok("evaluate", str(tmp_path), "--against", str(place / "real.abc"))
    assert "sections are not known: no tune has repeat signs" in output
    assert "not known" in next(line for line in output.splitlines() if "of 8 bars" in line)


def test_model_is_sampled_in_two_forms_and_repeatable(place: Path, tmp_path: Path) -> None:
    args = ("evaluate", str(place / "model"), "--data", str(place / "data"), "--count", "4",
            "--json")  # fmt: skip
    first = json.loads(run(*args, "--html", str(tmp_path / "card.html")).stdout)
    assert list(first["columns"]) == ["form free", "form AABB"]
    assert first["columns"]["form AABB"]["sections_8"]["value"] == 1
    assert list(first["bar_likeness"]) == [str(lag) for lag in range(1, 17)]
    keys = ("bits_per_note", "sections_multiple_of_4", "sections_8", "judge_auc")
    for figure in (*(first[key] for key in keys), *first["bar_likeness"].values()):
        assert figure.keys() >= {"value", "real", "low", "high", "verdict"}
    bits = first["bits_per_note"]
    assert bits["low"] <= bits["value"] <= bits["high"]
    assert (bits["real"], bits["verdict"]) == (None, "not known")
    assert "The score card" in (tmp_path / "card.html").read_text()
    assert json.loads(run(*args).stdout) == first


def test_model_without_repeats_is_sampled_in_the_free_form(place: Path, tmp_path: Path) -> None:
    folder = untrained(tmp_path / "band")
    describe_model(folder, store.load(place / "data"))
    model = checkpoint.load(folder)
    seen = tuple(0 if event.kind == "repeat_end" else 1 for event in MEASURES.events)
    checkpoint.publish(folder, model.weights, replace(model.manifest, seen=seen))
    args = ("--data", str(place / "data"), "--count", "4", "--json")
    data = json.loads(run("evaluate", str(folder), *args).stdout)
    assert list(data["columns"]) == ["form free"]


def test_curve_holds_baselines_and_a_small_network(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "NETWORK_WEIGHTS", 3000)
    monkeypatch.setattr(likelihood, "NETWORK_TOKENS", 2000)
    page = tmp_path / "card.html"
    args = ("evaluate", str(place / "model"), "--data", str(place / "data"), "--count", "4",
            "--form", "AABB", "--curve")  # fmt: skip
    output = run_ok(*args, "--html", str(page))
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    trained_on = len(store.load(place / "data").train)
    sizes, bits = list(map(int, rows["model"])), list(map(float, rows["network"]))
    assert sizes[-1] == trained_on
    assert len(sizes) == len(bits) == len(rows["ngram"]) == 6
    assert all(0 < value < 50 for value in bits)
    assert "network: one layer of 500,000 weights, trained for 1,000,000 tokens" in output
    assert "Learning curve" in page.read_text()


def test_curve_needs_the_training_part(place: Path) -> None:
    model, real = str(place / "model"), str(place / "real.abc")
    assert_refused(run("evaluate", model, "--against", real, "--curve"), 2, "leave --against out")
    assert_refused(run("evaluate", real, "--curve"), 2, "holds tunes, not a model; leave it out")


def test_one_form_is_one_column(place: Path) -> None:
    args = ("--data", str(place / "data"), "--count", "4", "--form", "ABAB", "--split", "test")
    data = json.loads(run("evaluate", str(place / "model"), *args, "--json").stdout)
    assert list(data["columns"]) == ["form ABAB"]


def test_page_is_not_overwritten(place: Path, tmp_path: Path) -> None:
    page = tmp_path / "card.html"
    page.write_text("mine")
    args = ("evaluate", str(place / "mine"), "--html", str(page))
    assert_refused(run(*args), 2, "exists; choose another name or add --force")
    assert_refused(run(*args, "--force"), 2, "is not a page of musicgen evaluate")
    assert page.read_text() == "mine"


def test_other_tunes_than_those_of_training_are_refused(place: Path) -> None:
    args = ("evaluate", str(place / "model"), "--data", str(place / "mine"))
    assert_refused(run(*args), 2, "the model was trained on")


def test_path_in_a_manifest_is_not_followed(place: Path) -> None:
    result = run("evaluate", str(place / "model"))
    assert_refused(result, 2, "not a known corpus; name the tunes that it was trained on with")


def test_model_without_a_held_out_part_is_refused(place: Path, tmp_path: Path) -> None:
    dataset = store.load(place / "data")
    describe_model(untrained(tmp_path / "small"), dataset, tunes={"train": 3, "valid": 0})
    result = run("evaluate", str(tmp_path / "small"), "--split", "test")
    assert_refused(result, 2, "the model has no test part; name real tunes to judge by")


def test_model_with_a_small_held_out_part_is_refused(place: Path, tmp_path: Path) -> None:
    dataset = store.load(place / "data")
    describe_model(untrained(tmp_path / "small"), dataset, tunes={"train": 3, "valid": 2})
    result = run("evaluate", str(tmp_path / "small"))
    assert_refused(result, 2, "the model has 2 of the 4 tunes that a score card needs in its valid")


def test_model_without_bars_is_refused(tmp_path: Path) -> None:
    folder = untrained(tmp_path / "model", codec="frames")
    assert_refused(run("evaluate", str(folder)), 2, "codec frames has no bars")


def test_bad_input_is_refused_on_one_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.mid").write_bytes(b"MThd\0\0\0\6 and no more")
    against = ("--against", str(place / "real.abc"))
    assert_refused(run("evaluate", "nosuch"), 2, "nosuch is neither a model nor tunes")
    assert_refused(run("evaluate", str(tmp_path / "empty"), *against), 2, "empty")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "paper.pdf").write_bytes(b"%PDF-1.4")
    assert_refused(run("evaluate", str(tmp_path / "papers"), *against), 2, "papers holds no tunes")
    assert_refused(
        run("evaluate", str(tmp_path / "bad"), *against), 1, "none of 1 tunes could be kept"
    )
    assert_refused(run("evaluate", "folk", "--count", "1"), 2, "1 is not in the range 4<=x<=5000")
    assert_refused(
        run("evaluate", str(place / "mine"), *against, "--form", "AABB"), 2, "holds tunes"
    )
    write_book(tmp_path / "one.abc", 1, 0)
    result = run("evaluate", str(tmp_path / "one.abc"), *against)
    assert_refused(result, 2, "a score card needs 4 tunes or more, not 1")


def test_damaged_files_are_counted(place: Path, tmp_path: Path) -> None:
    write_book(tmp_path / "book.abc", 5, 0)
    (tmp_path / "broken.mid").write_bytes(b"no MIDI at all")
    result = run("evaluate", str(tmp_path), "--against", str(place / "real.abc"), "--json")
    data = json.loads(result.stdout)
    assert data["left_out"] == {"format": 1}
    assert "kept 5 of 6 tunes; left out: 1 format" in result.stderr
