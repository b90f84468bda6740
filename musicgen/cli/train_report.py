"""What `musicgen train` prints: the plan, the settings, the progress and the scores.

    with ProgressDisplay(console, "mine") as display:
        for progress in run.train():
            display(progress)

Progress is a live panel on a terminal and plain lines elsewhere; both show the same values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import isnan
from typing import TYPE_CHECKING, Final, Self

from musicgen.cli.output import (
    PLAIN_LINE_SECONDS,
    format_bytes,
    format_count,
    format_duration,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from musicgen.training.plan import Plan
    from musicgen.training.run import TrainingRun
    from musicgen.training.trainer import Progress

LabelledValues = list[tuple[str, str]]  # (label, value) pairs, in display order

VERBOSE_LINE_SECONDS: Final = 2.0  # between two progress lines with --verbose
REFRESHES_PER_SECOND: Final = 2  # of the panel; each takes some milliseconds from training
SMOOTHING_UPDATES: Final = 50  # horizon of the moving averages
UPDATES_BEFORE_ESTIMATE: Final = 10  # updates before the remaining time is estimated
PANEL_WIDTH: Final = 76  # columns; on a narrower terminal the panel has one value per row
_PART_NAMES: Final = {
    "valid": "validation",
    "valid_5gram": "validation (5-gram)",
    "test": "test",
    "test_5gram": "test (5-gram)",
}


@dataclass(slots=True)
class MovingAverage:
    """Exponential moving average, weighted by amounts such as seconds."""

    horizon: int = SMOOTHING_UPDATES  # values that the average spans
    total: float = 0.0
    weight: float = 0.0

    def add(self, amount: float, weight: float = 1.0) -> None:
        """Add an amount and its weight: 1 for a loss, the seconds for a number of tokens."""
        decay = 1 - 1 / self.horizon
        self.total = decay * self.total + amount
        self.weight = decay * self.weight + weight

    @property
    def value(self) -> float:
        """The average; 0 before the first amount."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(slots=True)
class ProgressState:
    """The progress of a run as it is displayed: smoothed values, best score, times."""

    unit: str = "note"  # of the bits: note or character
    clock: Callable[[], float] = time.monotonic  # seconds
    resident_memory: Callable[[], int] | None = None  # bytes in RAM; shown beside those of a GPU
    last_save_time: Callable[[], float | None] = lambda: None  # of the same clock
    start_time: float = field(init=False)
    last_progress: Progress | None = None
    loss: MovingAverage = field(default_factory=MovingAverage)
    gradient_norm: MovingAverage = field(default_factory=MovingAverage)
    tokens_per_second: MovingAverage = field(default_factory=MovingAverage)
    update_seconds: float = 0.0  # total duration of the updates
    first_update: tuple[float, float] = (0.0, 0.0)  # seconds of the first one, and up to its end
    held_out_text: str = "not evaluated yet"
    best_text: str = ""
    copied_text: str = ""  # empty unless the run measures copying
    form_text: str = ""  # empty until the form of sampled tunes is measured

    def __post_init__(self) -> None:
        self.start_time = self.clock()

    def update(self, progress: Progress) -> None:
        """Add the values of an update."""
        tokens = progress.tokens - (self.last_progress.tokens if self.last_progress else 0)
        if self.last_progress is None:
            tokens = progress.tokens // max(
                1, progress.step
            )  # earlier updates of a resumed run took place in another process
        seconds = tokens / progress.tokens_per_second if progress.tokens_per_second > 0 else 0.0
        self.loss.add(progress.loss)
        self.gradient_norm.add(progress.gradient_norm)
        if self.last_progress is None:  # it also computes score contexts
            self.first_update = seconds, self.elapsed_seconds
        else:
            self.tokens_per_second.add(tokens, seconds)
        self.update_seconds += seconds
        self.last_progress = progress
        if progress.copied_share is not None:
            self.copied_text = f"{progress.copied_share:.1%} of 8-note runs"
        if progress.form_figures is not None:
            self.form_text = format_form(progress.form_figures)
        if progress.held_out_score is not None:
            self.held_out_text = f"{progress.held_out_score.bits_per_note:.3f} bits per {self.unit}"
            if progress.is_best:
                self.best_text = format_best_score(
                    progress.held_out_score.bits_per_note, progress.epoch
                )

    @property
    def fraction_done(self) -> float:
        """Tokens trained on, as a share of the planned ones; 0 to 1."""
        if self.last_progress is None:
            return 0.0
        return min(1.0, self.last_progress.tokens / self.last_progress.planned_tokens)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start or resumption of the run."""
        return self.clock() - self.start_time

    @property
    def remaining_seconds(self) -> float | None:
        """Estimated seconds to the end of the plan, evaluations included; None if unknown."""
        if self.last_progress is None or not self.tokens_per_second.value:
            return None
        seconds, end = self.first_update
        overhead = max(1.0, (self.elapsed_seconds - end) / (self.update_seconds - seconds))
        tokens = max(0, self.last_progress.planned_tokens - self.last_progress.tokens)
        return overhead * tokens / self.tokens_per_second.value

    def list_values(self) -> LabelledValues:
        """Return the displayed values with their labels."""
        if self.last_progress is None:
            return [("", "starting")]
        return list(self._iterate_values(self.last_progress))

    def _iterate_values(self, progress: Progress) -> Iterator[tuple[str, str]]:
        epochs = progress.planned_tokens / max(1, progress.tokens) * progress.epoch
        yield "epoch", f"{progress.epoch:.1f} of {epochs:.1f}"
        yield "loss", f"{self.loss.value:.3f}"
        yield "held-out", self.held_out_text
        yield "best", self.best_text or "none yet"
        if self.copied_text:
            yield "copied", self.copied_text
        if self.form_text:
            yield "form", self.form_text
        yield "norm", f"{self.gradient_norm.value:.2f}"
        yield "clipped", f"{100 * progress.clipped_share:.0f} %"
        yield "tokens/s", f"{self.tokens_per_second.value:,.0f}"
        yield "memory", self._format_memory(progress)
        yield "learning rate", f"{progress.learning_rate:.2e}"
        saved = self.last_save_time()
        age = "not yet" if saved is None else f"{format_duration(self.clock() - saved)} ago"
        yield "saved", age
        yield "elapsed", format_duration(self.elapsed_seconds)
        yield "remaining", self.format_remaining_time()

    def format_remaining_time(self) -> str:
        """Format the estimated time to the end of the plan."""
        seconds = self.remaining_seconds
        return "unknown" if seconds is None else f"at most {format_duration(seconds)}"

    def _format_memory(self, progress: Progress) -> str:
        if self.resident_memory is None:
            return format_bytes(progress.memory_bytes)
        on_gpu = format_bytes(progress.memory_bytes)
        return f"{on_gpu} on the GPU, {format_bytes(self.resident_memory())} in RAM"


def format_form(figures: Mapping[str, float]) -> str:
    """Return the two clearest figures of form of sampled tunes, those that are known."""
    texts = {
        "sections_multiple_of_4": "{:.0%} of sections 4, 8, ... bars",
        "bar_likeness.4": "{:.0%} like 4 bars ago",
    }
    known = {key: figures[key] for key in texts if not isnan(figures[key])}
    return ", ".join(texts[key].format(value) for key, value in known.items())


def format_best_score(bits: float, epoch: float) -> str:
    """Format the best score with its epoch.

    Args:
        bits: bits per note or character.
        epoch: passes over the training part when it was measured.
    """
    return f"{bits:.3f} at epoch {epoch:.1f}"


class ProgressDisplay:
    """Context manager that displays the progress of a run, unless the console is quiet."""

    def __init__(
        self,
        console: Console,
        name: str,
        state: ProgressState | None = None,
        *,
        verbose: bool = False,
    ) -> None:
        self.console, self.name, self.verbose = console, name, verbose
        self.state = state or ProgressState()
        self.line_interval = VERBOSE_LINE_SECONDS if verbose else PLAIN_LINE_SECONDS
        self.last_line_time = self.state.start_time
        self.updates = 0
        self.live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        if self.console.is_terminal and not self.console.quiet:
            self.live = Live(
                console=self.console,
                get_renderable=self.make_panel,
                refresh_per_second=REFRESHES_PER_SECOND,
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, progress: Progress) -> None:
        """Display one update."""
        self.state.update(progress)
        self.updates += 1
        if self.updates == UPDATES_BEFORE_ESTIMATE:
            self.console.print(
                f"expected time: {self.state.format_remaining_time()}; training stops earlier if"
                " the held-out score stops improving"
            )
        is_evaluation = progress.held_out_score is not None or progress.is_last
        if (is_evaluation and self.live is None) or (
            self._is_due() and (self.verbose or self.live is None)
        ):
            self.last_line_time = self.state.clock()
            self.console.print(self.format_line(), markup=False)

    def format_line(self) -> str:
        """Return the values on one line."""
        return "  ".join(f"{label} {value}" for label, value in self.state.list_values())

    def make_panel(self) -> RenderableType:
        """Return the values as a panel with a progress bar."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        values_per_row = 2 if self.console.width >= PANEL_WIDTH else 1
        content = Group(
            _make_progress_bar(self.state.fraction_done),
            _make_grid(self.state.list_values(), values_per_row),
        )
        return Panel(content, title=Text(self.name), title_align="left", width=PANEL_WIDTH)

    def _is_due(self) -> bool:
        return self.state.clock() - self.last_line_time >= self.line_interval


def _make_progress_bar(fraction_done: float) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_row(ProgressBar(total=1.0, completed=fraction_done), f"{fraction_done:4.0%}")
    return row


def _make_grid(values: LabelledValues, values_per_row: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in range(values_per_row):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1)
    texts = [Text(text) for label_and_value in values for text in label_and_value]
    for start in range(0, len(texts), 2 * values_per_row):
        grid.add_row(*texts[start : start + 2 * values_per_row])
    return grid


def print_plan(run: TrainingRun, console: Console) -> None:
    """Print the split, the decisions of the plan, the model and the length of the training."""
    from musicgen.corpus.store import count_tokens, select_as_written

    split, plan = run.dataset, run.plan
    tokens, tune_count = count_tokens(split.train), sum(1 for _ in select_as_written(split.train))
    shape, settings = plan.model, plan.training
    first_bptt = f"{settings.first_bptt} to " if 0 < settings.first_bptt < settings.bptt else ""
    console.print(
        f"train {format_count(tune_count, 'tune')} ({format_count(tokens, 'token')}),"
        f" validation {len(split.valid):,}, test {len(split.test):,}"
    )
    for line in plan.lines:
        console.print(line)
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {plan.device} in {settings.precision},"
        f" {format_count(settings.lanes, 'lane')} of {first_bptt}"
        f"{format_count(settings.bptt, 'token')}, at most {settings.tokens:,} tokens"
        f" ({settings.tokens / tokens:.1f} epochs)"
    )
    if not run.no_index and not is_text_run(run) and _has_own_tunes(run):
        console.print(
            "the model will contain an index of the titles and notes of these tunes, which"
            " 'musicgen origin' reads; anyone who has the model can read it; --no-index omits it"
        )


def _has_own_tunes(run: TrainingRun) -> bool:
    """Return whether some tunes come from sources without a corpus card."""
    from musicgen.corpus.sources import list_cards

    return not set(run.dataset.sources) <= {card.name for card in list_cards()}


def print_settings(plan: Plan, console: Console) -> None:
    """Print all settings, and the versions of the packages that affect the results."""
    from musicgen.checkpoint import get_package_versions

    for title, table in (
        ("model", asdict(plan.model)),
        ("training", asdict(plan.training)),
        ("versions", get_package_versions()),
    ):
        console.print(f"{title}: {', '.join(f'{name} {value}' for name, value in table.items())}")


def print_times(
    state: ProgressState, saving_seconds: float, observer_seconds: float, console: Console
) -> None:
    """Print how the time of a run divides into updates, saving, observers and the rest."""
    total = max(state.elapsed_seconds, 1e-9)
    rest = max(0.0, total - state.update_seconds - saving_seconds - observer_seconds)
    shares = (
        ("updates", state.update_seconds),
        ("saving", saving_seconds),
        ("example tunes and plots", observer_seconds),
        ("evaluation and other", rest),
    )
    shares_text = ", ".join(f"{name} {100 * part / total:.1f} %" for name, part in shares)
    console.print(f"time: {format_duration(total)} ({shares_text})")


def print_results(run: TrainingRun, console: Console) -> None:
    """Print the scores, the share of copied notes, and how to sample from the model."""
    scores = run.scores.to_dict()
    for part, name in _PART_NAMES.items():
        if part in scores:
            score = scores[part]
            low, high = score["interval_95"]
            console.print(
                f"{name}: {score['bits_per_note']:.3f} bits per {name_unit(run)}"
                f" (95 % interval {low:.3f} to {high:.3f}, {format_count(score['tunes'], 'tune')})"
            )
    copying = _describe_copying(run)
    if copying:
        console.print(copying)
    suffix = ".txt" if is_text_run(run) else ".mid"
    console.print(
        f"{run.folder}: done; generate a tune with musicgen sample --model {run.name}"
        f" --out song{suffix}"
    )


def _describe_copying(run: TrainingRun) -> str:
    """Say how much of the generated tunes is copied; "" if that was not measured."""
    measurements = [entry for entry in run.metrics if "copied" in entry]
    if not measurements or run.memorisation_check is None:
        return ""
    last, human_share = measurements[-1], run.memorisation_check.human_counts.share
    was_stopped = last["step"] > run.best_step
    return (
        f"{'stopped' if was_stopped else 'copies'}: {last['copied']:.1%} of the generated 8-note"
        f" runs are in the training tunes, which share {human_share:.1%} of theirs with each other"
        f"{'; the weights before that are kept' if was_stopped else ''}"
    )


def is_text_run(run: TrainingRun) -> bool:
    """Return whether the run's codec encodes text."""
    return run.dataset.codec.startswith("text")


def name_unit(run: TrainingRun) -> str:
    """Return the unit that bits are counted per: note, or character for text."""
    return "character" if is_text_run(run) else "note"
