"""Observers of a training run: listening examples, the loss curve, TensorBoard logs.

    with ObserverGroup(make_observers(run), notify=print) as observers:
        for progress in run.train():
            observers(progress)

    RUN/
    ├── heard/000123.mid .abc    a listening example: a tune sampled at the evaluation of update 123
    ├── loss.png                 losses, and the form of sampled tunes, from metrics.jsonl
    └── tensorboard/             with --tensorboard

An observer that fails is reported once and removed; it never aborts the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self

import numpy as np

from musicgen import formats
from musicgen.checkpoint import Checkpoint, Manifest, Weights, round_to_float16
from musicgen.errors import to_one_line
from musicgen.evaluation.form import FORM_FIGURES
from musicgen.files import write_atomically
from musicgen.folder_contents import METRICS
from musicgen.music.arrays import FloatArray
from musicgen.music.score import Score
from musicgen.sampling.noise import Noise
from musicgen.sampling.options import complete_options
from musicgen.sampling.sampler import GenericSampler, make_sampler
from musicgen.tokens.codec import AnyCodec
from musicgen.tokens.registry import find_codec, restore_codec
from musicgen.training.run_folder import read_metrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from musicgen.render.plots import Line
    from musicgen.training.run import TrainingRun
    from musicgen.training.trainer import Progress

CURVE_FILE: Final = "loss.png"
SAMPLES_FOLDER: Final = "heard"
TENSORBOARD_FOLDER: Final = "tensorboard"
IDS_PER_SAMPLE: Final = 600  # at most, for codecs without bars
REDRAW_SECONDS: Final = 60.0  # drawing takes about 0.5 seconds
SMOOTHING_SHARE: Final = 0.02  # width of the moving average, as a share of the run
DRAWN_FIGURES: Final = (  # of form; real tunes return most at lags 2 and 4
    "sections_multiple_of_4", "sections_8", "ends_on_tonic", "bar_likeness.4", "bar_likeness.2",
)  # fmt: skip
MARKER_MARGIN: Final = 0.1  # below the lowest point, as a share of the range of losses
TENSORBOARD_INTERVAL: Final = 10  # updates between two points


def make_observers(
    run: TrainingRun, *, with_samples: bool = True, tensorboard: bool = False
) -> list[Observer]:
    """Return the observers of a run."""
    observers: list[Observer] = [LossCurve(run.folder)]
    if with_samples:
        observers.append(
            SampleWriter(run.folder / SAMPLES_FOLDER, run.make_manifest, make_weights_getter(run))
        )
    if tensorboard:
        unit = find_codec(run.dataset.codec).unit
        observers.append(TensorBoardWriter(run.folder / TENSORBOARD_FOLDER, unit))
    return observers


def make_weights_getter(run: TrainingRun) -> Callable[[Progress], Weights]:
    """Return a function from the progress of an evaluation to the weights that were evaluated."""
    trainer = run.trainer
    return lambda progress: (
        trainer.best.weights if progress.is_best else trainer.model.copy_weights()
    )


class Observer(Protocol):
    """A callable that receives the progress of each update, and is closed at the end."""

    label: ClassVar[str]  # names the observer in messages

    def __call__(self, progress: Progress, /) -> None:
        """Handle the progress of an update."""

    def close(self) -> None:
        """Finish: called once, also if the run failed."""


@dataclass
class ObserverGroup:
    """Calls the observers of a run; one that fails is reported and removed."""

    observers: list[Observer]
    notify: Callable[[str], None]
    seconds_spent: float = 0.0  # in all observers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call_each(lambda observer: observer.close())

    def __call__(self, progress: Progress) -> None:
        """Pass the progress of an update to all observers."""
        self._call_each(lambda observer: observer(progress))

    def _call_each(self, call: Callable[[Observer], None]) -> None:
        started_at = time.monotonic()
        for observer in list(self.observers):
            try:
                call(observer)
            except Exception as error:  # noqa: BLE001 - observers must not abort training
                self.observers.remove(observer)
                self.notify(f"{observer.label}: {to_one_line(error)}; disabled for this run")
        self.seconds_spent += time.monotonic() - started_at


# Listening examples


@dataclass
class SampleWriter:
    """Samples a tune after each evaluation, always with the same seed."""

    folder: Path
    get_manifest: Callable[[], Manifest]  # called once
    get_weights: Callable[[Progress], Weights]  # the weights that were evaluated
    seed: int = 1
    label: ClassVar[str] = "listening example"

    def __call__(self, progress: Progress) -> None:
        """Write a tune if the model has just been evaluated."""
        if progress.held_out_score is None and not progress.is_best:
            return
        piece = self.sample_piece(self.get_weights(progress))
        self.folder.mkdir(exist_ok=True)
        suffixes = (".mid", ".abc") if self.codec.has_bars else self.codec.writable_suffixes[:1]
        for suffix in suffixes:
            write_piece(piece, self.folder / f"{progress.step:06}{suffix}")

    def sample_piece(self, weights: Weights) -> Score | str:
        """Sample a tune from weights, rounded to float16 as in a checkpoint.

        Args:
            weights: by name, float32; shapes (...) as in `checkpoint.weight_shapes`.
        """
        sampler = make_sampler(
            Checkpoint(self.manifest, round_to_float16(weights), self.folder), self.codec
        )
        noise, options = Noise(self.seed), complete_options({}, self.manifest)
        if isinstance(sampler, GenericSampler):
            encoded = sampler.sample_encoded(options, noise, IDS_PER_SAMPLE)
        else:
            encoded = sampler.sample_encoded(options, noise)
        piece: Score | str = self.codec.decode(encoded.ids, encoded.setting).piece
        return piece

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the run."""
        return self.get_manifest()

    @cached_property
    def codec(self) -> AnyCodec:
        """The codec of the model."""
        return restore_codec(self.manifest.codec, self.manifest.vocabulary, self.manifest.name)

    def close(self) -> None:
        """Do nothing: each file is already complete."""


def write_piece(piece: Score | str, path: Path) -> None:
    """Write a tune or a text, replacing an existing file."""
    if isinstance(piece, str):
        write_atomically(path, f"{piece}\n".encode(), force=True)
    else:
        formats.write(piece, path, force=True)


# The loss curve


@dataclass
class LossCurve:
    """Draws the losses after evaluations, at most once per minute, and at the end."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    drawn_at: float = field(init=False)  # seconds of the clock; at first, the start of the run
    is_stale: bool = False
    label: ClassVar[str] = "loss curve"

    def __post_init__(self) -> None:
        self.drawn_at = self.clock()

    def __call__(self, progress: Progress) -> None:
        """Draw if there is a new score and the picture is older than REDRAW_SECONDS."""
        self.is_stale = True
        is_evaluated = progress.held_out_score is not None or progress.is_best
        if is_evaluated and self.clock() - self.drawn_at >= REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw the curve from metrics.jsonl."""
        draw_losses(self.folder)
        self.drawn_at, self.is_stale = self.clock(), False

    def close(self) -> None:
        """Draw the final curve, unless the run was removed."""
        if self.is_stale and (self.folder / METRICS).exists():
            self.draw()


def draw_losses(folder: Path) -> Path:
    """Draw the loss curve of a run from its metrics.jsonl, and return the path of the picture."""
    from musicgen.render.plots import plot_loss_curves  # matplotlib takes a second to import

    rows = read_metrics(folder)
    picture = plot_loss_curves(
        make_loss_lines(rows), title=f"Loss of {folder.name}", share_lines=make_form_lines(rows)
    )
    write_atomically(folder / CURVE_FILE, picture.to_png(), force=True)
    return folder / CURVE_FILE


def make_loss_lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Return the curves of a run: training loss, raw and smoothed, held-out loss, and its best."""
    from musicgen.render.plots import Line

    tokens, losses = _select_column(rows, "loss")
    lines = [
        Line("each update", tokens, losses, faint=True),
        Line("training, smoothed", tokens, smooth(losses)),
    ]
    held_tokens, held_losses = _select_column(rows, "held_loss")
    if not len(held_losses):
        return lines
    return [
        *lines,
        Line("held-out", held_tokens, held_losses),
        _mark_best(held_tokens, held_losses, smooth(losses)),
    ]


def _mark_best(tokens: FloatArray, held_losses: FloatArray, losses: FloatArray) -> Line:
    """Return a vertical line from the best held-out loss to below all curves."""
    from musicgen.render.plots import Line

    best, all_losses = int(np.argmin(held_losses)), np.concatenate([held_losses, losses])
    floor = all_losses.min() - MARKER_MARGIN * max(float(np.ptp(all_losses)), MARKER_MARGIN)
    return Line(f"best, {held_losses[best]:.3f}", [tokens[best]] * 2, [held_losses[best], floor])


def make_form_lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    """Return the curves of the form of sampled tunes, as shares; none if the run has no figures."""
    from musicgen.render.plots import Line

    forms = [{**row["form"], "tokens": row["tokens"]} for row in rows if "form" in row]
    labels = {figure.key: figure.label for figure in FORM_FIGURES}
    curves = {key: _select_column(forms, key) for key in DRAWN_FIGURES}
    return [Line(labels[key], *curve) for key, curve in curves.items() if len(curve[0])]


def smooth(values: FloatArray) -> FloatArray:
    """Return the centred moving average of values, narrower at the ends.

    Args:
        values: (n,) float64.

    Returns:
        (n,) float64.
    """
    reach = int(len(values) * SMOOTHING_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    indices = np.arange(len(values))
    first, last = np.maximum(indices - reach, 0), np.minimum(indices + reach + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _select_column(rows: Iterable[dict[str, Any]], name: str) -> tuple[FloatArray, FloatArray]:
    values = [(row["tokens"], row[name]) for row in rows if name in row and "tokens" in row]
    pairs = np.array(values, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


# TensorBoard


@dataclass
class TensorBoardWriter:
    """Logs the metrics of a run for TensorBoard."""

    folder: Path
    unit: str = "note"
    writer: SummaryWriter | None = field(default=None, init=False)
    label: ClassVar[str] = "TensorBoard"

    def __call__(self, progress: Progress) -> None:
        """Log every TENSORBOARD_INTERVAL-th update and each evaluation."""
        if progress.step % TENSORBOARD_INTERVAL and progress.held_out_score is None:
            return
        for name, value in self.collect_points(progress).items():
            self.open_writer(progress.step).add_scalar(name, value, progress.step)

    def collect_points(self, progress: Progress) -> dict[str, float]:
        """Return the values of an update, by curve."""
        points = {
            "loss/training": progress.loss,
            "gradient/norm": progress.gradient_norm,
            "gradient/clipped": progress.clipped_share,
            "learning_rate": progress.learning_rate,
            "speed/tokens_a_second": progress.tokens_per_second,
            "memory/bytes": float(progress.memory_bytes),
        }
        if progress.held_out_score is not None:
            points["loss/held_out"] = progress.held_out_score.loss
            points[f"bits_a_{self.unit}/held_out"] = progress.held_out_score.bits_per_note
        return points

    def open_writer(self, step: int) -> SummaryWriter:
        """Open the log at the first point, and purge later points of an interrupted run."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        return self.writer

    def close(self) -> None:
        """Flush the log."""
        if self.writer is not None:
            self.writer.close()
