"""The order in which the labelled sections of a tune are played, as the field Y: of a header says.

Files of the Nottingham Music Database label sections in the music (P:A, P:B) and name their order
in the header (Y:AABA). The order counts sections as they are heard: where a section has repeat
signs, AA is the section with its repeat. A letter whose runs are all single stands for the section
as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Final

import numpy as np

from musicgen.formats.abc.body import MAX_NOTES
from musicgen.music.arrays import IntArray
from musicgen.music.notes import Notes, slice_by_onset, sort_by_onset
from musicgen.music.score import (
    MARK_ORDER,
    MAX_PLAYS,
    Ending,
    Mark,
    MarkKind,
    Score,
    find_sections,
)

MAX_LETTERS: Final = 64  # of an order
_REPEAT_KINDS: Final[tuple[MarkKind, ...]] = ("repeat_start", "repeat_end", "ending")
_PERSISTENT_KINDS: Final[tuple[MarkKind, ...]] = ("key", "meter", "tempo")


@dataclass(frozen=True, slots=True)
class LabelledSection:
    """A section of a tune, from its label to the next."""

    label: str
    start: int  # steps
    stop: int  # steps


def arrange(score: Score, labels: Sequence[tuple[str, int]], order: str) -> Score:
    """Write out the sections of a tune in the order in which they are played.

    A section that is played several times in a row gets repeat signs. What stands before the first
    label is played first.

    Args:
        score: as written.
        labels: (letter, step) of each label, in order.
        order: letters; blanks between them mean nothing.

    Returns:
        The score in the order; as it is where the order names a section that does not exist, or
        where two sections have the same label.
    """
    letters = "".join(order.split())[:MAX_LETTERS]
    sections = {section.label: section for section in _cut_at_labels(score, labels)}
    if not letters or len(sections) < len(labels) or not set(letters) <= set(sections):
        return score
    if list(letters) == list(sections):
        return _start_repeats_at_labels(score, sections.values())
    runs = [(letter, len(list(group))) for letter, group in groupby(letters)]
    has_longer_run = {letter for letter, count in runs if count > 1}
    first_step = labels[0][1]
    opening = [LabelledSection("", 0, first_step)] if first_step else []
    passages = [_cut_passage(score, section) for section in opening]
    for letter, count in runs:
        passage = _cut_passage(score, sections[letter])
        passages += _play(passage, count, counts_repeats=letter in has_longer_run)
    if sum(len(passage.notes) for passage in passages) > MAX_NOTES:
        return score
    arranged = _join(passages)
    return replace(arranged, parts=score.parts, title=score.title, rhythm=score.rhythm)


def _start_repeats_at_labels(score: Score, sections: Iterable[LabelledSection]) -> Score:
    """Return a score in which no repeat goes back over a label."""
    signs = {mark.onset for mark in score.marks if mark.kind in ("repeat_start", "repeat_end")}
    starts = [
        section.start
        for section in sections
        if section.start not in {0, *signs}
        and any(found.start == 0 for found in find_sections(_cut_passage(score, section)))
    ]
    marks = (*score.marks, *(Mark(start, "repeat_start") for start in starts))
    return replace(score, marks=marks) if starts else score


def _cut_at_labels(score: Score, labels: Sequence[tuple[str, int]]) -> Iterator[LabelledSection]:
    for (label, start), (_, stop) in pairwise([*labels, ("", score.end)]):
        if start < stop:
            yield LabelledSection(label, start, stop)


def _play(passage: Score, count: int, *, counts_repeats: bool) -> Iterator[Score]:
    """Yield what is written for a passage that is played some times in a row."""
    sections = find_sections(passage)
    is_one_section = len(sections) == 1 and sections[0].stop >= passage.end
    if not sections:
        yield _repeat(passage, count) if count > 1 else passage
        return
    plays = sections[0].plays if counts_repeats and is_one_section else 1
    for _ in range(count // plays):
        yield passage
    if remainder := count % plays:
        yield from [_leave_out_repeat(passage)] * remainder


def _repeat(passage: Score, count: int) -> Score:
    """Return a passage in repeat signs; more than MAX_PLAYS are written as MAX_PLAYS."""
    signs = Mark(0, "repeat_start"), Mark(passage.end, "repeat_end", min(count, MAX_PLAYS))
    return replace(passage, marks=(*passage.marks, *signs))


def _leave_out_repeat(passage: Score) -> Score:
    """Return a passage played once: without its repeat signs, and with its last ending only."""
    endings = find_sections(passage)[0].endings
    if not endings:
        marks = tuple(mark for mark in passage.marks if mark.kind not in _REPEAT_KINDS)
        return replace(passage, marks=marks)
    last = endings[-1]
    start, stop = endings[0].onset, last.onset
    pieces = [(0, start), (stop, max(passage.end, last.value.end))]
    return passage.join_passages((a, b) for a, b in pieces if a < b)


def _cut_passage(score: Score, section: LabelledSection) -> Score:
    """Return a section as a score that starts at step 0, with what is in force at its start."""
    start, stop = section.start, section.stop
    notes = slice_by_onset(sort_by_onset(score.columns), start, stop, -start)
    marks = [_move(mark, -start, stop) for mark in score.marks if _belongs(mark, start, stop)]
    in_force = {
        mark.kind: replace(mark, onset=0)
        for mark in score.marks
        if mark.kind in _PERSISTENT_KINDS and mark.onset <= start
    }
    passage = Score(Notes(notes), (*in_force.values(), *marks), score.parts)
    written = {mark.onset for mark in passage.of("repeat_start")}
    starts = [Mark(step, "repeat_start") for section in find_sections(passage)
              if (step := section.start) not in written]  # fmt: skip
    return replace(passage, marks=(*passage.marks, *starts)) if starts else passage


def _belongs(mark: Mark, start: int, stop: int) -> bool:
    """Return whether a mark is of a passage: closing signs at its end, all others at its start."""
    if MARK_ORDER[mark.kind] <= MARK_ORDER["bar"]:
        return start < mark.onset <= stop
    is_before = mark.kind in _PERSISTENT_KINDS and mark.onset == start
    return start <= mark.onset < stop and not is_before


def _move(mark: Mark, shift: int, stop: int) -> Mark:
    """Return a mark moved by steps; an ending stops where its passage does, before it is moved."""
    value = mark.value
    if isinstance(value, Ending):
        value = Ending(value.passes, min(value.end, stop) + shift)
    return replace(mark, onset=mark.onset + shift, value=value)


def _join(passages: Iterable[Score]) -> Score:
    """Join passages; where no sign parts a short bar and a pickup, they become one bar."""
    notes: list[IntArray] = []
    marks: list[Mark] = []
    played = 0
    for passage in passages:
        if played and _completes_bar(marks, passage, played):
            marks = [mark for mark in marks if (mark.onset, mark.kind) != (played, "bar")]
        columns = passage.columns.copy()
        columns[0] += played
        notes.append(columns)
        marks += [_move(mark, played, passage.end) for mark in passage.marks]
        played += passage.end
    return Score(Notes(np.concatenate(notes, axis=1)), _without_repeated(marks))


def _completes_bar(marks: Sequence[Mark], passage: Score, played: int) -> bool:
    """Return whether the last bar so far and the first bar of a passage add up to a full bar."""
    if any(mark.onset == played and mark.kind == "repeat_end" for mark in marks):
        return False
    if any(mark.onset == 0 and mark.kind in _REPEAT_KINDS for mark in passage.marks):
        return False
    starts = [mark.onset for mark in marks if mark.kind == "bar" and mark.onset < played]
    first = min((mark.onset for mark in passage.marks if mark.kind == "bar"), default=passage.end)
    last = played - max(starts, default=0)
    return last < passage.meter.steps and last + first == passage.meter.steps


def _without_repeated(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Drop keys, meters and tempos that are in force already."""
    current: dict[MarkKind, object] = {}
    kept = []
    for mark in marks:
        if mark.kind not in _PERSISTENT_KINDS:
            kept.append(mark)
        elif current.get(mark.kind) != mark.value:
            current[mark.kind] = mark.value
            kept.append(mark)
    return tuple(kept)
