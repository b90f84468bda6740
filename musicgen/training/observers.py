"""What is kept of a run beside its checkpoints: tunes to hear, the loss curve, TensorBoard's log.

    with Record(observers_of(run), tell=print) as record:
        for progress in run.train():
            record(progress)

    RUN/
    ├── heard/000123.mid .abc    a tune of the model as it was judged at update 123
    ├── loss.png                 drawn from metrics.jsonl, and again whenever one likes
    └── tensorboard/             with --tensorboard

Whatever goes wrong here is told once and costs the run nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np

from musicgen import formats
from musicgen.checkpoint import Checkpoint, Manifest, Weights, stored
from musicgen.errors import NotFound, one_line
from musicgen.files import open_regular, write_whole
from musicgen.folder_contents import METRICS
from musicgen.music.score import Score
from musicgen.sampling.default_form import complete_wishes
from musicgen.sampling.noise import Noise
from musicgen.sampling.sampler import PlainSampler, sampler_of
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import restored

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from musicgen.training.plots import Line
    from musicgen.training.run import Run
    from musicgen.training.trainer import Progress

CURVE: Final = "loss.png"
HEARD: Final = "heard"
BOARD: Final = "tensorboard"
IDS_HEARD: Final = 600  # of a codec without bars
HEARD_AS: Final = {"measures": (".mid", ".abc"), "text": (".txt",), "text-words": (".txt",)}
REDRAWN_EVERY: Final = 60.0  # seconds; a picture takes about half of one
SMOOTHED_OVER: Final = 0.02  # of a run: the span over which its training loss is averaged
DROP: Final = 0.1  # of the picture's height, under the lowest point
MARKED_EVERY: Final = 10  # updates between two points of TensorBoard's curves


def observers_of(run: Run, *, heard: bool = True, tensorboard: bool = False) -> list[Observer]:
    """Return what is to be kept of a run."""
    unit = "character" if run.dataset.codec.startswith("text") else "note"
    found: list[Observer] = [Curve(run.folder)]
    if heard:
        found.append(Heard(run.folder / HEARD, run.manifest, judged_weights(run)))
    if tensorboard:
        found.append(Board(run.folder / BOARD, unit))
    return found


def judged_weights(run: Run) -> Callable[[Progress], Weights]:
    """Return how to come by the weights that an evaluation judged."""
    trainer = run.trainer
    return lambda progress: trainer.best.weights if progress.is_best else trainer.model.arrays()


class Observer(Protocol):
    """Something that is told of each update, and of the end."""

    def __call__(self, progress: Progress, /) -> None:
        """Take note of an update."""

    def close(self) -> None:
        """Finish, whatever ended the run."""


@dataclass
class Record:
    """The observers of a run; one that fails is told of, and left out from then on."""

    observers: list[Observer]
    tell: Callable[[str], None]
    spent: float = 0.0  # seconds that all of them took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda observer: observer.close())

    def __call__(self, progress: Progress) -> None:
        """Tell all of an update."""
        self._each(lambda observer: observer(progress))

    def _each(self, act: Callable[[Observer], None]) -> None:
        began = time.monotonic()
        for observer in list(self.observers):
            try:
                act(observer)
            except Exception as fault:  # noqa: BLE001 - no ornament may end hours of training
                self.observers.remove(observer)
                what = type(observer).__name__.lower()
                self.tell(f"{what}: {one_line(fault)}; left out from here on")
        self.spent += time.monotonic() - began


# A tune at each evaluation


@dataclass
class Heard:
    """Writes a tune of the model whenever it was judged: the same luck each time."""

    folder: Path
    describe: Callable[[], Manifest]  # asked once: what was learnt from, how ids become tunes
    weights: Callable[[Progress], Weights]  # of the model as it was judged
    seed: int = 1

    def __call__(self, progress: Progress) -> None:
        """Write a tune if the model was judged just now."""
        if progress.held is None and not progress.is_best:
            return
        piece = self.piece(self.weights(progress))
        self.folder.mkdir(exist_ok=True)
        for suffix in HEARD_AS.get(self.manifest.codec, (".mid",)):
            write(piece, self.folder / f"{progress.step:06}{suffix}")

    def piece(self, weights: Weights) -> Score | str:
        """Draw a tune from weights, as a checkpoint would give them back."""
        sampler = sampler_of(Checkpoint(self.manifest, stored(weights), self.folder), self.codec)
        noise, wishes = Noise(self.seed), complete_wishes({}, self.manifest)
        if isinstance(sampler, PlainSampler):
            encoded = sampler.encoded(wishes, noise, IDS_HEARD)
        else:
            encoded = sampler.encoded(wishes, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    @cached_property
    def manifest(self) -> Manifest:
        """What the run says of itself."""
        return self.describe()

    @cached_property
    def codec(self) -> AnyCodec:
        """The codec of the model's ids."""
        return restored(self.manifest.codec, self.manifest.vocabulary, self.manifest.name)

    def close(self) -> None:
        """Do nothing: each tune is whole."""


def write(piece: Score | str, path: Path) -> None:
    """Write a tune or a text, in place of one that a run before left there."""
    if isinstance(piece, str):
        write_whole(path, f"{piece}\n".encode(), force=True)
    else:
        formats.write(piece, path, force=True)


# The loss curve


@dataclass
class Curve:
    """Draws the losses at evaluations, once a minute at the most, and at the end."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    drawn: float = field(init=False)  # when, or when the run began
    stale: bool = False

    def __post_init__(self) -> None:
        self.drawn = self.clock()

    def __call__(self, progress: Progress) -> None:
        """Draw if there is a new score and the last picture is old."""
        self.stale = True
        judged = progress.held is not None or progress.is_best
        if judged and self.clock() - self.drawn >= REDRAWN_EVERY:
            self.draw()

    def draw(self) -> None:
        """Draw what metrics.jsonl says now."""
        draw_losses(self.folder)
        self.drawn, self.stale = self.clock(), False

    def close(self) -> None:
        """Draw the end, unless the run came to nothing."""
        if self.stale and (self.folder / METRICS).exists():
            self.draw()


def draw_losses(folder: Path) -> Path:
    """Draw the loss curve of a run from its metrics.jsonl, and return the picture's path."""
    from musicgen.training.plots import loss_curves  # matplotlib takes a second to import

    rows = read_metrics(folder)
    picture = loss_curves(curves(rows), title=f"Loss of {folder.name}")
    write_whole(folder / CURVE, picture.png(), force=True)
    return folder / CURVE


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, by step; of a step that was run twice the later one.

    A last line that is not whole, as a killed run may leave it, is passed over. Raises NotFound.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in open_regular(folder / METRICS).splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    if not rows:
        raise NotFound(f"{folder / METRICS} holds no line yet; train for some updates first")
    return [rows[step] for step in sorted(rows)]


def curves(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Return what is drawn: the training loss, smoothed, the held-out one, and where it is best."""
    from musicgen.training.plots import Line

    tokens, losses = _column(rows, "loss")
    found = [
        Line("each update", tokens, losses, faint=True),
        Line("training, smoothed", tokens, smooth(losses)),
    ]
    judged, held = _column(rows, "held_loss")
    if not len(held):
        return found
    return [*found, Line("held-out", judged, held), _plumb(judged, held, smooth(losses))]


def _plumb(judged: np.ndarray, held: np.ndarray, losses: np.ndarray) -> Line:
    """Return the line that marks the best score: from its point to under all that is drawn."""
    from musicgen.training.plots import Line

    best, every = int(np.argmin(held)), np.concatenate([held, losses])
    floor = every.min() - DROP * max(float(np.ptp(every)), DROP)
    return Line(f"best, {held[best]:.3f}", [judged[best]] * 2, [held[best], floor])


def smooth(values: np.ndarray) -> np.ndarray:
    """Average each value with those about it, over a share of the whole; the ends over less."""
    reach = int(len(values) * SMOOTHED_OVER / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _column(rows: Iterable[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["tokens"], row[name]) for row in rows if name in row and "tokens" in row]
    pairs = np.array(found, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


# TensorBoard


@dataclass
class Board:
    """Writes the numbers of a run to TensorBoard's log."""

    folder: Path
    unit: str = "note"
    writer: SummaryWriter | None = field(default=None, init=False)

    def __call__(self, progress: Progress) -> None:
        """Add a point to each curve: every so many updates, and at each evaluation."""
        if progress.step % MARKED_EVERY and progress.held is None:
            return
        for name, value in self.points(progress).items():
            self.log(progress.step).add_scalar(name, value, progress.step)

    def points(self, progress: Progress) -> dict[str, float]:
        """Return the points of an update, by curve."""
        found = {
            "loss/training": progress.loss,
            "gradient/norm": progress.norm,
            "gradient/clipped": progress.clipped,
            "learning_rate": progress.learning_rate,
            "speed/tokens_a_second": progress.rate,
            "memory/bytes": float(progress.memory),
        }
        if progress.held is not None:
            found["loss/held_out"] = progress.held.loss
            found[f"bits_a_{self.unit}/held_out"] = progress.held.bits_per_note
        return found

    def log(self, step: int) -> SummaryWriter:
        """Open the log at the first point: what a cut-off run wrote from there on is purged."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        return self.writer

    def close(self) -> None:
        """Flush the log."""
        if self.writer is not None:
            self.writer.close()
