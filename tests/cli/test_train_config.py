"""Options in a TOML file: precedence below flags, refusals with a line number, writing."""

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
from musicgen.cli.command_options import (
    NON_SETTING_OPTIONS,
    long_name,
    read_settings,
    render_settings,
    select_setting_params,
)
from musicgen.cli.train import train
from musicgen.errors import InvalidValue
from tests import synthetic_tunes

ALL_SETTINGS = {
    "sources": ["tunes", "more.abc"], "codec": "text", "cell": "gru", "layers": 3, "hidden": 12,
    "dropout": 0.25, "epochs": 1.5, "minutes": 2, "batch": 4, "bptt": 8, "learning-rate": 1e-05,
    "seed": 0, "device": "cpu", "precision": "fp32", "name": "other", "score-test": True,
    "no-heard": True, "no-index": True, "tensorboard": False, "from": "folk",
    "context": "position",
}  # fmt: skip


@click.command(params=train.params)
@click.pass_context
def print_params(ctx: click.Context, /, **_: Any) -> None:
    """Print the parsed options of `train`."""
    click.echo(json.dumps(ctx.params, default=str))


def parse_args(*args: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(print_params, [*map(str, args)])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def read_text(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    return read_settings(path, click.Context(train))


def get_refusal(path: Path, text: str) -> str:
    with pytest.raises(InvalidValue) as caught:
        read_text(path, text)
    return str(caught.value).removeprefix(f"{path}")


def to_toml(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def test_file_may_set_every_option(tmp_path: Path) -> None:
    params = {long_name(param): param for param in select_setting_params(train.params)}
    settings = read_text(tmp_path / "a.toml", to_toml(ALL_SETTINGS))
    assert settings == {key.replace("-", "_"): value for key, value in ALL_SETTINGS.items()}
    assert params.keys() == ALL_SETTINGS.keys(), "add a value for the new option to ALL_SETTINGS"


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('hidden = 12\nlearning_rate = 1e-3\nname = "filed"\nsources = "a.abc"')
    params = parse_args("--config", file, "--hidden", "24")
    assert (params["hidden"], params["learning_rate"], params["name"]) == (24, 0.001, "filed")
    assert (params["seed"], params["sources"]) == (1, ["a.abc"])
    assert parse_args("b.abc", "--config", file)["sources"] == ["b.abc"]
    assert parse_args("--hidden", "24", "--config", file)["hidden"] == 24


def test_epochs_flag_overrides_minutes_of_the_file(tunes: Path) -> None:
    (tunes / "a.toml").write_text("minutes = 600\nhidden = 8\nno-heard = true\nname = 'filed'")
    result = run("train", "tunes", "--config", "a.toml", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "(1.0 epochs)" in result.stderr
    assert tomllib.loads((tunes / "checkpoints/filed/config.toml").read_text())["epochs"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden = 3", ", line 1: 'hiden' is not an option; did you mean 'hidden'?"),
        ("# x\n\nlearning-rat = 1", ", line 3: 'learning-rat' is not an option; did you mean 'l"),
        ('cell = "gru"\n[model]\nhidden = 3', ", line 2: 'model' is not an option"),
        ("force = true", ", line 1: 'force' is not an option"),
        ('\n"l\\u001br" = 1', "'l\\x1br' is not an option"),
        ('hidden = "12"', ', line 1: hidden is "12"; write an integer'),
        ("cell = 'gru'\nhidden = 1.5", ", line 2: hidden is 1.5; write an integer"),
        ("hidden = true", ", line 1: hidden is true; write an integer"),
        ("hidden = 0", ", line 1: hidden: 0 is not in the range 1<=x<=4096"),
        ("epochs = '3'", ', line 1: epochs is "3"; write a number'),
        ("epochs = inf", ", line 1: epochs: inf is not a finite number"),
        ("epochs = 1" + "0" * 400, ", line 1: epochs has a whole number of over 64 bits"),
        ("epochs = 1e308", ", line 1: epochs: 1e+308 is not in the range 0<x<=1000000"),
        ("seed = 1" + "0" * 400, ", line 1: seed has a whole number of over 64 bits"),
        ("hidden = 8\nseed = 0x" + "f" * 60_000, ", line 2: seed has a whole number of over 64"),
        ("codec = 0x" + "f" * 60_000, ", line 1: codec has a whole number of over 64 bits"),
        ("sources = [0x" + "f" * 60_000 + "]", ", line 1: sources has a whole number of over 64"),
        ("seed = 1" + "0" * 5_000, ": not valid TOML: Exceeds the limit"),
        ("epochs = 1e-9999999", ", line 1: epochs: 0.0 is not in the range"),
        ("epochs = nan", ", line 1: epochs: nan is not a finite number"),
        ("epochs = 0", ", line 1: epochs: 0"),
        ("epochs = 1979-05-27", ", line 1: epochs is a date or time; write a number"),
        ("cell = 3", ", line 1: cell is 3; write a string, in quotes"),
        ("cell = ['gru']", ", line 1: cell is a list; write a string, in quotes"),
        ("cell = 'LSTMS'", ", line 1: cell: 'LSTMS' is not one of 'lstm', 'gru', 'rnn', 'irnn'"),
        ("score-test = 1", ", line 1: score-test is 1; write true or false"),
        ("sources = 3", ", line 1: sources is 3; write a string, or a list of strings"),
        ("sources = [\n'a', 3]", ", line 1: sources has 3; write only strings"),
        ("hidden = ", ": not valid TOML: Invalid value (at end of document); write key = value"),
        ("a = " + "[" * 5_000, ": not valid TOML: maximum recursion depth exceeded"),
    ],
)  # fmt: skip
def test_invalid_setting_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    output = get_refusal(tmp_path / "a.toml", text)
    assert message in output
    assert output.isprintable()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.toml", "none.toml does not exist"),
        ("folder", "it is a folder; only regular files are read"),
        ("latin.toml", "not valid UTF-8"),
        ("wrong.toml", "line 2: layers is 0.5; write an integer"),
    ],
)
def test_unreadable_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("latin.toml").write_bytes("name = 'é'".encode("latin-1"))
    Path("wrong.toml").write_text("hidden = 3\nlayers = 0.5")
    result = run("train", "--config", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def run(*args: str) -> Result:
    return CliRunner().invoke(commands, list(args))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
learning_rates = st.floats(1e-9, 1.0)


@given(st.lists(texts, min_size=1), texts, learning_rates, st.integers(1, 4096), st.booleans())
def test_rendered_settings_parse_to_the_same_values(
    sources: list[str], name: str, rate: float, hidden: int, score_test: bool
) -> None:
    values = {"sources": tuple(sources), "name": name, "learning_rate": rate, "hidden": hidden,
             "score_test": score_test, "codec": None}  # fmt: skip
    text = render_settings(values, train.params, {})
    assert tomllib.loads(text) == {
        "sources": sources, "name": name, "learning-rate": rate, "hidden": hidden,
        "score-test": score_test,
    }  # fmt: skip


def test_derived_value_is_written_as_a_comment(tmp_path: Path) -> None:
    text = render_settings({"hidden": 3}, train.params, {"bptt": 64, "dropout": 0.3})
    assert "# bptt = 64" in text
    assert "# dropout = 0.3" in text
    assert read_text(tmp_path / "a.toml", text) == {"hidden": 3}


def test_actions_are_not_settings() -> None:
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


def test_saved_options_repeat_a_run_bit_for_bit(tunes: Path) -> None:
    args = "train tunes --name one --hidden 8 --minutes 0.002 --save-config a.toml --no-heard -q"
    first_run = run(*args.split())
    assert first_run.exit_code == 0, first_run.output
    assert "minutes" not in tomllib.loads((tunes / "a.toml").read_text())
    assert (tunes / "checkpoints/one/config.toml").read_bytes() == (tunes / "a.toml").read_bytes()
    second_run = run("train", "--config", "a.toml", "--name", "two", "-q")
    assert second_run.exit_code == 0, second_run.output
    one, two = (tunes / "checkpoints" / name / "weights.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_settings_file_is_not_overwritten(tunes: Path) -> None:
    (tunes / "a.toml").write_text("mine")
    result = run("train", "tunes", "--save-config", "a.toml")
    assert result.exit_code == 2
    assert "a.toml exists; choose another name or add --force" in result.stderr
    assert (tunes / "a.toml").read_text() == "mine"
    assert not (tunes / "checkpoints").exists()
