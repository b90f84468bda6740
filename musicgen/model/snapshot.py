"""All that a training run depends on, as arrays and plain values: what resuming needs.

Arrays are named by what they belong to: `model/NAME`, `optimizer/NAME/MOMENT`,
`state/LAYER/PART` (lane first), `generator`, `best/NAME`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from musicgen.model.descent import Descent

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
