"""`musicgen tweak`: the same bytes again, or a variant, from the file alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musicgen import checkpoint, formats
from tests.command_runner import assert_refused, run, run_ok
from tests.fake_models import untrained


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "model")
    return tmp_path


SAMPLE = ("sample", "--model", "model", "--seed", "5")
IDEA = "X:1\nT:idea\nM:6/8\nL:1/8\nK:Em\nB|EBB ABd|BAG FED|EBB ABd|ef"
RECIPES = (
    (),
    ("--bars", "8", "--form", "ABAC", "--key", "Dmix", "--temperature", "1.1"),
    ("--bars", "8", "--range", "D4-D6", "--end", "tonic", "--tempo", "90", "--top-p", "0.9"),
    ("--bars", "12", "--primer", "idea.abc"),
    ("--bars", "12", "--primer", "idea.abc", "--no-primer"),
)


@pytest.mark.parametrize("args", RECIPES)
def test_tweak_without_options_writes_the_same_bytes(cwd: Path, args: tuple[str, ...]) -> None:
    (cwd / "idea.abc").write_text(IDEA)
    run_ok(*SAMPLE, "--out", "a.mid", "--out", "a.abc", *args)
    for suffix in (".mid", ".abc"):
        run_ok("tweak", f"a{suffix}", "--model", "model", "--out", "b.mid", "--out", "b.abc")
        for suffix_again in (".mid", ".abc"):
            assert (cwd / f"a{suffix_again}").read_bytes() == (
                cwd / f"b{suffix_again}"
            ).read_bytes()
            (cwd / f"b{suffix_again}").unlink()


def test_tweak_writes_the_same_bytes_with_a_resaved_model(cwd: Path) -> None:
    run_ok(*SAMPLE, "--out", "a.mid", "--bars", "4")
    model = checkpoint.load(cwd / "model")
    checkpoint.save(cwd / "copy", model.weights, model.manifest)
    run_ok("tweak", "a.mid", "--model", "copy", "--out", "b.mid")
    assert (cwd / "a.mid").read_bytes() == (cwd / "b.mid").read_bytes()


def test_tweak_rewrites_any_tune_of_a_batch(cwd: Path) -> None:
    run_ok(*SAMPLE, "--out", "t{n}.mid", "--bars", "4", "--count", "10", "--jobs", "2")
    for number in ("1", "7", "10"):
        run_ok("tweak", f"t{number}.mid", "--model", "model", "--out", "b.mid", "--force")
        assert (cwd / f"t{number}.mid").read_bytes() == (cwd / "b.mid").read_bytes()


def test_another_key_transposes_every_note(cwd: Path) -> None:
    run_ok(*SAMPLE, "--out", "a.abc", "--key", "D", "--bars", "8")
    run_ok("tweak", "a.abc", "--model", "model", "--out", "b.abc", "--key", "G")
    (score,), _ = formats.read(cwd / "a.abc")
    (variant,), _ = formats.read(cwd / "b.abc")
    note_lists = [[(n.onset, n.pitch - by, n.duration) for n in s.notes]
            for s, by in ((score, 0), (variant, 5))]  # fmt: skip
    assert note_lists[0] == note_lists[1]


def test_tune_sampled_without_a_key_is_transposed_too(cwd: Path) -> None:
    run_ok(*SAMPLE, "--out", "a.abc", "--bars", "8")
    (score,), _ = formats.read(cwd / "a.abc")
    suffix_again = score.key.transpose(2)
    run_ok("tweak", "a.abc", "--model", "model", "--out", "b.abc", "--key", str(suffix_again))
    (variant,), _ = formats.read(cwd / "b.abc")
    assert len({b.pitch - a.pitch for a, b in zip(score.notes, variant.notes, strict=True)}) == 1


def test_edited_file_is_used_as_primer(cwd: Path) -> None:
    run_ok("sample", "--seed", "5", "--out", "a.abc", "--key", "D", "--meter", "4/4", "--bars", "4",
         "--form", "through")  # fmt: skip
    lines = (cwd / "a.abc").read_text().splitlines()
    (cwd / "a.abc").write_text("\n".join([*lines[:-1], "D4 E4 | F4 G4 |]"]) + "\n")
    output = run_ok("tweak", "a.abc", "--out", "b.abc")
    message = "a.abc: its notes were edited since it was written; its notes are taken as a primer"
    assert message in output
    (edited,), _ = formats.read(cwd / "a.abc")
    (variant,), _ = formats.read(cwd / "b.abc")
    assert [n.pitch for n in variant.notes[: len(edited.notes)]] == [n.pitch for n in edited.notes]


def test_keep_works_with_foreign_files(cwd: Path) -> None:
    (cwd / "tune.abc").write_text("X:1\nT:t\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|cBAG|FEDC|]\n")
    output = run_ok("tweak", "tune.abc", "--model", "model", "--keep", "1,4", "--out", "b.abc")
    assert "tune.abc: musicgen did not write it; its notes are taken as a primer" in output
    (variant,), _ = formats.read(cwd / "b.abc")
    assert [n.pitch for n in variant.notes[:4]] == [60, 62, 64, 65]
    assert [n.pitch for n in variant.notes if n.onset >= 3 * 192] == [65, 64, 62, 60]


def test_tweak_refuses_another_model(cwd: Path) -> None:
    untrained(cwd / "other", seed=1)
    run_ok(*SAMPLE, "--out", "a.mid", "--bars", "4")
    result = run("tweak", "a.mid", "--model", "other", "--out", "b.mid")
    assert_refused(result, 2, "it was made by model 1 (")
    assert "this model is other 1 (" in result.output


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("tweak", "none.mid"), 2, "none.mid does not exist"),
        (("tweak", "plain.abc"), 2, "plain.abc: it has no recipe"),
        (("tweak", "a.mid", "--keep", "1-99"), 2, "keep 99: the tune has 4 bars"),
        (("tweak", "a.mid", "--key", "H"), 2, "write a tonic and a mode"),
        (("tweak", "a.mid", "--range", "D4"), 2, "write its lowest and highest note"),
        (("tweak", "broken.abc"), 2, "its recipe cannot be read"),
        (("tweak", "endless.abc"), 2, "its recipe cannot be read"),
    ],
)
def test_tweak_refuses_bad_input_in_one_line(
    cwd: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    run_ok(*SAMPLE, "--out", "a.mid", "--bars", "4", "--form", "through")
    (cwd / "plain.abc").write_text("X:1\nT:t\nM:4/4\nL:1/4\nK:C\nCDEF|]\n")
    (cwd / "broken.abc").write_text("X:1\nT:t\n%%musicgen:recipe {}\nK:C\nCDEF|]\n")
    run_ok(*SAMPLE, "--out", "a.abc", "--bars", "4", "--form", "through")
    endless = (cwd / "a.abc").read_text().replace('"seed":5,', '"seed":1e999,')
    (cwd / "endless.abc").write_text(endless)
    assert_refused(run(*args, "--model", "model", "--out", "b.mid"), code, message)
    assert not (cwd / "b.mid").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--no-primer",), "--no-primer: there is no primer; name one with --primer"),
        (("--form", "AABB", "--bars", "30"), "ask for a multiple of 4"),
        (("--pickup", "x"), "write none, a note value such as 1/8, or steps"),
        (("--max-copy", "3"), "every tune shares three notes with some other"),
        (("--max-copy", "8"), "the model has no index of its training tunes"),
        (("--primer", "none.mid"), "none.mid does not exist"),
        (("--end", "never"), "is not one of 'any', 'tonic', 'cadence'"),
    ],
)
def test_sample_refuses_contradicting_options(
    cwd: Path, args: tuple[str, ...], message: str
) -> None:
    assert_refused(run(*SAMPLE, "--out", "a.mid", *args), 2, message)
    assert not (cwd / "a.mid").exists()


def test_recipe_stores_the_options(cwd: Path) -> None:
    run_ok(*SAMPLE, "--out", "a.abc", "--form", "AABB", "--key", "Edor", "--pickup", "none")
    line = next(row for row in (cwd / "a.abc").read_text().splitlines() if "recipe" in row)
    recipe = json.loads(line.split(" ", 1)[1])
    assert recipe["wishes"] == {"form": "AABB", "key": "E dorian", "pickup": 0}
    assert (recipe["seed"], recipe["number"], recipe["model"]["name"]) == (5, 0, "model")
