"""What all commands share: a usage error is one line, and counts are grammatical."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import COMMANDS, commands
from musicgen.cli.formatting import format_bytes, format_count, format_duration
from tests import synthetic_tunes
from tests.fake_models import untrained


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(commands, [*map(str, words)], prog_name="musicgen")


@pytest.mark.parametrize(
    ("words", "said", "help_of"),
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
def test_a_usage_error_is_one_line(words: str, said: str, help_of: str) -> None:
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert result.stderr.endswith(f"; see {help_of} --help\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["corpus"]])
def test_no_command_shows_the_help(words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")
    assert "Commands:" in result.output


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "corpus"])
def test_every_command_has_quiet_and_verbose(name: str) -> None:
    told = run(name, "--help").output
    assert "-q, --quiet" in told
    assert "-v, --verbose" in told


@pytest.mark.parametrize("name", ["list", "check", "build"])
def test_every_corpus_command_has_quiet_and_verbose(name: str) -> None:
    told = run("corpus", name, "--help").output
    assert "-q, --quiet" in told
    assert "-v, --verbose" in told


def test_a_quiet_list_is_names() -> None:
    names = run("corpus", "list", "-q").stdout.split("\n")
    assert {"dance-tunes", "ryan"} <= set(names)
    assert all(" " not in name for name in names)


def test_a_verbose_sample_tells_model_and_seed(tmp_path: Path) -> None:
    model = untrained(tmp_path / "model")
    words = ["sample", "--model", str(model), "--seed", "7", "--bars", "1"]
    told = run(*words, "--out", tmp_path / "a.mid", "-v").stderr
    assert "model 1, 2 x 16 lstm, codec measures, 844 events" in told
    assert "1 bar; seed 7, number 1" in told
    assert "seed" not in run(*words, "--out", tmp_path / "b.mid").stderr


def test_a_receipt_is_one_short_line_and_all_of_it_on_request(tmp_path: Path) -> None:
    words = ["sample", "--seed", "7", "--force", "--out", str(tmp_path / "a.mid")]
    tune, receipt = run(*words).stderr.splitlines()
    assert tune.endswith("32 bars")
    said = r"  shares \d+ of \d+ notes with .{3,45}, longer than in \d+% of real tunes"
    assert re.fullmatch(said, receipt)
    assert len(receipt) < 120
    assert "8-note runs are copied" not in receipt
    assert "8-note runs are copied" in run(*words, "-v").stderr


@pytest.mark.parametrize(("rhythm", "meter"), [("reel", "3/4"), ("jig", "4/4")])
def test_a_dance_that_no_training_tune_is_gets_one_warning(
    tmp_path: Path, rhythm: str, meter: str
) -> None:
    words = ["sample", "--seed", "1", "--rhythm", rhythm, "--count", "2", "--bars", "4"]
    told = run(*words, "--meter", meter, "--out", tmp_path / "a{n}.mid")
    assert told.exit_code == 0
    warnings = [line for line in told.stderr.splitlines() if line.startswith("Warning: ")]
    (warning,) = warnings
    assert warning.startswith(f"Warning: the corpus has no {rhythm} in {meter}, only in ")
    assert (tmp_path / "a2.mid").exists()
    usual = {"reel": "2/2", "jig": "6/8"}[rhythm]
    assert "Warning" not in run(*words, "--meter", usual, "--out", tmp_path / "b{n}.mid").stderr


def test_a_variant_warns_of_its_dance_too(tmp_path: Path) -> None:
    run("sample", "--seed", "1", "--rhythm", "reel", "--bars", "4", "--out", tmp_path / "a.mid")
    changed = run("tweak", tmp_path / "a.mid", "--meter", "3/4", "--out", tmp_path / "b.mid")
    assert "the corpus has no reel in 3/4" in changed.stderr
    same = run("tweak", tmp_path / "b.mid", "--tempo", "90", "--out", tmp_path / "c.mid")
    assert "the corpus" not in same.stderr


def test_one_tune_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "one.abc").write_text(synthetic_tunes.tune(1))
    found = run("corpus", "check", tmp_path, "--jobs", "1")
    assert "found 1 tune in 1 file: kept 1, refused 0" in found.stdout
    (tmp_path / "two.abc").write_text(synthetic_tunes.tune(2))
    found = run("corpus", "check", tmp_path, "--jobs", "1")
    assert "found 2 tunes in 2 files: kept 2, refused 0" in found.stdout


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 tunes"), (1, "1 tune"), (2, "2 tunes"), (1200, "1,200 tunes")]
)
def test_counts(count: int, told: str) -> None:
    assert format_count(count, "tune") == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5_370, "1 h 30 min"), (36_000, "10 h 00 min")],
)
def test_spans(seconds: float, told: str) -> None:
    assert format_duration(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 MiB"), (640 * 2**20, "640 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes(count: int, told: str) -> None:
    assert format_bytes(count) == told
