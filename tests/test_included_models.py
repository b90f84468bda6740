"""The models that come with musicgen load, name their sources, and write what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import musicgen
from musicgen.formats import musicxml
from musicgen.music.roles import CHOIR_PROGRAM
from musicgen.music.score import CHOIR_ROLES, Score

FOLDER: Final = Path(__file__).parents[1] / "checkpoints"
NAMES: Final = ("band", "chorale", "drums", "folk", "lead")
NOTICES: Final = {
    "band": "Contributors to the Freedoom project", "chorale": "Margaret Greentree",
    "drums": "CC BY 4.0", "folk": "ryan", "lead": "GPL-3.0",
}  # fmt: skip


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


def test_band_plays_around_a_melody() -> None:
    model = musicgen.load("band")
    melody = musicgen.load("folk").sample(seed=1, key="Am", meter="4/4", bars=8, form="through")
    tune = model.sample(given=melody.score, parts=("bass", "drums"), seed=1)
    assert [part.role for part in tune.parts] == ["melody", "bass", "drums"]
    pitches = [note.pitch for note in tune.score.notes if note.part == 0]
    assert pitches == [note.pitch for note in melody.score.notes]


def test_licence_lies_beside_the_weights_that_have_one_of_their_own() -> None:
    text = (FOLDER / "lead" / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in text
    assert "Version 3" in text


def test_lead_writes_chords_to_a_melody_and_a_melody_to_chords() -> None:
    model = musicgen.load("lead")
    tune = model.sample(seed=1, chords="D | D | G A7 | D", bars=4)
    assert [mark.value for mark in tune.score.of("chord")] == ["D", "D", "G", "A7", "D"]
    harmonised = model.sample(seed=1, given=tune.score, given_parts="melody")
    pairs = zip(harmonised.score.notes, tune.score.notes, strict=True)
    assert all((a.onset, a.pitch) == (b.onset, b.pitch) for a, b in pairs)
    assert list(harmonised.score.of("chord"))


def test_chorale_sings_in_four_voices() -> None:
    tune = musicgen.load("chorale").sample(seed=1)
    assert [part.role for part in tune.score.parts] == ["soprano", "alto", "tenor", "bass"]
    assert {part.program for part in tune.score.parts} == {CHOIR_PROGRAM}
    assert any(tune.score.of("fermata"))


@pytest.mark.parametrize("given", [("bass",), ("soprano", "bass")])
def test_chorale_harmonises_any_voices(given: tuple[str, ...], tmp_path: Path) -> None:
    model = musicgen.load("chorale")
    whole = model.sample(seed=2)
    numbers = [CHOIR_ROLES.index(role) for role in given]
    path = tmp_path / "given.musicxml"
    path.write_bytes(musicxml.render(whole.score.select_parts(numbers)))
    score = model.sample(given=path, seed=3).score
    by_role = {part.role: number for number, part in enumerate(score.parts)}
    assert set(by_role) == set(CHOIR_ROLES)
    for number, role in zip(numbers, given, strict=True):
        assert list_notes(score, by_role[role]) == list_notes(whole.score, number)


def list_notes(score: Score, part: int) -> list[tuple[int, int, int]]:
    return [(n.onset, n.pitch, n.duration) for n in score.canonical().notes if n.part == part]


def test_drums_write_drums_only() -> None:
    tune = musicgen.load("drums").sample(seed=1, bars=8)
    assert tune.score.notes
    assert all(part.is_drums for part in tune.score.parts)
