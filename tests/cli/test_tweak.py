"""The tweak loop: the same bytes again, or a near variant, from the file alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musicgen import checkpoint, formats
from tests.command_runner import done, refused, run
from tests.fake_models import untrained


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


@pytest.mark.parametrize("words", RECIPES)
def test_without_an_option_the_same_bytes_are_written(here: Path, words: tuple[str, ...]) -> None:
    (here / "idea.abc").write_text(IDEA)
    done(*SAMPLE, "--out", "a.mid", "--out", "a.abc", *words)
    for suffix in (".mid", ".abc"):
        done("tweak", f"a{suffix}", "--model", "model", "--out", "b.mid", "--out", "b.abc")
        for other in (".mid", ".abc"):
            assert (here / f"a{other}").read_bytes() == (here / f"b{other}").read_bytes()
            (here / f"b{other}").unlink()


def test_the_same_bytes_after_the_model_was_saved_again(here: Path) -> None:
    done(*SAMPLE, "--out", "a.mid", "--bars", "4")
    loaded = checkpoint.load(here / "model")
    checkpoint.save(here / "copy", loaded.weights, loaded.manifest)
    done("tweak", "a.mid", "--model", "copy", "--out", "b.mid")
    assert (here / "a.mid").read_bytes() == (here / "b.mid").read_bytes()


def test_any_of_many_is_written_again(here: Path) -> None:
    done(*SAMPLE, "--out", "t{n}.mid", "--bars", "4", "--count", "10", "--jobs", "2")
    for number in ("1", "7", "10"):
        done("tweak", f"t{number}.mid", "--model", "model", "--out", "b.mid", "--force")
        assert (here / f"t{number}.mid").read_bytes() == (here / "b.mid").read_bytes()


def test_another_key_moves_every_note(here: Path) -> None:
    done(*SAMPLE, "--out", "a.abc", "--key", "D", "--bars", "8")
    done("tweak", "a.abc", "--model", "model", "--out", "b.abc", "--key", "G")
    (before,), _ = formats.read(here / "a.abc")
    (after,), _ = formats.read(here / "b.abc")
    rows = [[(n.onset, n.pitch - by, n.duration) for n in s.notes]
            for s, by in ((before, 0), (after, 5))]  # fmt: skip
    assert rows[0] == rows[1]


def test_a_tune_without_a_key_moves_too(here: Path) -> None:
    done(*SAMPLE, "--out", "a.abc", "--bars", "8")
    (before,), _ = formats.read(here / "a.abc")
    other = before.key.transpose(2)
    done("tweak", "a.abc", "--model", "model", "--out", "b.abc", "--key", str(other))
    (after,), _ = formats.read(here / "b.abc")
    assert len({b.pitch - a.pitch for a, b in zip(before.notes, after.notes, strict=True)}) == 1


def test_an_edited_file_is_taken_as_a_primer(here: Path) -> None:
    done("sample", "--seed", "5", "--out", "a.abc", "--key", "D", "--meter", "4/4", "--bars", "4",
         "--form", "through")  # fmt: skip
    lines = (here / "a.abc").read_text().splitlines()
    (here / "a.abc").write_text("\n".join([*lines[:-1], "D4 E4 | F4 G4 |]"]) + "\n")
    told = done("tweak", "a.abc", "--out", "b.abc")
    said = "a.abc: its notes were edited since it was written; its notes are taken as a primer"
    assert said in told
    (edited,), _ = formats.read(here / "a.abc")
    (after,), _ = formats.read(here / "b.abc")
    assert [n.pitch for n in after.notes[: len(edited.notes)]] == [n.pitch for n in edited.notes]


def test_bars_of_any_file_are_kept(here: Path) -> None:
    (here / "tune.abc").write_text("X:1\nT:t\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|cBAG|FEDC|]\n")
    told = done("tweak", "tune.abc", "--model", "model", "--keep", "1,4", "--out", "b.abc")
    assert "tune.abc: musicgen did not write it; its notes are taken as a primer" in told
    (after,), _ = formats.read(here / "b.abc")
    assert [n.pitch for n in after.notes[:4]] == [60, 62, 64, 65]
    assert [n.pitch for n in after.notes if n.onset >= 3 * 192] == [65, 64, 62, 60]


def test_another_model_is_refused_by_name(here: Path) -> None:
    untrained(here / "other", seed=1)
    done(*SAMPLE, "--out", "a.mid", "--bars", "4")
    result = run("tweak", "a.mid", "--model", "other", "--out", "b.mid")
    refused(result, 2, "it was made by model 1 (")
    assert "this model is other 1 (" in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
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
def test_tweak_refuses_in_one_line(
    here: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done(*SAMPLE, "--out", "a.mid", "--bars", "4", "--form", "through")
    (here / "plain.abc").write_text("X:1\nT:t\nM:4/4\nL:1/4\nK:C\nCDEF|]\n")
    (here / "broken.abc").write_text("X:1\nT:t\n%%musicgen:recipe {}\nK:C\nCDEF|]\n")
    done(*SAMPLE, "--out", "a.abc", "--bars", "4", "--form", "through")
    endless = (here / "a.abc").read_text().replace('"seed":5,', '"seed":1e999,')
    (here / "endless.abc").write_text(endless)
    refused(run(*words, "--model", "model", "--out", "b.mid"), code, said)
    assert not (here / "b.mid").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--no-primer",), "there is no primer to leave out"),
        (("--form", "AABB", "--bars", "30"), "ask for a multiple of 4"),
        (("--pickup", "x"), "write none, a note value such as 1/8, or steps"),
        (("--max-copy", "3"), "every tune shares three notes with some other"),
        (("--max-copy", "8"), "the model has no index of its training tunes"),
        (("--primer", "none.mid"), "none.mid does not exist"),
        (("--end", "never"), "is not one of 'any', 'tonic'"),
    ],
)
def test_sample_refuses_what_contradicts_itself(
    here: Path, words: tuple[str, ...], said: str
) -> None:
    refused(run(*SAMPLE, "--out", "a.mid", *words), 2, said)
    assert not (here / "a.mid").exists()


def test_a_recipe_holds_all_that_was_asked(here: Path) -> None:
    done(*SAMPLE, "--out", "a.abc", "--form", "AABB", "--key", "Edor", "--pickup", "none")
    line = next(x for x in (here / "a.abc").read_text().splitlines() if "recipe" in x)
    recipe = json.loads(line.split(" ", 1)[1])
    assert recipe["wishes"] == {"form": "AABB", "key": "E dorian", "pickup": 0}
    assert (recipe["seed"], recipe["number"], recipe["model"]["name"]) == (5, 0, "model")
