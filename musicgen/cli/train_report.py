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

from musicgen.cli.formatting import counted, size, span

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from musicgen.training.trainer import Progress
if TYPE_CHECKING:
    from rich.console import Console

    from musicgen.corpus.store import Dataset
    from musicgen.training.plan import Plan
    from musicgen.training.run import Run


Cells = list[tuple[str, str]]  # what is shown, and its value

PLAIN_EVERY: Final = 20.0  # seconds between two lines that no evaluation asks for
VERBOSE_EVERY: Final = 2.0
DRAWN_A_SECOND: Final = 2  # panels; each takes some milliseconds from the training
SMOOTHED_OVER: Final = 50  # updates
SURE_AFTER: Final = 10  # updates after which the time left is worth telling
WIDE: Final = 76  # columns of a terminal on which two cells stand side by side


@dataclass(slots=True)
class Smooth:
    """A mean that forgets: the last values count, about so many of them."""

    over: int = SMOOTHED_OVER
    total: float = 0.0
    weight: float = 0.0

    def add(self, amount: float, weight: float = 1.0) -> None:
        """Add an amount, and what it is counted by: a loss by 1, tokens by their seconds."""
        kept = 1 - 1 / self.over
        self.total = kept * self.total + amount
        self.weight = kept * self.weight + weight

    @property
    def value(self) -> float:
        """The mean of late; 0 before the first."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(slots=True)
class Seen:
    """The numbers of a run: those that jump smoothed, the best kept, the time counted."""

    unit: str = "note"  # what bits are counted by
    clock: Callable[[], float] = time.monotonic
    resident: Callable[[], int] | None = None  # this program's bytes, where a GPU has its own
    saved: Callable[[], float | None] = lambda: None  # when, by the same clock
    began: float = field(init=False)
    last: Progress | None = None
    loss: Smooth = field(default_factory=Smooth)
    norm: Smooth = field(default_factory=Smooth)
    pace: Smooth = field(default_factory=Smooth)  # tokens a second
    learnt: float = 0.0  # seconds that went into updates
    held: str = "not yet judged"
    best: str = ""
    copied: str = ""  # where that is judged

    def __post_init__(self) -> None:
        self.began = self.clock()

    def take(self, progress: Progress) -> None:
        """Take in what an update says."""
        tokens = progress.tokens - (self.last.tokens if self.last else 0)
        if self.last is None:
            tokens = progress.tokens // max(1, progress.step)  # a resumed run learnt more before
        seconds = tokens / progress.rate if progress.rate > 0 else 0.0
        self.loss.add(progress.loss)
        self.norm.add(progress.norm)
        self.pace.add(tokens, seconds)
        self.learnt += seconds
        self.last = progress
        if progress.copied is not None:
            self.copied = f"{progress.copied:.1%} of 8-note runs"
        if progress.held is not None:
            self.held = f"{progress.held.bits_per_note:.3f} bits a {self.unit}"
            if progress.is_best:
                self.best = best_told(progress.held.bits_per_note, progress.epoch)

    @property
    def done(self) -> float:
        """The share of the plan that is learnt."""
        return min(1.0, self.last.tokens / self.last.planned) if self.last else 0.0

    @property
    def spent(self) -> float:
        """Seconds since the start of this session."""
        return self.clock() - self.began

    @property
    def left(self) -> float | None:
        """Seconds to the end of the plan at the pace of late, with what evaluations add to it."""
        if self.last is None or not self.pace.value:
            return None
        overhead = max(1.0, self.spent / self.learnt)
        return overhead * max(0, self.last.planned - self.last.tokens) / self.pace.value

    def cells(self) -> Cells:
        """Return everything that is shown, in order."""
        if self.last is None:
            return [("", "starting")]
        return list(self._cells(self.last))

    def _cells(self, last: Progress) -> Iterator[tuple[str, str]]:
        epochs = last.planned / max(1, last.tokens) * last.epoch
        yield "epoch", f"{last.epoch:.1f} of {epochs:.1f}"
        yield "loss", f"{self.loss.value:.3f}"
        yield "held-out", self.held
        yield "best", self.best or "none yet"
        if self.copied:
            yield "copied", self.copied
        yield "norm", f"{self.norm.value:.2f}"
        yield "clipped", f"{100 * last.clipped:.0f} %"
        yield "tokens/s", f"{self.pace.value:,.0f}"
        yield "memory", self._memory(last)
        yield "learning rate", f"{last.learning_rate:.2e}"
        saved = self.saved()
        yield "saved", "not yet" if saved is None else f"{span(self.clock() - saved)} ago"
        yield "spent", span(self.spent)
        yield "left", "unknown" if self.left is None else f"at most {span(self.left)}"

    def _memory(self, last: Progress) -> str:
        if self.resident is None:
            return size(last.memory)
        return f"{size(last.memory)} on the GPU, {size(self.resident())} here"


def best_told(bits: float, epoch: float) -> str:
    """Say the best score, and when it was."""
    return f"{bits:.3f} at epoch {epoch:.1f}"


class Watched:
    """Shows a run while it goes on; silent on a quiet console."""

    def __init__(
        self, console: Console, name: str, seen: Seen | None = None, *, verbose: bool = False
    ) -> None:
        self.console, self.name, self.verbose = console, name, verbose
        self.seen = seen or Seen()
        self.every = VERBOSE_EVERY if verbose else PLAIN_EVERY
        self.spoke = self.seen.began
        self.updates = 0
        self.live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        if self.console.is_terminal and not self.console.quiet:
            self.live = Live(
                console=self.console, get_renderable=self.panel, refresh_per_second=DRAWN_A_SECOND
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, progress: Progress) -> None:
        """Tell of one update."""
        self.seen.take(progress)
        self.updates += 1
        if self.updates == SURE_AFTER:
            self.console.print(f"expected time: {self._expected()}")
        judged = progress.held is not None or progress.is_last
        if (judged and self.live is None) or (
            self._is_due() and (self.verbose or self.live is None)
        ):
            self.spoke = self.seen.clock()
            self.console.print(self.line(), markup=False)

    def line(self) -> str:
        """Return the cells as one line."""
        return "  ".join(f"{name} {value}" for name, value in self.seen.cells())

    def panel(self) -> RenderableType:
        """Return the cells as a panel under a bar."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        side_by_side = 2 if self.console.width >= WIDE else 1
        shown = Group(_bar(self.seen.done), _grid(self.seen.cells(), side_by_side))
        return Panel(shown, title=Text(self.name), title_align="left", width=WIDE)

    def _is_due(self) -> bool:
        return self.seen.clock() - self.spoke >= self.every

    def _expected(self) -> str:
        left = self.seen.left
        told = "unknown" if left is None else f"at most {span(left)}"
        return f"{told}; it stops sooner where held-out tunes get no better"


def _bar(done: float) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(ratio=1)
    row.add_row(ProgressBar(total=1.0, completed=done), f"{done:4.0%}")
    return row


def _grid(cells: Cells, side_by_side: int) -> Table:
    """Set cells in a grid, so many in a row, read line by line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    for _ in range(side_by_side):
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1)
    texts = [Text(word) for cell in cells for word in cell]
    for start in range(0, len(texts), 2 * side_by_side):
        grid.add_row(*texts[start : start + 2 * side_by_side])
    return grid


def announce(run: Run, console: Console) -> None:
    """Say what there is to learn from, what was decided for it, and what will learn it."""
    from musicgen.corpus.store import count_tokens

    dataset, found = run.dataset, run.plan
    tokens = count_tokens(dataset.train)
    shape, settings = found.model, found.training
    grown = f"{settings.first_bptt} to " if 0 < settings.first_bptt < settings.bptt else ""
    console.print(
        f"{counted(len(dataset.train), 'tune')} ({counted(tokens, 'token')}) to learn from,"
        f" {len(dataset.valid):,} to stop by, {len(dataset.test):,} kept for a test"
    )
    for line in found.lines:
        console.print(line)
    console.print(
        f"{shape.layers} x {shape.hidden} {shape.cell} on {found.device} in {settings.precision},"
        f" {counted(settings.lanes, 'lane')} of {grown}{counted(settings.bptt, 'id')},"
        f" at most {settings.tokens:,} tokens ({settings.tokens / tokens:.1f} epochs)"
    )
    if not run.no_index and not is_text(run) and _is_own(run):
        console.print(
            "the model will hold an index of these tunes, titles and notes, to tell copies by:"
            " whoever gets the model can read them; --no-index leaves it out"
        )


def _is_own(run: Run) -> bool:
    """Tell whether some tunes are the user's own, not those of a corpus that has a card."""
    from musicgen.corpus.sources import cards

    return not set(run.dataset.sources) <= {card.name for card in cards()}


def tell_all(found: Plan, console: Console) -> None:
    """Say every setting, and the versions of the packages that decide the numbers."""
    from musicgen.checkpoint import versions

    for what, table in (
        ("model", asdict(found.model)),
        ("training", asdict(found.training)),
        ("versions", versions()),
    ):
        told = ", ".join(f"{name} {value}" for name, value in table.items())
        console.print(f"{what}: {told}")


def derived(dataset: Dataset, found: Plan) -> dict[str, Any]:
    """Return what the plan made of the options that were left open, by their keys in a file."""
    return {
        "cell": found.model.cell,
        "layers": found.model.layers,
        "hidden": found.model.hidden,
        "dropout": found.model.dropout,
        "bptt": found.training.bptt,
        "batch": found.training.lanes,
        "epochs": epochs_of(dataset, found),
        "learning-rate": found.training.learning_rate,
    }


def epochs_of(dataset: Dataset, found: Plan) -> float:
    """Return a number of epochs that comes to just as many tokens as the plan has."""
    from math import inf, nextafter

    from musicgen.corpus.store import count_tokens

    tokens = count_tokens(dataset.train)
    epochs = found.training.tokens / tokens
    return epochs if int(epochs * tokens) >= found.training.tokens else nextafter(epochs, inf)


def tell_times(seen: Seen, saving: float, keeping: float, console: Console) -> None:
    """Say what share of the time went where."""
    total = max(seen.spent, 1e-9)
    rest = max(0.0, total - seen.learnt - saving - keeping)
    shares = (
        ("updates", seen.learnt),
        ("saving", saving),
        ("tunes and pictures", keeping),
        ("evaluation and the rest", rest),
    )
    told = ", ".join(f"{what} {100 * part / total:.1f} %" for what, part in shares)
    console.print(f"time: {span(total)}, of it {told}")


def conclude(run: Run, console: Console) -> None:
    """Say how good the model is, and how to hear it."""
    table = run.scores.as_table()
    for part in ("valid", "test", "test_5gram"):
        if part in table:
            row = table[part]
            low, high = row["interval_95"]
            console.print(
                f"{part}: {row['bits_per_note']:.3f} bits a {unit_of(run)}"
                f" (95 % interval {low:.3f} to {high:.3f}, {counted(row['tunes'], 'tune')})"
            )
    told = copies(run)
    if told:
        console.print(told)
    verb, suffix = ("read", ".txt") if is_text(run) else ("hear", ".mid")
    console.print(
        f"{run.folder}: done; {verb} it with musicgen sample --model {run.name} --out song{suffix}"
    )


def copies(run: Run) -> str:
    """Say how much of what the model writes stands in the tunes; "" where that was not judged."""
    judged = [line for line in run.metrics if "copied" in line]
    if not judged or run.judge is None:
        return ""
    last, human = judged[-1], run.judge.human.rate
    stopped = last["step"] > run.best_step
    return (
        f"{'stopped' if stopped else 'copies'}: {last['copied']:.1%} of the 8-note runs that it"
        f" {'wrote' if stopped else 'writes'} stand in the tunes; they share {human:.1%} of theirs"
        f" with each other{'; the weights before are kept' if stopped else ''}"
    )


def is_text(run: Run) -> bool:
    """Tell whether what it writes is text."""
    return run.dataset.codec.startswith("text")


def unit_of(run: Run) -> str:
    """Name what bits are counted by: a text has no notes."""
    return "character" if is_text(run) else "note"
