"""What is known of a tune beside its ids: how it is compared with others, and what is odd in it.

A remark is one line, "kind: words"; it refuses nothing. The kinds stand in REMARKS.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from musicgen.corpus.split import grams
from musicgen.music.grid import Bar, bars
from musicgen.music.performed import PERFORMED_QPM
from musicgen.music.runs import Move, elements
from musicgen.music.score import STEPS_PER_QUARTER, Score
from musicgen.music.theory import Key, spell

REMARKS: Final = {
    "bar-sum": "a bar holds more or less than its meter, and none balances it",
    "range": "notes lie where no voice or piano has them, or one voice spans four octaves",
    "title": "it has no title",
    "key": "no key is given; C major was taken",
    "meter": "no meter is given; 4/4 was taken",
    "short": "it has fewer than eight notes",
    "repaired": "a MIDI file needed repair: formats.midi.REPAIRS says of which kinds",
    "lost": "the codec has no event for some of it, which is left out",
}
SHARED_CHARACTERS: Final = 200  # consecutive ones that make two texts relatives
_BARS_NAMED = 4
_LOWEST, _HIGHEST, _WIDEST = 21, 108, 48  # a piano's keys; semitones of one voice
_FEW_NOTES = 8


def described(piece: Score | str) -> dict[str, Any]:
    """Return the fields of a piece's row that every codec shares."""
    return _of_text(piece) if isinstance(piece, str) else _of_score(piece)


def _of_score(score: Score) -> dict[str, Any]:
    whole = score.canonical()
    moves = elements(whole)
    return {
        "notes": len(whole.notes),
        "title": whole.title,
        "key": str(whole.key),
        "meter": str(whole.meter),
        "rhythm": whole.rhythm,
        "group": packed(grams(moves)),
        "line": [whole.notes[0].pitch if whole.notes else 0, _hash(moves), _hash(scaled(moves))],
        "remarks": list(remarks(score)),
    }


def _of_text(text: str) -> dict[str, Any]:
    moves = [(ord(character), 0) for character in text]
    title = next((line for line in text.splitlines() if line.startswith("T:")), text)
    return {
        "notes": len(text),
        "title": title.removeprefix("T:").strip()[:60],
        "key": "",
        "meter": "",
        "rhythm": "",
        "group": packed(grams(moves, SHARED_CHARACTERS)),
        "line": [0, _hash(moves), _hash(moves)],
        "remarks": [],
    }


def packed(hashes: Any) -> str:
    """Write hashes as text."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def scaled(moves: Sequence[Move]) -> list[Move]:
    """Divide all durations by their common measure: the same in 2/4 as in 4/8 or 2/2."""
    unit = math.gcd(*(duration for _, duration in moves)) or 1
    return [(interval, duration // unit) for interval, duration in moves]


def _hash(moves: Sequence[Move]) -> str:
    data = np.array(moves, dtype="<i8").tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def remarks(score: Score) -> Iterator[str]:
    """Yield what is odd in a tune."""
    yield from _bar_sums(score)
    yield from _range(score)
    if not score.title.strip():
        yield "title: there is none"
    if not _is_performed(score) and not any(score.of("key")):
        yield "key: none is given; C major was taken"
    if not _is_performed(score) and not any(score.of("meter")):
        yield "meter: none is given; 4/4 was taken"
    if 0 < len(score.notes) < _FEW_NOTES:
        yield f"short: it has {len(score.notes)} notes"


def _is_performed(score: Score) -> bool:
    """Tell whether a step is a millisecond: a codec of performances wants no key or meter."""
    return any(mark.value == PERFORMED_QPM for mark in score.of("tempo"))


def _bar_sums(score: Score) -> Iterator[str]:
    found = bars(score)
    if len(found) < 2:  # a performance: nobody drew bars
        return
    first = 0 if found[0].kind == "partial" else 1  # a pickup is bar 0
    wrong = [(number, bar) for number, bar in enumerate(found, first) if bar.kind == "irregular"]
    for number, bar in wrong[:_BARS_NAMED]:
        yield f"bar-sum: bar {number} {_held(bar)}"
    if len(wrong) > _BARS_NAMED:
        yield f"bar-sum: and {len(wrong) - _BARS_NAMED} more bars of {len(found)}"


def _held(bar: Bar) -> str:
    over = bar.steps - bar.meter.steps
    if not over:
        return f"is full, and no pickup's partner in {bar.meter}"
    much = "too much" if over > 0 else "too little"
    return f"holds {_whole(bar.steps)} in a meter of {bar.meter}: {_whole(abs(over))} {much}"


def _whole(steps: int) -> str:
    """Write steps as a fraction of a whole note."""
    return str(Fraction(steps, 4 * STEPS_PER_QUARTER))


def _range(score: Score) -> Iterator[str]:
    drums = {index for index, part in enumerate(score.parts) if part.is_drums}
    pitches = [note.pitch for note in score.notes if note.part not in drums]
    if not pitches:
        return
    lowest, highest = min(pitches), max(pitches)
    outside = sum(not _LOWEST <= pitch <= _HIGHEST for pitch in pitches)
    if outside:
        many = f"{outside} note{'s' * (outside > 1)}"
        yield f"range: {many} outside of a piano's keys, {_span(lowest, highest)}"
    elif len(score.parts) == 1 and highest - lowest > _WIDEST:
        yield f"range: one part spans {highest - lowest} semitones, {_span(lowest, highest)}"


def _span(lowest: int, highest: int) -> str:
    return f"from {_name(lowest)} to {_name(highest)}"


def _name(pitch: int) -> str:
    name = spell(pitch, Key("C", "major"))
    sign = "#" * name.alteration if name.alteration > 0 else "b" * -name.alteration
    return f"{name.letter}{sign}{name.octave}"
