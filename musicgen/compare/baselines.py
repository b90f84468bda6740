"""The models of the comparison behind one interface: fixed window, bag of words, n-gram, recurrent.

    rung = NetworkRung("lstm", dataset, parameters=500_000)
    for point in rung.train(Budget(tokens=1_000_000)):
        print(point.tokens, point.loss)
    rung.score(dataset.valid).bits_per_note

All predict every id of a tune from the ids before it; they differ in their context:

- `Window` sees the last k ids, each at its position, and nothing earlier (Bengio et al., 2003);
- `Bag` sees how often each id has occurred in the tune, but not when.

Both keep their context as a state, as a recurrent network does, so that a tune may be read in
windows of any size and two tunes may share a lane. The networks read the same windows of the same
tunes in the same order, have about as many weights, and differ otherwise only in their peak
learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN, CELLS, ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, flat_ids
from musicgen.errors import InvalidValue
from musicgen.model.devices import send
from musicgen.model.network import LanguageModel, Masks, SequenceModel, State, Storable, keep
from musicgen.training.heldout_loss import Held, evaluate, evaluate_by
from musicgen.training.ngram import KneserNey
from musicgen.training.plan import notes_of
from musicgen.training.trainer import Diverged, Trainer, levelled

PLACE: Final = 32  # width of an id's embedding in a window


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a rung without recurrence."""

    vocabulary_size: int
    hidden: int
    reach: int = 1  # ids that a window sees
    dropout: float = 0.0


class FeedForward(Storable):
    """Two hidden layers and a head over what is known at each place of the past."""

    def __init__(
        self, shape: Shape, features: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.settings = shape
        self.first = nn.Linear(features, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.head = nn.Linear(shape.hidden, shape.vocabulary_size)
        for linear in (self.first, self.second, self.head):
            nn.init.normal_(linear.weight, 0, linear.in_features**-0.5, generator)
            nn.init.zeros_(linear.bias)

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""
        return self.head.bias.device

    def features(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return what is known at each place, (lane, window, features), and the state after it."""
        raise NotImplementedError

    def start(self, lanes: int) -> State:
        """Return the state before a tune."""
        raise NotImplementedError

    def draw_masks(self, lanes: int, generator: torch.Generator | None = None) -> Masks | None:
        """Draw which units of the second hidden layer a window leaves out."""
        if not self.settings.dropout:
            return None
        unit = self.head.bias.new_empty(lanes, self.settings.hidden)
        return Masks(None, (keep(unit, self.settings.dropout, generator),), ())

    def forward(
        self, ids: Tensor, state: State | None = None, masks: Masks | None = None
    ) -> tuple[Tensor, State]:
        """Return logits (lane, window, vocabulary) and the state after the last id."""
        known, after = self.features(send(ids, self.device), state or self.start(len(ids)))
        hidden = self.second(self.first(known).relu()).relu()
        if masks is not None:
            hidden = hidden * masks.outputs[0].unsqueeze(1)
        logits: Tensor = self.head(hidden)
        return logits, after


class Window(FeedForward):
    """The last k ids, embedded and laid side by side: each place has weights of its own.

    The state is the last k - 1 ids of the tune so far; begin events stand before it.
    """

    def __init__(self, shape: Shape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape, shape.reach * PLACE, generator)
        self.embedding = nn.Embedding(shape.vocabulary_size, PLACE)
        nn.init.normal_(self.embedding.weight, 0, 1, generator)

    def start(self, lanes: int) -> State:
        """Return begin events."""
        shape = lanes, self.settings.reach - 1
        return ((torch.full(shape, BEGIN, device=self.device),),)

    def features(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the embeddings of the last k ids, (lane, window, k x PLACE)."""
        line = torch.cat([state[0][0], ids], 1)
        tune = number_tunes(line)
        rows = line.unfold(1, self.settings.reach, 1)  # (lane, window, k)
        same = tune.unfold(1, self.settings.reach, 1) == tune[:, -ids.shape[1] :].unsqueeze(2)
        seen = rows.where(same, BEGIN)
        return self.embedding(seen).flatten(2), ((seen[:, -1, 1:],),)


class Bag(FeedForward):
    """The counts of all ids of the tune so far, on a log scale: their order is lost.

    The state is the counts.
    """

    def __init__(self, shape: Shape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape, shape.vocabulary_size, generator)

    def start(self, lanes: int) -> State:
        """Return counts of zero, (lane, vocabulary)."""
        return ((self.head.bias.new_zeros(lanes, self.settings.vocabulary_size),),)

    def features(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return log(1 + count) of each id, (lane, window, vocabulary)."""
        with torch.autocast(ids.device.type, enabled=False):  # in bf16, 256 + 1 is 256
            counts = self.counts(ids, state[0][0])
            return counts.log1p(), ((counts[:, -1],),)

    def counts(self, ids: Tensor, before: Tensor) -> Tensor:
        """Count what stands in the same tune at or before each place."""
        tune = number_tunes(ids)
        counted = (tune.unsqueeze(2) == tune.unsqueeze(1)).tril().to(before)  # (lane, at, id)
        ones = functional.one_hot(ids, self.settings.vocabulary_size).to(before)
        carried = (tune == 0).unsqueeze(2) * before.unsqueeze(1)
        return torch.baddbmm(carried, counted, ones)


def number_tunes(ids: Tensor) -> Tensor:
    """Number the tunes of each lane: 0 for what goes on, one more at each begin event."""
    return (ids == BEGIN).cumsum(1)


def count_parameters(model: SequenceModel) -> int:
    """Count the weights that are learnt."""
    return sum(weight.numel() for weight in model.parameters())


def choose_width(make: Callable[[int], SequenceModel], parameters: int) -> int:
    """Return the hidden width, a multiple of 4, at which a model comes nearest to `parameters`."""

    def count(quads: int) -> int:
        with torch.device("meta"):  # shapes alone
            return count_parameters(make(4 * quads))

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return 4 * min(low, high, key=lambda quads: abs(count(quads) - parameters))


SMALL: Final = 4  # ids that the two windows see
LARGE: Final = 64
NGRAM: Final = "n-gram"
LONGEST: Final = 12  # grams; fewer where they do not fit an integer
FREE: Final = " unclipped"  # ends the names of runs whose gradients are left as they come
LANES: Final = 32
BPTT: Final = 64
FIRST_BPTT: Final = 8
UPDATES_AN_EPOCH: Final = 20  # at the least: a small corpus gets fewer lanes
DROPOUT: Final = 0.1  # little: each id is learnt from a few times at most
CURVE_TUNES: Final = 100  # held-out tunes that are scored along the way
PROBE_SECONDS: Final = 1.5
CLIP: Final = 1.0
NEVER: Final = 1e30  # a norm that no gradient reaches: clipping is off

Make = Callable[[int, int, torch.Generator | None], SequenceModel]  # vocabulary, hidden, chance


@dataclass(frozen=True, slots=True)
class Kind:
    """A rung that is a network: what it is, how it is made, what training it takes."""

    title: str
    make: Make
    learning_rate: float


def _window(reach: int) -> Make:
    return lambda size, hidden, chance: Window(Shape(size, hidden, reach, DROPOUT), chance)


def _bag(size: int, hidden: int, chance: torch.Generator | None) -> SequenceModel:
    return Bag(Shape(size, hidden, dropout=DROPOUT), chance)


def _cell(cell: str) -> Make:
    def make(size: int, hidden: int, chance: torch.Generator | None) -> SequenceModel:
        shape = ModelSettings(
            vocabulary_size=size,
            cell=cell,
            layers=1,
            hidden=hidden,
            embedding=hidden,
            dropout=DROPOUT,
            embedding_dropout=0.0,
        )
        return LanguageModel(shape, chance)

    return make


NETWORKS: Final = {
    f"window-{SMALL}": Kind(f"fixed window: the last {SMALL} ids", _window(SMALL), 2e-3),
    "bag": Kind("bag of words: all ids before, without their order", _bag, 2e-3),
    f"window-{LARGE}": Kind(f"large window: the last {LARGE} ids", _window(LARGE), 2e-3),
    "rnn": Kind("recurrent cell, tanh", _cell("rnn"), 1e-3),
    "irnn": Kind("recurrent cell, ReLU, the identity to begin with", _cell("irnn"), 2e-4),
    "gru": Kind("gated recurrent unit", _cell("gru"), 3e-3),
    "lstm": Kind("long short-term memory", _cell("lstm"), 3e-3),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """What a rung may spend."""

    tokens: int  # ids to learn from; the n-gram counts each once, whatever this says
    evaluations: int = 12


@dataclass(frozen=True, slots=True)
class Point:
    """Where a rung stands while it learns."""

    tokens: int  # ids learnt from
    seconds: float  # spent on learning; evaluations are left out
    loss: float | None = None  # nats an id of what was just learnt from
    norm: float | None = None  # of the gradient, before clipping
    held: Held | None = None  # on held-out tunes, at intervals


class Rung(Protocol):
    """Anything that learns from tunes and is scored on others."""

    name: str
    title: str
    fault: str  # what ended its training before its time

    @property
    def width(self) -> int:
        """Its hidden units; of the n-gram, the length of its grams."""

    @property
    def parameters(self) -> int:
        """How many numbers it keeps."""

    def train(self, budget: Budget) -> Iterator[Point]:
        """Learn; the rung is then what it was when it did best on held-out tunes."""

    def score(self, tunes: Sequence[EncodedTune]) -> Held:
        """Score whole tunes."""


class NetworkRung:
    """A network, trained with truncated backpropagation through time."""

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        parameters: int,
        *,
        seed: int = 1,
        clip: float = CLIP,
        device: torch.device | None = None,
    ) -> None:
        if name not in NETWORKS:
            raise InvalidValue(f"rung {name!r} is unknown: choose one of {', '.join(NETWORKS)}")
        kind = NETWORKS[name]
        self.make, self.learning_rate = kind.make, kind.learning_rate
        self.name = name if clip < NEVER else f"{name}{FREE}"
        self.title = kind.title
        self.cell = name if name in CELLS else None
        self.dataset, self.seed, self.clip = dataset, seed, clip
        self.device = device or torch.device("cpu")
        self.width = choose_width(self._shaped, parameters)
        self.model = self.fresh()
        self.fault = ""

    def _shaped(self, hidden: int) -> SequenceModel:
        return self.make(self.dataset.vocabulary_size, hidden, None)

    def fresh(self) -> SequenceModel:
        """Make the model as it is before training."""
        chance = torch.Generator().manual_seed(self.seed)
        model = self.make(self.dataset.vocabulary_size, self.width, chance)
        assert isinstance(model, torch.nn.Module)
        return model.to(self.device)

    @property
    def parameters(self) -> int:
        """How many weights are learnt."""
        return count_parameters(self.model)

    def settings(self, budget: Budget) -> TrainingSettings:
        """Say how it is trained."""
        tokens = count_tokens(self.dataset.train)
        return TrainingSettings(
            tokens=budget.tokens,
            lanes=max(1, min(LANES, tokens // (BPTT * UPDATES_AN_EPOCH))),
            bptt=BPTT,
            first_bptt=FIRST_BPTT,
            learning_rate=self.learning_rate,
            clip=self.clip,
            evaluate_every=math.ceil(budget.tokens / budget.evaluations),
            patience=budget.evaluations + 1,  # never spent: equal budgets are spent in full
            seed=self.seed,
        )

    def trainer(self, model: SequenceModel, settings: TrainingSettings) -> Trainer:
        """Make what trains a model on this rung's tunes."""
        sample = spread(self.dataset.valid, CURVE_TUNES)
        train = flat_ids(self.dataset.train)
        return Trainer(model, train, flat_ids(sample), settings, notes_of(sample))

    def tokens_a_second(self, seconds: float = PROBE_SECONDS) -> float:
        """Measure the speed of training, on a model that is thrown away."""
        trainer = self.trainer(self.fresh(), levelled(self.settings(Budget(tokens=10**9))))
        rates: list[float] = []
        until = time.monotonic() + min(seconds, PROBE_SECONDS)
        while len(rates) < 4 or time.monotonic() < until:
            rates.append(trainer.update(trainer.next()).rate)
        return float(np.median(rates[1:]))

    def train(self, budget: Budget) -> Iterator[Point]:
        """Learn from the budget's ids, or until the loss is no number; keep the best weights."""
        trainer = self.trainer(self.model, self.settings(budget))
        trainer.best.weights = self.model.arrays()  # should it diverge before the first score
        tokens, seconds = 0, 0.0
        try:
            for progress in trainer.run():
                seconds += (progress.tokens - tokens) / progress.rate
                tokens = progress.tokens
                yield Point(tokens, seconds, progress.loss, progress.norm, progress.held)
        except Diverged as fault:
            self.fault = str(fault)
        self.model.put(trainer.best.weights)

    def score(self, tunes: Sequence[EncodedTune]) -> Held:
        """Score whole tunes."""
        return evaluate(self.model, flat_ids(tunes), notes_of(tunes))


class NgramRung:
    """The n-gram of the length that does best on held-out tunes; its size is what it is.

    It counts the events that the tunes have, of a vocabulary that is mostly unused, so that longer
    grams fit an integer; those that were never met share what is left for one event, evenly.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.title, self.fault = NGRAM, "interpolated Kneser-Ney", ""
        self.dataset = dataset
        train = flat_ids(dataset.train)
        seen = np.zeros(dataset.vocabulary_size, bool)
        for ids in train:
            seen[ids] = True
        self.unmet = dataset.vocabulary_size - 1 - int(seen.sum())
        self.met = np.where(seen, np.cumsum(seen), seen.sum() + 1)  # 1, 2 ...; then the unmet
        self.tunes = [self.met[ids] for ids in train]
        self.size = int(seen.sum()) + 2
        self.model: KneserNey | None = None

    @property
    def width(self) -> int:
        """The length of its grams."""
        return self._counted().order

    @property
    def parameters(self) -> int:
        """How many grams of all lengths it keeps, each with its count."""
        return sum(len(order.grams) for order in self._counted().orders)

    def _counted(self) -> KneserNey:
        if self.model is None:
            raise InvalidValue("the n-gram has counted nothing yet: train it first")
        return self.model

    def train(self, budget: Budget) -> Iterator[Point]:  # noqa: ARG002 - counting has one price
        """Count longer and longer grams, as long as the held-out loss falls; keep the best."""
        sample = spread(self.dataset.valid, CURVE_TUNES)
        tokens, lowest = sum(map(len, self.tunes)), math.inf
        for length in range(1, LONGEST + 1):
            if self.size**length >= 2**63:
                return
            began, before = time.perf_counter(), self.model
            self.model = KneserNey(self.tunes, self.size, length)
            seconds = time.perf_counter() - began
            held = self.score(sample)
            yield Point(tokens, seconds, held=held)
            if held.loss >= lowest:
                self.model = before
                return
            lowest = held.loss

    def surprise(self, ids: np.ndarray) -> np.ndarray:
        """Return the nats of each id of a tune."""
        met = self.met[ids]
        rare = np.where(met == self.size - 1, math.log(max(1, self.unmet)), 0.0)
        nats: np.ndarray = self._counted().surprise(met) + rare
        return nats

    def score(self, tunes: Sequence[EncodedTune]) -> Held:
        """Score whole tunes."""
        return evaluate_by(self.surprise, flat_ids(tunes), notes_of(tunes))


def spread(tunes: Sequence[EncodedTune], most: int) -> list[EncodedTune]:
    """Return at most so many tunes, evenly from the whole part."""
    return list(tunes[:: max(1, math.ceil(len(tunes) / most))])
