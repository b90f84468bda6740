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
    FREE,
    LANES,
    LARGE,
    NEVER,
    NGRAM,
    SMALL,
    Budget,
    NetworkRung,
    NgramRung,
    Point,
    Rung,
    spread,
)
from musicgen.compare.diagnostics import Fade, HalfLives, Norms, gradient_by_distance, half_lives
from musicgen.config import CELLS
from musicgen.corpus.store import Dataset, count_tokens, flat_ids
from musicgen.errors import InvalidValue
from musicgen.model.devices import choose_device
from musicgen.model.network import LanguageModel
from musicgen.training.heldout_loss import Held

LADDER: Final = (f"window-{SMALL}", "bag", f"window-{LARGE}", NGRAM)  # then the cells
CELLS_CLIMBED: Final = ("rnn", "irnn", "gru", "lstm")
GATED: Final = ("gru", "lstm")
TOKENS_A_SCORE: Final = 100_000  # learnt from between two scores along the way
MOST_SCORES: Final = 10
FURTHEST: Final = 200  # ids back that a gradient is followed
POSITIONS: Final = 48
GATE_TUNES: Final = 32  # whose gates are averaged
BARS_BEGIN: Final = ("bar", "|")  # the events that start bars, in codecs that have them


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose."""

    minutes: float = 24.0  # for learning, in all, shared out evenly
    tokens: int | None = None  # for each rung, instead of minutes
    cells: tuple[str, ...] = CELLS_CLIMBED
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
class Told:
    """What goes on at this moment."""

    rung: str
    doing: str
    done: float  # share of the rung's budget
    point: Point | None = None


@dataclass(frozen=True)
class Result:
    """What was measured of one rung."""

    name: str
    title: str
    cell: str | None  # of a recurrent network
    clip: float | None  # largest norm of a gradient; None: as it comes
    parameters: int
    width: int  # hidden units; of the n-gram, the length of its grams
    planned: int  # ids to learn from
    points: tuple[Point, ...]
    valid: Held
    fault: str = ""
    test: Held | None = None
    fresh: Fade | None = None  # before training
    fade: Fade | None = None  # after training
    memory: HalfLives | None = None

    @property
    def tokens(self) -> int:
        """How many ids it learnt from."""
        return self.points[-1].tokens if self.points else 0

    @property
    def seconds(self) -> float:
        """How long it learnt, evaluations left out."""
        return self.points[-1].seconds if self.points else 0.0

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def scored(self) -> tuple[tuple[Point, Held], ...]:
        """The points at which held-out tunes were scored."""
        return tuple((point, point.held) for point in self.points if point.held is not None)

    @cached_property
    def norms(self) -> np.ndarray:
        """The gradient's norm at each update; infinite at last where the training broke down."""
        found = [point.norm for point in self.points if point.norm is not None]
        return np.array([*found, np.inf] if self.fault else found)

    def table(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "rung": self.name,
            "title": self.title,
            "parameters": self.parameters,
            "width": self.width,
            "clip": self.clip,
            "planned_tokens": self.planned,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "tokens_a_second": round(self.rate, 1),
            "valid": score_table(self.valid),
            "test": score_table(self.test) if self.test else None,
            "curve": [
                {
                    "tokens": point.tokens,
                    "seconds": round(point.seconds, 3),
                    "nats_per_token": round(held.loss, 5),
                    "bits_per_note": round(held.bits_per_note, 5),
                }
                for point, held in self.scored
                if is_number(held)
            ],
            "fault": self.fault or None,
        }


def score_table(held: Held) -> dict[str, Any] | None:
    """Return a score as plain values; None where it is no number."""
    if not is_number(held):
        return None
    low, high = interval(held)
    return {
        "bits_per_note": round(held.bits_per_note, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "nats_per_token": round(held.loss, 5),
        "tunes": len(held.nats),
    }


def is_number(held: Held) -> bool:
    """Tell whether a score is one: a network that has blown up says infinite nats."""
    return bool(np.isfinite(held.nats).all())


def interval(held: Held) -> tuple[float, float]:
    """Return the 95 % interval of bits a note, the same each time."""
    if not is_number(held):
        return math.inf, math.inf
    return held.interval(np.random.default_rng(0))


@dataclass
class Comparison:
    """A comparison under way."""

    dataset: Dataset
    options: Options = field(default_factory=Options)
    results: list[Result] = field(default_factory=list)

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
        return "character" if self.dataset.codec.startswith("text") else "note"

    def names(self) -> list[str]:
        """Name all that learns, in the order of the ladder; what is not clipped comes last."""
        cells = [cell for cell in CELLS_CLIMBED if cell in self.options.cells]
        return [*LADDER, *cells, *(f"{cell}{FREE}" for cell in cells)]

    def make(self, name: str) -> Rung:
        """Make one rung, untrained."""
        if name == NGRAM:
            return NgramRung(self.dataset)
        return NetworkRung(
            name.removesuffix(FREE),
            self.dataset,
            self.options.parameters,
            seed=self.options.seed,
            clip=NEVER if name.endswith(FREE) else CLIP,
            device=self.device,
        )

    def run(self) -> Iterator[Told]:
        """Measure speeds, let every rung learn, look into it, and last read the test tunes."""
        yield from self.share_out()
        rungs: list[Rung] = []
        for name in self.names():
            rung = self.make(name)
            yield from self.climb(rung)
            rungs.append(rung)
        if self.dataset.test:
            for number, rung in enumerate(rungs):
                yield Told(rung.name, "scoring the test tunes", 1.0)
                test = rung.score(self.dataset.test)
                self.results[number] = replace(self.results[number], test=test)

    def share_out(self) -> Iterator[Told]:
        """Turn the minutes into ids for each rung, by its speed; a rung not clipped has as many."""
        names = [name for name in self.names() if name != NGRAM]
        seconds = 60 * self.options.minutes / len(names)
        for name in names:
            kind = name.removesuffix(FREE)
            if self.options.tokens is not None:
                self.budgets[name] = self.options.tokens
            elif kind in self.budgets:
                self.budgets[name] = self.budgets[kind]
            else:
                yield Told(name, "measuring its speed", 0.0)
                rung = self.make(name)
                assert isinstance(rung, NetworkRung)
                rate = rung.tokens_a_second(seconds / 10)
                self.budgets[name] = max(LANES * BPTT, int(rate * seconds))
        self.budgets[NGRAM] = count_tokens(self.dataset.train)

    def climb(self, rung: Rung) -> Iterator[Told]:
        """Let one rung learn, score it and look into it."""
        planned = self.budgets[rung.name]
        budget = Budget(planned, max(2, min(MOST_SCORES, planned // TOKENS_A_SCORE)))
        fresh = None
        if isinstance(rung, NetworkRung) and rung.cell and rung.clip < NEVER:
            yield Told(rung.name, "following gradients back, before training", 0.0)
            fresh = self.fade(rung)
        points = []
        for point in rung.train(budget):
            points.append(point)
            yield Told(rung.name, "learning", min(1.0, point.tokens / planned), point)
        yield Told(rung.name, "scoring held-out tunes, looking inside", 1.0)
        self.results.append(self.measured(rung, points, fresh))

    def measured(self, rung: Rung, points: Sequence[Point], fresh: Fade | None) -> Result:
        """Score a trained rung on the held-out tunes; look into a recurrent cell."""
        network = rung if isinstance(rung, NetworkRung) else None
        cell = network.cell if network else None
        return Result(
            name=rung.name,
            title=rung.title,
            cell=cell,
            clip=network.clip if network and network.clip < NEVER else None,
            parameters=rung.parameters,
            width=rung.width,
            planned=self.budgets[rung.name],
            points=tuple(points),
            valid=rung.score(self.dataset.valid),
            fault=rung.fault,
            fresh=fresh,
            fade=self.fade(network) if network and cell else None,
            memory=self.memory(network) if network and cell in GATED else None,
        )

    def fade(self, rung: NetworkRung) -> Fade:
        """Follow gradients back through a cell, on held-out tunes."""
        assert isinstance(rung.model, LanguageModel)
        chance = np.random.default_rng(self.options.seed)
        return gradient_by_distance(
            rung.model, flat_ids(self.dataset.valid), chance, furthest=FURTHEST, positions=POSITIONS
        )

    def memory(self, rung: NetworkRung) -> HalfLives:
        """Measure how long the units of a gated cell remember."""
        assert isinstance(rung.model, LanguageModel)
        names = self.dataset.vocabulary
        bars = [names.index(name) for name in BARS_BEGIN if name in names]
        tunes = spread(self.dataset.valid, GATE_TUNES)
        return half_lives(rung.model, flat_ids(tunes), bars)

    def table(self) -> dict[str, Any]:
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
            "rungs": [result.table() for result in self.results],
        }

    def clipping(self) -> dict[str, Norms]:
        """Return, for each cell, the norms of its two runs, with clipping and without."""
        by_name = {result.name: result for result in self.results}
        pairs = {
            cell: (by_name[cell], by_name[f"{cell}{FREE}"])
            for cell in CELLS_CLIMBED
            if f"{cell}{FREE}" in by_name
        }
        return {
            cell: Norms(CLIP, clipped.norms, free.norms) for cell, (clipped, free) in pairs.items()
        }
