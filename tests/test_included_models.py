"""The models that come with musicgen load, name their sources, and write what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import musicgen
from musicgen.music.instrument_ranges import find_range

FOLDER: Final = Path(__file__).parents[1] / "checkpoints"
NAMES: Final = ("band", "drums", "folk")
NOTICES: Final = {"band": "Redistributions in binary form", "drums": "CC BY 4.0", "folk": "ryan"}


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


def test_notice_of_the_bands_is_kept_with_their_weights() -> None:
    notice = (FOLDER / "band" / "LICENSE.txt").read_text(encoding="utf-8")
    assert "Contributors to the Freedoom project" in notice
    assert "Redistributions of source code must retain" in notice


def test_band_writes_the_parts_that_are_asked_for() -> None:
    tune = musicgen.load("band").sample(seed=1, parts="melody,bass,drums", bars=8)
    assert [part.role for part in tune.score.parts] == ["melody", "bass", "drums"]
    assert [part.is_drums for part in tune.score.parts] == [False, False, True]
    assert tune.bars == 8
    in_range = [
        low <= note.pitch <= high
        for note in tune.score.notes
        if not tune.score.parts[note.part].is_drums
        for low, high in [find_range(tune.score.parts[note.part].program) or (0, 127)]
    ]
    assert sum(in_range) >= 0.9 * len(in_range)


def test_drums_write_drums_only() -> None:
    tune = musicgen.load("drums").sample(seed=1, bars=8)
    assert tune.score.notes
    assert all(part.is_drums for part in tune.score.parts)
