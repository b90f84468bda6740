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

from musicgen.config import BEGIN_ID, CELLS, ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, get_id_arrays
from musicgen.errors import InvalidValue
from musicgen.model.devices import send
from musicgen.model.network import (
    DropoutMasks,
    LanguageModel,
    RecurrentState,
    SequenceModel,
    SerializableModule,
    draw_dropout_mask,
)
from musicgen.training.heldout_loss import HeldOutScore, evaluate, evaluate_surprisal
from musicgen.training.ngram import KneserNey
from musicgen.training.plan import get_note_counts
from musicgen.training.trainer import Diverged, Trainer, equalize_window_lengths

EMBEDDING_WIDTH: Final = 32  # width of an id's embedding in a window


@dataclass(frozen=True, slots=True)
class FeedForwardSettings:
    """The shape of a rung without recurrence."""

    vocabulary_size: int
    hidden: int
    context_length: int = 1  # ids that a window sees
    dropout: float = 0.0


class FeedForward(SerializableModule):
    """Two hidden layers and a head over what is known at each place of the past."""

    def __init__(
        self,
        shape: FeedForwardSettings,
        feature_count: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = shape
        self.first = nn.Linear(feature_count, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.head = nn.Linear(shape.hidden, shape.vocabulary_size)
        for linear in (self.first, self.second, self.head):
            nn.init.normal_(linear.weight, 0, linear.in_features**-0.5, generator)
            nn.init.zeros_(linear.bias)

    @property
    def device(self) -> torch.device:
        """Where the model is computed."""
        return self.head.bias.device

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return what is known at each place, (lane, window, features), and the state after it."""
        raise NotImplementedError

    def start(self, lanes: int) -> RecurrentState:
        """Return the state before a tune."""
        raise NotImplementedError

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw which units of the second hidden layer a window leaves out."""
        if not self.settings.dropout:
            return None
        unit = self.head.bias.new_empty(lanes, self.settings.hidden)
        return DropoutMasks(None, (draw_dropout_mask(unit, self.settings.dropout, generator),), ())

    def forward(
        self, ids: Tensor, state: RecurrentState | None = None, masks: DropoutMasks | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Return logits (lane, window, vocabulary) and the state after the last id."""
        known, after = self.compute_features(send(ids, self.device), state or self.start(len(ids)))
        hidden = self.second(self.first(known).relu()).relu()
        if masks is not None:
            hidden = hidden * masks.outputs[0].unsqueeze(1)
        logits: Tensor = self.head(hidden)
        return logits, after


class FixedWindow(FeedForward):
    """The last k ids, embedded and laid side by side: each place has weights of its own.

    The state is the last k - 1 ids of the tune so far; begin events stand before it.
    """

    def __init__(
        self, shape: FeedForwardSettings, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(shape, shape.context_length * EMBEDDING_WIDTH, generator)
        self.embedding = nn.Embedding(shape.vocabulary_size, EMBEDDING_WIDTH)
        nn.init.normal_(self.embedding.weight, 0, 1, generator)

    def start(self, lanes: int) -> RecurrentState:
        """Return begin events."""
        shape = lanes, self.settings.context_length - 1
        return ((torch.full(shape, BEGIN_ID, device=self.device),),)

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return the embeddings of the last k ids, (lane, window, k x PLACE)."""
        line = torch.cat([state[0][0], ids], 1)
        tune = number_tunes(line)
        rows = line.unfold(1, self.settings.context_length, 1)  # (lane, window, k)
        same = tune.unfold(1, self.settings.context_length, 1) == tune[
            :, -ids.shape[1] :
        ].unsqueeze(2)
        seen = rows.where(same, BEGIN_ID)
        return self.embedding(seen).flatten(2), ((seen[:, -1, 1:],),)


class BagOfWords(FeedForward):
    """The counts of all ids of the tune so far, on a log scale: their order is lost.

    The state is the counts.
    """

    def __init__(
        self, shape: FeedForwardSettings, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(shape, shape.vocabulary_size, generator)

    def start(self, lanes: int) -> RecurrentState:
        """Return counts of zero, (lane, vocabulary)."""
        return ((self.head.bias.new_zeros(lanes, self.settings.vocabulary_size),),)

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return log(1 + count) of each id, (lane, window, vocabulary)."""
        with torch.autocast(ids.device.type, enabled=False):  # in bf16, 256 + 1 is 256
            counts = self.count_ids(ids, state[0][0])
            return counts.log1p(), ((counts[:, -1],),)

    def count_ids(self, ids: Tensor, previous_counts: Tensor) -> Tensor:
        """Count what stands in the same tune at or before each place."""
        tune = number_tunes(ids)
        counted = (
            (tune.unsqueeze(2) == tune.unsqueeze(1)).tril().to(previous_counts)
        )  # (lane, at, id)
        ones = functional.one_hot(ids, self.settings.vocabulary_size).to(previous_counts)
        carried = (tune == 0).unsqueeze(2) * previous_counts.unsqueeze(1)
        return torch.baddbmm(carried, counted, ones)


def number_tunes(ids: Tensor) -> Tensor:
    """Number the tunes of each lane: 0 for what goes on, one more at each begin event."""
    return (ids == BEGIN_ID).cumsum(1)


def count_parameters(model: SequenceModel) -> int:
    """Count the weights that are learnt."""
    return sum(weight.numel() for weight in model.parameters())


def choose_width(make_model: Callable[[int], SequenceModel], parameters: int) -> int:
    """Return the hidden width, a multiple of 4, at which a model comes nearest to `parameters`."""

    def count(quads: int) -> int:
        with torch.device("meta"):  # shapes alone
            return count_parameters(make_model(4 * quads))

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    return 4 * min(low, high, key=lambda quads: abs(count(quads) - parameters))


SMALL_WINDOW: Final = 4  # ids that the two windows see
LARGE_WINDOW: Final = 64
NGRAM: Final = "n-gram"
MAX_NGRAM_ORDER: Final = 12  # grams; fewer where they do not fit an integer
UNCLIPPED_SUFFIX: Final = (
    " unclipped"  # ends the names of runs whose gradients are left as they come
)
LANES: Final = 32
BPTT: Final = 64
FIRST_BPTT: Final = 8
MIN_UPDATES_PER_EPOCH: Final = 20  # at the least: a small corpus gets fewer lanes
DROPOUT: Final = 0.1  # little: each id is learnt from a few times at most
CURVE_TUNES: Final = 100  # held-out tunes that are scored along the way
PROBE_SECONDS: Final = 1.5
CLIP: Final = 1.0
CLIPPING_OFF: Final = 1e30  # a norm that no gradient reaches: clipping is off

ModelFactory = Callable[
    [int, int, torch.Generator | None], SequenceModel
]  # vocabulary, hidden, chance


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A rung that is a network: what it is, how it is made, what training it takes."""

    title: str
    make_model: ModelFactory
    learning_rate: float


def _window_factory(context_length: int) -> ModelFactory:
    return lambda size, hidden, chance: FixedWindow(
        FeedForwardSettings(size, hidden, context_length, DROPOUT), chance
    )


def _make_bag_of_words(size: int, hidden: int, chance: torch.Generator | None) -> SequenceModel:
    return BagOfWords(FeedForwardSettings(size, hidden, dropout=DROPOUT), chance)


def _cell_factory(cell: str) -> ModelFactory:
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
    f"window-{SMALL_WINDOW}": NetworkSpec(
        f"fixed window: the last {SMALL_WINDOW} ids", _window_factory(SMALL_WINDOW), 2e-3
    ),
    "bag": NetworkSpec(
        "bag of words: all ids before, without their order", _make_bag_of_words, 2e-3
    ),
    f"window-{LARGE_WINDOW}": NetworkSpec(
        f"large window: the last {LARGE_WINDOW} ids", _window_factory(LARGE_WINDOW), 2e-3
    ),
    "rnn": NetworkSpec("recurrent cell, tanh", _cell_factory("rnn"), 1e-3),
    "irnn": NetworkSpec(
        "recurrent cell, ReLU, the identity to begin with", _cell_factory("irnn"), 2e-4
    ),
    "gru": NetworkSpec("gated recurrent unit", _cell_factory("gru"), 3e-3),
    "lstm": NetworkSpec("long short-term memory", _cell_factory("lstm"), 3e-3),
}


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """What a rung may spend."""

    tokens: int  # ids to learn from; the n-gram counts each once, whatever this says
    evaluations: int = 12


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Where a rung stands while it learns."""

    tokens: int  # ids learnt from
    seconds: float  # spent on learning; evaluations are left out
    loss: float | None = None  # nats an id of what was just learnt from
    gradient_norm: float | None = None  # of the gradient, before clipping
    held_out_score: HeldOutScore | None = None  # on held-out tunes, at intervals


class ComparedModel(Protocol):
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

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:
        """Learn; the rung is then what it was when it did best on held-out tunes."""

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""


class ComparedNetwork:
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
        self.make_model, self.learning_rate = kind.make_model, kind.learning_rate
        self.name = name if clip < CLIPPING_OFF else f"{name}{UNCLIPPED_SUFFIX}"
        self.title = kind.title
        self.cell = name if name in CELLS else None
        self.dataset, self.seed, self.clip = dataset, seed, clip
        self.device = device or torch.device("cpu")
        self.width = choose_width(self._make_with_width, parameters)
        self.model = self.make_untrained_model()
        self.fault = ""

    def _make_with_width(self, hidden: int) -> SequenceModel:
        return self.make_model(self.dataset.vocabulary_size, hidden, None)

    def make_untrained_model(self) -> SequenceModel:
        """Make the model as it is before training."""
        chance = torch.Generator().manual_seed(self.seed)
        model = self.make_model(self.dataset.vocabulary_size, self.width, chance)
        assert isinstance(model, torch.nn.Module)
        return model.to(self.device)

    @property
    def parameters(self) -> int:
        """How many weights are learnt."""
        return count_parameters(self.model)

    def make_training_settings(self, budget: TrainingBudget) -> TrainingSettings:
        """Say how it is trained."""
        tokens = count_tokens(self.dataset.train)
        return TrainingSettings(
            tokens=budget.tokens,
            lanes=max(1, min(LANES, tokens // (BPTT * MIN_UPDATES_PER_EPOCH))),
            bptt=BPTT,
            first_bptt=FIRST_BPTT,
            learning_rate=self.learning_rate,
            clip=self.clip,
            evaluate_every=math.ceil(budget.tokens / budget.evaluations),
            patience=budget.evaluations + 1,  # never spent: equal budgets are spent in full
            seed=self.seed,
        )

    def make_trainer(self, model: SequenceModel, settings: TrainingSettings) -> Trainer:
        """Make what trains a model on this rung's tunes."""
        sample = sample_evenly(self.dataset.valid, CURVE_TUNES)
        train = get_id_arrays(self.dataset.train)
        return Trainer(model, train, get_id_arrays(sample), settings, get_note_counts(sample))

    def measure_tokens_per_second(self, seconds: float = PROBE_SECONDS) -> float:
        """Measure the speed of training, on a model that is thrown away."""
        trainer = self.make_trainer(
            self.make_untrained_model(),
            equalize_window_lengths(self.make_training_settings(TrainingBudget(tokens=10**9))),
        )
        rates: list[float] = []
        until = time.monotonic() + min(seconds, PROBE_SECONDS)
        while len(rates) < 4 or time.monotonic() < until:
            rates.append(trainer.train_on_window(trainer.next_window()).tokens_per_second)
        return float(np.median(rates[1:]))

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:
        """Learn from the budget's ids, or until the loss is no number; keep the best weights."""
        trainer = self.make_trainer(self.model, self.make_training_settings(budget))
        trainer.best.weights = self.model.copy_weights()  # should it diverge before the first score
        tokens, seconds = 0, 0.0
        try:
            for progress in trainer.run():
                seconds += (progress.tokens - tokens) / progress.tokens_per_second
                tokens = progress.tokens
                yield CurvePoint(
                    tokens, seconds, progress.loss, progress.gradient_norm, progress.held_out_score
                )
        except Diverged as fault:
            self.fault = str(fault)
        self.model.load_weights(trainer.best.weights)

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""
        return evaluate(self.model, get_id_arrays(tunes), get_note_counts(tunes))


class ComparedNgram:
    """The n-gram of the length that does best on held-out tunes; its size is what it is.

    It counts the events that the tunes have, of a vocabulary that is mostly unused, so that longer
    grams fit an integer; those that were never met share what is left for one event, evenly.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.title, self.fault = NGRAM, "interpolated Kneser-Ney", ""
        self.dataset = dataset
        train = get_id_arrays(dataset.train)
        seen = np.zeros(dataset.vocabulary_size, bool)
        for ids in train:
            seen[ids] = True
        self.unseen_count = dataset.vocabulary_size - 1 - int(seen.sum())
        self.compact_ids = np.where(
            seen, np.cumsum(seen), seen.sum() + 1
        )  # 1, 2 ...; then the unmet
        self.compact_tunes = [self.compact_ids[ids] for ids in train]
        self.compact_size = int(seen.sum()) + 2
        self.model: KneserNey | None = None

    @property
    def width(self) -> int:
        """The length of its grams."""
        return self._require_trained_model().order

    @property
    def parameters(self) -> int:
        """How many grams of all lengths it keeps, each with its count."""
        return sum(len(order.grams) for order in self._require_trained_model().orders)

    def _require_trained_model(self) -> KneserNey:
        if self.model is None:
            raise InvalidValue("the n-gram has counted nothing yet: train it first")
        return self.model

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:  # noqa: ARG002 - counting has one price
        """Count longer and longer grams, as long as the held-out loss falls; keep the best."""
        sample = sample_evenly(self.dataset.valid, CURVE_TUNES)
        tokens, lowest = sum(map(len, self.compact_tunes)), math.inf
        for length in range(1, MAX_NGRAM_ORDER + 1):
            if self.compact_size**length >= 2**63:
                return
            began, before = time.perf_counter(), self.model
            self.model = KneserNey(self.compact_tunes, self.compact_size, length)
            seconds = time.perf_counter() - began
            held = self.score(sample)
            yield CurvePoint(tokens, seconds, held_out_score=held)
            if held.loss >= lowest:
                self.model = before
                return
            lowest = held.loss

    def surprisal(self, ids: np.ndarray) -> np.ndarray:
        """Return the nats of each id of a tune."""
        met = self.compact_ids[ids]
        rare = np.where(met == self.compact_size - 1, math.log(max(1, self.unseen_count)), 0.0)
        nats: np.ndarray = self._require_trained_model().surprisal(met) + rare
        return nats

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""
        return evaluate_surprisal(self.surprisal, get_id_arrays(tunes), get_note_counts(tunes))


def sample_evenly(tunes: Sequence[EncodedTune], max_count: int) -> list[EncodedTune]:
    """Return at most so many tunes, evenly from the whole part."""
    return list(tunes[:: max(1, math.ceil(len(tunes) / max_count))])
