"""Wishes of a program: numbers of NumPy, lists, and values of the wrong kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from musicgen import Model, load
from musicgen.errors import InvalidValue
from musicgen.sampling.options import SamplingOptions
from musicgen.sampling.recipe import Recipe
from tests.fake_models import untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(untrained(tmp_path_factory.mktemp("models") / "untrained"))


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"bars": np.int64(16)}, {"bars": 16}),
        ({"temperature": np.float64(0.9)}, {"temperature": 0.9}),
        ({"tempo": np.float32(90)}, {"tempo": 90.0}),
        ({"key": np.str_("Dmix")}, {"key": "Dmix"}),
        ({"range": [60, 84]}, {"range": (60, 84)}),
        ({"range": np.array([60, 84])}, {"range": (60, 84)}),
        ({"range": (np.int32(60), np.int64(84))}, {"range": "C4-C6"}),
    ],
)
def test_numpy_numbers_and_lists_are_valid_options(
    given: dict[str, Any], plain: dict[str, Any]
) -> None:
    options = SamplingOptions.parse(**given)
    assert options == SamplingOptions.parse(**plain)
    assert SamplingOptions.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    "value", [("a", 3), (1, 2, 3), (), [None], (84, 60), (60.5, 70), (-1, 60), (60, 128), (0, 1e9)]
)
def test_invalid_ranges_are_refused(value: Any) -> None:
    with pytest.raises(InvalidValue, match=r"range .*: name its lowest and highest note"):
        SamplingOptions.parse(range=value)


def test_errors_shorten_long_dance_names(model: Model) -> None:
    for name in ("x" * 90, "x" * 10_000):
        with pytest.raises(InvalidValue) as refusal:
            model.sample(rhythm=name, seed=1)
        assert "x" * 41 not in str(refusal.value)


def test_a_seed_is_an_integer_of_any_library(model: Model) -> None:
    tune = model.sample(bars=2, seed=np.int64(5))  # type: ignore[arg-type]
    assert tune.recipe == model.sample(bars=2, seed=5).recipe
    assert Recipe.from_text(tune.recipe.to_text()) == tune.recipe
    assert tune.tweak(seed=np.uint8(3)).seed == 3


@pytest.mark.parametrize("name", ["seed", "number"])
@pytest.mark.parametrize("value", ["x", 1.5, b"1"])
def test_a_non_integer_seed_is_refused(model: Model, name: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"{name} .*: write a whole number"):
        model.sample(bars=2, **{"seed": 1} | {name: value})
