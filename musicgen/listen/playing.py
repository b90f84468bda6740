"""Another instrument, another tempo: the same tune, played in another way."""

from __future__ import annotations

from dataclasses import replace

from musicgen.music.score import Mark, Score


def with_program(score: Score, program: int) -> Score:
    """Return a score with one instrument for all parts but drums."""
    parts = [part if part.is_drums else replace(part, program=program) for part in score.parts]
    return replace(score, parts=tuple(parts))


def at_tempo(score: Score, qpm: float) -> Score:
    """Return a score that starts at a tempo; later tempos stay as much faster or slower."""
    faster = qpm / score.qpm
    marks = [
        replace(mark, value=mark.value * faster) if mark.kind == "tempo" else mark
        for mark in score.marks
    ]
    if not any(mark.kind == "tempo" and mark.onset == 0 for mark in marks):
        marks.append(Mark(0, "tempo", qpm))
    return replace(score, marks=tuple(marks))
