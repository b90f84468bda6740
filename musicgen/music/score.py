"""What a tune is: notes on a step grid, and marks between them.

A `Score` is the *written* form: repeats and endings are marks. `Score.unfolded()` plays them out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from musicgen.errors import InvalidValue
from musicgen.music.notes import DEFAULT_VELOCITY as DEFAULT_VELOCITY  # where all look for it
from musicgen.music.notes import (
    INTEGER_TYPES,
    LATEST_STEP,
    NoteColumns,
    Notes,
    slice_by_onset,
    sort_by_onset,
    split_notes_at,
    with_one_velocity,
    without_overlaps,
)
from musicgen.music.notes import Note as Note  # and for this
from musicgen.music.theory import Key, Meter, normalize_chord, transpose_chord

STEPS_PER_QUARTER: Final = 48
STEPS_PER_WHOLE: Final = 4 * STEPS_PER_QUARTER
DEFAULT_QPM: Final = 120.0
SLOWEST_QPM: Final = 60_000_000 / (2**24 - 1)  # what MIDI can say: microseconds in three bytes
FASTEST_QPM: Final = 60_000_000.0
MAX_PLAYS: Final = 4  # a repeat is played at most so often

MarkKind = Literal["bar", "chord", "ending", "key", "meter", "repeat_end", "repeat_start", "tempo"]

# Marks at one step stand in this order: what closes, what opens, what holds from here.
MARK_ORDER: Final[dict[MarkKind, int]] = {
    "repeat_end": 0,
    "bar": 1,
    "repeat_start": 2,
    "ending": 3,
    "key": 4,
    "meter": 5,
    "tempo": 6,
    "chord": 7,
}


@dataclass(frozen=True, slots=True)
class Part:
    """Who plays: a name, a General MIDI program (0..127), or the drum kit."""

    name: str = ""
    program: int = 0
    is_drums: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.program, INTEGER_TYPES) or not 0 <= self.program <= 127:
            raise InvalidValue(f"program {self.program!r}: write a whole number from 0 to 127")


@dataclass(frozen=True, slots=True)
class Ending:
    """A variant ending: the passes it is played in, and the step where it stops."""

    passes: tuple[int, ...]
    end: int

    def __post_init__(self) -> None:
        _check_step(self.end, "an ending")
        if not all(isinstance(number, INTEGER_TYPES) for number in self.passes):
            raise InvalidValue(f"ending {self.passes!r}: passes are whole numbers")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something written at a step that is not a note.

    ============  =========================================================
    kind          value
    ============  =========================================================
    bar           None; a bar line, which ends the bar before it
    repeat_start  None
    repeat_end    how often the section is played, 2..4
    ending        `Ending`
    key, meter    `Key`, `Meter`
    tempo         quarters a minute, float; SLOWEST_QPM..FASTEST_QPM
    chord         chord symbol, str: "Am7", "D/F#"
    ============  =========================================================
    """

    onset: int
    kind: MarkKind
    value: Any = None

    def __post_init__(self) -> None:
        _check_step(self.onset, f"a mark of {self.kind}")
        if self.kind == "tempo":
            _check_tempo(self.value)
        elif not isinstance(self.value, _MARK_TYPES.get(self.kind, ())):
            raise InvalidValue(
                f"{self.kind} {str(self.value)[:40]!r} is not a value of such a mark"
            )

    @property
    def sort_key(self) -> tuple[int, int, str]:
        """Order of marks: by step, then by MARK_ORDER."""
        return self.onset, MARK_ORDER[self.kind], str(self.value)


_MARK_TYPES: Final[dict[MarkKind, tuple[type, ...]]] = {
    "bar": (type(None),),
    "repeat_start": (type(None),),
    "repeat_end": INTEGER_TYPES,
    "ending": (Ending,),
    "key": (Key,),
    "meter": (Meter,),
    "chord": (str,),
}


def _check_step(step: int, what: str) -> None:
    if not isinstance(step, INTEGER_TYPES) or not 0 <= step <= LATEST_STEP:
        raise InvalidValue(f"{what} stands at step {step}: write one from 0 to {LATEST_STEP:,}")


def _check_tempo(qpm: Any) -> None:
    """Refuse what MIDI cannot say; far beyond it, what draws a score aborts."""
    if not isinstance(qpm, int | float) or not SLOWEST_QPM <= qpm <= FASTEST_QPM:
        shown = f"{qpm:g}" if isinstance(qpm, float) else str(qpm)[:40]
        raise InvalidValue(
            f"tempo {shown} is outside of {SLOWEST_QPM:.1f} to {FASTEST_QPM:,.0f} quarters a minute"
        )


@dataclass(frozen=True)
class Score:
    """A tune in written form: parts, notes in order, marks in order.

    Notes and marks are sorted when made. The tune ends at its last bar line, note end or mark.
    """

    notes: Sequence[Note] = ()
    marks: tuple[Mark, ...] = ()
    parts: tuple[Part, ...] = field(default=(Part(),))
    title: str = ""
    rhythm: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", tuple(sorted(self.marks, key=lambda m: m.sort_key)))
        if not isinstance(self.notes, Notes):
            object.__setattr__(self, "notes", Notes.of(self.notes))
        parts = self.columns[4]
        if parts.size and not 0 <= parts.min() <= parts.max() < len(self.parts):
            stray = next(note for note in self.notes if not 0 <= note.part < len(self.parts))
            raise InvalidValue(f"{stray}: the score has {len(self.parts)} parts")

    @property
    def columns(self) -> NoteColumns:
        """The notes as columns, in the order of Note's fields."""
        assert isinstance(self.notes, Notes)
        return self.notes.columns

    def of(self, kind: MarkKind) -> Iterator[Mark]:
        """Iterate over the marks of one kind, in order."""
        return (mark for mark in self.marks if mark.kind == kind)

    def first(self, kind: MarkKind, default: Any) -> Any:
        """Return the value of the first mark of a kind, or the default."""
        return next((mark.value for mark in self.of(kind)), default)

    @property
    def key(self) -> Key:
        """The key at the start; C major where none is written."""
        return self.first("key", Key("C", "major"))  # type: ignore[no-any-return]

    @property
    def meter(self) -> Meter:
        """The meter at the start; 4/4 where none is written."""
        return self.first("meter", Meter(4, 4))  # type: ignore[no-any-return]

    @property
    def qpm(self) -> float:
        """Quarters a minute at the start; 120 where none is written."""
        return float(self.first("tempo", DEFAULT_QPM))

    @cached_property
    def end(self) -> int:
        """The step at which the written tune ends."""
        ends: list[int] = [int((self.columns[0] + self.columns[2]).max(initial=0))]
        ends += [mark.onset for mark in self.marks]
        ends += [mark.value.end for mark in self.of("ending")]
        return max(ends)

    def pitch_class_durations(self) -> list[int]:
        """Return for how many steps each pitch class sounds, from C up; drums have none."""
        durations = self.columns[2] * self._pitched_mask
        return list(map(int, np.bincount(self.columns[1] % 12, durations, minlength=12)))

    @property
    def _pitched_mask(self) -> Any:
        """Tell of each note whether no drum plays it."""
        return np.array([not part.is_drums for part in self.parts], dtype=bool)[self.columns[4]]

    def transpose(self, semitones: int) -> Score:
        """Move every pitch and key by semitones; drums stay. Raises InvalidValue outside 0..127."""
        columns = self.columns.copy()
        columns[1] += semitones * self._pitched_mask
        marks = tuple(_transpose_mark(mark, semitones) for mark in self.marks)
        return replace(self, notes=Notes(columns), marks=marks)

    def canonical(self) -> Score:
        """Return the one form that all equal tunes share.

        One velocity a part (its most frequent), meter and key written at the start, repeat starts
        explicit, a bar line wherever the playing may jump and at the end, ties cut at the jumps,
        no overlapping equal pitches in a part, later keys and chords in their plainest spelling,
        no mark that says nothing new, or that stands where the tune is over.
        """
        return self._canonical

    @cached_property
    def _canonical(self) -> Score:
        score = _with_explicit_repeats(self)
        columns = with_one_velocity(
            without_overlaps(split_notes_at(score.columns, find_jumps(score)))
        )
        notes = score.notes if columns is score.columns else Notes(columns)
        marks = _with_bar_lines(score, _normalize_spelling(_with_start(score)))
        found = replace(score, notes=notes, marks=_without_redundant_marks(marks))
        found.__dict__["_canonical"] = found  # known, so never asked again
        return found

    def unfolded(self) -> Score:
        """Play the repeats and endings out: the same tune without repeat marks."""
        return self.join_passages(iter_passages(self))

    def join_passages(self, spans: Iterable[tuple[int, int]]) -> Score:
        """Put stretches (start, stop) of the tune one after another, without repeat marks."""
        notes = [np.empty((5, 0), dtype=np.int64)]
        marks: list[Mark] = []
        played = 0
        written, mark_slices = (
            sort_by_onset(split_notes_at(self.columns, find_jumps(self))),
            MarkSlices(self.marks),
        )
        for start, stop in spans:
            shift = played - start
            notes.append(slice_by_onset(written, start, stop, shift))
            marks += mark_slices.iter_between(start, stop, shift)
            played += stop - start
        found = Notes(np.concatenate(notes, axis=1))
        return replace(self, notes=found, marks=_without_redundant_marks(marks))

    def unfold_from(self, step: int) -> Score:
        """Return what is still to be heard when a written step is reached for the first time."""
        left: list[tuple[int, int]] = []
        for start, stop in iter_passages(self):
            if left or step < stop:
                left.append((start if left else max(start, step), stop))
        return self.join_passages(left)


def find_jumps(score: Score) -> tuple[int, ...]:
    """Return the steps between which the playing may jump, in order: no tie goes across."""
    steps: set[int] = set()
    for section in find_sections(score):
        steps |= {section.start, section.stop}
        for mark in section.endings:
            steps |= {mark.onset, mark.value.end}
    return tuple(sorted(steps))


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch that is repeated: plays is how often, endings are its variant endings in order."""

    start: int
    stop: int
    plays: int
    endings: tuple[Mark, ...] = ()


def find_sections(score: Score) -> tuple[Section, ...]:
    """Find the repeated sections.

    A repeat end without a start returns to the last repeat end, else to the beginning. A section
    with endings has as many passes as the highest that they name, at least 2, whatever bar line
    closes the last of them; each ending lasts to the next. A repeat start that nothing closes
    repeats nothing.
    """
    finder = _SectionFinder({mark.onset: mark.value for mark in score.of("ending")})
    for mark in score.marks:
        if mark.kind == "repeat_start":
            finder.start_section(mark.onset)
        elif mark.kind == "ending":
            finder.add_ending(mark.onset, mark.value)
        elif mark.kind == "repeat_end" and not finder.has_further_ending_at(mark.onset):
            finder.end_section(mark.onset, int(mark.value))
    finder.close_section(score.end, 2)
    return tuple(finder.sections)


class _SectionFinder:
    """The sections so far, and the one under way."""

    def __init__(self, ahead: dict[int, Ending]) -> None:
        self.endings_by_start = ahead  # the endings of the score, by their start
        self.sections: list[Section] = []
        self.section_start = 0  # where the section under way starts
        self.endings: list[tuple[int, Ending]] = []

    def start_section(self, step: int) -> None:
        self.close_section(step, 2)
        self.section_start = max(self.section_start, step)

    def add_ending(self, step: int, ending: Ending) -> None:
        passes = tuple(sorted({n for n in ending.passes if 1 <= n <= MAX_PLAYS}))
        if step < self.section_start or not passes:
            return
        if self.endings and not self.comes_after_last_ending(passes):
            self.close_section(step, 2)
        self.stop_last_ending_at(step)
        self.endings.append((step, Ending(passes, ending.end)))

    def end_section(self, step: int, plays: int) -> None:
        if self.endings and self.endings[-1][1].end < step and self.endings[-1][1].passes[-1] > 1:
            self.close_section(self.endings[-1][1].end, 2)
        elif self.endings:
            self.stop_last_ending_at(step)
        self.close_section(step, plays, is_end=True)

    def comes_after_last_ending(self, passes: tuple[int, ...]) -> bool:
        return passes[0] > self.endings[-1][1].passes[-1]

    def has_further_ending_at(self, step: int) -> bool:
        """Tell whether the section under way has a further ending, which starts at a step."""
        following = self.endings_by_start.get(step)
        if following is None or not self.endings:
            return False
        return self.comes_after_last_ending(tuple(sorted(following.passes)))

    def stop_last_ending_at(self, step: int) -> None:
        """Let the last ending stop at a step."""
        if self.endings:
            onset, ending = self.endings.pop()
            if onset < step:
                self.endings.append((onset, Ending(ending.passes, step)))

    def close_section(self, step: int, plays: int, *, is_end: bool = False) -> None:
        if self.endings and self.endings[-1][1].end > step:
            self.stop_last_ending_at(step)
        if self.endings:
            stop = self.endings[-1][1].end
            plays = max(2, *(number for _, ending in self.endings for number in ending.passes))
        elif is_end:
            stop = step
        else:
            return
        if self.section_start < stop:
            marks = tuple(Mark(onset, "ending", ending) for onset, ending in self.endings)
            self.sections.append(
                Section(self.section_start, stop, min(max(plays, 2), MAX_PLAYS), marks)
            )
        self.section_start = max(self.section_start, stop)
        self.endings = []


def iter_passages(score: Score) -> Iterator[tuple[int, int]]:
    """Yield the stretches (start, stop) of a score in the order in which they sound."""
    cursor = 0
    for section in find_sections(score):
        if cursor < section.start:
            yield cursor, section.start
        for number in range(1, section.plays + 1):
            yield from _one_pass(section, number)
        cursor = section.stop
    if cursor < score.end:
        yield cursor, score.end


def _one_pass(section: Section, number: int) -> Iterator[tuple[int, int]]:
    cursor = section.start
    for mark in section.endings:
        if number in mark.value.passes:
            continue
        if cursor < mark.onset:
            yield cursor, mark.onset
        cursor = max(cursor, mark.value.end)
    if cursor < section.stop:
        yield cursor, section.stop


_PERSISTENT_KINDS: Final[tuple[MarkKind, ...]] = (
    "key",
    "meter",
    "tempo",
)  # until the next of the kind
_REPEAT_KINDS: Final = ("repeat_start", "repeat_end", "ending")


class MarkSlices:
    """The marks of a tune, to be taken stretch by stretch."""

    def __init__(self, marks: Iterable[Mark]) -> None:
        """Take marks in order; repeats are left out."""
        self.marks = [mark for mark in marks if mark.kind not in _REPEAT_KINDS]
        self.onsets = [mark.onset for mark in self.marks]
        held = {
            kind: [mark for mark in self.marks if mark.kind == kind] for kind in _PERSISTENT_KINDS
        }
        self.persistent_marks = {
            kind: (same, [mark.onset for mark in same]) for kind, same in held.items()
        }

    def iter_between(self, start: int, stop: int, shift: int) -> Iterator[Mark]:
        """Yield the marks of a stretch that is played, moved; its own end bar line stays."""
        first, last = bisect_left(self.onsets, start), bisect_right(self.onsets, stop)
        for mark in self.marks[first:last]:
            is_bar = mark.kind == "bar"
            if mark.onset == start and (is_bar or mark.kind in _PERSISTENT_KINDS):
                continue
            if mark.onset < stop or is_bar:
                yield replace(mark, onset=mark.onset + shift)
        for marks, onsets in self.persistent_marks.values():
            if count := bisect_right(onsets, start):
                yield replace(marks[count - 1], onset=start + shift)


def _transpose_mark(mark: Mark, semitones: int) -> Mark:
    if mark.kind == "key":
        return replace(mark, value=mark.value.transposed(semitones))
    if mark.kind == "chord":
        return replace(mark, value=transpose_chord(mark.value, semitones))
    return mark


def _with_explicit_repeats(score: Score) -> Score:
    """Rewrite the repeat marks from the sections that they mean."""
    marks = [m for m in score.marks if m.kind not in ("repeat_start", "repeat_end", "ending")]
    if len(marks) == len(score.marks):
        return score  # nothing is repeated, and the score knows its end already
    for section in find_sections(score):
        marks.append(Mark(section.start, "repeat_start"))
        marks += section.endings
        if section.endings:
            ends = [mark.value.end for mark in section.endings]
            marks += [Mark(end, "repeat_end", 2) for end in ends[:-1] or ends]
        else:
            marks.append(Mark(section.stop, "repeat_end", section.plays))
    return replace(score, marks=tuple(marks))


def _with_start(score: Score) -> list[Mark]:
    """Write the key and the meter that hold at the start, where no mark does."""
    starts: list[Mark] = []
    for kind, value in (("key", score.key), ("meter", score.meter)):
        if not any(mark.onset == 0 for mark in score.of(kind)):  # type: ignore[arg-type]
            starts.append(Mark(0, kind, value))  # type: ignore[arg-type]
    return starts + list(score.marks)


def _normalize_spelling(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Spell chord symbols and later keys as `theory` would; only the first key keeps its name."""
    first = True
    for mark in marks:
        if mark.kind == "chord":
            yield replace(mark, value=normalize_chord(mark.value))
        elif mark.kind == "key" and not first:
            yield replace(mark, value=Key.of(mark.value.pitch_class, mark.value.mode))
        else:
            first = first and mark.kind != "key"
            yield mark


def _is_meaningful(mark: Mark, end: int) -> bool:
    """Tell whether a mark says something: no bar line before the tune, no change after it."""
    if mark.kind == "bar":
        return mark.onset > 0
    starts = mark.onset == 0 and mark.kind != "chord"
    return starts or mark.onset < end or mark.kind in ("repeat_start", "repeat_end", "ending")


def _with_bar_lines(score: Score, marks: Iterable[Mark]) -> Iterator[Mark]:
    yield from (mark for mark in marks if _is_meaningful(mark, score.end))
    yield from (Mark(step, "bar") for step in (*find_jumps(score), score.end) if step > 0)


def _without_redundant_marks(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """Drop doubled marks, then those that repeat the key, meter or tempo that already holds."""
    single = {(m.onset, m.kind): m for m in sorted(marks, key=lambda m: m.sort_key)}
    holds: dict[MarkKind, Any] = {}
    return tuple(mark for mark in single.values() if not _update_and_check_redundant(mark, holds))


def _update_and_check_redundant(mark: Mark, current: dict[MarkKind, Any]) -> bool:
    """Tell whether a mark says what holds, and keep what it says."""
    if mark.kind not in ("key", "meter", "tempo"):
        return False
    known = mark.kind in current and current[mark.kind] == mark.value
    current[mark.kind] = mark.value
    return known
