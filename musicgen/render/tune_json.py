"""Serialise a tune to JSON for a page.

The playground sends this JSON, the one-file page embeds it, and `static/tune_view.js` displays it.
Titles and names are plain text, which the page must escape.
"""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.formats import abc, midi
from musicgen.music.accompaniment import split_accompaniment
from musicgen.music.bars import count_heard_bars, find_bars, number_bars
from musicgen.music.melodic_runs import RunColumns, to_compared_form
from musicgen.music.milliseconds import is_performance
from musicgen.music.score import DEFAULT_QPM, STEPS_PER_QUARTER, Score
from musicgen.music.tune_content import PhraseReturn, TuneContent, find_phrases, find_return
from musicgen.notation.engraving import check_engravable
from musicgen.notation.score_images import engrave
from musicgen.render.piano_roll import name_pitch
from musicgen.render.timeline import bar_timeline, count_in_steps, duration, timeline
from musicgen.sampling.recipe import Recipe
from musicgen.sampling.surprisal import Surprise
from musicgen.similarity.overlap_report import Receipt, SharedRun

DRUM_PROGRAM: Final = -1  # program of a drum part
NO_BARS_MESSAGE: Final = (
    "This music has no bars, so it cannot be shown as a score; see the piano roll."
)
MAX_COMPARED_BARS: Final = 512  # the time to compare all phrases is quadratic in their number
_SECONDS_DECIMALS: Final = 4


def score_to_json(
    score: Score,
    *,
    recipe: Recipe | None = None,
    receipt: Receipt | None = None,
    surprise: Surprise | None = None,
    has_bars: bool = True,
) -> dict[str, Any]:
    """Return everything that a page shows of a tune.

    Notes are indices into `score.notes`, bars are indices into `find_bars(score)`. Where the score
    cannot be engraved, `svg` is null and `unwritten` says why; without bars, `bars` is 0. The
    accompaniment of a score sounds, but is not written: its notes have the index -1, its parts are
    listed as `accompaniment`.
    """
    played, (score, added) = score, split_accompaniment(score)
    has_bars = has_bars and not is_performance(score)
    unwritten = _explain_not_engravable(score) if has_bars else NO_BARS_MESSAGE
    remarks = tuple(recipe.remarks()) if recipe else ()
    sounds, programs = _list_sounds(score, added)
    numbers = number_bars(find_bars(score))
    return {
        "title": score.title,
        "rhythm": score.rhythm,
        "key": str(score.key) if has_bars else "",
        "meter": str(score.meter) if has_bars else "",
        "qpm": score.qpm if has_bars else None,
        "seconds": round(duration(score), _SECONDS_DECIMALS),
        "bars": count_heard_bars(score) if has_bars else 0,
        "numbers": numbers,
        "keep_numbers": [max(1, number) for number in numbers],
        "count_in": _count_in_to_json(score),
        "names": list(_spell_notes(score)),
        "phrases": [] if unwritten else phrases_to_json(score),
        "svg": None if unwritten else engrave_untitled(score),
        "unwritten": unwritten,
        "sounds": sounds,
        "heard": [[*map(_round_seconds, times), bar] for *times, bar in bar_timeline(score)],
        "programs": programs,
        "accompaniment": list(range(len(score.parts), len(programs))),
        "recipe": recipe.to_json() if recipe else None,
        "receipt": _receipt_to_json(score, receipt) if receipt else None,
        "surprise": surprise_to_json(score, surprise) if surprise else None,
        "abc": _encode_abc(score, remarks) if has_bars else None,
        "midi": _encode_midi(played, remarks),
    }


def engrave_untitled(score: Score, *, width: int | None = None) -> str:
    """Return the score as SVG without its title, which the page shows itself."""
    return engrave(replace(score, title="", rhythm=""), width=width)


def _explain_not_engravable(score: Score) -> str | None:
    """Return why a score cannot be engraved, or None."""
    try:
        check_engravable(score)
    except InvalidValue:
        return "This music is too large to be shown as a score; see the piano roll."
    return None


def _encode_midi(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as base64 MIDI, or None if it exceeds the limits of our reader."""
    try:
        return base64.b64encode(midi.render(score, text_events=remarks)).decode()
    except InvalidValue:
        return None


def _encode_abc(score: Score, remarks: Sequence[str]) -> str | None:
    """Return the tune as ABC, or None if it exceeds the limits of our reader."""
    try:
        return abc.render(score, directives=[f"%%{text}" for text in remarks])
    except InvalidValue:
        return None


def _round_seconds(seconds: float) -> float:
    return round(seconds, _SECONDS_DECIMALS)


def _list_sounds(score: Score, added: Score | None) -> tuple[list[list[float]], list[int]]:
    """Return the fields of each sounding note, and each part's program.

    Args:
        score: what is written.
        added: its accompaniment, whose parts follow those of the score.
    """
    sounds = list(timeline(score))
    parts = list(score.parts)
    if added is not None:
        first = len(parts)
        sounds += [replace(s, part=s.part + first, note=-1) for s in timeline(added)]
        sounds.sort(key=lambda sound: sound.start)
        parts += added.parts
    fields = [
        [_round_seconds(s.start), _round_seconds(s.length), s.pitch, s.velocity, s.part, s.note,
         s.bar]
        for s in sounds
    ]  # fmt: skip
    return fields, [DRUM_PROGRAM if part.is_drums else part.program for part in parts]


def _count_in_to_json(score: Score) -> dict[str, float]:
    """Return the number of clicks, and the seconds between them.

    The page may start at any bar, so the count-in does not depend on a pickup.
    """
    steps = count_in_steps(score.meter)
    qpm = DEFAULT_QPM if is_performance(score) else score.qpm
    return {
        "beats": len(steps),
        "seconds": _round_seconds(steps.step / STEPS_PER_QUARTER * 60 / qpm),
    }


def phrases_to_json(score: Score) -> list[dict[str, Any]]:
    """Return the phrases that have notes, and the earlier phrase that each one returns.

    A tune of over MAX_COMPARED_BARS has none.
    """
    numbers = number_bars(find_bars(score))
    if len(numbers) > MAX_COMPARED_BARS:
        return []
    content = TuneContent.of(score)
    phrases = [phrase for phrase in find_phrases(content) if phrase.has_notes]
    ranges = [f"{numbers[phrase.bars[0]]}-{numbers[phrase.bars[-1]]}" for phrase in phrases]
    return [
        {
            "measures": [phrase.bars[0], phrase.bars[-1]],
            "bars": [numbers[phrase.bars[0]], numbers[phrase.bars[-1]]],
            **_return_to_json(origin := find_return(content, phrases, index)),
            "words": _describe_phrase(ranges, index, origin),
        }
        for index, phrase in enumerate(phrases)
    ]


def _return_to_json(origin: PhraseReturn | None) -> dict[str, Any]:
    """Return the fields of a phrase's return; null for a new phrase."""
    if origin is None:
        return dict.fromkeys(("source", "relation", "likeness", "semitones"))
    return asdict(origin) | {"likeness": round(origin.likeness, 4)}


def _describe_phrase(ranges: Sequence[str], index: int, origin: PhraseReturn | None) -> str:
    """Describe a phrase: bars 9-12 return bars 1-4 (varied: 78% alike)."""
    if origin is None:
        return f"bars {ranges[index]} are new"
    source = ranges[origin.source]
    return f"bars {ranges[index]} return bars {source} ({_describe_relation(origin)})"


def _describe_relation(origin: PhraseReturn) -> str:
    if origin.relation == "varied":
        return f"varied: {origin.likeness:.0%} alike"
    if origin.relation == "transposed":
        unit = "semitone" if abs(origin.semitones) == 1 else "semitones"
        direction = "up" if origin.semitones > 0 else "down"
        return f"transposed {direction} by {abs(origin.semitones)} {unit}"
    return origin.relation


def _spell_notes(score: Score) -> Iterator[str]:
    """Yield the name of each note, spelled in the key at its onset."""
    keys = [(mark.onset, mark.value) for mark in score.of("key")] or [(0, score.key)]
    onsets = [onset for onset, _ in keys]
    for note in score.notes:
        yield name_pitch(note.pitch, keys[max(0, bisect_right(onsets, note.onset) - 1)][1])


def _receipt_to_json(score: Score, receipt: Receipt) -> dict[str, Any]:
    """Return a receipt with its summary line, and with the notes of each shared run."""
    columns = RunColumns.of(to_compared_form(score))
    data = receipt.to_json() | {"words": receipt.format_line()}
    for run_data, run in zip(data["runs"], receipt.runs, strict=True):
        run_data["marked"] = _find_run_notes(score, columns, run)
    return data


def _find_run_notes(score: Score, columns: RunColumns, run: SharedRun) -> list[int]:
    """Return the sorted indices of a run's notes; a run follows the highest note of each chord."""
    indices = defaultdict(list)
    for index, note in enumerate(score.notes):
        indices[note.onset, note.pitch].append(index)
    for first in np.flatnonzero(columns.onsets == run.onset).tolist():
        last = first + run.notes - 1
        fits = last < len(columns.onsets) and not columns.starts[first + 1 : last + 1].any()
        if fits and columns.onsets[last] + columns.durations[last] == run.end:
            span = slice(first, last + 1)
            keys = zip(columns.onsets[span].tolist(), columns.pitches[span].tolist(), strict=True)
            return sorted({index for key in keys for index in indices[key]})
    return []


def surprise_to_json(score: Score, surprise: Surprise) -> dict[str, Any]:
    """Return the bits of each note; null for a note that the model's codec left out."""
    bits_of = {(note.onset, note.pitch, note.part): note.bits for note in surprise.notes}
    note_bits = (bits_of.get((note.onset, note.pitch, note.part)) for note in score.notes)
    return {
        "notes": [None if bits is None else round(bits, 2) for bits in note_bits],
        "bits_per_note": round(surprise.bits_per_note, 4),
    }
