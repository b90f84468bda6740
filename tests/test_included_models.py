"""The models that come with musicgen load, name their sources, and write what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import musicgen

FOLDER: Final = Path(__file__).parents[1] / "checkpoints"
NAMES: Final = ("drums", "folk")
NOTICES: Final = {"drums": "CC BY 4.0", "folk": "ryan"}


def test_each_folder_of_checkpoints_is_a_model() -> None:
    shipped = {path.name for path in FOLDER.iterdir() if (path / "manifest.json").exists()}
    assert shipped >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_quotes_the_terms_of_the_sources(name: str) -> None:
    card = (FOLDER / name / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert NOTICES[name] in card
    assert "bits per note" in card


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 10 * 2**20


def test_drums_write_drums_only() -> None:
    tune = musicgen.load("drums").sample(seed=1, bars=8)
    assert tune.score.notes
    assert all(part.is_drums for part in tune.score.parts)
