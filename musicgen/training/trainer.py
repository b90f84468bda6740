"""Training with truncated backpropagation through time.

    trainer = Trainer(model, train_tunes, valid_tunes, settings)
    for progress in trainer.run():
        print(progress.tokens, progress.loss)
    trainer.best.weights    # of the lowest held-out loss, for a checkpoint

The trainer holds everything that a run depends on: weights, optimizer moments, lanes and their
positions, recurrent states, generators, counts. `state` copies all of it and `restore` takes it
back; the continuation is then the same, bit for bit, on the same machine. A state is arrays and
plain values; the arrays are named `model/NAME`, `optimizer/NAME/MOMENT`, `state/LAYER/PART` (lane
first), `generator`, `best/NAME`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from musicgen.config import TrainingSettings
from musicgen.errors import MusicgenError
from musicgen.model.crew import Crew, choose_workers
from musicgen.model.descent import Descent
from musicgen.model.devices import autocast, memory, send, staged
from musicgen.model.network import Masks, SequenceModel, State, detach
from musicgen.training.batches import Lanes, Window
from musicgen.training.distributed import ALONE, Ranks
from musicgen.training.heldout_loss import Held, evaluate

Arrays = dict[str, np.ndarray]
Nested = tuple[tuple[Tensor, ...], ...]  # a recurrent state: for each layer its parts, lane first


class Named(Protocol):
    """What has named parameters: a torch module, or any model of a trainer."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Go through the weights and their names, each once."""


@dataclass(frozen=True)
class TrainerState:
    """A training run between two updates."""

    arrays: Arrays
    values: dict[str, Any]  # JSON's own types


def array(tensor: Tensor) -> np.ndarray:
    """Copy a tensor off its device."""
    return tensor.detach().to("cpu", copy=True).numpy()


def put(tensor: Tensor, values: np.ndarray) -> None:
    """Copy an array into a tensor, in place."""
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values))


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays whose names start with a prefix, without it."""
    head = prefix + "/"
    return {name.removeprefix(head): v for name, v in arrays.items() if name.startswith(head)}


def named(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays with a prefix before their names."""
    return {f"{prefix}/{name}": values for name, values in arrays.items()}


def weights(module: Named) -> Arrays:
    """Copy a module's parameters, in their own precision."""
    return {name: array(parameter) for name, parameter in module.named_parameters()}


def put_weights(module: Named, arrays: Mapping[str, np.ndarray]) -> None:
    """Take parameters back."""
    for name, parameter in module.named_parameters():
        put(parameter, arrays[name])


def moments(descent: Descent, module: Named) -> Arrays:
    """Copy what an optimiser remembers of each parameter."""
    known = dict(descent.moments())
    return {
        f"{name}/{moment}": array(value)
        for name, parameter in module.named_parameters()
        for moment, value in known[parameter].items()
    }


def put_moments(descent: Descent, module: Named, arrays: Mapping[str, np.ndarray]) -> None:
    """Take back what an optimiser remembered; what it has learnt since is forgotten."""
    known, parameters = dict(descent.moments()), dict(module.named_parameters())
    for remembered in known.values():
        remembered.clear()
    for key, values in arrays.items():
        name, moment = key.rsplit("/", 1)
        parameter = parameters[name]
        known[parameter][moment] = torch.from_numpy(values.copy()).to(parameter.device)


def joined(shares: Sequence[Nested | None]) -> Arrays:
    """Lay the shares' states side by side, in the order of the lanes: share k has k, k + n, ..."""
    if not shares or shares[0] is None:
        return {}
    parts = [list(flat(share)) for share in shares if share is not None]
    return {
        name: interleaved([array(part[at][1]) for part in parts])
        for at, (name, _) in enumerate(parts[0])
    }


def flat(state: Nested) -> Iterable[tuple[str, Tensor]]:
    """Name each part of a state."""
    for layer, parts in enumerate(state):
        for number, part in enumerate(parts):
            yield f"{layer}/{number}", part


def interleaved(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Put rows of several arrays in turn: the inverse of taking every n-th."""
    whole = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for number, values in enumerate(arrays):
        whole[number :: len(arrays)] = values
    return whole


def parted(
    arrays: Mapping[str, np.ndarray], shares: Sequence[slice], device: torch.device
) -> list[Nested | None]:
    """Deal a joined state out to shares of the lanes again."""
    return [nested(arrays, lanes, device) if arrays else None for lanes in shares]


def nested(arrays: Mapping[str, np.ndarray], lanes: slice, device: torch.device) -> Nested:
    """Build the state of some lanes."""
    layers: dict[int, list[Tensor]] = {}
    for name in sorted(arrays, key=lambda name: tuple(map(int, name.split("/")))):
        part = torch.from_numpy(arrays[name][lanes].copy()).to(device)
        layers.setdefault(int(name.split("/")[0]), []).append(part)
    return tuple(tuple(parts) for parts in layers.values())


LOOK_EVERY = 10  # updates between two looks at the loss on a GPU, which each look makes wait
MOST_EVALUATIONS = 60  # of a run; a small corpus is not judged after each of its epochs


class Diverged(MusicgenError):
    """The loss or the gradient is no longer a number; the best weights so far are untouched."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update, and the evaluation that may follow it, say."""

    step: int  # updates so far
    tokens: int  # ids learnt from so far
    planned: int
    epoch: float  # tokens over the tokens of the training part
    loss: float  # nats a token of this window, with dropout
    norm: float  # of the gradient, before clipping
    clipped: float  # share of the updates so far whose gradient was clipped
    learning_rate: float
    rate: float  # tokens a second since the last look, evaluations left out
    memory: int  # bytes in use, of the device's own memory or of this program's
    held: Held | None = None  # the held-out score, at intervals
    copied: float | None = None  # share of what it writes that stands in the tunes, where judged
    is_best: bool = False
    is_last: bool = False


@dataclass(slots=True)
class Best:
    """The weights with the lowest held-out loss."""

    loss: float = math.inf
    tokens: int = 0
    stale: int = 0  # evaluations since
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def offer(self, loss: float, tokens: int, model: SequenceModel) -> bool:
        """Keep the model's weights if their loss is lower."""
        if not loss < self.loss:
            self.stale += 1
            return False
        self.loss, self.tokens, self.stale, self.weights = loss, tokens, 0, model.arrays()
        return True


class Trainer:
    """One run: its state, and the loop over windows."""

    def __init__(
        self,
        model: SequenceModel,
        train: Sequence[np.ndarray],
        valid: Sequence[np.ndarray],
        settings: TrainingSettings,
        valid_notes: Sequence[int] | None = None,
        ranks: Ranks = ALONE,
        pitches: Sequence[range] = (),
    ) -> None:
        ranks.refuse_odd_lanes(settings.lanes)
        self.model, self.settings, self.ranks = model, settings, ranks
        self.joined = ranks.wrap(model)  # what runs forward; its passes back add up over processes
        self.valid, self.valid_notes = valid, valid_notes
        self.epoch_tokens = sum(len(ids) for ids in train)
        shuffled = np.random.default_rng(settings.seed)
        moving = pitches if settings.transposed else ()
        self.lanes = Lanes(train, settings.lanes, shuffled, moving)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.parameters = list(model.parameters())
        self.look_every = 1 if model.device.type == "cpu" else LOOK_EVERY
        self.share_out(Crew(1 if ranks.world > 1 else self.workers()))
        self.step = self.tokens = self.evaluated = 0
        self.clipped = torch.zeros((), device=model.device)
        self.seen, self.looked = 0, time.perf_counter()  # tokens and time at the last look
        self.best = Best()

    def share_out(self, crew: Crew) -> None:
        """Let a crew do the work, from the beginning of a run."""
        self.crew, self.descent = crew, Descent(self.parameters, self.settings, crew)
        self.states: list[State | None] = [None] * crew.workers

    def workers(self) -> int:
        """Return how many threads share a batch where one process has all of it."""
        return choose_workers(self.model.device, self.settings.lanes, self.model.settings.hidden)

    def run(self) -> Iterator[Progress]:
        """Train to the planned tokens, or until the held-out loss falls no more."""
        self.looked = time.perf_counter()
        while True:
            measured = self.learn(self.next())
            if self.step % self.look_every and not self.is_due():
                continue
            progress = self.look(measured)
            if self.is_due():
                progress = self.judged(progress)
            yield progress
            if progress.is_last:
                return
            self.looked = time.perf_counter()

    def next(self) -> Window:
        """Cut the next window; windows grow with what was learnt."""
        return self.lanes.next(window_length(self.tokens / self.settings.tokens, self.settings))

    def update(self, window: Window) -> Progress:
        """Learn from one window and look at it."""
        self.looked = time.perf_counter()
        return self.look(self.learn(window))

    def learn(self, window: Window) -> Tensor:
        """Learn from one window; return its loss and the gradient's norm, (2,), unread."""
        settings = self.settings
        learning_rate = settings.learning_rate * schedule(self.tokens / settings.tokens, settings)
        loss = self.backward(window)
        norm = self.descent.norm()
        measured = torch.stack([loss, norm])
        if self.model.device.type == "cpu":
            self.refuse_nan(measured)
        self.descent.step(learning_rate, norm)
        self.clipped += norm > settings.clip
        self.step += 1
        self.tokens += window.tokens
        return measured

    def look(self, measured: Tensor) -> Progress:
        """Read what was measured, and say where the run stands."""
        self.refuse_nan(measured)
        loss, norm = measured.tolist()
        settings, done = self.settings, self.tokens
        rate = (done - self.seen) / (time.perf_counter() - self.looked)
        self.seen = done
        return Progress(
            step=self.step,
            tokens=done,
            planned=settings.tokens,
            epoch=done / self.epoch_tokens,
            loss=loss,
            norm=norm,
            clipped=float(self.clipped) / self.step,
            learning_rate=self.descent.learning_rate,
            rate=rate,
            memory=memory(self.model.device),
        )

    def backward(self, window: Window) -> Tensor:
        """Run one window forward and backward; the state goes on, the gradient stops here."""
        masks = self.model.draw_masks(len(window.inputs), self.generator)
        if self.ranks.world > 1:
            return self.backward_joined(window, masks)
        shares = self.crew.each(lambda number: self.share(number, window, masks))
        self.descent.gather([grads for _, grads in shares])
        return torch.stack([loss for loss, _ in shares]).sum()

    def backward_joined(self, window: Window, masks: Masks | None) -> Tensor:
        """Do the same for this process's lanes; the gradients are averaged as they are found."""
        self.descent.clear()
        loss = self.forward(0, window, masks)
        (loss * self.ranks.world).backward()  # type: ignore[no-untyped-call]
        return self.ranks.total(loss.detach())

    def share(
        self, number: int, window: Window, masks: Masks | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss and the gradients of one worker's lanes, as parts of the window's."""
        loss = self.forward(number, window, masks)
        return loss.detach(), torch.autograd.grad(loss, self.parameters)

    def forward(self, number: int, window: Window, masks: Masks | None) -> Tensor:
        """Return the loss of one worker's lanes, as a part of the window's; its state goes on."""
        device = self.model.device
        lanes = self.ranks.lanes(number, self.crew.workers)
        inputs = staged(window.inputs[lanes], device)  # (lane, window)
        targets = send(staged(window.targets[lanes], device), device)
        kept = masks and masks.share(lanes)
        with autocast(device, self.settings.precision):
            logits, state = self.joined(inputs, self.states[number], kept)
            loss = functional.cross_entropy(
                logits.transpose(0, 1).flatten(0, 1).float(), targets.t().flatten(), reduction="sum"
            )
        self.states[number] = detach(state)
        return loss / window.tokens

    def refuse_nan(self, measured: Tensor) -> None:
        """Stop before what is not a number is kept."""
        loss, norm = measured.tolist()
        if not math.isfinite(loss + norm):
            raise Diverged(
                f"update {self.step + 1}, after {self.tokens} tokens: loss {loss}, gradient norm "
                f"{norm}; nothing of it was kept. Lower the learning rate "
                f"(now {self.settings.learning_rate:g}) and start again"
            )

    def is_due(self) -> bool:
        """Tell whether the held-out tunes are to be judged now."""
        every = self.settings.evaluate_every or max(
            self.epoch_tokens, self.settings.tokens // MOST_EVALUATIONS
        )
        return self.tokens >= min(self.settings.tokens, self.evaluated + every)

    def judged(self, progress: Progress) -> Progress:
        """Add the held-out score, keep the weights if they are the best so far."""
        self.evaluated = self.tokens
        held = None
        if self.valid:
            held = evaluate(self.model, self.valid, self.valid_notes, self.ranks, self.crew)
        loss = held.loss if held else -float(self.tokens)  # unjudged, what learnt more is better
        is_best = self.best.offer(loss, self.tokens, self.model)
        over = progress.tokens >= progress.planned or self.best.stale >= self.settings.patience
        return replace(progress, held=held, is_best=is_best, is_last=over)

    def every_state(self) -> Sequence[State | None]:
        """Return the recurrent states of all lanes: those of other processes too."""
        own = self.states[0]
        if self.ranks.world == 1 or own is None:
            return self.states
        found = [[self.ranks.every(part) for part in layer] for layer in own]
        return [
            tuple(tuple(part[rank] for part in layer) for layer in found)
            for rank in range(self.ranks.world)
        ]

    def state(self) -> TrainerState:
        """Copy all that the rest of the run depends on; several processes do it together."""
        parts = {
            "model": weights(self.model),
            "optimizer": moments(self.descent, self.model),
            "state": joined(self.every_state()),
            "best": self.best.weights,
        }
        arrays = {"generator": self.generator.get_state().numpy()}
        for prefix, found in parts.items():
            arrays |= named(prefix, found)
        best = self.best
        return TrainerState(
            arrays,
            {
                "step": self.step,
                "tokens": self.tokens,
                "evaluated": self.evaluated,
                "clipped": float(self.clipped),
                "lanes": self.lanes.position(),
                "best": [best.loss if math.isfinite(best.loss) else None, best.tokens, best.stale],
            },
        )

    def restore(self, state: TrainerState) -> None:
        """Go on from a copy. The model, the tunes and the settings must be the copy's own."""
        arrays, values = state.arrays, state.values
        put_weights(self.model, under("model", arrays))
        put_moments(self.descent, self.model, under("optimizer", arrays))
        recurrent = under("state", arrays)
        shares = [self.ranks.lanes(n, self.crew.workers) for n in range(self.crew.workers)]
        self.states = parted(recurrent, shares, self.model.device)
        self.generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self.lanes.seek(values["lanes"])
        self.step, self.tokens, self.evaluated = (
            values[name] for name in ("step", "tokens", "evaluated")
        )
        self.seen = self.tokens
        self.clipped.fill_(values["clipped"])
        loss, tokens, stale = values["best"]
        loss = math.inf if loss is None else loss
        self.best = Best(loss, tokens, stale, under("best", arrays))


def schedule(done: float, settings: TrainingSettings) -> float:
    """Return the share of the highest rate: linear warm-up, then half a cosine."""
    if done < settings.warmup:
        return max(done / settings.warmup, 0.01)
    turn = min(1.0, (done - settings.warmup) / (1 - settings.warmup))
    final = settings.final_rate
    return final + (1 - final) * (1 + math.cos(math.pi * turn)) / 2


def window_length(done: float, settings: TrainingSettings) -> int:
    """Return how many ids a window holds after a share of the planned tokens.

    Early on the loss falls with each update, whatever it learns from: short windows make many.
    What depends on more than they hold is learnt later, from long ones.
    """
    first, last = settings.first_bptt or settings.bptt, settings.bptt
    return min(last, first + int((last - first + 1) * done))


def levelled(settings: TrainingSettings) -> TrainingSettings:
    """Return settings whose windows are all as long as makes a run cost what it costs with these.

    An update costs so much for itself and so much for each id: the mean of 1 / length counts.
    """
    lengths = [window_length((k + 0.5) / 1000, settings) for k in range(1000)]
    typical = round(1000 / sum(1 / length for length in lengths))
    return replace(settings, bptt=typical, first_bptt=0)
