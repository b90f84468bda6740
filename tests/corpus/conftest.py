"""Generated tune books."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

Book = Callable[..., Path]


def tune(number: int, title: str = "", key: str = "D") -> str:
    """Return a jig of eight bars, drawn from its number."""
    rng = random.Random(number)
    bars = ["".join(rng.choice("DEFGABcd") for _ in range(6)) for _ in range(8)]
    head = f"X:{number}\nT:{title or f'Tune {number}'}\nM:6/8\nL:1/8\nR:jig\nK:{key}\n"
    return head + "|:" + "|".join(bars) + ":|\n"


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return a function that writes tunes by their numbers to a file and returns its folder."""

    def write(name: str, *numbers: int, folder: str = "tunes", extra: str = "") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*map(tune, numbers), extra]), "utf-8")
        return tmp_path / folder

    return write
