"""The ladder measured: every rung learns from the same tunes on the same budget.

    comparison = Comparison(dataset, Options(minutes=24))
    for told in comparison.run():
        print(told.rung, told.doing)
    comparison.results    # a Result for each rung, from the lowest

Minutes become ids to learn from once, at the start, by each rung's measured speed, and those are
recorded: the same numbers of ids give the same figures again. Held-out tunes are scored along the
way and the recurrent cells looked into; the test tunes are read once, when all else is done.
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
    ComparedModel,
    ComparedNetwork,
    ComparedNgram,
    CurvePoint,
    TrainingBudget,
    sample_evenly,
)
from musicgen.compare.diagnostics import (
    GradientDecay,
    GradientNorms,
    HalfLives,
    compute_gradient_decay,
    compute_half_lives,
)
from musicgen.config import CELLS
from musicgen.corpus.store import Dataset, count_tokens, get_id_arrays
from musicgen.errors import InvalidValue
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.tokens.registry import find_codec
from musicgen.training.heldout_loss import HeldOutScore

BASELINES: Final = (
    f"window-{SMALL_WINDOW}",
    "bag",
    f"window-{LARGE_WINDOW}",
    NGRAM,
)  # then the cells
COMPARED_CELLS: Final = ("rnn", "irnn", "gru", "lstm")
GATED_CELLS: Final = ("gru", "lstm")
TOKENS_PER_EVALUATION: Final = 100_000  # learnt from between two scores along the way
MAX_EVALUATIONS: Final = 10
MAX_GRADIENT_DISTANCE: Final = 200  # ids back that a gradient is followed
GRADIENT_POSITIONS: Final = 48
GATE_TUNES: Final = 32  # whose gates are averaged
BAR_START_EVENTS: Final = ("bar", "|")  # the events that start bars, in codecs that have them


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """What a user may choose."""

    minutes: float = 24.0  # for learning, in all, shared out evenly
    tokens: int | None = None  # for each rung, instead of minutes
    cells: tuple[str, ...] = COMPARED_CELLS
    parameters: int = 500_000  # of each network, as near as a width comes to it
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
    """What goes on at this moment."""

    model_name: str
    activity: str
    fraction_done: float  # share of the rung's budget
    point: CurvePoint | None = None


@dataclass(frozen=True)
class ModelResult:
    """What was measured of one rung."""

    name: str
    title: str
    cell: str | None  # of a recurrent network
    clip: float | None  # largest norm of a gradient; None: as it comes
    parameters: int
    width: int  # hidden units; of the n-gram, the length of its grams
    planned_tokens: int  # ids to learn from
    points: tuple[CurvePoint, ...]
    valid: HeldOutScore
    fault: str = ""
    test: HeldOutScore | None = None
    decay_before_training: GradientDecay | None = None  # before training
    decay_after_training: GradientDecay | None = None  # after training
    half_lives: HalfLives | None = None

    @property
    def tokens(self) -> int:
        """How many ids it learnt from."""
        return self.points[-1].tokens if self.points else 0

    @property
    def seconds(self) -> float:
        """How long it learnt, evaluations left out."""
        return self.points[-1].seconds if self.points else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def scored_points(self) -> tuple[tuple[CurvePoint, HeldOutScore], ...]:
        """The points at which held-out tunes were scored."""
        return tuple(
            (point, point.held_out_score)
            for point in self.points
            if point.held_out_score is not None
        )

    @cached_property
    def gradient_norms(self) -> np.ndarray:
        """The gradient's norm at each update; infinite at last where the training broke down."""
        found = [point.gradient_norm for point in self.points if point.gradient_norm is not None]
        return np.array([*found, np.inf] if self.fault else found)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
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
                    "nats_per_token": round(held.loss, 5),
                    "bits_per_note": round(held.bits_per_note, 5),
                }
                for point, held in self.scored_points
                if is_finite_score(held)
            ],
            "fault": self.fault or None,
        }


def score_to_json(score: HeldOutScore) -> dict[str, Any] | None:
    """Return a score as plain values; None where it is no number."""
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
    """Tell whether a score is one: a network that has blown up says infinite nats."""
    return bool(np.isfinite(score.nats).all())


def confidence_interval(score: HeldOutScore) -> tuple[float, float]:
    """Return the 95 % interval of bits a note, the same each time."""
    if not is_finite_score(score):
        return math.inf, math.inf
    return score.bootstrap_interval(np.random.default_rng(0))


@dataclass
class Comparison:
    """A comparison under way."""

    dataset: Dataset
    options: ComparisonOptions = field(default_factory=ComparisonOptions)
    results: list[ModelResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.dataset.train or not self.dataset.valid:
            raise InvalidValue(
                f"{', '.join(self.dataset.sources) or 'the corpus'}: {len(self.dataset)} tunes are"
                " too few to hold any out, and rungs are compared by tunes that none has learnt"
                " from; name more tunes, or a corpus such as dance-tunes"
            )
        self.device = choose_device(self.options.device)
        self.budgets: dict[str, int] = {}

    @property
    def unit(self) -> str:
        """What bits are counted by: a text has no notes."""
        return find_codec(self.dataset.codec).unit

    def list_model_names(self) -> list[str]:
        """Name all that learns, in the order of the ladder; what is not clipped comes last."""
        cells = [cell for cell in COMPARED_CELLS if cell in self.options.cells]
        return [*BASELINES, *cells, *(f"{cell}{UNCLIPPED_SUFFIX}" for cell in cells)]

    def make_model(self, name: str) -> ComparedModel:
        """Make one rung, untrained."""
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
        """Measure speeds, let every rung learn, look into it, and last read the test tunes."""
        yield from self.allocate_budgets()
        rungs: list[ComparedModel] = []
        for name in self.list_model_names():
            rung = self.make_model(name)
            yield from self.train_and_measure(rung)
            rungs.append(rung)
        if self.dataset.test:
            for number, rung in enumerate(rungs):
                yield ComparisonProgress(rung.name, "scoring the test tunes", 1.0)
                test = rung.score(self.dataset.test)
                self.results[number] = replace(self.results[number], test=test)

    def allocate_budgets(self) -> Iterator[ComparisonProgress]:
        """Turn the minutes into ids for each rung, by its speed; a rung not clipped has as many."""
        names = [name for name in self.list_model_names() if name != NGRAM]
        seconds = 60 * self.options.minutes / len(names)
        for name in names:
            kind = name.removesuffix(UNCLIPPED_SUFFIX)
            if self.options.tokens is not None:
                self.budgets[name] = self.options.tokens
            elif kind in self.budgets:
                self.budgets[name] = self.budgets[kind]
            else:
                yield ComparisonProgress(name, "measuring its speed", 0.0)
                rung = self.make_model(name)
                assert isinstance(rung, ComparedNetwork)
                rate = rung.measure_tokens_per_second(seconds / 10)
                self.budgets[name] = max(LANES * BPTT, int(rate * seconds))
        self.budgets[NGRAM] = count_tokens(self.dataset.train)

    def train_and_measure(self, model: ComparedModel) -> Iterator[ComparisonProgress]:
        """Let one rung learn, score it and look into it."""
        planned = self.budgets[model.name]
        budget = TrainingBudget(
            planned, max(2, min(MAX_EVALUATIONS, planned // TOKENS_PER_EVALUATION))
        )
        fresh = None
        if isinstance(model, ComparedNetwork) and model.cell and model.clip < CLIPPING_OFF:
            yield ComparisonProgress(model.name, "following gradients back, before training", 0.0)
            fresh = self.measure_gradient_decay(model)
        points = []
        for point in model.train(budget):
            points.append(point)
            yield ComparisonProgress(
                model.name, "learning", min(1.0, point.tokens / planned), point
            )
        yield ComparisonProgress(model.name, "scoring held-out tunes, looking inside", 1.0)
        self.results.append(self.measure_model(model, points, fresh))

    def measure_model(
        self,
        model: ComparedModel,
        points: Sequence[CurvePoint],
        decay_before_training: GradientDecay | None,
    ) -> ModelResult:
        """Score a trained rung on the held-out tunes; look into a recurrent cell."""
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
        """Follow gradients back through a cell, on held-out tunes."""
        assert isinstance(network.model, LanguageModel)
        chance = np.random.default_rng(self.options.seed)
        return compute_gradient_decay(
            network.model,
            get_id_arrays(self.dataset.valid),
            chance,
            max_distance=MAX_GRADIENT_DISTANCE,
            positions=GRADIENT_POSITIONS,
        )

    def measure_half_lives(self, network: ComparedNetwork) -> HalfLives:
        """Measure how long the units of a gated cell remember."""
        assert isinstance(network.model, LanguageModel)
        names = self.dataset.vocabulary
        bars = [names.index(name) for name in BAR_START_EVENTS if name in names]
        tunes = sample_evenly(self.dataset.valid, GATE_TUNES)
        return compute_half_lives(network.model, get_id_arrays(tunes), bars)

    def to_json(self) -> dict[str, Any]:
        """Return the whole comparison as plain values."""
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
        """Return, for each cell, the norms of its two runs, with clipping and without."""
        by_name = {result.name: result for result in self.results}
        pairs = {
            cell: (by_name[cell], by_name[f"{cell}{UNCLIPPED_SUFFIX}"])
            for cell in COMPARED_CELLS
            if f"{cell}{UNCLIPPED_SUFFIX}" in by_name
        }
        return {
            cell: GradientNorms(CLIP, clipped.gradient_norms, free.gradient_norms)
            for cell, (clipped, free) in pairs.items()
        }
