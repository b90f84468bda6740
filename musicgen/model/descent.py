"""AdamW whose weights are dealt out to a crew: what one core owns, it adds up, clips and moves.

An update passes over all weights some ten times. Beside the products of a small window that is
no small part of the time, and one core would do it while the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from musicgen.config import TrainingSettings
from musicgen.model.crew import Crew, Result, added


class Descent:
    """The optimiser of a run: gradients clipped by their norm, AdamW, one rate for all weights."""

    def __init__(
        self, parameters: Sequence[Parameter], settings: TrainingSettings, crew: Crew
    ) -> None:
        self.parameters, self.clip, self.crew = list(parameters), settings.clip, crew
        self.owned = dealt([weight.numel() for weight in self.parameters], crew.workers)
        self.optimizers = [
            make_optimizer([self.parameters[place] for place in places], settings)
            for places in self.owned
        ]

    @property
    def learning_rate(self) -> float:
        """The rate of the last update."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in self.parameters:
            weight.grad = None

    def gather(self, shares: Sequence[Sequence[Tensor]]) -> None:
        """Take each share's gradients, parameter by parameter, and add them up."""

        def add(part: int) -> None:
            places = self.owned[part]
            grads = added([[share[place] for place in places] for share in shares])
            for place, grad in zip(places, grads, strict=True):
                self.parameters[place].grad = grad

        self.each(add)

    def norm(self) -> Tensor:
        """Return the norm of the whole gradient, before clipping."""
        norms = self.each(lambda part: torch.nn.utils.get_total_norm(self.grads(part)))
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def step(self, learning_rate: float, norm: Tensor) -> None:
        """Shorten the gradient to `clip` where its norm is longer, and move the weights."""
        scale = torch.clamp(self.clip / (norm + 1e-6), max=1.0)

        def move(part: int) -> None:
            torch._foreach_mul_(self.grads(part), scale)
            for group in self.optimizers[part].param_groups:
                group["lr"] = learning_rate
            self.optimizers[part].step()

        self.each(move)

    def each(self, work: Callable[[int], Result]) -> list[Result]:
        """Do the work of each part at once."""
        return self.crew.each(work, len(self.owned))

    def grads(self, part: int) -> list[Tensor]:
        """Return the gradients of one part's weights."""
        found = (self.parameters[place].grad for place in self.owned[part])
        return [grad for grad in found if grad is not None]

    def moments(self) -> Iterator[tuple[Parameter, dict[str, Any]]]:
        """Go through the weights with what is remembered of each: a dictionary to read or fill."""
        for part, optimizer in enumerate(self.optimizers):
            for place in self.owned[part]:
                yield self.parameters[place], optimizer.state[self.parameters[place]]


def dealt(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Deal places out to at most so many parts of about equal size, none of them empty."""
    owned: list[list[int]] = [[] for _ in range(min(parts, len(sizes)))]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        least = min(owned, key=lambda part: (sum(sizes[own] for own in part), len(part)))
        least.append(place)
    return [sorted(places) for places in owned]


def make_optimizer(
    parameters: Sequence[Parameter], settings: TrainingSettings
) -> torch.optim.AdamW:
    """Make AdamW that decays matrices and leaves biases alone."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return torch.optim.AdamW(kept, settings.learning_rate, betas=(0.9, 0.99), fused=True)
