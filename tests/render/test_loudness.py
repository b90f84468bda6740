"""Loudness of parts: no part drowns another, and one part alone sounds as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from musicgen.music.score import Mark, Note, Part, Score
from musicgen.render.loudness import ROLE_DECIBELS, find_part_gains
from musicgen.render.synth import synthesise

BAR = 192
ROLES = ("melody", "bass", "drums")


def make_band(velocities: tuple[int, int, int] = (100, 100, 100)) -> Score:
    lines = ((72, 74, 76, 77), (36, 36, 43, 43), (36, 38, 36, 38))
    notes = tuple(
        Note(bar * BAR + beat * 48, pitch, 48, velocities[part], part)
        for bar in range(2)
        for part, line in enumerate(lines)
        for beat, pitch in enumerate(line)
    )
    parts = (Part("lead", 56, role="melody"), Part("bass", 33, role="bass"),
             Part("kit", 0, is_drums=True, role="drums"))  # fmt: skip
    return Score(notes, (Mark(BAR, "bar"), Mark(2 * BAR, "bar")), parts)


def measure_shares(score: Score) -> list[float]:
    """Return the level of each part in the mix in decibels, by leaving each of the others out."""
    whole = synthesise(score)
    levels = []
    for number in range(len(score.parts)):
        rest = replace(score, notes=tuple(n for n in score.notes if n.part != number))
        other = synthesise(rest)
        length = min(whole.shape[1], other.shape[1])
        scale = float((whole[:, :length] * other[:, :length]).sum() / np.square(other).sum())
        alone = whole[:, :length] - scale * other[:, :length]
        levels.append(10 * float(np.log10(np.square(alone).mean())))
    return levels


@pytest.mark.parametrize("velocities", [(100, 100, 100), (30, 120, 120), (120, 120, 30)])
def test_parts_are_within_a_few_decibels_of_their_roles(velocities: tuple[int, int, int]) -> None:
    levels = measure_shares(make_band(velocities))
    wanted = [ROLE_DECIBELS[role] for role in ROLES]
    differences = [level - want for level, want in zip(levels, wanted, strict=True)]
    assert max(differences) - min(differences) < 9


def test_gains_bring_parts_to_the_levels_of_their_roles() -> None:
    parts = [Part(role="melody"), Part(role="pad"), Part(role="bass")]
    energies, seconds = np.array([4.0, 16.0, 0.0]), np.array([1.0, 4.0, 0.0])
    gains = find_part_gains(parts, energies, seconds)
    levels = gains[:2] * np.sqrt(energies[:2] / seconds[:2])
    assert 20 * np.log10(levels[0] / levels[1]) == pytest.approx(9)
    assert gains[2] == 1


def test_part_alone_keeps_its_level() -> None:
    gains = find_part_gains([Part(), Part()], np.array([9.0, 0.0]), np.array([1.0, 0.0]))
    assert gains.tolist() == [1, 1]
