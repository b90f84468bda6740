"""What is shown of a run is what was fed: the panel of a terminal, the lines elsewhere."""

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
          "learning rate", "saved", "spent", "left")  # fmt: skip


def updates(count: int, judged: dict[int, tuple[float, bool]]) -> Iterator[Progress]:
    for step in range(1, count + 1):
        bits, best = judged.get(step, (None, False))
        yield at(step, bits, is_best=best)


class Screen:
    """A console that remembers, a clock, and a run shown on them."""

    def __init__(self, *, terminal: bool, width: int = 100, **options: bool) -> None:
        self.console = Console(
            file=io.StringIO(), force_terminal=terminal, width=width, record=True, soft_wrap=True,
            highlight=False, quiet=options.pop("quiet", False), color_system=None,
        )  # fmt: skip
        self.clock = Hand()
        self.watched = ProgressDisplay(
            self.console, "mine", ProgressState(clock=self.clock), **options
        )

    def feed(self, stream: Iterable[Progress], seconds: float = 0.5) -> Screen:
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


def cells_of(line: str) -> dict[str, str]:
    """Read a line back into the cells that it was made of."""
    found: dict[str, str] = {}
    for cell in line.split("  "):
        label = next(label for label in LABELS if cell.startswith(f"{label} "))
        found[label] = cell.removeprefix(f"{label} ")
    return found


def test_a_line_holds_what_was_fed() -> None:
    screen = Screen(terminal=False)
    screen.feed(updates(20, {10: (3.25, True), 20: (3.375, False)}))
    assert len(screen.lines) == 2
    assert cells_of(screen.lines[1]) == {
        "epoch": "2.0 of 10.0", "loss": "1.500", "held-out": "3.375 bits a note",
        "best": "3.250 at epoch 1.0", "norm": "0.25", "clipped": "12 %", "tokens/s": "4,000",
        "memory": "640 MiB", "learning rate": "3.00e-03", "saved": "not yet", "spent": "10 s",
        "left": "at most 40 s",
    }  # fmt: skip


def test_a_panel_holds_what_a_line_holds() -> None:
    screen = Screen(terminal=True)
    screen.feed(updates(30, {10: (3.25, True), 20: (3.375, False)}))
    words = " ".join(screen.panel().replace("│", " ").split())
    for name, value in cells_of(screen.watched.format_line()).items():
        assert f"{name} {value}" in words
    assert "mine" in words
    assert "30%" in words


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_panel_fits_its_terminal(width: int) -> None:
    screen = Screen(terminal=True, width=width)
    screen.feed(updates(10, {10: (3.25, True)}))
    panel = screen.panel().rstrip("\n").splitlines()
    assert max(map(len, panel)) <= width
    assert all(f"│ {label}" in "".join(panel) for label in ("epoch", "held-out", "spent"))


def test_a_terminal_has_one_live_panel_and_no_lines() -> None:
    screen = Screen(terminal=True).feed(updates(60, {20: (3.25, True)}), seconds=30)
    assert screen.lines == []
    assert "╭─ mine" in screen.written
    assert "at most" in screen.written


def test_lines_come_at_evaluations_and_every_20_seconds_at_most() -> None:
    screen = Screen(terminal=False)
    screen.feed(updates(99, {7: (3.25, True)}), seconds=1.0)
    told = [cells_of(line)["spent"] for line in screen.lines]
    assert told == ["7 s", "27 s", "47 s", "67 s", "87 s"]


def test_the_last_update_is_told_on_a_line_of_its_own() -> None:
    screen = Screen(terminal=False).feed([*updates(3, {}), at(4, is_last=True)])
    assert [cells_of(line)["spent"] for line in screen.lines] == ["2 s"]


def test_verbose_lines_come_more_often_on_a_terminal_too() -> None:
    for terminal in (False, True):
        screen = Screen(terminal=terminal, verbose=True)
        screen.feed(updates(9, {}), seconds=1.0)
        assert screen.written.count("learning rate 3.00e-03  saved") == 4


def test_quiet_is_silent() -> None:
    for terminal in (False, True):
        screen = Screen(terminal=terminal, quiet=True)
        assert screen.feed(updates(99, {7: (3.25, True)}), seconds=9).written == ""


def test_the_time_is_told_once_it_is_known() -> None:
    screen = Screen(terminal=False).feed(updates(9, {}))
    assert "expected time" not in screen.written
    screen = Screen(terminal=False).feed(updates(30, {}))
    assert screen.written.count("expected time: at most 45 s; it stops sooner") == 1


def test_time_left_counts_tokens_and_what_evaluations_add() -> None:
    clock = Hand()
    seen = ProgressState(clock=clock)
    for progress in updates(50, {}):
        seen.update(progress)
    clock.now += 25
    assert seen.remaining_seconds == pytest.approx(25)
    clock.now += 25  # half of the time went elsewhere
    assert seen.remaining_seconds == pytest.approx(50)


def test_a_resumed_run_is_timed_by_what_it_learnt_itself() -> None:
    clock = Hand()
    seen = ProgressState(clock=clock)
    for step in range(80, 90):
        clock.now += 0.5
        seen.update(at(step))
    assert seen.remaining_seconds == pytest.approx(11 * 0.5)
    assert seen.fraction_done == pytest.approx(0.89)


def test_the_pace_follows_a_machine_that_slows_down() -> None:
    clock = Hand()
    seen = ProgressState(clock=clock)
    for step in range(1, 401):
        rate = 4_000.0 if step <= 200 else 1_000.0
        seen.update(at(step, rate=rate, planned=10**7))
    assert seen.tokens_per_second.value == pytest.approx(1_000, rel=0.05)


def test_jumps_are_smoothed() -> None:
    mean = MovingAverage()
    for number in range(400):
        mean.add(1.0 + (-1) ** number)
    assert mean.value == pytest.approx(1.0, abs=2 / SMOOTHING_UPDATES)
    assert MovingAverage().value == 0.0


def test_before_the_first_update_and_without_held_out_tunes() -> None:
    screen = Screen(terminal=True)
    assert "starting" in screen.panel()
    seen = ProgressState(held_out_text="none")
    seen.update(at(1))
    assert dict(seen.list_values())["held-out"] == "none"
    assert dict(seen.list_values())["best"] == "none yet"


def test_a_save_and_a_gpu_are_told() -> None:
    clock = Hand()
    saved = clock.now
    seen = ProgressState(
        clock=clock, resident_memory=lambda: 3 * 2**29, last_save_time=lambda: saved
    )
    seen.update(at(1))
    clock.now += 200
    told = dict(seen.list_values())
    assert told["saved"] == "3 min ago"
    assert told["memory"] == "640 MiB on the GPU, 1.5 GiB here"


def test_a_name_is_no_markup() -> None:
    screen = Screen(terminal=True)
    screen.watched.name = "[red]a[/red]"
    assert "[red]a[/red]" in screen.panel()
