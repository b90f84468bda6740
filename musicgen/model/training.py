"""Training with truncated backpropagation through time.

    trainer = Trainer(model, train_tunes, valid_tunes, settings)
    for progress in trainer.run():
        print(progress.tokens, progress.loss)
    trainer.best.weights    # of the lowest held-out loss, for a checkpoint

Whatever the run depends on stands in the trainer: the weights, the optimiser, the lanes and their
position, the recurrent states, the generators, the counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from musicgen.config import TrainingSettings
from musicgen.errors import MusicgenError
from musicgen.model.batches import Lanes, Window
from musicgen.model.crew import Crew, added, choose_workers
from musicgen.model.evaluation import Held, evaluate
from musicgen.model.network import LanguageModel, Masks, State, detach

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
    learning_rate: float
    rate: float  # tokens a second of this update, evaluations left out
    held: Held | None = None  # the held-out score, at intervals
    is_best: bool = False
    is_last: bool = False


@dataclass(slots=True)
class Best:
    """The weights with the lowest held-out loss."""

    loss: float = math.inf
    tokens: int = 0
    stale: int = 0  # evaluations since
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def offer(self, loss: float, tokens: int, model: LanguageModel) -> bool:
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
        model: LanguageModel,
        train: Sequence[np.ndarray],
        valid: Sequence[np.ndarray],
        settings: TrainingSettings,
        valid_notes: Sequence[int] | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.valid, self.valid_notes = valid, valid_notes
        self.epoch_tokens = sum(len(ids) for ids in train)
        shuffled = np.random.default_rng(settings.seed)
        self.lanes = Lanes(train, settings.lanes, settings.bptt, shuffled)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.optimizer = make_optimizer(model, settings)
        self.parameters = list(model.parameters())
        device = model.head.bias.device
        self.crew = Crew(choose_workers(device, settings.lanes, model.settings.hidden))
        self.states: list[State | None] = [None] * self.crew.workers
        self.step = self.tokens = self.evaluated = 0
        self.best = Best()

    def run(self) -> Iterator[Progress]:
        """Train to the planned tokens, or until the held-out loss falls no more."""
        for window in self.lanes:
            progress = self.update(window)
            if self.is_due(progress):
                progress = self.judged(progress)
            yield progress
            if progress.is_last:
                return

    def update(self, window: Window) -> Progress:
        """Learn from one window."""
        started = time.perf_counter()
        settings, planned = self.settings, self.settings.tokens
        learning_rate = settings.learning_rate * schedule(self.tokens / planned, settings)
        loss = self.backward(window)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.refuse_nan(loss, float(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.step += 1
        self.tokens += window.tokens
        rate = window.tokens / (time.perf_counter() - started)
        epoch = self.tokens / self.epoch_tokens
        return Progress(
            self.step, self.tokens, planned, epoch, loss, float(norm), learning_rate, rate
        )

    def backward(self, window: Window) -> float:
        """Run one window forward and backward; the state goes on, the gradient stops here."""
        masks = self.model.draw_masks(len(window.inputs), self.generator)
        shares = self.crew.each(lambda number: self.share(number, window, masks))
        for parameter, grad in zip(self.parameters, added([g for _, g in shares]), strict=True):
            parameter.grad = grad
        return sum(float(loss) for loss, _ in shares)

    def share(
        self, number: int, window: Window, masks: Masks | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the loss and the gradients of one worker's lanes, as parts of the window's."""
        device = self.model.head.bias.device
        lanes = slice(number, None, self.crew.workers)
        inputs = torch.from_numpy(window.inputs[lanes]).to(device)  # (lane, window)
        targets = torch.from_numpy(window.targets[lanes]).to(device)
        kept = masks and masks.share(lanes)
        logits, state = self.model(inputs, self.states[number], kept)
        loss = functional.cross_entropy(
            logits.transpose(0, 1).flatten(0, 1), targets.t().flatten(), reduction="sum"
        ).div(window.tokens)
        grads = torch.autograd.grad(loss, self.parameters)
        self.states[number] = detach(state)
        return loss.detach(), grads

    def refuse_nan(self, loss: float, norm: float) -> None:
        """Stop before a weight is touched by what is not a number."""
        if not math.isfinite(loss + norm):
            raise Diverged(
                f"update {self.step + 1}, after {self.tokens} tokens: loss {loss}, gradient norm "
                f"{norm}; nothing of it was kept. Lower the learning rate "
                f"(now {self.settings.learning_rate:g}) and start again"
            )

    def is_due(self, progress: Progress) -> bool:
        """Tell whether the held-out tunes are to be judged now."""
        every = self.settings.evaluate_every or max(
            self.epoch_tokens, self.settings.tokens // MOST_EVALUATIONS
        )
        return progress.tokens >= progress.planned or self.tokens >= self.evaluated + every

    def judged(self, progress: Progress) -> Progress:
        """Add the held-out score, keep the weights if they are the best so far."""
        self.evaluated = self.tokens
        held = evaluate(self.model, self.valid, self.valid_notes) if self.valid else None
        loss = held.loss if held else progress.loss
        is_best = self.best.offer(loss, self.tokens, self.model)
        over = progress.tokens >= progress.planned or self.best.stale >= self.settings.patience
        return replace(progress, held=held, is_best=is_best, is_last=over)


def make_optimizer(model: LanguageModel, settings: TrainingSettings) -> torch.optim.AdamW:
    """Make AdamW that decays matrices and leaves biases alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, settings.learning_rate, betas=(0.9, 0.99), fused=True)


def schedule(done: float, settings: TrainingSettings) -> float:
    """Return the share of the highest rate: linear warm-up, then half a cosine."""
    if done < settings.warmup:
        return max(done / settings.warmup, 0.01)
    turn = min(1.0, (done - settings.warmup) / (1 - settings.warmup))
    final = settings.final_rate
    return final + (1 - final) * (1 + math.cos(math.pi * turn)) / 2


def choose_device(name: str) -> torch.device:
    """Return the device of that name; auto is CUDA, else Apple's, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
