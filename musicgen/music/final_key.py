"""The key of a piece by its last note, as the modes of chorales are named.

A file often has the key signature of a mode but neither its tonic nor its name: one of no sharps or
flats may be C major, A minor, D dorian, G mixolydian or E phrygian. In pieces that end on their
tonic, the lowest of the last notes tells them apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from musicgen.music.score import Mark, Score
from musicgen.music.theory import Key

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


def set_key_by_last_note(score: Score) -> Score:
    """Return a score with the key of `find_final_key` from its beginning, and no other key."""
    key = find_final_key(score)
    if key is None:
        return score
    others = tuple(mark for mark in score.marks if mark.kind != "key")
    return replace(score, marks=(Mark(0, "key", key), *others))
