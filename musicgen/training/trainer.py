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
from musicgen.model.devices import autocast, get_memory_in_use, send, to_staged_tensor
from musicgen.model.network import DropoutMasks, RecurrentState, SequenceModel, detach
from musicgen.training.batches import Window, WindowStream
from musicgen.training.distributed import SINGLE_PROCESS, Ranks
from musicgen.training.heldout_loss import HeldOutScore, evaluate

Arrays = dict[str, np.ndarray]
NestedTensors = tuple[
    tuple[Tensor, ...], ...
]  # a recurrent state: for each layer its parts, lane first


class HasNamedParameters(Protocol):
    """What has named parameters: a torch module, or any model of a trainer."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Go through the weights and their names, each once."""


@dataclass(frozen=True)
class TrainerState:
    """A training run between two updates."""

    arrays: Arrays
    values: dict[str, Any]  # JSON's own types


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor off its device."""
    return tensor.detach().to("cpu", copy=True).numpy()


def copy_into(tensor: Tensor, values: np.ndarray) -> None:
    """Copy an array into a tensor, in place."""
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values))


def select_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays whose names start with a prefix, without it."""
    head = prefix + "/"
    return {name.removeprefix(head): v for name, v in arrays.items() if name.startswith(head)}


def add_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays with a prefix before their names."""
    return {f"{prefix}/{name}": values for name, values in arrays.items()}


def copy_parameters(module: HasNamedParameters) -> Arrays:
    """Copy a module's parameters, in their own precision."""
    return {name: to_numpy(parameter) for name, parameter in module.named_parameters()}


def restore_parameters(module: HasNamedParameters, arrays: Mapping[str, np.ndarray]) -> None:
    """Take parameters back."""
    for name, parameter in module.named_parameters():
        copy_into(parameter, arrays[name])


def copy_moments(descent: Descent, module: HasNamedParameters) -> Arrays:
    """Copy what an optimiser remembers of each parameter."""
    known = dict(descent.moments())
    return {
        f"{name}/{moment}": to_numpy(value)
        for name, parameter in module.named_parameters()
        for moment, value in known[parameter].items()
    }


def restore_moments(
    descent: Descent, module: HasNamedParameters, arrays: Mapping[str, np.ndarray]
) -> None:
    """Take back what an optimiser remembered; what it has learnt since is forgotten."""
    known, parameters = dict(descent.moments()), dict(module.named_parameters())
    for remembered in known.values():
        remembered.clear()
    for key, values in arrays.items():
        name, moment = key.rsplit("/", 1)
        parameter = parameters[name]
        known[parameter][moment] = torch.from_numpy(values.copy()).to(parameter.device)


def gather_lanes(shares: Sequence[NestedTensors | None]) -> Arrays:
    """Lay the shares' states side by side, in the order of the lanes: share k has k, k + n, ..."""
    if not shares or shares[0] is None:
        return {}
    parts = [list(iter_state_parts(share)) for share in shares if share is not None]
    return {
        name: interleave([to_numpy(part[at][1]) for part in parts])
        for at, (name, _) in enumerate(parts[0])
    }


def iter_state_parts(state: NestedTensors) -> Iterable[tuple[str, Tensor]]:
    """Name each part of a state."""
    for layer, parts in enumerate(state):
        for number, part in enumerate(parts):
            yield f"{layer}/{number}", part


def interleave(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Put rows of several arrays in turn: the inverse of taking every n-th."""
    whole = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for number, values in enumerate(arrays):
        whole[number :: len(arrays)] = values
    return whole


def scatter_lanes(
    arrays: Mapping[str, np.ndarray], shares: Sequence[slice], device: torch.device
) -> list[NestedTensors | None]:
    """Deal a joined state out to shares of the lanes again."""
    return [build_state(arrays, lanes, device) if arrays else None for lanes in shares]


def build_state(
    arrays: Mapping[str, np.ndarray], lanes: slice, device: torch.device
) -> NestedTensors:
    """Build the state of some lanes."""
    layers: dict[int, list[Tensor]] = {}
    for name in sorted(arrays, key=lambda name: tuple(map(int, name.split("/")))):
        part = torch.from_numpy(arrays[name][lanes].copy()).to(device)
        layers.setdefault(int(name.split("/")[0]), []).append(part)
    return tuple(tuple(parts) for parts in layers.values())


READ_INTERVAL = 10  # updates between two looks at the loss on a GPU, which each look makes wait
MAX_EVALUATIONS = 60  # of a run; a small corpus is not judged after each of its epochs


class Diverged(MusicgenError):
    """The loss or the gradient is no longer a number; the best weights so far are untouched."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one update, and the evaluation that may follow it, say."""

    step: int  # updates so far
    tokens: int  # ids learnt from so far
    planned_tokens: int
    epoch: float  # tokens over the tokens of the training part
    loss: float  # nats a token of this window, with dropout
    gradient_norm: float  # of the gradient, before clipping
    clipped_share: float  # share of the updates so far whose gradient was clipped
    learning_rate: float
    tokens_per_second: float  # tokens a second since the last look, evaluations left out
    memory_bytes: int  # bytes in use, of the device's own memory or of this program's
    held_out_score: HeldOutScore | None = None  # the held-out score, at intervals
    copied_share: float | None = (
        None  # share of what it writes that stands in the tunes, where judged
    )
    is_best: bool = False
    is_last: bool = False


@dataclass(slots=True)
class BestWeights:
    """The weights with the lowest held-out loss."""

    loss: float = math.inf
    tokens: int = 0
    stale_evaluations: int = 0  # evaluations since
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def keep_if_better(self, loss: float, tokens: int, model: SequenceModel) -> bool:
        """Keep the model's weights if their loss is lower."""
        if not loss < self.loss:
            self.stale_evaluations += 1
            return False
        self.loss, self.tokens, self.stale_evaluations, self.weights = (
            loss,
            tokens,
            0,
            model.copy_weights(),
        )
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
        ranks: Ranks = SINGLE_PROCESS,
        pitch_ranges: Sequence[range] = (),
    ) -> None:
        ranks.check_lanes_divisible(settings.lanes)
        self.model, self.settings, self.ranks = model, settings, ranks
        self.wrapped_model = ranks.wrap_model(
            model
        )  # what runs forward; its passes back add up over processes
        self.valid, self.valid_notes = valid, valid_notes
        self.epoch_tokens = sum(len(ids) for ids in train)
        shuffled = np.random.default_rng(settings.seed)
        moving = pitch_ranges if settings.transposed else ()
        self.window_stream = WindowStream(train, settings.lanes, shuffled, moving)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.parameters = list(model.parameters())
        self.read_interval = 1 if model.device.type == "cpu" else READ_INTERVAL
        self.assign_crew(Crew(1 if ranks.world_size > 1 else self.choose_worker_count()))
        self.step = self.tokens = self.evaluated_tokens = 0
        self.clipped_updates = torch.zeros((), device=model.device)
        self.read_tokens, self.read_time = (
            0,
            time.perf_counter(),
        )  # tokens and time at the last look
        self.best = BestWeights()

    def assign_crew(self, crew: Crew) -> None:
        """Let a crew do the work, from the beginning of a run."""
        self.crew, self.descent = crew, Descent(self.parameters, self.settings, crew)
        self.states: list[RecurrentState | None] = [None] * crew.workers

    def choose_worker_count(self) -> int:
        """Return how many threads share a batch where one process has all of it."""
        return choose_workers(self.model.device, self.settings.lanes, self.model.settings.hidden)

    def run(self) -> Iterator[Progress]:
        """Train to the planned tokens, or until the held-out loss falls no more."""
        self.read_time = time.perf_counter()
        while True:
            measured = self.update_weights(self.next_window())
            if self.step % self.read_interval and not self.is_evaluation_due():
                continue
            progress = self.read_progress(measured)
            if self.is_evaluation_due():
                progress = self.evaluate_progress(progress)
            yield progress
            if progress.is_last:
                return
            self.read_time = time.perf_counter()

    def next_window(self) -> Window:
        """Cut the next window; windows grow with what was learnt."""
        return self.window_stream.next_window(
            window_length(self.tokens / self.settings.tokens, self.settings)
        )

    def train_on_window(self, window: Window) -> Progress:
        """Learn from one window and look at it."""
        self.read_time = time.perf_counter()
        return self.read_progress(self.update_weights(window))

    def update_weights(self, window: Window) -> Tensor:
        """Learn from one window; return its loss and the gradient's norm, (2,), unread."""
        settings = self.settings
        learning_rate = settings.learning_rate * learning_rate_factor(
            self.tokens / settings.tokens, settings
        )
        loss = self.backward(window)
        norm = self.descent.norm()
        measured = torch.stack([loss, norm])
        if self.model.device.type == "cpu":
            self.check_finite_loss(measured)
        self.descent.step(learning_rate, norm)
        self.clipped_updates += norm > settings.clip
        self.step += 1
        self.tokens += window.token_count
        return measured

    def read_progress(self, loss_and_norm: Tensor) -> Progress:
        """Read what was measured, and say where the run stands."""
        self.check_finite_loss(loss_and_norm)
        loss, norm = loss_and_norm.tolist()
        settings, done = self.settings, self.tokens
        rate = (done - self.read_tokens) / (time.perf_counter() - self.read_time)
        self.read_tokens = done
        return Progress(
            step=self.step,
            tokens=done,
            planned_tokens=settings.tokens,
            epoch=done / self.epoch_tokens,
            loss=loss,
            gradient_norm=norm,
            clipped_share=float(self.clipped_updates) / self.step,
            learning_rate=self.descent.learning_rate,
            tokens_per_second=rate,
            memory_bytes=get_memory_in_use(self.model.device),
        )

    def backward(self, window: Window) -> Tensor:
        """Run one window forward and backward; the state goes on, the gradient stops here."""
        masks = self.model.draw_masks(len(window.inputs), self.generator)
        if self.ranks.world_size > 1:
            return self.backward_distributed(window, masks)
        shares = self.crew.each(lambda number: self.compute_lane_gradients(number, window, masks))
        self.descent.gather([grads for _, grads in shares])
        return torch.stack([loss for loss, _ in shares]).sum()

    def backward_distributed(self, window: Window, masks: DropoutMasks | None) -> Tensor:
        """Do the same for this process's lanes; the gradients are averaged as they are found."""
        self.descent.clear()
        loss = self.compute_lane_loss(0, window, masks)
        (loss * self.ranks.world_size).backward()  # type: ignore[no-untyped-call]
        return self.ranks.all_reduce(loss.detach())

    def compute_lane_gradients(
        self, worker: int, window: Window, masks: DropoutMasks | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss and the gradients of one worker's lanes, as parts of the window's."""
        loss = self.compute_lane_loss(worker, window, masks)
        return loss.detach(), torch.autograd.grad(loss, self.parameters)

    def compute_lane_loss(self, worker: int, window: Window, masks: DropoutMasks | None) -> Tensor:
        """Return the loss of one worker's lanes, as a part of the window's; its state goes on."""
        device = self.model.device
        lanes = self.ranks.get_lane_slice(worker, self.crew.workers)
        inputs = to_staged_tensor(window.inputs[lanes], device)  # (lane, window)
        targets = send(to_staged_tensor(window.targets[lanes], device), device)
        kept = masks and masks.select_lanes(lanes)
        with autocast(device, self.settings.precision):
            logits, state = self.wrapped_model(inputs, self.states[worker], kept)
            loss = functional.cross_entropy(
                logits.transpose(0, 1).flatten(0, 1).float(), targets.t().flatten(), reduction="sum"
            )
        self.states[worker] = detach(state)
        return loss / window.token_count

    def check_finite_loss(self, loss_and_norm: Tensor) -> None:
        """Stop before what is not a number is kept."""
        loss, norm = loss_and_norm.tolist()
        if not math.isfinite(loss + norm):
            raise Diverged(
                f"update {self.step + 1}, after {self.tokens} tokens: loss {loss}, gradient norm "
                f"{norm}; nothing of it was kept. Lower the learning rate "
                f"(now {self.settings.learning_rate:g}) and start again"
            )

    def is_evaluation_due(self) -> bool:
        """Tell whether the held-out tunes are to be judged now."""
        every = self.settings.evaluate_every or max(
            self.epoch_tokens, self.settings.tokens // MAX_EVALUATIONS
        )
        return self.tokens >= min(self.settings.tokens, self.evaluated_tokens + every)

    def evaluate_progress(self, progress: Progress) -> Progress:
        """Add the held-out score, keep the weights if they are the best so far."""
        self.evaluated_tokens = self.tokens
        held = None
        if self.valid:
            held = evaluate(self.model, self.valid, self.valid_notes, self.ranks, self.crew)
        loss = held.loss if held else -float(self.tokens)  # unjudged, what learnt more is better
        is_best = self.best.keep_if_better(loss, self.tokens, self.model)
        over = (
            progress.tokens >= progress.planned_tokens
            or self.best.stale_evaluations >= self.settings.patience
        )
        return replace(progress, held_out_score=held, is_best=is_best, is_last=over)

    def gather_states(self) -> Sequence[RecurrentState | None]:
        """Return the recurrent states of all lanes: those of other processes too."""
        own = self.states[0]
        if self.ranks.world_size == 1 or own is None:
            return self.states
        found = [[self.ranks.all_gather(part) for part in layer] for layer in own]
        return [
            tuple(tuple(part[rank] for part in layer) for layer in found)
            for rank in range(self.ranks.world_size)
        ]

    def copy_state(self) -> TrainerState:
        """Copy all that the rest of the run depends on; several processes do it together."""
        parts = {
            "model": copy_parameters(self.model),
            "optimizer": copy_moments(self.descent, self.model),
            "state": gather_lanes(self.gather_states()),
            "best": self.best.weights,
        }
        arrays = {"generator": self.generator.get_state().numpy()}
        for prefix, found in parts.items():
            arrays |= add_prefix(prefix, found)
        best = self.best
        return TrainerState(
            arrays,
            {
                "step": self.step,
                "tokens": self.tokens,
                "evaluated": self.evaluated_tokens,
                "clipped": float(self.clipped_updates),
                "lanes": self.window_stream.get_position(),
                "best": [
                    best.loss if math.isfinite(best.loss) else None,
                    best.tokens,
                    best.stale_evaluations,
                ],
            },
        )

    def restore(self, state: TrainerState) -> None:
        """Go on from a copy. The model, the tunes and the settings must be the copy's own."""
        arrays, values = state.arrays, state.values
        restore_parameters(self.model, select_prefix("model", arrays))
        restore_moments(self.descent, self.model, select_prefix("optimizer", arrays))
        recurrent = select_prefix("state", arrays)
        shares = [self.ranks.get_lane_slice(n, self.crew.workers) for n in range(self.crew.workers)]
        self.states = scatter_lanes(recurrent, shares, self.model.device)
        self.generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self.window_stream.seek(values["lanes"])
        self.step, self.tokens, self.evaluated_tokens = (
            values[name] for name in ("step", "tokens", "evaluated")
        )
        self.read_tokens = self.tokens
        self.clipped_updates.fill_(values["clipped"])
        loss, tokens, stale = values["best"]
        loss = math.inf if loss is None else loss
        self.best = BestWeights(loss, tokens, stale, select_prefix("best", arrays))


def learning_rate_factor(progress_share: float, settings: TrainingSettings) -> float:
    """Return the share of the highest rate: linear warm-up, then half a cosine."""
    if progress_share < settings.warmup:
        return max(progress_share / settings.warmup, 0.01)
    turn = min(1.0, (progress_share - settings.warmup) / (1 - settings.warmup))
    final = settings.final_rate
    return final + (1 - final) * (1 + math.cos(math.pi * turn)) / 2


def window_length(progress_share: float, settings: TrainingSettings) -> int:
    """Return how many ids a window holds after a share of the planned tokens.

    Early on the loss falls with each update, whatever it learns from: short windows make many.
    What depends on more than they hold is learnt later, from long ones.
    """
    first, last = settings.first_bptt or settings.bptt, settings.bptt
    return min(last, first + int((last - first + 1) * progress_share))


def equalize_window_lengths(settings: TrainingSettings) -> TrainingSettings:
    """Return settings whose windows are all as long as makes a run cost what it costs with these.

    An update costs so much for itself and so much for each id: the mean of 1 / length counts.
    """
    lengths = [window_length((k + 0.5) / 1000, settings) for k in range(1000)]
    typical = round(1000 / sum(1 / length for length in lengths))
    return replace(settings, bptt=typical, first_bptt=0)
