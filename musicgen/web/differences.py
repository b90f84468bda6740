"""Where two tunes differ, bar by bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from musicgen.music.grid import Bar, bars
from musicgen.music.score import Score
from musicgen.tokens.codec import Setting

Sounding = tuple[int, int, int, int]  # steps into the bar, pitch above the tonic, steps, part


def differences(a: Score, b: Score) -> dict[str, Any]:
    """Compare two scores as written, each bar with the one of the same number.

    Pitches are compared from the first tonic, so that a tune that was only moved differs nowhere;
    drums have none.
    """
    in_a, in_b = _by_bar(a), _by_bar(b)
    pairs = [(dict(x or {}), dict(y or {})) for x, y in zip_longest(in_a, in_b)]
    return {
        "notes_a": sorted(index for x, y in pairs for index in _without(x, y)),
        "notes_b": sorted(index for x, y in pairs for index in _without(y, x)),
        "bars": [k for k, (x, y) in enumerate(pairs) if Counter(x.values()) != Counter(y.values())],
    }


def _by_bar(score: Score) -> list[dict[int, Sounding]]:
    """Return the notes of each bar, by their places in the score."""
    cut = bars(score)
    found: list[dict[int, Sounding]] = [{} for _ in cut]
    zero = Setting(score.key.tonic).tonic_pitch
    for index, note in enumerate(score.notes):
        bar = _bar_at(cut, note.onset)
        pitch = note.pitch - (0 if score.parts[note.part].is_drums else zero)
        found[bar][index] = note.onset - cut[bar].start, pitch, note.duration, note.part
    return found


def _bar_at(cut: Sequence[Bar], step: int) -> int:
    return next(k for k in reversed(range(len(cut))) if cut[k].start <= step or k == 0)


def _without(mine: dict[int, Sounding], theirs: dict[int, Sounding]) -> list[int]:
    """Return the notes that the other bar has not."""
    left = Counter(theirs.values())
    found = []
    for index, note in mine.items():
        if left[note] > 0:
            left[note] -= 1
        else:
            found.append(index)
    return found
