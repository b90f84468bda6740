"""All commands: usage errors on one line, verbosity options, formatted numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import COMMANDS, commands
from musicgen.cli.output import format_bytes, format_count, format_duration
from musicgen.tokens.vocabulary import MEASURES
from tests import synthetic_tunes
from tests.fake_models import untrained


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(commands, [*map(str, args)], prog_name="musicgen")


@pytest.mark.parametrize(
    ("args", "message", "command"),
    [
        ("--nonsense", "--nonsense", "musicgen"),
        ("nonsense", "No such command", "musicgen"),
        ("smaple", "No such command 'smaple' (did you mean 'sample'?)", "musicgen"),
        ("corpus biuld", "No such command 'biuld' (did you mean 'build'?)", "musicgen corpus"),
        ("sample --out a.mid --form trough", "did you mean through?", "musicgen sample"),
        ("train --nonsense", "--nonsense", "musicgen train"),
        ("train --hiden 3", "--hidden", "musicgen train"),
        ("train --cell lst", "'lst' is not one of 'lstm', 'gru'", "musicgen train"),
        ("sample", "Missing option '--out'", "musicgen sample"),
        ("sample --out a.mid --count 0", "0 is not in the range", "musicgen sample"),
        ("corpus nonsense", "No such command", "musicgen corpus"),
        ("corpus build", "Missing argument 'SOURCE ...'", "musicgen corpus build"),
        ("corpus build x --out y --jobs 0", "0 is not in the range", "musicgen corpus build"),
        ("corpus check x --jobs 0", "0 is not in the range", "musicgen corpus check"),
        ("corpus list x\x1b[31m", r"unexpected extra argument (x\x1b[31m)", "musicgen corpus list"),
    ],
)
def test_usage_error_is_one_line(args: str, message: str, command: str) -> None:
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.endswith(f"; see {command} --help\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [[], ["corpus"]])
def test_missing_command_shows_help(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")
    assert "Commands:" in result.output


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "corpus"])
def test_command_has_quiet_and_verbose(name: str) -> None:
    text = run(name, "--help").output
    assert "-q, --quiet" in text
    assert "-v, --verbose" in text


@pytest.mark.parametrize("name", ["list", "check", "build"])
def test_corpus_command_has_quiet_and_verbose(name: str) -> None:
    text = run("corpus", name, "--help").output
    assert "-q, --quiet" in text
    assert "-v, --verbose" in text


def test_quiet_list_prints_only_names() -> None:
    names = run("corpus", "list", "-q").stdout.split("\n")
    assert {"dance-tunes", "ryan"} <= set(names)
    assert all(" " not in name for name in names)


def test_verbose_sample_prints_model_and_seed(tmp_path: Path) -> None:
    model = untrained(tmp_path / "model")
    args = ["sample", "--model", str(model), "--seed", "7", "--bars", "1"]
    text = run(*args, "--out", tmp_path / "a.mid", "-v").stderr
    assert f"model 1, 2 x 16 lstm, codec measures, {len(MEASURES)} events" in text
    assert "1 bar; seed 7, number 1" in text
    assert "seed" not in run(*args, "--out", tmp_path / "b.mid").stderr


def test_receipt_is_short_unless_verbose(tmp_path: Path) -> None:
    args = ["sample", "--seed", "7", "--force", "--out", str(tmp_path / "a.mid")]
    tune, receipt = run(*args).stderr.splitlines()
    assert tune.endswith("32 bars")
    message = r"  shares \d+ of \d+ notes with .{3,45}, longer than in \d+% of real tunes"
    assert re.fullmatch(message, receipt)
    assert len(receipt) < 120
    assert "8-note runs are copied" not in receipt
    assert "8-note runs are copied" in run(*args, "-v").stderr


@pytest.mark.parametrize(("rhythm", "meter"), [("reel", "3/4"), ("jig", "4/4")])
def test_unseen_dance_causes_one_warning(tmp_path: Path, rhythm: str, meter: str) -> None:
    args = ["sample", "--seed", "1", "--rhythm", rhythm, "--count", "2", "--bars", "4"]
    text = run(*args, "--meter", meter, "--out", tmp_path / "a{n}.mid")
    assert text.exit_code == 0
    warnings = [line for line in text.stderr.splitlines() if line.startswith("Warning: ")]
    (warning,) = warnings
    assert warning.startswith(f"Warning: the corpus has no {rhythm} in {meter}, only in ")
    assert (tmp_path / "a2.mid").exists()
    usual_meter = {"reel": "2/2", "jig": "6/8"}[rhythm]
    assert (
        "Warning" not in run(*args, "--meter", usual_meter, "--out", tmp_path / "b{n}.mid").stderr
    )


def test_tweak_warns_of_an_unseen_dance(tmp_path: Path) -> None:
    run("sample", "--seed", "1", "--rhythm", "reel", "--bars", "4", "--out", tmp_path / "a.mid")
    changed_meter_result = run(
        "tweak", tmp_path / "a.mid", "--meter", "3/4", "--out", tmp_path / "b.mid"
    )
    assert "the corpus has no reel in 3/4" in changed_meter_result.stderr
    changed_tempo_result = run(
        "tweak", tmp_path / "b.mid", "--tempo", "90", "--out", tmp_path / "c.mid"
    )
    assert "the corpus" not in changed_tempo_result.stderr


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    (tmp_path / "one.abc").write_text(synthetic_tunes.tune(1))
    result = run("corpus", "check", tmp_path)
    assert "found 1 tune in 1 file: kept 1, refused 0" in result.stdout
    (tmp_path / "two.abc").write_text(synthetic_tunes.tune(2))
    result = run("corpus", "check", tmp_path)
    assert "found 2 tunes in 2 files: kept 2, refused 0" in result.stdout


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 tunes"), (1, "1 tune"), (2, "2 tunes"), (1200, "1,200 tunes")]
)
def test_format_count(count: int, text: str) -> None:
    assert format_count(count, "tune") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5_370, "1 h 30 min"), (36_000, "10 h 00 min")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 MiB"), (640 * 2**20, "640 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text
