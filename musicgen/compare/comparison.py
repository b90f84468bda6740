"""Compare the models of the lecture, the "ladder", on the same tunes with the same budget.

    comparison = Comparison(dataset, ComparisonOptions(minutes=24))
    for progress in comparison.run():
        print(progress.model_name, progress.activity)
    comparison.results    # a ModelResult for each model

A time budget is converted to training tokens once, at the start, by the measured speed of each
model; the same numbers of tokens reproduce the same results. Validation tunes are scored during
training, and recurrent cells are diagnosed; the test tunes are read once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from musicgen.compare.baselines import (
    BPTT,
    CLIP,
    CLIPPING_OFF,
    LANES,
    LARGE_WINDOW,
    NGRAM,
    SMALL_WINDOW,
    UNCLIPPED_SUFFIX,
    WITH_CONTEXT,
    ComparedModel,
    ComparedNetwork,
    ComparedNgram,
    CurvePoint,
    TrainingBudget,
    sample_evenly,
)
from musicgen.compare.diagnostics import (
    GATED_CELLS,
    GradientDecay,
    GradientNorms,
    HalfLives,
    compute_gradient_decay,
    compute_half_lives,
)
from musicgen.config import CELLS
from musicgen.corpus.store import Dataset, count_tokens, get_id_arrays
from musicgen.errors import InvalidValue
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.music.arrays import FloatArray
from musicgen.tokens.registry import find_codec

BASELINES: Final = (f"window-{SMALL_WINDOW}", "bag", f"window-{LARGE_WINDOW}", NGRAM)
COMPARED_CELLS: Final = ("rnn", "irnn", "gru", "lstm")
TOKENS_PER_EVALUATION: Final = 100_000  # training tokens between evaluations
MAX_EVALUATIONS: Final = 10
MAX_GRADIENT_DISTANCE: Final = 200  # ids
GRADIENT_POSITIONS: Final = 48  # losses whose gradients are followed back
GATE_TUNES: Final = 32  # tunes over which gates are averaged
BAR_START_EVENTS: Final = ("bar", "|")  # the events that start bars, in codecs that have them


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """Options of the user."""

    minutes: float = 24.0  # training time of all models together
    tokens: int | None = None  # training tokens per model, instead of minutes
    cells: tuple[str, ...] = COMPARED_CELLS
    parameters: int = 500_000  # weights of each network, approximately
    seed: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        unknown = [cell for cell in self.cells if cell not in CELLS]
        if unknown:
            raise InvalidValue(f"cell {unknown[0]!r} is unknown: choose of {', '.join(CELLS)}")
        if not self.minutes > 0:
            raise InvalidValue(f"minutes is {self.minutes}: it must be above 0")


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """The current activity of a comparison."""

    model_name: str
    activity: str
    fraction_done: float  # of the budget of the model, 0 to 1
    point: CurvePoint | None = None


@dataclass(frozen=True)
class ModelResult:
    """The measurements of one model."""

    name: str
    title: str
    cell: str | None  # of a recurrent network
    clip: float | None  # largest norm of a gradient; None without clipping
    parameters: int
    width: int  # hidden units, or ids per gram of the n-gram
    planned_tokens: int
    points: tuple[CurvePoint, ...]
    valid: HeldOutScore
    fault: str = ""
    test: HeldOutScore | None = None
    decay_before_training: GradientDecay | None = None
    decay_after_training: GradientDecay | None = None
    half_lives: HalfLives | None = None

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return self.points[-1].tokens if self.points else 0

    @property
    def seconds(self) -> float:
        """Training time in seconds, without evaluations."""
        return self.points[-1].seconds if self.points else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Training speed in tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def scored_points(self) -> tuple[tuple[CurvePoint, HeldOutScore], ...]:
        """The points with a held-out score, and their scores."""
        return tuple(
            (point, point.held_out_score)
            for point in self.points
            if point.held_out_score is not None
        )

    @cached_property
    def gradient_norms(self) -> FloatArray:
        """The gradient norm of each update, (update,) float64; the last is inf after divergence."""
        norms = [point.gradient_norm for point in self.points if point.gradient_norm is not None]
        return np.array([*norms, np.inf] if self.fault else norms)

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return {
            "rung": self.name,
            "title": self.title,
            "parameters": self.parameters,
            "width": self.width,
            "clip": self.clip,
            "planned_tokens": self.planned_tokens,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_a_second": round(self.tokens_per_second, 1),
            "valid": score_to_json(self.valid),
            "test": score_to_json(self.test) if self.test else None,
            "curve": [
                {
                    "tokens": point.tokens,
                    "seconds": round(point.seconds, 3),
                    "nats_per_token": round(score.loss, 5),
                    "bits_per_note": round(score.bits_per_note, 5),
                }
                for point, score in self.scored_points
                if is_finite_score(score)
            ],
            "fault": self.fault or None,
        }


def score_to_json(score: HeldOutScore) -> dict[str, Any] | None:
    """Return a score as JSON values; None if it is not finite."""
    if not is_finite_score(score):
        return None
    low, high = confidence_interval(score)
    return {
        "bits_per_note": round(score.bits_per_note, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "nats_per_token": round(score.loss, 5),
        "tunes": len(score.nats),
    }


def is_finite_score(score: HeldOutScore) -> bool:
    """Tell whether a score is finite, which it is not after divergence."""
    return bool(np.isfinite(score.nats).all())


def confidence_interval(score: HeldOutScore) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of bits per note, with a fixed seed."""
    if not is_finite_score(score):
        return math.inf, math.inf
    return score.bootstrap_interval(np.random.default_rng(0))


@dataclass
class Comparison:
    """A comparison of models on one data set.

    Raises:
        InvalidValue: the data set has no training or no validation tunes.
    """

    dataset: Dataset
    options: ComparisonOptions = field(default_factory=ComparisonOptions)
    results: list[ModelResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.dataset.train or not self.dataset.valid:
            raise InvalidValue(
                f"{', '.join(self.dataset.sources) or 'the corpus'}: {len(self.dataset)} tunes are"
                " too few to hold any out, and models are compared on held-out tunes; name more"
                " tunes, or a corpus such as dance-tunes"
            )
        self.device = choose_device(self.options.device)
        self.budgets: dict[str, int] = {}

    @property
    def unit(self) -> str:
        """What bits are counted by: a text has no notes."""
        return find_codec(self.dataset.codec).unit

    def list_model_names(self) -> list[str]:
        """Return the names of all models in order; those without clipping come last."""
        cells = [cell for cell in COMPARED_CELLS if cell in self.options.cells]
        has_bars = "lstm" in cells and find_codec(self.dataset.codec).has_bars
        shown_more = WITH_CONTEXT if has_bars else ()
        return [*BASELINES, *cells, *shown_more, *(f"{cell}{UNCLIPPED_SUFFIX}" for cell in cells)]

    def make_model(self, name: str) -> ComparedModel:
        """Make an untrained model."""
        if name == NGRAM:
            return ComparedNgram(self.dataset)
        return ComparedNetwork(
            name.removesuffix(UNCLIPPED_SUFFIX),
            self.dataset,
            self.options.parameters,
            seed=self.options.seed,
            clip=CLIPPING_OFF if name.endswith(UNCLIPPED_SUFFIX) else CLIP,
            device=self.device,
        )

    def run(self) -> Iterator[ComparisonProgress]:
        """Measure speeds, train and diagnose every model, and finally score the test tunes."""
        yield from self.allocate_budgets()
        models: list[ComparedModel] = []
        for name in self.list_model_names():
            model = self.make_model(name)
            yield from self.train_and_measure(model)
            models.append(model)
        if self.dataset.test:
            for number, model in enumerate(models):
                yield ComparisonProgress(model.name, "scoring the test tunes", 1.0)
                test = model.score(self.dataset.test)
                self.results[number] = replace(self.results[number], test=test)

    def allocate_budgets(self) -> Iterator[ComparisonProgress]:
        """Convert minutes to tokens per model by its speed; runs without clipping get the same."""
        names = [name for name in self.list_model_names() if name != NGRAM]
        seconds = 60 * self.options.minutes / len(names)
        for name in names:
            clipped_name = name.removesuffix(UNCLIPPED_SUFFIX)
            if self.options.tokens is not None:
                self.budgets[name] = self.options.tokens
            elif clipped_name in self.budgets:
                self.budgets[name] = self.budgets[clipped_name]
            else:
                yield ComparisonProgress(name, "measuring its speed", 0.0)
                model = self.make_model(name)
                assert isinstance(model, ComparedNetwork)
                tokens_per_second = model.measure_tokens_per_second(seconds / 10)
                self.budgets[name] = max(LANES * BPTT, int(tokens_per_second * seconds))
        self.budgets[NGRAM] = count_tokens(self.dataset.train)

    def train_and_measure(self, model: ComparedModel) -> Iterator[ComparisonProgress]:
        """Train one model, score and diagnose it."""
        planned = self.budgets[model.name]
        budget = TrainingBudget(
            planned, max(2, min(MAX_EVALUATIONS, planned // TOKENS_PER_EVALUATION))
        )
        initial_decay = None
        if isinstance(model, ComparedNetwork) and model.cell and model.clip < CLIPPING_OFF:
            yield ComparisonProgress(model.name, "following gradients back, before training", 0.0)
            initial_decay = self.measure_gradient_decay(model)
        points = []
        for point in model.train(budget):
            points.append(point)
            yield ComparisonProgress(
                model.name, "learning", min(1.0, point.tokens / planned), point
            )
        yield ComparisonProgress(model.name, "scoring held-out tunes, diagnosing", 1.0)
        self.results.append(self.measure_model(model, points, initial_decay))

    def measure_model(
        self,
        model: ComparedModel,
        points: Sequence[CurvePoint],
        decay_before_training: GradientDecay | None,
    ) -> ModelResult:
        """Score a trained model on the validation tunes; diagnose a recurrent cell."""
        network = model if isinstance(model, ComparedNetwork) else None
        cell = network.cell if network else None
        return ModelResult(
            name=model.name,
            title=model.title,
            cell=cell,
            clip=network.clip if network and network.clip < CLIPPING_OFF else None,
            parameters=model.parameters,
            width=model.width,
            planned_tokens=self.budgets[model.name],
            points=tuple(points),
            valid=model.score(self.dataset.valid),
            fault=model.fault,
            decay_before_training=decay_before_training,
            decay_after_training=self.measure_gradient_decay(network) if network and cell else None,
            half_lives=self.measure_half_lives(network)
            if network and cell in GATED_CELLS
            else None,
        )

    def measure_gradient_decay(self, network: ComparedNetwork) -> GradientDecay:
        """Measure the gradient decay of a cell on the validation tunes."""
        assert isinstance(network.model, LanguageModel)
        generator = np.random.default_rng(self.options.seed)
        return compute_gradient_decay(
            network.model,
            get_id_arrays(self.dataset.valid),
            generator,
            max_distance=MAX_GRADIENT_DISTANCE,
            positions=GRADIENT_POSITIONS,
        )

    def measure_half_lives(self, network: ComparedNetwork) -> HalfLives:
        """Measure the half-lives of the units of a gated cell on validation tunes."""
        assert isinstance(network.model, LanguageModel)
        vocabulary = self.dataset.vocabulary
        bar_ids = [vocabulary.index(name) for name in BAR_START_EVENTS if name in vocabulary]
        tunes = sample_evenly(self.dataset.valid, GATE_TUNES)
        return compute_half_lives(network.model, get_id_arrays(tunes), bar_ids)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "sources": list(self.dataset.sources),
            "fingerprint": self.dataset.fingerprint,
            "tunes": {
                part: len(getattr(self.dataset, part)) for part in ("train", "valid", "test")
            },
            "minutes": None if self.options.tokens else self.options.minutes,
            "seed": self.options.seed,
            "device": str(self.device),
            "rungs": [result.to_json() for result in self.results],
        }

    def pair_gradient_norms(self) -> dict[str, GradientNorms]:
        """Return the gradient norms of each cell's runs, with and without clipping."""
        by_name = {result.name: result for result in self.results}
        pairs = {
            cell: (by_name[cell], by_name[f"{cell}{UNCLIPPED_SUFFIX}"])
            for cell in COMPARED_CELLS
            if f"{cell}{UNCLIPPED_SUFFIX}" in by_name
        }
        return {
            cell: GradientNorms(CLIP, clipped.gradient_norms, unclipped.gradient_norms)
            for cell, (clipped, unclipped) in pairs.items()
        }
