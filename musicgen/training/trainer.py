"""Training with truncated backpropagation through time.

    trainer = Trainer(model, train_tunes, valid_tunes, settings)
    for progress in trainer.run():
        print(progress.tokens, progress.loss)
    trainer.best.weights    # those with the lowest held-out loss

A `Trainer` holds everything that a run depends on: weights, optimizer moments, positions of the
lanes, recurrent states, random generators, counts. `copy_state` copies all of it and `restore`
restores it; the continuation is then bit-identical on the same machine. A `TrainerState` consists
of arrays and JSON values. The arrays are named `model/NAME`, `optimizer/NAME/MOMENT`,
`state/LAYER/PART` (lane first), `generator` and `best/NAME`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from musicgen.checkpoint import Weights
from musicgen.config import TrainingSettings
from musicgen.errors import MusicgenError
from musicgen.evaluation.heldout_score import HeldOutScore
from musicgen.model.devices import (
    autocast,
    get_memory_in_use,
    keep_freed_memory,
    send,
    to_staged_tensor,
)
from musicgen.model.network import RecurrentState, SequenceModel, detach, reset_lanes
from musicgen.music.arrays import TokenIds
from musicgen.tokens.context_source import WholeContexts
from musicgen.training.batches import Window, WindowStream
from musicgen.training.distributed import SINGLE_PROCESS, Ranks
from musicgen.training.heldout_loss import evaluate, make_context_cache
from musicgen.training.run_folder import AnyArray, Arrays


@dataclass(frozen=True)
class TrainerState:
    """The state of a training run between two updates."""

    arrays: Arrays  # by name, of any shape and dtype
    values: dict[str, Any]  # JSON values


def to_numpy(tensor: Tensor) -> AnyArray:
    """Copy a tensor (...) of any dtype to an array of the same shape and dtype."""
    return tensor.detach().to("cpu", copy=True).numpy()


def copy_into(tensor: Tensor, values: AnyArray) -> None:
    """Copy an array into a tensor of the same shape (...), any dtype, in place."""
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values))


def select_prefix(prefix: str, arrays: Mapping[str, AnyArray]) -> Arrays:
    """Select the arrays (...), any dtype, whose names start with a prefix, and strip it."""
    start = prefix + "/"
    return {
        name.removeprefix(start): values
        for name, values in arrays.items()
        if name.startswith(start)
    }


def add_prefix(prefix: str, arrays: Mapping[str, AnyArray]) -> Arrays:
    """Add a prefix to the names of arrays (...), any dtype."""
    return {f"{prefix}/{name}": values for name, values in arrays.items()}


def copy_parameters(module: SequenceModel) -> Arrays:
    """Copy the parameters of a model, in their own dtype."""
    return {name: to_numpy(parameter) for name, parameter in module.named_parameters()}


def restore_parameters(module: SequenceModel, arrays: Mapping[str, AnyArray]) -> None:
    """Restore the parameters of a model from arrays of their shapes (...) and any dtype."""
    for name, parameter in module.named_parameters():
        copy_into(parameter, arrays[name])


def copy_moments(optimizer: torch.optim.Optimizer, module: SequenceModel) -> Arrays:
    """Copy the optimizer state of each parameter."""
    return {
        f"{name}/{moment}": to_numpy(value)
        for name, parameter in module.named_parameters()
        for moment, value in optimizer.state[parameter].items()
    }


def restore_moments(
    optimizer: torch.optim.Optimizer, module: SequenceModel, arrays: Mapping[str, AnyArray]
) -> None:
    """Replace the optimizer state by saved arrays, of the shapes (...) of the parameters or ().

    Args:
        optimizer: of the model.
        module: the model that it updates.
        arrays: by parameter and moment, float32.
    """
    optimizer.state.clear()
    parameters = dict(module.named_parameters())
    for key, values in arrays.items():
        name, moment = key.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][moment] = torch.from_numpy(values.copy()).to(parameter.device)


def copy_lanes(state: RecurrentState | None, ranks: Ranks) -> Arrays:
    """Copy the state of all lanes of all processes: (lane, ...) each, by LAYER/PART."""
    return {
        f"{layer}/{number}": to_numpy(torch.stack(ranks.all_gather(part), 1).flatten(0, 1))
        for layer, parts in enumerate(state or ())
        for number, part in enumerate(parts)
    }


def build_state(
    arrays: Mapping[str, AnyArray], lanes: slice, device: torch.device
) -> RecurrentState:
    """Build the recurrent state of some lanes from arrays by LAYER/PART, (lane, hidden) float32."""
    layers: dict[int, list[Tensor]] = {}
    for key in sorted(arrays, key=lambda key: tuple(map(int, key.split("/")))):
        tensor = torch.from_numpy(arrays[key][lanes].copy()).to(device)
        layers.setdefault(int(key.split("/")[0]), []).append(tensor)
    return tuple(tuple(parts) for parts in layers.values())


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: TrainingSettings
) -> torch.optim.AdamW:
    """Make AdamW, which decays matrices and leaves biases alone."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    filled_groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled_groups, settings.learning_rate, betas=ADAM_BETAS, fused=True)


ADAM_BETAS: Final = (0.9, 0.99)
READ_INTERVAL: Final = 10  # updates between reads of the loss on a GPU; each read synchronises
MAX_EVALUATIONS: Final = 60  # per run: a small corpus is not evaluated after each epoch


class Diverged(MusicgenError):
    """The loss or the gradient is not finite; the best weights so far are unaffected."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The measurements of one update, and of the evaluation that may follow it."""

    step: int  # updates so far
    tokens: int  # training tokens so far
    planned_tokens: int
    epoch: float  # tokens over the tokens of the training split
    loss: float  # nats per token of this window, with dropout
    gradient_norm: float  # before clipping
    clipped_share: float  # share of the updates so far whose gradient was clipped
    learning_rate: float
    tokens_per_second: float  # since the last read, without evaluations
    memory_bytes: int  # in use: memory of the GPU, or of this process
    held_out_score: HeldOutScore | None = None  # after an evaluation
    copied_share: float | None = None  # share of sampled n-grams that are copied, if measured
    form_figures: Mapping[str, float] | None = None  # of sampled tunes, if measured
    is_best: bool = False
    is_last: bool = False


@dataclass(slots=True)
class BestWeights:
    """The weights with the lowest held-out loss."""

    loss: float = math.inf  # nats per token
    tokens: int = 0  # training tokens
    stale_evaluations: int = 0  # evaluations since then
    weights: Weights = field(default_factory=dict)

    def keep_if_better(self, loss: float, tokens: int, model: SequenceModel) -> bool:
        """Keep the weights of the model if `loss` is lower; tell whether it is."""
        if not loss < self.loss:
            self.stale_evaluations += 1
            return False
        self.weights = model.copy_weights()
        self.loss, self.tokens, self.stale_evaluations = loss, tokens, 0
        return True


class Trainer:
    """Trains a model: the state of a run, and the loop over windows.

    Args:
        model: to train, on its device.
        train: the training tunes, (token,) int16 or int64 each.
        valid: the validation tunes; () disables evaluation.
        settings: of the run.
        valid_notes: notes of each validation tune; None counts each id as a note.
        ranks: the processes that train together.
        pitch_ranges: the ids to transpose, if settings.transposed.
        context_source: of the fields that the model reads; None: that of its codec.

    Raises:
        InvalidValue: the processes cannot share the lanes evenly.
    """

    def __init__(
        self,
        model: SequenceModel,
        train: Sequence[TokenIds],
        valid: Sequence[TokenIds],
        settings: TrainingSettings,
        valid_notes: Sequence[int] | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        pitch_ranges: Sequence[range] = (),
        context_source: WholeContexts | None = None,
    ) -> None:
        ranks.check_lanes_divisible(settings.lanes)
        self.model, self.settings, self.ranks = model, settings, ranks
        self.wrapped_model = ranks.wrap_model(model)  # averages the gradients of the processes
        self.valid, self.valid_notes = valid, valid_notes
        self.epoch_tokens = sum(len(ids) for ids in train)
        keep_freed_memory()
        generator = np.random.default_rng(settings.seed)
        transposed_ranges = pitch_ranges if settings.transposed else ()
        self.valid_contexts = make_context_cache(model, valid, context_source)
        self.window_stream = WindowStream(
            train,
            settings.lanes,
            generator,
            transposed_ranges,
            make_context_cache(model, train, context_source),
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.parameters = list(model.parameters())
        self.read_interval = 1 if model.device.type == "cpu" else READ_INTERVAL
        self.optimizer = make_optimizer(self.parameters, settings)
        self.lanes = slice(ranks.rank, None, ranks.world_size)  # of this process
        self.state: RecurrentState | None = None  # of these lanes, after the last window
        self.step = self.tokens = self.evaluated_tokens = 0
        self.clipped_updates = torch.zeros((), device=model.device)
        self.read_tokens, self.read_time = 0, time.perf_counter()  # at the last read
        self.best = BestWeights()

    def run(self) -> Iterator[Progress]:
        """Train for the planned tokens, or until the held-out loss stops falling.

        Raises:
            Diverged: the loss or the gradient is not finite.
        """
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
        """Cut the next window; its length grows during the run (see `window_length`)."""
        return self.window_stream.next_window(
            window_length(self.tokens / self.settings.tokens, self.settings)
        )

    def train_on_window(self, window: Window) -> Progress:
        """Do one update, and read its measurements."""
        self.read_time = time.perf_counter()
        return self.read_progress(self.update_weights(window))

    def update_weights(self, window: Window) -> Tensor:
        """Do one update; return its loss and gradient norm, (2,) float32, still on the device."""
        settings = self.settings
        learning_rate = settings.learning_rate * learning_rate_factor(
            self.tokens / settings.tokens, settings
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self.backward(window)
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        measured = torch.stack([loss, norm])
        if self.model.device.type == "cpu":
            self.check_finite_loss(measured)
        self.optimizer.step()
        self.clipped_updates += norm > settings.clip
        self.step += 1
        self.tokens += window.token_count
        return measured

    def read_progress(self, loss_and_norm: Tensor) -> Progress:
        """Return the progress of the run.

        Args:
            loss_and_norm: (2,) float32, from `update_weights`.
        """
        self.check_finite_loss(loss_and_norm)
        loss, norm = loss_and_norm.tolist()
        settings, tokens = self.settings, self.tokens
        rate = (tokens - self.read_tokens) / (time.perf_counter() - self.read_time)
        self.read_tokens = tokens
        return Progress(
            step=self.step,
            tokens=tokens,
            planned_tokens=settings.tokens,
            epoch=tokens / self.epoch_tokens,
            loss=loss,
            gradient_norm=norm,
            clipped_share=float(self.clipped_updates) / self.step,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            tokens_per_second=rate,
            memory_bytes=get_memory_in_use(self.model.device),
        )

    def backward(self, window: Window) -> Tensor:
        """Run this process's lanes of a window forward and backward; return the loss, () float32.

        The loss is the mean over the targets of all lanes. The recurrent state is carried to the
        next window; the gradient is not.
        """
        device = self.model.device
        masks = self.model.draw_masks(len(window.inputs), self.generator)
        inputs = to_staged_tensor(window.inputs[self.lanes], device)  # (lane, window)
        targets = send(to_staged_tensor(window.targets[self.lanes], device), device)
        starts = send(to_staged_tensor(window.starts[self.lanes], device), device)
        state = reset_lanes(self.state or self.model.start(len(inputs)), starts)
        with autocast(device, self.settings.precision):
            logits, state = self.wrapped_model(
                inputs,
                state,
                masks and masks.select_lanes(self.lanes),
                None
                if window.context is None
                else to_staged_tensor(window.context[self.lanes], device),
            )
        losses = functional.cross_entropy(
            logits.transpose(0, 1).flatten(0, 1).float(), targets.t().flatten(), reduction="sum"
        )
        loss = losses / window.token_count
        self.state = detach(state)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.ranks.world_size).backward()  # type: ignore[no-untyped-call]
        return self.ranks.all_reduce(loss.detach())

    def check_finite_loss(self, loss_and_norm: Tensor) -> None:
        """Check the loss and gradient norm, (2,) float32, of an update.

        Raises:
            Diverged: one of them is not finite.
        """
        loss, norm = loss_and_norm.tolist()
        if not math.isfinite(loss + norm):
            raise Diverged(
                f"update {self.step + 1}, after {self.tokens} tokens: loss {loss}, gradient norm "
                f"{norm}; the update was discarded. Lower the learning rate "
                f"(now {self.settings.learning_rate:g}) and start again"
            )

    def is_evaluation_due(self) -> bool:
        """Tell whether to evaluate the held-out tunes now."""
        evaluate_every = self.settings.evaluate_every or max(
            self.epoch_tokens, self.settings.tokens // MAX_EVALUATIONS
        )
        return self.tokens >= min(self.settings.tokens, self.evaluated_tokens + evaluate_every)

    def evaluate_progress(self, progress: Progress) -> Progress:
        """Score the held-out tunes, and keep the weights if they are the best so far."""
        self.evaluated_tokens = self.tokens
        score = None
        if self.valid:
            score = evaluate(
                self.model,
                self.valid,
                self.valid_notes,
                self.ranks,
                self.settings.precision,
                self.valid_contexts,
            )
        loss = (
            score.loss if score else -float(self.tokens)
        )  # without an evaluation, the latest weights are the best
        is_best = self.best.keep_if_better(loss, self.tokens, self.model)
        is_last = (
            progress.tokens >= progress.planned_tokens
            or self.best.stale_evaluations >= self.settings.patience
        )
        return replace(progress, held_out_score=score, is_best=is_best, is_last=is_last)

    def copy_state(self) -> TrainerState:
        """Copy everything that the rest of the run depends on; all processes must call this."""
        parts = {
            "model": copy_parameters(self.model),
            "optimizer": copy_moments(self.optimizer, self.model),
            "state": copy_lanes(self.state, self.ranks),
            "best": self.best.weights,
        }
        arrays = {"generator": self.generator.get_state().numpy()}
        for prefix, part_arrays in parts.items():
            arrays |= add_prefix(prefix, part_arrays)
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
        """Restore a copied state, of the same model, tunes and settings."""
        arrays, values = state.arrays, state.values
        restore_parameters(self.model, select_prefix("model", arrays))
        restore_moments(self.optimizer, self.model, select_prefix("optimizer", arrays))
        state_arrays = select_prefix("state", arrays)
        if state_arrays:
            self.state = build_state(state_arrays, self.lanes, self.model.device)
        self.generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self.window_stream.seek(values["lanes"])
        self.step, self.tokens, self.evaluated_tokens = (
            values[name] for name in ("step", "tokens", "evaluated")
        )
        self.read_tokens = self.tokens
        self.clipped_updates.fill_(values["clipped"])
        loss, tokens, stale_evaluations = values["best"]
        loss = math.inf if loss is None else loss
        self.best = BestWeights(loss, tokens, stale_evaluations, select_prefix("best", arrays))


def learning_rate_factor(progress_share: float, settings: TrainingSettings) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then cosine decay.

    Source: Loshchilov and Hutter, "SGDR", 2017.

    Args:
        progress_share: tokens so far over planned tokens.
        settings: of the run.
    """
    if progress_share < settings.warmup:
        return max(progress_share / settings.warmup, 0.01)
    decay_share = min(1.0, (progress_share - settings.warmup) / (1 - settings.warmup))
    final = settings.final_rate
    return final + (1 - final) * (1 + math.cos(math.pi * decay_share)) / 2


def window_length(progress_share: float, settings: TrainingSettings) -> int:
    """Return the window length, in ids, after a share of the planned tokens.

    At first the loss depends only on the number of updates: short windows allow many. Longer
    dependencies are learnt later, from long windows.
    """
    first_length, last_length = settings.first_bptt or settings.bptt, settings.bptt
    return min(last_length, first_length + int((last_length - first_length + 1) * progress_share))


def equalize_window_lengths(settings: TrainingSettings) -> TrainingSettings:
    """Return settings with one window length for which a run takes as long as with these.

    The time of an update is a constant plus a time per id, so the mean of 1 / length is kept.
    """
    lengths = [window_length((step + 0.5) / 1000, settings) for step in range(1000)]
    mean_length = round(1000 / sum(1 / length for length in lengths))
    return replace(settings, bptt=mean_length, first_bptt=0)
