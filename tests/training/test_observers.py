"""What is kept of a run: tunes to hear, the loss curve, TensorBoard's log; and no harm to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
    make_loss_lines,
    read_metrics,
    smooth,
)
from musicgen.training.trainer import Progress
from tests.fake_models import untrained
from tests.fake_run import Hand, at

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


class Faulty:
    """An observer that fails from some update on."""

    def __init__(self, fault: Exception, since: int) -> None:
        self.fault, self.since = fault, since
        self.closed = 0

    def __call__(self, progress: Progress) -> None:
        if progress.step >= self.since:
            raise self.fault

    def close(self) -> None:
        self.closed += 1


class Counting(Faulty):
    """An observer that counts."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.closed = 0

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress.step)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (WriteFailed("x.mid was not written: no space left"), "no space left"),
        (ValueError("odd"), "odd"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_one_that_fails_is_told_once_and_costs_nothing(fault: Exception, said: str) -> None:
    told: list[str] = []
    faulty, counting = Faulty(fault, since=3), Counting()
    with ObserverGroup([faulty, counting], told.append) as record:
        for step in range(1, 7):
            record(at(step))
    assert counting.seen == [1, 2, 3, 4, 5, 6]
    assert (counting.closed, faulty.closed) == (1, 0)
    (line,) = told
    assert line.startswith("faulty: ")
    assert said in line


def test_what_ends_a_run_goes_on_and_all_are_closed() -> None:
    def interrupted() -> None:
        with ObserverGroup([counting], print) as record:
            record(at(1))
            raise KeyboardInterrupt

    counting = Counting()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (counting.seen, counting.closed) == ([1], 1)


def test_an_interrupt_inside_an_observer_is_no_fault_of_it() -> None:
    class Interrupted(Counting):
        def __call__(self, progress: Progress) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ObserverGroup([Interrupted()], print) as record:
        record(at(1))


# Tunes


def heard(folder: Path, model: Checkpoint, weights: Callable[[Progress], Weights]) -> SampleWriter:
    return SampleWriter(folder / "heard", lambda: model.manifest, weights, seed=3)


def test_each_evaluation_is_heard(tmp_path: Path) -> None:
    one, two = (load(untrained(tmp_path / name, seed)) for name, seed in (("a", 1), ("b", 2)))
    listen = heard(tmp_path, one, lambda progress: (one if progress.is_best else two).weights)
    for progress in (at(1), at(20, 3.0, is_best=True), at(30), at(40, 3.5), at(50, 2.9, is_best=1)):
        listen(progress)
    files = {path.name: path.read_bytes() for path in (tmp_path / "heard").iterdir()}
    assert sorted(files) == [
        f"0000{step}{suffix}" for step in (20, 40, 50) for suffix in (".abc", ".mid")
    ]
    assert files["000020.mid"] == files["000050.mid"], "the same weights, the same luck"
    assert files["000020.mid"] != files["000040.mid"]
    (written,), _ = formats.read(tmp_path / "heard" / "000020.abc")
    (played,), _ = formats.read(tmp_path / "heard" / "000020.mid")
    assert count_heard_bars(written) == 32
    assert [n.pitch for n in played.notes] == [n.pitch for n in written.unfolded().notes]


def test_a_run_without_held_out_tunes_is_heard_too(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "a"))
    heard(tmp_path, model, lambda _: model.weights)(at(7, is_best=True))
    assert (tmp_path / "heard" / "000007.mid").exists()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("performance", ".mid"), ("frames-16", ".mid"), ("text", ".txt")],
)
def test_other_codecs_are_heard_as_what_they_write(tmp_path: Path, name: str, suffix: str) -> None:
    codec = find_codec(name)
    learnt = codec.fit(["CDEF|GABc|", "EFG abc"]) if isinstance(codec, ByteCodec) else codec
    names = learnt.vocabulary.names
    settings = ModelSettings(vocabulary_size=len(names), hidden=8, embedding=8)
    luck = np.random.default_rng(1)
    weights = {name: luck.normal(size=shape) for name, shape in weight_shapes(settings).items()}
    manifest = Manifest("m", 1, settings, names, (1,) * len(names), codec=name)
    listen = SampleWriter(tmp_path / "heard", lambda: manifest, lambda _: weights)
    listen(at(12, 3.0))
    (path,) = (tmp_path / "heard").iterdir()
    assert path.name == f"000012{suffix}"
    assert path.stat().st_size > 1


def test_a_tune_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    model = load(untrained(tmp_path / "a"))
    (tmp_path / "heard").write_text("in the way")
    told: list[str] = []
    with ObserverGroup([heard(tmp_path, model, lambda _: model.weights)], told.append) as record:
        record(at(1, 3.0, is_best=True))
        record(at(2, 2.0, is_best=True))
    assert len(told) == 1
    assert told[0].startswith("heard: ")
    assert (tmp_path / "heard").read_text() == "in the way"


# The loss curve


def test_the_curve_is_what_the_metrics_say() -> None:
    each, trained, judged, best = make_loss_lines(ROWS)
    assert (list(each.x), list(each.y)) == ([1000, 2000, 2600, 3000, 4000, 5000],
                                            [4.0, 3.0, 2.5, 2.0, 1.5, 1.0])  # fmt: skip
    assert list(trained.y) == list(each.y), "too few to smooth"
    assert (list(judged.x), list(judged.y)) == ([2600, 4000, 5000], [2.75, 2.25, 2.5])
    assert (list(best.x), best.y[0]) == ([4000, 4000], 2.25)
    assert best.y[1] < 1.0, "it goes below all that is drawn"
    assert "2.250" in best.name


def test_without_held_out_tunes_there_is_one_curve() -> None:
    assert [line.name for line in make_loss_lines(ROWS[:2])] == [
        "each update",
        "training, smoothed",
    ]


def test_smoothing_keeps_a_line_and_calms_jumps() -> None:
    line = np.arange(500.0)
    assert smooth(line)[10:-10] == pytest.approx(line[10:-10])
    jumps = np.resize([0.0, 2.0], 500)
    assert smooth(jumps) == pytest.approx(np.ones(500), abs=0.2)
    assert smooth(np.array([3.0])) == pytest.approx([3.0])


def test_lines_are_read_once_each_and_half_a_line_never(tmp_path: Path) -> None:
    again = [*ROWS[:3], row(20, 9.0), row(21, 8.0)]
    folder = write_metrics(tmp_path / "run", again, tail='{"step": 22, "to')
    assert [(r["step"], r["loss"]) for r in read_metrics(folder)] == [
        (10, 4.0), (20, 9.0), (21, 8.0), (26, 2.5),
    ]  # fmt: skip
    write_metrics(folder, [], tail="[]\n3\nnull\n{}\n")
    with pytest.raises(NotFound, match="holds no line yet; train for some updates first"):
        read_metrics(folder)


def test_a_curve_can_be_drawn_again(tmp_path: Path) -> None:
    path = draw_losses(write_metrics(tmp_path / "run", ROWS))
    first = path.read_bytes()
    assert (path.name, first[:8]) == ("loss.png", PNG)
    assert draw_losses(tmp_path / "run").read_bytes() == first
    better = [*ROWS, row(60, 0.5, 1.0)]
    assert draw_losses(write_metrics(tmp_path / "run", better)).read_bytes() != first
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["loss.png", "metrics.jsonl"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_short_run_has_a_curve(tmp_path: Path, count: int) -> None:
    assert draw_losses(write_metrics(tmp_path, ROWS[:count])).exists()


def test_a_curve_is_drawn_once_a_minute_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metrics(tmp_path, ROWS)
    clock, drawn = Hand(), list[float]()
    monkeypatch.setattr(
        "musicgen.training.observers.draw_losses", lambda _: drawn.append(clock.now)
    )
    clock.now = 0.0
    curve = LossCurve(tmp_path, clock)
    for second in range(150):
        clock.now = float(second)
        curve(at(second + 1, 3.0 if second % 5 == 0 else None))
    assert drawn == [60.0, 120.0]
    curve.close()
    curve.close()
    assert drawn == [60.0, 120.0, 149.0]


def test_a_run_that_came_to_nothing_has_no_curve(tmp_path: Path) -> None:
    curve = LossCurve(tmp_path / "gone")
    curve(at(1))
    curve.close()
    assert not (tmp_path / "gone").exists()


# TensorBoard


def read_board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def points(board: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board.Scalars(name)]


def test_tensorboard_reads_what_was_fed(tmp_path: Path) -> None:
    board = TensorBoardWriter(tmp_path, "character")
    for step in range(1, 31):
        board(at(step, 3.25 if step == 15 else None, loss=0.5 * step))
    board.close()
    found = read_board(tmp_path)
    assert points(found, "loss/training") == [(10, 5.0), (15, 7.5), (20, 10.0), (30, 15.0)]
    assert [step for step, _ in points(found, "bits_a_character/held_out")] == [15]
    assert {name: points(found, name)[0][1] for name in found.Tags()["scalars"]} == {
        "loss/training": 5.0, "gradient/norm": 0.25, "gradient/clipped": 0.125,
        "learning_rate": pytest.approx(0.003), "speed/tokens_a_second": 4_000.0,
        "memory/bytes": 640 * 2**20, "loss/held_out": pytest.approx(3.25 * np.log(2)),
        "bits_a_character/held_out": pytest.approx(3.25),
    }  # fmt: skip


def test_a_resumed_run_takes_the_place_of_what_was_cut_off(tmp_path: Path) -> None:
    for first, loss in ((10, 1.0), (30, 2.0)):
        board = TensorBoardWriter(tmp_path)
        for step in range(first, first + 31, 10):
            board(at(step, loss=loss))
        board.close()
    assert points(read_board(tmp_path), "loss/training") == [
        (10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0), (60, 2.0),
    ]  # fmt: skip


def test_a_log_that_was_never_opened_is_closed(tmp_path: Path) -> None:
    TensorBoardWriter(tmp_path / "board").close()
    assert not (tmp_path / "board").exists()
