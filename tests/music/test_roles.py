"""Roles of parts: by name, by instrument, and by notes alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from musicgen.music.roles import (
    CHOIR_PROGRAM,
    NAME_WORDS,
    PROGRAM_POINTS,
    ROLES,
    RULES,
    assign_roles,
    assign_voices,
    find_melody_part,
    find_roles,
    is_choir,
    measure_features,
)
from musicgen.music.score import CHOIR_ROLES, Note, Part, Score


def tune(part: int, low: int = 64) -> list[Note]:
    """Return 16 bars of a stepwise melody with a rest at the end of each phrase."""
    rng = random.Random(part)
    pitch, notes = low + 6, []
    for step in range(0, 16 * 192, 24):
        pitch = min(max(pitch + rng.choice((-2, -1, 0, 1, 2)), low), low + 12)
        if step % 384 < 312:
            notes.append(Note(step, pitch, 24, part=part))
    return notes


def chords(part: int, length: int) -> list[Note]:
    return [
        Note(step, pitch, length, part=part)
        for step in range(0, 16 * 192, length)
        for pitch in (52 + step // 192 % 5, 55, 60)
    ]


def bass(part: int) -> list[Note]:
    return [Note(step, 36 + step // 96 % 7, 48, part=part) for step in range(0, 16 * 192, 48)]


BAND = Score(
    [*bass(0), *chords(1, 48), *chords(2, 192), *tune(3), *bass(4)],
    parts=(Part(), Part(), Part(), Part(), Part(is_drums=True)),
)


def test_roles_are_found_by_notes_alone() -> None:
    roles = find_roles(BAND)
    assert [role.name for role in roles] == ["bass", "chords", "pad", "melody", "drums"]
    assert all(role.confidence > 0.5 for role in roles)
    assert find_melody_part(BAND) == 3


@pytest.mark.parametrize("name", ["MELODY", "Lead Guitar", "vocals", "Voice 1", "the melody"])
def test_part_named_as_a_melody_is_the_melody(name: str) -> None:
    score = Score([*chords(0, 48), *tune(1)], parts=(Part(name), Part("Flute", 73)))
    assert find_melody_part(score) == 0


def test_name_with_two_roles_leaves_the_decision_to_the_notes() -> None:
    score = Score([*bass(0), *tune(1)], parts=(Part("Bass Lead", 87), Part()))
    assert find_melody_part(score) == 1


def test_bridge_is_not_the_melody() -> None:
    score = Score([*tune(0, 72), *tune(1, 60)], parts=(Part("BRIDGE"), Part("Track 2")))
    assert find_melody_part(score) == 1
    assert find_roles(score)[0].name != "melody"


def test_of_equal_parts_the_highest_is_the_melody() -> None:
    low, high = tune(0, 62), [Note(n.onset, n.pitch + 5, n.duration, part=1) for n in tune(0, 62)]
    assert find_melody_part(Score([*low, *high], parts=(Part(), Part()))) == 1


def test_bass_instrument_is_a_bass_at_any_pitch() -> None:
    assert find_roles(Score(tune(0), parts=(Part("", 33),)))[0].name == "bass"


def test_score_of_drums_has_no_melody() -> None:
    assert find_melody_part(Score(bass(0), parts=(Part(is_drums=True),))) is None
    assert find_melody_part(Score()) is None


def test_part_without_notes_has_a_role() -> None:
    assert find_roles(Score(parts=(Part("Bass", 33),)))[0].name == "bass"


def test_features_are_those_of_the_definitions() -> None:
    notes = Score([Note(0, 60, 48), Note(0, 64, 48), Note(24, 70, 72), Note(144, 62, 24)])
    features = measure_features(notes.columns, 192)
    assert features == {
        "pitch": 64.0, "chord_size": 4 / 3, "voices": 192 / 120, "density": 3 * 48 / 120,
        "duration": 48.0, "steps": 0.0, "leaps": 0.5, "coverage": 120 / 192,
    }  # fmt: skip


def test_every_rule_can_score_and_names_a_role() -> None:
    assert {rule.role for rule in RULES} == set(ROLES) - {"drums"}
    assert all(rule.low < rule.high and rule.points > 0 for rule in RULES)
    assert {role for role, _ in NAME_WORDS.values()} <= set(ROLES)
    assert all(0 <= first <= last <= 127 for first, last, _, _ in PROGRAM_POINTS)


def test_parts_are_assigned_the_roles_that_are_found() -> None:
    score = Score([*tune(0), *bass(1)], parts=(Part("A"), Part("B", role="pad")))
    assert [part.role for part in assign_roles(score).parts] == [find_roles(score)[0].name, "pad"]
    alone = Score(tune(0), parts=(Part("A"),))
    assert assign_roles(alone) == alone
    drums = Score([Note(0, 36, 24)], parts=(Part("A", is_drums=True),))
    assert assign_roles(drums).parts[0].role == "drums"


def make_voices(*names: str, program: int = 0) -> tuple[Part, ...]:
    return tuple(Part(name, program) for name in names)


def test_voices_of_a_choir_are_known_by_their_names_and_sing() -> None:
    score = Score((*tune(0), *tune(1), *bass(2)), parts=make_voices("Soprano", " ALTO", "bass"))
    parts = assign_roles(score).parts
    assert [part.role for part in parts] == ["soprano", "alto", "bass"]
    assert {part.program for part in parts} == {CHOIR_PROGRAM}
    organ = replace(score, parts=make_voices("Soprano", "Alto", "Bass", program=19))
    assert {part.program for part in assign_roles(organ).parts} == {19}


@pytest.mark.parametrize(
    "parts",
    [
        make_voices("Soprano", "Alto", "Violin"),
        make_voices("Soprano Saxophone", "Alto", "Bass"),
        make_voices("Bass", "Bass"),
        make_voices("Soprano"),
    ],
)
def test_other_parts_make_no_choir(parts: tuple[Part, ...]) -> None:
    assert not is_choir(parts)


@pytest.mark.parametrize(
    ("names", "pitches", "roles"),
    [
        (("Piano",), (72,), ["soprano"]),
        (("Cello",), (45,), ["bass"]),
        (("", ""), (48, 70), ["bass", "soprano"]),
        (("", "Alto"), (66, 60), ["soprano", "alto"]),
        (("", "Soprano"), (66, 76), ["alto", "soprano"]),
        (("1", "2", "3", "4"), (72, 65, 58, 50), [*CHOIR_ROLES]),
    ],
)
def test_any_parts_can_be_the_voices_of_a_choir(
    names: tuple[str, ...], pitches: tuple[int, ...], roles: list[str]
) -> None:
    notes = tuple(Note(0, pitch, 48, part=part) for part, pitch in enumerate(pitches))
    parts = assign_voices(Score(notes, parts=make_voices(*names))).parts
    assert [part.role for part in parts] == roles
    assert {part.program for part in parts} == {CHOIR_PROGRAM}


@pytest.mark.parametrize(
    "parts", [make_voices(*"12345"), (Part("Soprano"), Part("kit", is_drums=True))]
)
def test_too_many_parts_and_drums_are_no_choir(parts: tuple[Part, ...]) -> None:
    score = Score((Note(0, 60, 48),), parts=parts)
    assert assign_voices(score) == score
