"""Options in a TOML file: read under the flags, refused with their line, written back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from musicgen.cli import commands
from musicgen.cli.config_file import (
    NON_SETTING_OPTIONS,
    read_settings,
    render_settings,
    select_setting_params,
)
from musicgen.cli.formatting import long_name
from musicgen.cli.train import train
from musicgen.errors import InvalidValue
from tests import synthetic_tunes

FILLED = {
    "sources": ["tunes", "more.abc"], "codec": "text", "cell": "gru", "layers": 3, "hidden": 12,
    "dropout": 0.25, "epochs": 1.5, "minutes": 2, "batch": 4, "bptt": 8, "learning-rate": 1e-05,
    "seed": 0, "device": "cpu", "precision": "fp32", "name": "other", "score-test": True,
    "no-heard": True, "no-index": True, "tensorboard": False, "from": "folk",
}  # fmt: skip


@click.command(params=train.params)
@click.pass_context
def echo(ctx: click.Context, /, **_: Any) -> None:
    """Print the values that the options of `train` come to."""
    click.echo(json.dumps(ctx.params, default=str))


def values(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(echo, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def read(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    return read_settings(path, click.Context(train))


def refusal(path: Path, text: str) -> str:
    with pytest.raises(InvalidValue) as caught:
        read(path, text)
    return str(caught.value).removeprefix(f"{path}")


def toml(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def test_every_setting_can_stand_in_a_file(tmp_path: Path) -> None:
    params = {long_name(param): param for param in select_setting_params(train.params)}
    taken = read(tmp_path / "a.toml", toml(FILLED))
    assert taken == {key.replace("-", "_"): value for key, value in FILLED.items()}
    assert params.keys() == FILLED.keys(), "name a value for the new option in FILLED"


def test_flags_go_before_a_file_and_a_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('hidden = 12\nlearning_rate = 1e-3\nname = "filed"\nsources = "a.abc"')
    found = values("--config", file, "--hidden", "24")
    assert (found["hidden"], found["learning_rate"], found["name"]) == (24, 0.001, "filed")
    assert (found["seed"], found["sources"]) == (1, ["a.abc"])
    assert values("b.abc", "--config", file)["sources"] == ["b.abc"]
    assert values("--hidden", "24", "--config", file)["hidden"] == 24


def test_epochs_that_are_typed_go_before_minutes_of_a_file(tunes: Path) -> None:
    (tunes / "a.toml").write_text("minutes = 600\nhidden = 8\nno-heard = true\nname = 'filed'")
    result = run("train", "tunes", "--config", "a.toml", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "(1.0 epochs)" in result.stderr
    assert tomllib.loads((tunes / "checkpoints/filed/config.toml").read_text())["epochs"] == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hiden = 3", ", line 1: 'hiden' is no setting; the nearest is 'hidden'"),
        ("# x\n\nlearning-rat = 1", ", line 3: 'learning-rat' is no setting; the nearest is 'lear"),
        ('cell = "gru"\n[model]\nhidden = 3', ", line 2: 'model' is no setting"),
        ("force = true", ", line 1: 'force' is no setting"),
        ('\n"l\\u001br" = 1', "'l\\x1br' is no setting"),
        ('hidden = "12"', ', line 1: hidden is "12"; write a whole number'),
        ("cell = 'gru'\nhidden = 1.5", ", line 2: hidden is 1.5; write a whole number"),
        ("hidden = true", ", line 1: hidden is true; write a whole number"),
        ("hidden = 0", ", line 1: hidden: 0 is not in the range 1<=x<=4096"),
        ("epochs = '3'", ', line 1: epochs is "3"; write a number'),
        ("epochs = inf", ", line 1: epochs: inf is not a finite number"),
        ("epochs = 1" + "0" * 400, ", line 1: epochs has a whole number of over 64 bits"),
        ("epochs = 1e308", ", line 1: epochs: 1e+308 is not in the range 0<x<=1000000"),
        ("seed = 1" + "0" * 400, ", line 1: seed has a whole number of over 64 bits"),
        ("hidden = 8\nseed = 0x" + "f" * 60_000, ", line 2: seed has a whole number of over 64"),
        ("codec = 0x" + "f" * 60_000, ", line 1: codec has a whole number of over 64 bits"),
        ("sources = [0x" + "f" * 60_000 + "]", ", line 1: sources has a whole number of over 64"),
        ("seed = 1" + "0" * 5_000, ": it is no TOML: Exceeds the limit"),
        ("epochs = 1e-9999999", ", line 1: epochs: 0.0 is not in the range"),
        ("epochs = nan", ", line 1: epochs: nan is not a finite number"),
        ("epochs = 0", ", line 1: epochs: 0"),
        ("epochs = 1979-05-27", ", line 1: epochs is a date or time; write a number"),
        ("cell = 3", ", line 1: cell is 3; write a text, in quotes"),
        ("cell = ['gru']", ", line 1: cell is a list; write a text, in quotes"),
        ("cell = 'LSTMS'", ", line 1: cell: 'LSTMS' is not one of 'lstm', 'gru', 'rnn', 'irnn'"),
        ("score-test = 1", ", line 1: score-test is 1; write true or false"),
        ("sources = 3", ", line 1: sources is 3; write a text, or a list of them"),
        ("sources = [\n'a', 3]", ", line 1: sources holds 3; write texts only"),
        ("hidden = ", ": it is no TOML: Invalid value (at end of document); write key = value"),
        ("a = " + "[" * 5_000, ": it is no TOML: maximum recursion depth exceeded"),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    told = refusal(tmp_path / "a.toml", text)
    assert said in told
    assert told.isprintable()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.toml", "none.toml does not exist"),
        ("folder", "it is a folder; only regular files are read"),
        ("latin.toml", "it is no UTF-8"),
        ("wrong.toml", "line 2: layers is 0.5; write a whole number"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("latin.toml").write_bytes("name = 'é'".encode("latin-1"))
    Path("wrong.toml").write_text("hidden = 3\nlayers = 0.5")
    result = run("train", "--config", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, list(words))


plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers = st.floats(1e-9, 1.0)


@given(st.lists(plain, min_size=1), plain, numbers, st.integers(1, 4096), st.booleans())
def test_what_is_written_is_read_back(
    sources: list[str], name: str, rate: float, hidden: int, judged: bool
) -> None:
    asked = {"sources": tuple(sources), "name": name, "learning_rate": rate, "hidden": hidden,
             "score_test": judged, "codec": None}  # fmt: skip
    text = render_settings(asked, train.params, {})
    assert tomllib.loads(text) == {
        "sources": sources, "name": name, "learning-rate": rate, "hidden": hidden,
        "score-test": judged,
    }  # fmt: skip


def test_what_was_left_open_is_a_remark_with_its_value(tmp_path: Path) -> None:
    text = render_settings({"hidden": 3}, train.params, {"bptt": 64, "dropout": 0.3})
    assert "# bptt = 64" in text
    assert "# dropout = 0.3" in text
    assert read(tmp_path / "a.toml", text) == {"hidden": 3}


def test_what_to_do_with_a_run_is_no_setting() -> None:
    names = {str(param.name) for param in train.params}
    assert {"force", "config", "save_config", "quiet", "verbose"} <= names & set(
        NON_SETTING_OPTIONS
    )


@pytest.fixture
def tunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tunes").mkdir()
    for number in range(12):
        (tmp_path / "tunes" / f"{number}.abc").write_text(synthetic_tunes.tune(number))
    return tmp_path


def test_a_saved_run_is_repeated_bit_for_bit(tunes: Path) -> None:
    words = "train tunes --name one --hidden 8 --minutes 0.002 --save-config a.toml --no-heard -q"
    first = run(*words.split())
    assert first.exit_code == 0, first.output
    assert "minutes" not in tomllib.loads((tunes / "a.toml").read_text())
    assert (tunes / "checkpoints/one/config.toml").read_bytes() == (tunes / "a.toml").read_bytes()
    again = run("train", "--config", "a.toml", "--name", "two", "-q")
    assert again.exit_code == 0, again.output
    one, two = (tunes / "checkpoints" / name / "weights.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_file_of_settings_is_not_overwritten(tunes: Path) -> None:
    (tunes / "a.toml").write_text("mine")
    result = run("train", "tunes", "--save-config", "a.toml")
    assert result.exit_code == 2
    assert "a.toml exists; choose another name or add --force" in result.stderr
    assert (tunes / "a.toml").read_text() == "mine"
    assert not (tunes / "checkpoints").exists()
