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


def drawn(seed: int) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 3), (4,), (2, 2), (9,))
    ]


@given(st.lists(st.integers(0, 1000), min_size=1), st.integers(1, 9))
def test_each_weight_has_one_owner_and_no_owner_far_more_than_his_share(
    sizes: list[int], parts: int
) -> None:
    owned = dealt(sizes, parts)
    assert sorted(place for places in owned for place in places) == list(range(len(sizes)))
    assert all(owned)
    assert len(owned) == min(parts, len(sizes))
    most = max(sum(sizes[place] for place in places) for places in owned)
    assert most <= sum(sizes) / len(owned) + max(sizes)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [0.01, 100.0])
def test_an_update_is_that_of_adamw_after_torchs_own_clipping(workers: int, length: float) -> None:
    mine, theirs = drawn(1), drawn(1)
    descent = Descent(mine, SETTINGS, Crew(workers))
    reference = make_optimizer(theirs, SETTINGS)
    for step in range(1, 4):
        shares = [[part.detach() * length for part in drawn(step * 10 + k)] for k in range(3)]
        for weight, *grads in zip(theirs, *shares, strict=True):
            weight.grad = torch.stack(grads).sum(0)
        expected = torch.nn.utils.clip_grad_norm_(theirs, SETTINGS.clip)
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = 0.1 / step
        reference.step()
        descent.gather(shares)
        norm = descent.norm()
        descent.step(0.1 / step, norm)
        assert norm == pytest.approx(float(expected), rel=1e-6)
        assert descent.learning_rate == 0.1 / step
        for weight, other in zip(mine, theirs, strict=True):
            assert torch.allclose(weight, other, rtol=1e-5, atol=1e-6)


def test_what_is_remembered_belongs_to_its_weight() -> None:
    weights = drawn(2)
    descent = Descent(weights, SETTINGS, Crew(2))
    descent.gather([[torch.full_like(weight, place + 1.0) for place, weight in enumerate(weights)]])
    descent.step(0.1, descent.norm())
    remembered = dict(descent.moments())
    assert list(map(id, sorted(remembered, key=id))) == sorted(map(id, weights))
    means = [float(remembered[weight]["exp_avg"].flatten()[0]) for weight in weights]
    assert [mean / means[0] for mean in means] == pytest.approx([1, 2, 3, 4])
