"""`musicgen compare`, from its arguments to the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from musicgen.cli import commands
from musicgen.compare.baselines import WITH_CONTEXT
from musicgen.compare.comparison import Comparison, ComparisonProgress
from musicgen.render.report_page import COMPARISON_TITLE, format_page
from tests import synthetic_tunes

SMALL = ["--cells", "lstm", "--parameters", "10000"]
TOY = [*SMALL, "--tokens", "64"]


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    (folder / "book.abc").write_text("".join(synthetic_tunes.tune(n) for n in range(1, 41)))
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "one.abc"
    path.write_text(synthetic_tunes.tune(1))
    return path


def run_compare(*args: str | Path) -> Result:
    return CliRunner().invoke(commands, ["compare", *map(str, args)])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report of an older comparison, which `finished` replaces."""
    page = tmp_path_factory.mktemp("report") / "ladder.html"
    page.write_text(format_page(COMPARISON_TITLE, "an older comparison"))
    return page


@pytest.fixture(scope="module")
def finished(tunes: Path, page: Path) -> Result:
    return run_compare(tunes, *TOY, "--out", page, "--json", "--force")


def test_compare_prints_a_table_and_json(finished: Result, page: Path) -> None:
    assert finished.exit_code == 0, finished.output
    names = ["window-4", "bag", "window-64", "n-gram", "lstm", *WITH_CONTEXT, "lstm unclipped"]
    assert [rung["rung"] for rung in json.loads(finished.stdout)["rungs"]] == names
    for args in ("40 of 40 tunes", "train 37 tunes", "8/8  lstm unclipped: learning", *names):
        assert args in finished.stderr
    assert f"{page}: open it in a browser" in finished.stderr


def test_report_replaces_an_older_one_with_force(finished: Result, tunes: Path, page: Path) -> None:
    assert page.read_text().startswith("<!doctype html>")
    assert f"musicgen compare {tunes} --tokens 64 --cells lstm --seed 1" in page.read_text()
    assert "an older comparison" not in page.read_text()


def test_table_fits_80_columns(finished: Result) -> None:
    table = finished.stderr[finished.stderr.index("\nmodel") : finished.stderr.index("open it")]
    assert max(map(len, table.splitlines()[:-1])) <= 80
    assert "…" not in table


@pytest.mark.promises
def test_compare_accepts_a_tiny_time_budget(tunes: Path, tmp_path: Path) -> None:
    result = run_compare(tunes, *SMALL, "--minutes", "0.001", "--out", tmp_path / "a.html", "-q")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert (tmp_path / "a.html").exists()


def test_compare_overwrites_a_report_only_with_force(single: Path, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("mine")
    result = run_compare(tmp_path / "not read", *TOY, "--out", page)
    assert result.exit_code == 2
    assert f"{page} exists; choose another name or add --force" in result.stderr
    assert page.read_text() == "mine"


def test_compare_refuses_a_single_tune(single: Path, tmp_path: Path) -> None:
    result = run_compare(single, *TOY, "--out", tmp_path / "a.html")
    assert result.exit_code == 2
    assert "too few to hold any out" in result.stderr
    assert "name more tunes" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "output"),
    [
        (("--cells", "lstm,transformer"), "cell 'transformer' is unknown: choose one of lstm"),
        (("--minutes", "0"), "0.0 is not in the range 0<x<="),
        (("--parameters", "5"), "5 is not in the range"),
        (("--out", "/nowhere/at/all.html"), "there is no folder"),
    ],
)
def test_compare_refuses_bad_options_before_any_work(args: tuple[str, ...], output: str) -> None:
    result = run_compare(*args)
    assert result.exit_code == 2
    assert output in result.stderr


def test_interrupt_leaves_no_files(
    tunes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_run = Comparison.run

    def run_until_interrupted(self: Comparison) -> Iterator[ComparisonProgress]:
        for output in original_run(self):
            yield output
            if output.model_name == "bag":
                raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", run_until_interrupted)
    result = run_compare(tunes, *TOY, "--out", tmp_path / "a.html", "--json")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\n")
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_describes_the_models_without_importing_torch() -> None:
    code = (
        "from musicgen.cli import commands; commands(['compare', '--help'], standalone_mode=False)"
    )
    process = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert process.stdout.strip().endswith("False")
    for args in ("window-4", "bag", "n-gram", "rnn, irnn", "gru, lstm", "--minutes 0.5"):
        assert args in process.stdout
