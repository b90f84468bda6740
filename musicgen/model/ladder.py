"""The rungs below the recurrent network that are networks too: a fixed window, a bag of words.

All predict every id of a tune from the ids before it; they differ in what they let through:

- `Window` sees the last k ids, each at its place, and nothing beyond (Bengio and others, 2003);
- `Bag` sees how often each id has come before in the tune, and not when.

Both keep what they must see again as a state, like a recurrent network's, so that a tune may be
read in windows of any size and two tunes may share a lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.config import BEGIN
from musicgen.model.devices import send
from musicgen.model.network import Masks, SequenceModel, State, Storable, keep

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
