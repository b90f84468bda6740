"""Keys by the last note: the modes of one signature are told apart by where a piece ends."""

from __future__ import annotations

import pytest

from musicgen.music.key_labels import KEY_RULES, find_final_key, set_key_by_rule
from musicgen.music.score import Mark, Note, Part, Score
from musicgen.music.theory import Key

SCALE = (60, 62, 64, 65, 67, 69, 71)  # of no sharps or flats


def end_on(last: int, *, bass: int = 0) -> Score:
    """Return a scale without sharps and flats that ends on a note, over another if one is given."""
    notes = [Note(48 * step, pitch, 48) for step, pitch in enumerate((*SCALE, last))]
    if bass:
        notes.append(Note(48 * len(SCALE), bass, 48, part=1))
    marks = (Mark(0, "key", Key("C", "major")), Mark(96, "key", Key("G", "major")))
    return Score(notes, marks, (Part("Soprano"), Part("Bass")))


@pytest.mark.parametrize(
    ("last", "name"),
    [(60, "C major"), (62, "D dorian"), (64, "E phrygian"), (67, "G mixolydian"), (69, "A minor")],
)
def test_last_note_tells_the_mode_of_a_signature(last: int, name: str) -> None:
    assert str(find_final_key(end_on(last))) == name


def test_lowest_of_the_last_notes_counts_and_replaces_all_keys() -> None:
    labelled = set_key_by_rule(end_on(72, bass=57), "last bass note")
    assert [mark.value for mark in labelled.of("key")] == [Key("A", "minor")]
    assert labelled.notes == end_on(72, bass=57).notes


def test_drums_have_no_key_and_stay_as_they_are() -> None:
    drums = Score([Note(0, 36, 48)], (Mark(0, "key", Key("D")),), (Part("Kit", is_drums=True),))
    assert find_final_key(drums) is None
    for rule in KEY_RULES:
        assert set_key_by_rule(drums, rule) == drums


def test_key_of_all_notes_replaces_a_default_signature() -> None:
    scale = [64, 66, 67, 69, 71, 72, 74, 76, 71, 67, 64]
    notes = [Note(48 * n, pitch, 48) for n, pitch in enumerate(scale)]
    score = Score(notes, (Mark(0, "key", Key("C")),))
    assert str(set_key_by_rule(score, "all notes").key) == "E minor"
