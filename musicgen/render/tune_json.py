"""Everything that a page shows of one tune, as JSON's own types.

The playground's server sends it, the one-file page contains it, and `static/tune_view.js` shows it.
Titles and names in it are plain text: whoever shows them escapes them.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.formats import abc, midi
from musicgen.music.bars import bars, heard_bars, numbers
from musicgen.music.melodic_runs import RunColumns
from musicgen.music.performance import is_performance
from musicgen.music.score import DEFAULT_QPM, STEPS_PER_QUARTER, Score
from musicgen.music.theory import spell
from musicgen.notation.engraving import check_engravable
from musicgen.notation.score_images import engrave
from musicgen.render.timeline import bars_heard, duration, timeline
from musicgen.sampling.recipe import Recipe
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt, Shared

DRUMS: Final = -1  # in place of the program of a part that is a drum kit
NO_BARS: Final = "This music keeps to no bars, so there is no score of it; the piano roll shows it."
_SIGNS: Final = {-2: "𝄫", -1: "♭", 0: "", 1: "♯", 2: "𝄪"}
_DIGITS: Final = 4  # of a second


def view(
    score: Score,
    *,
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
    has_bars: bool = True,
) -> dict[str, Any]:
    """Return what there is to show of a tune.

    Indices of notes are those of `score.notes`, indices of bars those of `grid.bars(score)`.
    What cannot be engraved has no svg, and `unwritten` says why; what has no bars has 0 of them.
    """
    has_bars = has_bars and not is_performance(score)
    unwritten = _why_unwritten(score) if has_bars else NO_BARS
    remarks = tuple(recipe.remarks()) if recipe else ()
    sounds, programs = _heard(score)
    found = bars(score)
    return {
        "title": score.title,
        "rhythm": score.rhythm,
        "key": str(score.key) if has_bars else "",
        "meter": str(score.meter) if has_bars else "",
        "qpm": score.qpm if has_bars else None,
        "seconds": round(duration(score), _DIGITS),
        "bars": heard_bars(score) if has_bars else 0,
        "numbers": numbers(found),
        "keep_numbers": [max(1, number) for number in numbers(found)],
        "count_in": _count_in(score),
        "names": list(_names(score)),
        "svg": None if unwritten else drawn(score),
        "unwritten": unwritten,
        "sounds": sounds,
        "heard": [[*map(_rounded, times), bar] for *times, bar in bars_heard(score)],
        "programs": programs,
        "recipe": recipe.to_json() if recipe else None,
        "receipt": _receipt(score, receipt) if receipt else None,
        "surprise": _surprise(score, surprise) if surprise else None,
        "abc": _abc(score, remarks) if has_bars else None,
        "midi": _midi(score, remarks),
    }


def drawn(score: Score, *, width: int | None = None) -> str:
    """Return the sheet music alone, for the page has a title of its own."""
    return engrave(replace(score, title="", rhythm=""), width=width)


def _why_unwritten(score: Score) -> str | None:
    """Say why a score cannot be engraved; None where it can."""
    try:
        check_engravable(score)
    except InvalidValue:
        return "This music is too large to be engraved; the piano roll shows it."
    return None


def _midi(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as MIDI in base64; None where it lasts longer than our own reader takes."""
    try:
        return base64.b64encode(midi.render(score, text_events=remarks)).decode()
    except InvalidValue:
        return None


def _abc(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as ABC; None where it is more than our own reader takes."""
    try:
        return abc.render(score, directives=[f"%%{text}" for text in remarks])
    except InvalidValue:
        return None


def _rounded(seconds: float) -> float:
    return round(seconds, _DIGITS)


def _heard(score: Score) -> tuple[list[list[float]], list[int]]:
    """Return the sounds and each part's program."""
    sounds = [
        [_rounded(s.start), _rounded(s.length), s.pitch, s.velocity, s.part, s.note, s.bar]
        for s in timeline(score)
    ]
    return sounds, [DRUMS if part.is_drums else part.program for part in score.parts]


def _count_in(score: Score) -> dict[str, float]:
    """Say how many beats are clicked before the tune, and the seconds from one to the next."""
    meter = score.meter
    beats = max(1, meter.steps // meter.beat_steps)
    qpm = DEFAULT_QPM if is_performance(score) else score.qpm
    seconds = meter.beat_steps / STEPS_PER_QUARTER * 60 / qpm
    return {"beats": beats if beats > 2 else 2 * beats, "seconds": _rounded(seconds)}


def _names(score: Score) -> Iterator[str]:
    """Yield the name of each note, as its key spells it."""
    keys = [(mark.onset, mark.value) for mark in score.of("key")] or [(0, score.key)]
    onsets = [onset for onset, _ in keys]
    for note in score.notes:
        name = spell(note.pitch, keys[max(0, bisect_right(onsets, note.onset) - 1)][1])
        yield f"{name.letter}{_SIGNS.get(name.alteration, '')}{name.octave}"


def _receipt(score: Score, receipt: Receipt) -> dict[str, Any]:
    """Return a receipt, in words too; each run with the notes that it covers."""
    columns = RunColumns.of(score.canonical())
    found = receipt.to_json() | {"words": receipt.line()}
    for told, run in zip(found["runs"], receipt.runs, strict=True):
        told["marked"] = _covered(score, columns, run)
    return found


def _covered(score: Score, columns: RunColumns, run: Shared) -> list[int]:
    """Return the indices of the notes of a run, in order; of a chord the highest is in it."""
    places = defaultdict(list)
    for index, note in enumerate(score.notes):
        places[note.onset, note.pitch].append(index)
    for first in np.flatnonzero(columns.onsets == run.onset).tolist():
        last = first + run.notes - 1
        fits = last < len(columns.onsets) and not columns.starts[first + 1 : last + 1].any()
        if fits and columns.onsets[last] + columns.durations[last] == run.end:
            here = slice(first, last + 1)
            keys = zip(columns.onsets[here].tolist(), columns.pitches[here].tolist(), strict=True)
            return sorted({index for key in keys for index in places[key]})
    return []


def _surprise(score: Score, surprise: Surprise) -> dict[str, Any]:
    """Return the bits of each note of the score; None for what the model's codec has left out."""
    bits = {(note.onset, note.pitch, note.part): note.bits for note in surprise.notes}
    told = (bits.get((note.onset, note.pitch, note.part)) for note in score.notes)
    return {
        "notes": [None if value is None else round(value, 2) for value in told],
        "bits_per_note": round(surprise.bits_per_note, 4),
    }
