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
from musicgen.checkpoint import Checkpoint, Manifest, Weights, round_to_float16
from musicgen.errors import NotFound, to_one_line
from musicgen.files import read_regular_file, write_atomically
from musicgen.folder_contents import METRICS
from musicgen.music.score import Score
from musicgen.sampling.default_form import complete_options
from musicgen.sampling.noise import Noise
from musicgen.sampling.sampler import GenericSampler, make_sampler
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import find_codec, restore_codec

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from musicgen.training.plots import Line
    from musicgen.training.run import TrainingRun
    from musicgen.training.trainer import Progress

CURVE_FILE: Final = "loss.png"
SAMPLES_FOLDER: Final = "heard"
TENSORBOARD_FOLDER: Final = "tensorboard"
IDS_PER_SAMPLE: Final = 600  # of a codec without bars
REDRAW_SECONDS: Final = 60.0  # seconds; a picture takes about half of one
SMOOTHING_SHARE: Final = 0.02  # of a run: the span over which its training loss is averaged
MARKER_MARGIN: Final = 0.1  # of the picture's height, under the lowest point
TENSORBOARD_INTERVAL: Final = 10  # updates between two points of TensorBoard's curves


def make_observers(
    run: TrainingRun, *, with_samples: bool = True, tensorboard: bool = False
) -> list[Observer]:
    """Return what is to be kept of a run."""
    found: list[Observer] = [LossCurve(run.folder)]
    if with_samples:
        found.append(
            SampleWriter(run.folder / SAMPLES_FOLDER, run.make_manifest, make_weights_getter(run))
        )
    if tensorboard:
        found.append(
            TensorBoardWriter(run.folder / TENSORBOARD_FOLDER, find_codec(run.dataset.codec).unit)
        )
    return found


def make_weights_getter(run: TrainingRun) -> Callable[[Progress], Weights]:
    """Return how to come by the weights that an evaluation judged."""
    trainer = run.trainer
    return lambda progress: (
        trainer.best.weights if progress.is_best else trainer.model.copy_weights()
    )


class Observer(Protocol):
    """Something that is told of each update, and of the end."""

    def __call__(self, progress: Progress, /) -> None:
        """Take note of an update."""

    def close(self) -> None:
        """Finish, whatever ended the run."""


@dataclass
class ObserverGroup:
    """The observers of a run; one that fails is told of, and left out from then on."""

    observers: list[Observer]
    notify: Callable[[str], None]
    seconds_spent: float = 0.0  # seconds that all of them took

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call_each(lambda observer: observer.close())

    def __call__(self, progress: Progress) -> None:
        """Tell all of an update."""
        self._call_each(lambda observer: observer(progress))

    def _call_each(self, act: Callable[[Observer], None]) -> None:
        began = time.monotonic()
        for observer in list(self.observers):
            try:
                act(observer)
            except Exception as fault:  # noqa: BLE001 - no ornament may end hours of training
                self.observers.remove(observer)
                what = type(observer).__name__.lower()
                self.notify(f"{what}: {to_one_line(fault)}; left out from here on")
        self.seconds_spent += time.monotonic() - began


# A tune at each evaluation


@dataclass
class SampleWriter:
    """Writes a tune of the model whenever it was judged: the same luck each time."""

    folder: Path
    get_manifest: Callable[[], Manifest]  # asked once: what was learnt from, how ids become tunes
    get_weights: Callable[[Progress], Weights]  # of the model as it was judged
    seed: int = 1

    def __call__(self, progress: Progress) -> None:
        """Write a tune if the model was judged just now."""
        if progress.held_out_score is None and not progress.is_best:
            return
        piece = self.sample_piece(self.get_weights(progress))
        self.folder.mkdir(exist_ok=True)
        suffixes = (".mid", ".abc") if self.codec.has_bars else self.codec.writable_suffixes[:1]
        for suffix in suffixes:
            write_piece(piece, self.folder / f"{progress.step:06}{suffix}")

    def sample_piece(self, weights: Weights) -> Score | str:
        """Draw a tune from weights, as a checkpoint would give them back."""
        sampler = make_sampler(
            Checkpoint(self.manifest, round_to_float16(weights), self.folder), self.codec
        )
        noise, wishes = Noise(self.seed), complete_options({}, self.manifest)
        if isinstance(sampler, GenericSampler):
            encoded = sampler.sample_encoded(wishes, noise, IDS_PER_SAMPLE)
        else:
            encoded = sampler.sample_encoded(wishes, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    @cached_property
    def manifest(self) -> Manifest:
        """What the run says of itself."""
        return self.get_manifest()

    @cached_property
    def codec(self) -> AnyCodec:
        """The codec of the model's ids."""
        return restore_codec(self.manifest.codec, self.manifest.vocabulary, self.manifest.name)

    def close(self) -> None:
        """Do nothing: each tune is whole."""


def write_piece(piece: Score | str, path: Path) -> None:
    """Write a tune or a text, in place of one that a run before left there."""
    if isinstance(piece, str):
        write_atomically(path, f"{piece}\n".encode(), force=True)
    else:
        formats.write(piece, path, force=True)


# The loss curve


@dataclass
class LossCurve:
    """Draws the losses at evaluations, once a minute at the most, and at the end."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    drawn_at: float = field(init=False)  # when, or when the run began
    is_stale: bool = False

    def __post_init__(self) -> None:
        self.drawn_at = self.clock()

    def __call__(self, progress: Progress) -> None:
        """Draw if there is a new score and the last picture is old."""
        self.is_stale = True
        judged = progress.held_out_score is not None or progress.is_best
        if judged and self.clock() - self.drawn_at >= REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw what metrics.jsonl says now."""
        draw_losses(self.folder)
        self.drawn_at, self.is_stale = self.clock(), False

    def close(self) -> None:
        """Draw the end, unless the run came to nothing."""
        if self.is_stale and (self.folder / METRICS).exists():
            self.draw()


def draw_losses(folder: Path) -> Path:
    """Draw the loss curve of a run from its metrics.jsonl, and return the picture's path."""
    from musicgen.training.plots import plot_loss_curves  # matplotlib takes a second to import

    rows = read_metrics(folder)
    picture = plot_loss_curves(make_loss_lines(rows), title=f"Loss of {folder.name}")
    write_atomically(folder / CURVE_FILE, picture.to_png(), force=True)
    return folder / CURVE_FILE


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, by step; of a step that was run twice the later one.

    A last line that is not whole, as a killed run may leave it, is passed over. Raises NotFound.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in read_regular_file(folder / METRICS).splitlines():
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    if not rows:
        raise NotFound(f"{folder / METRICS} holds no line yet; train for some updates first")
    return [rows[step] for step in sorted(rows)]


def make_loss_lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Return what is drawn: the training loss, smoothed, the held-out one, and where it is best."""
    from musicgen.training.plots import Line

    tokens, losses = _select_column(rows, "loss")
    found = [
        Line("each update", tokens, losses, faint=True),
        Line("training, smoothed", tokens, smooth(losses)),
    ]
    judged, held = _select_column(rows, "held_loss")
    if not len(held):
        return found
    return [*found, Line("held-out", judged, held), _mark_best(judged, held, smooth(losses))]


def _mark_best(tokens: np.ndarray, held_losses: np.ndarray, losses: np.ndarray) -> Line:
    """Return the line that marks the best score: from its point to under all that is drawn."""
    from musicgen.training.plots import Line

    best, every = int(np.argmin(held_losses)), np.concatenate([held_losses, losses])
    floor = every.min() - MARKER_MARGIN * max(float(np.ptp(every)), MARKER_MARGIN)
    return Line(f"best, {held_losses[best]:.3f}", [tokens[best]] * 2, [held_losses[best], floor])


def smooth(values: np.ndarray) -> np.ndarray:
    """Average each value with those about it, over a share of the whole; the ends over less."""
    reach = int(len(values) * SMOOTHING_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _select_column(rows: Iterable[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["tokens"], row[name]) for row in rows if name in row and "tokens" in row]
    pairs = np.array(found, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


# TensorBoard


@dataclass
class TensorBoardWriter:
    """Writes the numbers of a run to TensorBoard's log."""

    folder: Path
    unit: str = "note"
    writer: SummaryWriter | None = field(default=None, init=False)

    def __call__(self, progress: Progress) -> None:
        """Add a point to each curve: every so many updates, and at each evaluation."""
        if progress.step % TENSORBOARD_INTERVAL and progress.held_out_score is None:
            return
        for name, value in self.collect_points(progress).items():
            self.open_writer(progress.step).add_scalar(name, value, progress.step)

    def collect_points(self, progress: Progress) -> dict[str, float]:
        """Return the points of an update, by curve."""
        found = {
            "loss/training": progress.loss,
            "gradient/norm": progress.gradient_norm,
            "gradient/clipped": progress.clipped_share,
            "learning_rate": progress.learning_rate,
            "speed/tokens_a_second": progress.tokens_per_second,
            "memory/bytes": float(progress.memory_bytes),
        }
        if progress.held_out_score is not None:
            found["loss/held_out"] = progress.held_out_score.loss
            found[f"bits_a_{self.unit}/held_out"] = progress.held_out_score.bits_per_note
        return found

    def open_writer(self, step: int) -> SummaryWriter:
        """Open the log at the first point: what a cut-off run wrote from there on is purged."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        return self.writer

    def close(self) -> None:
        """Flush the log."""
        if self.writer is not None:
            self.writer.close()
