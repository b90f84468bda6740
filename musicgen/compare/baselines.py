"""The models of the comparison behind one interface: fixed window, bag of words, n-gram, recurrent.

    model = ComparedNetwork("lstm", dataset, parameters=500_000)
    for point in model.train(TrainingBudget(tokens=1_000_000)):
        print(point.tokens, point.loss)
    model.score(dataset.valid).bits_per_note

All models predict every id of a tune from the ids before it. The models without recurrence differ
in their context:

- `FixedWindow` sees the last k ids, each at its position (Bengio et al., 2003);
- `BagOfWords` sees how often each id has occurred in the tune, but not when.

Both keep their context as a state, as a recurrent network does, so that a tune can be read in
windows of any size. All networks read the same windows of the same
tunes in the same order, have about the same number of weights, and otherwise differ only in their
peak learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN_ID, CELLS, CONTEXTS, ModelSettings, TrainingSettings
from musicgen.corpus.store import Dataset, EncodedTune, count_tokens, get_id_arrays
from musicgen.errors import InvalidValue
from musicgen.evaluation.heldout_score import HeldOutScore, evaluate_surprisal
from musicgen.evaluation.ngram_models import KneserNey
from musicgen.model.devices import send
from musicgen.model.network import (
    DropoutMasks,
    LanguageModel,
    RecurrentState,
    SequenceModel,
    SerializableModule,
    draw_dropout_mask,
)
from musicgen.music.arrays import FloatArray, TokenIds
from musicgen.training.heldout_loss import evaluate
from musicgen.training.plan import get_note_counts
from musicgen.training.trainer import Diverged, Trainer, equalize_window_lengths

EMBEDDING_WIDTH: Final = 32  # features per id of a fixed window


@dataclass(frozen=True, slots=True)
class FeedForwardSettings:
    """The shape of a model without recurrence."""

    vocabulary_size: int
    hidden: int
    context_length: int = 1  # ids that a fixed window sees
    dropout: float = 0.0


class FeedForward(SerializableModule):
    """Two hidden layers and a head on features of the past, which subclasses compute.

    Args:
        shape: the settings.
        feature_count: features per position.
        generator: draws the initial weights.
    """

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
        """The device of the weights."""
        return self.head.bias.device

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return the features of each position, and the state after the window.

        Args:
            ids: (lane, window) int64.
            state: before the window.

        Returns:
            (lane, window, features) float32, and the new state.
        """
        raise NotImplementedError

    def start(self, lanes: int) -> RecurrentState:
        """Return the state before a tune, lane first."""
        raise NotImplementedError

    def draw_masks(
        self, lanes: int, generator: torch.Generator | None = None
    ) -> DropoutMasks | None:
        """Draw the dropout mask of the second hidden layer for one window."""
        if not self.settings.dropout:
            return None
        like = self.head.bias.new_empty(lanes, self.settings.hidden)
        return DropoutMasks(None, (draw_dropout_mask(like, self.settings.dropout, generator),))

    def forward(
        self,
        ids: Tensor,
        state: RecurrentState | None = None,
        masks: DropoutMasks | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Return the logits of a window, and the state after it.

        Args:
            ids: (lane, window) int64.
            state: before the window; None is that before a tune.
            masks: None disables dropout.
            context: not read.

        Returns:
            (lane, window, vocabulary) float32, and the new state.
        """
        del context
        features, new_state = self.compute_features(
            send(ids, self.device), state or self.start(len(ids))
        )
        hidden = self.second(self.first(features).relu()).relu()
        if masks is not None:
            hidden = hidden * masks.outputs[0].unsqueeze(1)
        logits: Tensor = self.head(hidden)
        return logits, new_state


class FixedWindow(FeedForward):
    """The embeddings of the last k ids, concatenated: each position has its own weights.

    The state is the last k - 1 ids of the tune so far, padded with begin events.
    """

    def __init__(
        self, shape: FeedForwardSettings, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(shape, shape.context_length * EMBEDDING_WIDTH, generator)
        self.embedding = nn.Embedding(shape.vocabulary_size, EMBEDDING_WIDTH)
        nn.init.normal_(self.embedding.weight, 0, 1, generator)

    def start(self, lanes: int) -> RecurrentState:
        """Return a state of begin events (id 0), (lane, k - 1) int64."""
        shape = lanes, self.settings.context_length - 1
        return ((torch.full(shape, BEGIN_ID, device=self.device),),)

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return the embeddings of the last k of ids, (lane, window) int64."""
        visible_ids = torch.cat([state[0][0], ids], 1).unfold(1, self.settings.context_length, 1)
        return self.embedding(visible_ids).flatten(2), ((visible_ids[:, -1, 1:],),)


class BagOfWords(FeedForward):
    """The counts of all ids of the tune so far, on a log scale, without their order.

    The state is the counts.
    """

    def __init__(
        self, shape: FeedForwardSettings, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(shape, shape.vocabulary_size, generator)

    def start(self, lanes: int) -> RecurrentState:
        """Return zero counts, (lane, vocabulary) float32."""
        return ((self.head.bias.new_zeros(lanes, self.settings.vocabulary_size),),)

    def compute_features(self, ids: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Return log(1 + count) of each id: (lane, window) int64 to (lane, window, vocabulary)."""
        with torch.autocast(ids.device.type, enabled=False):  # bf16 cannot count beyond 256
            counts = self.count_ids(ids, state[0][0])
            return counts.log1p(), ((counts[:, -1],),)

    def count_ids(self, ids: Tensor, previous_counts: Tensor) -> Tensor:
        """Count the ids of the same tune at or before each position.

        Args:
            ids: (lane, window) int64.
            previous_counts: (lane, vocabulary) float32, before the window.

        Returns:
            (lane, window, vocabulary) float32.
        """
        ones = functional.one_hot(ids, self.settings.vocabulary_size).to(previous_counts)
        return previous_counts.unsqueeze(1) + ones.cumsum(1)


def count_parameters(model: SequenceModel) -> int:
    """Count the trainable weights."""
    return sum(weight.numel() for weight in model.parameters())


def choose_width(make_model: Callable[[int], SequenceModel], parameters: int) -> int:
    """Return the hidden width, a multiple of 4, with about `parameters` weights."""

    def count(quads: int) -> int:
        with torch.device("meta"):  # allocates nothing
            return count_parameters(make_model(4 * quads))

    low, high = 1, 2
    while count(high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        mid = (low + high) // 2
        low, high = (mid, high) if count(mid) < parameters else (low, mid)
    return 4 * min(low, high, key=lambda quads: abs(count(quads) - parameters))


SMALL_WINDOW: Final = 4  # context, in ids
LARGE_WINDOW: Final = 64  # context, in ids
NGRAM: Final = "n-gram"
MAX_NGRAM_ORDER: Final = 12  # ids per gram; fewer if a gram does not fit an integer
WITH_CONTEXT: Final = ("lstm position", "lstm look-back")  # of tunes with bars
UNCLIPPED_SUFFIX: Final = " unclipped"  # of the names of runs without gradient clipping
LANES: Final = 32
BPTT: Final = 48  # window length, in ids
FIRST_BPTT: Final = 8  # length of the first windows, in ids
MIN_UPDATES_PER_EPOCH: Final = 20  # a small corpus gets fewer lanes
DROPOUT: Final = 0.1  # low, because training takes a few epochs at most
CURVE_TUNES: Final = 100  # held-out tunes scored during training
PROBE_SECONDS: Final = 1.5
CLIP: Final = 1.0  # largest norm of a gradient
CLIPPING_OFF: Final = 1e30  # a norm that no gradient reaches

# vocabulary size, hidden width, generator of the initial weights
ModelFactory: TypeAlias = Callable[[int, int, torch.Generator | None], SequenceModel]


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One of the compared networks: its title, factory and peak learning rate."""

    title: str
    make_model: ModelFactory
    learning_rate: float


def _window_factory(context_length: int) -> ModelFactory:
    return lambda size, hidden, generator: FixedWindow(
        FeedForwardSettings(size, hidden, context_length, DROPOUT), generator
    )


def _make_bag_of_words(size: int, hidden: int, generator: torch.Generator | None) -> SequenceModel:
    return BagOfWords(FeedForwardSettings(size, hidden, dropout=DROPOUT), generator)


def _cell_factory(cell: str, context: str = "none") -> ModelFactory:
    def make(size: int, hidden: int, generator: torch.Generator | None) -> SequenceModel:
        settings = ModelSettings(
            vocabulary_size=size,
            cell=cell,
            layers=1,
            hidden=hidden,
            embedding=hidden,
            dropout=DROPOUT,
            embedding_dropout=0.0,
            context=CONTEXTS[context],
        )
        return LanguageModel(settings, generator)

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
        "recurrent cell, ReLU, initialised with the identity", _cell_factory("irnn"), 2e-4
    ),
    "gru": NetworkSpec("gated recurrent unit", _cell_factory("gru"), 3e-3),
    "lstm": NetworkSpec("long short-term memory", _cell_factory("lstm"), 3e-3),
    "lstm position": NetworkSpec(
        "long short-term memory, shown its position in bar and section",
        _cell_factory("lstm", "position"),
        3e-3,
    ),
    "lstm look-back": NetworkSpec(
        "long short-term memory, shown what stood 1, 2, 4 and 8 bars ago",
        _cell_factory("lstm", "look-back"),
        3e-3,
    ),
}


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """The training budget of a model."""

    tokens: int  # training tokens; the n-gram ignores this and counts each token once
    evaluations: int = 12  # during training


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of a learning curve."""

    tokens: int  # training tokens so far
    seconds: float  # training time so far, without evaluations
    loss: float | None = None  # nats per token of the last window
    gradient_norm: float | None = None  # before clipping
    held_out_score: HeldOutScore | None = None  # after an evaluation


class ComparedModel(Protocol):
    """A model that can be trained and scored."""

    name: str
    title: str
    fault: str  # the error that ended its training early; "" if none

    @property
    def width(self) -> int:
        """Its hidden units, or the ids per gram of the n-gram."""

    @property
    def parameters(self) -> int:
        """The number of its weights, or of the grams of the n-gram."""

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:
        """Train, and end with the weights that scored best on held-out tunes."""

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""


class ComparedNetwork:
    """A network, trained with truncated backpropagation through time.

    Args:
        name: a key of NETWORKS.
        dataset: its training and validation splits are used.
        parameters: target number of weights.
        seed: of initial weights and order of the tunes.
        clip: largest norm of a gradient; CLIPPING_OFF disables clipping.
        device: None is the CPU.

    Raises:
        InvalidValue: the name is unknown.
    """

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
            raise InvalidValue(f"model {name!r} is unknown: choose one of {', '.join(NETWORKS)}")
        spec = NETWORKS[name]
        self.make_model, self.learning_rate = spec.make_model, spec.learning_rate
        self.name = name if clip < CLIPPING_OFF else f"{name}{UNCLIPPED_SUFFIX}"
        self.title = spec.title
        self.cell = name if name in CELLS else None
        self.dataset, self.seed, self.clip = dataset, seed, clip
        self.device = device or torch.device("cpu")
        self.width = choose_width(self._make_with_width, parameters)
        self.model = self.make_untrained_model()
        self.fault = ""

    def _make_with_width(self, hidden: int) -> SequenceModel:
        return self.make_model(self.dataset.vocabulary_size, hidden, None)

    def make_untrained_model(self) -> SequenceModel:
        """Return the model with its initial weights."""
        generator = torch.Generator().manual_seed(self.seed)
        model = self.make_model(self.dataset.vocabulary_size, self.width, generator)
        assert isinstance(model, torch.nn.Module)
        return model.to(self.device)

    @property
    def parameters(self) -> int:
        """The number of trainable weights."""
        return count_parameters(self.model)

    def make_training_settings(self, budget: TrainingBudget) -> TrainingSettings:
        """Return the training settings for a budget."""
        tokens = count_tokens(self.dataset.train)
        return TrainingSettings(
            tokens=budget.tokens,
            lanes=max(1, min(LANES, tokens // (BPTT * MIN_UPDATES_PER_EPOCH))),
            bptt=BPTT,
            first_bptt=FIRST_BPTT,
            learning_rate=self.learning_rate,
            clip=self.clip,
            evaluate_every=math.ceil(budget.tokens / budget.evaluations),
            patience=budget.evaluations + 1,  # no early stopping: all models use the full budget
            seed=self.seed,
        )

    def make_trainer(self, model: SequenceModel, settings: TrainingSettings) -> Trainer:
        """Make a trainer of a model on the tunes of the data set."""
        sample = sample_evenly(self.dataset.valid, CURVE_TUNES)
        train = get_id_arrays(self.dataset.train)
        return Trainer(model, train, get_id_arrays(sample), settings, get_note_counts(sample))

    def measure_tokens_per_second(self, seconds: float = PROBE_SECONDS) -> float:
        """Measure the speed of training, in tokens per second, on a temporary model."""
        trainer = self.make_trainer(
            self.make_untrained_model(),
            equalize_window_lengths(self.make_training_settings(TrainingBudget(tokens=10**9))),
        )
        rates: list[float] = []
        deadline = time.monotonic() + min(seconds, PROBE_SECONDS)
        while len(rates) < 4 or time.monotonic() < deadline:
            rates.append(trainer.train_on_window(trainer.next_window()).tokens_per_second)
        return float(np.median(rates[1:]))

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:
        """Train for the budget, or until the loss diverges; keep the best weights."""
        trainer = self.make_trainer(self.model, self.make_training_settings(budget))
        trainer.best.weights = (
            self.model.copy_weights()
        )  # in case it diverges before the first evaluation
        tokens, seconds = 0, 0.0
        try:
            for progress in trainer.run():
                seconds += (progress.tokens - tokens) / progress.tokens_per_second
                tokens = progress.tokens
                yield CurvePoint(
                    tokens, seconds, progress.loss, progress.gradient_norm, progress.held_out_score
                )
        except Diverged as error:
            self.fault = str(error)
        self.model.load_weights(trainer.best.weights)

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""
        return evaluate(self.model, get_id_arrays(tunes), get_note_counts(tunes))


class ComparedNgram:
    """The n-gram whose order scores best on held-out tunes.

    Events that do not occur in the training tunes share one compact id, so that longer grams fit an
    integer; its probability is divided evenly among them.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.title, self.fault = NGRAM, "interpolated Kneser-Ney", ""
        self.dataset = dataset
        train_ids = get_id_arrays(dataset.train)
        is_seen = np.zeros(dataset.vocabulary_size, bool)
        for ids in train_ids:
            is_seen[ids] = True
        self.unseen_count = dataset.vocabulary_size - 1 - int(is_seen.sum())
        # 1, 2, ... for the events that occur, then one id for all others
        self.compact_ids = np.where(is_seen, np.cumsum(is_seen), is_seen.sum() + 1)
        self.compact_tunes = [self.compact_ids[ids] for ids in train_ids]
        self.compact_size = int(is_seen.sum()) + 2
        self.model: KneserNey | None = None

    @property
    def width(self) -> int:
        """Ids per gram."""
        return self._require_trained_model().order

    @property
    def parameters(self) -> int:
        """The number of grams of all lengths."""
        return sum(len(order.grams) for order in self._require_trained_model().orders)

    def _require_trained_model(self) -> KneserNey:
        if self.model is None:
            raise InvalidValue("the n-gram is not trained yet: train it first")
        return self.model

    def train(self, budget: TrainingBudget) -> Iterator[CurvePoint]:  # noqa: ARG002 - it counts all tokens
        """Train n-grams of increasing order while the held-out loss falls; keep the best."""
        sample = sample_evenly(self.dataset.valid, CURVE_TUNES)
        tokens, lowest = sum(map(len, self.compact_tunes)), math.inf
        for length in range(1, MAX_NGRAM_ORDER + 1):
            if self.compact_size**length >= 2**63:
                return
            started_at, previous_model = time.perf_counter(), self.model
            self.model = KneserNey(self.compact_tunes, self.compact_size, length)
            seconds = time.perf_counter() - started_at
            score = self.score(sample)
            yield CurvePoint(tokens, seconds, held_out_score=score)
            if score.loss >= lowest:
                self.model = previous_model
                return
            lowest = score.loss

    def surprisal(self, ids: TokenIds) -> FloatArray:
        """Return the nats of each id of a tune: (token,) int16 or int64 to (token,) float64."""
        compact = self.compact_ids[ids]
        unseen_nats = np.where(
            compact == self.compact_size - 1, math.log(max(1, self.unseen_count)), 0.0
        )
        nats: FloatArray = self._require_trained_model().surprisal(compact) + unseen_nats
        return nats

    def score(self, tunes: Sequence[EncodedTune]) -> HeldOutScore:
        """Score whole tunes."""
        return evaluate_surprisal(self.surprisal, get_id_arrays(tunes), get_note_counts(tunes))


def sample_evenly(tunes: Sequence[EncodedTune], max_count: int) -> list[EncodedTune]:
    """Return at most max_count tunes, evenly spaced."""
    return list(tunes[:: max(1, math.ceil(len(tunes) / max_count))])
