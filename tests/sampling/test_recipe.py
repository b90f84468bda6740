"""Recipes from other writers are read or refused, with any number in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from musicgen.errors import InvalidValue
from musicgen.sampling.recipe import Recipe

FOUND: dict[str, Any] = {
    "musicgen": "1", "model": {"name": "folk", "version": 1, "fingerprint": "f"}, "notes": "n",
    "seed": 1, "number": 0, "wishes": {"bars": 8, "key": "Edor"},
    "drawn": {"meter": "4/4", "mode": "dorian", "rhythm": "reel", "parts": 1, "tonic": "E",
              "qpm": 100.0},
    "primer": {"meter": "4/4", "key": "D", "rhythm": "reel", "tempo": 90, "end": 0,
               "bars": [["bar", 700]]},
    "keep": {"ids": [1], "bars": [[1, 1]], "candidates": 2},
}  # fmt: skip
LONG = json.dumps("x" * 5_000)
HUGE = "1" + "0" * 400
PLACES = (
    "seed", "number", "model.version", "wishes.bars", "wishes.tempo", "wishes.key", "drawn.qpm",
    "drawn.parts", "drawn.meter", "primer.tempo", "primer.end", "keep.candidates",
)  # fmt: skip


def text_with(field: str, value: str) -> str:
    """Return a recipe with some JSON in one place."""
    recipe = json.loads(json.dumps(FOUND))
    *folders, name = field.split(".")
    inner = recipe
    for folder in folders:
        inner = inner[folder]
    inner[name] = "HERE"
    return json.dumps(recipe).replace('"HERE"', value)


def test_a_recipe_is_read() -> None:
    recipe = Recipe.from_text(json.dumps(FOUND))
    assert Recipe.from_text(recipe.to_text()) == recipe


@pytest.mark.parametrize("field", PLACES)
@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "Infinity", "[]", "1" * 5000])
def test_non_numbers_are_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidValue, match="its recipe cannot be read"):
        Recipe.from_text(text_with(field, value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("drawn.qpm", HUGE), ("drawn.qpm", '"x"'), ("drawn.parts", "2.5"), ("drawn.meter", "4"),
        ("primer.tempo", HUGE), ("wishes.bars", "2.5"), ("wishes.key", "4"),
        ("wishes.tempo", HUGE), ("keep.candidates", HUGE),
        ("primer.bars", "[]"), ("primer.bars", "[[]]"), ("primer.bars", '[["nothing"]]'),
        ("primer.bars", '[["bar", 30000]]'), ("primer.bars", '[["bar", -1]]'),
        ("primer.bars", '[["bar", "x"]]'), ("drawn.tonic", '"H"'),
        ("keep.ids", "[-1]"), ("keep.bars", "[[2, 1]]"), ("keep.bars", "[]"),
        ("wishes.program", '"²"'), ("wishes.pickup", '"1e-9999999"'), ("wishes.odd", "1"),
        ("model.name", "5"), ("model.name", '""'), ("engine", '"perl"'), ("writes_primer", "1"),
    ],
)  # fmt: skip
def test_a_number_that_fits_nowhere_is_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidValue, match="its recipe cannot be read"):
        Recipe.from_text(text_with(field, value))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("drawn.meter", '"7/99"', "meter 7/99 is unknown"),
     ("drawn.rhythm", LONG, r"rhythm x{40}\.\.\. is unknown"),
     ("wishes.rhythm", LONG, "wishes.rhythm: expected str of length <= 100")],
)  # fmt: skip
def test_unknown_header_events_are_named_in_the_error(field: str, value: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message) as refusal:
        Recipe.from_text(text_with(field, value))
    assert "Event(" not in str(refusal.value)
