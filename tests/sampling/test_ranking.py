"""`--best`: what is kept of many tunes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from musicgen import Note, Score, load
from musicgen.cli import commands
from musicgen.sampling.ranking import TuneFigures, choose, cost, measure_real_ranges, measure_tune
from tests.command_runner import assert_refused
from tests.fake_models import untrained

RANGES = {"bits": (2.0, 4.0), "longest": (0.0, 16.0)}


def tune(bits: float, longest: float = 8, pieces: Sequence[int] = ()) -> TuneFigures:
    return TuneFigures({"bits": bits, "longest": longest}, frozenset((n,) for n in pieces))


def test_what_lies_outside_of_real_tunes_costs() -> None:
    inside, copying, rare = (cost(t, RANGES) for t in (tune(2), tune(2, 32), tune(8)))
    assert inside == 0
    assert copying == pytest.approx(1)
    assert rare == pytest.approx(2.25)


def test_the_likelier_of_two_good_ones_comes_first() -> None:
    assert [ranked.index for ranked in choose([tune(3.5), tune(2.5)], 2, RANGES)] == [1, 0]


def test_the_best_are_unlike_each_other() -> None:
    same, other_tune = tune(2, pieces=(1, 2, 3, 4)), tune(3, pieces=(5, 6, 7, 8))
    chosen = list(choose([same, same, other_tune], 2, RANGES))
    assert [ranked.index for ranked in chosen] == [0, 2]
    assert [ranked.similarity for ranked in chosen] == [0, 0]


def test_outlying_figures_are_reported() -> None:
    (ranked,) = choose([tune(2, 20)], 5, RANGES)
    assert ranked.outliers == ("longest 20.00, of real tunes 0.00 to 16.00",)


def test_figures_are_those_of_the_notes() -> None:
    notes = tuple(Note(48 * n, 60 + 2 * (n % 2), 48) for n in range(8))
    figures = measure_tune(Score(notes), {"bits": 1.0})
    assert figures.figures == {"bits": 1.0, "returning": pytest.approx(0.6), "leap": 2, "pace": 0}
    assert len(figures.short_runs) == 2
    assert measure_tune(Score(), {}).figures == {}


def test_real_tunes_set_the_usual_ranges() -> None:
    ranges = measure_real_ranges(load("folk").index.note_index, (2.0, 4.0))
    assert ranges["bits"] == (2.0, 4.0)
    assert 1 < ranges["leap"][0] < 2.5 < ranges["leap"][1] < 5
    assert all(low < high for low, high in ranges.values())


def test_the_best_are_written_with_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = "sample --seed 5 --bars 4 --count 9 --best 2 --jobs 2 --out best/"
    result = CliRunner().invoke(commands, words.split())
    assert result.exit_code == 0, result.output
    assert {p.name for p in Path("best").iterdir()} == {"index.tsv", "tune-1.mid", "tune-2.mid"}
    head, *rows = [line.split("\t") for line in Path("best/index.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["tune-1.mid", "tune-2.mid"]
    number = rows[0][head.index("number")]
    again = CliRunner().invoke(commands, "tweak best/tune-1.mid --out again.mid -v".split())
    assert f"number {number}" in again.output
    assert Path("again.mid").read_bytes() == Path("best/tune-1.mid").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [("--best 3 --count 2", "--best 3: exceeds --count 2"),
     ("--best 1 --count 2 --model model", "the model has no index")],
)  # fmt: skip
def test_best_without_an_index_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    untrained(tmp_path / "model")
    result = CliRunner().invoke(commands, ["sample", "--out", "b-{n}.mid", *words.split()])
    assert_refused(result, 2, message)
