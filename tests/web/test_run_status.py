"""Trainings as the playground shows them: what their files say, whatever these hold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from musicgen.web.run_status import MAX_POINTS, RunList
from musicgen.web.schemas import TrainingRun
from tests.fake_models import untrained
from tests.live_server import Served


def write(folder: Path, *rows: object, when: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    os.utime(path, (when, when))


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "tokens": 10 * step, "loss": 8 / step, **more}


def told(folder: Path) -> list[TrainingRun]:
    return [TrainingRun(**one) for one in RunList(folder).to_json()]


def test_a_run_has_its_curves(tmp_path: Path) -> None:
    write(tmp_path / "mine", row(1), row(2, held_loss=1.5, held_bits_per_note=4.5),
          row(4, held_loss=1.25, held_bits_per_note=4.0))  # fmt: skip
    (found,) = told(tmp_path)
    assert (found.run, found.step, found.tokens, found.best) == ("mine", 4, 40, 4.0)
    assert (found.loss.steps, found.loss.values) == ([1, 2, 4], [8, 4, 2])
    assert found.held_bits_per_note.values == [4.5, 4.0]
    assert (found.finished, found.has_model) == (False, False)


def test_runs_stand_with_the_newest_first_and_read_what_grew(tmp_path: Path) -> None:
    write(tmp_path / "old", row(1), when=1)
    write(tmp_path / "new", row(1), when=2)
    runs = RunList(tmp_path)
    assert [one["run"] for one in runs.to_json()] == ["new", "old"]
    write(tmp_path / "old", row(1), row(2), when=3)
    assert [(one["run"], one["step"]) for one in runs.to_json()] == [("old", 2), ("new", 1)]
    (tmp_path / "new" / "best").mkdir()
    untrained(tmp_path / "new" / "best" / "00000001")
    assert [one["has_model"] for one in runs.to_json()] == [False, True]


def test_a_long_curve_is_thinned_by_means(tmp_path: Path) -> None:
    write(tmp_path / "long", *(row(step) | {"loss": step % 2} for step in range(1, 10_001)))
    (found,) = told(tmp_path)
    assert len(found.loss.steps) <= MAX_POINTS
    assert found.loss.steps[-1] == 10_000
    assert {round(value, 1) for value in found.loss.values} <= {0.4, 0.5, 0.6}


@pytest.mark.parametrize(
    "rows", [["no row"], [{"step": 1}], [{"step": 1, "loss": "high"}], [{"step": 1, "loss": None}],
             [{"step": 1, "loss": float("nan")}], [[]], [{"loss": 1}],
             [{"step": float("inf"), "loss": 1}], [{"step": 1, "loss": 1, "tokens": None}]],
)  # fmt: skip
def test_lines_that_are_no_metrics_cost_only_their_run(tmp_path: Path, rows: list[object]) -> None:
    write(tmp_path / "odd", *rows)
    write(tmp_path / "good", row(1))
    assert "good" in [one.run for one in told(tmp_path)]


def test_a_link_that_leads_to_itself_hides_no_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "file").write_text("")
    write(tmp_path / "good", row(1))
    assert [one.run for one in told(tmp_path)] == ["good"]


def test_there_may_be_no_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert told(tmp_path) == []
    assert told(tmp_path / "nowhere") == []


def test_a_run_is_heard(playground: Served) -> None:
    (found,) = playground.get("/api/training")
    assert (found["run"], found["step"], len(found["loss"]["steps"])) == ("mine", 1000, 334)
    tune = playground.get("/api/training/mine/tune")
    assert tune["bars"] == 32
    assert playground.get(f"/api/tunes/{tune['id']}")["title"] == tune["title"]
