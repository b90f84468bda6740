"""Tunes with a known form, random tunes that have one, and tunes with a planted fault."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from musicgen.formats import abc
from musicgen.music.bars import find_bars
from musicgen.music.score import Mark, Note, Score
from musicgen.music.theory import Key, Meter

BAR = 192  # steps of 4/4
EIGHTH = 24
_SCALE = (62, 64, 66, 67, 69, 71, 73, 74, 76, 78, 79, 81)  # D major


def read_abc(body: str, *, meter: str = "4/4", key: str = "C") -> Score:
    """Read a tune of eighths in ABC."""
    scores, refusals = abc.parse(f"X:1\nT:toy\nM:{meter}\nL:1/8\nK:{key}\n{body}\n")
    assert not refusals
    return scores[0]


def make_dance(seed: int) -> Score:
    """Make a tune of two repeated sections of 8 bars in D, in which bars return after 4.

    Bars 1 to 3 return as 5 to 7, now and then varied; bar 4 ends on another note, bar 8 on D.
    """
    rng = random.Random(seed)
    notes: list[Note] = []
    for section in range(2):
        phrase = [draw_bar(rng) for _ in range(4)]
        answer = [vary_bar(bar, rng) if rng.random() < 0.4 else bar for bar in phrase[:3]]
        bars = [*phrase[:3], end_bar(phrase[3], rng.choice((64, 69))),
                *answer, end_bar(phrase[3], 62 if rng.random() < 0.9 else 69)]  # fmt: skip
        for number, bar in enumerate(bars):
            start = (8 * section + number) * BAR
            notes += [replace(note, onset=start + note.onset) for note in bar]
    marks = [Mark(0, "key", Key("D")), Mark(0, "meter", Meter(4, 4))]
    marks += [Mark(BAR * number, "bar") for number in range(1, 17)]
    for section in range(2):
        marks.append(Mark(8 * BAR * section, "repeat_start"))
        marks.append(Mark(8 * BAR * (section + 1), "repeat_end", 2))
    return Score(tuple(notes), tuple(marks), title=f"Dance {seed}").canonical()


def draw_bar(rng: random.Random) -> list[Note]:
    """Draw a bar of eighths and quarters that moves by steps in the scale."""
    place, onset, notes = rng.randrange(3, 9), 0, []
    while onset < BAR:
        length = EIGHTH if onset % 48 or rng.random() < 0.7 else 2 * EIGHTH
        notes.append(Note(onset, _SCALE[place], length))
        onset += length
        place = min(max(place + rng.choice((-2, -1, -1, 1, 1, 2)), 0), len(_SCALE) - 1)
    return notes


def vary_bar(bar: Sequence[Note], rng: random.Random) -> list[Note]:
    """Change one note of a bar."""
    changed = rng.randrange(len(bar))
    return [replace(note, pitch=rng.choice(_SCALE)) if number == changed else note
            for number, note in enumerate(bar)]  # fmt: skip


def end_bar(bar: Sequence[Note], pitch: int) -> list[Note]:
    """End a bar on a half note."""
    half = [note for note in bar if note.end <= BAR // 2]
    return [*half, Note(BAR // 2, pitch, BAR // 2)]


def make_dances(count: int, first_seed: int = 0) -> list[Score]:
    return [make_dance(seed) for seed in range(first_seed, first_seed + count)]


def move_bars(score: Score, order: Sequence[int]) -> Score:
    """Put other bars in the place of each bar, by index; all bars are of one length."""
    bars = find_bars(score)
    notes = [
        replace(note, onset=note.onset - bars[old].start + bars[new].start)
        for new, old in enumerate(order)
        for note in score.notes
        if bars[old].start <= note.onset < bars[old].end
    ]
    return replace(score, notes=tuple(notes))


def shuffle_bars(score: Score, seed: int) -> Score:
    order = list(range(len(find_bars(score))))
    random.Random(seed).shuffle(order)
    return move_bars(score, order)


def rotate_bars(score: Score) -> Score:
    """Move each bar of a section to the place of the one before, the first to the last."""
    order = [8 * section + (number + 1) % 8 for section in range(2) for number in range(8)]
    return move_bars(score, order)


def repeat_one_note(score: Score) -> Score:
    return replace(score, notes=tuple(replace(note, pitch=69) for note in score.notes))


def drop_bar(score: Score) -> Score:
    """Leave out the fourth bar of each section, so that the sections have 7 bars."""
    kept = [number for number in range(16) if number % 8 != 3]
    moved = move_bars(score, [*kept, 3, 11])
    end = 14 * BAR
    marks = [mark for mark in moved.marks if mark.onset <= end and "repeat" not in mark.kind]
    for section in range(2):
        marks.append(Mark(7 * BAR * section, "repeat_start"))
        marks.append(Mark(7 * BAR * (section + 1), "repeat_end", 2))
    notes = tuple(note for note in moved.notes if note.onset < end)
    return replace(moved, notes=notes, marks=tuple(marks))


def transpose_half(score: Score) -> Score:
    """Transpose the second half by a semitone, without a change of key."""
    notes = (replace(note, pitch=note.pitch + (note.onset >= 8 * BAR)) for note in score.notes)
    return replace(score, notes=tuple(notes))


def end_elsewhere(score: Score) -> Score:
    """End each phrase a leap away from the tonic."""
    notes = [replace(note, pitch=70) if note.duration == BAR // 2 else note for note in score.notes]
    return replace(score, notes=tuple(notes))


def write_other_key(score: Score) -> Score:
    """Write the key a tritone away, and leave the notes."""
    marks = [replace(mark, value=Key("G#")) if mark.kind == "key" else mark for mark in score.marks]
    return replace(score, marks=tuple(marks))
