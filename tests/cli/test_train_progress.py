"""Progress of a run: the panel on a terminal, the lines elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import pytest
from rich.console import Console

from musicgen.cli.train_report import (
    SMOOTHING_UPDATES,
    MovingAverage,
    ProgressDisplay,
    ProgressState,
)
from musicgen.training.trainer import Progress
from tests.fake_run import FakeClock as Hand
from tests.fake_run import make_progress as at

LABELS = ("epoch", "loss", "held-out", "best", "norm", "clipped", "tokens/s", "memory",
          "learning rate", "saved", "elapsed", "remaining")  # fmt: skip


def make_updates(count: int, scores: dict[int, tuple[float, bool]]) -> Iterator[Progress]:
    for step in range(1, count + 1):
        bits, best = scores.get(step, (None, False))
        yield at(step, bits, is_best=best)


class RecordedDisplay:
    """A progress display on a recorded console, with a clock that the test sets."""

    def __init__(self, *, terminal: bool, width: int = 100, **options: bool) -> None:
        self.console = Console(
            file=io.StringIO(), force_terminal=terminal, width=width, record=True, soft_wrap=True,
            highlight=False, quiet=options.pop("quiet", False), color_system=None,
        )  # fmt: skip
        self.clock = Hand()
        self.watched = ProgressDisplay(
            self.console, "mine", ProgressState(clock=self.clock), **options
        )

    def feed(self, stream: Iterable[Progress], seconds: float = 0.5) -> RecordedDisplay:
        with self.watched:
            for progress in stream:
                self.clock.now += seconds
                self.watched(progress)
        return self

    @property
    def written(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    @property
    def lines(self) -> list[str]:
        return [line for line in self.written.splitlines() if line.startswith("epoch ")]

    def panel(self) -> str:
        self.console.export_text(clear=True)
        self.console.print(self.watched.make_panel())
        return self.console.export_text()


def parse_line(line: str) -> dict[str, str]:
    """Parse a line into its labels and values."""
    values: dict[str, str] = {}
    for cell in line.split("  "):
        label = next(label for label in LABELS if cell.startswith(f"{label} "))
        values[label] = cell.removeprefix(f"{label} ")
    return values


def test_line_shows_the_values() -> None:
    recorded = RecordedDisplay(terminal=False)
    recorded.feed(make_updates(20, {10: (3.25, True), 20: (3.375, False)}))
    assert len(recorded.lines) == 2
    assert parse_line(recorded.lines[1]) == {
        "epoch": "2.0 of 10.0", "loss": "1.500", "held-out": "3.375 bits per note",
        "best": "3.250 at epoch 1.0", "norm": "0.25", "clipped": "12 %", "tokens/s": "4,000",
        "memory": "640 MiB", "learning rate": "3.00e-03", "saved": "not yet", "elapsed": "10 s",
        "remaining": "at most 40 s",
    }  # fmt: skip


def test_panel_shows_the_values_of_a_line() -> None:
    recorded = RecordedDisplay(terminal=True)
    recorded.feed(make_updates(30, {10: (3.25, True), 20: (3.375, False)}))
    args = " ".join(recorded.panel().replace("│", " ").split())
    for name, value in parse_line(recorded.watched.format_line()).items():
        assert f"{name} {value}" in args
    assert "mine" in args
    assert "30%" in args


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_panel_fits_the_terminal(width: int) -> None:
    recorded = RecordedDisplay(terminal=True, width=width)
    recorded.feed(make_updates(10, {10: (3.25, True)}))
    panel = recorded.panel().rstrip("\n").splitlines()
    assert max(map(len, panel)) <= width
    assert all(f"│ {label}" in "".join(panel) for label in ("epoch", "held-out", "elapsed"))


def test_terminal_shows_a_panel_and_no_lines() -> None:
    recorded = RecordedDisplay(terminal=True).feed(make_updates(60, {20: (3.25, True)}), seconds=30)
    assert recorded.lines == []
    assert "╭─ mine" in recorded.written
    assert "at most" in recorded.written


def test_lines_are_printed_at_evaluations_and_every_20_seconds() -> None:
    recorded = RecordedDisplay(terminal=False)
    recorded.feed(make_updates(99, {7: (3.25, True)}), seconds=1.0)
    values = [parse_line(line)["elapsed"] for line in recorded.lines]
    assert values == ["7 s", "27 s", "47 s", "67 s", "87 s"]


def test_last_update_is_printed() -> None:
    recorded = RecordedDisplay(terminal=False).feed([*make_updates(3, {}), at(4, is_last=True)])
    assert [parse_line(line)["elapsed"] for line in recorded.lines] == ["2 s"]


def test_verbose_prints_lines_more_often() -> None:
    for terminal in (False, True):
        recorded = RecordedDisplay(terminal=terminal, verbose=True)
        recorded.feed(make_updates(9, {}), seconds=1.0)
        assert recorded.written.count("learning rate 3.00e-03  saved") == 4


def test_quiet_prints_nothing() -> None:
    for terminal in (False, True):
        recorded = RecordedDisplay(terminal=terminal, quiet=True)
        assert recorded.feed(make_updates(99, {7: (3.25, True)}), seconds=9).written == ""


def test_expected_time_is_printed_once() -> None:
    recorded = RecordedDisplay(terminal=False).feed(make_updates(9, {}))
    assert "expected time" not in recorded.written
    recorded = RecordedDisplay(terminal=False).feed(make_updates(30, {}))
    assert recorded.written.count("expected time: at most 45 s; training stops earlier") == 1


def test_remaining_time_includes_evaluations() -> None:
    clock = Hand()
    state = ProgressState(clock=clock)
    for progress in make_updates(50, {}):
        state.update(progress)
    clock.now += 25
    assert state.remaining_seconds == pytest.approx(25 * 50 / 49)  # without the first update
    clock.now += 25  # half of the time went elsewhere
    assert state.remaining_seconds == pytest.approx(50 * 50 / 49)


def test_remaining_time_of_a_resumed_run_counts_only_its_own_updates() -> None:
    clock = Hand()
    state = ProgressState(clock=clock)
    for step in range(80, 90):
        clock.now += 0.5
        state.update(at(step))
    assert state.remaining_seconds == pytest.approx(11 * 0.5)
    assert state.fraction_done == pytest.approx(0.89)


def test_speed_follows_a_slower_machine() -> None:
    clock = Hand()
    state = ProgressState(clock=clock)
    for step in range(1, 401):
        tokens_per_second = 4_000.0 if step <= 200 else 1_000.0
        state.update(at(step, tokens_per_second=tokens_per_second, planned_tokens=10**7))
    assert state.tokens_per_second.value == pytest.approx(1_000, rel=0.05)


def test_moving_average_smooths_jumps() -> None:
    mean = MovingAverage()
    for number in range(400):
        mean.add(1.0 + (-1) ** number)
    assert mean.value == pytest.approx(1.0, abs=2 / SMOOTHING_UPDATES)
    assert MovingAverage().value == 0.0


def test_display_before_the_first_update_and_without_validation() -> None:
    recorded = RecordedDisplay(terminal=True)
    assert "starting" in recorded.panel()
    state = ProgressState(held_out_text="none")
    state.update(at(1))
    assert dict(state.list_values())["held-out"] == "none"
    assert dict(state.list_values())["best"] == "none yet"


def test_display_shows_last_save_and_gpu_memory() -> None:
    clock = Hand()
    saved = clock.now
    state = ProgressState(
        clock=clock, resident_memory=lambda: 3 * 2**29, last_save_time=lambda: saved
    )
    state.update(at(1))
    clock.now += 200
    values = dict(state.list_values())
    assert values["saved"] == "3 min ago"
    assert values["memory"] == "640 MiB on the GPU, 1.5 GiB in RAM"


def test_run_name_is_printed_without_markup() -> None:
    recorded = RecordedDisplay(terminal=True)
    recorded.watched.name = "[red]a[/red]"
    assert "[red]a[/red]" in recorded.panel()
