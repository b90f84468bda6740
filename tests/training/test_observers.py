"""Observers: listening examples, the loss curve, TensorBoard logs; failures are isolated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from musicgen import formats
from musicgen.checkpoint import Checkpoint, Manifest, Weights, load, weight_shapes
from musicgen.config import ModelSettings
from musicgen.errors import NotFound, WriteFailed
from musicgen.music.bars import count_heard_bars
from musicgen.tokens.registry import find_codec
from musicgen.tokens.text import ByteCodec
from musicgen.training.observers import (
    LossCurve,
    ObserverGroup,
    SampleWriter,
    TensorBoardWriter,
    draw_losses,
    make_form_lines,
    make_loss_lines,
    smooth,
)
from musicgen.training.run_folder import read_metrics
from musicgen.training.trainer import Progress
from tests.fake_models import untrained
from tests.fake_run import FakeClock, make_progress

PNG = b"\x89PNG\r\n\x1a\n"


def row(step: int, loss: float, held: float | None = None) -> dict[str, float]:
    plain = {"step": step, "tokens": 100 * step, "loss": loss}
    return plain if held is None else plain | {"held_loss": held}


ROWS = [row(10, 4.0), row(20, 3.0), row(26, 2.5, 2.75), row(30, 2.0), row(40, 1.5, 2.25),
        row(50, 1.0, 2.5)]  # fmt: skip


def write_metrics(folder: Path, rows: list[dict[str, float]], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    return folder


# Observers


class FailingObserver:
    """An observer that fails from an update on."""

    label: ClassVar[str] = "failing observer"

    def __init__(self, error: Exception, first_step: int) -> None:
        self.error, self.first_step = error, first_step
        self.closed = 0

    def __call__(self, progress: Progress) -> None:
        if progress.step >= self.first_step:
            raise self.error

    def close(self) -> None:
        self.closed += 1


class RecordingObserver(FailingObserver):
    """An observer that records updates."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.closed = 0

    def __call__(self, progress: Progress) -> None:
        self.steps.append(progress.step)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (WriteFailed("x.mid was not written: no space left"), "no space left"),
        (ValueError("odd"), "odd"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_failing_observer_is_reported_once_and_removed(error: Exception, message: str) -> None:
    messages: list[str] = []
    failing, recording = FailingObserver(error, first_step=3), RecordingObserver()
    with ObserverGroup([failing, recording], messages.append) as observers:
        for step in range(1, 7):
            observers(make_progress(step))
    assert recording.steps == [1, 2, 3, 4, 5, 6]
    assert (recording.closed, failing.closed) == (1, 0)
    (line,) = messages
    assert line.startswith("failing observer: ")
    assert message in line


def test_interrupt_of_the_run_closes_all_observers() -> None:
    def interrupted() -> None:
        with ObserverGroup([recording], print) as observers:
            observers(make_progress(1))
            raise KeyboardInterrupt

    recording = RecordingObserver()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (recording.steps, recording.closed) == ([1], 1)


def test_interrupt_inside_an_observer_is_passed_on() -> None:
    class Interrupted(RecordingObserver):
        def __call__(self, progress: Progress) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ObserverGroup([Interrupted()], print) as observers:
        observers(make_progress(1))


# Listening examples


def make_sample_writer(
    folder: Path, model: Checkpoint, weights: Callable[[Progress], Weights]
) -> SampleWriter:
    return SampleWriter(folder / "heard", lambda: model.manifest, weights, seed=3)


def test_each_evaluation_writes_a_listening_example(tmp_path: Path) -> None:
    first, second = (load(untrained(tmp_path / name, seed)) for name, seed in (("a", 1), ("b", 2)))
    writer = make_sample_writer(
        tmp_path, first, lambda progress: (first if progress.is_best else second).weights
    )
    for progress in (
        make_progress(1),
        make_progress(20, 3.0, is_best=True),
        make_progress(30),
        make_progress(40, 3.5),
        make_progress(50, 2.9, is_best=1),
    ):
        writer(progress)
    files = {path.name: path.read_bytes() for path in (tmp_path / "heard").iterdir()}
    assert sorted(files) == [
        f"0000{step}{suffix}" for step in (20, 40, 50) for suffix in (".abc", ".mid")
    ]
    assert files["000020.mid"] == files["000050.mid"], "same weights and seed"
    assert files["000020.mid"] != files["000040.mid"]
    (written,), _ = formats.read(tmp_path / "heard" / "000020.abc")
    (played,), _ = formats.read(tmp_path / "heard" / "000020.mid")
    assert count_heard_bars(written) == 32
    assert [n.pitch for n in played.notes] == [n.pitch for n in written.unfolded().notes]


def test_listening_example_without_held_out_tunes(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "a"))
    make_sample_writer(tmp_path, model, lambda _: model.weights)(make_progress(7, is_best=True))
    assert (tmp_path / "heard" / "000007.mid").exists()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("performance", ".mid"), ("frames-16", ".mid"), ("text", ".txt")],
)
def test_listening_example_has_the_file_type_of_the_codec(
    tmp_path: Path, name: str, suffix: str
) -> None:
    codec = find_codec(name)
    fitted = codec.fit(["CDEF|GABc|", "EFG abc"]) if isinstance(codec, ByteCodec) else codec
    names = fitted.vocabulary.names
    settings = ModelSettings(vocabulary_size=len(names), hidden=8, embedding=8)
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=shape) for name, shape in weight_shapes(settings).items()}
    manifest = Manifest("m", 1, settings, names, (1,) * len(names), codec=name)
    writer = SampleWriter(tmp_path / "heard", lambda: manifest, lambda _: weights)
    writer(make_progress(12, 3.0))
    (path,) = (tmp_path / "heard").iterdir()
    assert path.name == f"000012{suffix}"
    assert path.stat().st_size > 1


def test_unwritable_listening_example_is_reported_once(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "a"))
    (tmp_path / "heard").write_text("in the way")
    messages: list[str] = []
    with ObserverGroup(
        [make_sample_writer(tmp_path, model, lambda _: model.weights)], messages.append
    ) as observers:
        observers(make_progress(1, 3.0, is_best=True))
        observers(make_progress(2, 2.0, is_best=True))
    assert len(messages) == 1
    assert messages[0].startswith("listening example: ")
    assert (tmp_path / "heard").read_text() == "in the way"


# The loss curve


def test_loss_lines_match_the_metrics() -> None:
    raw, smoothed, held_out, best = make_loss_lines(ROWS)
    assert (list(raw.x), list(raw.y)) == ([1000, 2000, 2600, 3000, 4000, 5000],
                                            [4.0, 3.0, 2.5, 2.0, 1.5, 1.0])  # fmt: skip
    assert list(smoothed.y) == list(raw.y), "too few to smooth"
    assert (list(held_out.x), list(held_out.y)) == ([2600, 4000, 5000], [2.75, 2.25, 2.5])
    assert (list(best.x), best.y[0]) == ([4000, 4000], 2.25)
    assert best.y[1] < 1.0, "it extends below all curves"
    assert "2.250" in best.name


def test_loss_lines_without_held_out_tunes() -> None:
    assert [line.name for line in make_loss_lines(ROWS[:2])] == [
        "each update",
        "training, smoothed",
    ]


def test_form_lines_are_those_that_the_run_has() -> None:
    assert make_form_lines(ROWS) == []
    measured = {"sections_8": 0.25, "bar_likeness.4": 0.1, "bar_likeness.1": 0.1}
    forms: list[dict[str, Any]] = [{"form": measured}, {"form": {"sections_8": 0.5}}]
    rows = [*ROWS, row(60, 1.0) | forms[0], row(70, 1.0) | forms[1]]
    sections, likeness = make_form_lines(rows)
    assert (sections.name, list(sections.x), list(sections.y)) == (
        "sections of 8 bars", [6000, 7000], [0.25, 0.5],
    )  # fmt: skip
    assert (likeness.name, list(likeness.x)) == ("a bar like the one 4 before", [6000])


def test_smoothing_keeps_lines_and_damps_jumps() -> None:
    line = np.arange(500.0)
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    jumps = np.resize([0.0, 2.0], 500)
    assert smooth(jumps) == pytest.approx(np.ones(500), abs=0.2)
    assert smooth(np.array([3.0])) == pytest.approx([3.0])


def test_read_metrics_skips_duplicate_and_truncated_lines(tmp_path: Path) -> None:
    rows = [*ROWS[:3], row(20, 9.0), row(21, 8.0)]
    folder = write_metrics(tmp_path / "run", rows, tail='{"step": 22, "to')
    assert [(r["step"], r["loss"]) for r in read_metrics(folder)] == [
        (10, 4.0), (20, 9.0), (21, 8.0), (26, 2.5),
    ]  # fmt: skip
    write_metrics(folder, [], tail="[]\n3\nnull\n{}\n")
    with pytest.raises(NotFound, match="has no metrics yet; train for some updates first"):
        read_metrics(folder)


def test_loss_curve_is_redrawn(tmp_path: Path) -> None:
    path = draw_losses(write_metrics(tmp_path / "run", ROWS))
    first = path.read_bytes()
    assert (path.name, first[:8]) == ("loss.png", PNG)
    assert draw_losses(tmp_path / "run").read_bytes() == first
    better = [*ROWS, row(60, 0.5, 1.0)]
    assert draw_losses(write_metrics(tmp_path / "run", better)).read_bytes() != first
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["loss.png", "metrics.jsonl"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_run_has_a_loss_curve(tmp_path: Path, count: int) -> None:
    assert draw_losses(write_metrics(tmp_path, ROWS[:count])).exists()


def test_loss_curve_is_drawn_once_per_minute_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metrics(tmp_path, ROWS)
    clock, drawn = FakeClock(), list[float]()
    monkeypatch.setattr(
        "musicgen.training.observers.draw_losses", lambda _: drawn.append(clock.now)
    )
    clock.now = 0.0
    curve = LossCurve(tmp_path, clock)
    for second in range(150):
        clock.now = float(second)
        curve(make_progress(second + 1, 3.0 if second % 5 == 0 else None))
    assert drawn == [60.0, 120.0]
    curve.close()
    curve.close()
    assert drawn == [60.0, 120.0, 149.0]


def test_removed_run_has_no_loss_curve(tmp_path: Path) -> None:
    curve = LossCurve(tmp_path / "gone")
    curve(make_progress(1))
    curve.close()
    assert not (tmp_path / "gone").exists()


# TensorBoard


def load_board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def points(board: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_tensorboard_reads_the_logged_values(tmp_path: Path) -> None:
    board = TensorBoardWriter(tmp_path, "character")
    for step in range(1, 31):
        board(make_progress(step, 3.25 if step == 15 else None, loss=0.5 * step))
    board.close()
    events = load_board(tmp_path)
    assert points(events, "loss/training") == [(10, 5.0), (15, 7.5), (20, 10.0), (30, 15.0)]
    assert [step for step, _ in points(events, "bits_a_character/held_out")] == [15]
    assert {name: points(events, name)[0][1] for name in events.Tags()["scalars"]} == {
        "loss/training": 5.0, "gradient/norm": 0.25, "gradient/clipped": 0.125,
        "learning_rate": pytest.approx(0.003), "speed/tokens_a_second": 4_000.0,
        "memory/bytes": 640 * 2**20, "loss/held_out": pytest.approx(3.25 * np.log(2)),
        "bits_a_character/held_out": pytest.approx(3.25),
    }  # fmt: skip


def test_resumed_run_replaces_later_tensorboard_points(tmp_path: Path) -> None:
    for first, loss in ((10, 1.0), (30, 2.0)):
        board = TensorBoardWriter(tmp_path)
        for step in range(first, first + 31, 10):
            board(make_progress(step, loss=loss))
        board.close()
    assert points(load_board(tmp_path), "loss/training") == [
        (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0), (60, 2.0),
    ]  # fmt: skip


def test_closing_an_unopened_log_writes_nothing(tmp_path: Path) -> None:
    TensorBoardWriter(tmp_path / "board").close()
    assert not (tmp_path / "board").exists()
