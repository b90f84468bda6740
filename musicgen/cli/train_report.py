"""What `musicgen train` prints: tunes, plan, settings, progress, scores.

    with Watched(console, "mine") as watched:
        for progress in run.train():
            watched(progress)

Progress is one live panel on a terminal and plain lines elsewhere; both show the same cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from musicgen.cli.formatting import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from musicgen.training.trainer import Progress
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.corpus.store import Dataset
    from musicgen.training.plan import Plan
    from musicgen.training.run import TrainingRun


LabelledValues = list[tuple[str, str]]  # what is shown, and its value

PLAIN_LINE_SECONDS: Final = 20.0  # seconds between two lines that no evaluation asks for
VERBOSE_LINE_SECONDS: Final = 2.0
REFRESHES_PER_SECOND: Final = 2  # panels; each takes some milliseconds from the training
SMOOTHING_UPDATES: Final = 50  # updates
UPDATES_BEFORE_ESTIMATE: Final = 10  # updates after which the time left is worth telling
PANEL_WIDTH: Final = 76  # columns of a terminal on which two cells stand side by side


@dataclass(slots=True)
class MovingAverage:
    """A mean that forgets: the last values count, about so many of them."""

    horizon: int = SMOOTHING_UPDATES
    total: float = 0.0
    weight: float = 0.0

    def add(self, amount: float, weight: float = 1.0) -> None:
        """Add an amount, and what it is counted by: a loss by 1, tokens by their seconds."""
        kept = 1 - 1 / self.horizon
        self.total = kept * self.total + amount
        self.weight = kept * self.weight + weight

    @property
    def value(self) -> float:
        """The mean of late; 0 before the first."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(slots=True)
class ProgressState:
    """The numbers of a run: those that jump smoothed, the best kept, the time counted."""

    unit: str = "note"  # what bits are counted by
    clock: Callable[[], float] = time.monotonic
    resident_memory: Callable[[], int] | None = (
        None  # this program's bytes, where a GPU has its own
    )
    last_save_time: Callable[[], float | None] = lambda: None  # when, by the same clock
    start_time: float = field(init=False)
    last_progress: Progress | None = None
    loss: MovingAverage = field(default_factory=MovingAverage)
    gradient_norm: MovingAverage = field(default_factory=MovingAverage)
    tokens_per_second: MovingAverage = field(default_factory=MovingAverage)  # tokens a second
    update_seconds: float = 0.0  # seconds that went into updates
    held_out_text: str = "not yet judged"
    best_text: str = ""
    copied_text: str = ""  # where that is judged

    def __post_init__(self) -> None:
        self.start_time = self.clock()

    def update(self, progress: Progress) -> None:
        """Take in what an update says."""
        tokens = progress.tokens - (self.last_progress.tokens if self.last_progress else 0)
        if self.last_progress is None:
            tokens = progress.tokens // max(1, progress.step)  # a resumed run learnt more before
        seconds = tokens / progress.tokens_per_second if progress.tokens_per_second > 0 else 0.0
        self.loss.add(progress.loss)
        self.gradient_norm.add(progress.gradient_norm)
        self.tokens_per_second.add(tokens, seconds)
        self.update_seconds += seconds
        self.last_progress = progress
        if progress.copied_share is not None:
            self.copied_text = f"{progress.copied_share:.1%} of 8-note runs"
        if progress.held_out_score is not None:
            self.held_out_text = f"{progress.held_out_score.bits_per_note:.3f} bits a {self.unit}"
            if progress.is_best:
                self.best_text = format_best_score(
                    progress.held_out_score.bits_per_note, progress.epoch
                )

    @property
    def fraction_done(self) -> float:
        """The share of the plan that is learnt."""
        return (
            min(1.0, self.last_progress.tokens / self.last_progress.planned_tokens)
            if self.last_progress
            else 0.0
        )

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start of this session."""
        return self.clock() - self.start_time

    @property
    def remaining_seconds(self) -> float | None:
        """Seconds to the end of the plan at the pace of late, with what evaluations add to it."""
        if self.last_progress is None or not self.tokens_per_second.value:
            return None
        overhead = max(1.0, self.elapsed_seconds / self.update_seconds)
        return (
            overhead
            * max(0, self.last_progress.planned_tokens - self.last_progress.tokens)
            / self.tokens_per_second.value
        )

    def list_values(self) -> LabelledValues:
        """Return everything that is shown, in order."""
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
        yield "norm", f"{self.gradient_norm.value:.2f}"
        yield "clipped", f"{100 * progress.clipped_share:.0f} %"
        yield "tokens/s", f"{self.tokens_per_second.value:,.0f}"
        yield "memory", self._format_memory(progress)
        yield "learning rate", f"{progress.learning_rate:.2e}"
        saved = self.last_save_time()
        yield (
            "saved",
            "not yet" if saved is None else f"{format_duration(self.clock() - saved)} ago",
        )
        yield "spent", format_duration(self.elapsed_seconds)
        yield (
            "left",
            "unknown"
            if self.remaining_seconds is None
            else f"at most {format_duration(self.remaining_seconds)}",
        )

    def _format_memory(self, progress: Progress) -> str:
        if self.resident_memory is None:
            return format_bytes(progress.memory_bytes)
        on_gpu = format_bytes(progress.memory_bytes)
        return f"{on_gpu} on the GPU, {format_bytes(self.resident_memory())} here"


def format_best_score(bits: float, epoch: float) -> str:
    """Say the best score, and when it was."""
    return f"{bits:.3f} at epoch {epoch:.1f}"


class ProgressDisplay:
    """Shows a run while it goes on; silent on a quiet console."""

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
        """Tell of one update."""
        self.state.update(progress)
        self.updates += 1
        if self.updates == UPDATES_BEFORE_ESTIMATE:
            self.console.print(f"expected time: {self._format_expected_time()}")
        judged = progress.held_out_score is not None or progress.is_last
        if (judged and self.live is None) or (
            self._is_due() and (self.verbose or self.live is None)
        ):
            self.last_line_time = self.state.clock()
            self.console.print(self.format_line(), markup=False)

    def format_line(self) -> str:
        """Return the cells as one line."""
        return "  ".join(f"{name} {value}" for name, value in self.state.list_values())

    def make_panel(self) -> RenderableType:
        """Return the cells as a panel under a bar."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        side_by_side = 2 if self.console.width >= PANEL_WIDTH else 1
        shown = Group(
            _make_progress_bar(self.state.fraction_done),
            _make_grid(self.state.list_values(), side_by_side),
        )
        return Panel(shown, title=Text(self.name), title_align="left", width=PANEL_WIDTH)

    def _is_due(self) -> bool:
        return self.state.clock() - self.last_line_time >= self.line_interval

    def _format_expected_time(self) -> str:
        left = self.state.remaining_seconds
        told = "unknown" if left is None else f"at most {format_duration(left)}"
        return f"{told}; it stops sooner where held-out tunes get no better"


def _make_progress_bar(fraction_done: float) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_row(ProgressBar(total=1.0, completed=fraction_done), f"{fraction_done:4.0%}")
    return row


def _make_grid(values: LabelledValues, columns: int) -> Table:
    """Set cells in a grid, so many in a row, read line by line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in range(columns):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1)
    texts = [Text(word) for cell in values for word in cell]
    for start in range(0, len(texts), 2 * columns):
        grid.add_row(*texts[start : start + 2 * columns])
    return grid


def print_plan(run: TrainingRun, console: Console) -> None:
    """Say what there is to learn from, what was decided for it, and what will learn it."""
    from musicgen.corpus.store import count_tokens

    dataset, found = run.dataset, run.plan
    tokens = count_tokens(dataset.train)
    shape, settings = found.model, found.training
    grown = f"{settings.first_bptt} to " if 0 < settings.first_bptt < settings.bptt else ""
    console.print(
        f"{format_count(len(dataset.train), 'tune')} ({format_count(tokens, 'token')}) to learn"
        f" from,"
        f" {len(dataset.valid):,} to stop by, {len(dataset.test):,} kept for a test"
    )
    for line in found.lines:
        console.print(line)
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {found.device} in {settings.precision},"
        f" {format_count(settings.lanes, 'lane')} of {grown}{format_count(settings.bptt, 'id')},"
        f" at most {settings.tokens:,} tokens ({settings.tokens / tokens:.1f} epochs)"
    )
    if not run.no_index and not is_text_run(run) and _is_own(run):
        console.print(
            "the model will hold an index of these tunes, titles and notes, to tell copies by:"
            " whoever gets the model can read them; --no-index leaves it out"
        )


def _is_own(run: TrainingRun) -> bool:
    """Tell whether some tunes are the user's own, not those of a corpus that has a card."""
    from musicgen.corpus.sources import list_cards

    return not set(run.dataset.sources) <= {card.name for card in list_cards()}


def print_settings(plan: Plan, console: Console) -> None:
    """Say every setting, and the versions of the packages that decide the numbers."""
    from musicgen.checkpoint import get_package_versions

    for what, table in (
        ("model", asdict(plan.model)),
        ("training", asdict(plan.training)),
        ("versions", get_package_versions()),
    ):
        told = ", ".join(f"{name} {value}" for name, value in table.items())
        console.print(f"{what}: {told}")


def list_derived_options(dataset: Dataset, plan: Plan) -> dict[str, Any]:
    """Return what the plan made of the options that were left open, by their keys in a file."""
    return {
        "cell": plan.model.cell,
        "layers": plan.model.layers,
        "hidden": plan.model.hidden,
        "dropout": plan.model.dropout,
        "bptt": plan.training.bptt,
        "batch": plan.training.lanes,
        "epochs": compute_epochs(dataset, plan),
        "learning-rate": plan.training.learning_rate,
    }


def compute_epochs(dataset: Dataset, plan: Plan) -> float:
    """Return a number of epochs that comes to just as many tokens as the plan has."""
    from math import inf, nextafter

    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    epochs = plan.training.tokens / tokens
    return epochs if int(epochs * tokens) >= plan.training.tokens else nextafter(epochs, inf)


def print_times(
    state: ProgressState, saving_seconds: float, observer_seconds: float, console: Console
) -> None:
    """Say what share of the time went where."""
    total = max(state.elapsed_seconds, 1e-9)
    rest = max(0.0, total - state.update_seconds - saving_seconds - observer_seconds)
    shares = (
        ("updates", state.update_seconds),
        ("saving", saving_seconds),
        ("tunes and pictures", observer_seconds),
        ("evaluation and the rest", rest),
    )
    told = ", ".join(f"{what} {100 * part / total:.1f} %" for what, part in shares)
    console.print(f"time: {format_duration(total)}, of it {told}")


def print_results(run: TrainingRun, console: Console) -> None:
    """Say how good the model is, and how to hear it."""
    table = run.scores.to_dict()
    for part in ("valid", "test", "test_5gram"):
        if part in table:
            row = table[part]
            low, high = row["interval_95"]
            console.print(
                f"{part}: {row['bits_per_note']:.3f} bits a {name_unit(run)}"
                f" (95 % interval {low:.3f} to {high:.3f}, {format_count(row['tunes'], 'tune')})"
            )
    told = describe_copying(run)
    if told:
        console.print(told)
    verb, suffix = ("read", ".txt") if is_text_run(run) else ("hear", ".mid")
    console.print(
        f"{run.folder}: done; {verb} it with musicgen sample --model {run.name} --out song{suffix}"
    )


def describe_copying(run: TrainingRun) -> str:
    """Say how much of what the model writes stands in the tunes; "" where that was not judged."""
    judged = [line for line in run.metrics if "copied" in line]
    if not judged or run.memorisation_check is None:
        return ""
    last, human = judged[-1], run.memorisation_check.human_counts.share
    stopped = last["step"] > run.best_step
    return (
        f"{'stopped' if stopped else 'copies'}: {last['copied']:.1%} of the 8-note runs that it"
        f" {'wrote' if stopped else 'writes'} stand in the tunes; they share {human:.1%} of theirs"
        f" with each other{'; the weights before are kept' if stopped else ''}"
    )


def is_text_run(run: TrainingRun) -> bool:
    """Tell whether what it writes is text."""
    return name_unit(run) == "character"


def name_unit(run: TrainingRun) -> str:
    """Name what bits are counted by: a text has no notes."""
    from musicgen.tokens.registry import find_codec

    return find_codec(run.dataset.codec).unit
