"""The key of a piece by its notes, for corpora whose files name another.

A file often has the key signature of a mode but neither its tonic nor its name: one of no sharps or
flats may be C major, A minor, D dorian, G mixolydian or E phrygian, or the default of a program
that knew no key. In pieces that end on their tonic, such as chorales, the lowest of the last notes
tells them apart (`find_final_key`); in others, the time that each pitch class has (`estimate_key`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from musicgen.music.score import Mark, Score
from musicgen.music.theory import Key, find_key

_MODES: Final = ("major", "minor", "mixolydian", "dorian", "phrygian")  # the first of equals counts


def find_final_key(score: Score) -> Key | None:
    """Return the key whose tonic is the lowest of the last notes, or None without pitched notes.

    Of the modes on that tonic, the one whose scale holds most of the time of all notes is taken.
    """
    drums = [number for number, part in enumerate(score.parts) if part.is_drums]
    pitched = score.columns[:, ~np.isin(score.columns[4], drums)]
    if not pitched.size:
        return None
    ends = pitched[0] + pitched[2]
    tonic = int(pitched[1, ends == ends.max()].min()) % 12
    durations = score.pitch_class_durations()
    keys = [Key.of(tonic, mode) for mode in _MODES]
    return max(keys, key=lambda key: sum(durations[pitch_class] for pitch_class in key.scale))


def estimate_key(score: Score) -> Key | None:
    """Return the major or minor key that all notes fit best, or None if they fit all alike."""
    return find_key(score.pitch_class_durations())


KEY_RULES: Final[Mapping[str, Callable[[Score], Key | None]]] = {  # by their names in corpus cards
    "last bass note": find_final_key,
    "all notes": estimate_key,
}


def set_key_by_rule(score: Score, rule: str) -> Score:
    """Return a score with the key of one of KEY_RULES from its beginning, and no other key.

    A score whose notes tell no key, such as one of drums alone, stays as it is.
    """
    key = KEY_RULES[rule](score)
    if key is None:
        return score
    others = tuple(mark for mark in score.marks if mark.kind != "key")
    return replace(score, marks=(Mark(0, "key", key), *others))
