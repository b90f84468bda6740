from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

from musicgen.config import TrainingSettings
from musicgen.model.crew import Crew
from musicgen.model.descent import Descent, dealt, make_optimizer

SETTINGS = TrainingSettings(tokens=100, clip=0.5, weight_decay=0.1)


def draw_parameters(seed: int) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 3), (4,), (2, 2), (9,))
    ]


@given(st.lists(st.integers(0, 1000), min_size=1), st.integers(1, 9))
def test_weights_are_distributed_evenly(sizes: list[int], parts: int) -> None:
    owned = dealt(sizes, parts)
    assert sorted(index for indices in owned for index in indices) == list(range(len(sizes)))
    assert all(owned)
    assert len(owned) == min(parts, len(sizes))
    largest = max(sum(sizes[index] for index in indices) for indices in owned)
    assert largest <= sum(sizes) / len(owned) + max(sizes)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [0.01, 100.0])
def test_update_equals_adamw_after_clipping_in_torch(workers: int, length: float) -> None:
    weights, expected_weights = draw_parameters(1), draw_parameters(1)
    descent = Descent(weights, SETTINGS, Crew(workers))
    reference = make_optimizer(expected_weights, SETTINGS)
    for step in range(1, 4):
        shares = [
            [part.detach() * length for part in draw_parameters(step * 10 + k)] for k in range(3)
        ]
        for weight, *grads in zip(expected_weights, *shares, strict=True):
            weight.grad = torch.stack(grads).sum(0)
        expected = torch.nn.utils.clip_grad_norm_(expected_weights, SETTINGS.clip)
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 0.1 / step
        reference.step()
        descent.gather(shares)
        norm = descent.norm()
        descent.step(0.1 / step, norm)
        assert norm == pytest.approx(float(expected), rel=1e-6)
        assert descent.learning_rate == 0.1 / step
        for weight, expected_weight in zip(weights, expected_weights, strict=True):
            assert torch.allclose(weight, expected_weight, rtol=1e-5, atol=1e-6)


def test_moments_belong_to_their_weights() -> None:
    weights = draw_parameters(2)
    descent = Descent(weights, SETTINGS, Crew(2))
    descent.gather([[torch.full_like(weight, index + 1.0) for index, weight in enumerate(weights)]])
    descent.step(0.1, descent.norm())
    moments = dict(descent.moments())
    assert list(map(id, sorted(moments, key=id))) == sorted(map(id, weights))
    means = [float(moments[weight]["exp_avg"].flatten()[0]) for weight in weights]
    assert [mean / means[0] for mean in means] == pytest.approx([1, 2, 3, 4])
