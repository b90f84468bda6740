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
from musicgen.music.bars import count_heard_bars, find_bars, number_bars
from musicgen.music.melodic_runs import RunColumns
from musicgen.music.performance import is_performance
from musicgen.music.score import DEFAULT_QPM, STEPS_PER_QUARTER, Score
from musicgen.music.theory import spell
from musicgen.notation.engraving import check_engravable
from musicgen.notation.score_images import engrave
from musicgen.render.timeline import bar_timeline, duration, timeline
from musicgen.sampling.recipe import Recipe
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt, SharedRun

DRUM_PROGRAM: Final = -1  # in place of the program of a part that is a drum kit
NO_BARS_MESSAGE: Final = (
    "This music keeps to no bars, so there is no score of it; the piano roll shows it."
)
_ACCIDENTALS: Final = {-2: "𝄫", -1: "♭", 0: "", 1: "♯", 2: "𝄪"}
_SECONDS_DECIMALS: Final = 4  # of a second


def score_to_json(
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
    unwritten = _explain_not_engravable(score) if has_bars else NO_BARS_MESSAGE
    remarks = tuple(recipe.remarks()) if recipe else ()
    sounds, programs = _list_sounds(score)
    found = find_bars(score)
    return {
        "title": score.title,
        "rhythm": score.rhythm,
        "key": str(score.key) if has_bars else "",
        "meter": str(score.meter) if has_bars else "",
        "qpm": score.qpm if has_bars else None,
        "seconds": round(duration(score), _SECONDS_DECIMALS),
        "bars": count_heard_bars(score) if has_bars else 0,
        "numbers": number_bars(found),
        "keep_numbers": [max(1, number) for number in number_bars(found)],
        "count_in": _describe_count_in(score),
        "names": list(_spell_notes(score)),
        "svg": None if unwritten else engrave_untitled(score),
        "unwritten": unwritten,
        "sounds": sounds,
        "heard": [[*map(_round_seconds, times), bar] for *times, bar in bar_timeline(score)],
        "programs": programs,
        "recipe": recipe.to_json() if recipe else None,
        "receipt": _receipt_to_json(score, receipt) if receipt else None,
        "surprise": _surprise_to_json(score, surprise) if surprise else None,
        "abc": _encode_abc(score, remarks) if has_bars else None,
        "midi": _encode_midi(score, remarks),
    }


def engrave_untitled(score: Score, *, width: int | None = None) -> str:
    """Return the sheet music alone, for the page has a title of its own."""
    return engrave(replace(score, title="", rhythm=""), width=width)


def _explain_not_engravable(score: Score) -> str | None:
    """Say why a score cannot be engraved; None where it can."""
    try:
        check_engravable(score)
    except InvalidValue:
        return "This music is too large to be engraved; the piano roll shows it."
    return None


def _encode_midi(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as MIDI in base64; None where it lasts longer than our own reader takes."""
    try:
        return base64.b64encode(midi.render(score, text_events=remarks)).decode()
    except InvalidValue:
        return None


def _encode_abc(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as ABC; None where it is more than our own reader takes."""
    try:
        return abc.render(score, directives=[f"%%{text}" for text in remarks])
    except InvalidValue:
        return None


def _round_seconds(seconds: float) -> float:
    return round(seconds, _SECONDS_DECIMALS)


def _list_sounds(score: Score) -> tuple[list[list[float]], list[int]]:
    """Return the sounds and each part's program."""
    sounds = [
        [
            _round_seconds(s.start),
            _round_seconds(s.length),
            s.pitch,
            s.velocity,
            s.part,
            s.note,
            s.bar,
        ]
        for s in timeline(score)
    ]
    return sounds, [DRUM_PROGRAM if part.is_drums else part.program for part in score.parts]


def _describe_count_in(score: Score) -> dict[str, float]:
    """Say how many beats are clicked before the tune, and the seconds from one to the next."""
    meter = score.meter
    beats = max(1, meter.steps // meter.beat_steps)
    qpm = DEFAULT_QPM if is_performance(score) else score.qpm
    seconds = meter.beat_steps / STEPS_PER_QUARTER * 60 / qpm
    return {"beats": beats if beats > 2 else 2 * beats, "seconds": _round_seconds(seconds)}


def _spell_notes(score: Score) -> Iterator[str]:
    """Yield the name of each note, as its key spells it."""
    keys = [(mark.onset, mark.value) for mark in score.of("key")] or [(0, score.key)]
    onsets = [onset for onset, _ in keys]
    for note in score.notes:
        name = spell(note.pitch, keys[max(0, bisect_right(onsets, note.onset) - 1)][1])
        yield f"{name.letter}{_ACCIDENTALS.get(name.alteration, '')}{name.octave}"


def _receipt_to_json(score: Score, receipt: Receipt) -> dict[str, Any]:
    """Return a receipt, in words too; each run with the notes that it covers."""
    columns = RunColumns.of(score.canonical())
    found = receipt.to_json() | {"words": receipt.format_line()}
    for told, run in zip(found["runs"], receipt.runs, strict=True):
        told["marked"] = _find_run_notes(score, columns, run)
    return found


def _find_run_notes(score: Score, columns: RunColumns, run: SharedRun) -> list[int]:
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


def _surprise_to_json(score: Score, surprise: Surprise) -> dict[str, Any]:
    """Return the bits of each note of the score; None for what the model's codec has left out."""
    bits = {(note.onset, note.pitch, note.part): note.bits for note in surprise.notes}
    told = (bits.get((note.onset, note.pitch, note.part)) for note in score.notes)
    return {
        "notes": [None if value is None else round(value, 2) for value in told],
        "bits_per_note": round(surprise.bits_per_note, 4),
    }
