"""Training runs as the playground shows them, even with invalid metrics."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from musicgen.web.models_and_runs import MAX_POINTS, RunList
from musicgen.web.schemas import TrainingRun
from tests.fake_models import untrained
from tests.live_server import LiveServer


def write_metrics(folder: Path, *rows: object, modified: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(metrics_row)}\n" for metrics_row in rows))
    os.utime(path, (modified, modified))


def metrics_row(step: int, **metrics: float) -> dict[str, float]:
    return {"step": step, "tokens": 10 * step, "loss": 8 / step, **metrics}


def list_runs(folder: Path) -> list[TrainingRun]:
    return [TrainingRun(**run) for run in RunList(folder).to_json()]


def test_run_has_its_curves(tmp_path: Path) -> None:
    write_metrics(
        tmp_path / "mine",
        metrics_row(1),
        metrics_row(2, held_loss=1.5, held_bits_per_note=4.5),
        metrics_row(4, held_loss=1.25, held_bits_per_note=4.0),
    )
    (run,) = list_runs(tmp_path)
    assert (run.run, run.step, run.tokens, run.best) == ("mine", 4, 40, 4.0)
    assert (run.loss.steps, run.loss.values) == ([1, 2, 4], [8, 4, 2])
    assert run.held_bits_per_note.values == [4.5, 4.0]
    assert (run.finished, run.has_model) == (False, False)


def test_runs_are_sorted_and_reread_when_changed(tmp_path: Path) -> None:
    write_metrics(tmp_path / "old", metrics_row(1), modified=1)
    write_metrics(tmp_path / "new", metrics_row(1), modified=2)
    runs = RunList(tmp_path)
    assert [run["run"] for run in runs.to_json()] == ["new", "old"]
    write_metrics(tmp_path / "old", metrics_row(1), metrics_row(2), modified=3)
    assert [(run["run"], run["step"]) for run in runs.to_json()] == [("old", 2), ("new", 1)]
    (tmp_path / "new" / "best").mkdir()
    untrained(tmp_path / "new" / "best" / "00000001")
    assert [run["has_model"] for run in runs.to_json()] == [False, True]


def test_long_curve_is_thinned_by_means(tmp_path: Path) -> None:
    write_metrics(
        tmp_path / "long", *(metrics_row(step) | {"loss": step % 2} for step in range(1, 10_001))
    )
    (run,) = list_runs(tmp_path)
    assert len(run.loss.steps) <= MAX_POINTS
    assert run.loss.steps[-1] == 10_000
    assert {round(value, 1) for value in run.loss.values} <= {0.4, 0.5, 0.6}


@pytest.mark.parametrize(
    "rows", [["no row"], [{"step": 1}], [{"step": 1, "loss": "high"}], [{"step": 1, "loss": None}],
             [{"step": 1, "loss": float("nan")}], [[]], [{"loss": 1}],
             [{"step": float("inf"), "loss": 1}], [{"step": 1, "loss": 1, "tokens": None}]],
)  # fmt: skip
def test_invalid_metrics_hide_only_their_run(tmp_path: Path, rows: list[object]) -> None:
    write_metrics(tmp_path / "odd", *rows)
    write_metrics(tmp_path / "good", metrics_row(1))
    assert "good" in [run.run for run in list_runs(tmp_path)]


def test_broken_links_hide_no_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "file").write_text("")
    write_metrics(tmp_path / "good", metrics_row(1))
    assert [run.run for run in list_runs(tmp_path)] == ["good"]


def test_no_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert list_runs(tmp_path) == []
    assert list_runs(tmp_path / "nowhere") == []


def test_preview_of_a_run(playground: LiveServer) -> None:
    (run,) = playground.get("/api/training")
    assert (run["run"], run["step"], len(run["loss"]["steps"])) == ("mine", 1000, 334)
    tune = playground.get("/api/training/mine/tune")
    assert tune["bars"] == 32
    assert playground.get(f"/api/tunes/{tune['id']}")["title"] == tune["title"]
